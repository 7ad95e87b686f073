"""The server's own keys, kept sealed in its store and made at its first start: all replicas have the same.

`owner` opens what authors encrypt to the owner, `tls` is the key of the certificate that launch documents pin. Keys of
tokens are in `bearer`; those of sessions and logs come out of the key ring.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from kokon.errors import DeniedError, MalformedError
from kokon.provisioning.database.values import Delete, Entry, Put, Work
from kokon.provisioning.tls import check_certificate, make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from kokon.provisioning.database.store import Store
    from kokon.provisioning.database.values import Change

SERVER = ""
SERVER_KEY = "server-key"
"""The kind of the records: `owner`, `tls`, `certificate`, and `token` of `bearer`."""


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What the server must keep to itself, but for `certificate` (PEM); nothing of it shows in a repr."""

    owner: ec.EllipticCurvePrivateKey = field(repr=False)
    tls: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: str


def open_keys(store: Store, names: Sequence[str], now: datetime, *, renew: bool = False) -> ServerKeys:
    """The keys in `store`, each made at `now` (aware) if it is not there; the certificate for the loopback names and
    `names`. `renew`: a new TLS key and certificate, which every launch document must pin anew.

    Raises `UsageError` (`tls-name-missing`, `tls-name-malformed`), `StaleError` (`tls-expired`), `MalformedError`
    (`server-key-malformed`, `certificate-malformed`), `DeniedError` (`changed-meanwhile`: renewed by another replica at
    the same moment), and as the store does.
    """
    owner = read_key(kept(store, "owner", _new_key))
    if renew:
        _renew(store, names, now)
    tls = kept(store, "tls", _new_key)
    certificate = kept(store, "certificate", lambda: make_certificate(read_key(tls), names, now))
    check_certificate(certificate, read_key(tls).public_key(), names, now)
    return ServerKeys(owner, read_key(tls), certificate.decode())


def kept(store: Store, name: str, make: Callable[[], bytes]) -> bytes:
    """The record of that name, made if it is not there. Of replicas that start at once, all get the same.

    Raises as the store does.
    """
    found = store.read(SERVER, SERVER_KEY, name)
    if found is not None:
        return found
    value = make()
    try:
        store.commit(Work(SERVER, (_made(name, value),), (Put(SERVER_KEY, name, value, previous=0),)))
    except DeniedError:
        other = store.read(SERVER, SERVER_KEY, name)
        if other is None:
            raise
        return other
    return value


def _renew(store: Store, names: Sequence[str], now: datetime) -> None:
    """A new TLS key with its certificate, both or neither, in the place of those that are there."""
    tls = _new_key()
    made = {"tls": tls, "certificate": make_certificate(read_key(tls), names, now)}
    changes: list[Change] = []
    for name, value in made.items():
        before = store.snapshot(SERVER).versions(SERVER_KEY, name)
        changes.append(Put(SERVER_KEY, name, value, previous=before[-1].version if before else 0))
        changes += [Delete(SERVER_KEY, name, one.version) for one in before]
    store.commit(Work(SERVER, tuple(_made(name, value) for name, value in made.items()), tuple(changes)))


def _made(name: str, value: bytes) -> Entry:
    return Entry("server-key-made", {"key": name, "sha256": hashlib.sha256(public_part(value)).hexdigest()})


def public_part(value: bytes) -> bytes:
    """Of a private key (PEM) its SubjectPublicKeyInfo, of what is public the text itself."""
    if b"PRIVATE KEY" not in value:
        return value
    return read_key(value).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A P-256 key (PKCS#8 PEM). Raises `MalformedError` (`server-key-malformed`)."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise MalformedError("server-key-malformed", "a key of the server is not a private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise MalformedError("server-key-malformed", "a key of the server is not a P-256 key")
    return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """`key` as unencrypted PKCS#8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the key's SubjectPublicKeyInfo, in hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _new_key() -> bytes:
    return key_pem(ec.generate_private_key(ec.SECP256R1()))
