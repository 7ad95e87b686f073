"""Receipts: one entry, proven without the server."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_kit import KEY, NOW, ORIGIN, OTHER_KEY, WITNESSES, FakeLog, flipped, refused

from kokon.errors import KokonError
from kokon.provisioning.ledger.entry import parse_entry
from kokon.provisioning.ledger.receipt import RECEIPT_LIMIT, Receipt, make_receipt, parse_receipt, verify_receipt

KEYS = [KEY.verifier]
SEEN_BY = [witness.verifier for witness in WITNESSES]


def receipt(log: FakeLog, index: int, size: int | None = None, witnesses: int = 0) -> Receipt:
    size = len(log.entries) if size is None else size
    return make_receipt(log.entries[index], index, log.signed(size, witnesses), size, log.hash_at)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_every_entry_of_small_logs(size: int) -> None:
    log = FakeLog.of(8)
    for index in range(size):
        proven = verify_receipt(parse_receipt(receipt(log, index, size).encode()), KEYS)
        assert (proven.index, proven.checkpoint) == (index, log.head(size))
        assert proven.entry == parse_entry(log.entries[index])
        assert proven.witnesses == ()


def test_the_bytes_of_a_receipt() -> None:
    """The format is public: docs/LOG.md."""
    log = FakeLog.of(2)
    data = receipt(log, 1).encode()
    members = json.loads(data)
    assert sorted(members) == ["checkpoint", "entry", "format", "index", "proof"]
    assert (members["format"], members["index"]) == ("kokon log receipt v1", 1)
    assert json.loads(members["entry"]) == {
        "event": "test",
        "number": 1,
        "project": "clinic",
        "time": "2026-12-01T08:00:01.000Z",
    }
    assert members["checkpoint"].startswith(f"{ORIGIN}\n2\n")
    assert len(members["proof"]) == 1
    assert parse_receipt(data).encode() == data


def test_witnesses() -> None:
    log = FakeLog.of(5)
    proven = verify_receipt(receipt(log, 3, witnesses=2), KEYS, SEEN_BY, 2)
    assert [(each.key, each.time) for each in proven.witnesses] == [(key, int(NOW.timestamp())) for key in SEEN_BY[:2]]
    with refused("log-unwitnessed"):
        verify_receipt(receipt(log, 3, witnesses=2), KEYS, SEEN_BY, 3)
    with refused("witnesses-unusable"):
        verify_receipt(receipt(log, 3, witnesses=2), KEYS, [], 1)


def test_attacks() -> None:
    log, other = FakeLog.of(8), FakeLog.of(8, "another")
    good, bad = receipt(log, 3), receipt(other, 3)
    for forged in (
        Receipt(bad.entry, 3, good.proof, good.checkpoint),
        Receipt(good.entry, 2, good.proof, good.checkpoint),
        Receipt(good.entry, 8, good.proof, good.checkpoint),
        Receipt(good.entry, 3, good.proof[:-1], good.checkpoint),
        Receipt(good.entry, 3, (*good.proof, good.proof[0]), good.checkpoint),
        Receipt(good.entry, 3, bad.proof, good.checkpoint),
        Receipt(good.entry, 3, good.proof, bad.checkpoint),
        Receipt(good.entry, 0, (), log.signed(0)),
    ):
        with refused("log-broken"):
            verify_receipt(forged, KEYS)
    with refused("log-signature"):
        verify_receipt(receipt(FakeLog.of(8, key=OTHER_KEY), 3), KEYS)


def test_a_leaf_that_is_no_entry_is_not_believed() -> None:
    log = FakeLog([b"hello"])
    with refused("json-malformed"):
        verify_receipt(receipt(log, 0), KEYS)


@given(st.integers(0, 10**9))
@settings(deadline=None)
def test_a_flipped_bit_anywhere_is_noticed(bit: int) -> None:
    data = receipt(FakeLog.of(3), 1).encode()
    changed = flipped(data, bit % (8 * len(data)))
    with pytest.raises(KokonError):
        verify_receipt(parse_receipt(changed), KEYS)


def test_a_large_entry_fits() -> None:
    log = FakeLog()
    log.add("test", 0)
    log.entries = [log.entries[0].replace(b'"number":0', b'"number":"' + b"\\u0001" * 10_000 + b'"')]
    data = receipt(log, 0).encode()
    assert verify_receipt(parse_receipt(data), KEYS).entry.details == {"number": "\x01" * 10_000}


GOOD = receipt(FakeLog.of(3), 1).encode()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "json-malformed"),
        (b"[]", "field-type"),
        (GOOD + b" " * RECEIPT_LIMIT, "json-too-large"),
        (GOOD.replace(b"receipt v1", b"receipt v2"), "log-receipt-malformed"),
        (GOOD.replace(b'"proof":[', b'"proof":[7,'), "log-receipt-malformed"),
        (GOOD.replace(b'"proof":[', b'"proof":["AAAA",'), "size-mismatch"),
        (GOOD.replace(b'"proof":[', b'"proof":["A",'), "base64-malformed"),
        (GOOD.replace(b'"proof":[', b'"proof":[' + b'"",' * 70), "field-too-long"),
        (GOOD.replace(b'"index":1', b'"index":-1'), "field-range"),
        (GOOD.replace(b'"index":1', b'"index":9007199254740992'), "field-range"),
        (GOOD.replace(b'"index":1', b'"index":true'), "field-type"),
        (GOOD.replace(b'"index":1', b'"index":1,"more":1'), "field-unknown"),
        (GOOD.replace(b'"index":1,', b""), "field-missing"),
        (GOOD.replace(b'"index":1', b'"index":1,"index":1'), "json-malformed"),
        (GOOD.replace(b'"checkpoint":"', b'"checkpoint":"' + b"x" * 300_000), "field-too-long"),
    ],
)
def test_bytes_that_are_no_receipt(data: bytes, code: str) -> None:
    with refused(code):
        parse_receipt(data)
