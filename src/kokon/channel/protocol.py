"""The attested control protocol: what is said on a TLS connection with ALPN `kokon-attest/1`.

Frames of u32 big-endian length and that many bytes of JSON, an object with one member `op` from the client, an
answer from the guest. Operations: `attest` (fresh evidence over the client's nonce), `logs` (with the log's token),
`status`.

Why this resists relaying, though Python offers no TLS exporter to bind to (RFC 9266): the evidence names the TLS
key, and the key is made inside the enclave and never leaves it. TLS 1.3's CertificateVerify (RFC 8446 section
4.4.3) proves that the very connection on which the nonce was sent ends at the holder of that key, and OpenSSL
checks it even where no certificate chain is checked. Somebody in the middle can pass bytes on, but reads nothing;
if he ends the TLS connection himself, the evidence names a key that is not his. The nonce, sent after the handshake
on the same connection, shows that the enclave lives now and that neither the evidence nor a key stolen from an
earlier run is replayed. What is left: somebody who broke the isolation of one genuine chip can make evidence for
any key. That is a broken root of trust and no channel can mend it; limits on TCB and chips are where to answer it.

Everything here is pure: bytes to values and back.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError
from kokon.launch.document import DOCUMENT_LIMIT
from kokon.tee.snp.envelope import from_envelope, to_envelope
from kokon.wire import Fields, b64, canonical_json, parse_json, unb64, unhex

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kokon.tee.evidence import Evidence

ALPN = "kokon-attest/1"
HEADER_SIZE = 4
FRAME_LIMIT = 1 << 20
"""Bytes of JSON in an answer."""
REQUEST_LIMIT = 4096
"""Bytes of JSON in a request: strangers send those."""
NONCE_SIZE = 32
LOG_CHUNK = 48 << 10


@dataclass(frozen=True, slots=True)
class AttestRequest:
    """Asks for evidence over `nonce`, 32 random bytes."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class LogsRequest:
    """Asks for the application's output; `token` is the owner's log token. `follow` keeps the answer open."""

    token: str = field(repr=False)
    follow: bool = False


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Asks how the guest is."""


Request = AttestRequest | LogsRequest | StatusRequest


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the measured agent says of itself and the evidence vouches for.

    `key_digest` is SHA-384 of the TLS key's DER SubjectPublicKeyInfo; `image` the manifest digest; `released` the
    names of the secrets that the provisioning server gave; `started` when the application was started (RFC 3339),
    None if not yet.
    """

    nonce: bytes
    key_digest: bytes
    workload: str
    image: str
    released: tuple[str, ...]
    started: str | None

    def as_dict(self) -> dict[str, Any]:
        """The members as JSON values: what is hashed."""
        return {
            "nonce": b64(self.nonce),
            "tls-spki-sha384": self.key_digest.hex(),
            "workload": self.workload,
            "image": self.image,
            "released": list(self.released),
            "started": self.started,
        }

    def report_data(self) -> bytes:
        """SHA-512 of the RFC 8785 form: the 64 bytes of REPORT_DATA of fresh evidence."""
        return hashlib.sha512(canonical_json(self.as_dict())).digest()


@dataclass(frozen=True, slots=True)
class Answer:
    """The guest's answer to `attest`: evidence, what it is over, the launch document's exact bytes, the statement
    (DSSE)."""

    evidence: Evidence
    runtime: Runtime
    document: bytes
    statement: Mapping[str, Any]


def encode_frame(message: Mapping[str, Any], *, limit: int = FRAME_LIMIT) -> bytes:
    """`message` as one frame. Raises `MalformedError` (`frame-too-large`)."""
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
    frame_size(len(body).to_bytes(HEADER_SIZE, "big") if len(body) < 2**32 else b"\xff" * HEADER_SIZE, limit=limit)
    return len(body).to_bytes(HEADER_SIZE, "big") + body


def frame_size(header: bytes, *, limit: int) -> int:
    """The length that a frame's four header bytes announce.

    Raises `MalformedError` (`frame-too-large`, `frame-malformed` for a length of 0 or a short header).
    """
    size = int.from_bytes(header, "big")
    if len(header) != HEADER_SIZE or size == 0:
        raise MalformedError("frame-malformed", "frame is empty or cut short")
    if size > limit:
        raise MalformedError("frame-too-large", "frame is too large", expected=f"<= {limit} bytes", found=size)
    return size


def parse_message(body: bytes, *, limit: int = FRAME_LIMIT) -> dict[str, Any]:
    """The object in a frame's body. Raises `MalformedError` (`json-...`, `frame-malformed`)."""
    message = parse_json(body, limit=limit, what="frame")
    if not isinstance(message, dict):
        raise MalformedError("frame-malformed", "frame must hold an object", found=type(message).__name__)
    return message


def parse_request(body: bytes) -> Request:
    """A client's request. Raises `MalformedError` (`operation-unknown` and as `parse_message`)."""
    fields = Fields(parse_message(body, limit=REQUEST_LIMIT), "request")
    operation = fields.text("op", limit=32)
    request: Request
    if operation == "attest":
        request = AttestRequest(unb64(fields.text("nonce", limit=64), what="nonce", size=NONCE_SIZE))
    elif operation == "logs":
        request = LogsRequest(fields.text("token", limit=1024), fields.flag("follow", default=False))
    elif operation == "status":
        request = StatusRequest()
    else:
        raise MalformedError("operation-unknown", "no such operation", expected="attest, logs or status")
    fields.finish()
    return request


def request_message(request: Request) -> dict[str, Any]:
    """`request` as the object to send."""
    if isinstance(request, AttestRequest):
        return {"op": "attest", "nonce": b64(request.nonce)}
    if isinstance(request, LogsRequest):
        return {"op": "logs", "token": request.token, "follow": request.follow}
    return {"op": "status"}


def answer_message(answer: Answer) -> dict[str, Any]:
    """`answer` as the object to send."""
    return {
        "evidence": to_envelope(answer.evidence),
        "runtime": answer.runtime.as_dict(),
        "launch-document": answer.document.decode(),
        "statement": dict(answer.statement),
    }


def parse_answer(message: Mapping[str, Any]) -> Answer:
    """A guest's answer to `attest`. Raises `MalformedError`; an error object in it is not looked for."""
    fields = Fields(message, "attestation answer")
    answer = Answer(
        evidence=from_envelope(fields.table("evidence")),
        runtime=_runtime(Fields(fields.table("runtime"), "runtime")),
        document=_utf8(fields.text("launch-document", limit=DOCUMENT_LIMIT)),
        statement=fields.table("statement"),
    )
    fields.finish()
    return answer


def _runtime(fields: Fields) -> Runtime:
    started = fields.value("started")
    if started is not None:
        started = _names([started])[0]
    runtime = Runtime(
        nonce=unb64(fields.text("nonce", limit=64), what="nonce", size=NONCE_SIZE),
        key_digest=unhex(fields.text("tls-spki-sha384", limit=96), what="TLS key digest", size=48),
        workload=_names([fields.text("workload")])[0],
        image=_names([fields.text("image")])[0],
        released=_names(fields.array("released", limit=128)),
        started=started,
    )
    fields.finish()
    return runtime


def _names(values: Sequence[Any]) -> tuple[str, ...]:
    names = [value for value in values if isinstance(value, str) and 0 < len(value) <= 256 and _utf8(value)]
    if len(names) != len(values):
        raise MalformedError("frame-malformed", "names and times must be texts of at most 256 characters")
    return tuple(names)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise MalformedError("frame-malformed", "text has no UTF-8 form", found=error.reason) from error
