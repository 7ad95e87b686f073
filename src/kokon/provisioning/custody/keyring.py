"""The key ring: the data keys that seal what the server stores, and a root for keys of other uses.

Its document is a strict JSON object (limit 64 KiB): `format` ("kokon-key-ring"), `version` (1), `master` (the identity
of the master key that wraps it), `generation` (one more at each change), `current` (a key's id), `root` and each of
`keys` ({`id`, `nonce`, `sealed`}; root's id is 0), `mac`. A key is wrapped with AES-256-GCM under a subkey of the
master; its associated data are `kokon data key 1\\0` and its id as u64 BE. `mac` is HMAC-SHA-256 under another subkey
over `kokon key ring 1\\0` and the canonical JSON of all else, so that keys can be neither left out nor taken from
another document.

Who keeps the document can put back an older one, whole. `at_least` and `ring` of `decode_ring` find that, and another
server's, if the caller keeps them where the document is not (the log). Pure, given randomness.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kokon.errors import MalformedError, UntrustedError, UsageError
from kokon.provisioning.custody.master import IDENTITY_SIZE, KEY_SIZE, NONCE_SIZE, TAG_SIZE, MasterKey, Random, expand
from kokon.wire import Fields, b64, canonical_json, parse_json, unb64

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = "kokon-key-ring"
VERSION: Final = 1
RING_LIMIT: Final = 64 << 10
"""Bytes that a document may have."""
KEYS_LIMIT: Final = 256
"""Data keys that a ring may have at once."""
ID_LIMIT: Final = 2**32
_ROOT: Final = 0
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")


@dataclass(frozen=True, slots=True, eq=False)
class KeyRing:
    """Data keys by id, from 1; new values are sealed with `current`, the newest. Safe to use from several threads.

    A key takes 2**32 random nonces at most (NIST SP 800-38D, section 8.3): add another one long before.
    """

    current: int
    generation: int
    _root: bytes = field(repr=False)
    _keys: Mapping[int, bytes] = field(repr=False)
    _ciphers: Mapping[int, AESGCM] = field(repr=False)

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of all keys, oldest first."""
        return tuple(sorted(self._keys))

    @property
    def identity(self) -> str:
        """A public name of this ring, 32 hexadecimal digits; stays when keys come and go."""
        return expand(self._root, b"kokon key ring identity 1", IDENTITY_SIZE).hex()

    def aead(self, key_id: int) -> AESGCM:
        """The cipher of one data key. Raises `UntrustedError` (`store-key-unknown`)."""
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise UntrustedError(
                "store-key-unknown",
                "the key ring does not have the key that this is sealed with",
                expected=f"one of {self.ids}",
                found=key_id,
                hint="the key ring is older than the database, or belongs to another one: restore both from one backup",
            )
        return cipher

    def subkey(self, label: str) -> bytes:
        """32 bytes for the use named `label` (lower-case letters, digits, dashes), the same for ever.

        Raises `UsageError` (`subkey-label`).
        """
        if not _LABEL.fullmatch(label):
            raise UsageError("subkey-label", "this is no label of a subkey", found=repr(label[:80]))
        return expand(self._root, b"kokon subkey 1\0" + label.encode())

    def add(self, random: Random = secrets.token_bytes) -> KeyRing:
        """This ring with a new current key. Raises `UsageError` (`keyring-full`)."""
        if len(self._keys) >= KEYS_LIMIT:
            raise UsageError(
                "keyring-full",
                "the key ring has as many keys as it can have",
                expected=f"< {KEYS_LIMIT}",
                found=len(self._keys),
                hint="seal what old keys seal with the current one, and retire them",
            )
        keys = {**self._keys, self.current + 1: random(KEY_SIZE)}
        return _ring(self.current + 1, self.generation + 1, self._root, keys)

    def retire(self, key_id: int) -> KeyRing:
        """This ring without the key `key_id`: what it seals is gone for good.

        Raises `UsageError` (`keyring-current`), `UntrustedError` (`store-key-unknown`).
        """
        if key_id == self.current:
            raise UsageError("keyring-current", "the current key cannot be retired", hint="add another one first")
        self.aead(key_id)
        keys = {number: key for number, key in self._keys.items() if number != key_id}
        return _ring(self.current, self.generation + 1, self._root, keys)

    def encode(self, master: MasterKey, random: Random = secrets.token_bytes) -> bytes:
        """The ring's document for `master`."""
        cipher = AESGCM(master.subkey("key ring wrap"))

        def wrapped(key_id: int, key: bytes) -> dict[str, Any]:
            nonce = random(NONCE_SIZE)
            return {"id": key_id, "nonce": b64(nonce), "sealed": b64(cipher.encrypt(nonce, key, _bound(key_id)))}

        members = {
            "format": FORMAT,
            "version": VERSION,
            "master": master.identity,
            "generation": self.generation,
            "current": self.current,
            "root": wrapped(_ROOT, self._root),
            "keys": [wrapped(key_id, self._keys[key_id]) for key_id in self.ids],
        }
        return canonical_json({**members, "mac": b64(_mac(master, members))})

    def rewrap(self, master: MasterKey, random: Random = secrets.token_bytes) -> bytes:
        """The document for a new master key; keys, ids and generation stay, so that nothing stored need change."""
        return self.encode(master, random)


def make_ring(random: Random = secrets.token_bytes) -> KeyRing:
    """A new ring: a root and the data key 1."""
    return _ring(1, 1, random(KEY_SIZE), {1: random(KEY_SIZE)})


def decode_ring(document: bytes | None, master: MasterKey, *, at_least: int = 0, ring: str | None = None) -> KeyRing:
    """The ring in `document`, which is None if the caller has none though it should.

    `at_least` is the lowest generation that will do, `ring` the identity that it must have. Raises `UntrustedError`
    (`keyring-missing`, `keyring-foreign`, `keyring-tampered`, `keyring-rolled-back`), `MalformedError`
    (`keyring-format`, and those of `kokon.wire`).
    """
    if document is None:
        raise UntrustedError(
            "keyring-missing",
            "the key ring is lost: nothing that it sealed can be opened",
            hint="restore database and key ring from one backup",
        )
    parsed = _parse(document)
    if parsed.master != master.identity:
        raise _foreign("the key ring is wrapped by another master key", master.identity, parsed.master)
    if not hmac.compare_digest(parsed.mac, _mac(master, parsed.members)):
        raise _tampered()
    found = _open(parsed, master)
    if ring is not None and found.identity != ring:
        raise _foreign("the key ring is another server's", ring, found.identity)
    if found.generation < at_least:
        raise UntrustedError(
            "keyring-rolled-back",
            "an old key ring was put back",
            expected=f"generation >= {at_least}",
            found=found.generation,
            hint="restore database and key ring from one backup",
        )
    return found


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A document before anything of it is believed. `members` are all but the code."""

    master: str
    generation: int
    current: int
    keys: tuple[tuple[int, bytes, bytes], ...]
    mac: bytes
    members: dict[str, Any] = field(repr=False)


def _parse(document: bytes) -> _Parsed:
    value = parse_json(document, limit=RING_LIMIT, what="key ring")
    fields = Fields(value, "key ring")
    form, version = fields.text("format", limit=64), fields.integer("version")
    if (form, version) != (FORMAT, VERSION):
        raise MalformedError(
            "keyring-format",
            "the key ring is of another format",
            expected=f"{FORMAT} {VERSION}",
            found=f"{form} {version}",
        )
    parsed = _Parsed(
        fields.text("master", limit=2 * IDENTITY_SIZE),
        fields.integer("generation", low=1),
        fields.integer("current", low=1, high=ID_LIMIT),
        (_entry(fields.table("root")), *map(_entry, fields.array("keys", limit=KEYS_LIMIT))),
        unb64(fields.text("mac", limit=64), what="mac", size=32),
        {name: member for name, member in value.items() if name != "mac"},
    )
    fields.finish()
    ids = [key_id for key_id, _nonce, _sealed in parsed.keys]
    if ids != sorted(set(ids)) or ids[0] != _ROOT or ids[-1] != parsed.current:
        raise MalformedError(
            "keyring-format", "the key ring's ids are not in order", expected=f"0, ..., {parsed.current}", found=ids
        )
    return parsed


def _entry(value: Any) -> tuple[int, bytes, bytes]:
    fields = Fields(value, "key of the key ring")
    key_id = fields.integer("id", high=ID_LIMIT)
    nonce = unb64(fields.text("nonce", limit=64), what="nonce", size=NONCE_SIZE)
    sealed = unb64(fields.text("sealed", limit=128), what="sealed key", size=KEY_SIZE + TAG_SIZE)
    fields.finish()
    return key_id, nonce, sealed


def _open(parsed: _Parsed, master: MasterKey) -> KeyRing:
    cipher = AESGCM(master.subkey("key ring wrap"))
    try:
        keys = {key_id: cipher.decrypt(nonce, sealed, _bound(key_id)) for key_id, nonce, sealed in parsed.keys}
    except InvalidTag as error:
        raise _tampered() from error
    root = keys.pop(_ROOT)
    return _ring(parsed.current, parsed.generation, root, keys)


def _ring(current: int, generation: int, root: bytes, keys: Mapping[int, bytes]) -> KeyRing:
    ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
    return KeyRing(current, generation, root, MappingProxyType(dict(keys)), MappingProxyType(ciphers))


def _bound(key_id: int) -> bytes:
    return b"kokon data key 1\0" + key_id.to_bytes(8, "big")


def _mac(master: MasterKey, members: dict[str, Any]) -> bytes:
    return hmac.digest(master.subkey("key ring mac"), b"kokon key ring 1\0" + canonical_json(members), "sha256")


def _foreign(message: str, expected: str, found: str) -> UntrustedError:
    return UntrustedError(
        "keyring-foreign",
        message,
        expected=expected,
        found=found,
        hint="use the master key and the database that belong together",
    )


def _tampered() -> UntrustedError:
    return UntrustedError(
        "keyring-tampered", "the key ring was changed", hint="restore database and key ring from one backup"
    )
