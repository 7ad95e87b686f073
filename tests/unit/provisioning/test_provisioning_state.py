"""The state directory and what a replica makes of it: settings, modes, no secret in a file that is not for it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from test_provisioning_admin import PATH, call, released

from kokon.errors import HostError, KokonError
from kokon.provisioning import replica as replicas
from kokon.provisioning import tls
from kokon.provisioning.core import Core, Demands
from kokon.provisioning.custody.file import FileHolder
from kokon.provisioning.custody.holder import Holder
from kokon.provisioning.custody.passphrase import PassphraseHolder
from kokon.provisioning.custody.vault import open_master
from kokon.provisioning.database.backup import backup, restore
from kokon.provisioning.database.engines import open_backend
from kokon.provisioning.database.values import Put
from kokon.provisioning.replica import LogKeys, Replica, open_replica, write_access
from kokon.provisioning.secret.value import Secret, encode_secret
from kokon.provisioning.state import (
    Settings,
    held_by,
    holder_of,
    private_directory,
    read_settings,
    write_settings,
)
from kokon.provisioning.tls import tls_identity
from kokon.tee.endorsements import Endorsements

VALUE = b"a value that stands nowhere in clear"
PHRASE = b"a passphrase that is kept nowhere"


def opened(directory: Path, holder: Holder | None = None) -> contextlib.AbstractContextManager[Replica]:
    return open_replica(directory, holder or FileHolder(), Settings(), Demands(), lambda: datetime.now(UTC))


def refused(call: Callable[[], object]) -> str:
    """The code of the error."""
    with pytest.raises(KokonError) as caught:
        call()
    return caught.value.code


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "json-malformed"),
        ("[]", "field-type"),
        ('{"version": 1}', "field-missing"),
        ('{"version": 1, "version": 1}', "json-malformed"),
        ('{"version": 2, "database": "", "library": "", "token": "", "key": ""}', "field-range"),
        ('{"version": 1, "database": 5, "library": "", "token": "", "key": ""}', "field-type"),
        ('{"version": 1, "database": "", "library": "", "token": "", "key": "", "more": 1}', "field-unknown"),
        (json.dumps({"version": 1, "database": "x" * 5000, "library": "", "token": "", "key": ""}), "field-too-long"),
        (" " * (17 << 10), "json-too-large"),
    ],
)
def test_what_is_no_settings(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    assert refused(lambda: read_settings(tmp_path)) == code


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "settings.json").mkdir()
    assert refused(lambda: read_settings(tmp_path)) == "state-unusable"
    assert refused(lambda: read_settings(tmp_path / ("x" * 300))) == "state-unusable"
    (tmp_path / "file").touch()
    assert refused(lambda: read_settings(tmp_path / "file")) == "state-unusable"
    assert refused(lambda: write_settings(tmp_path / "nowhere", Settings())) == "state-unusable"


def test_a_link_to_an_older_state_is_one(tmp_path: Path) -> None:
    (tmp_path / "kokon.db").symlink_to("gone")
    assert refused(lambda: read_settings(tmp_path)) == "state-older"


def test_where_the_database_is(tmp_path: Path) -> None:
    assert Settings().location(tmp_path) == tmp_path / "provisioning.db"
    assert Settings("postgresql://db/kokon").location(tmp_path) == "postgresql://db/kokon"


# -- holders -------------------------------------------------------------------------------------------------------


def test_holders(tmp_path: Path) -> None:
    asked: list[str] = []

    def secret(what: str) -> bytes:
        asked.append(what)
        return PHRASE

    token = Settings("", "/lib/p11.so", "token", "key")
    names = [
        holder_of(name, settings, secret, lambda context: context).name
        for name, settings in (("file", Settings()), ("passphrase", Settings()), ("pkcs11", token), ("enclave", token))
    ]
    assert names == ["file", "passphrase", "pkcs11", "enclave"]
    assert asked == ["passphrase", "PIN"]
    assert PHRASE.decode() not in repr(holder_of("pkcs11", token, secret))
    for part in ("library", "token", "key"):
        lacking = Settings("", **{"library": "l", "token": "t", "key": "k", part: ""})
        assert refused(lambda settings=lacking: holder_of("pkcs11", settings, secret)) == "custody-incomplete"
    assert held_by(tmp_path) == "file"


# -- the directory -------------------------------------------------------------------------------------------------


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.lstat().st_mode) for path in directory.rglob("*")}


def test_the_directory_is_closed_to_others(tmp_path: Path) -> None:
    made = tmp_path / "a" / "b"
    private_directory(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.chmod(0o755)
    private_directory(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "a", tmp_path / ("x" * 300)):
        assert refused(lambda path=path: private_directory(path)) == "state-unusable"


def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chmod(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", chmod)
    assert refused(lambda: opened(tmp_path / "state").__enter__()) == "state-unusable"
    assert list((tmp_path / "state").iterdir()) == []


def test_files_are_for_the_server_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with opened(tmp_path / "state") as replica:
            write_access(replica, "https://127.0.0.1:1")
            write_settings(tmp_path / "state", Settings())
            found = modes(tmp_path / "state")
    finally:
        os.umask(old)
    public = {"tls.pem", "owner-key.jwk"}
    assert {"master.key", "provisioning.db", "memory.json", "admin.json", "settings.json"} | public <= found.keys()
    assert {name for name, mode in found.items() if mode != 0o600} == public
    assert {found[name] for name in public} == {0o644}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def forms(secret: bytes) -> set[bytes]:
    """How a secret may stand in a file."""
    text = base64.b64encode(secret)
    return {secret, secret.hex().encode(), text.rstrip(b"="), base64.urlsafe_b64encode(secret).rstrip(b"=")}


def secrets_of(replica: Replica) -> dict[str, set[bytes]]:
    """All that must be in no file: keys as what they consist of, and as they are written down."""
    found = {"secret": forms(VALUE), "passphrase": forms(PHRASE)}
    tokens = replica.core.tokens._keys.private
    for name, key in (("owner", replica.keys.owner), ("tls", replica.keys.tls), ("token-key", tokens)):
        number = key.private_numbers().private_value.to_bytes(32, "big")
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).splitlines()
        found[name] = forms(number) | forms(der) | set(pem[1:-1])
    ring = replica.store.ring._ring
    for name, key in (("root", ring._root), *((f"data {number}", key) for number, key in ring._keys.items())):
        found[name] = forms(key)
    for label in ("session", "log"):
        found[label] = forms(replica.store.ring.subkey(label))
    return found


def where(directory: Path, secrets: dict[str, set[bytes]]) -> set[tuple[str, str]]:
    """Which secret is found in which file."""
    return {
        (name, path.name)
        for path in directory.rglob("*")
        if path.is_file()
        for name, spellings in secrets.items()
        if any(spelling in path.read_bytes() for spelling in spellings)
    }


@pytest.mark.parametrize("holder", [FileHolder(), PassphraseHolder(PHRASE)], ids=["file", "passphrase"])
def test_no_secret_is_in_any_other_file(tmp_path: Path, holder: Holder) -> None:
    """While the server runs, with its write-ahead log, and afterwards."""
    directory = tmp_path / "state"
    with opened(directory, holder) as replica:
        write_access(replica, "https://127.0.0.1:1")
        change = Put("secret", "a/b/c", encode_secret(Secret("given", VALUE)))
        replica.core.write("default", "test", {}, (change,))
        replica.store.add_data_key()
        replica.core.tokens.rotate(datetime.now(UTC), "")
        replica.core.write("default", "test", {}, (Put("secret", "a/b/d", encode_secret(Secret("given", VALUE))),))
        token = replica.fresh_token
        assert token
        assert token not in repr(replica)
        secrets = secrets_of(replica) | {"admin": {token.encode(), token.split("_", 2)[2].encode()}}
        secrets["master"] = forms(open_master(directory, holder).key)
        found = where(directory, secrets)
    expected = {("admin", "admin.json")} | ({("master", "master.key")} if holder.name == "file" else set())
    assert found == expected
    assert where(directory, secrets) == expected
    assert held_by(directory) == holder.name
    if holder.name != "file":
        assert refused(lambda: opened(directory).__enter__()) == "master-holder"
    for name, spellings in secrets.items():
        (directory / "planted").write_bytes(b"x" + min(spellings) + b"x")
        assert (name, "planted") in where(directory, secrets), "the search finds what is there"


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def test_the_tls_key_is_in_memory_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    with tls_identity(b"the key", "the certificate") as identity:
        assert str(identity.key_file).startswith("/proc/self/fd/")
        assert (identity.key_file.read_bytes(), identity.certificate_file.read_text()) == (
            b"the key",
            "the certificate",
        )
        assert str(identity.key_file.readlink()) == "/memfd:kokon (deleted)"
        number = int(identity.key_file.name)
        assert not os.get_inheritable(number)
        assert stat.S_IMODE(os.fstat(number).st_mode) == 0o600
        assert "key_file" not in repr(identity)
    assert descriptors() <= before

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tls.os, "write", full)
    with pytest.raises(OSError, match="No space"), tls_identity(b"key", "certificate"):
        pass
    assert descriptors() <= before


# -- a replica's life ----------------------------------------------------------------------------------------------


def test_the_owner_has_one_token(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with opened(directory) as replica:
        write_access(replica, "https://127.0.0.1:1")
        first = json.loads((directory / "admin.json").read_text())
        assert first["token"] == replica.fresh_token
    with opened(directory) as replica:
        assert replica.fresh_token is None
        write_access(replica, "https://127.0.0.1:2")
        assert json.loads((directory / "admin.json").read_text()) == {**first, "url": "https://127.0.0.1:2"}
        (directory / "admin.json").write_text("{")
        write_access(replica, "https://127.0.0.1:3")
        assert (directory / "admin.json").read_text() == "{", "without a token there is nothing to tell"


def test_log_keys_are_of_the_ring() -> None:
    keys = LogKeys()
    with pytest.raises(RuntimeError):
        keys.signing("default")
    keys.use("i" * 32, bytes(32))
    names = [keys.verifier(project).name for project in ("", "default", "bank")]
    assert names == ["kokon-" + "i" * 16 + suffix for suffix in ("", "/default", "/bank")]
    assert keys.signing("bank") is keys.signing("bank")


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "never"
        time.sleep(0.01)


def test_what_has_expired_is_deleted_beside_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the database failed for a while."""
    monkeypatch.setattr(replicas, "HOUSEKEEPING", 0.01)
    failures: list[int] = []
    write = Core.write_all_counted

    def failing(core: Core) -> None:
        if len(failures) < 3:
            failures.append(1)
            raise HostError("store-unreachable", "gone")
        write(core)

    monkeypatch.setattr(Core, "write_all_counted", failing)
    with opened(tmp_path / "state") as replica:
        eventually(lambda: len(failures) == 3)
        gone = datetime.now(UTC) - timedelta(seconds=1)
        replica.core.write("default", "test", {}, (Put("secret", "a/b/c", b"x", expires=gone),))
        eventually(lambda: replica.store.snapshot("default").get("secret", "a/b/c") is None)


def test_what_fails_while_it_opens_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "state"
    with monkeypatch.context() as patched:

        def fail(*_: object) -> None:
            raise HostError("state-unusable", "no space left")

        patched.setattr(replicas, "_remember_public", fail)
        assert refused(lambda: opened(directory).__enter__()) == "state-unusable"
    with opened(directory) as replica:
        assert replica.fresh_token, "the lock was given back, and there is no owner yet"


@pytest.fixture
def moved(tmp_path: Path, serve: Any, chip: Any) -> Iterator[tuple[Any, bytes, bytes, Any]]:
    """A server with a workload that was backed up and is gone: its restored self, the launch document, a token."""
    endorsements = Endorsements(accepted_simulated=frozenset({chip.root}))
    stream = io.BytesIO()
    with serve(tmp_path / "old", endorsements) as server:
        document = server.admit()
        key, token = server.tee_key, server.attest(chip, document).json()["token"]
        call(server, server.token, "POST", "/kokon/v1/data-key")
        backup(server.store.backend, stream)
        stream.seek(0)
        (tmp_path / "new").mkdir(0o700)
        for name in ("master.key", "admin.json"):
            shutil.copy(tmp_path / "old" / name, tmp_path / "new")
    backend = open_backend(tmp_path / "new" / "provisioning.db")
    restore(stream, backend)
    backend.close()
    shutil.rmtree(tmp_path / "old")
    with serve(tmp_path / "new", endorsements) as restored:
        restored.tee_key = key
        yield restored, document, token, server


def test_a_restored_replica_is_the_one_of_before(moved: Any, chip: Any) -> None:
    restored, document, token, before = moved
    assert restored.certificate == before.certificate, "launch documents pin it"
    assert restored.token == before.token
    assert released(restored, token=token) == b"correct horse", "tokens of before are good"
    assert restored.attest(chip, document).status_code == 200
    assert released(restored) == b"correct horse"
    assert [one["path"] for one in restored.admin.secrets() if one["path"] == PATH] == [PATH]
    events = [entry["event"] for entry in restored.events()]
    assert events.count("attestation-granted") == 2, "the log goes on"
    status = call(restored, restored.token, "GET", "/kokon/v1/status").json()
    assert status["key_ring"]["identity"] == restored.store.ring.identity
    assert restored.store.verify("default") >= len(events)
