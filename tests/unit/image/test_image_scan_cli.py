"""`kokon scan`, and sealing that refuses secrets, allows them by name, or moves them to the provisioning server."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Self

import pytest

from kokon.cli import seal as seal_command
from kokon.cli.access import Access
from kokon.cli.main import main
from kokon.demo.services import start_provisioning
from kokon.errors import DeniedError, KokonError, UsageError
from kokon.image.scan.move import parse_moves, take_out
from kokon.image.source import open_source, plain_layer
from kokon.jose.jwe import public_jwk
from support.images import make_tar, member, write_layout
from support.registry import LocalRegistry
from support.sealed import CLAIMS, OWNER

KEY = b"glpat-" + b"aB3dE5gH7jK9mN1pQ4sT"
LOWER = make_tar([("etc", None), ("etc/motd", b"hello")])
TOP = make_tar(
    [("app", None), ("app/token", KEY), ("app/" + "deep/" * 40 + "run", b"#!/bin/sh\n" * 90_000), ("app/end", b"x")]
)
RUN = {"Env": ["PATH=/bin", "DB_PASSWORD=swordfish"], "Cmd": ["/app/end"]}


@pytest.fixture(params=[True, False], ids=["gzip", "plain"])
def leaky(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    write_layout(tmp_path / "leaky", [LOWER, TOP], run=RUN, compress=request.param)
    return f"oci:{tmp_path / 'leaky'}"


def test_scan_prints_places_and_fails(leaky: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", leaky, "--json"]) == 5
    out = capsys.readouterr().out
    found = json.loads(out)["findings"]
    assert [one["name"] for one in found] == ["password:env/DB_PASSWORD", "gitlab-token:/app/token"]
    assert (found[1]["layer"], found[1]["line"]) == (1, 1)
    assert "swordfish" not in out
    assert KEY.decode() not in out
    assert main(["scan", leaky]) == 5
    assert "allow it: gitlab-token:/app/token" in capsys.readouterr().out


def test_scan_with_everything_allowed(leaky: str, capsys: pytest.CaptureFixture[str]) -> None:
    allow = ["--allow", "password:env/DB_PASSWORD", "--allow", "gitlab-token:/app/token"]
    assert main(["scan", leaky, *allow, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"image": leaky, "findings": [], "allowed": 2}


def test_an_image_without_secrets(layout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", f"oci:{layout}"]) == 0
    assert capsys.readouterr().out == "no secrets found\n"


def write_guest(directory: Path) -> Path:
    """A guest image that measures, though it would not boot."""
    directory.mkdir()
    files = {}
    for role, size in (("kernel", 9000), ("initrd", 5000), ("root", 4096), ("firmware", 65536)):
        data = (role.encode() * size)[:size]
        (directory / role).write_bytes(data)
        files[role] = {"name": role, "sha256": hashlib.sha256(data).hexdigest(), "size": size}
    about = {"version": 1, "kernel_release": "6.12.0", "cmdline": "console=ttyS0", "files": files}
    (directory / "packages.json").write_text("[]")
    (directory / "guest.json").write_text(json.dumps({**about, "packages": "packages.json"}))
    return directory


def names_of(source_layers: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(source_layers)) as archive:
        return [info.name for info in archive]


def test_secrets_are_taken_out(leaky: str) -> None:
    with open_source(leaky) as source:
        clean, moved = take_out(source, ["DB_PASSWORD", "/app/token"])
        assert [(one.place, one.value, one.option) for one in moved] == [
            ("DB_PASSWORD", b"swordfish", "env=DB_PASSWORD"),
            ("/app/token", KEY, "file=/app/token"),
        ]
        assert "swordfish" not in repr(moved)
        assert clean.config.environment == (("PATH", "/bin"),)
        assert clean.config.diff_ids[0] == source.config.diff_ids[0]
        top = b"".join(plain_layer(clean.layers[1], clean.config.diff_ids[1]))
        again = b"".join(plain_layer(clean.layers[1], clean.config.diff_ids[1]))
    assert top == again
    assert names_of(top) == [name for name in names_of(TOP) if name != "app/token"]
    with tarfile.open(fileobj=io.BytesIO(top)) as archive:
        file = archive.extractfile("app/" + "deep/" * 40 + "run")
        assert file is not None
        assert file.read() == b"#!/bin/sh\n" * 90_000


@pytest.mark.parametrize("place", ["NO_SUCH", "/etc/motd", "/app", "/no/such", "/app/first"])
def test_what_cannot_be_taken_out_is_said(tmp_path: Path, place: str) -> None:
    top = make_tar([("app", None), ("app/first", KEY), (member("app/second", b"1", linkname="app/first"), None)])
    write_layout(tmp_path / "layout", [LOWER, top])
    with open_source(f"oci:{tmp_path / 'layout'}") as source, pytest.raises(UsageError) as caught:
        take_out(source, [place])
    assert caught.value.code == "secret-not-movable"
    assert place in (caught.value.found or "")


@pytest.mark.parametrize("texts", [["DB"], ["DB="], ["=a/b"], ["A=a/b", "A=a/c"]])
def test_moves_say_place_and_target(texts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_moves(texts)
    assert caught.value.code == "secret-move-malformed"


class Recorder:
    """Keeps what would be sent; `test_moving_with_a_real_server` sends it."""

    def __init__(self) -> None:
        self.put_calls: list[tuple[str, bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def put(self, path: str, value: bytes) -> int:
        self.put_calls.append((path, value))
        return 1


def test_sealing_moves_and_names_secrets(
    leaky: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(seal_command, "connect", lambda _: recorder)
    moves = {"DB_PASSWORD": "clinic/db-password", "/app/token": "kbs:///clinic/file/token"}
    with open_source(leaky) as source:
        _, claims = seal_command.without_secrets(source, moves, frozenset(), CLAIMS, Access())
    assert recorder.put_calls == [("clinic/secret/db-password", b"swordfish"), ("clinic/file/token", KEY)]
    assert claims.secrets == ("db-password", "token")
    assert "--secret db-password,env=DB_PASSWORD,resource=kbs:///clinic/secret/db-password" in capsys.readouterr().err


def test_nothing_is_moved_if_secrets_are_left(leaky: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(seal_command, "connect", lambda _: recorder)
    with open_source(leaky) as source, pytest.raises(DeniedError) as caught:
        seal_command.without_secrets(source, {"/app/token": "clinic/token"}, frozenset(), CLAIMS, Access())
    assert caught.value.code == "image-has-secrets"
    assert recorder.put_calls == []


def test_the_name_on_the_server_is_checked_first(leaky: str) -> None:
    with open_source(leaky) as source, pytest.raises(KokonError) as caught:
        seal_command.without_secrets(source, {"/app/token": "a/b/c/d/e"}, frozenset(), CLAIMS, Access())
    assert caught.value.code == "secret-name"


@pytest.mark.parametrize("command", [["seal"], ["block", "make"]], ids=["seal", "block"])
def test_sealing_refuses_and_pushes_nothing(
    leaky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """As typed: also that the check stands before anything that is sent."""
    key, owner = tmp_path / "author.key", tmp_path / "owner.jwk"
    owner.write_text(json.dumps(public_jwk(OWNER)))
    assert main(["keygen", str(key)]) == 0
    words = [*command, leaky, "127.0.0.1:9/leaky:1", "--key", str(key), "--owner", str(owner), "--json"]
    guest = write_guest(tmp_path / "guest")
    capsys.readouterr()
    assert main([*words, "--guest", str(guest)]) == 5
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "image-has-secrets"
    assert "/app/token:1 (layer 1)" in error["found"]


def test_a_block_image_has_its_packages_attached(
    layout: Path, tmp_path: Path, server: LocalRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    key, owner = tmp_path / "author.key", tmp_path / "owner.jwk"
    owner.write_text(json.dumps(public_jwk(OWNER)))
    assert main(["keygen", str(key)]) == 0
    words = ["block", "make", f"oci:{layout}", f"{server.host}/packaged:1", "--key", str(key), "--owner", str(owner)]
    assert main([*words, "--guest", str(write_guest(tmp_path / "guest")), "--sbom", "spdx"]) == 0
    capsys.readouterr()
    assert main(["inspect", f"{server.host}/packaged:1", "--author", f"{key}.pub", "--json"]) == 0
    (bill,) = json.loads(capsys.readouterr().out)["sboms"]
    assert bill["format"] == "spdx"


def test_moving_with_a_real_server(
    leaky: str,
    tmp_path: Path,
    server: LocalRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("KOKON_HOME", str(home))
    provisioning, ready = start_provisioning(home, "00" * 32)
    try:
        key = tmp_path / "author.key"
        assert main(["keygen", str(key)]) == 0
        words = ["seal", leaky, f"{server.host}/moved:1", "--key", str(key), "--owner", ready["owner_key"], "--json"]
        words += ["--guest", str(write_guest(tmp_path / "guest"))]
        moves = ["--move-secret", "DB_PASSWORD=clinic/db-password", "--move-secret", "/app/token=clinic/token"]
        capsys.readouterr()
        assert main([*words, *moves]) == 0
        capsys.readouterr()
        assert main(["secret", "list", "--json"]) == 0
        listed = {one["path"] for one in json.loads(capsys.readouterr().out)["secrets"]}
        assert {"clinic/secret/db-password", "clinic/secret/token"} <= listed
        assert main(["inspect", f"{server.host}/moved:1", "--author", f"{key}.pub", "--json"]) == 0
        seen = json.loads(capsys.readouterr().out)
        assert seen["config"]["environment"] == ["PATH"]
        assert seen["statement"]["secrets"] == ["db-password", "token"]
    finally:
        provisioning.process.terminate()
        provisioning.process.wait(20)
