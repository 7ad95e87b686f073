"""SIGSTRUCT: form, signatures in one step and in two."""

import struct
from dataclasses import replace
from datetime import date

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError, MalformedError, UntrustedError
from kokon.tee.sgx.sigstruct import (
    DEBUG,
    SIZE,
    Sigstruct,
    assemble,
    encode,
    parse_sigstruct,
    sign,
    to_be_signed,
    verify_sigstruct,
)

KEY = rsa.generate_private_key(3, 3072)
UNSIGNED = Sigstruct(mrenclave=bytes(range(32)), date=date(2026, 11, 23), product_id=7, security_version=3)
SIGNED = sign(UNSIGNED, KEY)


def test_fields_stand_where_the_manual_says() -> None:
    data = encode(SIGNED)
    assert len(data) == SIZE
    assert data[20:24] == bytes.fromhex("23112620")
    assert data[960:992] == bytes(range(32))
    assert struct.unpack_from("<HH", data, 1024) == (7, 3)
    assert struct.unpack_from("<I", data, 512) == (3,)
    assert int.from_bytes(data[128:512], "little") == KEY.public_key().public_numbers().n
    assert to_be_signed(SIGNED) == data[:128] + data[900:1028]
    assert parse_sigstruct(data) == SIGNED
    assert parse_sigstruct(encode(UNSIGNED)) == UNSIGNED


def test_one_step_and_two_steps_give_the_same() -> None:
    verify_sigstruct(SIGNED)
    outside = KEY.sign(to_be_signed(UNSIGNED), padding.PKCS1v15(), hashes.SHA256())
    assert assemble(UNSIGNED, KEY.public_key().public_numbers().n, outside) == SIGNED
    assert SIGNED.mrsigner != UNSIGNED.mrsigner


def test_quotients_are_the_manuals() -> None:
    n, s = SIGNED.modulus, SIGNED.signature
    assert s * s // n == SIGNED.q1
    assert s * (s * s % n) // n == SIGNED.q2
    assert pow(s, 3, n) == s * (s * s - SIGNED.q1 * n) - SIGNED.q2 * n
    for wrong in (replace(SIGNED, q1=1), replace(SIGNED, q2=SIGNED.q2 + 1)):
        with pytest.raises(UntrustedError) as caught:
            verify_sigstruct(wrong)
        assert caught.value.code == "sigstruct-quotients"


def test_debug_is_what_the_processor_would_admit() -> None:
    assert not SIGNED.debug
    assert replace(SIGNED, flags=SIGNED.flags | DEBUG).debug
    assert replace(SIGNED, flags_mask=SIGNED.flags_mask & ~DEBUG).debug


@pytest.mark.parametrize("place", [24, 20, 40, 901, 905, 912, 928, 944, 960, 1008, 1024, 1026])
def test_every_signed_field_is_signed(place: int) -> None:
    data = bytearray(encode(SIGNED))
    data[place] ^= 1
    with pytest.raises((UntrustedError, MalformedError)) as caught:
        verify_sigstruct(parse_sigstruct(bytes(data)))
    assert caught.value.code in ("sigstruct-signature", "sigstruct-malformed")


def changed(place: int, value: bytes) -> bytes:
    data = encode(SIGNED)
    return data[:place] + value + data[place + len(value) :]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "size-mismatch"),
        (encode(SIGNED) + b"\0", "size-mismatch"),
        (changed(0, b"\7"), "sigstruct-malformed"),
        (changed(16, b"\1"), "sigstruct-malformed"),
        (changed(24, b"\2"), "sigstruct-malformed"),
        (changed(44, b"\1"), "sigstruct-malformed"),
        (changed(910, b"\1"), "sigstruct-malformed"),
        (changed(1000, b"\1"), "sigstruct-malformed"),
        (changed(1030, b"\1"), "sigstruct-malformed"),
        (changed(512, b"\5"), "sigstruct-malformed"),
        (changed(20, b"\x0a"), "sigstruct-malformed"),
        (changed(20, b"\x32"), "sigstruct-malformed"),
    ],
)
def test_malformed_structures_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_sigstruct(data)
    assert caught.value.code == code


@given(st.binary(max_size=64), st.integers(0, SIZE))
def test_parsing_raises_nothing_else(noise: bytes, place: int) -> None:
    data = (encode(SIGNED)[:place] + noise + encode(SIGNED)[place + len(noise) :])[:SIZE]
    try:
        found = parse_sigstruct(data)
    except MalformedError:
        return
    if data == encode(SIGNED):
        return
    try:
        verify_sigstruct(found)
    except KokonError:
        return
    raise AssertionError("a changed SIGSTRUCT verified")


U64 = st.integers(0, 2**64 - 1)


@given(
    st.builds(
        Sigstruct,
        mrenclave=st.binary(min_size=32, max_size=32),
        date=st.dates(),
        product_id=st.integers(0, 0xFFFF),
        security_version=st.integers(0, 0xFFFF),
        flags=U64,
        xfrm=U64,
        flags_mask=U64,
        xfrm_mask=U64,
        miscselect=st.integers(0, 2**32 - 1),
        miscselect_mask=st.integers(0, 2**32 - 1),
        family_id=st.binary(min_size=16, max_size=16),
        extended_product_id=st.binary(min_size=16, max_size=16),
        vendor=st.sampled_from((0, 0x8086)),
        software_defined=st.integers(0, 2**32 - 1),
        modulus=st.integers(0, 2**3072 - 1),
        signature=st.integers(0, 2**3072 - 1),
        q1=st.integers(0, 2**3072 - 1),
        q2=st.integers(0, 2**3072 - 1),
    )
)
def test_round_trip(sigstruct: Sigstruct) -> None:
    if sigstruct.signature and not sigstruct.modulus:
        with pytest.raises(MalformedError):
            parse_sigstruct(encode(sigstruct))
    else:
        assert parse_sigstruct(encode(sigstruct)) == sigstruct


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (replace(UNSIGNED, product_id=1 << 16), "sigstruct-field"),
        (replace(UNSIGNED, modulus=1 << 3072), "sigstruct-field"),
        (replace(UNSIGNED, mrenclave=b""), "size-mismatch"),
        (replace(UNSIGNED, family_id=b""), "size-mismatch"),
    ],
)
def test_values_without_room(wrong: Sigstruct, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        encode(wrong)
    assert caught.value.code == code


def test_wrong_keys_and_signatures() -> None:
    for key in (rsa.generate_private_key(65537, 3072), rsa.generate_private_key(3, 2048)):
        with pytest.raises(MalformedError) as caught:
            sign(UNSIGNED, key)
        assert caught.value.code == "sigstruct-key"
    modulus = SIGNED.modulus
    for signature in (b"\1" * 384, b"\xff" * 384):
        with pytest.raises(UntrustedError) as untrusted:
            assemble(UNSIGNED, modulus, signature)
        assert untrusted.value.code == "sigstruct-signature"
    with pytest.raises(MalformedError) as caught:
        assemble(UNSIGNED, modulus, b"")
    assert caught.value.code == "size-mismatch"
    for wrong in (replace(SIGNED, signature=modulus), replace(SIGNED, modulus=modulus - 1)):
        with pytest.raises(UntrustedError) as untrusted:
            verify_sigstruct(wrong)
        assert untrusted.value.code == "sigstruct-signature"
    with pytest.raises(MalformedError) as caught:
        verify_sigstruct(UNSIGNED)
    assert caught.value.code == "sigstruct-key"
