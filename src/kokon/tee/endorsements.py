"""Endorsements as values: what a verifier holds beside the evidence. Pure; `kokon.endorsements` fetches and keeps them.

Everything here may come from anybody: a certificate, list or document is worth no more than its signature and its
chain to a pinned root. Only the two sets of fingerprints are believed because the caller says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SignedDocument:
    """Intel's TCB info or enclave identity: `body` is the inner JSON object exactly as it was sent and signed.

    `signature` is raw r and s, 64 bytes; `chain` the issuer's certificates in DER, possibly none.
    (Intel PCS API v4, "Get TCB Info", "Get QE Identity".)
    """

    kind: Literal["tcb-info", "qe-identity"]
    body: bytes
    signature: bytes
    chain: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Endorsements:
    """What is known about chips: `certificates` and `crls` in DER, in any order, for any number of chips.

    `accepted_simulated` holds fingerprints of simulated roots that the caller accepts, `enrolled_keys` those of
    attestation keys (of TPMs) that the caller enrolled; both are SHA-256 of a DER SubjectPublicKeyInfo in lower-case
    hex. `minimum_evaluation` is the lowest TCB evaluation data number that is still believed (Intel).
    """

    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    documents: tuple[SignedDocument, ...] = ()
    accepted_simulated: frozenset[str] = frozenset()
    enrolled_keys: frozenset[str] = frozenset()
    minimum_evaluation: int = 0

    def __or__(self, other: Endorsements) -> Endorsements:
        """Both together, each thing once."""
        return Endorsements(
            certificates=tuple(dict.fromkeys(self.certificates + other.certificates)),
            crls=tuple(dict.fromkeys(self.crls + other.crls)),
            documents=tuple(dict.fromkeys(self.documents + other.documents)),
            accepted_simulated=self.accepted_simulated | other.accepted_simulated,
            enrolled_keys=self.enrolled_keys | other.enrolled_keys,
            minimum_evaluation=max(self.minimum_evaluation, other.minimum_evaluation),
        )
