"""Nitro attestation documents: AWS's limits field by field."""

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nitro_kit import aws

from kokon.errors import MalformedError
from kokon.tee.cbor import write_cbor
from kokon.tee.evidence import Evidence
from kokon.tee.nitro.document import Document, parse_document, read_message
from kokon.tee.nitro.entry import NITRO, from_envelope, recognise, to_envelope

CODES = ("nitro-malformed", "nitro-not-an-enclave", "cbor-malformed", "cose-malformed", "cbor-too-large")
CERTIFICATE = bytes(600)


def refused(**changes: Any) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_document(write_cbor(aws().fields(**changes)))
    return caught.value.code


def test_every_field_is_read() -> None:
    fields = aws().fields(public_key=b"key")
    document = parse_document(write_cbor(fields))
    assert document == Document(**(fields | {"cabundle": tuple(fields["cabundle"])}))


def test_what_the_enclave_may_give_may_be_missing_or_null() -> None:
    for absent in (None, ...):
        document = parse_document(write_cbor(aws().fields(public_key=absent, user_data=absent, nonce=absent)))
        assert (document.public_key, document.user_data, document.nonce) == (None, None, None)


@pytest.mark.parametrize("name", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"])
def test_mandatory_fields(name: str) -> None:
    assert refused(**{name: ...}) == "nitro-malformed"
    assert refused(**{name: None}) == "nitro-malformed"


@pytest.mark.parametrize(
    "changes",
    [
        {"module_id": ""},
        {"module_id": "x" * 257},
        {"module_id": b"bytes"},
        {"digest": "SHA256"},
        {"digest": 384},
        {"timestamp": 0},
        {"timestamp": -1},
        {"timestamp": True},
        {"timestamp": 1.5},
        {"timestamp": 2**64 - 1},
        {"pcrs": {}},
        {"pcrs": []},
        {"pcrs": {index: bytes(48) for index in range(33)}},
        {"pcrs": {32: bytes(48)}},
        {"pcrs": {-1: bytes(48)}},
        {"pcrs": {"0": bytes(48)}},
        {"pcrs": {0: bytes(47)}},
        {"pcrs": {0: "0" * 48}},
        {"certificate": b""},
        {"certificate": bytes(1025)},
        {"certificate": "text"},
        {"cabundle": []},
        {"cabundle": {}},
        {"cabundle": [b""]},
        {"cabundle": [bytes(1025)]},
        {"cabundle": [CERTIFICATE] * 9},
        {"cabundle": ["text"]},
        {"public_key": b""},
        {"public_key": bytes(1025)},
        {"user_data": bytes(1025)},
        {"user_data": "text"},
        {"nonce": bytes(1025)},
        {"nonce": 7},
        {"surplus": 1},
    ],
)
def test_limits(changes: dict[str, Any]) -> None:
    assert refused(**changes) == "nitro-malformed"


@pytest.mark.parametrize(
    "changes",
    [
        {"pcrs": {31: bytes(32)}},
        {"pcrs": {0: bytes(64)}},
        {"user_data": bytes(1024), "nonce": b"", "public_key": b"k"},
        {"cabundle": [CERTIFICATE]},
    ],
)
def test_what_is_just_allowed(changes: dict[str, Any]) -> None:
    document = parse_document(write_cbor(aws().fields(**changes)))
    assert document.module_id.startswith("i-")


def test_a_nitro_tpm_is_no_enclave() -> None:
    fields = aws().fields(pcrs=..., nitrotpm_pcrs={4: bytes(48)})
    with pytest.raises(MalformedError) as caught:
        parse_document(write_cbor(fields))
    assert caught.value.code == "nitro-not-an-enclave"


def test_indefinite_and_definite_maps_say_the_same() -> None:
    fields = aws().fields()
    assert parse_document(cbor2.dumps(fields, indefinite_containers=True)) == parse_document(write_cbor(fields))


def test_no_map_and_no_payload() -> None:
    for data in (aws().sign(write_cbor([1])), write_cbor([b"\xa1\x01\x38\x22", {}, None, bytes(96)])):
        with pytest.raises(MalformedError) as caught:
            read_message(data)
        assert caught.value.code == "nitro-malformed"


def test_too_large() -> None:
    with pytest.raises(MalformedError) as caught:
        read_message(bytes(21 << 10))
    assert caught.value.code == "cbor-too-large"
    with pytest.raises(MalformedError) as caught:
        parse_document(bytes(17 << 10))
    assert caught.value.code == "cbor-too-large"


@settings(max_examples=200)
@given(
    st.binary(max_size=100)
    | st.dictionaries(
        st.sampled_from(["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "nonce"]),
        st.integers() | st.binary(max_size=50) | st.just("SHA384") | st.dictionaries(st.integers(0, 40), st.binary()),
    ).map(cbor2.dumps)
)
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    for read, data in ((parse_document, payload), (read_message, aws().sign(payload))):
        try:
            read(data)  # type: ignore[operator]
        except MalformedError as error:
            assert error.code in CODES  # noqa: PT017


def test_envelope() -> None:
    evidence = Evidence("nitro", aws().document())
    assert from_envelope(to_envelope(evidence)) == evidence
    for value in ({}, {"document": "!"}, {"document": "AAAA"}, to_envelope(evidence) | {"more": 1}, {"document": 1}):
        with pytest.raises(MalformedError):
            from_envelope(value)


def test_recognised_by_its_beginning() -> None:
    data = aws().document()
    assert recognise(data) == Evidence("nitro", data)
    assert recognise(b"\xd2" + data) == Evidence("nitro", b"\xd2" + data)
    for other in (b"", b"\x84", b"{}", b"\x84\x43\xa1\x01\x26" + data[7:]):
        assert recognise(other) is None
    with pytest.raises(MalformedError) as caught:
        recognise(data[:-1])
    assert caught.value.code == "cbor-malformed"


def test_described() -> None:
    evidence = Evidence("nitro", aws().document(nonce=None))
    described = NITRO.describe(evidence)
    assert described["pcrs"]["0"] == "01" * 48
    assert described["user_data"] == b"user".hex()
    assert described["nonce"] is None
    assert described["time"] == "2026-11-23T12:00:00.000000Z"
    assert described["cose"]["algorithm"] == -35
    assert len(described["cose"]["signature"]) == 192
