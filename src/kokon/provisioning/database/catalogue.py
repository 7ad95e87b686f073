"""What a project holds, in memory: names, versions, digests; never a value.

A snapshot never changes. A commit makes the next one out of it and copies only the kinds that it touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kokon.provisioning.database.values import Kind, Meta


@dataclass(frozen=True, slots=True)
class Named:
    """All versions kept under one name, oldest first, and the mark of a higher one that was deleted."""

    versions: tuple[Meta, ...] = ()
    gone: Meta | None = None

    @property
    def newest(self) -> int:
        """The newest version that is kept; 0 if there is none."""
        return self.versions[-1].version if self.versions else 0

    @property
    def highest(self) -> int:
        """The highest version there ever was."""
        return max(self.newest, self.gone.version if self.gone else 0)

    @property
    def all(self) -> tuple[Meta, ...]:
        """Every row of the name."""
        return self.versions if self.gone is None else (*self.versions, self.gone)

    def find(self, version: int) -> Meta | None:
        """The row of that version, be it a value or the mark of a deleted one."""
        return next((meta for meta in reversed(self.all) if meta.version == version), None)


NOTHING = Named()
Names = dict[tuple[str, str], Named]
"""What is to change in a catalogue, by kind and name."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable view of one project's catalogue at one generation."""

    project: str
    generation: int = 0
    kinds: Mapping[Kind, Mapping[str, Named]] = field(default_factory=dict, repr=False)

    def get(self, kind: Kind, name: str) -> Meta | None:
        """The newest version that is kept, or None."""
        versions = self.named(kind, name).versions
        return versions[-1] if versions else None

    def versions(self, kind: Kind, name: str) -> tuple[Meta, ...]:
        """All versions that are kept, oldest first."""
        return self.named(kind, name).versions

    def names(self, kind: Kind) -> tuple[str, ...]:
        """The names of this kind that have a version, sorted."""
        return tuple(sorted(name for name, named in self.kinds.get(kind, {}).items() if named.versions))

    def named(self, kind: Kind, name: str) -> Named:
        """All that is known of a name."""
        return self.kinds.get(kind, {}).get(name, NOTHING)

    def all(self) -> Iterator[tuple[Kind, str, Named]]:
        """Every name, those included of which only a mark is left."""
        for kind, names in self.kinds.items():
            for name, named in names.items():
                yield kind, name, named

    def digests(self) -> Iterator[bytes]:
        """The digest of every row."""
        for _, _, named in self.all():
            for row in named.all:
                yield row.digest

    def changed(self, names: Names, generation: int) -> Snapshot:
        """The snapshot with these names as they are given, an empty one left out."""
        if not names:
            return self if generation == self.generation else Snapshot(self.project, generation, self.kinds)
        kinds = {kind: dict(self.kinds.get(kind, {})) for kind in {kind for kind, _ in names}}
        for (kind, name), named in names.items():
            if named.all:
                kinds[kind][name] = named
            else:
                kinds[kind].pop(name, None)
        return Snapshot(self.project, generation, MappingProxyType({**self.kinds, **kinds}))


def with_row(named: Named, row: Meta, *, gone: bool) -> Named:
    """`named` with a row put in, in place of an older one of that version; `gone`: it only marks a deleted version.

    A row of a higher version makes an older mark needless.
    """
    others = tuple(old for old in named.versions if old.version != row.version)
    if gone:
        return Named(others, row)
    mark = named.gone if named.gone and named.gone.version > row.version else None
    if others and others[-1].version > row.version:
        return Named(tuple(sorted((*others, row), key=lambda one: one.version)), mark)
    return Named((*others, row), mark)
