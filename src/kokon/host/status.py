"""What the guest says about its progress: lines of JSON that QEMU appends to a file of the container.

A line is `{"t": seconds since the kernel began, "phase": ..., ...}`. The guest wrote it, so it is read with bounds, and
what is no status line is passed over. It never carries a secret: the host reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kokon.errors import (
    DeniedError,
    HostError,
    InternalError,
    KokonError,
    MalformedError,
    StaleError,
    UnreachableError,
    UntrustedError,
    UsageError,
)
from kokon.host.reasons import REASONS
from kokon.wire import parse_json

LINE_LIMIT = 8 << 10
FILE_LIMIT = 256 << 10
"""Bytes of a status file that are ever looked at; a guest that writes more is not listened to any longer."""

_TEXT_LIMIT = 500
_KINDS = {
    error.kind: error
    for error in (DeniedError, HostError, InternalError, MalformedError, StaleError, UnreachableError, UntrustedError)
} | {UsageError.kind: UsageError}


@dataclass(frozen=True, slots=True)
class Status:
    """One step of the guest: `seconds` since its kernel began, the phase, why it `failed`, or the code of `exited`."""

    seconds: float
    phase: str
    code: str | None = None
    kind: str | None = None
    message: str | None = None
    expected: str | None = None
    found: str | None = None
    hint: str | None = None
    exit: int | None = None

    @property
    def final(self) -> bool:
        """Whether nothing comes after this."""
        return self.phase in ("exited", "failed")


def parse_status(line: bytes) -> Status | None:
    """One line of the guest, without its line end; None if it is no status line."""
    try:
        value = parse_json(line, limit=LINE_LIMIT, what="status line")
    except MalformedError:
        return None
    if not isinstance(value, dict):
        return None
    seconds, phase = value.get("t"), _text(value, "phase")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < 1e9 or not phase:
        return None
    code = value.get("exit")
    return Status(
        seconds=float(seconds),
        phase=phase,
        **{name: _text(value, name) for name in ("code", "kind", "message", "expected", "found", "hint")},
        exit=code if isinstance(code, int) and not isinstance(code, bool) and 0 <= code <= 255 else None,
    )


def _text(value: dict[str, Any], name: str) -> str | None:
    text = value.get(name)
    # What the guest wrote may end on a terminal: no control characters.
    return shown(text[:_TEXT_LIMIT]) if isinstance(text, str) and text else None


def shown(text: str) -> str:
    """`text` with a replacement character for each one that a terminal might act on."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


class StatusReader:
    """Reads a status file from where it stopped last time; the file may not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> Iterator[Status]:
        """Status lines that are complete and were not read before."""
        *lines, rest = self._read_on().split(b"\n")
        for line in lines:
            self._offset += len(line) + 1
            status = parse_status(line)
            if status is not None:
                yield status
        # An overlong line without an end is passed over piece by piece; its pieces are no JSON.
        self._offset += len(rest) if len(rest) > LINE_LIMIT else 0

    def _read_on(self) -> bytes:
        if self._offset >= FILE_LIMIT:
            return b""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return b""
        try:
            return os.pread(handle, FILE_LIMIT - self._offset, self._offset)
        except OSError:
            return b""
        finally:
            os.close(handle)


def last_status(path: Path) -> Status | None:
    """The latest status line in the file `path`; a final one stays the last whatever follows."""
    latest = None
    for latest in StatusReader(path).read():
        if latest.final:
            break
    return latest


def guest_error(status: Status) -> KokonError:
    """The guest's reason for failing as an error with the guest's own code, of the kind that the guest says."""
    hint = status.hint or "if the guest had attested, the owner's log has the details: kokon log"
    if status.code is None:
        return DeniedError("guest-failed", "the guest gave up without a reason", hint=hint)
    return relayed_error(
        {
            "kind": status.kind or DeniedError.kind,
            "code": status.code,
            "message": REASONS.get(status.code) or status.message or "the guest gave up",
            "expected": status.expected,
            "found": status.found,
            "hint": hint,
        }
    )


def relayed_error(members: Mapping[str, Any]) -> KokonError:
    """The error of another process, from what `KokonError.as_dict` gave there; members of a wrong type are dropped."""
    texts = {name: _text(dict(members), name) for name in ("code", "message", "expected", "found", "hint")}
    kind = members.get("kind")
    return _KINDS.get(kind if isinstance(kind, str) else "", InternalError)(
        texts["code"] or "internal-error",
        texts["message"] or "another process failed without a reason",
        expected=texts["expected"],
        found=texts["found"],
        hint=texts["hint"],
    )
