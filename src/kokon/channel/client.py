"""The user's end of the attested channel: verify first, then talk, and only to the key that was verified.

Not a byte for the application is sent before a full verification, and every connection made for the application is
checked on its own (see `kokon.channel.protocol` on why that holds against somebody in the middle).
"""

from __future__ import annotations

import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kokon.channel.protocol import (
    ALPN,
    FRAME_LIMIT,
    NONCE_SIZE,
    AttestRequest,
    LogsRequest,
    Request,
    StatusRequest,
    parse_answer,
    parse_message,
    request_message,
)
from kokon.channel.tls import TlsStream, client_context, receive_message, send_message
from kokon.channel.verify import Verification, appraise_peer, reappraise_connection
from kokon.errors import DeniedError, KokonError, MalformedError, UnreachableError, UntrustedError, UsageError
from kokon.wire import Fields, unb64

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from kokon.appraisal.lacking import Completion
    from kokon.appraisal.policy import Policy
    from kokon.channel.protocol import Answer
    from kokon.channel.trust import UserTrust

FOLLOW_TIMEOUT = 7 * 86400.0
"""Seconds that a followed log may be silent."""
PAUSE = 5.0
"""Seconds after which nothing more is asked on a connection on which nothing was said: guests wait for ten."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a guest's attested TLS port is reached."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"https://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_address(url: str) -> Address:
    """The address in `https://HOST[:PORT]`, port 443 if none. Raises `UsageError` (`url-malformed`)."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    extra = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username
    if parts.scheme != "https" or not parts.hostname or extra or port == 0:
        raise UsageError("url-malformed", "not the address of a workload", expected="https://HOST:PORT", found=url)
    return Address(parts.hostname, port or 443)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AttestedPeer:
    """One guest as a user sees it: verified at first use and again when the last verification is older than
    `max_age`.

    `image` is the manifest digest that must run (None: any image of a trusted author; but once one was verified, a
    later verification must find the same, so that a host cannot exchange it unnoticed). `policy` is what is demanded of
    the platform (None: the strict default, which wants the vendor's revocation lists for real hardware). `complete`
    gets what endorsements lack; None: nothing is fetched, `trust` must hold all of them. What fetches is made by
    `functools.partial(kokon.endorsements.service.complete, source=kokon.endorsements.sources.connect())`. Safe to use
    from several threads.
    """

    def __init__(
        self,
        url: str,
        trust: UserTrust,
        *,
        image: str | None = None,
        max_age: timedelta = timedelta(minutes=10),
        timeout: float = 15.0,
        clock: Callable[[], datetime] = _utc_now,
        policy: Policy | None = None,
        complete: Completion | None = None,
    ) -> None:
        self.address = parse_address(url)
        self._trust = trust
        self._policy = policy
        self._complete = complete
        self._image = image
        self._max_age = max_age
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._verified: Verification | None = None

    def verify(self) -> Verification:
        """Verify now and say what was found, good or bad: see `Verification.ok` and `require`.

        Raises `UnreachableError` (`peer-unreachable`, `peer-...`, `tls-failed`), `MalformedError`, `UntrustedError`
        (`peer-not-attested`: an ordinary server), `DeniedError` (`peer-refused`), and what `complete` raises.
        """
        stream, verification = self._attest()
        stream.close()
        return verification

    def open(self, *, protocol: str | None = "http/1.1") -> TlsStream:
        """A connection to the application, verified. `protocol` is the ALPN to offer.

        Raises as `verify` and `Verification.require` do, and `UntrustedError` (`peer-key-changed`): then the
        verification is forgotten too, and the next call verifies in full.
        """
        verification = self.current()
        stream = self._connect(protocol)
        try:
            now = self._clock()
            reappraise_connection(stream.peer_certificate, verification, self._trust, now, self._policy)
        except (UntrustedError, MalformedError):
            stream.socket.close()
            with self._lock:
                self._verified = None
            raise
        return stream

    def logs(self, token: Callable[[Verification], str], *, follow: bool = False) -> Generator[bytes]:
        """The application's output. `token` gives the log's token once the guest was verified, for it is a secret.

        Raises as `open` does, and `DeniedError` (`peer-refused`).
        """
        stream, verification = self._attest()
        try:
            verification.require()
            send_message(stream, request_message(LogsRequest(token(verification), follow)), self._timeout)
            timeout = FOLLOW_TIMEOUT if follow else self._timeout
            while not (message := _answer(stream, timeout)).get("end"):
                fields = Fields(message, "log frame")
                chunk = fields.text("log", limit=FRAME_LIMIT)
                fields.finish()
                yield unb64(chunk, what="log")
        finally:
            stream.close()

    def status(self) -> Mapping[str, Any]:
        """What the guest says of itself, after verification. Raises as `open` does."""
        stream, verification = self._attest()
        try:
            verification.require()
            return Fields(self._ask(stream, StatusRequest()), "status answer").table("status")
        finally:
            stream.close()

    def current(self) -> Verification:
        """A verification that is good and young enough; made anew if there is none.

        Raises as `verify` and `Verification.require` do.
        """
        with self._lock:
            age = self._clock() - self._verified.at if self._verified else self._max_age
            if self._verified is None or not timedelta(0) <= age < self._max_age:
                self._verified = None
                verification = self.verify()
                verification.require()
                self._verified, self._image = verification, verification.image
            return self._verified

    def _attest(self, *, again: bool = True) -> tuple[TlsStream, Verification]:
        """A verification and the connection that it was made on; if a vendor let us wait, of a second try."""
        stream = self._connect(ALPN)
        try:
            nonce = secrets.token_bytes(NONCE_SIZE)
            answer = _ask_evidence(stream, nonce, self._timeout)
            begun = time.monotonic()
            verification = appraise_peer(
                stream.peer_certificate,
                answer,
                nonce,
                self._trust,
                self._clock(),
                image=self._image,
                policy=self._policy,
                complete=self._complete,
            )
        except KokonError:
            stream.socket.close()
            raise
        if again and time.monotonic() - begun > PAUSE:
            stream.socket.close()
            return self._attest(again=False)
        return stream, verification

    def _ask(self, stream: TlsStream, request: Request) -> Mapping[str, Any]:
        return _ask(stream, request, self._timeout)

    def _connect(self, protocol: str | None) -> TlsStream:
        return _dial(self.address, protocol, self._timeout)


def capture_answer(url: str, nonce: bytes, *, timeout: float = 15.0) -> Answer:
    """What the guest at `url` shows to anybody who asks with `nonce` (32 bytes). Nothing of it was verified.

    Raises `UnreachableError`, `MalformedError`, `UntrustedError` (`peer-not-attested`), `DeniedError`
    (`peer-refused`).
    """
    stream = _dial(parse_address(url), ALPN, timeout)
    try:
        return _ask_evidence(stream, nonce, timeout)
    finally:
        stream.close()


def _dial(address: Address, protocol: str | None, timeout: float) -> TlsStream:
    try:
        sock = socket.create_connection((address.host, address.port), timeout)
    except OSError as error:
        raise UnreachableError(
            "peer-unreachable",
            f"cannot connect to {address}",
            found=error.strerror or type(error).__name__,
            hint="is the workload running? see kokon ps",
        ) from error
    stream = TlsStream(sock, client_context([protocol] if protocol else []), server_side=False)
    try:
        stream.handshake(timeout)
    except UnreachableError:
        sock.close()
        raise
    return stream


def _ask_evidence(stream: TlsStream, nonce: bytes, timeout: float) -> Answer:
    if stream.alpn != ALPN:
        raise UntrustedError(
            "peer-not-attested",
            "the other end does not speak the attested protocol",
            expected=f"ALPN {ALPN}",
            found=stream.alpn or "none",
            hint="the other end is an ordinary TLS server: check the address",
        )
    return parse_answer(_ask(stream, AttestRequest(nonce), timeout))


def _ask(stream: TlsStream, request: Request, timeout: float) -> Mapping[str, Any]:
    send_message(stream, request_message(request), timeout)
    return _answer(stream, timeout)


def _answer(stream: TlsStream, timeout: float) -> Mapping[str, Any]:
    body = receive_message(stream, limit=FRAME_LIMIT, timeout=timeout)
    if body is None:
        raise UnreachableError("peer-closed", "the guest ended the conversation")
    message = parse_message(body)
    if "error" in message:
        fields = Fields(message["error"], "error answer")
        code, text = fields.text("code", limit=64), fields.text("message", limit=500)
        raise DeniedError("peer-refused", f"the guest refused: {text}", found=code)
    return message


def image_digest(reference: str) -> str:
    """The manifest digest in `sha256:...` or `REF@sha256:...`. Raises `UsageError` (`image-not-pinned`)."""
    digest = reference.rpartition("@")[2]
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise UsageError(
            "image-not-pinned",
            "only a digest says which image must run",
            expected="REPOSITORY@sha256:DIGEST",
            found=reference,
        )
    return digest
