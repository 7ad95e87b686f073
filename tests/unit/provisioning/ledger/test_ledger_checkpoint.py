"""Checkpoints, and witnesses against logs that go back, fork, or answer for another."""

import base64
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_kit import (
    ARCHE,
    ARCHE_CHECKPOINT,
    KEY,
    NOW,
    ORIGIN,
    OTHER_KEY,
    REMORA,
    WITNESSES,
    FakeLog,
    flipped,
    perhaps_refused,
    refused,
)

from kokon.errors import KokonError
from kokon.provisioning.ledger.checkpoint import (
    Checkpoint,
    check_extends,
    cosign,
    parse_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
    verify_witnesses,
    with_cosignature,
)
from kokon.provisioning.ledger.keys import Use, VerifierKey, parse_verifier_key, signing_key
from kokon.provisioning.ledger.merkle import EMPTY_ROOT, SIZE_LIMIT
from kokon.provisioning.ledger.note import Note, Signed, parse_note, sign_note

KEYS = [KEY.verifier]
WITNESS = WITNESSES[0]
SEEN_BY = [witness.verifier for witness in WITNESSES]


def test_a_checkpoint_of_the_specification() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint = parse_checkpoint(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.root.hex().startswith("0ac5186a91863e8e")
    assert str(checkpoint) == text


def test_a_real_checkpoint() -> None:
    checkpoint = verify_checkpoint(ARCHE_CHECKPOINT, [parse_verifier_key(ARCHE)])
    assert (checkpoint.origin, checkpoint.size) == ("arche2025h1.staging.ct.transparency.dev", 1432088532)
    remora = parse_verifier_key(REMORA)
    assert verify_witnesses(ARCHE_CHECKPOINT, [remora], 1) == (Signed(remora, 1779573024),)


def test_signed_and_verified() -> None:
    log = FakeLog.of(5)
    assert verify_checkpoint(log.signed(), [OTHER_KEY.verifier, *KEYS]) == log.head()
    assert verify_checkpoint(FakeLog().signed(), KEYS) == Checkpoint(ORIGIN, 0, EMPTY_ROOT)


def test_who_did_not_sign() -> None:
    data = FakeLog.of(5).signed(witnesses=1)
    for keys in ([], [OTHER_KEY.verifier], [WITNESS.verifier]):
        with refused("log-signature"):
            verify_checkpoint(data, keys)


@given(st.integers(0, 10**6))
def test_a_flipped_bit_is_noticed(bit: int) -> None:
    """Nothing in the text can be changed; in the signature line nothing that leaves it a line of this key."""
    data = FakeLog.of(3).signed()
    with pytest.raises(KokonError):
        verify_checkpoint(flipped(data, bit % (8 * len(data))), KEYS)


def test_one_key_for_two_logs_does_not_mix_them() -> None:
    """The server may use one key for all projects: a head of one is still none of another."""
    other = signing_key("kbs.example.org/bank", bytes([1]) * 32)
    assert other.verifier.public == KEY.verifier.public
    with refused("log-key-name"):
        sign_checkpoint(FakeLog.of(2).head(), other)
    text = str(Checkpoint("kbs.example.org/bank", 2, bytes(32)))
    with refused("log-signature"):
        verify_checkpoint(Note(text, (sign_note(text, KEY),)).encode(), [*KEYS, other.verifier])


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "checkpoint-malformed"),
        (f"a.example\n1\n{ROOT}", "checkpoint-malformed"),
        (f"a.example\n1\n{ROOT}\nextension\n", "checkpoint-malformed"),
        (f"a.example\n1\n{ROOT}\n\n", "checkpoint-malformed"),
        (f"a.example\n01\n{ROOT}\n", "checkpoint-malformed"),
        (f"a.example\n+1\n{ROOT}\n", "checkpoint-malformed"),
        (f"a.example\n-1\n{ROOT}\n", "checkpoint-malformed"),
        (f"a.example\n1 \n{ROOT}\n", "checkpoint-malformed"),
        (f"a.example\n\u0661\n{ROOT}\n", "checkpoint-malformed"),
        (f"a.example\n\n{ROOT}\n", "checkpoint-malformed"),
        (f"a.example\n{SIZE_LIMIT + 1}\n{ROOT}\n", "checkpoint-malformed"),
        (f"a.example\n{'9' * 5000}\n{ROOT}\n", "checkpoint-malformed"),
        (f"a.example\n0\n{ROOT}\n", "checkpoint-malformed"),
        (f"a.example\n1\n{ROOT[:-4]}\n", "size-mismatch"),
        (f"a.example\n1\n{ROOT[:-1]}\n", "base64-malformed"),
        (f"a.example\n1\n{ROOT[:-2]}B=\n", "base64-malformed"),
        (f"\n1\n{ROOT}\n", "key-name-malformed"),
        (f"a example\n1\n{ROOT}\n", "key-name-malformed"),
    ],
)
def test_texts_that_are_no_checkpoint(text: str, code: str) -> None:
    with refused(code):
        parse_checkpoint(text)


def test_extension_lines_are_refused_also_when_signed() -> None:
    text = f"{FakeLog.of(2).head()}extension\n"
    with refused("checkpoint-malformed"):
        verify_checkpoint(Note(text, (sign_note(text, KEY),)).encode(), KEYS)


@given(
    st.text(max_size=80)
    | st.builds(
        lambda origin, size, root: f"{origin}\n{size}\n{root}\n",
        st.text(max_size=9),
        st.integers(-1, SIZE_LIMIT + 1) | st.text("019+", max_size=3),
        st.binary(min_size=31, max_size=33).map(lambda root: base64.b64encode(root).decode()),
    )
)
def test_any_text_is_a_checkpoint_or_refused(text: str) -> None:
    with perhaps_refused("checkpoint-malformed", "base64-malformed", "key-name-malformed", "size-mismatch"):
        assert str(parse_checkpoint(text)) == text


def test_a_witness_follows_a_growing_log() -> None:
    log, last, seen = FakeLog(), None, []
    for size in (0, 0, 1, 4, 4, 7, 16, 21):
        while len(log.entries) < size:
            log.add("test", len(log.entries))
        proof = () if last is None else log.consistency(last.size, size)
        answer = cosign(WITNESS, last, log.signed(), KEYS, proof, NOW + timedelta(seconds=size))
        signed = verify_witnesses(with_cosignature(log.signed(), answer.line, SEEN_BY), SEEN_BY, 1)
        seen.append(signed[0].time)
        assert answer.checkpoint == log.head()
        last = answer.checkpoint
    assert seen == [int(NOW.timestamp()) + size for size in (0, 0, 1, 4, 4, 7, 16, 21)]


def test_a_witness_refuses_to_go_back() -> None:
    log = FakeLog.of(9)
    with refused("log-rolled-back"):
        cosign(WITNESS, log.head(9), log.signed(8), KEYS, (), NOW)
    with refused("log-rolled-back"):
        cosign(WITNESS, log.head(9), FakeLog().signed(), KEYS, (), NOW)


def test_a_witness_refuses_a_fork() -> None:
    """Whether of the same size or longer, and whatever proof comes with it."""
    log, fork = FakeLog.of(9), FakeLog.of(9, "another")
    with refused("log-forked"):
        cosign(WITNESS, log.head(), fork.signed(), KEYS, (), NOW)
    for proof in (fork.consistency(5, 9), log.consistency(5, 9), ()):
        with refused("log-broken"):
            cosign(WITNESS, log.head(5), fork.signed(), KEYS, proof, NOW)


def test_a_witness_refuses_a_rewritten_past() -> None:
    log, rewritten = FakeLog.of(9), FakeLog.of(9)
    rewritten.entries[2] = rewritten.entries[2].replace(b"test", b"rest")
    for proof in (rewritten.consistency(5, 9), log.consistency(5, 9)):
        with refused("log-broken"):
            cosign(WITNESS, log.head(5), rewritten.signed(), KEYS, proof, NOW)


def test_a_witness_wants_the_proof_and_nothing_more() -> None:
    log = FakeLog.of(9)
    good = log.consistency(5, 9)
    cosign(WITNESS, log.head(5), log.signed(), KEYS, good, NOW)
    for proof in ((), good[1:], (*good, good[0]), (flipped(good[0], 3), *good[1:])):
        with refused("log-broken"):
            cosign(WITNESS, log.head(5), log.signed(), KEYS, proof, NOW)
    for last in (None, log.head()):
        with refused("log-broken"):
            cosign(WITNESS, last, log.signed(), KEYS, good, NOW)
    with refused("size-mismatch"):
        cosign(WITNESS, log.head(5), log.signed(), KEYS, (good[0][:31], *good[1:]), NOW)


def test_a_witness_signs_only_what_the_log_signed() -> None:
    log = FakeLog.of(4)
    with refused("log-signature"):
        cosign(WITNESS, None, FakeLog.of(4, key=OTHER_KEY).signed(), KEYS, (), NOW)
    with refused("log-other"):
        cosign(WITNESS, Checkpoint("other.example", 2, bytes(32)), log.signed(), KEYS, log.consistency(2, 4), NOW)
    with refused("key-use"):
        cosign(KEY, None, log.signed(), KEYS, (), NOW)


def test_growing_is_checked_without_a_witness_too() -> None:
    log = FakeLog.of(6)
    check_extends(log.head(3), log.head(6), log.consistency(3, 6))
    with refused("log-rolled-back"):
        check_extends(log.head(6), log.head(3), ())


def test_witnesses_are_counted() -> None:
    log = FakeLog.of(4)
    for count in range(4):
        data = log.signed(witnesses=count)
        assert [each.key for each in verify_witnesses(data, SEEN_BY, count)] == SEEN_BY[:count]
        if count < 3:
            with refused("log-unwitnessed"):
                verify_witnesses(data, SEEN_BY, count + 1)
        assert verify_checkpoint(data, KEYS) == log.head()


def test_one_witness_counts_once() -> None:
    """Under two names, or with two signatures, it is still one."""
    alias = signing_key("alias.example", bytes([10]) * 32, Use.WITNESS)
    assert alias.verifier.public == WITNESS.verifier.public
    log = FakeLog.of(4)
    data = log.signed(witnesses=1)
    for witness, later in ((alias, 0), (WITNESS, 60)):
        answer = cosign(witness, None, data, KEYS, (), NOW + timedelta(seconds=later))
        data = Note(parse_note(data).text, (*parse_note(data).signatures, parse_note_line(answer.line))).encode()
    assert len(verify_witnesses(data, [*SEEN_BY, alias.verifier], 1)) == 3
    with refused("log-unwitnessed"):
        verify_witnesses(data, [*SEEN_BY, alias.verifier], 2)


def parse_note_line(line: str) -> object:
    return parse_note(b"x\n\n" + line.encode()).signatures[0]


@pytest.mark.parametrize("threshold", [-1, 4])
def test_thresholds_that_cannot_be_met(threshold: int) -> None:
    with refused("witnesses-unusable"):
        verify_witnesses(FakeLog.of(4).signed(witnesses=3), SEEN_BY, threshold)


def test_a_witness_named_twice_does_not_raise_what_can_be_asked() -> None:
    with refused("witnesses-unusable"):
        verify_witnesses(FakeLog.of(4).signed(witnesses=1), [WITNESS.verifier, WITNESS.verifier], 2)


def test_a_logs_key_is_no_witness() -> None:
    with refused("witnesses-unusable"):
        verify_witnesses(FakeLog.of(4).signed(), KEYS, 1)
    with refused("witnesses-unusable"):
        verify_witnesses(FakeLog.of(4).signed(), [*SEEN_BY, *KEYS], 0)


def test_a_cosignature_of_other_entries_spoils_the_checkpoint() -> None:
    log, fork = FakeLog.of(4), FakeLog.of(4, "another")
    answer = cosign(WITNESS, None, fork.signed(), KEYS, (), NOW)
    with refused("log-signature"):
        verify_witnesses(log.signed() + answer.line.encode(), SEEN_BY, 0)


def test_what_is_added_is_verified_first() -> None:
    log, fork = FakeLog.of(4), FakeLog.of(4, "another")
    for bad in (
        cosign(WITNESS, None, fork.signed(), KEYS, (), NOW).line,
        cosign(WITNESSES[1], None, log.signed(), KEYS, (), NOW).line,
        str(sign_note(str(log.head()), KEY)),
    ):
        with refused("log-signature"):
            with_cosignature(log.signed(), bad, [WITNESS.verifier, *KEYS])
    with refused("base64-malformed"):
        with_cosignature(log.signed(), "— a.example AAAA\n— b.example AAAA\n", [WITNESS.verifier])


def test_adding_again_replaces() -> None:
    log = FakeLog.of(4)
    data = log.signed()
    for second in range(100):
        answer = cosign(WITNESS, log.head(), data, KEYS, (), NOW + timedelta(seconds=second))
        data = with_cosignature(data, answer.line, SEEN_BY)
    assert len(parse_note(data).signatures) == 2
    assert verify_witnesses(data, SEEN_BY, 1)[0].time == int(NOW.timestamp()) + 99


def test_a_key_of_another_use_does_not_verify_a_checkpoint() -> None:
    """A witness whose name is the origin is still no log."""
    witness = VerifierKey(ORIGIN, KEY.verifier.public, Use.WITNESS)
    with refused("log-signature"):
        verify_checkpoint(FakeLog.of(1).signed(), [witness])
