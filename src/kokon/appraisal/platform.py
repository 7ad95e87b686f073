"""What the policy asks of a platform, whatever runs on it: one check for each demand. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from kokon.appraisal.firmware import allowed, check_intel, check_snp
from kokon.appraisal.policy import Policy
from kokon.tee.evidence import Check, Claims, Need, failed, not_checked, passed

INTEL: Final = ("tdx", "sgx")
WITH_LISTS: Final = ("snp", *INTEL)
"""Kinds of TEE whose vendor publishes revocation lists."""
WITH_TPM: Final = ("tpm", "az-snp-vtpm", "az-tdx-vtpm")
WITH_LOG: Final = ("tdx", *WITH_TPM)

_LISTS: Final = ("amd-crl", "pck-crl", "root-crl")
_SKEW: Final = timedelta(minutes=5)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def platforms(claims: Claims) -> tuple[Claims, ...]:
    """All evidence that is judged: a vTPM's and the hardware report's inside it. What a certificate carries, once
    or twice (RA-TLS), stands for itself."""
    if not claims.parts:
        return (claims,)
    inner = tuple(found for part in claims.parts for found in platforms(part))
    return inner if any(part.tee == claims.tee for part in claims.parts) else (claims, *inner)


def check_platform(claims: Claims, policy: Policy, minimum: Mapping[str, int], now: datetime) -> Iterator[Check]:
    """All checks of `policy` at `now` (aware); `minimum` are SNP components that the reference values demand besides.

    Debug, migration and VMPL are looked at in all evidence, also that inside other evidence.
    """
    whole = platforms(claims)
    yield _check_debug(policy, found=any(part.debug for part in whole))
    yield _check_migration(policy, found=any(part.migratable for part in whole))
    yield _check_vmpl(max(part.vmpl for part in whole), policy)
    for part in whole:
        if part.tee == "snp":
            yield from check_snp(part, policy, minimum)
        elif part.tee in INTEL:
            yield from check_intel(part, policy, now)
        if policy.require_smt_off and part.tee in WITH_LISTS:
            yield _check_smt(part)
    yield from _check_restrictions(claims, whole, policy)
    if claims.tee in WITH_TPM:
        yield from _check_tpm(claims, policy)
    if policy.require_event_log and claims.tee in WITH_LOG:
        yield _check_event_log(claims)
    if claims.tee == "nitro":
        yield _check_age(claims, policy, now)


def check_revocation(claims: Claims, policy: Policy) -> tuple[Check | None, tuple[Need, ...]]:
    """Whether the vendors' lists were consulted, if the policy insists, and the needs that are required for it.

    A list that is missing is a need and not a failure: it can be fetched.
    """
    if policy.revocation != "required":
        return None, ()
    needs: list[Need] = []
    for part in platforms(claims):
        if part.tee in WITH_LISTS and not part.simulated:
            needs += _unconsulted(part)
    if not needs:
        return None, ()
    check = not_checked(
        "revocation-lists",
        "revocation-unchecked",
        "fetch the vendor's list (kokon endorsements fetch) or give it with --endorsements; or set "
        'require.revocation = "if-available" in the policy',
        found=", ".join(map(str, needs)),
    )
    return check, tuple(needs)


def _unconsulted(part: Claims) -> list[Need]:
    """Needs for lists that were not there. With no check of revocation at all, nothing was consulted."""
    needs = [Need(need.kind, need.parameters) for need in part.needs if need.kind in _LISTS]
    made = [check for check in part.checks if check.name.startswith("revocation")]
    if needs or any(check.outcome != "not-checked" for check in made):
        return needs
    if part.tee == "snp":
        return [Need("amd-crl", (("product", part.product),))]
    return [Need("root-crl")]


def _check_debug(policy: Policy, *, found: bool) -> Check:
    if not found:
        return passed("debug", "off")
    if policy.allow_debug:
        return allowed("debug", "on", "allow_debug")
    return failed(
        "debug",
        "debug-enabled",
        expected="off",
        found="on",
        hint="the host can read this enclave's memory; launch it without debug",
    )


def _check_migration(policy: Policy, *, found: bool) -> Check:
    if not found:
        return passed("migration", "off")
    if policy.allow_migration:
        return allowed("migration", "on", "allow_migration")
    return failed(
        "migration", "migration-allowed", expected="off", found="on", hint="a migration agent could move this guest"
    )


def _check_vmpl(found: int, policy: Policy) -> Check:
    if found == 0:
        return passed("vmpl", found)
    if policy.allow_vmpl_nonzero:
        return allowed("vmpl", found, "allow_vmpl_nonzero")
    return failed(
        "vmpl",
        "vmpl-not-zero",
        expected=0,
        found=found,
        hint="the report speaks for less privileged software of the guest: something stands above it",
    )


def _check_smt(part: Claims) -> Check:
    found = part.details.get("platform_smt_enabled" if part.tee == "snp" else "is_smt_enabled")
    if found is False:
        return passed("smt", "off")
    return failed(
        "smt",
        "smt-enabled",
        expected="off",
        found="unknown" if found is None else "on",
        hint="the policy wants simultaneous multithreading off; another machine is needed",
    )


def _check_restrictions(claims: Claims, whole: tuple[Claims, ...], policy: Policy) -> Iterator[Check]:
    if policy.only_tees:
        if claims.tee in policy.only_tees:
            yield passed("tee", claims.tee)
        else:
            listed = ", ".join(policy.only_tees)
            yield failed(
                "tee", "tee-not-allowed", expected=listed, found=claims.tee, hint="only.tees in the policy lists them"
            )
    if policy.only_chips:
        yield _check_chips([part.chip_id for part in whole if any(part.chip_id)], policy)
    if policy.only_simulated_roots and claims.simulated:
        yield _check_simulated_root(claims, policy)


def _check_chips(found: list[bytes], policy: Policy) -> Check:
    known = {chip.rstrip(b"\0") for chip in policy.only_chips}
    if found and all(chip.rstrip(b"\0") in known for chip in found):
        return passed("platform", ", ".join(chip.hex() for chip in found))
    return failed(
        "platform",
        "chip-not-allowed",
        expected=", ".join(chip.hex() for chip in policy.only_chips[:4]),
        found=", ".join(chip.hex() for chip in found) or "none named in the evidence",
        hint="this is another machine than those that the policy lists",
    )


def _check_simulated_root(claims: Claims, policy: Policy) -> Check:
    if claims.root in policy.only_simulated_roots:
        return passed("simulated-root", claims.root)
    return failed(
        "simulated-root",
        "simulated-root-not-allowed",
        expected=", ".join(policy.only_simulated_roots[:4]),
        found=claims.root or "none",
        hint="only.simulated_roots in the policy lists those that are accepted for trials",
    )


def _check_tpm(claims: Claims, policy: Policy) -> Iterator[Check]:
    unbound = any(need.kind == "ak" and not need.required for need in claims.needs)
    if not unbound:
        yield passed("attestation-key", "vouched for")
    elif policy.allow_unbound_ak:
        yield allowed("attestation-key", "nobody vouches for it", "allow_unbound_ak")
    else:
        yield failed(
            "attestation-key",
            "tpm-ak-unbound",
            expected="a key bound to hardware or a vendor's certificate, or an enrolled one",
            found="a key that nobody vouches for",
            hint="anyone can make such a quote; enrol the key, or give its certificates with --endorsements",
        )
    missing = [f"PCR{number}" for number in policy.required_pcrs if f"pcr{number}" not in claims.registers]
    if missing:
        yield failed(
            "pcr-selection",
            "pcr-not-quoted",
            expected=", ".join(f"PCR{number}" for number in policy.required_pcrs),
            found=f"without {', '.join(missing)}",
            hint="the quote must cover these registers: ask the TPM again with a wider selection",
        )
    else:
        yield passed("pcr-selection", f"{sum(name.startswith('pcr') for name in claims.registers)} registers")


def _check_event_log(claims: Claims) -> Check:
    if any(check.name.startswith("event log") and check.outcome == "passed" for check in claims.checks):
        return passed("event-log", "replayed")
    return failed(
        "event-log",
        "event-log-missing",
        expected="an event log that replays to the registers",
        found="none",
        hint="collect the event log with the quote and give it with --event-log",
    )


def _check_age(claims: Claims, policy: Policy, now: datetime) -> Check:
    stamp = claims.details.get("timestamp")
    if policy.maximum_age is None:
        return not_checked("age", "age-not-limited", "the policy accepts evidence of any age", found=stamp)
    expected = f"at most {policy.maximum_age.total_seconds():.0f} s"
    made = _EPOCH + timedelta(milliseconds=min(stamp, 2**47)) if isinstance(stamp, int) else _EPOCH
    age = now - made
    if age > policy.maximum_age:
        return failed(
            "age",
            "evidence-too-old",
            expected=expected,
            found=f"made {made:%Y-%m-%dT%H:%M:%SZ}",
            hint="ask the enclave again; for a file, --at says when it was made; or set require.maximum_age",
        )
    if age < -_SKEW:
        return failed(
            "age",
            "evidence-from-the-future",
            expected=expected,
            found=f"made {made:%Y-%m-%dT%H:%M:%SZ}",
            hint="set this machine's clock, or --at",
        )
    return passed("age", f"{age.total_seconds():.0f} s")
