"""What a project admits and demands: its workloads and policies, read once for each change of its records."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kokon.appraisal.policy_file import parse_policy
from kokon.provisioning.database.values import busy
from kokon.provisioning.history import decode_text
from kokon.provisioning.rego.judge import RegoPolicies
from kokon.provisioning.rego.reference import decode_value
from kokon.provisioning.rules.compose import assemble
from kokon.provisioning.rules.record import Release, decode_release
from kokon.provisioning.workload import Workload, decode_workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from kokon.appraisal.policy import Policy
    from kokon.provisioning.database.catalogue import Snapshot
    from kokon.provisioning.database.store import Store

WORKLOAD = "workload"
RELEASE = "release"
PLATFORM_POLICY = "platform-policy"
ATTESTATION_POLICY = "attestation-policy"
RESOURCE_POLICY = "resource-policy"
REFERENCE = "reference"
SECRET = "secret"  # noqa: S105
PROJECTS = 256
"""Catalogues kept at once."""
_LOOKS = 4


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A project at one `generation` of its records.

    `workloads` by name, `pinned` by the digest of the launch document that they have, `policy` for every platform,
    `rego` for guests of no workload, `epochs` at which version of its record each workload began.
    """

    project: str
    generation: int
    workloads: Mapping[str, Workload]
    pinned: Mapping[bytes, Workload]
    policy: Policy
    rego: RegoPolicies
    epochs: Mapping[str, int] = field(default_factory=dict)

    def activations(self, workload: Workload) -> str:
        """The name of the counter of its activations; another one once it was withdrawn and admitted again."""
        return f"activations/{workload.name}/{self.epochs.get(workload.name, 0)}"


class Catalogues:
    """The catalogues of all projects, made when they are asked for. Calls are safe from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[Policy, Catalogue]] = OrderedDict()
        self._decoded: dict[str, dict[str, dict[str, tuple[bytes, Any]]]] = {}

    def of(self, project: str, rules: Policy) -> Catalogue:
        """The catalogue of `project`, whose own policy, if it has one, stands in the place of `rules`.

        Raises as the store does, and as records and policies are parsed.
        """
        known = self.known(project, rules)
        if known is not None:
            return known
        with self._lock:
            made = self._make(project, rules)
            self._known[project] = (rules, made)
            self._known.move_to_end(project)
            while len(self._known) > PROJECTS:
                dropped, _ = self._known.popitem(last=False)
                self._decoded.pop(dropped, None)
            return made

    def known(self, project: str, rules: Policy) -> Catalogue | None:
        """The catalogue, if it is to be had without the database."""
        known = self._known.get(project)
        generation = self._store.snapshot(project).generation
        return known[1] if known is not None and known[0] is rules and known[1].generation == generation else None

    def _make(self, project: str, rules: Policy) -> Catalogue:
        """Made of one snapshot: if a record is gone before it was read, of the next one.

        Raises `HostError` (`store-busy`) if that happens again and again: of a half nothing is decided.
        """
        for _ in range(_LOOKS):
            snapshot = self._store.snapshot(project)
            workloads = self._records(snapshot, WORKLOAD, decode_workload)
            releases = self._records(snapshot, RELEASE, decode_release)
            policies = self._records(snapshot, PLATFORM_POLICY, read_platform_policy)
            rego = self._rego(snapshot)
            if workloads is not None and releases is not None and policies is not None and rego is not None:
                whole = {name: _whole(one, releases) for name, one in workloads.items()}
                return _catalogue(snapshot, whole, policies.get("default", rules), rego)
        raise busy()

    def _rego(self, snapshot: Snapshot) -> RegoPolicies | None:
        attestation = self._records(snapshot, ATTESTATION_POLICY, read_text)
        resource = self._records(snapshot, RESOURCE_POLICY, read_text)
        references = self._records(snapshot, REFERENCE, decode_value)
        if attestation is None or resource is None or references is None:
            return None
        return RegoPolicies(attestation, resource, references)

    def _records(self, snapshot: Snapshot, kind: str, decode: Callable[[bytes], Any]) -> dict[str, Any] | None:
        """The newest version of each record, decoded; None if one is gone."""
        decoded = self._decoded.setdefault(snapshot.project, {})
        before = decoded.get(kind, {})
        found: dict[str, tuple[bytes, Any]] = {}
        for name in snapshot.names(kind):
            meta = snapshot.get(kind, name)
            digest, value = before.get(name, (b"", None))
            if meta is None or digest != meta.digest:
                record = self._store.read(snapshot.project, kind, name, meta.version) if meta else None
                if meta is None or record is None:
                    return None
                digest, value = meta.digest, decode(record)
            found[name] = digest, value
        decoded[kind] = found
        return {name: value for name, (_, value) in found.items()}


def read_platform_policy(record: bytes) -> Policy:
    """The policy in a record of that kind. Raises as `parse_policy`, `parse_versioned`."""
    return parse_policy(decode_text(record).text.encode())


def read_text(record: bytes) -> str:
    """The text in a record of a Rego policy. Raises as `decode_text`."""
    return decode_text(record).text


def _whole(workload: Workload, releases: Mapping[str, Release]) -> Workload:
    """The workload; one that has a rule with the releases that were let in by it."""
    return assemble(workload, releases.values()) if workload.rule else workload


def _catalogue(snapshot: Snapshot, workloads: Mapping[str, Workload], policy: Policy, rego: RegoPolicies) -> Catalogue:
    every = [one for workload in workloads.values() for one in (workload, *workload.releases)]
    pinned = {one.host_data: one for one in every if one.host_data}
    epochs = {name: snapshot.versions(WORKLOAD, name)[0].version for name in workloads}
    return Catalogue(
        snapshot.project,
        snapshot.generation,
        MappingProxyType(dict(workloads)),
        MappingProxyType(pinned),
        policy,
        rego,
        MappingProxyType(epochs),
    )
