"""The lines about images in README and docs/IMAGES.md, typed as they stand there, but for the registry's port."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.cli.main import main
from support.registry import LocalRegistry

ROOT = Path(__file__).parents[3]


def blocks(document: str, section: str) -> list[list[str]]:
    """The commands of a section's code blocks, without comments."""
    text = (ROOT / document).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    fenced = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    indented = re.findall(r"(?:^    (?:kokon|openssl) .*\n)+", text, re.MULTILINE)
    return [[re.sub(r"\s+#.*", "", line).strip() for line in block.splitlines()] for block in fenced or indented]


def typed(line: str, folder: Path, server: LocalRegistry) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = line.replace("127.0.0.1:5000", server.url.removeprefix("http://"))
    settings = {**os.environ, "PATH": path, "KOKON_HOME": str(folder / "home")}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"


def layers(layout: Path) -> list[str]:
    """The digests of the layers of a layout's only image."""
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads((layout / "blobs" / entry["digest"].replace(":", "/")).read_text())
    return [layer["digest"] for layer in manifest["layers"]]


def make_key(folder: Path) -> None:
    """public.pem, for somebody."""
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    (folder / "public.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture
def folder(layout: Path, tmp_path: Path) -> Path:
    """Where a reader sits who has an image."""
    shutil.copytree(layout, tmp_path / "clinic")
    return tmp_path


def test_the_readme_encrypts_and_signs(folder: Path, server: LocalRegistry) -> None:
    (keys,) = [block for block in blocks("docs/IMAGES.md", "Encrypting for a key") if block[0].startswith("openssl")]
    (lines,) = blocks("README.md", "Images, with or without the rest")
    assert [line.split()[1] for line in lines] == ["keygen", "encrypt", "verify-image", "decrypt"]
    for line in [*keys[:2], *lines]:
        typed(line, folder, server)
    assert layers(folder / "opened") == layers(folder / "clinic")


def test_only_what_lies_in_a_registry_is_signed(
    layout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_key(tmp_path)
    words = ["encrypt", f"oci:{layout}", f"oci:{tmp_path / 'there'}", "--recipient", f"jwe:{tmp_path / 'public.pem'}"]
    assert main([*words, "--sign", str(tmp_path / "none"), "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "sign-where"
    assert not (tmp_path / "there").exists()


def test_the_page_encrypts_signs_and_verifies(folder: Path, server: LocalRegistry) -> None:
    lines = blocks("docs/IMAGES.md", "Encrypting for a key")[0] + blocks("docs/IMAGES.md", "Signatures")[0]
    assert [line.split()[1] for line in lines if line.startswith("kokon")] == [
        "encrypt",
        "decrypt",
        "keygen",
        "sign",
        "verify-image",
    ]
    for line in lines:
        typed(line, folder, server)
    assert layers(folder / "opened") == layers(folder / "clinic")
