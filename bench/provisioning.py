"""What a handshake costs the provisioning server, beside the bare cryptography that it cannot do without.

The server runs as its command runs it; what counts is the processor's time that its process takes, read from /proc, so
that clients on the same machine do not matter. A handshake is auth, attest with SNP evidence, and one resource. Guests
on clouds send their report without certificates: the server knows the chip's (`--endorsements`). A second row is for
evidence that brings its chain.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import pwd
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from bench.setting import Setting
from bench.table import Row, median
from kokon.errors import HostError
from kokon.jose.jwe import decrypt, public_jwk
from kokon.provisioning.client import AdminClient, read_access
from kokon.provisioning.tls import client_context
from kokon.tee.evidence import Evidence
from kokon.tee.simulated.keys import fingerprint, load_processor
from kokon.tee.simulated.processor import current_tcb, vcek_key
from kokon.tee.snp.envelope import to_envelope
from kokon.testing.vendor.amd import sign_report
from kokon.wire import canonical_json

CLIENTS = 64
PATH = "bench/secret/key"
MEASUREMENT = bytes(range(48))
POLICY = 0x30000
POSTGRESQL = Path("/usr/lib/postgresql")
TICKS = os.sysconf("SC_CLK_TCK")
FLOOR = "bare cryptography of a handshake"


def provisioning(setting: Setting) -> list[Row]:
    """Milliseconds of the server's processor per handshake, on SQLite and PostgreSQL, and its floor; reads by token."""
    rows: list[Row] = []
    floors: list[float] = []
    with _databases(setting) as databases:
        for name, url in databases.items():
            setting.note(f"provisioning server on {name}")
            with _server(setting, name, url) as server:
                rows += _rows(setting, server, name, floors)
    return [Row(FLOOR, round(median(floors) * 1000, 3), "ms"), *rows]


def _rows(setting: Setting, server: _Running, name: str, floors: list[float]) -> list[Row]:
    """The rows of one database. Ratios are to the floor as it was right before and after, which is put into `floors`:
    how fast a processor is changes by the minute on a machine that others use too."""
    rows = []
    chain = server.guest.chain
    steps = {"handshake": _handshake, "handshake with a chain": lambda clients: _handshake(clients, chain)}
    for step, run in steps.items():
        costs = _costs(setting, server, run)
        floors += [cost.floor for cost in costs]
        value, ratio = median([cost.seconds for cost in costs]), median([cost.seconds / cost.floor for cost in costs])
        rows.append(Row(f"{step}, {name}", round(value * 1000, 3), "ms", FLOOR, round(ratio, 2)))
    read = median([cost.seconds for cost in _costs(setting, server, _read)])
    return [*rows, Row(f"resources by token, {name}", round(1 / read), "1/s of CPU")]


def _floor(setting: Setting) -> float:
    """Seconds of one P-384 check, one ES256 signature and one ECDH on P-256 with a new key, with nothing around."""
    amd, mine, other = (ec.generate_private_key(curve()) for curve in (ec.SECP384R1, ec.SECP256R1, ec.SECP256R1))
    report = os.urandom(672)
    signature, public, peer = amd.sign(report, ec.ECDSA(SHA384())), amd.public_key(), other.public_key()

    def once() -> None:
        public.verify(signature, report, ec.ECDSA(SHA384()))
        mine.sign(report, ec.ECDSA(SHA256()))
        ec.generate_private_key(ec.SECP256R1()).exchange(ec.ECDH(), peer)

    once()
    return median([_timed(once, 30 if setting.quick else 100) for _ in range(5)])


def _timed(step: Callable[[], None], count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - begin) / count


@dataclass(frozen=True, slots=True)
class _Guest:
    """A guest of a chip that the server knows: a report of it, the key that signs such, and the chip's certificates."""

    template: bytes
    key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, ...]

    def report(self, report_data: bytes) -> bytes:
        """A signed report over 64 bytes, at less cost than the simulated processor's, which makes its key each time."""
        return sign_report(self.template[:0x50] + report_data + self.template[0x90:], self.key)


@dataclass(frozen=True, slots=True)
class _Running:
    """A server: its process, its state directory, and a guest that it knows."""

    process: subprocess.Popen[str]
    state: Path
    guest: _Guest

    def cpu(self) -> float:
        """Seconds of processor that it took so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@contextlib.contextmanager
def _server(setting: Setting, name: str, url: str | None) -> Iterator[_Running]:
    """`kokon provision serve` on that database, with one workload and one secret."""
    state = setting.directory(f"provisioning-{name}") / "state"
    root = fingerprint(setting.home / "processor")
    words = ["--state", str(state), "--listen", "127.0.0.1:0", "--accept-simulated", root, "--json", "--offline"]
    words += ["--rate", "0", "--endorsements", str(_endorsements(setting, state.parent))]
    words += [] if url is None else ["--database", url]
    command = [sys.executable, "-m", "kokon", "provision", "serve", *words]
    with (state.parent / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        if process.stdout is None or not process.stdout.readline():
            raise HostError("bench-server", "the server did not start", found=(state.parent / "log").read_text()[-500:])
        guest = _guest(setting)
        references = f'[[reference]]\ntee = "snp"\nmeasurement = "{MEASUREMENT.hex()}"\n'
        end = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        workload = {"name": "bench", "references": references, "resources": [f"kbs:///{PATH}"], "not_after": end}
        with AdminClient(read_access(state / "admin.json")) as admin:
            admin.admit(workload)
            admin.put(PATH, bytes(32))
        yield _Running(process, state, guest)
    finally:
        process.terminate()
        process.wait()


def _guest(setting: Setting) -> _Guest:
    processor = load_processor(setting.home / "processor")
    template = processor.launch(MEASUREMENT, bytes(32), POLICY, bytes(32)).report(bytes(64))
    return _Guest(template, vcek_key(processor.secret, current_tcb()), processor.certificates)


def _endorsements(setting: Setting, directory: Path) -> Path:
    """The chip's certificates in a folder, as the server takes them."""
    folder = directory / "endorsements"
    folder.mkdir(mode=0o700)
    for number, der in enumerate(load_processor(setting.home / "processor").certificates):
        (folder / f"{number}.der").write_bytes(der)
    return folder


class _Client:
    """One guest's connection, which it keeps. Asking and reading the answer are apart, so that many can ask at once."""

    def __init__(self, server: _Running) -> None:
        access = read_access(server.state / "admin.json")
        host, _, port = access.url.removeprefix("https://").rpartition(":")
        plain = socket.create_connection((host, int(port)))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = client_context(access.certificate).wrap_socket(plain, server_hostname=host)
        self._guest = server.guest
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._jwk = public_jwk(self._key)
        self._cookie = ""

    def auth(self) -> bytes:
        """The request that begins a handshake."""
        return self._request("POST", "/kbs/v0/auth", {"version": "0.4.0", "tee": "snp", "extra-params": {}})

    def attest(self, nonce: str, chain: tuple[bytes, ...]) -> bytes:
        """The request with evidence over the nonce and this guest's key, and with `chain`."""
        runtime = {"nonce": nonce, "tee-pubkey": self._jwk}
        digest = hashlib.sha384(canonical_json({**runtime, "additional-evidence": ""})).digest()
        envelope = to_envelope(Evidence("snp", self._guest.report(digest + bytes(16)), chain))
        evidence = {"primary_evidence": envelope, "additional_evidence": ""}
        return self._request("POST", "/kbs/v0/attest", {"runtime-data": runtime, "tee-evidence": evidence})

    def resource(self) -> bytes:
        """The request for the secret."""
        return self._request("GET", f"/kbs/v0/resource/{PATH}")

    def fileno(self) -> int:
        """The connection, to wait for."""
        return self._socket.fileno()

    def send(self, request: bytes) -> None:
        """Send all of it at once, as guests' clients do."""
        self._socket.sendall(request)

    def receive(self) -> Any:
        """The answer's document. Raises `HostError` if the server refuses."""
        answer = http.client.HTTPResponse(self._socket)
        answer.begin()
        data = answer.read()
        if answer.status != 200:
            raise HostError("bench-server", "the server refused", found=f"{answer.status} {data[:200]!r}")
        cookie = answer.headers.get("Set-Cookie")
        if cookie:
            self._cookie = cookie.partition(";")[0]
        return json.loads(data)

    def check(self, message: Any) -> None:
        """Nothing, if the secret comes out."""
        if decrypt(message, self._key) != bytes(32):
            raise HostError("bench-server", "another secret came out")

    def _request(self, method: str, path: str, message: Any = None) -> bytes:
        body = b"" if message is None else json.dumps(message).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: server\r\nContent-Length: {len(body)}\r\n"
        if self._cookie:
            head += f"Cookie: {self._cookie}\r\n"
        return head.encode() + b"\r\n" + body


def _at_once(clients: Sequence[_Client], requests: Sequence[bytes]) -> list[Any]:
    """The answers to requests that all clients send before any of them reads.

    The clients sleep while the server works: two virtual processors are often one core, and what runs on the one makes
    the other slower, which the floor is not measured with either.
    """
    waiting = select.poll()
    for client, request in zip(clients, requests, strict=True):
        waiting.register(client, select.POLLIN)
        client.send(request)
    while len(waiting.poll(0)) < len(clients):
        time.sleep(0.005)
    return [client.receive() for client in clients]


def _handshake(clients: Sequence[_Client], chain: tuple[bytes, ...] = ()) -> None:
    """All clients' handshakes; the secret must come out of each."""
    nonces = [answer["nonce"] for answer in _at_once(clients, [client.auth() for client in clients])]
    pairs = zip(clients, nonces, strict=True)
    _at_once(clients, [client.attest(nonce, chain) for client, nonce in pairs])
    _read(clients)


def _read(clients: Sequence[_Client]) -> None:
    """The resource once more for all clients."""
    messages = _at_once(clients, [client.resource() for client in clients])
    for client, message in zip(clients, messages, strict=True):
        client.check(message)


@dataclass(frozen=True, slots=True)
class _Cost:
    """The server's seconds for each client's step, and those of the bare cryptography at the same time."""

    seconds: float
    floor: float


def _costs(setting: Setting, server: _Running, step: Callable[[Sequence[_Client]], None]) -> list[_Cost]:
    """What steps cost while all clients do them at once: what they take of a server that is busy."""
    clients = [_Client(server) for _ in range(CLIENTS)]
    _handshake(clients)
    rounds, costs = 2 if setting.quick else 8, []
    before = _floor(setting)
    for _ in range(setting.runs if setting.quick else 2 * setting.runs):
        begin = server.cpu()
        for _ in range(rounds):
            step(clients)
        seconds, after = (server.cpu() - begin) / (rounds * CLIENTS), _floor(setting)
        costs.append(_Cost(seconds, (before + after) / 2))
        before = after
    return costs


@contextlib.contextmanager
def _databases(setting: Setting) -> Iterator[dict[str, str | None]]:
    """SQLite, and PostgreSQL of the distribution's package if it is there."""
    programs = sorted(POSTGRESQL.glob("*/bin/postgres"))
    if not programs:
        setting.note("SKIPPED: PostgreSQL is not installed")
        yield {"SQLite": None}
        return
    home = Path(tempfile.mkdtemp(prefix="kokon-bench-"))
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        shutil.chown(home, user.pw_uid, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    binaries = programs[-1].parent
    make = [binaries / "initdb", "-D", home / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    subprocess.run(make, check=True, capture_output=True, cwd="/", **who)
    command = [binaries / "postgres", "-D", home / "data", "-k", home, "-c", "listen_addresses="]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **who)
    try:
        deadline = time.monotonic() + 20
        while not list(home.glob(".s.PGSQL.*[0-9]")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        yield {"SQLite": None, "PostgreSQL": f"postgresql://postgres@/postgres?host={home}"}
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(home)
