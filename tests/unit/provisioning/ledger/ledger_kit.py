"""A log in memory, built the plain way, and keys for it; what the tests compare with and attack."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from kokon.errors import KokonError
from kokon.provisioning.ledger.audit import export
from kokon.provisioning.ledger.checkpoint import Checkpoint, cosign, sign_checkpoint, with_cosignature
from kokon.provisioning.ledger.entry import make_entry
from kokon.provisioning.ledger.keys import SigningKey, Use, signing_key
from kokon.provisioning.ledger.merkle import consistency_proof

NOW = datetime(2026, 12, 1, 8, tzinfo=UTC)
ORIGIN = "kbs.example.org/clinic"
KEY = signing_key(ORIGIN, bytes([1]) * 32)
OTHER_KEY = signing_key(ORIGIN, bytes([2]) * 32)
WITNESSES = [signing_key(f"witness{number}.example", bytes([10 + number]) * 32, Use.WITNESS) for number in range(3)]

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
"""Verifier key of the tests and the documentation of Go's golang.org/x/mod/sumdb/note."""
ARCHE = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
REMORA = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
ARCHE_CHECKPOINT = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkp\
tQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g\
8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4A\
scylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJb\
qmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtq\
B0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cU\
iOvKFYe/TmN9DAg==
""".encode()
"""A checkpoint of a public test log of Certificate Transparency with the cosignatures of public witnesses, May 2026."""


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two smaller than `size`: `k` of RFC 9162 2.1.1."""
    k = 1
    while 2 * k < size:
        k *= 2
    return k


def naive_root(hashes: list[bytes]) -> bytes:
    """RFC 9162 2.1.1, word by word, from leaf hashes."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = split(len(hashes))
    return node(naive_root(hashes[:k]), naive_root(hashes[k:]))


def naive_inclusion(index: int, hashes: list[bytes]) -> list[bytes]:
    """RFC 9162 2.1.3.1, word by word."""
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    if index < k:
        return [*naive_inclusion(index, hashes[:k]), naive_root(hashes[k:])]
    return [*naive_inclusion(index - k, hashes[k:]), naive_root(hashes[:k])]


def naive_consistency(first: int, hashes: list[bytes], whole: bool = True) -> list[bytes]:
    """RFC 9162 2.1.4.1, word by word."""
    if first == len(hashes):
        return [] if whole else [naive_root(hashes)]
    k = split(len(hashes))
    if first <= k:
        return [*naive_consistency(first, hashes[:k], whole), naive_root(hashes[k:])]
    return [*naive_consistency(first - k, hashes[k:], False), naive_root(hashes[:k])]


@dataclass
class FakeLog:
    """A log that does whatever a test asks, also what no log may do."""

    entries: list[bytes] = field(default_factory=list)
    key: SigningKey = KEY

    @classmethod
    def of(cls, count: int, word: str = "test", key: SigningKey = KEY) -> FakeLog:
        log = cls(key=key)
        for number in range(count):
            log.add(word, number)
        return log

    def add(self, word: str, number: int) -> None:
        self.entries.append(make_entry("clinic", NOW + timedelta(seconds=number), word, {"number": number}))

    @property
    def hashes(self) -> list[bytes]:
        return [leaf(entry) for entry in self.entries]

    def hash_at(self, level: int, index: int) -> bytes:
        hashes = self.hashes[index << level : (index + 1) << level]
        assert len(hashes) == 1 << level, "not a complete subtree"
        return naive_root(hashes)

    def head(self, size: int | None = None) -> Checkpoint:
        size = len(self.entries) if size is None else size
        return Checkpoint(self.key.verifier.name, size, naive_root(self.hashes[:size]))

    def signed(self, size: int | None = None, witnesses: int = 0) -> bytes:
        data = sign_checkpoint(self.head(size), self.key)
        for witness in WITNESSES[:witnesses]:
            answer = cosign(witness, None, data, [self.key.verifier], (), NOW)
            data = with_cosignature(data, answer.line, [witness.verifier])
        return data

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        return consistency_proof(first, second, self.hash_at)

    def export(self, size: int | None = None, witnesses: int = 0) -> list[bytes]:
        size = len(self.entries) if size is None else size
        return list(export(self.key.verifier, self.entries[:size], self.signed(size, witnesses)))


@contextlib.contextmanager
def refused(code: str) -> Iterator[None]:
    """The block raises an error of ours with this code."""
    with pytest.raises(KokonError) as caught:
        yield
    assert caught.value.code == code, caught.value


@contextlib.contextmanager
def perhaps_refused(*codes: str) -> Iterator[None]:
    """The block may raise an error of ours, but only with one of these codes, or with any if none is given."""
    try:
        yield
    except KokonError as error:
        if codes and error.code not in codes:
            raise


def flipped(data: bytes, bit: int) -> bytes:
    """`data` with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)
