"""The master key itself, and its wrapped form as bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from custody_kit import MASTER, OTHER, cheap_holder, refused
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError, MalformedError, UntrustedError
from kokon.provisioning.custody.file import FileHolder
from kokon.provisioning.custody.master import MasterKey, make_master
from kokon.provisioning.custody.wrapped import WRAPPED_LIMIT, decode_wrapped, encode_wrapped, opened, seal, unseal

HOLDER = cheap_holder()
FILE = HOLDER.wrap(MASTER)


def changed(**members: Any) -> bytes:
    return json.dumps({**json.loads(FILE), **members}).encode()


def test_a_master_key_shows_nothing() -> None:
    assert repr(MASTER) == "MasterKey()"
    assert MasterKey(MASTER.key) != MASTER, "masters are compared with same_as only"
    assert MASTER.same_as(MasterKey(MASTER.key))
    assert not MASTER.same_as(OTHER)
    assert MASTER.identity != OTHER.identity
    assert len({MASTER.subkey("a"), MASTER.subkey("b"), OTHER.subkey("a"), MASTER.key}) == 4
    assert MASTER.subkey("identity", 16).hex() == MASTER.identity


def test_identity_is_stable() -> None:
    """HKDF-Expand (RFC 5869) with SHA-256, computed here by hand."""
    import hmac

    block = hmac.digest(MASTER.key, b"kokon master key 1\0identity\1", "sha256")
    assert MASTER.identity == block[:16].hex()


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_master_key_has_32_bytes(size: int) -> None:
    with refused("master-key-size", MalformedError):
        MasterKey(b"x" * size)
    with refused("master-key-size", MalformedError):
        make_master(lambda _size: b"x" * size)


def test_new_masters_differ() -> None:
    assert not make_master().same_as(make_master())


def test_the_file_holder_keeps_the_bytes() -> None:
    assert FileHolder().open(FileHolder().wrap(MASTER)).same_as(MASTER)
    with refused("key-file-malformed", MalformedError):
        FileHolder().open(b"short")


def test_round_trip() -> None:
    wrapped = decode_wrapped(FILE)
    assert encode_wrapped(wrapped) == FILE
    assert (wrapped.holder, wrapped.master) == ("enclave", MASTER.identity)
    assert HOLDER.open(FILE).same_as(MASTER)
    assert MASTER.key not in FILE
    assert wrapped.sealed.hex() not in repr(wrapped)
    assert str(wrapped.sealed) not in repr(wrapped)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "json-malformed"),
        (b"[]", "field-type"),
        (FILE + b"x", "json-malformed"),
        (FILE[:-2] + b',"holder":"enclave"}', "json-malformed"),
        (FILE + b" " * WRAPPED_LIMIT, "json-too-large"),
        (changed(format="other"), "master-format"),
        (changed(version=2), "master-format"),
        (changed(version=True), "field-type"),
        (changed(holder="file"), "master-format"),
        (changed(holder="nobody"), "master-format"),
        (changed(master="F" * 32), "master-format"),
        (changed(master="f" * 31), "master-format"),
        (changed(more=1), "field-unknown"),
        (changed(parameters=[]), "field-type"),
        (changed(parameters={"context": 1.5}), "json-not-canonical"),
        (changed(nonce="AAAA"), "size-mismatch"),
        (changed(sealed="AAAA"), "size-mismatch"),
        (changed(sealed="!"), "base64-malformed"),
    ],
)
def test_malformed_files(data: bytes, code: str) -> None:
    with refused(code, MalformedError):
        decode_wrapped(data)


@pytest.mark.parametrize("name", ["format", "version", "holder", "master", "parameters", "nonce", "sealed"])
def test_every_member_is_needed(name: str) -> None:
    members = json.loads(FILE)
    del members[name]
    with refused("field-missing", MalformedError):
        decode_wrapped(json.dumps(members).encode())


def test_every_byte_counts() -> None:
    for place in range(len(FILE)):
        data = bytearray(FILE)
        data[place] ^= 1
        with pytest.raises(KokonError):
            HOLDER.open(bytes(data))


def test_the_name_in_the_file_must_be_the_keys() -> None:
    """Somebody who knows the wrapping key and lies about what it wraps."""
    other = seal(b"k" * 32, "enclave", {}, OTHER)
    assert unseal(b"k" * 32, other).same_as(OTHER)
    with refused("master-damaged", UntrustedError):
        opened(MASTER.key, other)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_wrapped(data)


@given(st.dictionaries(st.sampled_from(sorted(json.loads(FILE))), st.none() | st.integers() | st.text(max_size=60)))
def test_any_change_is_refused_or_none(members: dict[str, Any]) -> None:
    try:
        found = HOLDER.open(changed(**members))
    except (MalformedError, UntrustedError):
        return
    assert found.same_as(MASTER)
