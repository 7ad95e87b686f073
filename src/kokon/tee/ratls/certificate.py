"""TLS certificates that carry evidence about the key they are for: Gramine's, Intel's and Kokon's own form. Pure.

legacy   extension 1.2.840.113741.1337.6, a bare Intel quote whose REPORTDATA is SHA-256 of the DER
         SubjectPublicKeyInfo and 32 zero bytes. Gramine encodes the identifier twice, so that parsers see
         0.6.9.42.840.113741.1337.6; both are read. (Gramine, "Attestation and Secret Provisioning", RA-TLS.)
dice     extension 2.23.133.5.4.9, TCG DICE tagged evidence (DICE Attestation Architecture 1.1, section 6): CBOR tag
         60000 (IANA: Intel TEE quote) over the array of evidence and claims, two byte strings. The claims are a map of
         texts to byte strings; "pubkey-hash" holds the array [algorithm, digest] over the SubjectPublicKeyInfo,
         algorithms by IANA's named information registry, and "nonce" is optional. Report data are SHA-256 of the
         claims' bytes and 32 zero bytes. (Confidential Computing Consortium, Interoperable RA-TLS.)

In Kokon's guests the evidence under tag 60000 is an SEV-SNP extended report. Extensions are found by parsing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from kokon.errors import MalformedError
from kokon.tee.cbor import Tag, read_cbor
from kokon.tee.certificates import CERTIFICATE_LIMIT, Certificate
from kokon.tee.evidence import Evidence
from kokon.tee.ratls.mbedtls import parse_lenient

LEGACY_OIDS: Final = ("0.6.9.42.840.113741.1337.6", "1.2.840.113741.1337.6")
DICE_OID: Final = "2.23.133.5.4.9"
TEE_QUOTE_TAG: Final = 60000
LOCAL_TAGS: Final = (60001, 60002)
"""Reports that only the same machine can verify: Intel TEE report, legacy SGX report (IANA CBOR tags)."""
PUBKEY_HASH: Final = "pubkey-hash"
NONCE: Final = "nonce"
DIGESTS: Final[Mapping[int, str]] = {1: "sha256", 7: "sha384", 8: "sha512"}
CLAIMS_LIMIT: Final = 4096

_TDX: Final = 0x81
_SGX_VERSIONS: Final = (3, 4, 5)
_TDX_VERSIONS: Final = (4, 5)

Kind = Literal["dice", "legacy"]


@dataclass(frozen=True, slots=True)
class Binding:
    """One piece of evidence in a certificate. `claims` and `claims_bytes` are empty for the legacy form, as is
    `key_digest`, the algorithm's name and digest that "pubkey-hash" holds, if the claims have none."""

    kind: Kind
    evidence: Evidence
    claims: Mapping[str, bytes]
    claims_bytes: bytes
    key_digest: tuple[str, bytes] | None


@dataclass(frozen=True, slots=True)
class RaTls:
    """A certificate and its evidence, the DICE form first. Nothing is verified."""

    certificate: Certificate
    bindings: tuple[Binding, ...]


def parse_ratls(der: bytes) -> RaTls:
    """A certificate of at most 16 KiB, DER, with evidence in one of the two extensions or both.

    Raises `MalformedError`: `certificate-malformed`, `ratls-without-evidence`, `ratls-malformed`, `ratls-local-report`,
    `cbor-malformed`, `cbor-too-large`, and what the evidence's own parser raises.
    """
    certificate = parse_lenient(der)
    bindings = []
    if DICE_OID in certificate.unknown:
        bindings.append(_dice(certificate.unknown[DICE_OID]))
    legacy = [certificate.unknown[oid] for oid in LEGACY_OIDS if oid in certificate.unknown]
    if len(legacy) > 1:
        raise MalformedError("ratls-malformed", "the certificate has two legacy quotes")
    bindings += [Binding("legacy", _intel_quote(quote), {}, b"", None) for quote in legacy]
    if not bindings:
        raise MalformedError(
            "ratls-without-evidence",
            "the certificate carries no evidence",
            expected=f"extension {DICE_OID} or {LEGACY_OIDS[1]}",
            hint="this is an ordinary certificate",
        )
    return RaTls(certificate, tuple(bindings))


def _dice(value: bytes) -> Binding:
    tagged = read_cbor(value, limit=CERTIFICATE_LIMIT, what="the tagged evidence")
    if isinstance(tagged, Tag) and tagged.number in LOCAL_TAGS:
        raise MalformedError(
            "ratls-local-report",
            "the certificate carries a report that only its own machine can verify",
            expected=f"CBOR tag {TEE_QUOTE_TAG}",
            found=tagged.number,
            hint="the attester must have its report quoted",
        )
    if not isinstance(tagged, Tag) or tagged.number != TEE_QUOTE_TAG:
        found = tagged.number if isinstance(tagged, Tag) else "none"
        raise MalformedError("ratls-malformed", "the evidence has a wrong tag", expected=TEE_QUOTE_TAG, found=found)
    pair = tagged.value
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, bytes) for part in pair):
        raise MalformedError("ratls-malformed", "tagged evidence must be two byte strings")
    evidence, claims_bytes = pair
    claims = _claims(claims_bytes)
    return Binding("dice", _evidence(evidence), claims, claims_bytes, _key_digest(claims))


def _claims(data: bytes) -> dict[str, bytes]:
    claims = read_cbor(data, limit=CLAIMS_LIMIT, what="the certificate's claims")
    if not isinstance(claims, dict):
        raise MalformedError("ratls-malformed", "the certificate's claims are no map", found=type(claims).__name__)
    for name, value in claims.items():
        if not isinstance(name, str) or not isinstance(value, bytes):
            raise MalformedError("ratls-malformed", "a claim must be bytes under a text", found=repr(name)[:80])
    return claims


def _key_digest(claims: Mapping[str, bytes]) -> tuple[str, bytes] | None:
    if PUBKEY_HASH not in claims:
        return None
    entry: Any = read_cbor(claims[PUBKEY_HASH], limit=CLAIMS_LIMIT, what=PUBKEY_HASH)
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], bytes):
        raise MalformedError("ratls-malformed", f"{PUBKEY_HASH} must be an algorithm and a digest")
    algorithm, digest = entry
    if isinstance(algorithm, bool) or not isinstance(algorithm, int) or algorithm not in DIGESTS:
        raise MalformedError(
            "ratls-malformed",
            f"{PUBKEY_HASH} has an unknown algorithm",
            expected="1, 7 or 8",
            found=repr(algorithm)[:80],
        )
    name = DIGESTS[algorithm]
    if len(digest) != int(name[3:]) // 8:
        raise MalformedError("ratls-malformed", f"{PUBKEY_HASH} has a wrong size", expected=name, found=len(digest))
    return name, digest


def _evidence(data: bytes) -> Evidence:
    """An SNP report begins with a version of four bytes, a quote with two of two bytes, neither zero."""
    if data[2:4] == b"\0\0":
        from kokon.tee.snp.certtable import decode_extended

        return decode_extended(data)
    return _intel_quote(data)


def _intel_quote(quote: bytes) -> Evidence:
    """Which TEE's a quote is, by its header: version, attestation key type, TEE type (Intel DCAP, quote header)."""
    version, tee = int.from_bytes(quote[:2], "little"), int.from_bytes(quote[4:8], "little")
    if len(quote) >= 48 and tee == 0 and version in _SGX_VERSIONS:
        return Evidence("sgx", quote)
    if len(quote) >= 48 and tee == _TDX and version in _TDX_VERSIONS:
        return Evidence("tdx", quote)
    raise MalformedError(
        "ratls-malformed", "the certificate's evidence is no quote", found=f"version {version}, TEE type {tee:#x}"
    )
