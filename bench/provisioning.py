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
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from bench.setting import Setting
from bench.table import Row, against, median
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

CLIENTS = 16
PATH = "bench/secret/key"
MEASUREMENT = bytes(range(48))
POLICY = 0x30000
POSTGRESQL = Path("/usr/lib/postgresql")
TICKS = os.sysconf("SC_CLK_TCK")


def provisioning(setting: Setting) -> list[Row]:
    """Milliseconds of the server's processor per handshake, on SQLite and PostgreSQL, and its floor; reads by token."""
    floor = Row("bare cryptography of a handshake", round(_floor(setting) * 1000, 3), "ms")
    rows = [floor]
    with _databases(setting) as databases:
        for name, url in databases.items():
            setting.note(f"provisioning server on {name}")
            with _server(setting, name, url) as server:
                shake = _cost(setting, server, lambda client: client.handshake())
                rows.append(against(Row(f"handshake, {name}", round(shake * 1000, 3), "ms"), floor))
                chain = _cost(setting, server, lambda client: client.handshake(chain=True))
                rows.append(against(Row(f"handshake with a chain, {name}", round(chain * 1000, 3), "ms"), floor))
                read = _cost(setting, server, lambda client: client.read())
                rows.append(Row(f"resources by token, {name}", round(1 / read), "1/s of CPU"))
    return rows


def _floor(setting: Setting) -> float:
    """Seconds of one P-384 check, one ES256 signature and one ECDH on P-256 with a new key, with nothing around."""
    amd, mine, other = (ec.generate_private_key(curve()) for curve in (ec.SECP384R1, ec.SECP256R1, ec.SECP256R1))
    report = os.urandom(672)
    signature, public, peer = amd.sign(report, ec.ECDSA(SHA384())), amd.public_key(), other.public_key()

    def once() -> None:
        public.verify(signature, report, ec.ECDSA(SHA384()))
        mine.sign(report, ec.ECDSA(SHA256()))
        ec.generate_private_key(ec.SECP256R1()).exchange(ec.ECDH(), peer)

    count = 100 if setting.quick else 1000
    once()
    return median([_timed(once, count) for _ in range(setting.runs)])


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
    """One guest's connection, which it keeps."""

    def __init__(self, server: _Running) -> None:
        access = read_access(server.state / "admin.json")
        host, _, port = access.url.removeprefix("https://").rpartition(":")
        plain = socket.create_connection((host, int(port)))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = client_context(access.certificate).wrap_socket(plain, server_hostname=host)
        self._guest = server.guest
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._cookie = ""
        self.handshake()

    def handshake(self, *, chain: bool = False) -> None:
        """All of it; the secret must come out. `chain`: the evidence brings the chip's certificates."""
        jwk = public_jwk(self._key)
        request = {"version": "0.4.0", "tee": "snp", "extra-params": {}}
        nonce = self._ask("POST", "/kbs/v0/auth", request)["nonce"]
        runtime = {"nonce": nonce, "tee-pubkey": jwk}
        digest = hashlib.sha384(canonical_json({**runtime, "additional-evidence": ""})).digest()
        report = self._guest.report(digest + bytes(16))
        envelope = to_envelope(Evidence("snp", report, self._guest.chain if chain else ()))
        message = {
            "runtime-data": runtime,
            "tee-evidence": {"primary_evidence": envelope, "additional_evidence": ""},
        }
        self._ask("POST", "/kbs/v0/attest", message)
        self.read()

    def read(self) -> None:
        """The resource once more."""
        if decrypt(self._ask("GET", f"/kbs/v0/resource/{PATH}"), self._key) != bytes(32):
            raise HostError("bench-server", "another secret came out")

    def _ask(self, method: str, path: str, message: Any = None) -> Any:
        """The answer to a request that is sent as guests' clients send it: head and body at once."""
        body = b"" if message is None else json.dumps(message).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: server\r\nContent-Length: {len(body)}\r\n"
        if self._cookie:
            head += f"Cookie: {self._cookie}\r\n"
        self._socket.sendall(head.encode() + b"\r\n" + body)
        answer = http.client.HTTPResponse(self._socket, method=method)
        answer.begin()
        data = answer.read()
        if answer.status != 200:
            raise HostError("bench-server", "the server refused", found=f"{path}: {answer.status} {data[:200]!r}")
        cookie = answer.headers.get("Set-Cookie")
        if cookie:
            self._cookie = cookie.partition(";")[0]
        return json.loads(data)


def _cost(setting: Setting, server: _Running, step: Callable[[_Client], None]) -> float:
    """The server's seconds for each step, while some clients do it at once."""
    count = 10 if setting.quick else 100
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = list(threads.map(lambda _: _Client(server), range(CLIENTS)))

        def run(client: _Client) -> None:
            for _ in range(count):
                step(client)

        costs = []
        for _ in range(setting.runs):
            begin = server.cpu()
            list(threads.map(run, clients))
            costs.append((server.cpu() - begin) / (count * CLIENTS))
    return median(costs)


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
