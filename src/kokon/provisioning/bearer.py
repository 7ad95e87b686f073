"""Attestation tokens of this server: what is in them, what is read back from them, and their keys' renewal."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kokon.errors import DeniedError
from kokon.jose.jwe import from_jwk, thumbprint
from kokon.provisioning.database.values import Delete, Entry, Put, Work, busy
from kokon.provisioning.kbs.messages import runtime_data
from kokon.provisioning.keys import SERVER, SERVER_KEY, kept
from kokon.provisioning.token.claims import Subject, compact_ear, tee_pubkey
from kokon.provisioning.token.keys import TokenKeys, decode_keys, generate_keys
from kokon.provisioning.token.sign import sign
from kokon.provisioning.token.verify import TOKEN_LIMIT, TokenVerifier, Verified
from kokon.wire import parse_json, unb64url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kokon.appraisal.result import AttestationResult
    from kokon.jose.jwe import PublicKey
    from kokon.provisioning.database.store import Store
    from kokon.provisioning.release import Attempt

TOKEN_LIFETIME = timedelta(minutes=30)
"""How long a token stands: long enough to pull a large image between attestation and the first secret."""
TOKEN_KEY_AGE = timedelta(days=30)
"""How long a key signs tokens before a new one does."""
TOKEN_KEY_OVERLAP = timedelta(hours=2)
"""How long the one before still verifies: longer than any of its tokens."""
ISSUER = "kokon"
WORKLOAD_CLAIM = "kokon.workload"
HOST_DATA_CLAIM = "kokon.host-data"
TERMS_CLAIM = "kokon.terms"
"""`Workload.terms` at the time of the attestation: what it was judged by must still hold at each release."""
PLATFORM_CLAIM = "kokon.platform"
"""The chip that the evidence names, in hex; "" if it names none."""
RECORD = "token"
_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a verified token says: the workload ("": judged by the project's own policies), its terms when it was
    judged, the enclave's key as a JWK, as a key and by its thumbprint, token id, and the chip in hex."""

    workload: str
    terms: str
    jwk: Mapping[str, str]
    key: PublicKey
    thumbprint: str
    identity: str
    platform: str


@dataclass(frozen=True, slots=True)
class Granted:
    """A token, and the session's new cookie, which carries it."""

    token: str = field(repr=False)
    session: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a token is for: name of the workload, its launch document's digest in hex, its terms (`Workload.terms`)."""

    workload: str
    host_data: str
    terms: str


def claims_of(token: str) -> dict[str, Any]:
    """All claims of a token that was verified before. Raises `MalformedError` as `kokon.wire`."""
    payload = unb64url(token.split(".")[1], what="token", limit=TOKEN_LIMIT)
    claims: dict[str, Any] = parse_json(payload, limit=TOKEN_LIMIT, what="token")
    return claims


def read_bearer(claims: Mapping[str, Any]) -> Bearer:
    """What the claims of one of our tokens say."""
    jwk = dict(tee_pubkey(claims))
    return Bearer(
        claims[WORKLOAD_CLAIM],
        claims[TERMS_CLAIM],
        jwk,
        from_jwk(jwk),
        thumbprint(jwk),
        claims["jti"],
        claims[PLATFORM_CLAIM],
    )


class Tokens:
    """Makes and reads the tokens of all projects, and renews their key, which all replicas read from the store. Calls
    are safe from several threads. Making one raises as the store does."""

    def __init__(self, store: Store, now: datetime, marks: Mapping[str, Any] | None = None) -> None:
        self._store = store
        self._marks = {f"kokon.{name}": value for name, value in (marks or {}).items()}
        self._lock = threading.Lock()
        self._version = self._newest()  # before the record: of a newer one it is known then that it is to be read
        self._keys = decode_keys(kept(store, RECORD, lambda: generate_keys(now).encode()))
        self._verifier = TokenVerifier(self._keys, ISSUER, read_bearer)

    def make(self, holder: Holder, result: AttestationResult, attempt: Attempt, now: datetime) -> tuple[str, str]:
        """The EAR token for the enclave whose attestation gave `result`, and its id. Raises as the store does."""
        session = attempt.session
        runtime = runtime_data(attempt.attestation, session.nonce)
        subject = Subject(session.project, secrets.token_hex(16), session.nonce, runtime)
        extra = {
            WORKLOAD_CLAIM: holder.workload,
            HOST_DATA_CLAIM: holder.host_data,
            TERMS_CLAIM: holder.terms,
            PLATFORM_CLAIM: result.claims.chip_id.hex(),
            **self._marks,
        }
        claims = compact_ear(result, subject, now, TOKEN_LIFETIME, issuer=ISSUER, extra=extra)
        token = sign(claims, self._signing(now))
        jwk, platform = attempt.attestation.jwk, extra[PLATFORM_CLAIM]
        key, name = attempt.attestation.key, thumbprint(jwk)
        bearer = Bearer(holder.workload, holder.terms, jwk, key, name, subject.identity, platform)
        self._verifier.remember(token, Verified(bearer, subject.audience, claims["iat"], claims["exp"]))
        return token, subject.identity

    def read(self, token: str, project: str, now: datetime) -> Bearer:
        """What a token for `project` says at `now`. Raises as `TokenVerifier.verify`, and as the store does."""
        self._follow()
        return self._verifier.verify(token, project, now)

    def jwks(self, now: datetime) -> dict[str, Any]:
        """The keys that verify tokens, as a JWK set (RFC 7517)."""
        self._follow()
        return self._keys.jwks(now)

    def rotate(self, now: datetime, by: str) -> str:
        """Sign with a new key from now on; tokens of the last one stay good. Its key id. Raises as the store does, and
        `HostError` (`store-busy`)."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                self._read()
                if self._rotate(now, by):
                    return self._keys.current.kid
        raise busy()

    def _signing(self, now: datetime) -> TokenKeys:
        """The keys; one that has signed for long enough gives way first."""
        self._follow()
        if now - self._keys.created < TOKEN_KEY_AGE:
            return self._keys
        with self._lock:
            if now - self._keys.created >= TOKEN_KEY_AGE and not self._rotate(now, ""):
                self._read()  # another replica was first: its key is as new
            return self._keys

    def _rotate(self, now: datetime, by: str) -> bool:
        """Whether a new key took the place of the one that is known here."""
        keys, version = self._keys.rotate(now, TOKEN_KEY_OVERLAP), self._version
        entry = Entry("token-key-rotated", {"kid": keys.current.kid, "by": by})
        changes = (Put(SERVER_KEY, RECORD, keys.encode(), previous=version), Delete(SERVER_KEY, RECORD, version))
        try:
            self._store.commit(Work(SERVER, (entry,), changes))
        except DeniedError:
            return False
        self._use(keys, version + 1)
        return True

    def _follow(self) -> None:
        """Take over keys that another replica has made."""
        if self._newest() > self._version:
            with self._lock:
                self._read()

    def _read(self) -> None:
        version = self._newest()
        if version > self._version:
            record = self._store.read(SERVER, SERVER_KEY, RECORD)
            if record is not None:
                self._use(decode_keys(record), version)

    def _use(self, keys: TokenKeys, version: int) -> None:
        self._keys, self._version = keys, version
        self._verifier.replace_keys(keys)

    def _newest(self) -> int:
        meta = self._store.snapshot(SERVER).get(SERVER_KEY, RECORD)
        return meta.version if meta else 0
