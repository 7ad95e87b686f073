"""A holder by token: an AES-256 key that never leaves a PKCS#11 token wraps the master key in `master.json`.

Mechanism CKM_AES_GCM (PKCS#11 3.0, section 2.12), nonce made here. [machine's edge: a library]
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kokon.errors import HostError, UntrustedError, UsageError
from kokon.pkcs11 import LABEL_LIMIT, only, session
from kokon.provisioning.custody.master import KEY_SIZE, NONCE_SIZE, TAG_SIZE, MasterKey, Random
from kokon.provisioning.custody.wrapped import (
    Wrapped,
    associated,
    decode_wrapped,
    encode_wrapped,
    opened,
    parameters_of,
)
from kokon.wire import canonical_json

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import ModuleType

    from kokon.provisioning.custody.wrapped import HolderName


@dataclass(frozen=True, slots=True)
class TokenHolder:
    """Keeps a master key under the secret key labelled `key` in the token labelled `token`, which `library` reaches.

    `library` is the path of the token's PKCS#11 module, `pin` the user's PIN (UTF-8, as PKCS#11 has it).
    """

    library: Path
    token: str
    key: str
    pin: bytes = field(repr=False)
    random: Random = field(default=secrets.token_bytes, repr=False)

    @property
    def name(self) -> HolderName:
        """`pkcs11`."""
        return "pkcs11"

    def make_key(self) -> None:
        """Make the wrapping key in the token: AES-256, sensitive, not extractable, for encryption only.

        Raises `UsageError` (`pkcs11-key-exists`), and as `open` does for the token.
        """
        with self._session(write=True) as (api, session):
            if _find(api, session, self.key):
                raise UsageError(
                    "pkcs11-key-exists",
                    "the token has a key of this label",
                    found=self.key,
                    hint="use it, or choose another label",
                )
            session.generate_key(api.KeyType.AES, KEY_SIZE * 8, label=self.key, store=True, template=_template(api))

    def wrap(self, master: MasterKey) -> bytes:
        """The content of `master.json`. Raises as `open` does for the token."""
        parameters = canonical_json({"token": self.token, "key": self.key})
        nonce = self.random(NONCE_SIZE)
        with self._session() as (api, session):
            key = self._key(api, session)
            options = _gcm(api, nonce, associated(self.name, master.identity, parameters))
            sealed = bytes(key.encrypt(master.key, **options))
        if len(sealed) != KEY_SIZE + TAG_SIZE:
            raise HostError("pkcs11-failed", "the token's AES-GCM gave a wrong size", expected=48, found=len(sealed))
        return encode_wrapped(Wrapped(self.name, master.identity, parameters, nonce, sealed))

    def open(self, data: bytes) -> MasterKey:
        """The master key.

        Raises `HostError` (`pkcs11-missing`, `pkcs11-token-missing`, `pkcs11-key-missing`, `pkcs11-failed`),
        `DeniedError` (`pin-wrong`, `pin-locked`), `UsageError` (`pin-malformed`, `pkcs11-label`, `pkcs11-mismatch`),
        `UntrustedError` (`pkcs11-key-exposed`, `pkcs11-key-ambiguous`, `pkcs11-unwrap-failed`), `MalformedError`
        (`master-format`, and those of `kokon.wire`).
        """
        wrapped = decode_wrapped(data)
        self._check_place(wrapped)
        options = wrapped.nonce, associated(self.name, wrapped.master, wrapped.parameters)
        with self._session() as (api, session):
            key = self._key(api, session)
            try:
                plain = bytes(key.decrypt(wrapped.sealed, **_gcm(api, *options)))
            except api.PKCS11Error as error:
                raise UntrustedError(
                    "pkcs11-unwrap-failed",
                    "the token's key does not open master.json",
                    found=type(error).__name__,
                    hint="is it the token that wrapped it? Then restore master.json from a backup",
                ) from error
        return opened(plain, wrapped)

    def _check_place(self, wrapped: Wrapped) -> None:
        fields = parameters_of(wrapped)
        token, key = fields.text("token", limit=LABEL_LIMIT), fields.text("key", limit=LABEL_LIMIT)
        fields.finish()
        if (token, key) != (self.token, self.key):
            raise UsageError(
                "pkcs11-mismatch",
                "master.json was wrapped by another token or key",
                expected=f"token {token}, key {key}",
                found=f"token {self.token}, key {self.key}",
            )

    def _session(self, *, write: bool = False) -> AbstractContextManager[tuple[ModuleType, Any]]:
        return session(self.library, self.token, self.key, self.pin, write=write)

    def _key(self, api: ModuleType, session: Any) -> Any:
        """The wrapping key, if there is one only and nobody can get it out. `Any`: the library's types are its own."""
        hint = "make it with `kokon provision init`, or give the label of the key that is there"
        found = only(_find(api, session, self.key), self.key, hint)
        names = api.Attribute
        wanted = {names.SENSITIVE: True, names.EXTRACTABLE: False, names.VALUE_LEN: KEY_SIZE}
        wrong = [f"{name.name} {found[name]}" for name, value in wanted.items() if found[name] != value]
        if wrong:
            raise UntrustedError(
                "pkcs11-key-exposed",
                "the token's key can be taken out of it, or is not AES-256",
                expected="SENSITIVE, not EXTRACTABLE, 32 bytes",
                found=", ".join(wrong),
            )
        return found


def _find(api: ModuleType, session: Any, label: str) -> list[Any]:
    return list(
        session.get_objects(
            {
                api.Attribute.CLASS: api.ObjectClass.SECRET_KEY,
                api.Attribute.KEY_TYPE: api.KeyType.AES,
                api.Attribute.LABEL: label,
            }
        )
    )


def _template(api: ModuleType) -> dict[Any, bool]:
    names = api.Attribute
    yes = (names.TOKEN, names.PRIVATE, names.SENSITIVE, names.ENCRYPT, names.DECRYPT)
    no = (names.EXTRACTABLE, names.WRAP, names.UNWRAP, names.SIGN, names.VERIFY, names.DERIVE)
    return dict.fromkeys(yes, True) | dict.fromkeys(no, False)


def _gcm(api: ModuleType, nonce: bytes, data: bytes) -> dict[str, Any]:
    parameters = api.GCMParams(nonce, aad=data, tag_bits=TAG_SIZE * 8)
    return {"mechanism": api.Mechanism.AES_GCM, "mechanism_param": parameters}
