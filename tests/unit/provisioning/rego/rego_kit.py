"""Policies, evidence and reference values for the tests of Rego, and engines that lose patience soon."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kokon.errors import KokonError
from kokon.provisioning.rego.engine import PolicyEngine
from kokon.provisioning.rego.pool import Limits
from kokon.provisioning.rego.process import WorkerLimits
from kokon.provisioning.rego.reference import StoredValue

NOW = datetime(2026, 11, 27, 9, 0, tzinfo=UTC)
ASKED = {"plugin": "resource", "resource-path": ["default", "key", "1"], "query": {}}
NONE: dict[str, StoredValue] = {}

SAMPLE = {
    "sample": {
        "svn": "1",
        "launch_digest": "abcde",
        "platform_version": {"major": 1, "minor": 4},
        "debug": False,
    }
}
SAMPLE_VALUES = {"svn": ["1"], "launch_digest": ["abcde"], "major_version": 1, "minimum_minor_version": 1}


def references(values: Mapping[str, Any], *, until: datetime = NOW + timedelta(days=1)) -> dict[str, StoredValue]:
    return {name: StoredValue(name, value, until) for name, value in values.items()}


def message(values: Mapping[str, Any], **members: Any) -> bytes:
    """A reference value message of the sample kind."""
    payload = base64.b64encode(json.dumps(values).encode()).decode()
    return json.dumps({"version": "0.1.0", "type": "sample", "payload": payload, **members}).encode()


def token(status: str = "affirming", **members: Any) -> dict[str, Any]:
    submodule = {"ear.status": status, "ear.veraison.annotated-evidence": {"snp": {"measurement": "aa"}}}
    return {"submods": {"cpu0": {**submodule, **members}}}


def policy(body: str) -> str:
    return f"package policy\n\n{body}\n"


def trusting(value: str, more: str = "") -> str:
    """An attestation policy that claims `value` of the hardware."""
    return policy(f'trust_claims := {{"hardware": {value}}}\n{more}')


def quick(**limits: Any) -> PolicyEngine:
    """An engine whose workers are given up on soon."""
    worker = WorkerLimits(memory=128 << 20, cpu_seconds=1, wall_seconds=limits.pop("wall_seconds", 30.0))
    return PolicyEngine(Limits(worker=worker, queue_seconds=60.0, **limits))


def refusal(call: Callable[[], Any]) -> KokonError:
    with pytest.raises(KokonError) as caught:
        call()
    return caught.value
