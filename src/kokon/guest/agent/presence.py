"""What the attested TLS server asks of the agent: evidence, what was released, and the log for its owner."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError
from kokon.guest.agent.status import uptime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kokon.guest.agent.logs import LogRing
    from kokon.tee.evidence import Evidence


class Presence:
    """Implements `kokon.channel.serve.Guest`. `token` opens the log."""

    def __init__(
        self,
        document: bytes,
        envelope: bytes,
        evidence: Callable[[bytes], Evidence],
        log: LogRing,
        token: bytes,
        names: tuple[str, ...],
    ) -> None:
        self._document = document
        self._statement: Mapping[str, Any] = json.loads(envelope)
        self._evidence = evidence
        self._log = log
        self._token = _text(token)
        self._names = names
        self._started: str | None = None
        self._lock = threading.Lock()

    @property
    def document(self) -> bytes:
        """The launch document's exact bytes."""
        return self._document

    @property
    def statement(self) -> Mapping[str, Any]:
        """The image's identity statement: a DSSE envelope that the agent has verified."""
        return self._statement

    def evidence(self, report_data: bytes) -> Evidence:
        """Fresh evidence over 64 bytes."""
        with self._lock:
            return self._evidence(report_data)

    def released(self) -> list[str]:
        """Names of the secrets, volumes' keys among them, that this enclave was given."""
        return list(self._names)

    def started(self) -> str | None:
        """When the application was started (RFC 3339)."""
        return self._started

    def mark_started(self, when: str) -> None:
        """Remember when the application was started."""
        self._started = when

    def logs(self, follow: bool) -> Iterator[bytes]:
        """The application's output."""
        return self._log.read(follow=follow)

    def log_token(self) -> str | None:
        """The token that opens the log."""
        return self._token

    def status(self) -> dict[str, Any]:
        """Whether the application runs, and for how long the guest has."""
        return {"running": self._started is not None, "uptime": round(uptime())}


def _text(token: bytes) -> str:
    if not 16 <= len(token) <= 1024 or not token.isascii():
        raise MalformedError("log-token-malformed", "the log's token is not one", expected="16 to 1024 ASCII bytes")
    return token.decode("ascii").strip()
