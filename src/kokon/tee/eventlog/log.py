"""Reading event logs: the TCG's two forms, and the CCEL of confidential guests, which is the newer of them.

TCG PC Client Platform Firmware Profile, section 10: the old form has one SHA-1 digest per event (TCG_PCR_EVENT); the
crypto-agile one begins with a TCG_EfiSpecIDEvent record in the old form that lists the algorithms, and then holds
TCG_PCR_EVENT2 records with a digest for each. UEFI 2.10, section 38.4 (confidential computing) takes over the latter
with measurement register indexes 1 to 4, which are RTMR0 to RTMR3 on TDX. All integers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from kokon.errors import MalformedError
from kokon.tee.eventlog import events as words

LOG_LIMIT: Final = 1 << 20
"""Bytes in a log; firmware allots 64 to 256 KiB, Linux up to 1 MiB for the CCEL with what was appended at run time."""
EVENTS_LIMIT: Final = 20_000
REGISTERS: Final = 32
"""Register numbers below this exist: 24 PCRs in a PC's TPM, 5 measurement registers in a CCEL."""

NO_ACTION: Final = 3
"""EV_NO_ACTION: a remark, never extended."""
_NOWHERE: Final = 0xFFFFFFFF
"""The register number of remarks that concern none."""

ALGORITHMS: Final[Mapping[int, tuple[str, int]]] = {
    0x0004: ("sha1", 20),
    0x000B: ("sha256", 32),
    0x000C: ("sha384", 48),
    0x000D: ("sha512", 64),
    0x0012: ("sm3", 32),
    0x0027: ("sha3-256", 32),
    0x0028: ("sha3-384", 48),
    0x0029: ("sha3-512", 64),
}
"""Name and digest size by TPM_ALG_ID (TCG Algorithm Registry)."""

_SPEC_ID: Final = b"Spec ID Event03\0"
_LOCALITY: Final = b"StartupLocality\0"
_OLD: Final = struct.Struct("<II20sI")
_NEW: Final = struct.Struct("<III")
_U32: Final = struct.Struct("<I")
_U16: Final = struct.Struct("<H")
_ALGORITHM: Final = struct.Struct("<HH")


@dataclass(frozen=True, slots=True)
class Event:
    """One record. `index` counts from 0 in the log, `register` is the PCR or, in a CCEL, measurement register number;
    `digests` are by algorithm name ("sha1", "sha256", "sha384", "sha512", "sm3"...). `data` is only as good as
    `events.data_matches` says: mostly nothing but the digest is proven.
    """

    index: int
    register: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes

    @property
    def type_name(self) -> str:
        """The TCG's name of the type ("EV_SEPARATOR"), or its number in hex."""
        return words.type_name(self.type)

    @property
    def description(self) -> str:
        """What happened, in a few words; says so when they are not covered by the digest."""
        return words.describe(self.type, self.data, self.digests)

    @property
    def extended(self) -> bool:
        """Whether the digest went into the register."""
        return self.type != NO_ACTION


@dataclass(frozen=True, slots=True)
class EventLog:
    """A whole log. `algorithms` are those of which every event has a digest; `locality` is the one from which the TPM
    was started and with which PCR 0 therefore begins, 0 if the log names none."""

    events: tuple[Event, ...]
    algorithms: tuple[str, ...]
    locality: int = 0


def parse_event_log(data: bytes) -> EventLog:
    """A log of at most 1 MiB. What follows the last event must be 0x00 or 0xff throughout.

    Every event must carry one digest of each algorithm that the log announces: one without could be passed over in
    replay and still be shown. Raises `MalformedError` (`event-log-malformed`).
    """
    if len(data) > LOG_LIMIT:
        _malformed("it is too large", f"<= {LOG_LIMIT} bytes", len(data))
    try:
        agile = data[32:48] == _SPEC_ID and _OLD.unpack_from(data)[1] == NO_ACTION
        log = _agile(data) if agile else EventLog(_old_events(data), ("sha1",))
    except struct.error as error:
        raise MalformedError("event-log-malformed", "the event log ends within an event", found=error) from error
    if not log.events:
        _malformed("it is empty", "an event", "none")
    return EventLog(log.events, log.algorithms, _locality(log.events))


def looks_like_event_log(data: bytes) -> bool:
    """Whether bytes begin with a Spec ID event or, in the old form, are a log all of whose event types are known."""
    if data[32:48] == _SPEC_ID:
        return True
    if len(data) < _OLD.size or not _known(data):
        return False
    try:
        log = parse_event_log(data)
    except MalformedError:
        return False
    return all(event.type in words.NAMES for event in log.events)


def _known(data: bytes) -> bool:
    register, kind, _digest, size = _OLD.unpack_from(data)
    return register < REGISTERS and kind in words.NAMES and size <= len(data)


def _malformed(what: str, expected: object, found: object) -> NoReturn:
    raise MalformedError("event-log-malformed", f"the event log is malformed: {what}", expected=expected, found=found)


def _padding(data: bytes, start: int) -> bool:
    """True if nothing but filling follows."""
    return not data[start:].strip(data[start : start + 1])


def _ended(data: bytes, position: int) -> bool:
    """True at the end of the log: of the bytes, or where filling begins. Tests few bytes of a usual event."""
    first = data[position : position + 8]
    if first.strip(b"\0") and first.strip(b"\xff"):
        return False
    return _padding(data, position)


def _slice(data: bytes, position: int, size: int) -> bytes:
    if size > len(data) - position:
        _malformed("an event reaches beyond its end", f"<= {len(data) - position} bytes", size)
    return data[position : position + size]


def _register(register: int, kind: int) -> None:
    if register >= REGISTERS and not (register == _NOWHERE and kind == NO_ACTION):
        _malformed("no such register", f"< {REGISTERS}", register)


def _old_events(data: bytes) -> tuple[Event, ...]:
    events: list[Event] = []
    position = 0
    while not _ended(data, position):
        register, kind, digest, size = _OLD.unpack_from(data, position)
        content = _slice(data, position + _OLD.size, size)
        _register(register, kind)
        events.append(Event(len(events), register, kind, {"sha1": digest}, content))
        position += _OLD.size + size
        if len(events) > EVENTS_LIMIT:
            _malformed("too many events", f"<= {EVENTS_LIMIT}", "more")
    return tuple(events)


def _agile(data: bytes) -> EventLog:
    register, kind, digest, size = _OLD.unpack_from(data)
    header = _slice(data, _OLD.size, size)
    sizes = _spec_id(header)
    events = [Event(0, register, kind, {"sha1": digest}, header)]
    _register(register, kind)
    position = _OLD.size + size
    while not _ended(data, position):
        register, kind, count = _NEW.unpack_from(data, position)
        _register(register, kind)
        if count != len(sizes):
            _malformed("an event has too few or too many digests", len(sizes), count)
        digests, position = _digests(data, position + _NEW.size, sizes)
        (size,) = _U32.unpack_from(data, position)
        content = _slice(data, position + 4, size)
        events.append(Event(len(events), register, kind, digests, content))
        position += 4 + size
        if len(events) > EVENTS_LIMIT:
            _malformed("too many events", f"<= {EVENTS_LIMIT}", "more")
    return EventLog(tuple(events), tuple(name for name, _size in sizes.values()))


def _digests(data: bytes, position: int, sizes: Mapping[int, tuple[str, int]]) -> tuple[dict[str, bytes], int]:
    digests: dict[str, bytes] = {}
    for _ in range(len(sizes)):
        (algorithm,) = _U16.unpack_from(data, position)
        name, size = sizes.get(algorithm, ("", 0))
        if not name or name in digests:
            _malformed("an event has a digest twice or of an unannounced algorithm", "one of each", f"{algorithm:#x}")
        digests[name] = _slice(data, position + 2, size)
        position += 2 + size
    return digests, position


def _spec_id(header: bytes) -> dict[int, tuple[str, int]]:
    """Name and size by algorithm number, from the data of a TCG_EfiSpecIDEvent: after the signature platform class u32,
    versions (minor, major, errata), size of UINTN, number of algorithms u32, number and size of each, vendor info."""
    (count,) = _U32.unpack_from(header, 24)
    if not 0 < count <= len(ALGORITHMS):
        _malformed("unlikely number of algorithms", f"1..{len(ALGORITHMS)}", count)
    sizes: dict[int, tuple[str, int]] = {}
    for index in range(count):
        number, size = _ALGORITHM.unpack_from(header, 28 + 4 * index)
        name, right = ALGORITHMS.get(number, ("", 0))
        if size != right or number in sizes:
            _malformed(
                "an algorithm is unknown, named twice or of a wrong size", f"{name} {right}", f"{number:#x} {size}"
            )
        sizes[number] = name, size
    end = 28 + 4 * count
    if len(header) != end + 1 + header[end : end + 1].ljust(1, b"\0")[0]:
        _malformed("its first event has a wrong size", end + 1, len(header))
    return sizes


def _locality(events: tuple[Event, ...]) -> int:
    """From the StartupLocality remark, of which there is at most one, before anything went into PCR 0 (TCG PFP,
    10.4.5.3)."""
    found: int | None = None
    begun = False
    for event in events:
        if event.extended:
            begun = begun or event.register == 0
        elif event.data.startswith(_LOCALITY):
            if found is not None or begun or len(event.data) != len(_LOCALITY) + 1 or event.data[-1] > 4:
                _malformed("a misplaced StartupLocality", "one, before PCR 0 is extended, 0..4", event.data[-1])
            found = event.data[-1]
    return found or 0
