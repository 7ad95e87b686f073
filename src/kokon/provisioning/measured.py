"""Workloads that are known by what the hardware measured alone: guests that no identity statement of Kokon's describes.

A confidential virtual machine of somebody else's, an SGX enclave, a machine with a TPM: whatever speaks the key broker
protocol. The owner gives reference values and a policy in the files that `kokon evidence verify` takes
(docs/POLICY.md), and says what such a guest may read. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import ReferenceValues
from kokon.appraisal.reference_file import REFERENCES_LIMIT, parse_references
from kokon.appraisal.remembered import Remembered
from kokon.errors import MalformedError
from kokon.provisioning.kbs.paths import check_path, resource_path
from kokon.provisioning.restrictions import (
    parsed_policy,
    read_activations,
    read_chips,
    read_policy,
    read_tees,
    restricted,
)
from kokon.provisioning.workload import Workload, parse_time
from kokon.wire import Fields

if TYPE_CHECKING:
    from kokon.appraisal.policy import Policy
    from kokon.appraisal.result import AttestationResult
    from kokon.tee.evidence import Claims

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_results = Remembered()


def parse_measured(value: Any, now: datetime) -> Workload:
    """The workload of an admission request: `name`, `references` and `policy` (texts of such files; no policy: the
    server's own), `resources` (kbs:///a/b/c), `not_after` (RFC 3339), and optionally `max_activations`, `tees` and
    `chips`.

    Raises `MalformedError` (`workload-name`, `workload-expired`, `resource-path`, `tee-not-known`, `chip-malformed`,
    those of `kokon.wire` and of reference files), `UsageError` as policy files do.
    """
    fields = Fields(value, "workload")
    resources = fields.array("resources", limit=256)
    workload = Workload(
        name=fields.text("name", limit=64),
        references=fields.text("references", limit=REFERENCES_LIMIT),
        platform=read_policy(fields, "policy"),
        resources=tuple(resource_path(uri) if isinstance(uri, str) else check_path("") for uri in resources),
        not_after=parse_time(fields.text("not_after", limit=40)),
        max_activations=read_activations(fields),
        tees=read_tees(fields),
        chips=read_chips(fields),
        admitted=now,
    )
    fields.finish()
    if not _NAME.fullmatch(workload.name):
        expected = "lower-case letters, digits and .-_"
        raise MalformedError("workload-name", "not a workload's name", expected=expected, found=repr(workload.name))
    if workload.not_after <= now:
        found = workload.not_after.isoformat()
        raise MalformedError("workload-expired", "the workload's end is in the past", expected="later", found=found)
    references_of(workload)
    return workload


def references_of(workload: Workload) -> tuple[ReferenceValues, ...]:
    """Its reference values, none of which is good after the workload's end. Raises as `parse_references`."""
    return tuple(replace(one, not_after=_sooner(one.not_after, workload.not_after)) for one in _parsed(workload))


def platform_of(workload: Workload, rules: Policy) -> Policy:
    """Its own policy, or `rules` if it has none. Raises as `parse_policy`."""
    return parsed_policy(workload.platform) if workload.platform else rules


def match(
    claims: Claims, known: Iterable[Workload], rules: Policy, now: datetime
) -> tuple[Workload, AttestationResult] | None:
    """The workload that `claims` match, the first by name; if none does, the one that comes nearest, with the result
    that says in what it differs; None if no workload is known by measurement."""
    nearest: tuple[int, Workload, AttestationResult] | None = None
    for workload in sorted(known, key=lambda one: one.name):
        if not workload.references:
            continue
        result = _results.result(claims, (workload, rules), now, partial(_appraised, workload, claims, rules, now))
        differs = sum(check.outcome == "failed" for check in result.appraised)
        if not differs:
            return workload, result
        if nearest is None or differs < nearest[0]:
            nearest = differs, workload, result
    return None if nearest is None else nearest[1:]


def _appraised(workload: Workload, claims: Claims, rules: Policy, now: datetime) -> AttestationResult:
    return restricted(appraise(claims, references_of(workload), platform_of(workload, rules), now), workload)


def _sooner(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else min(one, other)


def _parsed(workload: Workload) -> tuple[ReferenceValues, ...]:
    return _references(workload.references, workload.name)


@lru_cache(maxsize=256)
def _references(text: str, name: str) -> tuple[ReferenceValues, ...]:
    return parse_references(text.encode(), f"workload {name}")
