"""What enclaves are judged by: rule and release as one workload."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from kokon.provisioning.rules.rule import decode_rule, encode_rule
from kokon.provisioning.rules.standing import check_standing
from kokon.provisioning.workload import Workload

if TYPE_CHECKING:
    from kokon.provisioning.rules.record import Release
    from kokon.provisioning.rules.rule import Rule


def workload_of(rule: Rule, now: datetime) -> Workload:
    """The workload to remember for a rule. By itself it is nobody's: `assemble` gives it its releases."""
    return Workload(
        name=rule.name,
        rule=encode_rule(rule),
        resources=rule.granted(),
        not_after=rule.not_after,
        admitted=now,
        platform=rule.policy,
        tees=rule.tees,
        chips=rule.chips,
        max_activations=rule.max_activations,
    )


def assemble(workload: Workload, releases: Iterable[Release]) -> Workload:
    """The workload of a rule with its releases, the oldest first. Others' releases are left out.

    Raises as `decode_rule`.
    """
    rule = decode_rule(workload.rule)
    own = [release for release in releases if release.workload == workload.name]
    ordered = sorted(own, key=lambda release: (release.added, release.host_data))
    return replace(workload, releases=tuple(compose(rule, release) for release in ordered))


def compose(rule: Rule, release: Release) -> Workload:
    """The workload that enclaves with the release's launch document are, under the rule as it is now.

    Its `standing` says whether the rule still lets the release in: if a check there failed, nobody gets anything.
    """
    return Workload(
        name=rule.name,
        document=release.document,
        host_data=release.host_data,
        image=release.image,
        author=release.author,
        author_name=release.author_name,
        statement=release.statement,
        measurements=release.measurements,
        not_after=min(rule.not_after, release.not_after),
        resources=tuple(dict.fromkeys((release.kek_path, *rule.granted()))),
        admitted=release.added,
        admitted_by=release.added_by,
        platform=rule.policy,
        tees=rule.tees,
        chips=rule.chips,
        max_activations=rule.max_activations,
        version=release.version,
        certified_by=release.certified_by,
        standing=check_standing(rule, release),
    )
