"""Signed notes: those that other implementations made are read and made alike; hostile ones are refused."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_kit import (
    ARCHE,
    ARCHE_CHECKPOINT,
    KEY,
    ORIGIN,
    OTHER_KEY,
    PETER,
    REMORA,
    WITNESSES,
    flipped,
    perhaps_refused,
    refused,
)

from kokon.errors import KokonError
from kokon.provisioning.ledger.keys import Use, VerifierKey, parse_verifier_key, signing_key
from kokon.provisioning.ledger.note import (
    NOTE_LIMIT,
    Note,
    Signature,
    Signed,
    cosign_note,
    open_note,
    parse_note,
    parse_signature,
    sign_note,
    verify_note,
)

TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_NOTE = (
    f"{TEXT}\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
PETER_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
GOOD = Note(TEXT, (sign_note(TEXT, KEY),))


def test_the_note_of_go_is_read() -> None:
    key = parse_verifier_key(PETER)
    note, signed = open_note(PETER_NOTE, [key])
    assert (note.text, signed) == (TEXT, (Signed(key),))
    assert note.encode() == PETER_NOTE


def test_the_note_of_go_is_made() -> None:
    key = signing_key("PeterNeumann", PETER_SEED)
    assert str(key.verifier) == PETER
    assert Note(TEXT, (sign_note(TEXT, key),)).encode() == PETER_NOTE


def test_a_real_checkpoint_with_cosignatures_is_read() -> None:
    log, witness = parse_verifier_key(ARCHE), parse_verifier_key(REMORA)
    note, signed = open_note(ARCHE_CHECKPOINT, [log, witness])
    assert signed == (Signed(log), Signed(witness, 0x6A122120))
    assert len(note.signatures) == 6, "signatures of unknown keys are kept"
    assert note.encode() == ARCHE_CHECKPOINT


@pytest.mark.parametrize("key", [ARCHE, REMORA])
def test_a_real_checkpoint_that_was_changed_is_refused(key: str) -> None:
    with refused("log-signature"):
        open_note(ARCHE_CHECKPOINT.replace(b"1432088532", b"1432088531"), [parse_verifier_key(key)])


def test_the_cosigned_message_is_that_of_the_specification() -> None:
    """The example of C2SP tlog-cosignature: header, time, and the text of the checkpoint."""
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    witness = WITNESSES[0]
    signature = cosign_note(text, witness, 1679315147)
    assert signature.value[:8].hex() == "00000000641850cb"
    message = f"cosignature/v1\ntime 1679315147\n{text}".encode()
    witness.verifier.verify(signature.value[8:], message)
    assert verify_note(Note(text, (signature,)), [witness.verifier]) == (Signed(witness.verifier, 1679315147),)


def test_unknown_signatures_are_kept_and_ignored() -> None:
    key = KEY.verifier
    strangers = (
        Signature(ORIGIN, b"\0\0\0\0", b"same name, other id"),
        Signature("stranger.example", key.id, b"same id, other name"),
        sign_note(TEXT, OTHER_KEY),
        cosign_note(TEXT, WITNESSES[0], 1),
    )
    note = Note(TEXT, (*strangers[:2], *GOOD.signatures, *strangers[2:]))
    opened, signed = open_note(note.encode(), [key])
    assert (opened, signed) == (note, (Signed(key),))
    assert verify_note(Note(TEXT, strangers), [key]) == ()


def test_someone_trusted_must_have_signed() -> None:
    for keys in ([], [OTHER_KEY.verifier], [WITNESSES[0].verifier]):
        with refused("log-signature"):
            open_note(GOOD.encode(), keys)


def test_a_bad_signature_of_a_known_key_spoils_the_note() -> None:
    """Also beside a good one, as the specification says."""
    forged = Signature(KEY.verifier.name, KEY.verifier.id, bytes(64))
    stale = cosign_note("other\n", WITNESSES[0], 1)
    keys = [KEY.verifier, WITNESSES[0].verifier]
    for note in (Note(TEXT, (forged,)), Note(TEXT, (*GOOD.signatures, forged)), Note(TEXT, (*GOOD.signatures, stale))):
        with refused("log-signature"):
            open_note(note.encode(), keys)


@given(st.integers(0, 8 * 64 - 1), st.integers(0, 8 * len(TEXT) - 1))
def test_a_flipped_bit_is_noticed(in_signature: int, in_text: int) -> None:
    signature = GOOD.signatures[0]
    changed = Signature(signature.name, signature.key_id, flipped(signature.value, in_signature))
    with refused("log-signature"):
        verify_note(Note(TEXT, (changed,)), [KEY.verifier])
    with refused("log-signature"):
        verify_note(Note(flipped(TEXT.encode(), in_text).decode("latin-1"), GOOD.signatures), [KEY.verifier])


@given(st.integers(0, 8 * 72 - 1))
def test_a_flipped_bit_of_a_cosignature_is_noticed(bit: int) -> None:
    """Its time is signed too."""
    witness, signature = WITNESSES[0], cosign_note(TEXT, WITNESSES[0], 1_800_000_000)
    changed = Signature(signature.name, signature.key_id, flipped(signature.value, bit))
    with refused("log-signature"):
        verify_note(Note(TEXT, (changed,)), [witness.verifier])


@pytest.mark.parametrize("size", [1, 8, 64, 71, 73])
def test_cosignatures_of_a_wrong_size(size: int) -> None:
    witness = WITNESSES[0].verifier
    with refused("log-signature"):
        verify_note(Note(TEXT, (Signature(witness.name, witness.id, bytes(size)),)), [witness])


def test_signature_of_a_log_is_no_cosignature_and_the_reverse() -> None:
    """One Ed25519 key, two uses: what was signed in one does not pass in the other."""
    log = signing_key("a.example", bytes(32))
    witness = VerifierKey("a.example", log.verifier.public, Use.WITNESS)
    signature = sign_note(TEXT, log)
    with refused("log-signature"):
        verify_note(Note(TEXT, (Signature("a.example", witness.id, bytes(8) + signature.value),)), [witness])


def test_keys_are_used_for_what_they_are() -> None:
    with refused("key-use"):
        sign_note(TEXT, WITNESSES[0])
    with refused("key-use"):
        cosign_note(TEXT, KEY, 1)


def test_a_newer_signature_takes_the_place_of_the_older() -> None:
    older, newer = (cosign_note(TEXT, WITNESSES[0], time) for time in (1, 2))
    assert GOOD.adding(older).adding(newer) == GOOD.adding(newer)
    assert GOOD.adding(older).signatures == (*GOOD.signatures, older)


LINE = str(GOOD.signatures[0])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "note-malformed"),
        (b"text\n", "note-malformed"),
        (b"text\n\n", "note-malformed"),
        (f"text\n{LINE}".encode(), "note-malformed"),
        (f"text\n\n{LINE[:-1]}".encode(), "note-malformed"),
        (f"text\n\n{LINE}\n".encode(), "note-malformed"),
        (f"text\n\n{LINE}more\n".encode(), "note-malformed"),
        (f"text\n\n- {LINE[2:]}".encode(), "note-malformed"),
        (f"te\rxt\n\n{LINE}".encode(), "note-malformed"),
        (f"te\0xt\n\n{LINE}".encode(), "note-malformed"),
        (f"te\txt\n\n{LINE}".encode(), "note-malformed"),
        (b"t\xffxt\n\n" + LINE.encode(), "note-malformed"),
        (b"t\xed\xa0\x80xt\n\n" + LINE.encode(), "note-malformed"),
        (f"text\n\n{LINE * 65}".encode(), "note-malformed"),
        (f"{'x' * NOTE_LIMIT}\n\n{LINE}".encode(), "note-malformed"),
        ("text\n\n— name AAAAAA==\n".encode(), "note-malformed"),
        ("text\n\n— name \n".encode(), "note-malformed"),
        ("text\n\n— name\n".encode(), "note-malformed"),
        ("text\n\n— name AAAAAAA\n".encode(), "base64-malformed"),
        ("text\n\n— name AAAAAAB=\n".encode(), "base64-malformed"),
        ("text\n\n— name AAAAAAA= \n".encode(), "base64-malformed"),
        ("text\n\n— name  AAAAAAA=\n".encode(), "base64-malformed"),
        (f"text\n\n— name {'A' * 30000}\n".encode(), "base64-malformed"),
        ("text\n\n—  AAAAAAA=\n".encode(), "key-name-malformed"),
        ("text\n\n— na+me AAAAAAA=\n".encode(), "key-name-malformed"),
        ("text\n\n— na\u00a0me AAAAAAA=\n".encode(), "key-name-malformed"),
    ],
)
def test_bytes_that_are_no_note(data: bytes, code: str) -> None:
    with refused(code):
        parse_note(data)


@pytest.mark.parametrize("line", ["", "\n", LINE[:-1], LINE + LINE, LINE + "\n", " " + LINE])
def test_lines_that_are_no_signature(line: str) -> None:
    with pytest.raises(KokonError) as caught:
        parse_signature(line)
    assert caught.value.code in ("note-malformed", "base64-malformed", "key-name-malformed")


def test_sixteen_large_signatures_are_accepted() -> None:
    """What the specification demands, with signatures of ML-DSA's size."""
    strangers = tuple(Signature(f"w{number}.example", b"abcd", bytes(4900)) for number in range(16))
    note = Note(TEXT, (*strangers, *GOOD.signatures))
    assert open_note(note.encode(), [KEY.verifier])[0] == note


def test_empty_lines_belong_to_the_text() -> None:
    text = "one\n\ntwo\n\n\n"
    note = Note(text, (sign_note(text, KEY),))
    assert open_note(note.encode(), [KEY.verifier])[0].text == text


mutilated = st.builds(
    lambda data, start, end, put: data[:start] + put + data[end:],
    st.sampled_from([PETER_NOTE, ARCHE_CHECKPOINT]),
    st.integers(0, 1200),
    st.integers(0, 1200),
    st.sampled_from([b"", b"\n", b"\n\n", b" ", "— ".encode(), b"=", b"\xff"]),
)


@given(mutilated | st.binary(max_size=100))
def test_any_bytes_are_a_note_or_refused(data: bytes) -> None:
    with perhaps_refused("note-malformed", "base64-malformed", "key-name-malformed"):
        assert parse_note(data).encode() == data
