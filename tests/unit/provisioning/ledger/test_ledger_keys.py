"""Key texts: those of other people's logs and witnesses are read and written alike; what is wrong is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_kit import ARCHE, KEY, ORIGIN, PETER, REMORA, WITNESSES, flipped, perhaps_refused, refused

from kokon.provisioning.ledger.keys import Use, VerifierKey, check_name, parse_verifier_key, signing_key

OTHERS = [
    (PETER, "PeterNeumann", Use.LOG),
    (ARCHE, "arche2025h1.staging.ct.transparency.dev", Use.LOG),
    (REMORA, "remora.n621.de", Use.WITNESS),
    ("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", "example.com/foo", Use.LOG),
    ("TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6", "TEST", Use.LOG),
]


@pytest.mark.parametrize(("text", "name", "use"), OTHERS)
def test_keys_of_others_are_read_and_written_alike(text: str, name: str, use: Use) -> None:
    key = parse_verifier_key(text)
    assert (key.name, key.use) == (name, use)
    assert str(key) == text


def test_a_key_in_two_uses_has_two_ids() -> None:
    log, witness = (VerifierKey("a.example", bytes(32), use) for use in Use)
    assert log.id != witness.id
    assert parse_verifier_key(str(witness)) == witness


def test_a_key_signs_only_what_it_is_for() -> None:
    KEY.verifier.verify(KEY.sign(b"text", Use.LOG), b"text")
    for key, use in ((KEY, Use.WITNESS), (WITNESSES[0], Use.LOG)):
        with refused("key-use"):
            key.sign(b"text", use)


def test_rfc_8032_vector() -> None:
    """Test 2 of RFC 8032 section 7.1."""
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = signing_key("a.example", seed)
    assert key.verifier.public.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72", Use.LOG).hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_the_seed_does_not_show() -> None:
    seed = bytes(range(32))
    shown = repr(signing_key("a.example", seed))
    assert seed.hex() not in shown
    assert "Private" not in shown


@pytest.mark.parametrize("bit", [0, 100, 511])
def test_a_changed_signature_or_message_does_not_hold(bit: int) -> None:
    signature = KEY.sign(b"text", Use.LOG)
    for bad, message in (
        (flipped(signature, bit), b"text"),
        (signature, b"Text"),
        (signature[:63], b"text"),
        (b"", b"text"),
    ):
        with refused("log-signature"):
            KEY.verifier.verify(bad, message)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "verifier-key-malformed"),
        ("name+00000000", "verifier-key-malformed"),
        (PETER.replace("c74f20a3", "c74f20a4"), "verifier-key-malformed"),
        (PETER.replace("c74f20a3", "C74F20A3"), "verifier-key-malformed"),
        (PETER.replace("PeterNeumann", "PeterNeuman"), "verifier-key-malformed"),
        (PETER.replace("+ARpc", "+AhpC"), "verifier-key-malformed"),
        (PETER[:-4], "verifier-key-malformed"),
        (PETER + "AAAA", "verifier-key-malformed"),
        (PETER + "A" * 2000, "verifier-key-malformed"),
        (PETER + "\n", "base64-malformed"),
        (PETER.replace("PeterNeumann", "Peter Neumann"), "key-name-malformed"),
        (PETER.replace("PeterNeumann", ""), "key-name-malformed"),
    ],
)
def test_texts_that_are_no_key(text: str, code: str) -> None:
    with refused(code):
        parse_verifier_key(text)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a+b", "a\u00a0b", "a\u3000", "a\n", "a\tb", "a\x7f", "a\u2028", "\u202eabc", "\ud800", "é" * 128],
)
def test_names_that_name_no_key(name: str) -> None:
    with refused("key-name-malformed"):
        check_name(name)
    with refused("key-name-malformed"):
        signing_key(name, bytes(32))


@pytest.mark.parametrize("name", [ORIGIN, "kbs.example.org", "a" * 255, "é" * 127, "transparency.dev/DEV:witness"])
def test_names_of_keys(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_a_wrong_size(size: int) -> None:
    with refused("size-mismatch"):
        VerifierKey("a.example", bytes(size))
    with refused("size-mismatch"):
        signing_key("a.example", bytes(size))


@given(
    st.text(max_size=100)
    | st.sampled_from([PETER, REMORA]).flatmap(lambda t: st.integers(0, len(t)).map(lambda n: t[:n]))
)
def test_any_text_is_a_key_or_refused(text: str) -> None:
    with perhaps_refused("verifier-key-malformed", "base64-malformed", "key-name-malformed"):
        assert str(parse_verifier_key(text)) == text
