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
from kokon.provisioning.database.values import Entry, Put, Work
from kokon.provisioning.tls import check_certificate, make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from kokon.provisioning.database.store import Store

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
    (`server-key-malformed`), and as the store does.
    """
    owner = read_key(kept(store, "owner", _new_key))
    tls = kept(store, "tls", _new_key, renew=renew)
    certificate = kept(store, "certificate", lambda: make_certificate(read_key(tls), names, now), renew=renew)
    check_certificate(certificate, read_key(tls).public_key(), names, now)
    return ServerKeys(owner, read_key(tls), certificate.decode())


def kept(store: Store, name: str, make: Callable[[], bytes], *, renew: bool = False) -> bytes:
    """The record of that name, made if it is not there, or anew. Of replicas that start at once, all get the same.

    Raises as the store does.
    """
    found = None if renew else store.read(SERVER, SERVER_KEY, name)
    if found is not None:
        return found
    meta = store.snapshot(SERVER).get(SERVER_KEY, name)
    value = make()
    entry = Entry("server-key-made", {"key": name, "sha256": hashlib.sha256(public_part(value)).hexdigest()})
    change = Put(SERVER_KEY, name, value, previous=meta.version if meta else 0)
    try:
        store.commit(Work(SERVER, (entry,), (change,)))
    except DeniedError:
        other = store.read(SERVER, SERVER_KEY, name)
        if other is None or renew:
            raise
        return other
    return value


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
