"""Which input or event explains a TD's registers that are not the expected ones. Pure.

An event log whose replay gives the quoted register names every extension, so the first one that differs is known for
certain. Without a log this tries, as for SNP, the inputs that are commonly wrong and the alternatives that the caller
knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.eventlog.log import Event, EventLog
from kokon.tee.eventlog.replay import replay
from kokon.tee.explanation import Explanation, Finding, first_difference
from kokon.tee.tdx.measure import (
    DirectBoot,
    ExpectedEvent,
    measure_boot,
    mrtd,
    replayed,
    rtmr2_events,
)
from kokon.tee.tdx.tdvf import TdvfSection, configuration_volume

FIRST_REGISTER: Final = 1
"""Register number of RTMR0 in a CCEL (UEFI 2.10, 38.4)."""
ALGORITHM: Final = "sha384"
NAMES: Final = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
MEMORIES: Final = (None, 512 << 20, 1 << 30, 3 << 29, 4 << 30, 5 << 29)
"""Sizes of memory that are tried: 2 GiB and all from 2.75 GiB on give the kernel's header the same address as 4 GiB.
None: the header is not changed."""
DESCRIPTION_LIMIT: Final = 200
"""Characters of an event's description that are shown whole."""
_PLATFORM_BLOB: Final = 0x8000000A


@dataclass(frozen=True, slots=True)
class TdxReference:
    """What was expected, as far as it is known. `log` is that of a launch that was as it should be."""

    firmware: tuple[TdvfSection, ...] | None = None
    boot: DirectBoot | None = None
    log: EventLog | None = None


@dataclass(frozen=True, slots=True)
class TdxAlternatives:
    """What else may have been launched: names for people and contents."""

    firmwares: tuple[tuple[str, tuple[TdvfSection, ...]], ...] = ()
    kernels: tuple[tuple[str, bytes], ...] = ()
    initrds: tuple[tuple[str, bytes], ...] = ()
    cmdlines: tuple[str, ...] = ()


def _brief(digest: bytes) -> str:
    return f"sha384:{digest.hex()[:16]}"


def explain_tdx(
    found: Mapping[str, bytes],
    reference: TdxReference,
    log: EventLog | None = None,
    alternatives: TdxAlternatives = TdxAlternatives(),
) -> Explanation:
    """What differs between `found` (registers by name: "mrtd", "rtmr0"...; `log` is their log) and the reference.

    Raises `MalformedError` if the reference itself is impossible (codes of `measure_boot`).
    """
    findings: list[Finding] = []
    trusted = _proven(log, found)
    if log is not None:
        findings += [
            Finding(f"event log, {name}", found[name].hex(), "a log that leads to another value")
            for name in NAMES
            if name in found and name not in trusted and _events(log, name)
        ]
    if reference.firmware is not None and "mrtd" in found:
        findings += _explain_mrtd(found["mrtd"], reference.firmware, alternatives)
        findings += _explain_variables(trusted.get("rtmr0", ()), reference.firmware)
    if reference.log is not None and log is not None:
        findings += _compare_logs(reference.log, log, [name for name in NAMES if name in trusted])
    if reference.boot is not None:
        for name, events in measure_boot(reference.boot).items():
            if name in found:
                findings += _explain_register(
                    name, found[name], events, trusted.get(name), reference.boot, alternatives
                )
    tried = "firmware's page order, separator, kernel header as QEMU changes it, other white space in the command line"
    return Explanation(matches=not findings, findings=tuple(dict.fromkeys(findings)), tried=tried)


def _events(log: EventLog, name: str) -> tuple[Event, ...]:
    register = FIRST_REGISTER + NAMES.index(name)
    return tuple(event for event in log.events if event.register == register and event.extended)


def _proven(log: EventLog | None, found: Mapping[str, bytes]) -> dict[str, tuple[Event, ...]]:
    """The events of each register whose replay gives the register's value."""
    if log is None or ALGORITHM not in log.algorithms:
        return {}
    values = replay(log, ALGORITHM)
    return {
        name: _events(log, name)
        for index, name in enumerate(NAMES)
        if name in found and values.get(FIRST_REGISTER + index) == found[name]
    }


def _explain_mrtd(found: bytes, firmware: tuple[TdvfSection, ...], alternatives: TdxAlternatives) -> Iterator[Finding]:
    expected = mrtd(firmware)
    if found in (expected, mrtd(firmware, "section")):
        return
    for name, sections in alternatives.firmwares:
        if found in (mrtd(sections), mrtd(sections, "section")):
            yield Finding("firmware", _brief(expected), name)
            return
    yield Finding("firmware (mrtd)", expected.hex(), found.hex())


def _explain_variables(events: Sequence[Event], firmware: tuple[TdvfSection, ...]) -> Iterator[Finding]:
    """The configuration volume is the first firmware blob that RTMR0 covers."""
    volume = configuration_volume(firmware)
    blob = next((event for event in events if event.type == _PLATFORM_BLOB), None)
    if volume is not None and blob is not None:
        expected = hashlib.sha384(volume).digest()
        if blob.digests[ALGORITHM] != expected:
            yield Finding(
                "firmware variables (configuration volume)", _brief(expected), _brief(blob.digests[ALGORITHM])
            )


def _compare_logs(expected: EventLog, found: EventLog, names: Sequence[str]) -> Iterator[Finding]:
    """For each register the first event that differs."""
    for name in names:
        left, right = _events(expected, name), _events(found, name)
        pairs = zip(left, right, strict=False)
        index = next(
            (i for i, (a, b) in enumerate(pairs) if a.digests.get(ALGORITHM) != b.digests[ALGORITHM]),
            min(len(left), len(right)),
        )
        if index == len(left) == len(right):
            continue
        yield Finding(f"{name}, extension {index}", *_described(left[index : index + 1], right[index : index + 1]))


def _described(left: Sequence[Event], right: Sequence[Event]) -> tuple[str, str]:
    texts = [f"{e[0].type_name}: {e[0].description}" if e else "no further event" for e in (left, right)]
    if texts[0] == texts[1]:
        digests = [event.digests[ALGORITHM] for pair in (left, right) for event in pair]
        texts = [f"{text[:200]} ({_brief(digest)})" for text, digest in zip(texts, digests, strict=True)]
    elif max(map(len, texts)) > DESCRIPTION_LIMIT:
        return first_difference(texts[0], texts[1], around=80)
    return texts[0], texts[1]


def _explain_register(
    name: str,
    found: bytes,
    events: tuple[ExpectedEvent, ...],
    logged: Sequence[Event] | None,
    boot: DirectBoot,
    alternatives: TdxAlternatives,
) -> Iterator[Finding]:
    if replayed(events) == found:
        return
    for what, other in _other_boots(name, boot, alternatives):
        if replayed(other) == found:
            yield from what
            return
    if logged is None:
        parts = "kernel" if name == "rtmr1" else "command line or initrd"
        yield Finding(f"{name} ({parts}; only an event log can tell more)", replayed(events).hex(), found.hex())
        return
    digests = [event.digests[ALGORITHM] for event in logged]
    for index, event in enumerate(events):
        if index >= len(digests):
            yield Finding(f"{name}, {event.what}", _brief(event.digest), "nothing measured")
            return
        if digests[index] != event.digest:
            yield Finding(
                f"{name}, {event.what}", _brief(event.digest), f"{logged[index].description} ({_brief(digests[index])})"
            )
            return
    yield Finding(f"{name}, end", "no further event", logged[len(events)].description)


def _other_boots(
    name: str, boot: DirectBoot, alternatives: TdxAlternatives
) -> Iterator[tuple[tuple[Finding, ...], tuple[ExpectedEvent, ...]]]:
    """Launches of which one input or two differ, as what that is and the register's events."""
    if name == "rtmr1":
        yield from _other_kernels(boot, alternatives)
        return
    initrds = [
        (None, "expected one", boot.initrd),
        *((content, label, content) for label, content in alternatives.initrds),
    ]
    initrds.append((b"", "none", None))
    for text in dict.fromkeys((boot.cmdline, *_cmdlines(boot.cmdline), *alternatives.cmdlines)):
        for changed, label, content in initrds:
            what: tuple[Finding, ...] = ()
            if text != boot.cmdline:
                what += (Finding("cmdline", *first_difference(boot.cmdline, text)),)
            if changed is not None:
                what += (Finding("initrd", _brief(hashlib.sha384(boot.initrd or b"").digest()), label),)
            try:
                events = rtmr2_events(text, content)
            except MalformedError:
                continue  # no guest can have been given such a command line
            yield what, events


def _cmdlines(text: str) -> tuple[str, ...]:
    return ("", text.strip(), f"{text} ", f"{text}\n", f" {text}", " ".join(text.split()))


def _other_kernels(
    boot: DirectBoot, alternatives: TdxAlternatives
) -> Iterator[tuple[tuple[Finding, ...], tuple[ExpectedEvent, ...]]]:
    for label, kernel in (("", boot.kernel), *alternatives.kernels):
        for memory in dict.fromkeys((boot.memory, *MEMORIES)):
            for separator in (boot.separator, not boot.separator):
                other = replace(boot, kernel=kernel, memory=memory, separator=separator)
                try:
                    events = measure_boot(other)["rtmr1"]
                except MalformedError:
                    continue  # not a kernel that could have been booted like this
                yield tuple(_kernel_findings(boot, other, label)), events


def _kernel_findings(expected: DirectBoot, found: DirectBoot, label: str) -> Iterator[Finding]:
    if label:
        yield Finding("kernel", _brief(hashlib.sha384(expected.kernel).digest()), label)
    if found.memory != expected.memory:
        yield Finding("kernel header", _header(expected.memory), _header(found.memory))
    if found.separator != expected.separator:
        yield Finding(
            "separator", "in rtmr1" if expected.separator else "in rtmr0", "in rtmr1" if found.separator else "in rtmr0"
        )


def _header(memory: int | None) -> str:
    return "as in the file" if memory is None else f"as QEMU changes it for {memory >> 20} MiB of memory"
