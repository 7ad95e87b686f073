"""What the guest tells the untrusted host about its progress: a closed vocabulary, one JSON object per line.

A line has `t` (seconds since the kernel started) and `phase`. `failed` adds `kind` and `code`; if the provisioning
server refused, its code as `found` and a `hint` with the denial's id. `exited` adds `exit` and, where a signal ended
the application, `signal`. No member can carry text that comes from the application, an image or an exception.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import deque

from kokon.errors import InternalError, KokonError

PHASES = ("agent-ready", "attested", "pulled", "unsealed", "provisioned", "started", "serving", "exited", "failed")
KINDS = frozenset(kind.kind for kind in KokonError.__subclasses__()) | {"internal"}
INTERNAL = "internal-error"
_CODE = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_DENIAL = re.compile(r"[A-Za-z0-9-]{1,64}")
_PENDING = 64
_HINT = "the owner learns why from: kokon explain "


def uptime() -> float:
    """Seconds since the guest's kernel started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def is_code(text: str) -> bool:
    """Whether `text` has the form of a stable error code."""
    return _CODE.fullmatch(text) is not None


def denial_hint(denial: str | None) -> str | None:
    """The one hint that a status line may carry: where the owner finds the reason of a denial."""
    return None if denial is None else f"{_HINT}{denial}"


def is_denial(text: str) -> bool:
    """Whether `text` has the form of the server's identifier of a denial."""
    return _DENIAL.fullmatch(text) is not None


def status_line(
    seconds: float,
    phase: str,
    *,
    kind: str | None = None,
    code: str | None = None,
    found: str | None = None,
    hint: str | None = None,
    status: int | None = None,
    signal: int | None = None,
) -> bytes:
    """One status line. Raises `InternalError` (`status-not-allowed`) for a value outside the vocabulary."""
    allowed = (
        phase in PHASES
        and (kind is None or kind in KINDS)
        and all(text is None or is_code(text) for text in (code, found))
        and (hint is None or (hint.startswith(_HINT) and is_denial(hint.removeprefix(_HINT))))
        and (status is None or 0 <= status <= 255)
        and (signal is None or 1 <= signal <= 64)
    )
    if not allowed:
        raise InternalError("status-not-allowed", "this must not be told to the host")
    members = {
        "t": round(seconds, 3),
        "phase": phase,
        "kind": kind,
        "code": code,
        "found": found,
        "hint": hint,
        "exit": status,
        "signal": signal,
    }
    return json.dumps({k: v for k, v in members.items() if v is not None}, separators=(",", ":")).encode() + b"\n"


class StatusPort:
    """Writes status lines to a non-blocking descriptor (None: nobody listens) and never waits for the host.

    Safe to use from several threads. Lines that the host does not take yet are kept, 64 at most, and offered again with
    the next one.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._pending: deque[bytes] = deque()
        self._lock = threading.Lock()

    def write(self, line: bytes) -> None:
        """Offer one line to the host."""
        with self._lock:
            if len(self._pending) == _PENDING:
                del self._pending[1]  # the first may be half sent
            self._pending.append(line)
        self.flush()

    def flush(self) -> bool:
        """Offer what is pending; True when nothing is left."""
        with self._lock:
            return self._offer()

    def _offer(self) -> bool:
        while self._pending and self._descriptor is not None:
            try:
                sent = os.write(self._descriptor, self._pending[0])
            except OSError:
                return False
            if sent < len(self._pending[0]):
                self._pending[0] = self._pending[0][sent:]
            else:
                self._pending.popleft()
        return not self._pending

    def drain(self, seconds: float = 0.5) -> None:
        """Before power-off: keep offering for at most `seconds`."""
        end = time.monotonic() + seconds
        while self._descriptor is not None and not self.flush() and time.monotonic() < end:
            time.sleep(0.01)
