"""The owner's commands against a server process of its own, with a real registry behind `admit`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))

from provisioning_factory import MEASUREMENT, attestation, launch

from kokon.cli import secret as secret_commands
from kokon.cli.main import main
from kokon.errors import MalformedError, UnreachableError, UntrustedError, UsageError
from kokon.image.ecdsa import public_pem
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry
from kokon.image.seal import Claims, seal
from kokon.image.source import open_source
from kokon.image.statement import ReferenceEntry
from kokon.jose.jwe import decrypt
from kokon.launch.document import parse_document
from kokon.provisioning.client import AdminAccess, AdminClient, read_access
from kokon.provisioning.collect import (
    SealedImage,
    choose_port,
    parse_env,
    parse_secret,
    parse_volume,
    secret_path,
)
from kokon.provisioning.serve import parse_fingerprint, parse_listen
from kokon.provisioning.tls import client_context
from support.images import make_tar, write_layout
from support.registry import LocalRegistry


@dataclass
class Process:
    """`kokon provision serve` with its home."""

    home: Path
    root: str
    listen: str = "127.0.0.1:0"
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, Any]:
        command = [sys.executable, "-c", "import sys; from kokon.cli.main import main; sys.exit(main())"]
        words = ["provision", "serve", "--listen", self.listen, "--accept-simulated", self.root, "--json"]
        self.process = subprocess.Popen(
            [*command, *words],
            stdout=subprocess.PIPE,
            stderr=(self.home / "stderr").open("ab"),
            env={**os.environ, "KOKON_HOME": str(self.home)},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.home / "stderr").read_text()
        return json.loads(line)

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def running(tmp_path: Path, chip, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    process = Process(tmp_path, chip.root)
    process.start()
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    yield process
    if process.process is not None and process.process.poll() is None:
        assert process.end() == 0


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def fail(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, "--json"]) != 0
    return json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["code"]


@contextlib.contextmanager
def typed_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(secret_commands.sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        yield


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path_factory.mktemp("provisioning-registry")) as server:
        yield server


def sealed_clinic(registry: LocalRegistry, home: Path, key: ec.EllipticCurvePrivateKey, **changes: Any) -> str:
    layout = home / "layout"
    if not layout.exists():
        tar = make_tar([("app", b"program")])
        write_layout(layout, [tar], run={"Cmd": ["/app"], "ExposedPorts": {"8080/tcp": {}}})
    now = datetime.now(UTC)
    claims = {
        "created": now,
        "not_after": now + timedelta(days=2),
        "secrets": ("db-password",),
        "reference": (ReferenceEntry("simulated", 1, "max,-cx16", MEASUREMENT),),
        **changes,
    }
    reference = parse_reference(f"{registry.host}/{home.name}/clinic:1".lower())
    owner = json.loads((home / "provision" / "owner-key.jwk").read_text())
    with open_source(f"oci:{layout}") as source, Registry(registry.url) as target:
        seal(source, target, reference, key, owner, Claims(**claims))
    (home / "author.pub").write_text(public_pem(key.public_key()))
    return str(reference)


def test_from_a_sealed_image_to_a_released_secret(running, chip, registry, capsys, monkeypatch, tmp_path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    image = sealed_clinic(registry, tmp_path, key, secrets=("db-password", "api"))
    with typed_in(monkeypatch, b"correct horse"):
        assert run(capsys, "secret", "put", "clinic/db-password")["version"] == 1
    (tmp_path / "key.txt").write_bytes(b"from a file")
    run(capsys, "secret", "put", "kbs:///clinic/secret/api", "--file", str(tmp_path / "key.txt"))
    launch_file = tmp_path / "launch.toml"
    words = [image, "--author", str(tmp_path / "author.pub"), "--name", "clinic", "--secret", "db-password"]
    answer = run(
        capsys, "admit", *words, "--secret", "api,env=API_KEY", "--volume", "data=/data", "-o", str(launch_file)
    )
    document = launch_file.read_bytes()
    parsed = parse_document(document)
    assert parsed.port == 8080
    assert parsed.secrets[0].file == "/run/secrets/db-password"
    assert parsed.secrets[1].env == "API_KEY"
    assert parsed.provisioning.url == read_access().url
    assert answer["host_data"] == answer["launch_document_digest"]
    assert answer["digest"] == run(capsys, "workload", "show", "clinic")["digest"]
    resources = [one["path"] for one in run(capsys, "secret", "list")["secrets"]]
    assert {"clinic/secret/db-password", "clinic/volume/data", "clinic/log/token"} < set(resources)

    denial = attest_with(running, chip, document, bytes(48))
    explained = run(capsys, "explain", denial)
    assert explained["code"] == "measurement-unknown"
    assert main(["explain", denial]) == 0
    assert "FAIL measurement  [measurement-unknown]" in capsys.readouterr().out
    assert attest_with(running, chip, document, MEASUREMENT) == "correct horse"
    entries = run(capsys, "log")
    assert entries["verified"] is True
    assert [entry["event"] for entry in entries["entries"]][-2:] == ["attestation-granted", "resource-released"]
    assert main(["log", "--last", "2"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2
    assert "verified" in shown.err
    assert run(capsys, "secret", "rm", "clinic/db-password") == {"deleted": "clinic/secret/db-password"}
    assert main(["secret", "list"]) == 0
    assert "clinic/secret/api" in capsys.readouterr().out


def attest_with(running: Process, chip, document: bytes, measurement: bytes) -> str:
    """The secret that a guest gets, or the id of the denial."""
    import httpx2

    access = read_access()
    key = ec.generate_private_key(ec.SECP256R1())
    with httpx2.Client(base_url=access.url, verify=client_context(access.certificate), trust_env=False) as client:
        nonce = client.post("/kbs/v0/auth", json={"version": "0.4.0", "tee": "snp", "extra-params": ""}).json()["nonce"]
        guest = launch(chip.processor, document, measurement)
        answer = client.post("/kbs/v0/attest", json=attestation(guest, nonce, key, document))
        if not answer.is_success:
            return str(answer.json()["detail"]).rpartition(" ")[2]
        secret = client.get("/kbs/v0/resource/clinic/secret/db-password")
        return decrypt(secret.json(), key).decode()


def test_admit_refuses(running, registry, capsys, tmp_path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    image = sealed_clinic(registry, tmp_path, key)
    author = str(tmp_path / "author.pub")
    (tmp_path / "other.pub").write_text(public_pem(ec.generate_private_key(ec.SECP256R1()).public_key()))
    common = ["--name", "clinic", "-o", str(tmp_path / "launch.toml")]
    assert fail(capsys, "admit", image, "--author", str(tmp_path / "other.pub"), *common) == "image-author-unknown"
    assert fail(capsys, "admit", image, "--author", str(tmp_path / "none.pub"), *common) == "author-key-unreadable"
    assert fail(capsys, "admit", image + "x", "--author", author, *common) == "image-not-found"
    assert fail(capsys, "admit", image, "--author", author, *common) == "statement-secret-missing"
    words = ["admit", image, "--author", author, "--secret", "db-password", *common]
    assert fail(capsys, *words, "--arg", "sh") == "args-not-allowed"
    not_text = os.fsdecode(b"\xff\xfe")
    for option in ("--arg", "--env=A"):
        assert fail(capsys, *words, f"{option}={not_text}") == "text-not-utf-8"
    bad = [*common[:-1], str(tmp_path / "no" / "launch.toml")]
    assert fail(capsys, "admit", image, "--author", author, "--secret", "db-password", *bad) == "output-unwritable"
    assert not (tmp_path / "launch.toml").exists()
    with Registry(registry.url) as client:
        plain = parse_reference(image)
        data, _ = client.manifest(plain.repository, "1")  # type: ignore[misc]
        client.put_manifest(plain.repository, "unsigned", data.replace(b'"layers"', b' "layers"'))
    unsigned = image.replace(":1", ":unsigned").replace(registry.host.replace(":1", ":unsigned"), registry.host)
    unsigned = f"{registry.host}/{plain.repository}:unsigned"
    assert fail(capsys, "admit", unsigned, "--author", author, *common) == "image-unsigned"


def test_secret_commands_refuse(running, capsys, monkeypatch, tmp_path) -> None:
    assert fail(capsys, "secret", "put", "clinic/a", "--file", str(tmp_path / "none")) == "secret-unreadable"
    assert fail(capsys, "secret", "put", "a") == "secret-name"
    with typed_in(monkeypatch, b""):
        assert fail(capsys, "secret", "put", "clinic/a") == "secret-size"
    with typed_in(monkeypatch, b"x"), monkeypatch.context() as patch:
        patch.setattr(secret_commands.sys.stdin, "isatty", lambda: True, raising=False)
        assert fail(capsys, "secret", "put", "clinic/a") == "secret-from-terminal"
    assert fail(capsys, "secret", "rm", "clinic/a") == "resource-unknown"
    assert fail(capsys, "explain", "nothing") == "denial-unknown"


def test_what_the_server_tells_when_ready(running, tmp_path) -> None:
    state = tmp_path / "provision"
    told = (tmp_path / "stderr").read_text()
    token = read_access().token
    assert len(token) > 40
    assert token not in told
    assert str(state / "admin.json") in told
    assert read_access().url in told
    assert "simulated" in told
    modes = {path.name: path.stat().st_mode & 0o777 for path in state.iterdir()}
    assert modes.pop("owner-key.jwk") == modes.pop("tls.pem") == 0o644
    assert set(modes.values()) == {0o600}
    assert state.stat().st_mode & 0o777 == 0o700
    assert running.end(signal.SIGTERM) == 0
    assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_the_server_may_open_as_many_files_as_the_machine_lets_it(running) -> None:
    assert running.process is not None
    soft, hard = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_acknowledged_survives_kill(running, tmp_path) -> None:
    with AdminClient.from_home() as client:
        for number in range(20):
            client.put(f"clinic/secret/s{number}", str(number).encode())
        running.end(signal.SIGKILL)
        with pytest.raises(UnreachableError) as caught:
            client.put("clinic/secret/more", b"x")
        assert caught.value.code == "provisioning-unreachable"
    running.start()
    with AdminClient.from_home() as client:
        assert len(client.secrets()) == 20
        entries, head = client.log()
        assert head.size == len(entries)
        events = [json.loads(entry)["event"] for entry in entries]
        server_events = [json.loads(entry)["event"] for entry in client.log(server=True)[0]]
    assert events.count("resource-put") == 20
    assert server_events.count("server-started") == 2


def test_port_taken_and_state_in_use(running, tmp_path, capsys, chip) -> None:
    port = read_access().url.rpartition(":")[2]
    assert fail(capsys, "provision", "serve", "--listen", f"127.0.0.1:{port}") == "port-taken"
    assert fail(capsys, "provision", "serve", "--listen", "127.0.0.1:0") == "state-in-use"
    assert fail(capsys, "provision", "serve", "--listen", "192.0.2.1:0") == "listen-failed"
    assert fail(capsys, "provision", "rotate", "--master") == "state-in-use"


def test_another_server_at_the_address_is_not_trusted(running, tmp_path) -> None:
    from kokon.provisioning.tls import make_certificate

    access = read_access()
    key = ec.generate_private_key(ec.SECP256R1())
    other = make_certificate(key, ["127.0.0.1"], datetime.now(UTC)).decode()
    with (
        AdminClient(AdminAccess(access.url, access.token, other)) as client,
        pytest.raises(UntrustedError) as caught,
    ):
        client.workloads()
    assert caught.value.code == "provisioning-certificate"
    assert access.token not in str(caught.value)


@pytest.mark.parametrize("body", [b"[]", b'{"odd": 1}'])
def test_answers_that_are_none(server, monkeypatch, body: bytes) -> None:
    import httpx2

    answer = httpx2.Response(200 if body == b"[]" else 500, content=body)
    monkeypatch.setattr(server.admin._http, "stream", lambda *_, **__: contextlib.nullcontext(answer))
    with pytest.raises(MalformedError) as caught:
        server.admin.workloads()
    assert caught.value.code == "provisioning-answer"


def test_secret_as_typed() -> None:
    use = parse_secret("db", "clinic")
    assert (use.name, use.resource, use.file, use.env) == ("db", "kbs:///clinic/secret/db", "/run/secrets/db", None)
    use = parse_secret("name=db,env=DB,resource=kbs:///a/b/c", "clinic")
    assert (use.name, use.resource, use.file, use.env) == ("db", "kbs:///a/b/c", None, "DB")
    assert parse_volume("data=/data", "clinic").key == "kbs:///clinic/volume/data"
    assert parse_volume("data=/data,key=kbs:///a/b/c", "clinic").key == "kbs:///a/b/c"
    assert parse_env(["A=b=c"]) == (("A", "b=c"),)
    assert secret_path("clinic/db") == "clinic/secret/db"
    assert secret_path("kbs:///a/b/c") == secret_path("a/b/c") == "a/b/c"


def refusal(code: str, call: Any) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.code == code


def test_what_is_typed_wrong() -> None:
    for text in ("", "db,file", "db,file=/a,env=B", "db,file=/a,file=/b", "a=b", "db,key=x"):
        refusal("secret-malformed", lambda text=text: parse_secret(text, "clinic"))
    for text in ("data", "=x", "data=", "data=/d,size=3"):
        refusal("volume-malformed", lambda text=text: parse_volume(text, "clinic"))
    for texts in (["A"], ["=b"], ["A=1", "A=2"]):
        refusal("env-malformed", lambda texts=texts: parse_env(texts))
    for text in ("8443", "host:", ":8443", "h:99999", "h:x"):
        refusal("listen-malformed", lambda text=text: parse_listen(text))
    refusal("fingerprint-malformed", lambda: parse_fingerprint("abc"))
    assert parse_fingerprint("sha256:" + "AB" * 32) == "ab" * 32
    assert parse_listen("[::1]:1") == ("::1", 1)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["", "name=", "a,file=", "a,env=", "a=/", "kbs:///", "[::1]:"]))
def test_property_typed_texts(text: str, prefix: str) -> None:
    for call in (
        lambda: parse_secret(prefix + text, "clinic"),
        lambda: parse_volume(prefix + text, "clinic"),
        lambda: parse_env([prefix + text]),
        lambda: parse_listen(prefix + text),
        lambda: parse_fingerprint(prefix + text),
        lambda: secret_path(prefix + text),
    ):
        with contextlib.suppress(UsageError):
            call()


def test_digest_that_only_the_registry_vouches_for_is_said(running, registry, capsys, tmp_path) -> None:
    image = sealed_clinic(registry, tmp_path, ec.generate_private_key(ec.SECP256R1()))
    words = ["--author", str(tmp_path / "author.pub"), "--name", "clinic", "--secret", "db-password"]
    words += ["-o", str(tmp_path / "launch.toml")]
    for told in (True, False):
        assert main(["admit", image, *words]) == 0
        assert ("only the registry says" in capsys.readouterr().err) == told
        image += "@" + parse_document((tmp_path / "launch.toml").read_bytes()).image.digest


def test_port_choice(server) -> None:
    statement = server.author.statement(b"{}")
    one = SealedImage("", b"", b"", b"", b"", statement, (8080,))
    none = SealedImage("", b"", b"", b"", b"", statement, ())
    assert choose_port(None, one) == 8080
    assert choose_port(9, one) == 9
    refusal("port-missing", lambda: choose_port(None, none))
