"""TPM structures: what is parsed, and what is refused."""

import struct
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tpm_kit import Quote, ecc_key, public_area, rsa_key, sign, sized, spki, values

from kokon.errors import MalformedError
from kokon.tee.vtpm.quote import encode_pcrs, key_of, load_key, parse_pcrs, spki_of, strongest
from kokon.tee.vtpm.tpm import Selection, parse_attest, parse_public, parse_signature, ranges

QUOTE = Quote()


def refused(parse: object, data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        parse(data)  # type: ignore[operator]
    assert caught.value.code == "tpm-malformed"
    return str(caught.value)


def test_a_quote() -> None:
    attest = parse_attest(replace(QUOTE, selections=(("sha1", ()), ("sha256", (0, 23)))).encode())
    assert (attest.extra_data, attest.clock, attest.reset_count, attest.restart_count) == (b"nonce", 77, 3, 1)
    assert (attest.safe, attest.firmware_version, attest.qualified_signer) == (True, 9, QUOTE.signer)
    assert attest.selections == (Selection("sha1", ()), Selection("sha256", (0, 23)))
    assert str(attest.selections[1]) == "sha256: 0, 23"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"),
        (bytes(5000), "too large"),
        (replace(QUOTE, magic=b"\0TCG").encode(), "not made by a TPM"),
        (replace(QUOTE, kind=0x8017).encode(), "no quote"),
        (replace(QUOTE, safe=2).encode(), "neither yes nor no"),
        (replace(QUOTE, nonce=bytes(131)).encode(), "too large"),
        (replace(QUOTE, digest=bytes(65)).encode(), "too large"),
        (replace(QUOTE, signer=bytes(69)).encode(), "too large"),
        (replace(QUOTE, selections=(("sha256", (0,)),) * 2).encode(), "given twice"),
        (replace(QUOTE, selections=(("sha256", ()),) * 9).encode(), "too many PCR banks"),
        (QUOTE.encode() + b"\0", "bytes follow"),
        (QUOTE.encode().replace(b"\0\x0b\x03\x83\0\0", b"\0\x0b\x05\x83\0\0\0\0"), "too long"),
    ],
)
def test_quotes_that_are_refused(data: bytes, words: str) -> None:
    assert words in refused(parse_attest, data)


def test_unknown_banks_have_their_number() -> None:
    data = QUOTE.encode().replace(b"\0\x0b\x03\x83", b"\x77\x77\x03\x83")
    assert parse_attest(data).selections == (Selection("0x7777", (0, 1, 7)),)


@pytest.mark.parametrize("key", [rsa_key(), ecc_key(), ecc_key("secp384r1")], ids=["rsa", "p256", "p384"])
def test_keys_and_signatures(key: object) -> None:
    area = public_area(key)  # type: ignore[arg-type]
    public = parse_public(area)
    assert spki_of(key_of(public)) == spki(key)  # type: ignore[arg-type]
    assert spki_of(load_key(spki(key))) == spki(key)  # type: ignore[arg-type]
    assert public.has("restricted")
    assert public.has("sign")
    assert not public.has("decrypt")
    signature = sign(b"x", key)  # type: ignore[arg-type]
    assert parse_signature(signature).hash == "sha256"
    for parse, data in ((parse_public, area), (parse_signature, signature)):
        assert "bytes follow" in refused(parse, data + b"\0")
        for size in range(len(data)):
            refused(parse, data[:size])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((0, b"\0\x08"), "unknown kind"),
        ((2, b"\0\x77"), "unknown kind of key or hash"),
        ((10, b"\0\x06"), "symmetric"),
        ((12, b"\0\x77"), "unknown signature scheme"),
        ((14, b"\0\x77"), "unknown signature scheme"),
        ((16, b"\x08\x01"), "another size"),
    ],
)
def test_areas_of_rsa_keys_that_are_refused(change: tuple[int, bytes], words: str) -> None:
    area = bytearray(public_area(rsa_key()))
    area[change[0] : change[0] + 2] = change[1]
    assert words in refused(parse_public, bytes(area))


def test_other_areas() -> None:
    area = bytearray(public_area(ecc_key()))
    area[16:18] = b"\0\x77"
    assert "unknown curve" in refused(parse_public, bytes(area))
    area[16:20] = b"\0\x03\0\x20"
    assert "key derivation" in refused(parse_public, bytes(area))
    plain = public_area(rsa_key()).replace(
        struct.pack(">HHHH", 0x10, 0x14, 11, 2048), struct.pack(">HHH", 16, 16, 2048)
    )
    assert parse_public(plain).scheme == ""
    off = public_area(ecc_key())[:-1] + bytes([public_area(ecc_key())[-1] ^ 1])
    assert "no key" in refused(lambda data: key_of(parse_public(data)), off)


def test_signatures_that_are_refused() -> None:
    assert "unknown scheme" in refused(parse_signature, struct.pack(">HH", 0x15, 11) + sized(b"x"))
    assert "unknown scheme" in refused(parse_signature, struct.pack(">HH", 0x14, 1) + sized(b"x"))
    assert "too large" in refused(parse_signature, struct.pack(">HH", 0x14, 11) + sized(bytes(513)))


@pytest.mark.parametrize("data", [b"", b"x", bytes(5000), spki(rsa_key()) + b"\0"])
def test_keys_that_are_refused(data: bytes) -> None:
    refused(load_key, data)


def test_only_rsa_and_ecc_keys() -> None:
    refused(load_key, bytes.fromhex("302a300506032b6570032100") + bytes(32))


def test_pcr_values() -> None:
    banks = {"sha256": values((0, 5)), "sha1": values((3,), "sha1"), "sha384": {}}
    data = encode_pcrs(banks)
    assert data[:4] == b"\0\x04\x01\x03"
    assert parse_pcrs(data) == {"sha1": banks["sha1"], "sha256": banks["sha256"]}
    assert parse_pcrs(b"") == {}
    assert "too short" in refused(parse_pcrs, data[:-1])
    assert "too short" in refused(parse_pcrs, data + b"\0")
    assert "unknown bank" in refused(parse_pcrs, b"\0\x01\0")
    assert "out of order" in refused(parse_pcrs, b"\0\x0b\0\0\x04\0")
    assert "out of order" in refused(parse_pcrs, b"\0\x04\x02\x03" + bytes(20) + b"\x03" + bytes(20))
    assert "no such PCR" in refused(parse_pcrs, b"\0\x04\x01\x20" + bytes(20))
    for wrong in ({"sha256": {0: b"x"}}, {"md5": {}}, {"sha256": dict.fromkeys(range(33), bytes(32))}):
        refused(encode_pcrs, wrong)  # type: ignore[arg-type]
    refused(encode_pcrs, {"sha256": {32: bytes(32)}})  # type: ignore[arg-type]


def test_the_strongest_bank() -> None:
    assert strongest(["sha1", "sha384", "sha256", "sm3"]) == "sha384"
    assert strongest(["sm3"]) == strongest([]) == ""


def test_ranges() -> None:
    assert ranges((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    assert ranges(()) == "none"


@given(
    st.binary(max_size=130),
    st.sampled_from(["sha1", "sha256", "sha384", "sha512"]),
    st.sets(st.integers(0, 23)),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
)
def test_what_was_written_is_read(nonce: bytes, bank: str, pcrs: set[int], clock: int, resets: int) -> None:
    chosen = tuple(sorted(pcrs))
    attest = parse_attest(Quote(((bank, chosen),), nonce, clock=clock, resets=resets).encode())
    assert (attest.extra_data, attest.clock, attest.reset_count) == (nonce, clock, resets)
    assert attest.selections == (Selection(bank, chosen),)


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xffTCG\x80\x18", b"\0\x14\0\x0b", b"\0\x01\0\x0b", b"\0\x0b"]))
def test_arbitrary_bytes_raise_nothing_else(data: bytes, head: bytes) -> None:
    for parse in (parse_attest, parse_signature, parse_public, parse_pcrs, load_key):
        with suppress(MalformedError):
            parse(head + data)  # type: ignore[operator]
