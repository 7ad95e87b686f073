"""Event logs as Confidential Containers' attestation service shows them to policies, `uefi_event_logs`. Pure.

Only digests are proven, and only those that lead to a register that the hardware signed: `proven_events` leaves out the
rest, which anybody can write into a log. What an event's data says beside its digests, the name of a file for one, was
written by whoever keeps the log: policies must ask for the digest too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from kokon.tee.eventlog.events import data_matches
from kokon.tee.eventlog.log import Event, EventLog
from kokon.tee.eventlog.replay import SIZES, replay
from kokon.tee.evidence import Claims

EVENTS_LIMIT: Final = 2000
TEXT_LIMIT: Final = 4096
_IMAGES: Final = (0x80000003, 0x80000004, 0x80000005)
_TAG: Final = 6
_TAG_HEAD: Final = struct.Struct("<II")
_IMAGE_HEAD: Final = 32
"""UEFI_IMAGE_LOAD_EVENT before its device path (TCG PC Client Platform Firmware Profile, 10.2.3)."""
_NODE: Final = struct.Struct("<BBH")
_FILE: Final = (4, 4)
_END: Final = 0x7F
"""Device path nodes (UEFI 2.10, 10.3)."""
_ALGORITHMS: Final = {"sha1": "SHA-1", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512", "sm3": "SM3"}


def proven_events(log: EventLog, claims: Claims) -> EventLog:
    """The events of `log` that were extended into registers whose signed value the log leads to, each with the digests
    of such banks alone."""
    proven = {
        (algorithm, register)
        for algorithm in log.algorithms
        if algorithm in SIZES
        for register, value in replay(log, algorithm).items()
        if claims.registers.get(_register(claims.tee, algorithm, register)) == value
    }
    return replace(log, events=tuple(_proven(event, proven) for event in log.events if _counts(event, proven)))


def _register(tee: str, algorithm: str, register: int) -> str:
    """A register's name in claims. In a log of TDX, 1 to 4 are the RTMRs (UEFI 2.10, 38.4.1), whose hash is SHA-384."""
    if tee == "tdx":
        return f"rtmr{register - 1}" if algorithm == "sha384" else ""
    return f"{algorithm}:pcr{register}"


def _counts(event: Event, proven: set[tuple[str, int]]) -> bool:
    return event.extended and any((algorithm, event.register) in proven for algorithm in event.digests)


def _proven(event: Event, proven: set[tuple[str, int]]) -> Event:
    digests = {name: digest for name, digest in event.digests.items() if (name, event.register) in proven}
    return replace(event, digests=digests)


def event_claims(log: EventLog) -> list[dict[str, Any]]:
    """The events, at most 2,000 of them."""
    return [_event(event) for event in log.events[:EVENTS_LIMIT]]


def _event(event: Event) -> dict[str, Any]:
    return {
        "index": event.register,
        "event_type": event.type_name,
        "type_name": event.type_name,
        "digest_matches_event": data_matches(event) is True,
        "digests": [
            {"alg": _ALGORITHMS.get(name, name), "digest": digest.hex()} for name, digest in event.digests.items()
        ],
        "details": _details(event),
    }


def _details(event: Event) -> dict[str, Any]:
    if event.type in _IMAGES:
        return {"device_paths": [f"File({name})" for name in _files(event.data[_IMAGE_HEAD:])]}
    data = event.data[_TAG_HEAD.size :] if event.type == _TAG else event.data
    text = _text(data)
    return {} if text is None else {"string": text}


def _files(data: bytes) -> Iterator[str]:
    """File names in a device path."""
    place = 0
    while place + _NODE.size <= len(data):
        kind, subtype, size = _NODE.unpack_from(data, place)
        if kind == _END or size < _NODE.size:
            return
        if (kind, subtype) == _FILE:
            name = data[place + _NODE.size : place + size]
            yield name[: len(name) & ~1].decode("utf-16-le", "replace").rstrip("\0")[:TEXT_LIMIT]
        place += size


def _text(data: bytes) -> str | None:
    """Printable text, in UTF-8 or UTF-16; None for what is none."""
    for encoding in ("utf-8", "utf-16-le"):
        try:
            text = data[:TEXT_LIMIT].decode(encoding).rstrip("\0")
        except UnicodeDecodeError:
            continue
        if text and text.isprintable():
            return text
    return None
