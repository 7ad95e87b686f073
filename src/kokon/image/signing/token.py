"""Signing with a key in a PKCS#11 token, which never leaves it. [machine's edge: a library; needs the extra `pkcs11`]

Mechanisms of PKCS#11 3.0: CKM_ECDSA over a digest made here (2.3.6; every token has it, and its r and s become DER
here), CKM_SHA256_RSA_PKCS (2.1.12), CKM_EDDSA (2.3.14). A wrong PIN is tried once only, since tokens count.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from kokon.errors import DeniedError, HostError, UntrustedError, UsageError
from kokon.image.signing.keys import PublicKey, check_public, signature_holds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

LABEL_LIMIT: Final = 64
PIN_LIMIT: Final = 256
_ED25519_POINT: Final = b"\x04\x20"
"""Begins an OCTET STRING of 32 bytes: tokens write CKA_EC_POINT with it or without."""
_LOCK: Final = threading.Lock()
"""A token's login is the whole process's."""


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """The private key labelled `key` in the token labelled `token`, which the PKCS#11 module `library` reaches; `pin`
    is the user's (UTF-8). `public` is its public half, as `open_token` reads it from the token."""

    library: Path
    token: str
    key: str
    pin: bytes = field(repr=False)
    public: PublicKey

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`, verified with the public key before it is given out.

        Raises `HostError` (`pkcs11-missing`, `pkcs11-token-missing`, `pkcs11-key-missing`, `pkcs11-failed`),
        `DeniedError` (`pin-wrong`, `pin-locked`), `UsageError` (`pin-malformed`, `pkcs11-label`), `UntrustedError`
        (`pkcs11-key-ambiguous`, `signature-wrong`).
        """
        with _session(self.library, self.token, self.key, self.pin) as (api, session):
            private = _one(session, api, api.ObjectClass.PRIVATE_KEY, self.key)
            signature = _signed(api, private, self.public, message)
        if not signature_holds(self.public, signature, message):
            raise UntrustedError(
                "signature-wrong",
                "the token's signature is not one of its public key",
                hint="do private and public key of this label in the token belong together?",
            )
        return signature


def open_token(library: Path, token: str, key: str, pin: bytes) -> TokenSigner:
    """A signer with the key labelled `key`. Raises as `TokenSigner.sign`, and `MalformedError` (`key-malformed`)."""
    with _session(library, token, key, pin) as (api, session):
        public = _public(api, _one(session, api, api.ObjectClass.PUBLIC_KEY, key))
    return TokenSigner(library, token, key, pin, public)


def _signed(api: ModuleType, private: Any, public: PublicKey, message: bytes) -> bytes:
    if isinstance(public, ec.EllipticCurvePublicKey):
        raw = bytes(private.sign(hashlib.sha256(message).digest(), mechanism=api.Mechanism.ECDSA))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
    mechanism = api.Mechanism.SHA256_RSA_PKCS if isinstance(public, rsa.RSAPublicKey) else api.Mechanism.EDDSA
    return bytes(private.sign(message, mechanism=mechanism))


def _public(api: ModuleType, found: Any) -> PublicKey:
    names = api.Attribute
    if found.key_type == api.KeyType.RSA:
        modulus, exponent = (int.from_bytes(found[name]) for name in (names.MODULUS, names.PUBLIC_EXPONENT))
        return check_public(rsa.RSAPublicNumbers(exponent, modulus).public_key())
    if found.key_type == api.KeyType.EC:
        from pkcs11.util.ec import encode_ec_public_key

        return check_public(serialization.load_der_public_key(encode_ec_public_key(found)))
    point = bytes(found[names.EC_POINT]).removeprefix(_ED25519_POINT)
    if len(point) != 32:
        return check_public(None)
    return ed25519.Ed25519PublicKey.from_public_bytes(point)


def _one(session: Any, api: ModuleType, kind: Any, label: str) -> Any:
    found = list(session.get_objects({api.Attribute.CLASS: kind, api.Attribute.LABEL: label}))
    if not found:
        raise HostError("pkcs11-key-missing", "the token has no such key", expected=f"{kind.name} {label}")
    if len(found) > 1:
        raise UntrustedError(
            "pkcs11-key-ambiguous", "the token has several keys of this label", expected="one", found=len(found)
        )
    return found[0]


@contextlib.contextmanager
def _session(library: Path, token: str, key: str, pin: bytes) -> Iterator[tuple[ModuleType, Any]]:
    for label in (token, key):
        if not 0 < len(label.encode()) <= LABEL_LIMIT:
            raise UsageError("pkcs11-label", f"labels have 1 to {LABEL_LIMIT} bytes", found=repr(label))
    word = pin.decode("utf-8", "replace")
    if not 0 < len(word) <= PIN_LIMIT or "\0" in word or "\ufffd" in word:
        raise UsageError("pin-malformed", "the PIN is empty, too long or not UTF-8")
    try:
        import pkcs11 as api
    except ImportError as error:
        raise HostError(
            "pkcs11-missing", "PKCS#11 is not installed", expected="python-pkcs11", hint="pip install 'kokon[pkcs11]'"
        ) from error
    with _LOCK, _named(api), api.lib(str(library)).get_token(token_label=token).open(user_pin=word) as session:
        yield api, session


@contextlib.contextmanager
def _named(api: ModuleType) -> Iterator[None]:
    """The library's errors as ours; their texts may hold anything, so only their names are told."""
    try:
        yield
    except (api.PinIncorrect, api.PinInvalid, api.PinLenRange) as error:
        raise DeniedError("pin-wrong", "the token refuses the PIN", hint="it was tried once") from error
    except api.PinLocked as error:
        raise DeniedError("pin-locked", "the token's PIN is locked") from error
    except (api.NoSuchToken, api.MultipleTokensReturned) as error:
        raise HostError(
            "pkcs11-token-missing", "there is not exactly one token of this label", found=type(error).__name__
        ) from error
    except api.PKCS11Error as error:
        raise HostError(
            "pkcs11-failed",
            "the PKCS#11 library or the token failed",
            found=type(error).__name__,
            hint="check the path of the library, and the token with its own tools",
        ) from error
