"""One tree of errors, split by who can mend them.

Every error carries a stable machine `code` (docs/ERRORS.md lists them all), a message for people, where it helps
what was expected and what was found, and a hint: what to do next. Nothing here may ever hold a secret.
"""

from __future__ import annotations

from typing import Any, ClassVar


class KokonError(Exception):
    """Root of all errors that Kokon raises on purpose.

    `code` is stable and lower-case with dashes; `expected` and `found` are short printable texts;
    `hint` says what to do. `exit_status` is what the command line ends with.
    """

    exit_status: ClassVar[int] = 1
    kind: ClassVar[str] = "internal"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.expected = None if expected is None else str(expected)[:500]
        self.found = None if found is None else str(found)[:500]
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.message} [{self.code}]"
        if self.expected is not None or self.found is not None:
            text += f" (expected {self.expected}, found {self.found})"
        return text

    def as_dict(self) -> dict[str, Any]:
        """The error as plain JSON values, absent members left out."""
        members = {
            "code": self.code,
            "kind": self.kind,
            "message": self.message,
            "expected": self.expected,
            "found": self.found,
            "hint": self.hint,
        }
        return {name: value for name, value in members.items() if value is not None}


class InternalError(KokonError):
    """A bug in Kokon: report it."""


class UsageError(KokonError):
    """The caller's arguments or configuration: the person who typed the command mends it."""

    exit_status = 2
    kind = "usage"


class MalformedError(KokonError):
    """Bytes that are not what their format demands: whoever made them mends it."""

    exit_status = 3
    kind = "malformed"


class UntrustedError(KokonError):
    """Well-formed, but a signature, digest, chain or binding does not hold: treat it as an attack."""

    exit_status = 4
    kind = "untrusted"


class DeniedError(KokonError):
    """Genuine, but policy says no: the owner's policy or the deployment must change."""

    exit_status = 5
    kind = "denied"


class StaleError(KokonError):
    """Was good, is out of date now: renew it."""

    exit_status = 6
    kind = "stale"


class UnreachableError(KokonError):
    """A peer cannot be reached or broke off: the network or the peer's operator mends it."""

    exit_status = 7
    kind = "unreachable"


class HostError(KokonError):
    """This machine lacks something: a package, disk space, a free port."""

    exit_status = 8
    kind = "host"
