"""Claims against reference values: what matches, and how the nearest differs. Pure.

A reference is one acceptable launch. Where several are given, any one that matches as a whole will do; if none does,
the one that differs least is reported, so that a reader sees "other kernel" and not a list of strangers.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from kokon.appraisal.reference import ReferenceValues, register_name, registers_of
from kokon.tee.evidence import Check, Claims, failed, not_checked, passed

_OTHER_LAUNCH: Final = "another kernel, initrd, firmware, command line, CPU model or number of CPUs was launched"
_GIVE_ONE: Final = "say what should run: --measurement HEX, or --references FILE (docs/POLICY.md)"

COVERAGE: Final[Mapping[str, tuple[frozenset[str], ...]]] = {
    "snp": (frozenset({"measurement"}), frozenset({"signer"})),
    "tdx": (frozenset({"measurement", "rtmr1", "rtmr2"}),),
    "sgx": (frozenset({"measurement"}), frozenset({"signer"})),
    "nitro": tuple(map(frozenset, (["measurement"], ["pcr8"], ["pcr1", "pcr2"]))),
    "tpm": (frozenset({"measurement"}), *(frozenset({f"pcr{number}"}) for number in range(4, 16))),
    "az-snp-vtpm": tuple(frozenset({f"pcr{number}"}) for number in range(4, 16)),
    "az-tdx-vtpm": tuple(frozenset({f"pcr{number}"}) for number in range(4, 16)),
}
"""What must be named so that a match says which code runs; any one set of names will do.

MRTD covers the firmware of a trust domain alone; kernel and command line are in RTMR1 and RTMR2 (Intel TDX virtual
firmware design guide, measurement). A TPM's PCR0 to 3 cover firmware, 4 and above what it started (TCG PC Client
Platform Firmware Profile, section 3.3.4). On Azure the hardware measures Microsoft's paravisor, the vTPM the rest.
Nitro's PCR0 covers the image, 1 and 2 its parts, 8 the certificate that signed it. An SGX or SNP signer vouches for
what it signed. A kind of TEE that is not here is covered by anything.
"""

_ALIASES: Final[Mapping[str, Mapping[str, str]]] = {
    "tdx": {"mrtd": "measurement"},
    "sgx": {"mrenclave": "measurement", "mrsigner": "signer"},
    "nitro": {"pcr0": "measurement"},
}


def compare(
    claims: Claims, references: tuple[ReferenceValues, ...], now: datetime, *, partial: bool = False
) -> tuple[tuple[Check, ...], ReferenceValues | None]:
    """The checks of `claims` against the reference that differs least, and that reference; None if there is none.

    `partial` allows references that do not cover all that runs. Of several that differ in as many points, one whose
    measurement matches comes first, then the earlier.
    """
    fitting = [reference for reference in references if reference.fits(claims)]
    if not fitting:
        return (_nothing(claims, references),), None
    if len(fitting) == 1:
        return tuple(_against(claims, fitting[0], now, partial=partial)), fitting[0]
    best: tuple[tuple[int, bool], tuple[Check, ...], ReferenceValues] | None = None
    for reference in fitting:
        checks = tuple(_against(claims, reference, now, partial=partial))
        wrong = [check for check in checks if check.outcome == "failed"]
        rank = len(wrong), any(check.name == "measurement" for check in wrong)
        if best is None or rank < best[0]:
            best = rank, checks, reference
    return (best[1], best[2]) if best else ((), None)


def _nothing(claims: Claims, references: tuple[ReferenceValues, ...]) -> Check:
    if not references:
        return _missing(claims)
    kinds = ", ".join(sorted({reference.tee for reference in references}))
    return failed(
        "measurement",
        "measurement-unknown",
        expected=f"a reference value for {claims.tee}",
        found=f"reference values for {kinds}",
        hint=_GIVE_ONE,
    )


def _missing(claims: Claims) -> Check:
    return failed(
        "measurement",
        "reference-missing",
        expected="a reference value",
        found=claims.measurement.hex() or "no measurement",
        hint=f"the platform may be genuine, but nothing was said about what runs on it; {_GIVE_ONE}",
    )


def _against(claims: Claims, reference: ReferenceValues, now: datetime, *, partial: bool) -> Iterator[Check]:
    registers = registers_of(claims)
    given = reference.given
    yield _check_measurement(claims, reference, given)
    yield _check_expiry(reference, now)
    yield _check_host_data(claims.host_data, reference.host_data)
    if reference.report_data is not None:
        yield _check_report_data(claims.report_data, reference.report_data, prefix=reference.report_data_prefix)
    for name, values in reference.registers.items():
        yield _check_register(register_name(name), values, registers)
    if reference.signers:
        yield _check_signer(claims, reference)
    if reference.product_id is not None:
        yield _check_product(claims, reference.product_id)
    if reference.security_version is not None:
        yield _check_version(claims, reference.security_version)
    if given:
        yield _check_coverage(claims.tee, given, partial=partial)


def _check_measurement(claims: Claims, reference: ReferenceValues, given: frozenset[str]) -> Check:
    found = (claims.measurement, *(part.measurement for part in claims.parts))
    if any(value and value in reference.measurements for value in found):
        return passed("measurement", claims.measurement.hex())
    if not reference.measurements and given:
        return not_checked("measurement", "measurement-not-named", found=claims.measurement.hex())
    if not given and not (reference.not_after or reference.tee or reference.name):
        return _missing(claims)
    return failed(
        "measurement",
        "measurement-unknown",
        expected=", ".join(known.hex() for known in reference.measurements[:4]) or "a reference value",
        found=claims.measurement.hex(),
        hint=_OTHER_LAUNCH,
    )


def _check_expiry(reference: ReferenceValues, now: datetime) -> Check:
    source = f", {reference.title}" if reference.name or reference.source else ""
    if reference.not_after is None:
        return passed("reference-values", f"without end{source}")
    end = f"{reference.not_after:%Y-%m-%dT%H:%M:%SZ}"
    if now >= reference.not_after:
        return failed(
            "reference-values",
            "reference-expired",
            expected=f"before {end}{source}",
            found=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            hint="the author signs new reference values, or the owner admits a newer image",
        )
    return passed("reference-values", f"until {end}{source}")


def _check_host_data(found: bytes, expected: bytes | None) -> Check:
    if expected is None:
        return passed("host-data", "any")
    if hmac.compare_digest(expected.ljust(len(found), b"\0"), found):
        return passed("host-data", found.hex())
    return failed(
        "host-data",
        "host-data-mismatch",
        expected=expected.hex(),
        found=found.hex(),
        hint="another launch document was given to this enclave",
    )


def _check_report_data(found: bytes, expected: bytes, *, prefix: bool) -> Check:
    whole = found[: len(expected)] if prefix else found
    if hmac.compare_digest(expected.ljust(len(whole), b"\0"), whole):
        return passed("report-data", found.hex())
    return failed(
        "report-data",
        "report-data-mismatch",
        expected=f"{expected.hex()}{' and anything' if prefix else ''}",
        found=found.hex(),
        hint="the evidence was not made for this nonce and key: a replay, or somebody in the middle",
    )


def _check_register(name: str, values: tuple[bytes, ...], registers: Mapping[str, bytes]) -> Check:
    label = f"register {name}"
    found = registers.get(name)
    expected = ", ".join(value.hex() for value in values[:4])
    if found is None:
        return failed(
            label,
            "register-missing",
            expected=expected,
            found="not in the evidence",
            hint="the evidence must quote this register: check the PCR selection",
        )
    if found in values:
        return passed(label, found.hex())
    return failed(
        label,
        "register-mismatch",
        expected=expected,
        found=found.hex(),
        hint="another program or setting was measured; with the event log, kokon explain names the event",
    )


def _check_signer(claims: Claims, reference: ReferenceValues) -> Check:
    if any(claims.signer) and claims.signer in reference.signers:
        return passed("signer", claims.signer.hex())
    return failed(
        "signer",
        "signer-unknown",
        expected=", ".join(signer.hex() for signer in reference.signers[:4]),
        found=claims.signer.hex() if any(claims.signer) else "none",
        hint="the enclave was signed with another key",
    )


def _check_product(claims: Claims, expected: int) -> Check:
    if claims.product_id == expected:
        return passed("product-id", expected)
    return failed(
        "product-id",
        "product-id-mismatch",
        expected=expected,
        found=claims.product_id,
        hint="this is another product of the same signer",
    )


def _check_version(claims: Claims, minimum: int) -> Check:
    if claims.security_version >= minimum:
        return passed("security-version", claims.security_version)
    return failed(
        "security-version",
        "security-version-too-low",
        expected=f">= {minimum}",
        found=claims.security_version,
        hint="an old build with known faults was launched",
    )


def _check_coverage(tee: str, given: frozenset[str], *, partial: bool) -> Check:
    aliases = _ALIASES.get(tee)
    names = given | {aliases[name] for name in given if name in aliases} if aliases else given
    wanted = COVERAGE.get(tee)
    if wanted is None or any(needed <= names for needed in wanted):
        return passed("coverage", " ".join(sorted(names)))
    if partial:
        found = f"{' '.join(sorted(names))} only, allowed by policy"
        return Check("coverage", "passed", found=found, waiver="allow_partial_references")
    return failed(
        "coverage",
        "reference-incomplete",
        expected=" or ".join(" and ".join(sorted(needed)) for needed in wanted[:4]),
        found=" ".join(sorted(names)),
        hint="these values fit any program that the named part may start: name the rest as well, "
        "or set allow.partial_references in the policy",
    )
