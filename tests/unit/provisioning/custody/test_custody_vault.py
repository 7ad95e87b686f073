"""The master key in the state directory: made, opened, handed over, replaced, and all that can go wrong between."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from custody_kit import MASTER, OTHER, cheap_holder, refused

from kokon.errors import HostError, MalformedError, UntrustedError, UsageError
from kokon.provisioning.custody import files, vault
from kokon.provisioning.custody.file import FileHolder
from kokon.provisioning.custody.holder import Holder
from kokon.provisioning.custody.master import MasterKey
from kokon.provisioning.custody.passphrase import PassphraseHolder

CLEAR, ENCLAVE, OTHER_ENCLAVE = FileHolder(), cheap_holder(), cheap_holder(b"f" * 32)
WORDS = PassphraseHolder(b"correct horse battery staple")


def fixed(size: int) -> bytes:
    return MASTER.key[:size]


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()} - {vault.LOCK}


@pytest.mark.parametrize("holder", [CLEAR, ENCLAVE, WORDS], ids=lambda holder: holder.name)
def test_made_once_and_opened_again(tmp_path: Path, holder: Holder) -> None:
    state = tmp_path / "a" / "state"
    assert vault.create(state, holder, fixed).same_as(MASTER)
    assert vault.open_master(state, holder).same_as(MASTER)
    assert vault.ensure(state, holder).same_as(MASTER)
    assert vault.held_by(state) == holder.name
    assert state.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in state.iterdir()} == {0o600}
    assert names(state) == {"master.key" if holder is CLEAR else "master.json"}
    with refused("master-exists", UsageError):
        vault.create(state, ENCLAVE)


def test_nothing_there(tmp_path: Path) -> None:
    assert vault.held_by(tmp_path) is None
    for state in (tmp_path, tmp_path / "absent"):
        with refused("master-missing", UsageError):
            vault.open_master(state, CLEAR)
        with refused("master-holder", UsageError):
            vault.rewrap(state, CLEAR, ENCLAVE)
    assert names(tmp_path) <= {"absent"}
    new = vault.ensure(tmp_path / "new", ENCLAVE)
    assert vault.open_master(tmp_path / "new", ENCLAVE).same_as(new)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
@pytest.mark.parametrize("holder", [CLEAR, ENCLAVE], ids=lambda holder: holder.name)
def test_exposed_files_are_refused(tmp_path: Path, holder: Holder, mode: int) -> None:
    vault.create(tmp_path, holder)
    for path in tmp_path.glob("master.*"):
        path.chmod(mode)
    with refused("key-file-exposed", UsageError):
        vault.open_master(tmp_path, holder)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.create(tmp_path, CLEAR)
    if os.geteuid() == 0:
        os.chown(tmp_path / "master.key", 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with refused("key-file-exposed", UsageError):
        vault.open_master(tmp_path, CLEAR)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33, b"x" * 100000])
def test_malformed_clear_keys(tmp_path: Path, content: bytes) -> None:
    files.replace_private(tmp_path / "master.key", content)
    with refused("key-file-malformed", MalformedError):
        vault.open_master(tmp_path, CLEAR)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "master.key").mkdir(mode=0o700)
    with refused("key-file-malformed", MalformedError):
        vault.open_master(tmp_path / "d", CLEAR)
    (tmp_path / "p").mkdir()
    os.mkfifo(tmp_path / "p" / "master.key", 0o600)
    with refused("key-file-malformed", MalformedError):
        vault.open_master(tmp_path / "p", CLEAR)
    (tmp_path / "l").mkdir()
    (tmp_path / "l" / "master.json").symlink_to("nowhere")
    with refused("state-unusable", HostError):
        vault.held_by(tmp_path / "l")


def test_unusable_directories(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for act in (vault.ensure, vault.create, vault.open_master):
        with refused("state-unusable", HostError):
            act(tmp_path / "file", CLEAR)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / vault.LOCK).mkdir()
    with refused("state-unusable", HostError):
        vault.create(tmp_path / "taken", CLEAR)


def test_the_wrong_holder(tmp_path: Path) -> None:
    vault.create(tmp_path / "clear", CLEAR)
    vault.create(tmp_path / "wrapped", ENCLAVE)
    for name, holder in (("clear", ENCLAVE), ("wrapped", CLEAR), ("wrapped", WORDS)):
        with refused("master-holder", UsageError):
            vault.open_master(tmp_path / name, holder)
        with refused("master-holder", UsageError):
            vault.rewrap(tmp_path / name, holder, CLEAR)
    with refused("enclave-mismatch", UntrustedError):
        vault.open_master(tmp_path / "wrapped", OTHER_ENCLAVE)


@pytest.mark.parametrize(
    ("old", "new"),
    [(CLEAR, WORDS), (WORDS, CLEAR), (WORDS, ENCLAVE), (ENCLAVE, OTHER_ENCLAVE), (CLEAR, CLEAR)],
    ids=lambda holder: holder.name,
)
def test_handed_over(tmp_path: Path, old: Holder, new: Holder) -> None:
    vault.create(tmp_path, old, fixed)
    assert vault.rewrap(tmp_path, old, new).same_as(MASTER)
    assert vault.open_master(tmp_path, new).same_as(MASTER)
    assert len(names(tmp_path)) == 1
    if old != new:
        with pytest.raises((UsageError, UntrustedError)):
            vault.open_master(tmp_path, old)


def test_a_failed_handing_over_changes_nothing(tmp_path: Path) -> None:
    vault.create(tmp_path, ENCLAVE, fixed)
    before = (tmp_path / "master.json").read_bytes()
    for old, new, code in (
        (OTHER_ENCLAVE, CLEAR, "enclave-mismatch"),
        (ENCLAVE, PassphraseHolder(b"short"), "passphrase-short"),
    ):
        with refused(code):
            vault.rewrap(tmp_path, old, new)
        assert (tmp_path / "master.json").read_bytes() == before
        assert names(tmp_path) == {"master.json"}


def test_a_holder_that_loses_the_key_gets_none(tmp_path: Path) -> None:
    """What was written is opened before the old file is given up."""

    class Forgetful(FileHolder):
        def open(self, data: bytes) -> MasterKey:
            return OTHER

    vault.create(tmp_path, ENCLAVE, fixed)
    with refused("master-damaged", UntrustedError):
        vault.rewrap(tmp_path, ENCLAVE, Forgetful())
    assert names(tmp_path) == {"master.json"}


@pytest.mark.parametrize(("old", "new"), [(CLEAR, ENCLAVE), (ENCLAVE, CLEAR)], ids=lambda holder: holder.name)
def test_stopped_between_writing_and_removing(
    tmp_path: Path, old: Holder, new: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.create(tmp_path, old, fixed)
    with monkeypatch.context() as patch:
        patch.setattr(vault, "remove_private", lambda _path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            vault.rewrap(tmp_path, old, new)
    assert names(tmp_path) == {"master.key", "master.json"}
    for act in (vault.open_master, vault.ensure):
        for holder in (old, new):
            with refused("master-ambiguous", UsageError):
                act(tmp_path, holder)
    with refused("master-exists", UsageError):
        vault.create(tmp_path, old)
    assert vault.rewrap(tmp_path, old, new).same_as(MASTER)
    assert vault.open_master(tmp_path, new).same_as(MASTER)
    assert len(names(tmp_path)) == 1


def test_killed_at_any_call_of_the_system(tmp_path: Path) -> None:
    """A process that changes the holder is killed at its n-th write to the disk; the key survives each time."""
    program = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from custody_kit import cheap_holder
from kokon.provisioning.custody import vault
from kokon.provisioning.custody.file import FileHolder
left = int(sys.argv[2])
def hook(event, arguments):
    global left
    writes = event in ("os.rename", "os.remove", "tempfile.mkstemp", "os.chmod")
    if writes or (event == "open" and "master" in str(arguments[0])):
        left -= 1
        if left < 0:
            os._exit(9)
sys.addaudithook(hook)
vault.rewrap(Path(sys.argv[1]), FileHolder(), cheap_holder())
"""
    status, step, seen = 9, 0, set()
    while status == 9:
        state = tmp_path / str(step)
        vault.create(state, CLEAR, fixed)
        arguments = [sys.executable, "-c", program, str(state), str(step), str(Path(__file__).parent)]
        status = subprocess.run(arguments, check=False, timeout=60).returncode
        seen.add(vault._present(state))
        if status == 9 and vault._present(state)[0]:
            assert vault.rewrap(state, CLEAR, ENCLAVE).same_as(MASTER)
        assert vault.open_master(state, ENCLAVE).same_as(MASTER)
        assert names(state) == {"master.json"}, "nothing is left of a try that was killed"
        step += 1
    assert status == 0
    assert seen == {(True, False), (True, True), (False, True)}, "it was killed before, between and after"


def test_another_servers_key_is_not_overwritten(tmp_path: Path) -> None:
    for first, second in ((CLEAR, ENCLAVE), (ENCLAVE, CLEAR)):
        state = tmp_path / first.name
        vault.create(state, first, fixed)
        other = vault._file(second)
        files.replace_private(state / other, second.wrap(OTHER))
        with refused("master-conflict", UsageError):
            vault.rewrap(state, first, second)
        assert second.open((state / other).read_bytes()).same_as(OTHER)


def test_a_new_key_in_place_of_the_old_one(tmp_path: Path) -> None:
    vault.create(tmp_path, ENCLAVE, fixed)
    with refused("master-changed", UntrustedError):
        vault.replace(tmp_path, ENCLAVE, OTHER, MASTER)
    assert vault.open_master(tmp_path, ENCLAVE).same_as(MASTER)
    vault.replace(tmp_path, ENCLAVE, MASTER, OTHER)
    assert vault.open_master(tmp_path, ENCLAVE).same_as(OTHER)


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.create(tmp_path, CLEAR, fixed)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with refused("state-unusable", HostError):
            vault.rewrap(tmp_path, CLEAR, ENCLAVE)
    assert names(tmp_path) == {"master.key"}
    assert vault.open_master(tmp_path, CLEAR).same_as(MASTER)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with refused("state-unusable", HostError):
            files.remove_private(tmp_path / "absent")


def test_remains_of_a_killed_writer_do_not_stay(tmp_path: Path) -> None:
    vault.create(tmp_path, CLEAR, fixed)
    (tmp_path / ".master.key.abcd").write_bytes(MASTER.key)
    vault.rewrap(tmp_path, CLEAR, ENCLAVE)
    assert names(tmp_path) == {"master.json"}
    assert MASTER.key not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_servers_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    found: list[MasterKey] = []
    threads = [
        threading.Thread(target=lambda: found.append(vault.ensure(tmp_path / "state", ENCLAVE))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 8
    assert {key.identity for key in found} == {vault.open_master(tmp_path / "state", ENCLAVE).identity}
