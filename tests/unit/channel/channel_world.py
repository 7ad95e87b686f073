"""A little world for the channel's tests: a guest with a scripted inside, an application, and their sockets."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.launch.document import ImageRef, LaunchDocument, Provisioning, SecretUse, build_document
from kokon.tee.evidence import Evidence
from kokon.tee.snp.report import Report, encode_report

IMAGE = "sha256:" + "a" * 64
TOKEN = "log-token-of-the-owner"
BLANK = Report(
    version=3,
    guest_svn=0,
    policy=0x30000,
    family_id=bytes(16),
    image_id=bytes(16),
    vmpl=0,
    signature_algorithm=1,
    current_tcb=bytes(8),
    platform_info=0,
    key_info=0,
    report_data=bytes(64),
    measurement=bytes(48),
    host_data=bytes(32),
    id_key_digest=bytes(48),
    author_key_digest=bytes(48),
    report_id=bytes(32),
    report_id_ma=bytes(32),
    reported_tcb=bytes(8),
    cpuid=(0x19, 1, 1),
    chip_id=bytes(64),
    committed_tcb=bytes(8),
    current_version=(0, 0, 1),
    committed_version=(0, 0, 1),
    launch_tcb=bytes(8),
    launch_mitigations=0,
    current_mitigations=0,
    signature=bytes(144),
)


def unsigned_evidence(report_data: bytes) -> Evidence:
    """Evidence that parses and that nothing vouches for."""
    return Evidence("snp", encode_report(replace(BLANK, report_data=report_data)))


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def launch_document(author: str, **changes: Any) -> bytes:
    document = LaunchDocument(
        workload="clinic",
        image=ImageRef("http://127.0.0.1:5000", "demo/clinic", IMAGE, author),
        provisioning=Provisioning(
            "https://127.0.0.1:8443", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        ),
        port=8080,
        log_key="kbs:///clinic/log/token",
        secrets=(SecretUse("db", "kbs:///clinic/secret/db", file="/run/secrets/db"),),
    )
    return build_document(replace(document, **changes))


@dataclass
class ScriptedGuest:
    """What the agent is to the server, with answers that a test may change."""

    document: bytes
    evidence_for: Callable[[bytes], Evidence] = unsigned_evidence
    statement: dict[str, Any] = field(default_factory=lambda: {"payload": "", "signatures": []})
    names: list[str] = field(default_factory=lambda: ["db"])
    since: str | None = "2026-11-23T06:00:00Z"
    token: str | None = TOKEN
    output: tuple[bytes, ...] = (b"one\n", b"", b"x" * 100_000)
    asked: list[bytes] = field(default_factory=list)

    def evidence(self, report_data: bytes) -> Evidence:
        self.asked.append(report_data)
        return self.evidence_for(report_data)

    def released(self) -> list[str]:
        return self.names

    def started(self) -> str | None:
        return self.since

    def logs(self, follow: bool) -> Iterator[bytes]:
        yield from self.output

    def log_token(self) -> str | None:
        return self.token

    def status(self) -> dict[str, Any]:
        return {"phase": "serving"}


class Application:
    """The application: `serve` is called with each connected socket. Counts its connections."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.connections = 0
        self._serve = serve

    def connect(self) -> socket.socket:
        self.connections += 1
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._run, args=(theirs,), daemon=True).start()
        return ours

    def _run(self, sock: socket.socket) -> None:
        with sock:
            self._serve(sock)


def shout(sock: socket.socket) -> None:
    """An application that reads to the end and only then answers: it needs half-close."""
    data = b""
    while part := sock.recv(65536):
        data += part
    sock.sendall(data.upper())


def echo(sock: socket.socket) -> None:
    """An application that answers at once."""
    while part := sock.recv(65536):
        sock.sendall(part)
