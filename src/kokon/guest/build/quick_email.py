"""What the guest has in place of Python's `email`: the header block of an HTTP answer, and no mail.

`http.client` imports the whole mail package to split lines at colons: a quarter of a second of an emulated processor at
every cold start. The same file serves as `email`, `email.message` and `email.parser`. Lines and their number were
bounded by `http.client` before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Message:
    """Header fields in their order; names in any case."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []

    def get(self, name: str, failobj: Any = None) -> Any:
        """The first field of this name."""
        found = self.get_all(name)
        return found[0] if found else failobj

    def get_all(self, name: str, failobj: Any = None) -> Any:
        """All fields of this name, in a list."""
        return [value for key, value in self.fields if key.lower() == name.lower()] or failobj

    def items(self) -> list[tuple[str, str]]:
        """All names with their values."""
        return list(self.fields)

    def keys(self) -> list[str]:
        """All names."""
        return [key for key, _ in self.fields]

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __getitem__(self, name: str) -> Any:
        return self.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())


class Parser:
    """Makes a `Message` of a header block."""

    def __init__(self, _class: type[Message] = Message) -> None:
        self._class = _class

    def parsestr(self, text: str) -> Message:
        """Fields of `text` (RFC 9112 section 5), up to the first line that is none. A line that begins with a blank
        goes on with the one before it, as in the standard parser."""
        message = self._class()
        for raw in text.split("\n"):
            line = raw.removesuffix("\r")
            name, colon, value = line.partition(":")
            if line[:1] in (" ", "\t") and message.fields:
                last, before = message.fields[-1]
                message.fields[-1] = (last, f"{before}\r\n{line}")
            elif colon and name and not any(c in " \t\r" or ord(c) < 33 or ord(c) > 126 for c in name):
                message.fields.append((name, value.lstrip(" \t")))
            else:
                break
        return message
