"""Signatures that cosign itself makes and reads, in both directions and both forms.

Cosign is built from the Go module proxy, which takes minutes: KOKON_INTEROP_COSIGN=1 asks for it; one that was built
before is used without being asked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from kokon.cli.main import main
from kokon.cli.output import kokon_home
from kokon.image.manifest import MANIFEST_TYPE
from kokon.image.registry import Registry, descriptor_of, manifest_bytes
from support.registry import LocalRegistry

VERSION = "v3.1.3"
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def cosign() -> Path:
    """Cosign at a pinned version."""
    folder = kokon_home() / "tools" / f"cosign-{VERSION}"
    program = folder / "cosign"
    if program.exists():
        return program
    if not os.environ.get("KOKON_INTEROP_COSIGN"):
        pytest.skip("SKIPPED LOUDLY: cosign is built only with KOKON_INTEROP_COSIGN=1")
    if shutil.which("go") is None:
        pytest.skip("SKIPPED LOUDLY: there is no Go toolchain to build cosign with")
    package = f"github.com/sigstore/cosign/v3/cmd/cosign@{VERSION}"
    built = subprocess.run(["go", "install", package], env={**os.environ, "GOBIN": str(folder)}, check=False)
    if built.returncode:
        pytest.skip("SKIPPED LOUDLY: cosign could not be built")
    return program


@pytest.fixture
def image(server: LocalRegistry) -> str:
    """A new image of one layer, by tag."""
    repository = f"cosigned/{uuid.uuid4().hex}"
    with Registry(server.url) as registry:
        config = b'{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}'
        registry.upload_bytes(repository, config)
        described = descriptor_of("application/vnd.oci.image.config.v1+json", config)
        registry.put_manifest(repository, "1", manifest_bytes(described, []), MANIFEST_TYPE)
    return f"{server.url.removeprefix('http://')}/{repository}:1"


def run(cosign: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "COSIGN_PASSWORD": PASSWORD, "HOME": str(folder)}
    return subprocess.run([cosign, *words], cwd=folder, env=settings, capture_output=True, text=True, check=False)


def made(cosign: Path, folder: Path) -> None:
    """A key pair of cosign's: cosign.key, encrypted, and cosign.pub."""
    done = run(cosign, folder, "generate-key-pair")
    assert done.returncode == 0, done.stderr


def ours(*words: str | Path) -> int:
    read, write = os.pipe()
    os.write(write, PASSWORD.encode())
    os.close(write)
    try:
        return main([*map(str, words), "--password-fd", str(read)])
    finally:
        os.close(read)


@pytest.mark.parametrize("form", ["classic", "bundle"])
def test_cosign_verifies_what_we_sign_with_its_key(cosign: Path, image: str, tmp_path: Path, form: str) -> None:
    made(cosign, tmp_path)
    assert ours("sign", image, "--key", tmp_path / "cosign.key", "--form", form) == 0
    bundle = f"--new-bundle-format={'true' if form == 'bundle' else 'false'}"
    words = ["verify", "--key", "cosign.pub", "--insecure-ignore-tlog=true", "--allow-insecure-registry", bundle]
    done = run(cosign, tmp_path, *words, image)
    assert done.returncode == 0, done.stderr
    other = tmp_path / "other"
    other.mkdir()
    made(cosign, other)
    assert run(cosign, other, *words, image).returncode != 0


@pytest.mark.parametrize("form", ["classic", "bundle"])
def test_we_verify_what_cosign_signs_with_our_key(cosign: Path, image: str, tmp_path: Path, form: str) -> None:
    assert ours("keygen", tmp_path / "ours") == 0
    bundle = f"--new-bundle-format={'true' if form == 'bundle' else 'false'}"
    offline = ["--tlog-upload=false", "--use-signing-config=false", "--allow-insecure-registry", "--yes"]
    done = run(cosign, tmp_path, "sign", "--key", "ours", *offline, bundle, image)
    assert done.returncode == 0, done.stderr
    assert main(["verify-image", image, "--key", str(tmp_path / "ours.pub")]) == 0
    assert main(["keygen", str(tmp_path / "other")]) == 0
    assert main(["verify-image", image, "--key", str(tmp_path / "other.pub")]) == 4
