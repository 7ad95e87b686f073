"""Derived secrets: HKDF as RFC 5869 has it, and inputs that cannot run into each other."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError
from kokon.provisioning.secret.derive import SCOPES, derive, encode_info

BASE = bytes(range(32))
WHO: dict[str, Any] = {
    "project": "default",
    "path": "clinic/secret/disk",
    "version": 3,
    "workload": "clinic",
    "platform": "0f" * 64,
    "activation": "5e" * 16,
}
TEXT = st.text(max_size=6)


def hkdf(key: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 section 2, by hand."""
    extracted = hmac.digest(salt or bytes(32), key, hashlib.sha256)
    block, found = b"", b""
    for number in range(1, -(-size // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([number]), hashlib.sha256)
        found += block
    return found[:size]


@pytest.mark.parametrize(
    ("salt", "info", "expected"),
    [
        (
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (b"", b"", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
    ],
)
def test_hkdf_by_hand_and_by_the_library_are_those_of_the_rfc(salt: bytes, info: bytes, expected: str) -> None:
    """RFC 5869 appendix A.1 and A.3."""
    key = b"\x0b" * 22
    assert hkdf(key, salt, info, 42).hex() == expected
    assert HKDF(SHA256(), 42, salt or None, info).derive(key).hex() == expected


@pytest.mark.parametrize(("scope", "rest"), [("workload", []), ("platform", ["0f" * 64]), ("activation", ["5e" * 16])])
def test_each_scope_is_hkdf_of_its_inputs(scope: str, rest: list[str]) -> None:
    parts = ["kokon derived secret 1", scope, "default", "clinic/secret/disk", "3", "clinic", *rest]
    info = b"".join(len(part).to_bytes(4, "big") + part.encode() for part in parts)
    assert derive(BASE, scope=scope, **WHO) == hkdf(BASE, b"", info, 32)


KNOWN = {
    "workload": "9960bb59445937e2cc8706f3768d3a3e71d4f2ed9375c4b01779201119a0b160",
    "platform": "c545e06e1b52268e4b9d7036479d7a717d2fb4471a31fecf2dcc278586aa7227",
    "activation": "6502bfefa43d02a19ae02c11ec8b24ef6eab8069cf675f518ba4dcb16bb5353c",
}


@pytest.mark.parametrize("scope", SCOPES)
def test_a_derived_secret_is_what_it_always_was(scope: str) -> None:
    """Known answers: disks are encrypted under these."""
    assert derive(BASE, scope=scope, **WHO).hex() == KNOWN[scope]


INPUTS = st.fixed_dictionaries(
    {
        "project": TEXT,
        "path": TEXT,
        "version": st.integers(1, 200),
        "workload": TEXT,
        "platform": TEXT.map(lambda text: text + "1"),
        "activation": TEXT.map(lambda text: text + "1"),
    }
)


def relevant(scope: str, who: dict[str, Any]) -> list[Any]:
    shared = [scope, *(who[name] for name in ("project", "path", "version", "workload"))]
    return shared if scope == "workload" else [*shared, who[scope]]


@given(INPUTS, INPUTS, st.sampled_from(SCOPES), st.sampled_from(SCOPES))
def test_two_derived_secrets_are_the_same_only_of_the_same_inputs(
    one: dict[str, Any], other: dict[str, Any], scope: str, another: str
) -> None:
    same = relevant(scope, one) == relevant(another, other)
    assert (derive(BASE, scope=scope, **one) == derive(BASE, scope=another, **other)) == same


@given(st.lists(TEXT, min_size=2, max_size=5), st.data())
def test_nothing_can_be_moved_from_one_input_to_the_next(parts: list[str], data: st.DataObject) -> None:
    """The same text, cut elsewhere, is encoded otherwise."""
    whole = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=4)))
    again = [whole[low:high] for low, high in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert (encode_info(parts) == encode_info(again)) == (parts == again)


@pytest.mark.parametrize("platform", ["", "0", "00" * 16, "00" * 64])
def test_a_chip_that_is_not_named_gets_nothing(platform: str) -> None:
    """A host that has SEV-SNP mask the chip's id would else let all its chips share a secret."""
    who = {**WHO, "platform": platform}
    with pytest.raises(KokonError) as caught:
        derive(BASE, scope="platform", **who)
    assert (caught.value.code, caught.value.kind) == ("secret-platform-unknown", "denied")
    assert derive(BASE, scope="workload", **who) == derive(BASE, scope="workload", **WHO)
    assert derive(BASE, scope="activation", **who) == derive(BASE, scope="activation", **WHO)


def test_a_token_without_an_id_gets_nothing() -> None:
    with pytest.raises(KokonError) as caught:
        derive(BASE, scope="activation", **{**WHO, "activation": ""})
    assert (caught.value.code, caught.value.kind) == ("secret-activation-unknown", "denied")


def test_only_a_base_is_derived_from() -> None:
    for base in (b"", bytes(31), bytes(33)):
        with pytest.raises(KokonError) as caught:
            derive(base, scope="workload", **WHO)
        assert caught.value.code == "secret-record"
    for scope in ("", "Workload", "person", "workload\n"):
        with pytest.raises(KokonError) as caught:
            derive(BASE, scope=scope, **WHO)
        assert caught.value.code == "secret-scope"
