"""Signing with a key in a token, with SoftHSM as the token."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kokon.errors import KokonError
from kokon.image.signing.keys import describe, signature_holds
from kokon.image.signing.token import TokenSigner, open_token
from kokon.pkcs11 import named
from support.softhsm import LIBRARY, missing, tokens

PIN = b"8642"

if missing():
    pytest.skip(
        "SKIPPED LOUDLY: SoftHSM (package softhsm2) is missing, signing with tokens is untested here",
        allow_module_level=True,
    )
api: Any = pytest.importorskip(
    "pkcs11", reason="SKIPPED LOUDLY: python-pkcs11 is missing, signing with tokens is untested"
)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A token with a key of every kind, labelled by it."""
    with tokens(tmp_path_factory.mktemp("softhsm-signing"), PIN, "signing") as library:
        yield library.get_token(token_label="signing")


@pytest.fixture(scope="module")
def keys(token: Any) -> dict[str, str]:
    from pkcs11.util.ec import encode_named_curve_parameters

    with token.open(rw=True, user_pin=PIN.decode()) as session:
        for curve, label in (("secp256r1", "p256"), ("secp384r1", "p384"), ("secp521r1", "p521")):
            parameters = {api.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
            session.create_domain_parameters(api.KeyType.EC, parameters, local=True).generate_keypair(
                store=True, label=label
            )
        session.generate_keypair(api.KeyType.RSA, 2048, store=True, label="rsa")
        edwards = {api.Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112")}
        session.create_domain_parameters(api.KeyType.EC_EDWARDS, edwards, local=True).generate_keypair(
            mechanism=api.Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label="ed25519"
        )
        for _ in range(2):
            session.generate_keypair(api.KeyType.RSA, 2048, store=True, label="twice")
    return {"p256": "ECDSA P-256", "p384": "ECDSA P-384", "rsa": "RSA 2048", "ed25519": "Ed25519"}


def opened(key: str = "p256", name: str = "signing", pin: bytes = PIN, library: Path = LIBRARY) -> TokenSigner:
    return open_token(library, name, key, pin)


def code(**changes: Any) -> str:
    with pytest.raises(KokonError) as caught:
        opened(**changes)
    assert PIN.decode() not in str(caught.value.as_dict())
    return caught.value.code


@pytest.mark.parametrize("label", ["p256", "p384", "rsa", "ed25519"])
def test_a_token_signs(keys: dict[str, str], label: str) -> None:
    signer = opened(label)
    assert describe(signer.public) == keys[label]
    signature = signer.sign(b"message")
    assert signature_holds(signer.public, signature, b"message")
    assert not signature_holds(signer.public, signature, b"another")
    assert PIN.decode() not in repr(signer)


def test_what_a_token_lacks_is_said(keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert code(key="none") == "pkcs11-key-missing"
    assert code(key="twice") == "pkcs11-key-ambiguous"
    assert code(key="") == "pkcs11-label"
    assert code(name="none") == "pkcs11-token-missing"
    assert code(pin=b"0000") == "pin-wrong"
    assert code(pin=b"") == "pin-malformed"
    assert code(key="p521") == "key-malformed"
    assert code(library=Path("/nonexistent.so")) == "pkcs11-failed"
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    assert code() == "pkcs11-missing"


def test_a_locked_pin_is_said(keys: dict[str, str]) -> None:
    """SoftHSM locks none."""
    with pytest.raises(KokonError) as caught, named(api):
        raise api.PinLocked
    assert caught.value.code == "pin-locked"


def test_a_signature_that_is_not_the_public_keys_is_not_given_out(keys: dict[str, str]) -> None:
    mixed = TokenSigner(LIBRARY, "signing", "p256", PIN, opened("p384").public)
    with pytest.raises(KokonError) as caught:
        mixed.sign(b"message")
    assert caught.value.code == "signature-wrong"
