"""The demo's terminal: headings, commands as a user would type them, and a line for each thing that was checked."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from kokon.demo.services import environment, kokon_command
from kokon.errors import InternalError, KokonError


class Stage:
    """Writes the story to a console; `run` is how every party uses Kokon in it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._begin = time.monotonic()

    def heading(self, party: str, text: str) -> None:
        """A new act: who does what."""
        self._console.print(f"\n[bold cyan]{escape(party)}[/]  {escape(text)}")

    def done(self, text: str, good: bool = True) -> None:
        """One thing that happened or was checked."""
        mark = "[green]✓[/]" if good else "[red]✗[/]"
        self._console.print(f"  {mark} {escape(text)}")

    def text(self, text: str) -> None:
        """A remark, or what a command answered."""
        for line in text.splitlines():
            self._console.print(f"    [dim]{escape(line)}[/]")

    def table(self, table: Table) -> None:
        """A table."""
        self._console.print(table)

    def bold(self, text: str) -> None:
        """A conclusion."""
        self._console.print(f"[bold]{escape(text)}[/]")

    def seconds(self) -> float:
        """Since the stage was made."""
        return time.monotonic() - self._begin

    @contextlib.contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show that something takes a while."""
        with self._console.status(escape(text)):
            yield

    @contextlib.contextmanager
    def bar(self, text: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar of `total` steps; yields what to call after each."""
        with Progress(console=self._console, transient=True, disable=not self._console.is_terminal) as progress:
            task = progress.add_task(escape(text), total=total)
            yield lambda: progress.advance(task)

    def run(
        self,
        *arguments: str | Path,
        home: Path,
        given: bytes = b"",
        show: Sequence[str] | None = None,
        meanwhile: Callable[[Future[Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Run `kokon ARGUMENTS --json` as the party whose home is `home`, and return its answer.

        `show` is what the terminal says was typed; `meanwhile` is called while the command runs and returns when it
        has ended. Raises the error that the command ended with, as `relayed` does.
        """
        words = [str(argument) for argument in arguments]
        self._console.print(f"  [dim]$ kokon {escape(shlex.join(show or words))}[/]")
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(run_kokon, words, home=home, given=given)
            if meanwhile is None:
                with self.working(f"kokon {words[0]} …"):
                    wait([future])
            else:
                meanwhile(future)
            answer, error = future.result()
        if error is not None:
            raise error
        return answer


def run_kokon(
    words: Sequence[str], *, home: Path, given: bytes = b"", timeout: float = 180
) -> tuple[dict[str, Any], KokonError | None]:
    """Answer and error of `kokon WORDS --json`."""
    done = subprocess.run(
        [*kokon_command(), *words, "--json"],
        input=given,
        capture_output=True,
        env=environment(home),
        timeout=timeout,
        check=False,
    )
    answer = _object(done.stdout)
    if done.returncode == 0:
        return answer, None
    lines = done.stderr.decode(errors="replace").splitlines()
    members = next((error for line in reversed(lines) if (error := _object(line.encode()).get("error"))), None)
    return answer, relayed(members, done.returncode, done.stderr)


def _object(data: bytes) -> dict[str, Any]:
    """The JSON object that a command printed; of a command that prints one per line, all of them as `lines`."""
    try:
        value = json.loads(data)
    except ValueError:
        lines = [_object(line) for line in data.splitlines()] if b"\n" in data.strip() else []
        return {"lines": lines} if any(lines) else {}
    return value if isinstance(value, dict) else {}


def relayed(members: Mapping[str, Any] | None, status: int, stderr: bytes) -> KokonError:
    """The error of a command that ended with `status`."""
    if not members:
        tail = stderr.decode(errors="replace")[-400:]
        return InternalError("demo-command-failed", f"a command ended with status {status}", found=tail)
    return KokonError(
        str(members.get("code")),
        str(members.get("message")),
        expected=members.get("expected"),
        found=members.get("found"),
        hint=members.get("hint"),
    )
