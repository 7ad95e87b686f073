"""Bundles: one file for machines without a network."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from endorsement_kit import NOW
from hypothesis import given
from hypothesis import strategies as st

from kokon.endorsements import bundle as bundle_module
from kokon.endorsements.bundle import encode_bundle, looks_like_bundle, parse_bundle
from kokon.endorsements.items import from_items, to_items
from kokon.errors import MalformedError, UsageError
from kokon.tee.endorsements import Endorsements
from kokon.testing.vendor import FakeVendor

SEED = FakeVendor(now=NOW)


def everything(vendor: FakeVendor = SEED) -> Endorsements:
    evidence = vendor.tdx()
    return replace(vendor.endorsements(evidence), accepted_simulated=frozenset(), enrolled_keys=frozenset())


def test_a_bundle_holds_what_was_put_in() -> None:
    given_ = everything()
    found = parse_bundle(encode_bundle(given_, NOW))
    assert found.created == NOW
    assert set(found.endorsements.certificates) == set(given_.certificates)
    assert set(found.endorsements.crls) == set(given_.crls)
    assert set(found.endorsements.documents) == set(given_.documents)
    assert len(given_.documents) == 2


def test_equal_contents_make_equal_files() -> None:
    one = everything()
    other = Endorsements(one.certificates[::-1] * 2, one.crls[::-1], one.documents[::-1] * 2)
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))
    assert encode_bundle(one, NOW) == encode_bundle(other, elsewhere)
    assert encode_bundle(one, NOW) != encode_bundle(one, NOW + timedelta(seconds=1))
    again = parse_bundle(encode_bundle(one, NOW))
    assert encode_bundle(again.endorsements, again.created) == encode_bundle(one, NOW)


def test_nobody_comes_to_believe_something_by_a_bundle() -> None:
    believed = Endorsements(accepted_simulated=frozenset({"aa" * 32}), enrolled_keys=frozenset({"bb" * 32}))
    data = encode_bundle(believed, NOW)
    assert b"aa" not in data.replace(b"endorsement", b"")
    assert parse_bundle(data).endorsements == Endorsements()


def changed(**members: object) -> bytes:
    value = json.loads(encode_bundle(everything(), NOW))
    return json.dumps(value | members).encode()


def test_formatting_does_not_matter() -> None:
    data = encode_bundle(everything(), NOW)
    pretty = json.dumps(json.loads(data), indent=4, sort_keys=False).encode()
    assert parse_bundle(pretty) == parse_bundle(data)


ITEM = to_items(everything())[0]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b"{", encode_bundle(Endorsements(), NOW) + b"x",
        changed(format="kokon endorsement bundles"), changed(version=2), changed(version="1"), changed(extra=1),
        changed(created="2026-11-23"), changed(created=5), changed(created="2026-13-01T00:00:00Z"),
        changed(items=[ITEM, ITEM]), changed(items={}), changed(items=[1]), changed(items=[{}]),
        changed(items=[ITEM | {"kind": "key"}]), changed(items=[ITEM | {"kind": "crl"}]),
        changed(items=[ITEM | {"data": "A"}]), changed(items=[ITEM | {"data": "AAAA"}]),
        changed(items=[ITEM | {"x": 1}]),
        changed(items=[ITEM | {"kind": "tcb-info"}]),
        changed(items=[{"kind": "tcb-info", "data": "AAAA", "signature": "AAAA", "chain": []}]),
        changed(items=[{"kind": "tcb-info", "data": "AAAA", "signature": "A" * 86 + "==", "chain": [1]}]),
        changed(items=[{"kind": "tcb-info", "data": "AAAA", "signature": "A" * 86 + "==", "chain": ["AAAA"]}]),
    ],
)  # fmt: skip
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_bundle(data)
    assert caught.value.code == "bundle-malformed"


def test_items_say_which_of_them_is_malformed() -> None:
    with pytest.raises(MalformedError) as caught:
        from_items([ITEM, ITEM | {"data": "AAAA"}])
    assert caught.value.code == "endorsement-item-malformed"
    assert "item 2" in caught.value.message


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "ITEMS_LIMIT", 3)
    with pytest.raises(UsageError) as caught:
        encode_bundle(everything(), NOW)
    assert caught.value.code == "bundle-too-large"
    monkeypatch.setattr(bundle_module, "BUNDLE_LIMIT", 100)
    with pytest.raises(MalformedError) as refused:
        parse_bundle(bytes(101))
    assert refused.value.code == "bundle-malformed"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_bundle(data)
    assert looks_like_bundle(data) in (True, False)


GOOD = encode_bundle(everything(), NOW)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_harmless(position: int, octet: int) -> None:
    try:
        found = parse_bundle(GOOD[:position] + bytes([octet]) + GOOD[position + 1 :])
    except MalformedError:
        return
    assert encode_bundle(found.endorsements, found.created)


@given(
    st.sets(st.sampled_from(everything().certificates)),
    st.sets(st.sampled_from(everything().crls)),
    st.sets(st.sampled_from(everything().documents)),
    st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31)),  # noqa: DTZ001
)
def test_parsing_undoes_encoding(certificates: set, crls: set, documents: set, created: datetime) -> None:  # type: ignore[type-arg]
    endorsements = Endorsements(tuple(certificates), tuple(crls), tuple(documents))
    moment = created.replace(tzinfo=UTC, microsecond=0)
    found = parse_bundle(encode_bundle(endorsements, moment))
    assert found.created == moment
    assert set(found.endorsements.certificates) == certificates
    assert set(found.endorsements.crls) == crls
    assert set(found.endorsements.documents) == documents
