"""`master.json`: a master key in the form that a holder wrapped it in. Bytes to values and back, and the wrapping by a
key that this process has.

A strict JSON object (limit 4 KiB): `format` ("kokon-master-key"), `version` (1), `holder`, `master` (the key's public
identity, 32 hex digits), `parameters` (an object that the holder reads), `nonce` (12 bytes), `sealed` (48 bytes: key
and tag, AES-256-GCM), the last two in base64. The associated data are `kokon master key\\0` and the canonical JSON of
the members before `nonce`, so that nothing of the file can be changed unnoticed.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kokon.errors import MalformedError, UntrustedError
from kokon.provisioning.custody.master import KEY_SIZE, NONCE_SIZE, TAG_SIZE, MasterKey, Random
from kokon.wire import Fields, b64, canonical_json, parse_json, unb64

FORMAT: Final = "kokon-master-key"
VERSION: Final = 1
WRAPPED_LIMIT: Final = 4096
"""Bytes that a wrapped master key may have."""

HolderName = Literal["file", "passphrase", "pkcs11", "enclave"]
"""Who may hold a master key. `file` keeps it in clear; the others wrap it."""
WRAPPING: Final[tuple[HolderName, ...]] = tuple(name for name in get_args(HolderName) if name != "file")
_IDENTITY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A wrapped master key. `parameters` is the canonical JSON of the holder's object, `sealed` key and tag."""

    holder: HolderName
    master: str
    parameters: bytes
    nonce: bytes
    sealed: bytes = field(repr=False)


def encode_wrapped(wrapped: Wrapped) -> bytes:
    """The file's content: canonical JSON and a line end."""
    members = {**_header(wrapped.holder, wrapped.master, wrapped.parameters), "nonce": b64(wrapped.nonce)}
    return canonical_json({**members, "sealed": b64(wrapped.sealed)}) + b"\n"


def decode_wrapped(data: bytes) -> Wrapped:
    """The wrapped key in `data`; its parameters are the holder's to read.

    Raises `MalformedError` (`master-format`, and those of `kokon.wire`).
    """
    fields = Fields(parse_json(data, limit=WRAPPED_LIMIT, what="master.json"), "master.json")
    form, version = fields.text("format", limit=64), fields.integer("version")
    if (form, version) != (FORMAT, VERSION):
        raise MalformedError(
            "master-format",
            "master.json is of another format",
            expected=f"{FORMAT} {VERSION}",
            found=f"{form} {version}",
            hint="open it with the version of Kokon that wrote it",
        )
    holder, master = fields.text("holder", limit=32), fields.text("master", limit=32)
    if holder not in WRAPPING or not _IDENTITY.fullmatch(master):
        raise MalformedError("master-format", "master.json names no holder or no key", found=f"{holder} {master}")
    parameters = canonical_json(fields.table("parameters"))
    nonce = unb64(fields.text("nonce", limit=64), what="nonce", size=NONCE_SIZE)
    sealed = unb64(fields.text("sealed", limit=128), what="sealed key", size=KEY_SIZE + TAG_SIZE)
    fields.finish()
    return Wrapped(holder, master, parameters, nonce, sealed)


def parameters_of(wrapped: Wrapped) -> Fields:
    """Typed access to the holder's parameters."""
    return Fields(parse_json(wrapped.parameters, limit=WRAPPED_LIMIT, what="parameters"), "parameters of master.json")


def associated(holder: HolderName, master: str, parameters: bytes) -> bytes:
    """What is authenticated beside the key: all that is in the file before the nonce."""
    return b"kokon master key\0" + canonical_json(_header(holder, master, parameters))


def seal(
    key: bytes,
    holder: HolderName,
    parameters: dict[str, Any],
    master: MasterKey,
    random: Random = secrets.token_bytes,
) -> Wrapped:
    """`master` wrapped with AES-256-GCM under `key` (32 bytes)."""
    text, nonce = canonical_json(parameters), random(NONCE_SIZE)
    sealed = AESGCM(key).encrypt(nonce, master.key, associated(holder, master.identity, text))
    return Wrapped(holder, master.identity, text, nonce, sealed)


def unseal(key: bytes, wrapped: Wrapped) -> MasterKey:
    """The master key out of what `seal` made. Raises `cryptography.exceptions.InvalidTag`, for the holder to name, and
    as `opened` does."""
    data = associated(wrapped.holder, wrapped.master, wrapped.parameters)
    return opened(AESGCM(key).decrypt(wrapped.nonce, wrapped.sealed, data), wrapped)


def opened(key: bytes, wrapped: Wrapped) -> MasterKey:
    """The key that came out of `wrapped`, if it is the one named there. Raises `UntrustedError` (`master-damaged`)."""
    master = MasterKey(key)
    if not hmac.compare_digest(master.identity, wrapped.master):
        raise UntrustedError(
            "master-damaged",
            "master.json holds another key than it says",
            expected=wrapped.master,
            found=master.identity,
        )
    return master


def _header(holder: HolderName, master: str, parameters: bytes) -> dict[str, Any]:
    value = parse_json(parameters, limit=WRAPPED_LIMIT, what="parameters")
    return {"format": FORMAT, "version": VERSION, "holder": holder, "master": master, "parameters": value}
