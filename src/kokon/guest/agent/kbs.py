"""The guest's side of the key broker protocol (Confidential Containers KBS, version 0.4.0).

One TLS connection to the server whose certificate the launch document pins; evidence bound to a fresh key and the
server's nonce; secrets come encrypted to that key. The bytes pass through the host, which can delay
them and nothing more.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from kokon.errors import DeniedError, KokonError, MalformedError, UnreachableError, UntrustedError
from kokon.guest.agent.status import denial_hint, is_code, is_denial
from kokon.wire import Fields, canonical_json, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from kokon.launch.document import Provisioning
    from kokon.tee.evidence import Evidence

T = TypeVar("T")
VERSION = "0.4.0"
ANSWER_LIMIT = 2 << 20
_TOKEN_LIMIT = 64 << 10
_COOKIE = re.compile(r"kbs-session-id=([0-9A-Za-z_-]{1,16384})(?:;|$)")
_DETAIL = re.compile(r"([a-z0-9-]{1,64}): id ([A-Za-z0-9-]{1,64})(?:[ .,;].*)?", re.DOTALL)
_PREFIX = "/kbs/v0"
# Confidential Containers' server answers 401 to everything; these of its answers no new session will change. Ours tells
# by its own codes.
_FINAL = frozenset({"AttestationError", "PolicyDeny"})
_SESSION_CODES = frozenset({"session-unknown", "nonce-used", "token-missing", "token-expired"})


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, its body within `ANSWER_LIMIT`."""

    status: int
    body: bytes
    cookie: str | None = None


def runtime_data(nonce: str, jwk: Mapping[str, str]) -> dict[str, Any]:
    """The `runtime-data` member of an attestation."""
    return {"nonce": nonce, "tee-pubkey": dict(jwk)}


def report_data(nonce: str, jwk: Mapping[str, str]) -> bytes:
    """REPORT_DATA for a nonce and key: SHA-384 of the RFC 8785 form, zero-padded to 64 bytes (KBS 0.4.0)."""
    bound = {"additional-evidence": "", **runtime_data(nonce, jwk)}
    return hashlib.sha384(canonical_json(bound)).digest().ljust(64, b"\0")


def parse_challenge(body: bytes) -> str:
    """The nonce of a challenge, verbatim. Raises `MalformedError`."""
    fields = Fields(parse_json(body, limit=64 << 10, what="challenge"), "challenge")
    nonce = fields.text("nonce", limit=1024)
    fields.value("extra-params", default="")
    fields.finish()
    return nonce


def parse_token(body: bytes) -> str:
    """The attestation token of an answer to /attest. Raises `MalformedError` (`token-malformed`)."""
    fields = Fields(parse_json(body, limit=_TOKEN_LIMIT, what="attestation answer"), "attestation answer")
    token = fields.text("token", limit=_TOKEN_LIMIT)
    fields.finish()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise MalformedError("token-malformed", "the attestation token is not one")
    return token


def parse_refusal(body: bytes) -> tuple[str, str | None, str | None]:
    """Of an error document: the last part of `type`, and from `detail` the server's code and denial id, or None."""
    try:
        value = parse_json(body, limit=64 << 10, what="error document")
    except MalformedError:
        return "", None, None
    if not isinstance(value, dict):
        return "", None, None
    kind, detail = value.get("type"), value.get("detail")
    variant = kind.rsplit("/", 1)[-1][:64] if isinstance(kind, str) else ""
    match = _DETAIL.fullmatch(detail) if isinstance(detail, str) and len(detail) <= 4096 else None
    if match is None or not is_code(match[1]) or not is_denial(match[2]):
        return variant, None, None
    return variant, match[1], match[2]


def session_lost(answer: Answer) -> bool:
    """Whether an answer means that the server does not know our session (any more): a new handshake may help."""
    if answer.status != 401:
        return False
    variant, reason, _ = parse_refusal(answer.body)
    return reason in _SESSION_CODES if reason else variant not in _FINAL


def resource_path(uri: str) -> str:
    """The request path of a `kbs:///repository/type/tag` URI. Raises `MalformedError` (`resource-malformed`)."""
    segment = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}"
    match = re.fullmatch(rf"kbs:///({segment}/{segment}/{segment})", uri)
    if match is None:
        raise MalformedError("resource-malformed", "not the URI of a resource", expected="kbs:///a/b/c")
    return f"{_PREFIX}/resource/{match[1]}"


class Connection:
    """HTTP/1.1 over one kept connection to the pinned server, below its URL. Every failure to talk is
    `provisioning-unreachable`."""

    def __init__(
        self, server: Provisioning, resolve: Callable[[str, int], tuple[str, int]], timeout: float = 30.0
    ) -> None:
        parts = urlsplit(server.url)
        self._host = parts.hostname or ""
        self._port = parts.port or 443
        self._base = parts.path.rstrip("/")
        self._resolve = resolve
        self._timeout = timeout
        self._pinned = _pinned(server.certificate)
        self._context = _context(server.certificate)
        self._http: http.client.HTTPConnection | None = None

    def request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send one request and read the whole answer.

        Raises `UnreachableError` (`provisioning-unreachable`), `UntrustedError` (`provisioning-certificate-mismatch`),
        `MalformedError` (`provisioning-answer-too-large`).
        """
        try:
            if self._http is None:
                self._http = self._connect()
            self._http.request(method, self._base + path, body, dict(headers))
            return self._read(self._http.getresponse())
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise _wrong_certificate(error.verify_message) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UnreachableError(
                "provisioning-unreachable",
                "the provisioning server cannot be reached or broke off",
                found=type(error).__name__,
                hint="is `kokon provision serve` running, and does the launch document name its address?",
            ) from error

    def _connect(self) -> http.client.HTTPConnection:
        plain = socket.create_connection(self._resolve(self._host, self._port), self._timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secure = self._context.wrap_socket(plain, server_hostname=self._host)
        except OSError:
            plain.close()
            raise
        if secure.getpeercert(binary_form=True) != self._pinned:
            secure.close()
            raise _wrong_certificate("another certificate")
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        connection.sock = secure
        return connection

    def _read(self, response: http.client.HTTPResponse) -> Answer:
        body = response.read(ANSWER_LIMIT + 1)
        if len(body) > ANSWER_LIMIT:
            self.close()
            raise MalformedError(
                "provisioning-answer-too-large", "the server's answer is too large", expected=f"<= {ANSWER_LIMIT} bytes"
            )
        if response.will_close:
            self.close()
        match = _COOKIE.match(response.headers.get("Set-Cookie") or "")
        return Answer(response.status, body, match[1] if match else None)

    def close(self) -> None:
        """Drop the connection; the next request makes another."""
        if self._http is not None:
            self._http.close()
            self._http = None


class KeyBroker:
    """A guest's session with the provisioning server. Holds the private key that secrets are encrypted to.

    `evidence` makes evidence over 64 bytes; `document` is the launch document's text; `attempts` bounds how
    often a handshake is begun, `pause` seconds apart at first, doubled each time.
    """

    def __init__(
        self,
        connection: Connection,
        evidence: Callable[[bytes], Evidence],
        document: str,
        *,
        attempts: int = 6,
        pause: float = 0.5,
        key: EllipticCurvePrivateKey | None = None,
    ) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        from kokon.jose.jwe import public_jwk

        self._connection = connection
        self._evidence = evidence
        self._document = document
        self._attempts = attempts
        self._pause = pause
        self._key = key or ec.generate_private_key(ec.SECP256R1())
        self._jwk = public_jwk(self._key)
        self._cookie = ""
        self._token = ""

    @property
    def attested(self) -> bool:
        """Whether the server has accepted the evidence."""
        return bool(self._token)

    def attest(self) -> None:
        """The handshake. What may pass by itself (no connection, a lost session) is tried again, a refusal is not.

        Raises `DeniedError` (`provisioning-denied`), `UnreachableError`, `UntrustedError`,
        `MalformedError`.
        """
        self._retry(self._handshake)

    def resource(self, uri: str) -> bytes:
        """The secret behind `uri`. Raises as `attest`, and `DeniedError` (`resource-missing`)."""
        path = resource_path(uri)
        return self._retry(lambda: self._fetch(path))

    def report(self, code: str, text: str) -> bool:
        """Tell the owner's log what happened, once; False if that failed. `text` is cut at 500 characters."""
        if not self.attested:
            return False
        body = json.dumps({"code": code, "text": text[:500]}).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        with contextlib.suppress(KokonError):
            return self._connection.request("POST", "/kokon/v1/events", body, headers).status < 300
        return False

    def _retry(self, step: Callable[[], T]) -> T:
        pause = self._pause
        for left in range(self._attempts - 1, -1, -1):
            try:
                return step()
            except UnreachableError:
                if not left:
                    raise
            time.sleep(pause)
            pause *= 2
        raise UnreachableError("provisioning-unreachable", "the provisioning server was never asked")

    def _handshake(self) -> None:
        self._cookie = self._token = ""
        offer = {"version": VERSION, "tee": "snp", "extra-params": {"supported-hash-algorithms": ["sha384"]}}
        challenge = self._post("/auth", offer)
        if challenge.status != 200:
            self._refused(challenge)
        nonce = parse_challenge(challenge.body)
        self._cookie = challenge.cookie or ""
        answer = self._post("/attest", self._attestation(nonce))
        if answer.status != 200:
            self._refused(answer)
        self._cookie = answer.cookie or self._cookie
        self._token = parse_token(answer.body)

    def _attestation(self, nonce: str) -> dict[str, Any]:
        from kokon.tee.snp.envelope import to_envelope

        evidence = self._evidence(report_data(nonce, self._jwk))
        return {
            "init-data": {"format": "toml", "body": self._document},
            "runtime-data": runtime_data(nonce, self._jwk),
            "tee-evidence": {"primary_evidence": to_envelope(evidence), "additional_evidence": ""},
        }

    def _post(self, path: str, value: Mapping[str, Any]) -> Answer:
        body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", **self._session()}
        return self._connection.request("POST", _PREFIX + path, body, headers)

    def _session(self) -> dict[str, str]:
        return {"Cookie": f"kbs-session-id={self._cookie}"} if self._cookie else {}

    def _fetch(self, path: str) -> bytes:
        from kokon.jose.jwe import decrypt

        answer = self._connection.request("GET", path, b"", self._session())
        if session_lost(answer):
            self._handshake()
            answer = self._connection.request("GET", path, b"", self._session())
        if answer.status == 404:
            _, reason, denial = parse_refusal(answer.body)
            raise DeniedError(
                "resource-missing",
                "the provisioning server has no such resource",
                found=reason,
                hint=denial_hint(denial),
            )
        if answer.status != 200:
            self._refused(answer)
        return decrypt(answer.body, self._key)

    def _refused(self, answer: Answer) -> NoReturn:
        variant, reason, denial = parse_refusal(answer.body)
        if answer.status >= 500 or session_lost(answer):
            raise UnreachableError(
                "provisioning-unreachable",
                "the provisioning server is not able to answer",
                found=f"{answer.status} {reason or variant}",
            )
        raise DeniedError(
            "provisioning-denied", "the provisioning server refused", found=reason, hint=denial_hint(denial)
        )


def _pinned(pem: str) -> bytes:
    try:
        return ssl.PEM_cert_to_DER_cert(pem.strip())
    except ValueError as error:
        raise MalformedError("provisioning-certificate-malformed", "the pinned certificate is not PEM") from error


def _context(pem: str) -> ssl.SSLContext:
    """Trust this one certificate. Names are not compared, since the certificate as a whole is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=pem)
    except ssl.SSLError as error:
        raise MalformedError("provisioning-certificate-malformed", "the pinned certificate is unreadable") from error
    return context


def _wrong_certificate(found: str) -> UntrustedError:
    return UntrustedError(
        "provisioning-certificate-mismatch",
        "the server does not hold the certificate that the launch document pins",
        found=found,
        hint="another machine answers, or the server's certificate was renewed: admit the image again",
    )
