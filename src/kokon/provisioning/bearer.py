"""Attestation tokens of this server: what is in them, what is read back from them, and their keys' renewal."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kokon.provisioning.kbs.messages import runtime_data
from kokon.provisioning.token.claims import Subject, compact_ear, tee_pubkey
from kokon.provisioning.token.sign import sign
from kokon.provisioning.token.verify import TokenVerifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kokon.appraisal.result import AttestationResult
    from kokon.provisioning.release import Attempt
    from kokon.provisioning.token.keys import TokenKeys
    from kokon.provisioning.workload import Workload

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


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a verified token says: the workload, its terms when it was judged, the enclave's key, token id."""

    workload: str
    terms: str
    jwk: dict[str, str]
    identity: str


@dataclass(frozen=True, slots=True)
class Granted:
    """A token, and the session's new cookie, which carries it."""

    token: str = field(repr=False)
    session: str = field(repr=False)


def read_bearer(claims: Mapping[str, Any]) -> Bearer:
    """What the claims of one of our tokens say."""
    return Bearer(claims[WORKLOAD_CLAIM], claims[TERMS_CLAIM], dict(tee_pubkey(claims)), claims["jti"])


class Tokens:
    """Makes and reads the server's tokens, and renews their key. Calls are safe from several threads.

    `keep` makes new keys durable before they are used; `rotated` is told of them.
    """

    def __init__(
        self,
        keys: TokenKeys,
        keep: Callable[[TokenKeys], None],
        rotated: Callable[[TokenKeys, datetime], None],
    ) -> None:
        self._keys = keys
        self._keep = keep
        self._rotated = rotated
        self._lock = threading.Lock()
        self._verifier = TokenVerifier(keys, ISSUER, read_bearer)

    def make(self, workload: Workload, result: AttestationResult, attempt: Attempt, now: datetime) -> str:
        """The EAR token for the enclave whose attestation gave `result`. Raises `HostError` (`state-unusable`)."""
        session = attempt.session
        runtime = runtime_data(attempt.attestation, session.nonce)
        subject = Subject(session.project, secrets.token_hex(16), session.nonce, runtime)
        extra = {
            WORKLOAD_CLAIM: workload.name,
            HOST_DATA_CLAIM: workload.host_data.hex(),
            TERMS_CLAIM: workload.terms(),
        }
        claims = compact_ear(result, subject, now, TOKEN_LIFETIME, issuer=ISSUER, extra=extra)
        return sign(claims, self._signing(now))

    def read(self, token: str, project: str, now: datetime) -> Bearer:
        """What a token for `project` says at `now`. Raises as `TokenVerifier.verify`."""
        return self._verifier.verify(token, project, now)

    def jwks(self, now: datetime) -> dict[str, Any]:
        """The keys that verify tokens, as a JWK set (RFC 7517)."""
        return self._keys.jwks(now)

    def rotate(self, now: datetime) -> str:
        """Sign with a new key from now on; tokens of the last one stay good. Its key id. Raises `HostError`
        (`state-unusable`)."""
        with self._lock:
            return self._rotate(now).current.kid

    def _signing(self, now: datetime) -> TokenKeys:
        """The keys; one that has signed for long enough gives way first."""
        if now - self._keys.created < TOKEN_KEY_AGE:
            return self._keys
        with self._lock:
            return self._rotate(now) if now - self._keys.created >= TOKEN_KEY_AGE else self._keys

    def _rotate(self, now: datetime) -> TokenKeys:
        keys = self._keys.rotate(now, TOKEN_KEY_OVERLAP)
        self._keep(keys)
        self._keys = keys
        self._verifier.replace_keys(keys)
        self._rotated(keys, now)
        return keys
