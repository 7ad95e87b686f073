"""The commands keygen, seal and inspect, as typed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kokon.cli.main import main
from kokon.image.registry import Registry, descriptor_of, manifest_bytes
from kokon.jose.jwe import public_jwk
from kokon.launch.image import current_guest
from support.registry import LocalRegistry
from support.sealed import OWNER


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a guest image (not one that boots), an owner's key, and Kokon's home in it."""
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    monkeypatch.delenv("KOKON_REGISTRY_AUTH", raising=False)
    guest = current_guest(tmp_path)
    guest.mkdir(parents=True)
    files = {}
    for role, size in (("kernel", 9000), ("initrd", 5000), ("root", 4096), ("firmware", 65536)):
        data = role.encode() * size
        data = data[:size]
        (guest / role).write_bytes(data)
        files[role] = {"name": role, "sha256": hashlib.sha256(data).hexdigest(), "size": size}
    description = {
        "version": 1,
        "kernel_release": "6.12.0",
        "cmdline": "console=ttyS0",
        "files": files,
        "packages": "packages.json",
    }
    (guest / "packages.json").write_text("[]")
    (guest / "guest.json").write_text(json.dumps(description))
    (tmp_path / "owner-key.jwk").write_text(json.dumps(public_jwk(OWNER)))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_from_key_to_inspection(
    world: Path, layout: Path, server: LocalRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    key = world / "author.key"
    made = run(capsys, "keygen", key)
    assert made["public"] == f"{key}.pub"
    assert made["fingerprint"].startswith("sha256:")
    image = f"{server.host}/cli:1"
    words = ["seal", f"oci:{layout}", f"docker://{image}", "--key", key, "--owner", world / "owner-key.jwk"]
    sealed = run(
        capsys, *words, "--author", "Ada", "--secret", "db", "--vary", "LANG", "--vary-args", "--version", "1.4.2"
    )
    assert sealed["image"] == f"{image}@{sealed['digest']}"
    assert len(sealed["reference"]) == len(set(sealed["reference"])) == 3
    blind = run(capsys, "inspect", image)
    assert (blind["checks"]["signature"], blind["checks"]["statement"]) == ("not-checked", "not-checked")
    assert blind["statement"] is None
    seen = run(capsys, "inspect", image, "--author", f"{key}.pub")
    assert set(seen["checks"].values()) == {"passed"}
    assert seen["statement"]["author"] == "Ada"
    assert sealed["version"] == seen["statement"]["version"] == "1.4.2"
    assert seen["statement"]["secrets"] == ["db"]
    assert (seen["statement"]["args_may_vary"], seen["statement"]["env"]) == (True, ["LANG"])
    assert [entry["vcpus"] for entry in seen["statement"]["reference"]] == [1, 2, 4]
    assert all(layer["encrypted"] and layer["keys"] == [sealed["kek"]] for layer in seen["layers"])
    pinned = run(capsys, "inspect", f"{image}@{sealed['digest']}")
    assert pinned["digest"] == sealed["digest"]


def test_as_text(world: Path, layout: Path, server: LocalRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    key = world / "a.key"
    assert main(["keygen", str(key)]) == 0
    image = f"{server.host}/text:1"
    owner = str(world / "owner-key.jwk")
    sealing = ["seal", f"oci:{layout}", image, "--key", str(key), "--owner", owner]
    assert main([*sealing, "--version", "2.0"]) == 0
    assert main(["inspect", image, "--author", str(key)]) == 0
    out = capsys.readouterr().out
    assert "PRIVATE KEY" not in out
    assert "opened by kbs:///default/kek/" in out
    assert "signature      passed" in out
    assert "version    2.0\n" in out
    assert "reference  simulated, 1 vCPU" in out
    assert "may vary   nothing\n" in out


def test_ordinary_image(
    world: Path, server: LocalRegistry, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}}).encode()
    registry.upload_bytes("ordinary", config)
    layer = descriptor_of("application/vnd.oci.image.layer.v1.tar", config)
    registry.put_manifest("ordinary", "1", manifest_bytes(descriptor_of("x/y", config), [layer]))
    found = run(capsys, "inspect", f"{server.host}/ordinary:1")
    assert found["checks"]["signature"] == "image-unsigned"
    assert found["checks"]["statement"] == "statement-missing"
    assert not found["layers"][0]["encrypted"]
    assert main(["keygen", str(world / "k")]) == 0
    capsys.readouterr()
    found = run(capsys, "inspect", f"{server.host}/ordinary:1", "--author", world / "k.pub")
    assert found["checks"]["signature"] == "image-unsigned"
    assert main(["inspect", f"{server.host}/ordinary:1"]) == 0
    assert "NOT ENCRYPTED" in capsys.readouterr().out
    assert main(["inspect", f"{server.host}/ordinary:absent"]) == 7
    assert "image-not-found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"source": "oci:/nowhere"}, 2, "image-unreadable"),
        ({"destination": "clinic"}, 2, "reference-malformed"),
        ({"--key": "/nowhere"}, 2, "key-unreadable"),
        ({"--owner": "/nowhere"}, 2, "owner-unreadable"),
        ({"--guest": "/nowhere"}, 8, "guest-image-missing"),
        ({"--not-after": "0"}, 2, "validity-range"),
        ({"--version": "v1"}, 3, "version-malformed"),
        ({"destination": "127.0.0.1:1/a"}, 7, "registry-unreachable"),
    ],
)
def test_refusals(
    world: Path,
    layout: Path,
    server: LocalRegistry,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    status: int,
    code: str,
) -> None:
    assert main(["keygen", str(world / "a.key")]) == 0
    options = {"--key": str(world / "a.key"), "--owner": str(world / "owner-key.jwk")}
    options.update({name: value for name, value in change.items() if name.startswith("--")})
    words = [change.get("source", f"oci:{layout}"), change.get("destination", f"{server.host}/refused:1")]
    for name, value in options.items():
        words += [name, value]
    assert main(["seal", *words]) == status
    assert f"[{code}]" in capsys.readouterr().err


def test_login_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from kokon.cli.seal import registry_login, source_login

    monkeypatch.setenv("KOKON_REGISTRY_AUTH", "user:pass:word")
    assert registry_login() == ("user", "pass:word")
    assert source_login("docker://here.example/a:1", "here.example") == ("user", "pass:word")
    assert source_login("docker://other.example/a:1", "here.example") is None
    assert source_login("oci:here.example", "here.example") is None
    monkeypatch.setenv("KOKON_REGISTRY_AUTH", "")
    assert registry_login() is None


@pytest.mark.parametrize("command", ["seal", "inspect", "certify", "keygen"])
def test_help_has_an_example(command: str) -> None:
    program = str(Path(sys.executable).with_name("kokon"))
    done = subprocess.run([program, command, "--help"], capture_output=True, text=True, check=True)
    assert f"kokon {command}" in done.stdout
    assert "Example" in done.stdout
