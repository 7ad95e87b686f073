"""What the command line prints: answers on stdout, everything else on stderr, and both as JSON when asked."""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kokon.errors import KokonError

PROGRESS_AFTER = 1.0
"""Seconds that something must last before its progress is shown."""

Update = Callable[[int, int | None], None]
"""Called with what is done so far and the total (None: not known), both in the same unit, bytes for data."""


def kokon_home() -> Path:
    """Where Kokon keeps its state on this machine: `$KOKON_HOME`, else `~/.local/share/kokon`."""
    return Path(os.environ.get("KOKON_HOME") or Path.home() / ".local" / "share" / "kokon").absolute()


def simulated_root(text: str) -> str:
    """A simulated root's fingerprint as typed; `local` means the processor of this machine, made if need be."""
    if text != "local":
        return text
    from kokon.tee.simulated.keys import fingerprint

    return fingerprint(kokon_home() / "processor")


def printable(text: str) -> str:
    """`text` with control and formatting characters made visible, except newline and tab.

    Messages quote peers that may be hostile (a registry, a guest): none of them gets to steer a terminal.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(letter) for letter in text)


def _visible(letter: str) -> str:
    if letter in "\n\t" or unicodedata.category(letter)[0] != "C":
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def emit(data: Mapping[str, Any], text: str, json: bool = False) -> None:
    """Print the answer of a command on stdout: `data` as one JSON object if `json`, else `text`."""
    if json:
        print(jsonlib.dumps(dict(data), indent=2, ensure_ascii=True), flush=True)
    else:
        print(printable(text), flush=True)


def note(text: str) -> None:
    """Print a remark for people on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def render_error(error: KokonError, json: bool = False) -> None:
    """Print `error` on stderr: `kokon: message [code]`, expected and found, hint; if `json`, as `{"error": {...}}`."""
    if json:
        print(jsonlib.dumps({"error": error.as_dict()}, ensure_ascii=True), file=sys.stderr, flush=True)
        return
    lines = [f"kokon: {error.message} [{error.code}]"]
    if error.expected is not None:
        lines.append(f"  expected: {error.expected}")
    if error.found is not None:
        lines.append(f"  found: {error.found}")
    if error.hint is not None:
        lines.append(f"hint: {error.hint}")
    note("\n".join(lines))


@contextlib.contextmanager
def progress(label: str) -> Iterator[Update]:
    """Show how far something is, on stderr, only on a terminal and only if it lasts longer than a second.

    Yields `update(done, total)`; call it as often as convenient.
    """
    if not sys.stderr.isatty():
        yield _ignore
        return
    bar = _Bar(label)
    try:
        yield bar.update
    finally:
        bar.close()


def _ignore(_done: int, _total: int | None = None) -> None:
    return None


class _Bar:
    """A rich progress bar that comes to life on the first update after `PROGRESS_AFTER` seconds."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._begin = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def update(self, done: int, total: int | None = None) -> None:
        if self._bar is None:
            if time.monotonic() - self._begin < PROGRESS_AFTER:
                return
            self._start()
        self._bar.update(self._task, completed=done, total=total)

    def _start(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress

        self._bar = Progress(console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(escape(printable(self._label)), total=None)
        self._bar.start()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
