"""From a log to register values, and what is wrong when they differ from those that were signed.

A register can only be extended: new = H(old || digest). So a log that leads to the quoted value lists exactly the
digests that went in, in their order within that register. It proves nothing about the order between registers, about
event types, and about event data except where `events.data_matches` is True.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from kokon.errors import MalformedError
from kokon.tee.eventlog.log import NO_ACTION, Event, EventLog
from kokon.tee.evidence import Check, failed, not_checked, passed

_HASHES: Final[Mapping[str, Any]] = {
    "sha1": lambda data: hashlib.sha1(data, usedforsecurity=False),
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}
SIZES: Final[Mapping[str, int]] = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
"""Digest sizes of the algorithms that can be replayed."""
_SEARCH_LIMIT: Final = 200
"""Events of one register among which the one that does not belong is looked for."""


def _usable(log: EventLog, algorithm: str) -> bool:
    return algorithm in SIZES and algorithm in log.algorithms


def replay(log: EventLog, algorithm: str) -> dict[int, bytes]:
    """Final values of all registers that the log extends, by number.

    Registers begin at zero; PCR 0 ends in the startup locality. Raises `MalformedError` (`event-log-algorithm`) for an
    algorithm of which the log has no digests.
    """
    if not _usable(log, algorithm):
        found = ", ".join(log.algorithms)
        raise MalformedError("event-log-algorithm", "no such digests in the log", expected=algorithm, found=found)
    digest = _HASHES[algorithm]
    registers: dict[int, bytes] = {}
    for event in log.events:
        if event.type != NO_ACTION:
            register = event.register
            value = registers.get(register) or _start(log, algorithm, register)
            registers[register] = digest(value + event.digests[algorithm]).digest()
    return registers


def _start(log: EventLog, algorithm: str, register: int) -> bytes:
    return bytes(SIZES[algorithm] - 1) + bytes([log.locality if register == 0 else 0])


def replay_check(
    log: EventLog, algorithm: str, registers: Mapping[int, bytes], names: Mapping[int, str]
) -> Iterator[Check]:
    """One check for each of `registers`, the signed values by number; `names` are theirs ("rtmr0", "pcr4").

    `event-log-mismatch` if the log leads to another value. A register that the log never extends is passed if it holds
    an initial value, else `event-log-silent`: whoever extended it wrote elsewhere (IMA into PCR 10, a run time log).
    `event-log-unproven` names registers of the log that were not signed: nothing the log says of them is proven.
    """
    if not _usable(log, algorithm):
        found = ", ".join(log.algorithms)
        yield not_checked("event log", "event-log-algorithm", f"the log has no {algorithm} digests", found=found)
        return
    replayed = replay(log, algorithm)
    for register, value in sorted(registers.items()):
        name = f"event log: {names.get(register, register)}"
        if register in replayed:
            yield _compare(log, algorithm, register, name, value, replayed[register])
        elif value in (_start(log, algorithm, register), b"\xff" * len(value)):
            yield passed(name, "never extended")
        else:
            yield not_checked(name, "event-log-silent", "extended by what this log does not list", found=value.hex())
    unproven = sorted(set(replayed) - set(registers))
    if unproven:
        listed = ", ".join(names.get(register, str(register)) for register in unproven)
        hint = "do not rely on these events: the quote does not cover their registers"
        yield not_checked("event log: other registers", "event-log-unproven", hint, found=listed)


def _compare(log: EventLog, algorithm: str, register: int, name: str, value: bytes, replayed: bytes) -> Check:
    if value == replayed:
        return passed(name, value.hex())
    hint = _explain(log, algorithm, register, value)
    return failed(name, "event-log-mismatch", expected=value.hex(), found=replayed.hex(), hint=hint)


def _explain(log: EventLog, algorithm: str, register: int, value: bytes) -> str:
    """Where the log parts from the register, if one event that was added or left over at the end explains it."""
    events = [event for event in log.events if event.extended and event.register == register]
    start = _start(log, algorithm, register)
    if value == start:
        return "nothing was ever measured into it: the log's events for it are made up"
    digests = [event.digests[algorithm] for event in events]
    before = [start]
    for digest in digests:
        before.append(_extend(algorithm, before[-1], (digest,)))
    if value in before:
        return f"the register stops before {_name(events[before.index(value)])}: that event was not measured"
    if len(events) <= _SEARCH_LIMIT:
        for index, event in enumerate(events):
            if _extend(algorithm, before[index], digests[index + 1 :]) == value:
                return f"without {_name(event)} it would match: that event was not measured"
    return "an event was changed, or one that was measured is missing; the log does not show which"


def _extend(algorithm: str, value: bytes, digests: tuple[bytes, ...] | list[bytes]) -> bytes:
    digest = _HASHES[algorithm]
    for item in digests:
        value = digest(value + item).digest()
    return value


def _name(event: Event) -> str:
    return f"event {event.index} ({event.type_name}: {event.description})"
