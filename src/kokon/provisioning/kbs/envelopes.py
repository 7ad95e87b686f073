"""Evidence in the protocol's JSON to that of `kokon.tee`: the guest's own, and that of devices. Pure.

Composite evidence (0.4.0) carries the evidence of devices as a text of JSON keyed by TEE name. The guest's own evidence
covers that text; each device's covers key and nonce. A device that nobody here can verify is a failed check, never
passed over: otherwise a guest could claim any GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from kokon.errors import MalformedError, UsageError
from kokon.provisioning.kbs.binding import check_report_data
from kokon.provisioning.kbs.messages import ALIASES, ATTEST_LIMIT
from kokon.provisioning.kbs.snp import READERS
from kokon.provisioning.kbs.strict import parse_strict
from kokon.tee import registry
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims, Evidence, failed
from kokon.wire import Fields

TEES: Final = ("snp", "tdx", "sgx", "tpm", "az-snp-vtpm", "az-tdx-vtpm", "nitro")
"""TEEs of the protocol that are verified here, and Nitro, for which the envelope is ours: `{"document": base64}`."""
SAMPLE: Final = "sample"
SAMPLE_DEVICE: Final = "sampledevice"
"""The protocol's TEE and device that prove nothing, for trying it out."""
DEVICES: Final = 16
"""Kinds of devices in one attestation."""
_VERIFIERS: Final[Mapping[str, str]] = {SAMPLE_DEVICE: SAMPLE}


@dataclass(frozen=True, slots=True)
class Device:
    """One device's evidence under the name it came with; None if there is no verifier for it."""

    name: str
    evidence: Evidence | None


def allowed_tees(names: Collection[str] = TEES, *, sample: bool = False) -> frozenset[str]:
    """The TEEs that a server takes evidence of, and the sample's names only if it was switched on.

    Raises `UsageError` (`tee-unsupported`) for names that cannot be verified here.
    """
    unknown = sorted(set(names) - set(TEES))
    if unknown:
        raise UsageError(
            "tee-unsupported", "there is no verifier for this TEE", expected=" ".join(TEES), found=" ".join(unknown)
        )
    return frozenset(names) | (frozenset({SAMPLE, SAMPLE_DEVICE}) if sample else frozenset())


def primary_tees(allowed: Collection[str]) -> frozenset[str]:
    """Those of `allowed` that a guest may be: what `messages.parse_request` takes."""
    return frozenset(allowed) - {SAMPLE_DEVICE}


def read_evidence(tee: str, value: Mapping[str, Any]) -> Evidence:
    """Evidence of `tee`, which the session allowed, from its JSON object. Raises `MalformedError` of its package."""
    plain = READERS[tee](value) if tee in READERS else None
    return plain or registry.tee(_VERIFIERS.get(tee, tee)).from_envelope(value)


def read_devices(additional: str | None, allowed: Collection[str]) -> tuple[Device, ...]:
    """The devices in the text of `additional_evidence`, in its order; none for an empty one.

    Raises `MalformedError` (`devices-malformed`, those of `kokon.wire` and of the devices' packages).
    """
    if not additional:
        return ()
    members = parse_strict(additional.encode(), limit=ATTEST_LIMIT, what="additional evidence")
    if not isinstance(members, dict) or not 0 < len(members) <= DEVICES:
        raise MalformedError(
            "devices-malformed", "additional evidence is an object of devices", expected=f"1..{DEVICES} members"
        )
    fields = Fields(members, "additional evidence")
    devices = []
    for sent in members:
        name, value = ALIASES.get(sent, sent), fields.value(sent)
        evidence = read_evidence(name, value) if name in allowed and isinstance(value, dict) else None
        devices.append(Device(name[:64], evidence))
    if len({device.name for device in devices}) < len(devices):
        raise MalformedError("devices-malformed", "a kind of device comes under two names")
    return tuple(devices)


def check_device(
    device: Device, digest: bytes, endorsements: Endorsements, now: datetime
) -> tuple[Claims | None, tuple[Check, ...]]:
    """What a device's evidence says at `now` (aware), and all checks, named after it. `digest` is the device digest.

    A check has failed if there is no verifier, or if it lacked endorsements. Raises `MalformedError` of its package.
    """
    prefix = f"device {device.name}"
    if device.evidence is None:
        hint = "this server cannot verify such devices: attest without them, or where they can be verified"
        return None, (failed(prefix, "device-unsupported", expected="a device with a verifier", hint=hint),)
    claims = registry.verify(device.evidence, endorsements, now)
    checks = [replace(check, name=f"{prefix}: {check.name}") for check in claims.checks]
    checks.append(check_report_data(digest, claims, f"{prefix}: report-data"))
    required = [str(need) for need in claims.needs if need.required]
    if required:
        hint = "give the server these endorsements"
        checks.append(failed(prefix, "device-incomplete", expected="all endorsements", found=required[0], hint=hint))
    return claims, tuple(checks)
