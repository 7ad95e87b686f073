"""The holder by token, with SoftHSM as the token."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from custody_kit import MASTER, refused

from kokon.errors import DeniedError, HostError, MalformedError, UntrustedError, UsageError
from kokon.provisioning.custody import pkcs11 as custody_pkcs11
from kokon.provisioning.custody import vault
from kokon.provisioning.custody.file import FileHolder
from kokon.provisioning.custody.pkcs11 import TokenHolder
from support.softhsm import LIBRARY, missing
from support.softhsm import tokens as softhsm_tokens

PIN = b"24681357"

if missing():
    pytest.skip("SKIPPED: SoftHSM (package softhsm2) is missing, PKCS#11 is untested here", allow_module_level=True)
api: Any = pytest.importorskip("pkcs11", reason="SKIPPED: python-pkcs11 is missing, PKCS#11 is untested here")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two tokens, `one` and `two`, made before the library looks."""
    directory = tmp_path_factory.mktemp("softhsm")
    with softhsm_tokens(directory, PIN, "one", "two"):
        yield directory


@pytest.fixture(scope="module")
def holder(tokens: Path) -> TokenHolder:
    holder = TokenHolder(LIBRARY, "one", "kokon", PIN)
    holder.make_key()
    replace(holder, token="two").make_key()
    replace(holder, key="second").make_key()
    return holder


@pytest.fixture(scope="module")
def file(holder: TokenHolder) -> bytes:
    return holder.wrap(MASTER)


def objects(token: str, key: str) -> list[Any]:
    with api.lib(str(LIBRARY)).get_token(token_label=token).open(user_pin=PIN.decode()) as session:
        return [
            {name: entry[name] for name in (api.Attribute.SENSITIVE, api.Attribute.EXTRACTABLE, api.Attribute.WRAP)}
            for entry in session.get_objects({api.Attribute.LABEL: key})
        ]


def generate(token: str, key: str, bits: int = 256, **attributes: bool) -> None:
    template = {getattr(api.Attribute, name): value for name, value in attributes.items()}
    with api.lib(str(LIBRARY)).get_token(token_label=token).open(rw=True, user_pin=PIN.decode()) as session:
        session.generate_key(api.KeyType.AES, bits, label=key, store=True, template=template)


def test_the_token_opens_what_it_wrapped(holder: TokenHolder, file: bytes) -> None:
    assert holder.open(file).same_as(MASTER)
    assert holder.name == "pkcs11"
    assert MASTER.key not in file
    assert PIN.decode() not in repr(holder)
    members = json.loads(file)
    assert members["parameters"] == {"token": "one", "key": "kokon"}
    assert members["nonce"] != json.loads(holder.wrap(MASTER))["nonce"]


def test_the_key_never_leaves_the_token(holder: TokenHolder) -> None:
    (found,) = objects("one", "kokon")
    assert list(found.values()) == [True, False, False]
    with api.lib(str(LIBRARY)).get_token(token_label="one").open(user_pin=PIN.decode()) as session:
        key = session.get_key(label="kokon", object_class=api.ObjectClass.SECRET_KEY)
        with pytest.raises(api.AttributeSensitive):
            key[api.Attribute.VALUE]


def test_the_format_is_aes_gcm(tokens: Path) -> None:
    """A key that we know, so that what the token computes is checked against another implementation."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from kokon.provisioning.custody.wrapped import associated, decode_wrapped

    names = api.Attribute
    with api.lib(str(LIBRARY)).get_token(token_label="two").open(rw=True, user_pin=PIN.decode()) as session:
        template = {
            names.CLASS: api.ObjectClass.SECRET_KEY,
            names.KEY_TYPE: api.KeyType.AES,
            names.VALUE: b"k" * 32,
            names.LABEL: "known",
            names.TOKEN: True,
            names.SENSITIVE: True,
            names.EXTRACTABLE: False,
            names.ENCRYPT: True,
            names.DECRYPT: True,
        }
        session.create_object(template)
    wrapped = decode_wrapped(TokenHolder(LIBRARY, "two", "known", PIN).wrap(MASTER))
    data = associated("pkcs11", wrapped.master, wrapped.parameters)
    assert AESGCM(b"k" * 32).decrypt(wrapped.nonce, wrapped.sealed, data) == MASTER.key


def test_another_key_or_token_does_not_open_it(holder: TokenHolder, file: bytes) -> None:
    for other in (replace(holder, key="second"), replace(holder, token="two")):
        with refused("pkcs11-mismatch", UsageError):
            other.open(file)
        members = json.loads(file)
        members["parameters"] = {"token": other.token, "key": other.key}
        with refused("pkcs11-unwrap-failed", UntrustedError):
            other.open(json.dumps(members).encode())


@pytest.mark.parametrize("name", ["nonce", "sealed", "master"])
def test_changed_files(holder: TokenHolder, file: bytes, name: str) -> None:
    members = json.loads(file)
    members[name] = ("0" if name == "master" else "A") + members[name][1:]
    if members[name] == json.loads(file)[name]:
        members[name] = ("1" if name == "master" else "B") + members[name][1:]
    with refused("pkcs11-unwrap-failed", UntrustedError):
        holder.open(json.dumps(members).encode())


def test_malformed_parameters(holder: TokenHolder, file: bytes) -> None:
    for parameters, code in (({}, "field-missing"), ({"token": "one", "key": "kokon", "pin": "1"}, "field-unknown")):
        with refused(code, MalformedError):
            holder.open(json.dumps({**json.loads(file), "parameters": parameters}).encode())


def test_a_wrong_pin(holder: TokenHolder, file: bytes) -> None:
    with refused("pin-wrong", DeniedError):
        replace(holder, pin=b"00000000").open(file)
    assert holder.open(file).same_as(MASTER), "a failure leaves nothing open"


@pytest.mark.parametrize("pin", [b"", b"\xff\xfe", b"1\0002", b"1" * 257])
def test_what_is_no_pin(holder: TokenHolder, file: bytes, pin: bytes) -> None:
    """An empty one would give a public session, without login."""
    with refused("pin-malformed", UsageError):
        replace(holder, pin=pin).open(file)


def test_a_locked_pin(holder: TokenHolder, file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """SoftHSM locks none."""

    def locked(*_arguments: object) -> None:
        raise api.PinLocked

    monkeypatch.setattr("kokon.pkcs11._token", locked)
    with refused("pin-locked", DeniedError):
        holder.open(file)


def test_what_is_missing(holder: TokenHolder, tmp_path: Path) -> None:
    with refused("pkcs11-token-missing", HostError):
        replace(holder, token="three").wrap(MASTER)
    with refused("pkcs11-key-missing", HostError):
        replace(holder, key="none").wrap(MASTER)
    (tmp_path / "library.so").write_bytes(b"no library")
    for library in (tmp_path / "library.so", tmp_path / "absent.so"):
        with refused("pkcs11-failed", HostError):
            replace(holder, library=library).wrap(MASTER)


@pytest.mark.parametrize("label", ["", "x" * 65, "ä" * 33])
def test_labels_out_of_bounds(holder: TokenHolder, label: str) -> None:
    for other in (replace(holder, token=label), replace(holder, key=label)):
        with refused("pkcs11-label", UsageError):
            other.wrap(MASTER)


def test_without_the_library_for_python(holder: TokenHolder, file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with refused("pkcs11-missing", HostError):
        holder.open(file)


def test_keys_that_others_can_have(holder: TokenHolder) -> None:
    generate("two", "extractable", EXTRACTABLE=True, SENSITIVE=True)
    generate("two", "readable", EXTRACTABLE=False, SENSITIVE=False)
    generate("two", "small", bits=128, EXTRACTABLE=False, SENSITIVE=True)
    for key in ("extractable", "readable", "small"):
        with refused("pkcs11-key-exposed", UntrustedError):
            replace(holder, token="two", key=key).wrap(MASTER)


def test_two_keys_of_one_label(holder: TokenHolder) -> None:
    """Who may write to the token could slip in a key of their own."""
    for _ in range(2):
        generate("two", "double", EXTRACTABLE=False, SENSITIVE=True)
    with refused("pkcs11-key-ambiguous", UntrustedError):
        replace(holder, token="two", key="double").wrap(MASTER)
    with refused("pkcs11-key-exists", UsageError):
        holder.make_key()
    assert len(objects("one", "kokon")) == 1


def test_a_token_without_aes_gcm(holder: TokenHolder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = custody_pkcs11._gcm
    monkeypatch.setattr(custody_pkcs11, "_gcm", lambda *a: {**real(*a), "mechanism": api.Mechanism.AES_CCM})
    with refused("pkcs11-failed", HostError):
        holder.wrap(MASTER)
    monkeypatch.setattr(custody_pkcs11, "_gcm", lambda *a: {"mechanism": api.Mechanism.AES_ECB})
    with refused("pkcs11-failed", HostError):
        holder.wrap(MASTER)


def test_in_the_state_directory(holder: TokenHolder, tmp_path: Path) -> None:
    """From the clear file to the token, to the token's second key, and back."""
    second = replace(holder, key="second")
    made = vault.create(tmp_path, FileHolder())
    for old, new in ((FileHolder(), holder), (holder, second), (second, FileHolder())):
        assert vault.rewrap(tmp_path, old, new).same_as(made)
        assert vault.open_master(tmp_path, new).same_as(made)
