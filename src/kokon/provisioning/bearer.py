"""Attestation tokens of this server: what is in them, and what is read back from them. Pure but for the token's id."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from kokon.jose import jwt
from kokon.provisioning.protocol import runtime_data

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from kokon.appraisal.result import AttestationResult
    from kokon.provisioning.release import Attempt
    from kokon.provisioning.workload import Workload

TOKEN_LIFETIME = timedelta(minutes=30)
"""How long a token stands: long enough to pull a large image between attestation and the first secret."""
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


def make_token(
    workload: Workload, result: AttestationResult, attempt: Attempt, key: ec.EllipticCurvePrivateKey, now: datetime
) -> str:
    """The EAR token, signed by `key`, for the enclave whose attestation gave `result`; checks that passed are left
    out."""
    attestation, nonce = attempt.attestation, attempt.session.nonce
    runtime = runtime_data(attestation.jwk, nonce, attestation.additional)
    extra = {
        "jti": secrets.token_hex(16),
        "eat_nonce": nonce,
        WORKLOAD_CLAIM: workload.name,
        HOST_DATA_CLAIM: workload.host_data.hex(),
        TERMS_CLAIM: workload.terms(),
    }
    claims = result.as_ear(now, TOKEN_LIFETIME, issuer=ISSUER, runtime_data=runtime, extra=extra, verbose=False)
    return jwt.sign(claims, key)


def read_token(token: str, key: ec.EllipticCurvePublicKey, now: datetime) -> Bearer:
    """What a token of this server says at `now`. Raises as `jwt.verify`."""
    claims = jwt.verify(token, key, now)
    annotated = claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]
    return Bearer(
        workload=claims[WORKLOAD_CLAIM],
        terms=claims.get(TERMS_CLAIM, ""),
        jwk=annotated["runtime_data_claims"]["tee-pubkey"],
        identity=claims["jti"],
    )
