"""Evidence and what verification makes of it, the same for every TEE. Pure values, no cryptography.

RATS words (RFC 9334): *evidence* is what the hardware signed; *claims* are what evidence says once its signatures
were checked. `Claims` always carries every check that was made, and those that were not, so that nothing is implied
by absence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["passed", "failed", "not-checked"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a TEE hands out: `report` is the vendor's raw bytes, `certificates` DER, leaf first, possibly none.

    For `tee` "snp" the report is the 1184 bytes of the SNP ABI, the certificates are VCEK or VLEK, ASK or ASVK, ARK.
    For "tdx" and "sgx" it is the quote, for "nitro" the COSE_Sign1 document, for "tpm" and the Azure kinds the
    TPMS_ATTEST. `parts` holds what travels beside it, by names that the TEE's package defines ("event-log",
    "signature", "hcl-report"...).
    """

    tee: str
    report: bytes
    certificates: tuple[bytes, ...] = ()
    parts: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `code` is stable and present unless the check passed.

    `waiver` names the policy switch that may excuse this failure ("allow_debug"); without one nothing can.
    """

    name: str
    outcome: Outcome
    code: str | None = None
    expected: str | None = None
    found: str | None = None
    hint: str | None = None
    waiver: str | None = None

    def as_dict(self) -> dict[str, str]:
        """The check as plain JSON values, absent members left out."""
        members = {
            "name": self.name,
            "outcome": self.outcome,
            "code": self.code,
            "expected": self.expected,
            "found": self.found,
            "hint": self.hint,
        }
        return {name: value for name, value in members.items() if value is not None}


def passed(name: str, found: object = None) -> Check:
    """A check that held; `found` is a short printable text of what was seen."""
    return Check(name, "passed", found=None if found is None else str(found)[:500])


def failed(
    name: str,
    code: str,
    *,
    expected: object = None,
    found: object = None,
    hint: str | None = None,
    waiver: str | None = None,
) -> Check:
    """A check that did not hold, with its stable code."""
    return Check(
        name,
        "failed",
        code,
        None if expected is None else str(expected)[:500],
        None if found is None else str(found)[:500],
        hint,
        waiver,
    )


def not_checked(name: str, code: str, hint: str | None = None, *, found: object = None) -> Check:
    """A check that could not be made or was not asked for."""
    return Check(name, "not-checked", code, found=None if found is None else str(found)[:500], hint=hint)


@dataclass(frozen=True, slots=True)
class Need:
    """An endorsement that verification lacked: what a vendor's service, a cache or a bundle can be asked for.

    `kind` is one of "vcek", "amd-chain", "amd-crl", "tcb-info", "qe-identity", "pck-crl", "root-crl", "pck"; and
    "ak" or "quote" for what only the attester's owner has. `parameters` are name and value pairs, sorted: for a
    VCEK product, chip-id (hex) and the TCB components, for TCB info tee ("sgx" or "tdx") and fmspc, for a CRL ca or
    product. Without what is `required` the claims may not be relied on; the rest is for policy to insist on.
    """

    kind: str
    parameters: tuple[tuple[str, str], ...] = ()
    required: bool = True

    def __str__(self) -> str:
        return " ".join((self.kind, *(f"{name}={value}" for name, value in self.parameters)))


@dataclass(frozen=True, slots=True)
class Claims:
    """What the evidence says, with all checks. Only if `ok` may anything here be relied on.

    `root` is the SHA-256 of the root's DER SubjectPublicKeyInfo in lower-case hex, "" if there was no root;
    `simulated` is true for a root that was accepted as simulated or calls itself so; what has neither such a root nor a
    vendor's is not `ok`. Sizes are the TEE's own; b"" and 0 where a TEE has no such thing:

    measurement     MEASUREMENT (48), MRTD (48), MRENCLAVE (32), PCR0 on Nitro (48), digest over all PCRs of a TPM
    host_data       HOST_DATA (32), MRCONFIGID (48), CONFIGID (64)
    report_data     REPORT_DATA (64), a TPM quote's extraData, Nitro's nonce
    chip_id         CHIP_ID (64), PPID-independent platform instance id (16)
    reported_tcb    components by name
    """

    tee: str
    simulated: bool
    root: str
    product: str
    measurement: bytes
    host_data: bytes
    report_data: bytes
    debug: bool
    migratable: bool
    vmpl: int
    chip_id: bytes
    reported_tcb: Mapping[str, int]
    checks: tuple[Check, ...]
    registers: Mapping[str, bytes] = field(default_factory=dict)
    """Everything measured, by the vendor's name in lower case: measurement, mrtd, rtmr0, mrseam, mrsigner, pcr11..."""
    tcbs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """TCB versions that are not the reported one: "current", "committed", "launch" (SNP)."""
    tcb_status: str = ""
    """Intel's verdict ("UpToDate", "OutOfDate"...), the worst of platform, quoting enclave and TDX module; else ""."""
    advisories: tuple[str, ...] = ()
    signer: bytes = b""
    """MRSIGNER (32), ID_KEY_DIGEST (48)."""
    product_id: int = 0
    security_version: int = 0
    """ISVPRODID and ISVSVN (SGX), GUEST_SVN (SNP)."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """All fields by the vendor's names as plain JSON values, for people, EAR documents and policies."""
    needs: tuple[Need, ...] = ()
    """Endorsements that were lacking."""
    parts: tuple[Claims, ...] = ()
    """Claims of evidence inside this evidence: the hardware report behind a vTPM's quote. Their checks stand in
    `checks` too."""
    canonical: bytes = b""
    """SHA-256 over what was signed and the key that signed it: the same for every encoding of the same evidence. Key
    caches, logs and replay protection by this, never by a digest of the file."""
    alike: object | None = field(default=None, init=False, compare=False, repr=False)
    """One object for all claims that differ in nothing but `report_data`, `canonical`, and what `details` says of the
    one report: whatever is decided without these may be remembered by it. `dataclasses.replace` leaves it out."""

    @property
    def ok(self) -> bool:
        """True if something was checked, nothing failed and nothing required was lacking."""
        complete = not any(need.required for need in self.needs)
        return complete and bool(self.checks) and all(check.outcome != "failed" for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The failed checks, in the order in which they were made."""
        return tuple(check for check in self.checks if check.outcome == "failed")


def mark_alike(claims: Claims, alike: object) -> Claims:
    """`claims`, fresh ones, which are from now on alike with all others that bear this object."""
    object.__setattr__(claims, "alike", alike)
    return claims


def canonical_digest(tee: str, signed: bytes, signer: bytes) -> bytes:
    """What `Claims.canonical` is: SHA-256 over the TEE's name, the key and the bytes it signed, each with its length.

    `signer` is the DER SubjectPublicKeyInfo or the raw public key, whichever the evidence defines exactly. The
    signature is left out: a second valid signature over the same bytes says nothing new.
    """
    digest = hashlib.sha256()
    for item in (tee.encode(), signer, signed):
        digest.update(len(item).to_bytes(8, "big") + item)
    return digest.digest()
