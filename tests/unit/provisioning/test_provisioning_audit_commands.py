"""`kokon audit`: what is proved without the server, and what is found out about one that lies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kokon.cli.main import main
from kokon.provisioning.client import AdminClient
from kokon.provisioning.client_log import LogCalls
from kokon.provisioning.ledger.checkpoint import Checkpoint, sign_checkpoint

pytest_plugins = ("owner_kit",)


@pytest.fixture
def audited(kokon, tmp_path: Path):
    """A log with entries; its key in log.key."""
    for name in ("a", "b", "c"):
        kokon.done("secret", "generate", f"{name}/{name}")
    (tmp_path / "log.key").write_text(kokon.done("audit", "checkpoint")["key"] + "\n")
    return kokon


def test_a_log_is_exported_and_verified(audited, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = audited.done("audit", "export", "-o", "one.log")
    assert written["size"] == (tmp_path / "one.log").stat().st_size
    told = audited.done("audit", "verify", "one.log", "--key", "log.key", "--keep", "one.cp")
    assert (told["verified"], told["size"], told["origin"].split("/")[1]) == (True, 4, "default")
    assert [check["outcome"] for check in told["checks"]] == ["passed", "passed", "not-checked", "not-checked"]
    audited.done("secret", "generate", "d/d")
    audited.done("audit", "export", "-o", "two.log")
    key = (tmp_path / "log.key").read_text().strip()
    again = audited.said("audit", "verify", "two.log", "--key", key, "--previous", "one.cp")
    assert re.search(r"ok +earlier checkpoint +4 entries", again)
    assert re.search(r"- +witnesses +name witnesses", again)
    assert (
        audited.refused("audit", "verify", "one.log", "--key", "log.key", "--previous", "one.log") == "note-malformed"
    )
    audited.done("audit", "checkpoint", "-o", "two.cp")
    assert (
        audited.refused("audit", "verify", "one.log", "--key", "log.key", "--previous", "two.cp") == "log-rolled-back"
    )
    assert main(["audit", "export"]) == 0
    audited.typed(capsys.readouterr().out.encode())
    assert audited.done("audit", "verify", "-", "--key", "log.key")["size"] == 5


def test_the_servers_own_log(audited) -> None:
    audited.done("audit", "export", "--server", "-o", "server.log")
    key = audited.done("audit", "checkpoint", "--server")["key"]
    assert "/" not in audited.done("audit", "verify", "server.log", "--key", key)["origin"]
    assert audited.refused("audit", "verify", "server.log", "--key", "log.key") == "log-signature"


CHANGES = [
    ("log-broken", lambda data: data.replace(b"a/secret/a", b"x/secret/x")),
    ("log-broken", lambda data: b"".join(data.splitlines(True)[:2] + data.splitlines(True)[3:])),
    ("log-export-malformed", lambda data: data[: data.rindex(b'"kokon')]),
    ("log-export-malformed", lambda data: data + b"{}\n"),
    ("log-export-malformed", lambda _: b""),
    ("json-malformed", lambda _: b"no JSON\n"),
    ("log-export-malformed", lambda data: data.replace(b"log export v1", b"log export v9")),
]


def test_a_log_that_was_changed(audited, tmp_path: Path) -> None:
    audited.done("audit", "export", "-o", "one.log")
    data = (tmp_path / "one.log").read_bytes()
    for code, change in CHANGES:
        (tmp_path / "bad.log").write_bytes(change(data))
        assert audited.refused("audit", "verify", "bad.log", "--key", "log.key", "--keep", "bad.cp") == code
    assert not (tmp_path / "bad.cp").exists()


def test_receipts(audited, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = audited.done("audit", "receipt", "1", "-o", "one.receipt")
    assert (told["index"], told["event"]) == (1, "resource-put")
    proven = audited.done("audit", "verify", "one.receipt", "--key", "log.key")
    assert proven["entry"]["resource"] == "a/secret/a"
    assert (proven["verified"], proven["index"], proven["size"]) == (True, 1, 4)
    assert json.loads(audited.said("audit", "verify", "one.receipt", "--key", "log.key")) == proven["entry"]
    assert main(["audit", "receipt", "1"]) == 0
    data = capsys.readouterr().out.encode()
    audited.typed(data)
    assert audited.done("audit", "verify", "-", "--key", "log.key")["index"] == 1
    (tmp_path / "bad.receipt").write_bytes(data.replace(b"a/secret/a", b"x/secret/x"))
    assert audited.refused("audit", "verify", "bad.receipt", "--key", "log.key") == "log-broken"
    for option in ("--previous", "--keep"):
        assert audited.refused("audit", "verify", "one.receipt", "--key", "log.key", option, "x") == "audit-options"
    assert audited.refused("audit", "receipt", "99") == "log-proof-range"
    assert audited.refused("audit", "receipt", "1", "-o", "one.receipt") == "output-exists"


def test_files_and_keys_typed_wrong(audited, tmp_path: Path) -> None:
    audited.done("audit", "export", "-o", "one.log")
    assert audited.refused("audit", "export", "-o", "one.log") == "output-exists"
    assert audited.refused("audit", "export", "-o", "no/one.log") == "output-not-written"
    assert audited.refused("audit", "export") == "output-needed"
    assert audited.refused("audit", "verify", "none.log", "--key", "log.key") == "input-unreadable"
    assert audited.refused("audit", "verify", "one.log", "--key", "none.key") == "input-unreadable"
    assert audited.refused("audit", "verify", "one.log", "--key", "a+b+c") == "base64-malformed"
    assert audited.refused("audit", "verify", "one.log", "--key", "log.key", "--threshold", "1") == "witnesses-unusable"
    assert audited.refused("audit", "checkpoint", "--key", "log.cp") == "input-unreadable"


def test_an_export_that_breaks_off_leaves_no_file(audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kokon.errors import UnreachableError

    def export(*_: Any, **__: Any) -> Any:
        yield b"{"
        raise UnreachableError("provisioning-unreachable", "gone")

    monkeypatch.setattr(AdminClient, "export", export)
    assert audited.refused("audit", "export", "-o", "one.log") == "provisioning-unreachable"
    assert {path.name for path in tmp_path.iterdir() if "one" in path.name} == set()


# -- witnesses -----------------------------------------------------------------------------------------------------

VISIT = ("audit", "witness", "--key", "me.key", "--state", "seen.json")


@pytest.fixture
def witness(audited, tmp_path: Path) -> str:
    return audited.done("audit", "keygen", "me.key", "--name", "audit.example.org")["public"]


def test_a_witness_cosigns_a_log_that_grows(audited, witness: str, tmp_path: Path) -> None:
    assert (tmp_path / "me.key").stat().st_mode & 0o777 == 0o600
    assert audited.refused("audit", "keygen", "me.key", "--name", "x") == "output-exists"
    assert audited.refused("audit", "keygen", "no/me.key", "--name", "x") == "output-not-written"
    assert audited.refused("audit", "keygen", "you.key", "--name", "a b") == "key-name-malformed"
    assert audited.refused("audit", "export", "--witnessed", "-o", "w.log") == "log-not-cosigned"
    first = audited.done(*VISIT, "--log-key", "log.key")
    second = audited.done(*VISIT)
    assert (first["size"], second["size"]) == (4, 5)
    assert first["witness"] == witness
    assert audited.done("audit", "checkpoint")["cosigned"].keys() == {"audit.example.org"}
    audited.done("audit", "keygen", "you.key", "--name", "other.example.org")
    other = audited.done(*VISIT[:3], "you.key", "--state", "you.json")
    assert other["size"] == 6
    audited.done("audit", "export", "--witnessed", "-o", "w.log")
    words = ("audit", "verify", "w.log", "--key", "log.key", "--witness")
    assert audited.done(*words, other["witness"])["size"] == 6
    assert audited.refused(*words, witness) == "log-unwitnessed"
    told = audited.done(*words, witness, "--witness", other["witness"], "--threshold", "1")
    assert [one["name"] for one in told["witnesses"]] == ["other.example.org"]
    assert audited.refused(*words, (tmp_path / "log.key").read_text().strip()) == "witnesses-unusable"


def test_two_witnesses_of_one_head_stand_in_one_export(audited, witness: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with AdminClient_of(audited) as client:
        head, proof = client.consistency(0)
    monkeypatch.setattr(LogCalls, "consistency", lambda *_, **__: (head, proof))
    other = audited.done("audit", "keygen", "you.key", "--name", "other.example.org")["public"]
    audited.done(*VISIT)
    audited.done(*VISIT[:3], "you.key", "--state", "you.json")
    audited.done("audit", "export", "--witnessed", "-o", "w.log")
    words = ("audit", "verify", "w.log", "--key", "log.key", "--witness", witness, "--witness", other)
    assert len(audited.done(*words)["witnesses"]) == 2


def AdminClient_of(kokon: Any) -> AdminClient:  # noqa: N802
    return AdminClient(kokon.server.admin.access)


def test_a_witness_finds_out_a_log_that_lies(
    audited, witness: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited.done(*VISIT, "--log-key", "log.key")
    seen = (tmp_path / "seen.json").read_bytes()
    key = audited.server.replica.logs.signing("default")
    size = audited.server.admin.log()[1].size
    stories = {
        "log-rolled-back": Checkpoint(key.verifier.name, 2, bytes(32)),
        "log-forked": Checkpoint(key.verifier.name, 4, bytes(32)),
        "log-broken": Checkpoint(key.verifier.name, size, bytes(32)),
    }
    for code, story in stories.items():
        note = sign_checkpoint(story, key)
        monkeypatch.setattr(LogCalls, "consistency", lambda *_, note=note, **__: (note, ()))
        assert audited.refused(*VISIT) == code
        assert (tmp_path / "seen.json.refused").read_bytes() == note
        assert (tmp_path / "seen.json").read_bytes() == seen
    other = audited.server.replica.logs.signing("")
    note = sign_checkpoint(Checkpoint(other.verifier.name, 9, bytes(32)), other)
    monkeypatch.setattr(LogCalls, "consistency", lambda *_, **__: (note, ()))
    assert audited.refused(*VISIT) == "log-signature"
    assert audited.refused(*VISIT, "--log-key", str(other.verifier)) == "log-other"


def test_what_a_witness_keeps_can_be_spoilt(audited, witness: str, tmp_path: Path) -> None:
    audited.done(*VISIT)
    good = (tmp_path / "seen.json").read_text()
    for bad, code in (
        ("junk", "json-malformed"),
        (good.replace("v1", "v2", 1), "witness-memory"),
        ("{}", "field-missing"),
    ):
        (tmp_path / "seen.json").write_text(bad)
        assert audited.refused(*VISIT) == code
    (tmp_path / "seen.json").write_text(good.replace("\\n4\\n", "\\n3\\n"))
    assert audited.refused(*VISIT) == "log-signature"
    (tmp_path / "me.key").write_text("junk")
    assert audited.refused(*VISIT) == "witness-key-malformed"
    assert audited.refused("audit", "witness", "--key", "me.key", "--state", "no/seen.json") == "witness-key-malformed"


def test_one_visit_at_a_time(audited, witness: str, tmp_path: Path) -> None:
    import fcntl

    audited.done(*VISIT)
    with (tmp_path / "seen.json.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert audited.refused(*VISIT) == "witness-busy"
    assert audited.done(*VISIT)["size"] == 5
    assert audited.refused("audit", "witness", "--key", "me.key", "--state", "no/seen.json") == "output-not-written"


def test_an_auditor_may_witness_and_nobody_less(audited, witness: str) -> None:
    audited.done("token", "new", "--name", "a", "--role", "auditor", "--scope", "default:*", "-o", "auditor.json")
    audited.done("token", "new", "--name", "o", "--role", "operator", "--scope", "default:*", "-o", "operator.json")
    assert audited.done(*VISIT, "--admin", "auditor.json")["size"] == 5
    assert audited.refused(*VISIT, "--admin", "operator.json") == "role-insufficient"
