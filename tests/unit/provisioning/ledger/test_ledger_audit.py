"""An auditor with nothing but a file and a key, and a server that tries everything."""

import io
import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_kit import KEY, NOW, ORIGIN, OTHER_KEY, WITNESSES, FakeLog, flipped, refused

from kokon.errors import KokonError
from kokon.provisioning.ledger.audit import LINE_LIMIT, Audit, export, export_lines, verify_export
from kokon.provisioning.ledger.checkpoint import Checkpoint
from kokon.provisioning.ledger.keys import signing_key
from kokon.provisioning.ledger.merkle import EMPTY_ROOT

KEYS = [KEY.verifier]
SEEN_BY = [witness.verifier for witness in WITNESSES]


def outcomes(audit: Audit) -> dict[str, str]:
    return {check.name: check.code or check.outcome for check in audit.checks}


def test_an_audit() -> None:
    log = FakeLog.of(21)
    audit = verify_export(log.export(witnesses=2), KEYS, log.head(13), SEEN_BY, 2)
    assert (audit.checkpoint, audit.size, audit.root) == (log.head(), 21, log.head().root)
    assert (audit.first, audit.last) == (NOW, NOW + timedelta(seconds=20))
    assert [each.key for each in audit.witnesses] == SEEN_BY[:2]
    assert outcomes(audit) == dict.fromkeys(("signature", "entries", "earlier checkpoint", "witnesses"), "passed")
    shown = json.loads(json.dumps(audit.as_dict()))
    assert (shown["origin"], shown["size"], shown["root"]) == (ORIGIN, 21, log.head().root.hex())
    assert shown["witnesses"][0] == {"name": "witness0.example", "time": int(NOW.timestamp())}
    assert [check["outcome"] for check in shown["checks"]] == ["passed"] * 4


def test_what_was_not_checked_is_said() -> None:
    audit = verify_export(FakeLog.of(3).export(witnesses=1), KEYS)
    assert outcomes(audit) == {
        "signature": "passed",
        "entries": "passed",
        "earlier checkpoint": "log-earlier-unknown",
        "witnesses": "log-unwitnessed",
    }
    assert {check.outcome for check in audit.checks[2:]} == {"not-checked"}


def test_an_empty_log() -> None:
    audit = verify_export(FakeLog().export(), KEYS, Checkpoint(ORIGIN, 0, EMPTY_ROOT))
    assert (audit.size, audit.first, audit.last) == (0, None, None)
    assert audit.as_dict()["first"] is None


def test_the_bytes_of_an_export() -> None:
    """The format is public: docs/LOG.md."""
    log = FakeLog.of(1)
    header, entry, checkpoint = log.export()
    assert header == (
        b'{"format":"kokon log export v1","key":"'
        + str(KEY.verifier).encode()
        + b'","origin":"kbs.example.org/clinic"}\n'
    )
    assert entry == log.entries[0] + b"\n"
    assert json.loads(checkpoint).encode() == log.signed()


@pytest.mark.parametrize("size", range(9))
@pytest.mark.parametrize("earlier", range(9))
def test_every_earlier_size(size: int, earlier: int) -> None:
    log = FakeLog.of(9)
    if earlier <= size:
        assert verify_export(log.export(size), KEYS, log.head(earlier)).size == size
    else:
        with refused("log-rolled-back"):
            verify_export(log.export(size), KEYS, log.head(earlier))


@pytest.mark.parametrize("earlier", [1, 4, 7, 8])
def test_a_fork_is_noticed_though_all_is_signed(earlier: int) -> None:
    """The server holds the key: it can sign another past, but not for who remembers."""
    log, fork = FakeLog.of(8), FakeLog.of(8, "another")
    assert verify_export(fork.export(), KEYS).size == 8
    with refused("log-forked"):
        verify_export(fork.export(), KEYS, log.head(earlier))


@pytest.mark.parametrize("place", [0, 3, 6])
def test_entries_changed_removed_put_in_or_moved(place: int) -> None:
    lines = FakeLog.of(7).export()
    at = place + 1
    changed = [*lines[:at], lines[at].replace(b'"test"', b'"best"'), *lines[at + 1 :]]
    removed = lines[:at] + lines[at + 1 :]
    doubled = [*lines[:at], lines[at], *lines[at:]]
    moved = [lines[0], *reversed(lines[1:-1]), lines[-1]]
    for bad in (changed, removed, doubled, moved):
        with refused("log-broken"):
            verify_export(bad, KEYS)


def test_an_old_checkpoint_over_new_entries_and_the_reverse() -> None:
    log = FakeLog.of(7)
    for entries, size in ((7, 5), (5, 7)):
        with refused("log-broken"):
            verify_export(export(KEY.verifier, log.entries[:entries], log.signed(size)), KEYS)


def test_who_signed() -> None:
    forged = FakeLog.of(4, key=OTHER_KEY)
    with refused("log-signature"):
        verify_export(forged.export(), KEYS)
    with refused("log-signature"):
        verify_export(FakeLog.of(4).export(), [])
    assert verify_export(forged.export(), [*KEYS, OTHER_KEY.verifier]).size == 4, "keys can be renewed"


def test_the_key_in_the_header_is_not_believed() -> None:
    forged = FakeLog.of(4, key=OTHER_KEY).export()
    assert str(OTHER_KEY.verifier).encode() in forged[0]
    with refused("log-signature"):
        verify_export(forged, KEYS)


def test_another_log() -> None:
    bank = FakeLog.of(4, key=signing_key("kbs.example.org/bank", bytes([7]) * 32))
    log = FakeLog.of(4)
    both = [*KEYS, bank.key.verifier]
    with refused("log-other"):
        verify_export(bank.export(), both, log.head())
    with refused("log-other"):
        verify_export(export(KEY.verifier, bank.entries, bank.signed()), both)


def test_witnesses() -> None:
    log = FakeLog.of(4)
    assert len(verify_export(log.export(witnesses=3), KEYS, witnesses=SEEN_BY[:2], threshold=1).witnesses) == 2
    for seen, threshold in ((0, 1), (1, 2)):
        with refused("log-unwitnessed"):
            verify_export(log.export(witnesses=seen), KEYS, witnesses=SEEN_BY, threshold=threshold)
    with refused("witnesses-unusable"):
        verify_export(log.export(witnesses=3), KEYS, threshold=1)


LINES = FakeLog.of(2).export(witnesses=1)
HEADER, FIRST, SECOND, LAST = LINES


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], "log-export-malformed"),
        ([HEADER], "log-export-malformed"),
        ([HEADER, FIRST, SECOND], "log-export-malformed"),
        ([HEADER, FIRST, SECOND, LAST[:-1]], "log-export-malformed"),
        ([HEADER, FIRST, SECOND[:-1]], "log-export-malformed"),
        ([*LINES, b"\n"], "log-export-malformed"),
        ([*LINES, LAST], "log-export-malformed"),
        ([*LINES, SECOND], "log-export-malformed"),
        ([HEADER, b'"' + b"x" * LINE_LIMIT + b"\n"], "log-export-malformed"),
        ([HEADER.replace(b"v1", b"v2"), *LINES[1:]], "log-export-malformed"),
        ([HEADER.replace(b'"origin":"kbs', b'"origin":"kms'), *LINES[1:]], "log-export-malformed"),
        ([HEADER.replace(b'"key":"kbs', b'"key":"kms'), *LINES[1:]], "verifier-key-malformed"),
        ([HEADER.replace(b"{", b'{"more":1,'), *LINES[1:]], "field-unknown"),
        ([HEADER.replace(b"}", b" " * 5000 + b"}"), *LINES[1:]], "json-too-large"),
        ([b"\n", *LINES], "json-malformed"),
        ([FIRST, *LINES], "field-missing"),
        ([HEADER, b"\n", *LINES[1:]], "json-malformed"),
        ([HEADER, FIRST.replace(b",", b" ,"), SECOND, LAST], "log-entry-malformed"),
        ([HEADER, FIRST[:-1] + b"\r\n", SECOND, LAST], "log-entry-malformed"),
        ([HEADER, FIRST, SECOND, b'"\\ud800"\n'], "json-malformed"),
        ([HEADER, FIRST, SECOND, b'"no note"\n'], "note-malformed"),
    ],
)
def test_files_that_are_no_export(lines: list[bytes], code: str) -> None:
    with refused(code):
        verify_export(lines, KEYS)


@given(st.integers(0, 10**9))
@settings(deadline=None)
def test_a_flipped_bit_anywhere_is_noticed(bit: int) -> None:
    data = b"".join([HEADER, FIRST, SECOND, FakeLog.of(2).export()[-1]])
    changed = flipped(data, bit % (8 * len(data)))
    with pytest.raises(KokonError):
        verify_export(io.BytesIO(changed), KEYS)


def test_read_from_a_file() -> None:
    log = FakeLog.of(5)
    file = io.BytesIO(b"".join(log.export()))
    assert verify_export(export_lines(file.readline), KEYS).size == 5


def test_an_endless_line_is_not_read() -> None:
    asked = []

    def endless(limit: int) -> bytes:
        asked.append(limit)
        return b"x" * limit

    with refused("log-export-malformed"):
        verify_export(export_lines(endless), KEYS)
    assert asked == [LINE_LIMIT]


@pytest.mark.parametrize("entry", [b'{"a":\n1}', b'"text"', b""])
def test_entries_that_cannot_be_exported(entry: bytes) -> None:
    with refused("log-entry-malformed"):
        list(export(KEY.verifier, [entry], FakeLog.of(1).signed()))


def test_lines_are_taken_one_by_one() -> None:
    """An export may be larger than memory, and nothing is read after the first line that is wrong."""
    broken = iter([HEADER, b"{}\n", *LINES])
    with refused("field-missing"):
        verify_export(broken, KEYS)
    assert next(broken) == HEADER
