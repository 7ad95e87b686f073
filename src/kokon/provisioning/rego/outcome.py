"""What a Rego policy says of evidence, as an attestation result. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from kokon.appraisal.result import AttestationResult
from kokon.provisioning.rego.claims import Extension

ENTRY_LIMIT: Final = 2048
"""Bytes of JSON of an entry of the launch document, above which compact tokens have its digest."""
_EVIDENCE: Final = "ear.veraison.annotated-evidence"
_DOCUMENT: Final = "init_data_claims"
_RUNTIME: Final = "runtime_data_claims"


@dataclass(frozen=True, slots=True)
class PolicyResult(AttestationResult):
    """An attestation result that a Rego policy gave: with what the policy adds to the appraisal, and what it read,
    which is the annotated evidence of a token, as in Confidential Containers' attestation service."""

    extensions: tuple[Extension, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def as_ear(
        self,
        now: datetime,
        lifetime: timedelta,
        *,
        issuer: str,
        runtime_data: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        verbose: bool = True,
    ) -> dict[str, Any]:
        """As `AttestationResult.as_ear`. Unless `verbose`, long entries of the launch document give way to digests."""
        document = AttestationResult.as_ear(
            self, now, lifetime, issuer=issuer, runtime_data=runtime_data, extra=extra, verbose=verbose
        )
        submodule = document["submods"]["cpu0"]
        evidence = submodule[_EVIDENCE] | {name: value for name, value in self.given.items() if name != _RUNTIME}
        if not verbose and _DOCUMENT in evidence:
            evidence[_DOCUMENT] = dict(_short(name, value) for name, value in evidence[_DOCUMENT].items())
        submodule[_EVIDENCE] = evidence
        submodule |= {extension.name: extension.value for extension in self.extensions}
        return document


def _short(name: str, value: Any) -> tuple[str, Any]:
    encoded = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    if len(encoded) <= ENTRY_LIMIT:
        return name, value
    return f"{name}_sha256", hashlib.sha256(encoded).hexdigest()
