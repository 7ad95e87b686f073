"""Claims + reference values + policy = attestation result, with every reason. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from kokon.appraisal import result as ar4si
from kokon.appraisal.policy import Policy, ReferenceValues
from kokon.appraisal.result import AttestationResult
from kokon.tee.evidence import Check, Claims, failed, passed

_VALUES: Final = {
    "measurement-unknown": ("executables", ar4si.UNRECOGNIZED_BOOT),
    "reference-expired": ("executables", ar4si.UNRECOGNIZED_BOOT),
    "host-data-mismatch": ("configuration", ar4si.REFUSED),
    "debug-enabled": ("configuration", ar4si.REFUSED),
    "migration-allowed": ("configuration", ar4si.REFUSED),
    "vmpl-not-zero": ("configuration", ar4si.REFUSED),
    "tcb-too-low": ("hardware", ar4si.UNSAFE_HARDWARE),
}
"""Which aspect a failed check spoils, and the AR4SI number for it."""


def appraise(claims: Claims, reference: ReferenceValues, policy: Policy, now: datetime) -> AttestationResult:
    """The result at the time `now` (aware). Raises nothing: whatever is wrong is a failed check.

    If verification failed already, hardware and identity are contraindicated, whatever the claims say. For a
    simulated root no claim is made about hardware and memory, so that a relying party which insists on these refuses
    it even when this verifier was told to accept it.
    """
    checks = (
        _check_measurement(claims, reference),
        _check_expiry(reference, now),
        _check_host_data(claims, reference),
        _check_flag("debug", "debug-enabled", found=claims.debug, allowed=policy.allow_debug),
        _check_flag("migration", "migration-allowed", found=claims.migratable, allowed=policy.allow_migration),
        _check_vmpl(claims),
        *_check_tcb(claims, policy),
    )
    vector = dict.fromkeys(ar4si.ASPECTS, ar4si.NO_CLAIM)
    vector["instance-identity"] = ar4si.RECOGNIZED_INSTANCE
    vector["configuration"] = ar4si.ALLOWED_CONFIGURATION if claims.debug else ar4si.APPROVED_CONFIGURATION
    vector["executables"] = ar4si.APPROVED_BOOT
    if not claims.simulated:
        vector["hardware"] = ar4si.GENUINE_HARDWARE
        vector["runtime-opaque"] = ar4si.NO_CLAIM if claims.debug else ar4si.ENCRYPTED_MEMORY
    for check in checks:
        if check.outcome == "failed" and check.code is not None:
            aspect, value = _VALUES[check.code]
            vector[aspect] = max(vector[aspect], value)
    if not claims.ok:
        vector["hardware"] = vector["instance-identity"] = ar4si.UNRECOGNIZED
        vector["runtime-opaque"] = ar4si.NO_CLAIM
    return AttestationResult(ar4si.worst(vector), vector, (*claims.checks, *checks), claims)


def _check_measurement(claims: Claims, reference: ReferenceValues) -> Check:
    if any(hmac.compare_digest(claims.measurement, known) for known in reference.measurements):
        return passed("measurement", claims.measurement.hex())
    expected = ", ".join(known.hex() for known in reference.measurements[:4]) or "a reference value"
    return failed(
        "measurement",
        "measurement-unknown",
        expected=expected,
        found=claims.measurement.hex(),
        hint="another kernel, initrd, firmware, command line, CPU model or number of CPUs was launched",
    )


def _check_expiry(reference: ReferenceValues, now: datetime) -> Check:
    if reference.not_after is None:
        return passed("reference-values", "without end")
    end = f"{reference.not_after:%Y-%m-%dT%H:%M:%SZ}"
    if now > reference.not_after:
        return failed(
            "reference-values",
            "reference-expired",
            expected=f"until {end}",
            found=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            hint="the author signs new reference values, or the owner admits a newer image",
        )
    return passed("reference-values", f"until {end}")


def _check_host_data(claims: Claims, reference: ReferenceValues) -> Check:
    if reference.host_data is None:
        return passed("host-data", "any")
    if hmac.compare_digest(claims.host_data, reference.host_data):
        return passed("host-data", claims.host_data.hex())
    return failed(
        "host-data",
        "host-data-mismatch",
        expected=reference.host_data.hex(),
        found=claims.host_data.hex(),
        hint="another launch document was given to this enclave",
    )


def _check_flag(name: str, code: str, *, found: bool, allowed: bool) -> Check:
    if found and not allowed:
        return failed(name, code, expected="off", found="on", hint="the host could look into this guest or move it")
    return passed(name, "on, allowed by policy" if found else "off")


def _check_vmpl(claims: Claims) -> Check:
    if claims.vmpl != 0:
        return failed("vmpl", "vmpl-not-zero", expected=0, found=claims.vmpl)
    return passed("vmpl", 0)


def _check_tcb(claims: Claims, policy: Policy) -> Iterator[Check]:
    for name, minimum in sorted(policy.minimum_tcb.items()):
        found = claims.reported_tcb.get(name)
        if found is None or found < minimum:
            yield failed(
                f"tcb {name}",
                "tcb-too-low",
                expected=f">= {minimum}",
                found="none" if found is None else found,
                hint="the machine's firmware must be updated",
            )
        else:
            yield passed(f"tcb {name}", found)
