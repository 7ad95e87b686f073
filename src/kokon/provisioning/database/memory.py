"""What a replica remembers outside of its database: of each log the size and root, and the key ring's generation.

An older database that is put in the place of the one of last time is seen by it, if this file was not put back too;
against that there are witnesses and auditors. JSON: `version` (1), `ring` (`generation`, `identity`) and `logs` (by
project: `size`, `root` in hex). [machine's edge: a file, a thread]
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kokon.errors import KokonError
from kokon.provisioning.custody.files import read_private, replace_private, unusable
from kokon.wire import Fields, parse_json, unhex

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kokon.provisioning.database.store import Store

PERIOD: Final = 1.0
"""Seconds between two looks at what changed."""
LIMIT: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Remembered:
    """`heads`: of each project ("": the server) size and root of its log; `ring`: generation and public name."""

    heads: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    ring: tuple[int, str] | None = None


def read_memory(path: Path) -> Remembered:
    """What is remembered in `path`; nothing if there is no such file.

    Raises `MalformedError` (those of `kokon.wire`), and as `read_private`.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return Remembered()
    except OSError as error:
        raise unusable(path.name, error) from error
    fields = Fields(parse_json(read_private(path, LIMIT), limit=LIMIT, what=path.name), path.name)
    fields.integer("version", low=1, high=1)
    ring, logs = Fields(fields.table("ring"), "ring"), fields.table("logs")
    fields.finish()
    known = ring.integer("generation", low=1), ring.text("identity", limit=64)
    ring.finish()
    return Remembered({project: _head(value) for project, value in logs.items()}, known)


def _head(value: object) -> tuple[int, bytes]:
    fields = Fields(value, "log")
    head = fields.integer("size"), unhex(fields.text("root", limit=64), what="root", size=32)
    fields.finish()
    return head


class Memory:
    """Keeps `path` up to date with what `store` does, a second behind. Give it back with `close`."""

    def __init__(self, path: Path, store: Store) -> None:
        self._path = path
        self._store = store
        self._last: Remembered | None = None
        self._end = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is new, and stop."""
        self._end.set()
        self._thread.join()
        self._try()

    def _run(self) -> None:
        while not self._end.wait(PERIOD):
            self._try()

    def _try(self) -> None:
        """A disk that is full now may be free later: what is remembered is then older, and nothing is lost."""
        try:
            self._write()
        except KokonError:
            return

    def _write(self) -> None:
        generation, identity = self._store.ring.generation, self._store.ring.identity
        now = Remembered(dict(self._store.remember()), (generation, identity))
        if now == self._last:
            return
        members = {
            "version": 1,
            "ring": {"generation": generation, "identity": identity},
            "logs": {name: {"size": size, "root": root.hex()} for name, (size, root) in now.heads.items()},
        }
        replace_private(self._path, json.dumps(members, sort_keys=True).encode())
        self._last = now
