"""The commands `verify`, `connect`, `logs` and `trust`, run as the command line runs them."""

import json
import re
import socket
import threading
from pathlib import Path
from typing import Any, Self

import pytest
from channel_world import IMAGE, TOKEN, launch_document, public_pem
from verified_world import VerifiedWorld, new_key

from kokon.channel.proxy import LocalProxy
from kokon.channel.verify import Verification
from kokon.cli import logs as logs_command
from kokon.cli.main import main
from kokon.cli.tree import print_lines
from kokon.cli.verify import summary, tree_of
from kokon.errors import UntrustedError
from kokon.launch.document import Provisioning, document_digest
from kokon.provisioning.client import AdminClient
from kokon.provisioning.tls import make_certificate


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def trusting(world: VerifiedWorld, home: Path) -> VerifiedWorld:
    (home / "author.pub").write_text(public_pem(world.author))
    assert main(["trust", "author", str(home / "author.pub")]) == 0
    assert main(["trust", "simulated", world.root]) == 0
    return world


def test_trust_is_kept(trusting: VerifiedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["trust", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"authors": sorted(trusting.trust.fingerprints()), "owners": [], "simulated": [trusting.root]}
    assert main(["trust", "list"]) == 0
    assert trusting.root in capsys.readouterr().out


def test_a_trusted_owner_is_demanded(trusting: VerifiedWorld, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificates = [make_certificate(new_key(), ["127.0.0.1"], trusting.now) for _ in range(2)]
    for name, certificate in zip(("ours.pem", "theirs.pem"), certificates, strict=True):
        (home / name).write_bytes(certificate)
    server = Provisioning("https://127.0.0.1:8443", certificates[0].decode())
    trusting.document = launch_document(public_pem(trusting.author), provisioning=server)
    url = trusting.start()
    assert main(["verify", url]) == 0
    assert "not checked: owner-trusted [owner-not-pinned]" in capsys.readouterr().out
    assert main(["verify", url, "--owner", str(home / "ours.pem")]) == 0
    assert "owner-trusted" in capsys.readouterr().out
    assert main(["trust", "owner", str(home / "theirs.pem"), "--json"]) == 0
    fingerprint = json.loads(capsys.readouterr().out)["owner"]
    for command in ("verify", "connect", "logs"):
        assert main([command, url]) == 4
        assert "owner-untrusted" in capsys.readouterr().err
    assert main(["trust", "list"]) == 0
    assert f"owner      {fingerprint}\n" in capsys.readouterr().out


def test_nobody_trusted_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "list"]) == 0
    assert "kokon trust author FILE" in capsys.readouterr().out


def test_verify_prints_a_line_per_step_and_a_sentence(
    trusting: VerifiedWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", trusting.start(), "--image", f"demo/clinic@{IMAGE}"]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^[├└]─ passed ", out, re.MULTILINE)) == 8
    for fact in (trusting.root, IMAGE, "Ada", "released: db", "clinic"):
        assert fact in out
    last = out.strip().splitlines()[-1]
    assert last.startswith("Verified, but SIMULATED")
    assert "can read guest memory" in last
    assert "\x1b" not in out


def test_verify_takes_trust_from_options(world: VerifiedWorld, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "author.pub").write_text(public_pem(world.author))
    options = ["--author", str(home / "author.pub"), "--accept-simulated", world.root]
    assert main(["verify", world.start(), *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    assert told["simulated"]
    assert {check["outcome"] for step in told["steps"] for check in step["checks"]} <= {"passed", "not-checked"}
    assert not (home / "trust.json").exists()


def test_verify_refuses_and_says_why(world: VerifiedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", world.start()]) == 4
    captured = capsys.readouterr()
    assert "FAILED" in captured.out
    assert "NOT verified" in captured.out
    assert "[simulated-root-refused]" in captured.out
    assert "[author-untrusted]" in captured.out
    assert "kokon: " in captured.err
    assert "[peer-not-verified]" in captured.err
    assert main(["verify", world.start(), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["ok"] is False
    assert main(["verify", "http://here"]) == 2
    assert main(["verify", "https://127.0.0.1:1"]) == 7


def test_terminal_gets_colour_but_no_control_characters_of_the_peer(
    trusting: VerifiedWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = trusting.guest(statement=trusting.statement(author="Ada\x1b[2J"))
    verification = trusting.peer(trusting.start(guest)).verify()
    assert verification.ok
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_lines(tree_of("https://a:1", verification))
    out = capsys.readouterr().out
    assert "\x1b[32m" in out
    assert "\x1b[2J" not in out
    assert "Ada\\x1b[2J" in out


def test_summary_of_real_hardware(world: VerifiedWorld) -> None:
    from dataclasses import replace

    verification = world.peer(world.start()).verify()
    real = replace(verification, simulated=False)
    assert summary(real).startswith("Verified: clinic runs image")
    assert "can read neither" in summary(real)
    assert summary(Verification(world.now, b"", True, ())).startswith("NOT verified: some checks")


def test_connect_verifies_then_tunnels(
    trusting: VerifiedWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    echoed: list[bytes] = []

    def one_connection(self: LocalProxy) -> None:
        threading.Thread(target=original, args=(self,), daemon=True).start()
        assert self._listener is not None
        with socket.create_connection(self._listener.getsockname()) as sock:
            sock.sendall(b"hello")
            echoed.append(sock.recv(10))
        raise KeyboardInterrupt

    original = LocalProxy.serve
    monkeypatch.setattr(LocalProxy, "serve", one_connection)
    url = trusting.start()
    assert main(["connect", url, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["url"] == url
    assert "SIMULATED" in captured.err
    assert echoed == [b"hello"]


def test_connect_refuses_before_it_listens(world: VerifiedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", world.start()]) == 4
    assert main(["connect", world.start(), "--listen", "0.0.0.0:1"]) == 2
    assert capsys.readouterr().out == ""


def test_logs_print_the_output(
    trusting: VerifiedWorld, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(logs_command, "_token", lambda *_: TOKEN)
    url = trusting.start()
    assert main(["logs", url]) == 0
    assert capfdbinary.readouterr().out == b"one\n" + b"x" * 100_000
    assert main(["logs", url, "--json", "--follow"]) == 0
    lines = [json.loads(line)["log"] for line in capfdbinary.readouterr().out.splitlines()]
    assert "".join(lines) == "one\n" + "x" * 100_000


def test_token_comes_from_the_provisioning_server(trusting: VerifiedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    admitted: dict[str, str]

    class Admin:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def workloads(self) -> list[dict[str, Any]]:
            return [{"name": name, "host_data": digest} for name, digest in admitted.items()]

        def log_token(self, workload: str) -> str:
            asked.append(workload)
            return TOKEN

    monkeypatch.setattr(AdminClient, "from_home", lambda *_: Admin())
    verification = trusting.peer(trusting.start()).verify()
    digest = document_digest(trusting.document).hex()
    for others in ({}, {"clinic": "0" * 64}, {"bakery": digest}):
        admitted = others
        with pytest.raises(UntrustedError) as caught:
            logs_command._token(verification)
        assert caught.value.code == "launch-document-not-admitted"
    assert asked == []
    admitted = {"clinic": digest}
    assert logs_command._token(verification) == TOKEN
    assert asked == ["clinic"]


def test_logs_by_name_need_a_container(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "clinic"]) == 2
    assert "[container-unknown]" in capsys.readouterr().err


def test_logs_by_name_find_the_published_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import kokon.host.state as state

    class Found:
        record: Any = None

    monkeypatch.setattr(state, "inspect_container", lambda directory: Found())
    assert main(["logs", "clinic", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "container-not-published"
    Found.record = type("Record", (), {"publish": "127.0.0.1:8443"})()
    assert logs_command._published("clinic") == "https://127.0.0.1:8443"
