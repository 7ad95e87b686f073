"""The key ring of data keys, kept in the database so that all replicas have the same, wrapped by the master key.

Its document is in the table `documents` under `key-ring/` and the master key's public name. While the master key is
replaced there are two of them, alike, and whichever master a replica has opens one: `add_master`, then the key in the
state directory, then `remove_masters`. Stopped at any point, the key that is in the directory opens the ring. Until the
end no data key is added or retired, since nobody could write that into both documents.

A ring that was put back is seen against the generation that the replica knows, from before (outside of the database)
or by now.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from kokon.errors import UntrustedError, UsageError
from kokon.provisioning.custody.keyring import KeyRing, decode_ring, make_ring
from kokon.provisioning.database.schema import DOCUMENTS
from kokon.provisioning.database.sealing import tampered

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from sqlalchemy import Connection

    from kokon.provisioning.custody.master import MasterKey
    from kokon.provisioning.database.engines import Backend

PREFIX = "key-ring/"
_LOCK = 0x6B6F6B72  # "kokr"


class SharedRing:
    """The key ring as of the last time that this replica read it. Safe with threads.

    A row under a key that is not known makes it read anew: another replica added the key. `fetch` gets the generation
    and the public name that are known.
    """

    def __init__(self, ring: KeyRing, fetch: Callable[[int, str], KeyRing]) -> None:
        self._ring = ring
        self._fetch = fetch
        self._lock = threading.Lock()

    @property
    def current(self) -> int:
        """The id of the key for new rows."""
        return self._ring.current

    @property
    def generation(self) -> int:
        """How often the ring was changed."""
        return self._ring.generation

    @property
    def identity(self) -> str:
        """The ring's public name."""
        return self._ring.identity

    def aead(self, key_id: int) -> AESGCM:
        """The cipher of that key. Raises `UntrustedError` (`store-key-unknown`, and as the ring is read)."""
        try:
            return self._ring.aead(key_id)
        except UntrustedError:
            self.use(self._fetch(self.generation, self.identity))
            return self._ring.aead(key_id)

    def subkey(self, label: str) -> bytes:
        """32 bytes for one use. Raises as `KeyRing.subkey`."""
        return self._ring.subkey(label)

    def use(self, ring: KeyRing) -> None:
        """Go on with a ring, unless a newer one is there. Raises `UntrustedError` (`keyring-foreign`)."""
        with self._lock:
            if ring.identity != self._ring.identity:
                raise UntrustedError("keyring-foreign", "the key ring in the database is another server's")
            if ring.generation > self._ring.generation:
                self._ring = ring


@dataclass(frozen=True, slots=True)
class RingLoader:
    """Reads the ring that `master` opens, and makes it in an empty database. `remembered`: generation and public name
    that this replica knows from before."""

    master: MasterKey = field(repr=False)
    remembered: tuple[int, str] | None = None

    def load(self, connection: Connection, *, empty: bool) -> KeyRing:
        """The ring, in a transaction that keeps others out. `empty`: the database has no row yet.

        Raises as `decode_ring`: `UntrustedError` (`keyring-missing`, `keyring-foreign`, `keyring-tampered`,
        `keyring-rolled-back`), `MalformedError`; and `UntrustedError` (`store-tampered`) if nothing but rings is there.
        """
        masters = _masters(connection)
        if empty and masters:
            raise tampered("there is a key ring, and nothing that it sealed", ", ".join(masters)[:80])
        if empty and self.remembered is None:
            ring = make_ring()
            connection.execute(insert(DOCUMENTS).values(name=_name(self.master), value=ring.encode(self.master)))
            return ring
        return _open(connection, self.master, self.remembered)

    def fetch(self, backend: Backend, generation: int, identity: str) -> KeyRing:
        """The ring as it is now, of that generation or a later one. Raises as `load`, and as `engines.failure`."""
        with backend.glance() as connection:
            return _open(connection, self.master, (generation, identity))


def change(
    backend: Backend,
    master: MasterKey,
    alter: Callable[[Connection, KeyRing], KeyRing],
    known: tuple[int, str] | None = None,
) -> KeyRing:
    """Put what `alter` makes of the ring in its place, one change at a time of all replicas; returns it.

    `known`: the generation that it has at least, and its public name. Raises as `decode_ring`, `alter` and
    `engines.failure`, and `UsageError` (`master-changing`) while another master key opens the ring too.
    """
    with backend.writing() as connection:
        _lock(connection, backend)
        ring = _open(connection, master, known)
        others = [name for name in _masters(connection) if name != master.identity]
        if others:
            raise UsageError(
                "master-changing",
                "the master key is being replaced, and data keys stay as they are until that is finished",
                expected=master.identity,
                found=", ".join(others)[:80],
                hint="give all replicas the new master key, then `kokon provision rotate --finish`",
            )
        ring = alter(connection, ring)
        where = DOCUMENTS.c.name == _name(master)
        connection.execute(update(DOCUMENTS).where(where).values(value=ring.encode(master)))
    return ring


def add_master(backend: Backend, old: MasterKey, new: MasterKey) -> None:
    """Keep the ring for the master key `new` too, before it takes the place of `old` in the state directory.

    Done again after an interruption, it goes on. Raises as `change`.
    """
    with backend.writing() as connection:
        _lock(connection, backend)
        ring = _open(connection, old)
        connection.execute(delete(DOCUMENTS).where(DOCUMENTS.c.name == _name(new)))
        connection.execute(insert(DOCUMENTS).values(name=_name(new), value=ring.encode(new)))


def remove_masters(backend: Backend, keep: MasterKey) -> None:
    """Take the ring away from all master keys but one, which must open it. Raises as `change`."""
    with backend.writing() as connection:
        _lock(connection, backend)
        _open(connection, keep)
        for name in _masters(connection):
            if name != keep.identity:
                connection.execute(delete(DOCUMENTS).where(DOCUMENTS.c.name == PREFIX + name))


def _lock(connection: Connection, backend: Backend) -> None:
    if backend.shared:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _open(connection: Connection, master: MasterKey, known: tuple[int, str] | None = None) -> KeyRing:
    found = connection.execute(select(DOCUMENTS.c.value).where(DOCUMENTS.c.name == _name(master))).scalar()
    masters = _masters(connection)
    if found is None and masters:
        raise UntrustedError(
            "keyring-foreign",
            "the database's key ring is wrapped by another master key",
            expected=master.identity,
            found=", ".join(masters)[:80],
            hint="use the master key and the database that belong together",
        )
    if not isinstance(found, bytes | bytearray | memoryview | None):
        raise tampered("the key ring is of a wrong kind", type(found).__name__)
    generation, identity = known or (0, None)
    return decode_ring(None if found is None else bytes(found), master, at_least=generation, ring=identity)


def _masters(connection: Connection) -> list[str]:
    """The public names of the master keys that open a ring here."""
    names = connection.execute(select(DOCUMENTS.c.name).order_by(DOCUMENTS.c.name)).scalars()
    return [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]


def _name(master: MasterKey) -> str:
    return PREFIX + master.identity
