"""Sessions that the guest carries, sealed into the cookie, so that any replica can go on with any handshake. Pure,
given randomness and time.

A cookie's value is base64url of: format (1 byte), the hour in which the session ends (4, big-endian), IV (12), sealed
content and tag. AES-256-GCM under a key for that hour, HMAC-SHA256(key, label, hour): random IVs stay far from where
they would repeat, whatever the load. Format, hour and the project's name are authenticated with it, so that a session
of one project is none in another. The content is MessagePack; of a token in it the parts, out of base64.

What replays yield. A challenge's cookie with its attestation, sent again to the replica that granted a token for it, is
refused by `SpentNonces`. Another replica does not know of it and grants one more token. That token names the very key
that the evidence names (its digest is in the report data), and whatever is released under it is encrypted to that key,
whose private half never left the guest: only the guest can read it. So whoever replays what they recorded gets nothing
that the recorded answer did not hold already. They can

* name no other key, and no other evidence, TEE, project or policy: the nonce is sealed with all but the first two,
  the evidence covers nonce and key, and the server's policy of the moment judges it anew;
* get a token that ends as much later as the replay came, five minutes at most: then the session has expired;
* cause one more log entry with the same nonce, which shows the replay, and use up one more of a counted number of
  activations. Where the owner counts, count in the database under the nonce: it is one place for all replicas.

A cookie with a token is as good as the token, and no better: what it opens is of use only to who has the key.
"""

from __future__ import annotations

import hmac
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kokon.errors import DeniedError, InternalError, KokonError, UsageError
from kokon.provisioning.kbs.messages import NONCE_SIZE, Request
from kokon.wire import b64, b64url, unb64, unb64url

COOKIE: Final = "kbs-session-id"
LIFETIME: Final = timedelta(minutes=5)
"""How long a handshake may take: the stock server's default."""
LONGEST: Final = timedelta(days=1)
"""No session ends later than this from now."""
KEY_SIZE: Final = 32
VALUE_LIMIT: Final = 16 << 10
"""Longest value of a cookie in characters; with our compact tokens it has some 3500."""
PLAIN_LIMIT: Final = 2800
"""Longest payload of a token, in bytes, that is not compressed: a cookie of 4096 characters is for every client."""

_FORMAT: Final = 1
_HEAD: Final = 5
_IV: Final = 12
_TAG: Final = 16
_HOUR: Final = 3600
_LABEL: Final = b"kokon kbs session"


@dataclass(frozen=True, slots=True)
class Session:
    """One handshake of a project's guest: what it asked for, the nonce it was given, when that ends (aware, whole
    seconds), and once it attested, its token."""

    project: str
    version: str
    tee: str
    nonce: str
    expires: datetime
    policy: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def stage(self) -> Literal["challenge", "attested"]:
        """Whether an attestation is still to come."""
        return "challenge" if self.token is None else "attested"


def new_session(project: str, request: Request, nonce: str, now: datetime) -> Session:
    """The session that begins with `request` and is answered with `nonce`."""
    ends = now.replace(microsecond=0) + LIFETIME
    return Session(project, request.version, request.tee, nonce, ends, request.policy)


class _Content(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    version: str
    tee: str
    nonce: bytes
    expires: int
    policy: str | None
    token: bytes


_decode: Final = msgspec.msgpack.Decoder(_Content).decode
_encode: Final = msgspec.msgpack.Encoder().encode
_pack_parts: Final = _encode
_unpack_parts: Final = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes, bool]).decode


class SessionSealer:
    """Seals sessions under a key of 32 bytes that all replicas have, and opens those that were sealed under it or under
    one of the `older` keys. `random` gives that many unpredictable bytes. Calls are safe from several threads.

    Raises `InternalError` (`session-key-size`).
    """

    def __init__(self, key: bytes, random: Callable[[int], bytes], older: Sequence[bytes] = ()) -> None:
        self._keys = (key, *older)
        if any(len(one) != KEY_SIZE for one in self._keys):
            raise InternalError("session-key-size", "a key for sessions has a wrong size", expected=KEY_SIZE)
        self._random = random
        self._ciphers: dict[int, tuple[AESGCM, ...]] = {}

    def __repr__(self) -> str:
        return f"SessionSealer({len(self._keys)} keys)"

    def seal(self, session: Session) -> str:
        """The value of the cookie that carries `session`. Raises `UsageError` (`session-too-large`: no cookie holds
        such a token; the guest may still show the token itself)."""
        expires = int(session.expires.timestamp())
        content = _Content(
            version=session.version,
            tee=session.tee,
            nonce=unb64(session.nonce, what="nonce", size=NONCE_SIZE),
            expires=expires,
            policy=session.policy,
            token=b"" if session.token is None else _pack(session.token),
        )
        hour = expires // _HOUR
        head = bytes([_FORMAT]) + hour.to_bytes(4, "big")
        iv = self._random(_IV)
        sealed = self._for_hour(hour)[0].encrypt(iv, _encode(content), _bound(head, session.project))
        value = b64url(head + iv + sealed)
        if len(value) > VALUE_LIMIT:
            raise UsageError(
                "session-too-large",
                "the token is too large for a cookie",
                expected=f"<= {VALUE_LIMIT} characters",
                found=len(value),
                hint="let the server make compact tokens",
            )
        return value

    def open(self, value: str | None, project: str, now: datetime) -> Session:
        """The session in a cookie's value, at the time `now` (aware).

        Raises `DeniedError` (`session-unknown`): no cookie, not one of ours, of another project, altered, expired.
        """
        content = self._content(value or "", project, int(now.timestamp()))
        if content is None or now.timestamp() >= content.expires:
            raise DeniedError("session-unknown", "no such session, or it has expired", hint="start a new handshake")
        return Session(
            project=project,
            version=content.version,
            tee=content.tee,
            nonce=b64(content.nonce),
            expires=datetime.fromtimestamp(content.expires, UTC),
            policy=content.policy,
            token=_unpack(content.token) if content.token else None,
        )

    def _content(self, value: str, project: str, seconds: int) -> _Content | None:
        try:
            data = unb64url(value, what="session", limit=VALUE_LIMIT)
        except KokonError:
            return None
        hour = int.from_bytes(data[1:_HEAD], "big")
        latest = (seconds + int(LONGEST.total_seconds())) // _HOUR
        if len(data) < _HEAD + _IV + _TAG or data[0] != _FORMAT or not seconds // _HOUR <= hour <= latest:
            return None
        head, iv, sealed = data[:_HEAD], data[_HEAD : _HEAD + _IV], data[_HEAD + _IV :]
        for cipher in self._for_hour(hour):
            try:
                return _decode(cipher.decrypt(iv, sealed, _bound(head, project)))
            except (InvalidTag, msgspec.MsgspecError):
                continue
        return None

    def _for_hour(self, hour: int) -> tuple[AESGCM, ...]:
        found = self._ciphers.get(hour)
        if found is None:
            label = _LABEL + hour.to_bytes(4, "big")
            found = tuple(AESGCM(hmac.digest(key, label, "sha256")) for key in self._keys)
            self._ciphers = {one: kept for one, kept in self._ciphers.items() if abs(one - hour) <= 24} | {hour: found}
        return found


def _bound(head: bytes, project: str) -> bytes:
    return _LABEL + head + project.encode()


def _pack(token: str) -> bytes:
    """A compact JWS as header, payload and signature, out of base64: a fourth less; of a long one the payload
    compressed, which takes longer than all else that is done for a session."""
    header, payload, signature = (unb64url(part, what="token") for part in token.split("."))
    short = len(payload) <= PLAIN_LIMIT
    return _pack_parts((header, signature, payload if short else zlib.compress(payload, 1), short))


def _unpack(data: bytes) -> str:
    header, signature, payload, short = _unpack_parts(data)
    return f"{b64url(header)}.{b64url(payload if short else zlib.decompress(payload))}.{b64url(signature)}"


def cookie_text(value: str) -> str:
    """What a `Cookie` header must say to come back to this session."""
    return f"{COOKIE}={value}"


def set_cookie(value: str, path: str) -> str:
    """A `Set-Cookie` header for requests below `path`, over TLS only, and for no script."""
    return f"{cookie_text(value)}; Path={path}; HttpOnly; Secure; SameSite=Strict"


def read_cookie(header: str | None) -> str | None:
    """The session's value in a `Cookie` header, None if there is none."""
    for part in (header or "").split(";"):
        name, found, value = part.strip().partition("=")
        if found and name == COOKIE:
            return value
    return None
