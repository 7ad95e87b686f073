"""What clients saw, and whether it and the log agree: the promises that must hold whatever happened.

* Every token and every secret that a client got is in the log.
* Nothing is in the log as released but under a token that the log has as granted before, for a workload that was
  admitted at that moment and may have it.
* No workload was activated more often than it may be.
* Every change that was acknowledged is in the log, and the record is there.
* The log goes on from the head that was kept from before, and all its entries are those that its head stands for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.load.fleet import Fleet
from kokon.provisioning.client import AdminClient
from kokon.provisioning.ledger.audit import verify_export


class BrokenPromise(Exception):  # noqa: N818 - what is broken is a promise
    """Something happened that must not happen."""


@dataclass(slots=True)
class Seen:
    """What all clients of one scenario saw. For one thread, or one event loop.

    `granted`: token ids; `released`: how often (token id, path); `written`: the versions of each path whose write was
    acknowledged; `statuses`: of all answers; `seconds`: of each whole handshake; `broken`: what was wrong at once.
    """

    granted: set[str] = field(default_factory=set)
    released: Counter[tuple[str, str]] = field(default_factory=Counter)
    written: dict[str, list[int]] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    seconds: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def wrong(self, text: str) -> None:
        """Note something that must not happen; the first hundred are kept."""
        if len(self.broken) < 100:
            self.broken.append(text)

    def quantile(self, part: float) -> float:
        """The handshake time that `part` of all do not exceed, in seconds."""
        if not self.seconds:
            return 0.0
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Audited:
    """A log that was read whole and found right: entries, and how many there are of each event."""

    size: int
    events: Mapping[str, int]


@dataclass(slots=True)
class _Ledger:
    """What the log's entries come to, read in order."""

    granted: dict[str, str] = field(default_factory=dict)
    released: Counter[tuple[str, str]] = field(default_factory=Counter)
    admitted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    activations: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    puts: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def take(self, entry: dict[str, Any]) -> None:
        event = entry["event"]
        self.events[event] += 1
        name = entry.get("workload", "")
        if event == "workload-admitted":
            if name not in self.admitted:
                self.activations[name] = 0
            self.admitted[name] = tuple(entry["resources"])
        elif event == "workload-withdrawn":
            self.admitted.pop(name, None)
        elif event == "attestation-granted":
            self._granted(entry, name)
        elif event == "resource-released":
            self._released(entry, name)
        elif event in ("resource-put", "resource-rotated"):
            self.puts[entry["resource"]] += 1

    def _granted(self, entry: dict[str, Any], name: str) -> None:
        if name not in self.admitted:
            self.broken.append(f"granted for {name!r}, which is not admitted")
        if entry["token"] in self.granted:
            self.broken.append("granted the same token twice")
        self.granted[entry["token"]] = name
        self.activations[name] += 1
        self.most[name] = max(self.most[name], self.activations[name])

    def _released(self, entry: dict[str, Any], name: str) -> None:
        token, path = entry["token"], entry["resource"]
        self.released[token, path] += 1
        if self.granted.get(token) != name:
            self.broken.append(f"released {path} under a token that was not granted to {name!r} before")
        if path not in self.admitted.get(name, ()):
            self.broken.append(f"released {path} to {name!r}, which may not have it")


def audit(fleet: Fleet, seen: Seen, limits: Mapping[str, int] = {}) -> Audited:
    """Read the whole log from a replica that runs and compare; `limits` are the most activations of workloads.

    Raises `BrokenPromise`, and `KokonError` as `verify_export`.
    """
    ledger = _Ledger()
    with fleet.admin(timeout=120.0) as admin:
        audited = verify_export(_watched(_lines(admin.export()), ledger), [fleet.key], fleet.head)
        there = {one["path"]: one["versions"] for one in admin.secrets()}
    broken = [*seen.broken, *ledger.broken]
    missing = seen.granted - ledger.granted.keys()
    broken += [f"a client has a token that the log does not have: {one}" for one in sorted(missing)]
    broken += [f"a client has {path}, and the log does not say so" for _, path in seen.released - ledger.released]
    for path, versions in seen.written.items():
        if ledger.puts[path] < len(versions):
            broken.append(f"{len(versions)} writes of {path} were acknowledged, the log has {ledger.puts[path]}")
        if not set(versions) <= set(there.get(path, ())):
            broken.append(f"versions {versions} of {path} were acknowledged, and {there.get(path)} are there")
    broken += [f"{name}: {ledger.most[name]} activations" for name, most in limits.items() if ledger.most[name] > most]
    broken += _bugs(fleet)
    if broken:
        raise BrokenPromise("\n".join(broken[:50]))
    return Audited(audited.size, dict(ledger.events))


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest


def _watched(lines: Iterator[bytes], ledger: _Ledger) -> Iterator[bytes]:
    """The lines as they are; each entry is shown to the ledger on its way to the verifier."""
    for number, line in enumerate(lines):
        if number and line.startswith(b"{"):
            ledger.take(json.loads(line))
        yield line


def _bugs(fleet: Fleet) -> list[str]:
    """What replicas wrote down that only a bug writes."""
    found = []
    for replica in fleet.replicas:
        text = replica.log.read_text(errors="replace") if replica.log.exists() else ""
        for word in ("Traceback", "store-bug", "Task exception was never retrieved"):
            if word in text:
                at = text.index(word)
                found.append(f"{replica.log.name} has {word}: ...{text[max(0, at - 300) : at + 1500]}")
    return found


def acknowledged(seen: Seen, path: str, admin: AdminClient, value: bytes) -> int:
    """Put a secret and remember that it was acknowledged; its version. Raises as the client."""
    version = admin.put(path, value)
    seen.written.setdefault(path, []).append(version)
    return version
