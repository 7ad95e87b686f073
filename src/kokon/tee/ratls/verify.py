"""RA-TLS certificates to claims: the evidence inside, and that it speaks of the certificate's key. Pure.

The claims are those of the evidence inside (`tee` is its name), with further checks. Stricter than Gramine's own
verifier: the key's hash must be among the claims, all 64 bytes of report data count, and a certificate with both
extensions must be right in both and name the same enclave twice.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from kokon.tee import registry
from kokon.tee.certificates import Certificate, verify_signature
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims, Evidence, failed, not_checked, passed
from kokon.tee.path import check_validity
from kokon.tee.ratls.certificate import NONCE, PUBKEY_HASH, Binding, RaTls, parse_ratls

Verify = Callable[[Evidence, Endorsements, datetime], Claims]

_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_SAME: Final = (
    "tee",
    "root",
    "measurement",
    "signer",
    "product_id",
    "security_version",
    "host_data",
    "chip_id",
    "debug",
)
_HINT: Final = "somebody may stand between you and the enclave: do not send anything"


def verify_ratls(
    evidence: Evidence, endorsements: Endorsements, now: datetime, *, inner: Verify = registry.verify
) -> Claims:
    """The claims of the evidence in a certificate at the time `now` (aware), with all checks; `inner` verifies that
    evidence. A "nonce" among the claims is in `details["certificate"]`.

    Raises `MalformedError`: those of `parse_ratls` and of `inner`.
    """
    ratls = parse_ratls(evidence.report)
    found = tuple(inner(binding.evidence, endorsements, now) for binding in ratls.bindings)
    checks = list(_check_certificate(ratls.certificate, now))
    for binding, claims in zip(ratls.bindings, found, strict=True):
        bound = (*claims.checks, *_check_binding(binding, claims, ratls.certificate))
        checks += _named(bound, f"{binding.kind} quote: ") if len(found) > 1 else bound
    checks += _check_agreement(found)
    first = found[0]
    return replace(
        first,
        simulated=any(claims.simulated for claims in found),
        debug=any(claims.debug for claims in found),
        checks=tuple(checks),
        details={**first.details, "certificate": describe_certificate(ratls)},
        needs=tuple(dict.fromkeys(need for claims in found for need in claims.needs)),
        parts=found,
    )


def describe_certificate(ratls: RaTls) -> dict[str, Any]:
    """The certificate's fields, and the claims of each piece of evidence, as JSON values."""
    certificate = ratls.certificate
    return {
        "subject": certificate.name,
        "serial": hex(certificate.serial),
        "not_before": f"{certificate.not_before:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{certificate.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "spki": certificate.spki.hex(),
        "spki_sha256": certificate.fingerprint,
        "evidence": [
            {
                "kind": binding.kind,
                "tee": binding.evidence.tee,
                "claims": {name: value.hex() for name, value in binding.claims.items()},
            }
            for binding in ratls.bindings
        ],
    }


def _named(checks: Iterable[Check], prefix: str) -> list[Check]:
    return [replace(check, name=prefix + check.name) for check in checks]


def _check_certificate(certificate: Certificate, now: datetime) -> Iterator[Check]:
    key = certificate.key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        yield passed("certificate key", key.curve.name)
    else:
        curve = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
        yield failed("certificate key", "ratls-key-kind", expected="a key on P-256 or P-384", found=curve)
    own = verify_signature(key, certificate.algorithm, certificate.signature, certificate.signed)
    if own and certificate.self_issued:
        yield passed("certificate signature", "by its own key")
    else:
        yield failed(
            "certificate signature",
            "ratls-not-self-signed",
            expected="a self-signed certificate",
            found="another issuer" if own else "a signature by another key",
            hint="whoever sent it may not have the key that the evidence speaks of",
        )
    yield replace(check_validity(certificate, now), name="certificate validity")


def _check_binding(binding: Binding, claims: Claims, certificate: Certificate) -> Iterator[Check]:
    subject = binding.claims_bytes if binding.kind == "dice" else certificate.spki
    expected = hashlib.sha256(subject).digest()
    lower, upper = claims.report_data[:32], claims.report_data[32:]
    what = "the claims" if binding.kind == "dice" else "the certificate's key"
    if hmac.compare_digest(lower, expected):
        yield passed("report data", f"SHA-256 of {what}")
    else:
        yield failed("report data", "ratls-binding-mismatch", expected=expected.hex(), found=lower.hex(), hint=_HINT)
    if len(upper) == 32 and not any(upper):
        yield passed("report data, upper half", "zero")
    else:
        yield failed(
            "report data, upper half",
            "ratls-report-data-excess",
            expected="32 zero bytes",
            found=upper.hex() or "none",
            hint="the enclave uses its report data for something else too",
        )
    if binding.kind == "dice":
        yield from _check_claims(binding, certificate)


def _check_claims(binding: Binding, certificate: Certificate) -> Iterator[Check]:
    if binding.key_digest is None:
        yield failed(PUBKEY_HASH, "ratls-key-unbound", expected=f"{PUBKEY_HASH} among the claims", hint=_HINT)
    else:
        algorithm, digest = binding.key_digest
        expected = hashlib.new(algorithm, certificate.spki).digest()
        if hmac.compare_digest(expected, digest):
            yield passed(PUBKEY_HASH, algorithm)
        else:
            yield failed(PUBKEY_HASH, "ratls-key-mismatch", expected=expected.hex(), found=digest.hex(), hint=_HINT)
    unknown = sorted(set(binding.claims) - {PUBKEY_HASH, NONCE})
    if unknown:
        hint = "the enclave vouches for these claims, nobody here knows what they mean"
        yield not_checked("claims", "ratls-claims-unknown", hint, found=", ".join(unknown))


def _check_agreement(found: tuple[Claims, ...]) -> Iterator[Check]:
    for other in found[1:]:
        differ = [name for name in _SAME if getattr(found[0], name) != getattr(other, name)]
        if differ:
            yield failed(
                "agreement",
                "ratls-quotes-differ",
                expected="both quotes of one enclave",
                found=", ".join(f"{name}: {_text(found[0], name)} and {_text(other, name)}" for name in differ),
            )
        else:
            yield passed("agreement", "both quotes are of one enclave")


def _text(claims: Claims, name: str) -> str:
    value = getattr(claims, name)
    return value.hex() if isinstance(value, bytes) else str(value)
