"""`kokon provision init|status|backup|restore|recover|rotate` on state directories."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kokon.cli.main import main
from kokon.provisioning.core import Demands
from kokon.provisioning.custody import vault
from kokon.provisioning.custody.file import FileHolder
from kokon.provisioning.custody.passphrase import PassphraseHolder
from kokon.provisioning.replica import open_replica
from kokon.provisioning.state import Settings, read_settings

pytest_plugins = ("owner_kit",)

PASSPHRASE = b"correct horse battery"


def contents(directory: Path, holder: Any = None) -> tuple[str, ...]:
    """The paths of secrets in a state directory, with the key that its master key opens."""
    clock = lambda: datetime.now(UTC)  # noqa: E731
    with open_replica(directory, holder or FileHolder(), read_settings(directory), Demands(), clock) as replica:
        return replica.store.snapshot("default").names("secret")


def given(data: bytes) -> str:
    """A file descriptor that gives these bytes, as on a command line."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return str(reader)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setenv("KOKON_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KOKON_ADMIN", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))

    def done(*words: str) -> dict[str, Any]:
        assert main(["provision", *words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    def refused(*words: str) -> str:
        assert main(["provision", *words, "--json"]) != 0
        return json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["code"]

    return SimpleNamespace(done=done, refused=refused)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory with a secret in it."""
    directory = tmp_path / "state"
    with open_replica(directory, FileHolder(), Settings(), Demands(), lambda: datetime.now(UTC)) as replica:
        from kokon.provisioning.database.values import Put
        from kokon.provisioning.secret.value import Secret, encode_secret

        replica.core.write("default", "test", {}, (Put("secret", "a/b/c", encode_secret(Secret("given", b"x"))),))
    return directory


# -- init ----------------------------------------------------------------------------------------------------------


def test_init_makes_what_is_not_there(command, tmp_path: Path) -> None:
    first = command.done("init", "--state", "s")
    assert (first["custody"], first["database"], first["made"]) == ("file", "sqlite", ["master.key", "settings.json"])
    key = (tmp_path / "s" / "master.key").read_bytes()
    assert command.done("init", "--state", "s") == {**first, "made": []}
    assert (tmp_path / "s" / "master.key").read_bytes() == key
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    assert command.done("init", "--state", "s", "--custody", "file")["made"] == []
    assert command.refused("init", "--state", "s", "--custody", "passphrase") == "state-differs"
    assert command.refused("init", "--state", "s", "--database", "postgresql://h/d") == "state-differs"
    assert contents(tmp_path / "s") == ()


def test_init_with_a_passphrase(command, tmp_path: Path) -> None:
    words = ("init", "--state", "s", "--custody", "passphrase")
    assert command.refused(*words) == "custody-incomplete"
    assert command.refused(*words, "--passphrase-fd", given(b"short")) == "passphrase-short"
    assert command.refused(*words, "--passphrase-fd", "9999") == "input-unreadable"
    assert command.refused(*words, "--passphrase-fd", "3", "--credential", "x") == "secret-sources"
    assert command.refused(*words, "--credential", "x") == "credential-missing"
    assert not (tmp_path / "s" / "settings.json").exists()
    made = command.done(*words, "--passphrase-fd", given(PASSPHRASE + b"\n"), "--database", "postgresql://u@h:1/d")
    assert (made["made"], made["database"]) == (["master.json", "settings.json"], "postgresql h:1/d")
    assert read_settings(tmp_path / "s").database == "postgresql://u@h:1/d"
    vault.open_master(tmp_path / "s", PassphraseHolder(PASSPHRASE))
    assert command.done(*words)["made"] == [], "what is there needs no passphrase"


def test_init_for_a_second_replica(command, tmp_path: Path) -> None:
    command.done("init", "--state", "a", "--custody", "passphrase", "--passphrase-fd", given(PASSPHRASE))
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "master.json", tmp_path / "b")
    made = command.done("init", "--state", "b", "--database", "postgresql://h/d")
    assert (made["custody"], made["made"]) == ("passphrase", ["settings.json"])
    assert command.refused("init", "--state", "b", "--custody", "file") == "state-differs"


@pytest.mark.parametrize("url", ["sqlite:///x", "https://h/d", "h", "postgresql://[", "postgresql://h/" + "d" * 5000])
def test_addresses_that_are_none(command, url: str) -> None:
    assert command.refused("init", "--state", "s", "--database", url) == "database-url"


def test_passwords_are_not_for_the_command_line(command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("postgresql://u:geheim@h/d", "postgresql://h/d?user=u&password=geheim"):
        assert main(["provision", "init", "--state", "s", "--database", url]) == 2
        shown = capsys.readouterr()
        assert "password-exposed" in shown.err
        assert "geheim" not in shown.err
        (tmp_path / "url").write_text(url + "\n")
        assert main(["provision", "init", "--state", "t", "--database-file", "url"]) == 0
        shown = capsys.readouterr()
        assert "postgresql h/d" in shown.out
        assert "geheim" not in shown.out + shown.err
        assert main(["provision", "status", "--state", "t"]) == 0
        shown = capsys.readouterr()
        assert "geheim" not in shown.out + shown.err
        shutil.rmtree(tmp_path / "t")
    assert command.refused("init", "--state", "s", "--database", "postgresql://h/d", "--database-file", "url") == (
        "database-url"
    )
    assert command.refused("init", "--state", "s", "--database-file", "none") == "input-unreadable"


# -- status --------------------------------------------------------------------------------------------------------


def test_status_without_the_server(command, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = command.done("status", "--state", "state")
    assert (told["custody"], told["database"], told["logs"]["default"]) == ("file", "sqlite", 1)
    assert told["size"] == (state / "provisioning.db").stat().st_size
    assert main(["provision", "status", "--state", "state"]) == 0
    assert "log default: 1 entries when last seen" in capsys.readouterr().out
    assert command.refused("status", "--state", "none") == "state-empty"
    command.done("init", "--state", "new", "--custody", "file")
    assert command.done("status", "--state", "new")["logs"] == {}


# -- backup and restore --------------------------------------------------------------------------------------------


def test_a_backup_of_a_running_server_restores(kokon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kokon.done("secret", "generate", "a/b")
    kokon.said("secret", "list")
    assert main(["provision", "backup", "one.backup", "--state", "state", "--json"]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    data = (tmp_path / "one.backup").read_bytes()
    assert told["size"] == len(data)
    assert (tmp_path / "one.backup").stat().st_mode & 0o777 == 0o600
    assert "the master key is not in it" in shown.err
    master = (tmp_path / "state" / "master.key").read_bytes()
    assert master not in data
    assert master.hex().encode() not in data
    assert kokon.refused("provision", "backup", "one.backup", "--state", "state") == "output-exists"
    assert kokon.refused("provision", "restore", "one.backup", "--state", "state") == "state-in-use"

    assert main(["provision", "restore", "one.backup", "--state", "new", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["opens"] is False
    assert "put the master key" in shown.err
    shutil.copy(tmp_path / "state" / "master.key", tmp_path / "new")
    assert contents(tmp_path / "new") == ("a/secret/b",)
    assert kokon.refused("provision", "restore", "one.backup", "--state", "new") == "restore-not-empty"


def test_backups_through_pipes(
    command, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["provision", "backup", "-", "--state", "state"]) == 0
    data = capsys.readouterr().out.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    (tmp_path / "new").mkdir()
    shutil.copy(state / "master.key", tmp_path / "new")
    told = command.done("restore", "-", "--state", "new")
    assert told["opens"] is True
    assert contents(tmp_path / "new") == ("a/b/c",)


def test_backups_that_cannot_be(command, state: Path, tmp_path: Path) -> None:
    assert command.refused("backup", "one.backup", "--state", "none") == "state-empty"
    assert not (tmp_path / "one.backup").exists()
    assert command.refused("backup", "no/one.backup", "--state", "state") == "output-not-written"
    assert command.refused("restore", "none.backup", "--state", "new") == "input-unreadable"
    command.done("backup", "one.backup", "--state", "state")
    data = (tmp_path / "one.backup").read_bytes()
    for number, bad in enumerate((b"", data[:-1], data[: len(data) // 2], data + b"\n", b"junk\n")):
        (tmp_path / "bad.backup").write_bytes(bad)
        code = command.refused("restore", "bad.backup", "--state", f"new{number}")
        assert code in ("backup-malformed", "json-malformed")


def test_an_old_backup_is_not_taken_for_the_latest(command, state: Path, tmp_path: Path) -> None:
    command.done("backup", "old.backup", "--state", "state")
    contents(state)  # a start and an end more in the log
    for name in ("provisioning.db", "provisioning.db-wal", "provisioning.db-shm"):
        (state / name).unlink(missing_ok=True)
    command.done("restore", "old.backup", "--state", "state")
    assert command.refused("recover", "--state", "state") == "log-rolled-back"
    for name in ("provisioning.db", "provisioning.db-wal", "provisioning.db-shm"):
        (state / name).unlink(missing_ok=True)
    command.done("restore", "old.backup", "--state", "state", "--forget")
    assert contents(state) == ("a/b/c",)


def test_an_owner_who_lost_every_token(
    command, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = command.done("recover", "--state", "state")
    access = json.loads((state / "admin.json").read_text())
    assert told == {"admin": str(state / "admin.json")}
    assert (state / "admin.json").stat().st_mode & 0o777 == 0o600
    clock = lambda: datetime.now(UTC)  # noqa: E731
    with open_replica(state, FileHolder(), Settings(), Demands(), clock) as replica:
        from kokon.provisioning.admin.callers import Callers

        who = Callers(replica.core).identify(access["token"], None, "default")
        assert (who.name, who.role) == ("recovered owner", "owner")
    assert command.refused("recover", "--state", "none") == "state-empty"


# -- the master key ------------------------------------------------------------------------------------------------


def test_a_new_master_key(command, state: Path, tmp_path: Path) -> None:
    old = (state / "master.key").read_bytes()
    told = command.done("rotate", "--master", "--state", "state")
    assert told["finished"] is True
    assert (state / "master.key").read_bytes() != old
    assert told["master"] == vault.open_master(state, FileHolder()).identity
    assert contents(state) == ("a/b/c",)
    shutil.copytree(state, tmp_path / "thief")
    (tmp_path / "thief" / "master.key").write_bytes(old)
    with pytest.raises(Exception, match="keyring-foreign"):
        contents(tmp_path / "thief")


def test_another_holder(command, state: Path) -> None:
    identity = vault.open_master(state, FileHolder()).identity
    words = ("rotate", "--state", "state")
    assert command.refused(*words, "--custody", "passphrase") == "custody-incomplete"
    assert command.refused(*words, "--custody", "passphrase", "--new-passphrase-fd", given(b"x")) == "passphrase-short"
    assert vault.held_by(state) == "file", "nothing was changed"
    told = command.done(*words, "--custody", "passphrase", "--new-passphrase-fd", given(PASSPHRASE))
    assert (told["custody"], told["master"]) == ("passphrase", identity)
    assert not (state / "master.key").exists()
    assert contents(state, PassphraseHolder(PASSPHRASE)) == ("a/b/c",)
    assert command.refused(*words, "--master", "--passphrase-fd", given(b"a wrong passphrase")) == "passphrase-wrong"
    again = (*words, "--custody", "passphrase", "--passphrase-fd", given(PASSPHRASE))
    command.done(*again, "--new-passphrase-fd", given(PASSPHRASE * 2))
    assert contents(state, PassphraseHolder(PASSPHRASE * 2)) == ("a/b/c",)
    told = command.done(*words, "--custody", "file", "--master", "--passphrase-fd", given(PASSPHRASE * 2))
    assert told["custody"] == "file"
    assert told["master"] != identity
    assert contents(state) == ("a/b/c",)


def test_finish_takes_the_ring_from_others(command, state: Path) -> None:
    from kokon.provisioning.custody.master import make_master
    from kokon.provisioning.database.engines import open_backend
    from kokon.provisioning.database.rings import add_master

    backend = open_backend(state / "provisioning.db")
    other = make_master()
    add_master(backend, vault.open_master(state, FileHolder()), other)
    backend.close()
    told = command.done("rotate", "--finish", "--state", "state")
    assert told["finished"] is True
    (state / "master.key").write_bytes(other.key)
    with pytest.raises(Exception, match="keyring-foreign"):
        contents(state)


def test_rotation_without_a_state(command) -> None:
    assert command.refused("rotate", "--master", "--state", "none") == "master-missing"
    assert command.refused("rotate", "--master", "--data-key") == "rotate-options"
    assert command.refused("rotate") == "admin-access-missing"


# -- tokens --------------------------------------------------------------------------------------------------------

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = b"24681357"


@pytest.mark.skipif(
    not (LIBRARY.exists() and shutil.which("softhsm2-util")), reason="SKIPPED: SoftHSM (package softhsm2) is missing"
)
def test_a_token_holds_the_master_key(state: Path, tmp_path: Path) -> None:
    """Each command in a process of its own: a PKCS#11 library is a process's."""
    pytest.importorskip("pkcs11", reason="SKIPPED: python-pkcs11 is missing, PKCS#11 is untested here")
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration), "KOKON_HOME": str(tmp_path / "home")}
    init = ["softhsm2-util", "--init-token", "--free", "--label", "one", "--so-pin", "1234", "--pin", PIN.decode()]
    subprocess.run(init, check=True, capture_output=True, env=environment)
    program = [sys.executable, "-c", "import sys; from kokon.cli.main import main; sys.exit(main())", "provision"]
    place = ["--pkcs11-module", str(LIBRARY), "--pkcs11-token", "one", "--json"]

    def run(*words: str, pin: bytes = PIN) -> tuple[int, dict[str, Any]]:
        descriptor = int(given(pin))
        option = "--new-passphrase-fd" if "rotate" in words else "--passphrase-fd"
        done = subprocess.run(
            [*program, *words, *place, option, str(descriptor)],
            capture_output=True,
            env=environment,
            pass_fds=[descriptor],
            check=False,
        )
        return done.returncode, json.loads(done.stdout or done.stderr.splitlines()[-1])

    new = str(tmp_path / "new")
    assert run("init", "--state", new, "--custody", "pkcs11", pin=b"1111")[1]["error"]["code"] == "pin-wrong"
    status, made = run("init", "--state", new, "--custody", "pkcs11")
    assert (status, made["custody"], made["made"]) == (0, "pkcs11", ["master.json", "settings.json"])
    assert read_settings(Path(new)) == Settings("", str(LIBRARY), "one", "kokon")
    assert run("init", "--state", new, "--custody", "pkcs11")[1]["made"] == []
    status, moved = run("rotate", "--state", str(state), "--custody", "pkcs11")
    assert (status, moved["custody"]) == (0, "pkcs11")
    assert vault.held_by(state) == "pkcs11"
    assert read_settings(state).token == "one"
