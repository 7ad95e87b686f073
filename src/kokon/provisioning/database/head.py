"""A project's head: the one row that vouches for all its others.

Each project has a secret of its own, 32 random bytes, kept in its head wrapped with AES-256-GCM under a data key. It
keys HMAC-SHA256 for two things:

* the total, a multiset hash: the sum modulo 2^256 of HMAC(secret, element) over all that the project holds. Elements:
  "r" | digest of a record's row; "c" | u64 value | counter's name; in the head of the server itself also "p" | the
  name of each project that has a head. So nothing can be put back, taken out, or changed.
* the tag, HMAC(secret, "h" | body), body: text(project) | u64 size | u64 generation | bytes(frontier) |
  bytes(checkpoint) | total. The total itself stands nowhere, since sums that an attacker sees help to forge others.

A tag needs no nonce, so a head can be written as often as one likes under one data key; only wrapping uses it up.
`text` is that of `sealing`, `bytes` likewise. A new data key gets a new secret: what an old key opens helps nobody.
"""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag

from kokon.errors import MalformedError
from kokon.provisioning.database.sealing import NONCE, tampered, text
from kokon.provisioning.ledger.merkle import Frontier, decode_frontier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kokon.provisioning.database.values import KeyRing

COLUMNS = ("project", "size", "generation", "key_id", "nonce", "wrapped", "frontier", "checkpoint", "tag")
"""The order in which `HeadRow.of` expects a row's columns."""
_SECRET = 32
_MODULUS = 1 << 256
_DOMAIN = b"kokon-head-1\0"


@dataclass(frozen=True, slots=True)
class Secret:
    """A project's secret, and how it stands wrapped in the head."""

    key_id: int
    nonce: bytes
    wrapped: bytes
    value: bytes = field(repr=False)

    @staticmethod
    def new(ring: KeyRing, project: str) -> Secret:
        """A fresh one under the ring's current key."""
        value, nonce, key_id = os.urandom(_SECRET), os.urandom(NONCE), ring.current
        return Secret(key_id, nonce, ring.aead(key_id).encrypt(nonce, value, _DOMAIN + text(project)), value)

    def row(self, digest: bytes) -> int:
        """A record's part of the total."""
        return self._element(b"r" + digest)

    def counter(self, name: str, value: int) -> int:
        """A counter's part of the total."""
        return self._element(b"c" + struct.pack(">Q", value) + name.encode())

    def project(self, name: str) -> int:
        """A project's part of the server's own total."""
        return self._element(b"p" + name.encode())

    def total(self, digests: Iterable[bytes], counters: Mapping[str, int], projects: Iterable[str]) -> int:
        """The total of all these. Raises `UntrustedError` (`store-tampered`) for a counter that is out of range."""
        try:
            sums = (
                sum(map(self.row, digests)),
                sum(self.counter(name, value) for name, value in counters.items()),
                sum(map(self.project, projects)),
            )
        except (struct.error, AttributeError) as error:
            raise tampered("a counter is out of range", type(error).__name__) from error
        return sum(sums) % _MODULUS

    def _element(self, data: bytes) -> int:
        return int.from_bytes(hmac.digest(self.value, data, "sha256"), "big")


@dataclass(frozen=True, slots=True)
class HeadRow:
    """A head as it stands in the database."""

    project: str
    size: int
    generation: int
    key_id: int
    nonce: bytes
    wrapped: bytes = field(repr=False)
    frontier: bytes = field(repr=False)
    checkpoint: bytes = field(repr=False)
    tag: bytes

    @staticmethod
    def of(columns: Sequence[Any]) -> HeadRow:
        """From the columns of `COLUMNS`. Raises `UntrustedError` (`store-tampered`) for those of a wrong type."""
        values: list[Any] = [bytes(value) if isinstance(value, memoryview) else value for value in columns]
        kinds = (str, int, int, int, bytes, bytes, bytes, bytes, bytes)
        if not all(map(isinstance, values, kinds)) or not all(0 <= number < 1 << 63 for number in values[1:4]):
            raise tampered("a head's row has a column of a wrong kind", repr(values[0])[:80])
        return HeadRow(*values)

    def secret(self, ring: KeyRing) -> Secret:
        """The project's secret. Raises `UntrustedError` (`store-tampered`)."""
        try:
            value = ring.aead(self.key_id).decrypt(self.nonce, self.wrapped, _DOMAIN + text(self.project))
        except (InvalidTag, ValueError) as error:
            raise tampered("a project's head does not open", repr(self.project)) from error
        return Secret(self.key_id, self.nonce, self.wrapped, value)

    def read_frontier(self) -> Frontier:
        """The log's frontier. Raises `UntrustedError` (`store-tampered`)."""
        try:
            frontier = decode_frontier(self.frontier)
        except MalformedError as error:
            raise tampered("a project's head cannot be read", repr(self.project)) from error
        if frontier.size != self.size:
            raise tampered("a project's head contradicts itself", repr(self.project))
        return frontier


@dataclass(frozen=True, slots=True)
class Head:
    """A head that was verified, or is about to be written; `checkpoint` is empty until the log's first entry."""

    project: str
    generation: int
    frontier: Frontier = field(repr=False)
    checkpoint: bytes = field(repr=False)
    total: int = field(repr=False)
    secret: Secret = field(repr=False)
    tag: bytes

    @property
    def size(self) -> int:
        """How many entries the log has."""
        return self.frontier.size

    @staticmethod
    def make(project: str, generation: int, frontier: Frontier, checkpoint: bytes, total: int, secret: Secret) -> Head:
        """The head with its tag."""
        total %= _MODULUS
        body = _body(project, frontier.size, generation, frontier.encode(), checkpoint, total)
        tag = hmac.digest(secret.value, body, "sha256")
        return Head(project, generation, frontier, checkpoint, total, secret, tag)

    @staticmethod
    def verified(row: HeadRow, secret: Secret, total: int) -> Head | None:
        """The head of a row, if its tag holds with this total; otherwise None. Raises as `HeadRow.read_frontier`."""
        body = _body(row.project, row.size, row.generation, row.frontier, row.checkpoint, total % _MODULUS)
        if not hmac.compare_digest(hmac.digest(secret.value, body, "sha256"), row.tag):
            return None
        frontier = row.read_frontier()
        return Head(row.project, row.generation, frontier, row.checkpoint, total % _MODULUS, secret, row.tag)

    def columns(self) -> tuple[object, ...]:
        """The row's columns in the order of `COLUMNS`."""
        secret = self.secret
        wrapping = (secret.key_id, secret.nonce, secret.wrapped)
        return (self.project, self.size, self.generation, *wrapping, self.frontier.encode(), self.checkpoint, self.tag)


def _body(project: str, size: int, generation: int, frontier: bytes, checkpoint: bytes, total: int) -> bytes:
    numbers = struct.pack(">QQ", size, generation)
    return b"h" + text(project) + numbers + _sized(frontier) + _sized(checkpoint) + total.to_bytes(32, "big")


def _sized(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
