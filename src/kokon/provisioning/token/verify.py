"""Reads this server's own tokens, and remembers those that it found good. Pure but for that memory.

A token is accepted only if its header is, to the letter, the one that a key of ours writes: what else a header may say
(another algorithm, a key of its own, `crit`) is never interpreted. The memory saves the signature, not the checks that
time and rotation can change.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from kokon.errors import DeniedError, MalformedError, StaleError, UntrustedError
from kokon.provisioning.kbs.strict import parse_strict
from kokon.provisioning.token.claims import audience_of
from kokon.provisioning.token.keys import TokenKeys, VerifyingKey
from kokon.provisioning.token.sign import ES256, SCALAR
from kokon.wire import Fields, unb64url

T = TypeVar("T")
TOKEN_LIMIT: Final = 64 << 10
"""Longest token in characters; our compact ones are below 3 KiB."""
REMEMBERED: Final = 4096
SKEW: Final = 60
"""Seconds by which another replica's clock may be ahead."""
_LATEST: Final = 1 << 33
"""The year 2242, in seconds."""


@dataclass(frozen=True, slots=True)
class Verified(Generic[T]):
    """A token that was found good: what was read from its claims, whom it is for, and from when until when it is."""

    value: T = field(repr=False)
    audience: str
    issued: int
    expires: int


class TokenVerifier(Generic[T]):
    """Verifies tokens of `issuer` by `keys`. `read` makes what is wanted of a token's claims, once for each token; at
    most `limit` tokens are remembered. Calls are safe from several threads."""

    def __init__(
        self, keys: TokenKeys, issuer: str, read: Callable[[Mapping[str, Any]], T], *, limit: int = REMEMBERED
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._read = read
        self._limit = limit
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Verified[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def replace_keys(self, keys: TokenKeys) -> None:
        """Verify by `keys` from now on, also what is remembered."""
        with self._lock:
            self._keys = keys

    def verify(self, token: str, audience: str, now: datetime) -> T:
        """What the token says, if it is ours, for `audience`, and good at `now` (aware).

        Raises `MalformedError` (`token-malformed`), `UntrustedError` (`token-key-unknown`, `token-signature`,
        `token-issuer`, `token-early`), `StaleError` (`token-expired`), `DeniedError` (`token-audience`), and what
        `read` raises.
        """
        if len(token) > TOKEN_LIMIT or not token.isascii() or token.count(".") != 2:
            raise _malformed()
        name = _name(token)
        header = token.partition(".")[0]
        with self._lock:
            keys, remembered = self._keys, self._known.get(name)
            if remembered is not None:
                self._known.move_to_end(name)
        key = _key(keys.verifying.get(header), now, header)
        found = remembered or self._verified(token, key)
        _check(found, audience, now)
        if remembered is None:
            self._remember(name, found)
        return found.value

    def remember(self, token: str, verified: Verified[T]) -> None:
        """Take a token for verified that was signed here a moment ago; `verified` is what would be read of it."""
        self._remember(_name(token), verified)

    def _verified(self, token: str, key: VerifyingKey) -> Verified[T]:
        claims = _open(token, key)
        fields = Fields(claims, "token")
        issued, expires = fields.integer("iat", high=_LATEST), fields.integer("exp", high=_LATEST)
        if fields.text("iss", limit=256) != self._issuer:
            raise UntrustedError("token-issuer", "the token is of another issuer", expected=self._issuer)
        return Verified(self._read(claims), audience_of(claims), issued, expires)

    def _remember(self, name: bytes, known: Verified[T]) -> None:
        with self._lock:
            self._known[name] = known
            while len(self._known) > self._limit:
                self._known.popitem(last=False)


def _name(token: str) -> bytes:
    return hashlib.sha256(token.encode("ascii")).digest()


def _check(token: Verified[Any], audience: str, now: datetime) -> None:
    """What time can change, and whom the token is for."""
    if now.timestamp() >= token.expires:
        raise StaleError(
            "token-expired",
            "the token has expired",
            expected=f"before {datetime.fromtimestamp(token.expires, UTC).isoformat()}",
            found=now.isoformat(timespec="seconds"),
            hint="attest again",
        )
    if now.timestamp() + SKEW < token.issued:
        raise UntrustedError("token-early", "the token was issued in the future", hint="set the clocks of all replicas")
    if token.audience != audience:
        raise DeniedError("token-audience", "the token is for another project", expected=audience, found=token.audience)


def _open(token: str, key: VerifyingKey) -> dict[str, Any]:
    """The claims of a token that `key` signed."""
    signed, _, signature = token.rpartition(".")
    payload = signed.partition(".")[2]
    try:
        raw = unb64url(signature, what="token signature", size=2 * SCALAR)
        data = unb64url(payload, what="token", limit=TOKEN_LIMIT)
    except MalformedError as error:
        raise _malformed() from error
    der = encode_dss_signature(int.from_bytes(raw[:SCALAR], "big"), int.from_bytes(raw[SCALAR:], "big"))
    try:
        key.public.verify(der, signed.encode("ascii"), ES256)
    except InvalidSignature:
        raise UntrustedError("token-signature", "the token is not signed by this server") from None
    claims = parse_strict(data, limit=TOKEN_LIMIT, what="token")
    if not isinstance(claims, dict):
        raise _malformed()
    return claims


def _key(key: VerifyingKey | None, now: datetime, header: str) -> VerifyingKey:
    """The key, if it is one of ours and not past its time."""
    if key is not None and key.good(now):
        return key
    if key is None and not header.startswith("eyJ"):
        raise _malformed()
    raise UntrustedError(
        "token-key-unknown",
        "the token is by no key of this server, or by one that is past its time",
        hint="attest again",
    )


def _malformed() -> MalformedError:
    return MalformedError("token-malformed", "not a compact token")
