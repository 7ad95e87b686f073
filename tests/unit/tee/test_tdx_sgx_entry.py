"""TDX and SGX in the registry: raw bytes, the KBS protocol's JSON, event logs, and fields for people."""

import hashlib
import json
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intel_kit import ENCLAVE_REPORT, NOW, TD_REPORT, make_quote, standing

from kokon.errors import MalformedError
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.intel.quote import QUOTE_LIMIT, encode_quote
from kokon.tee.registry import tee, verify
from kokon.wire import b64

TDX, SGX = tee("tdx"), tee("sgx")


def extended(*digests: bytes) -> bytes:
    value = bytes(48)
    for digest in digests:
        value = hashlib.sha384(value + digest).digest()
    return value


def event(register: int, digest: bytes, data: bytes) -> bytes:
    return struct.pack("<IIIH", register, 0xD, 1, 0x000C) + digest + struct.pack("<I", len(data)) + data


ONE, TWO = (hashlib.sha384(text).digest() for text in (b"one", b"two"))
SPECIFICATION = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 1) + struct.pack("<HHB", 0x000C, 48, 0)
LOG = (
    struct.pack("<II20sI", 1, 3, bytes(20), len(SPECIFICATION))
    + SPECIFICATION
    + event(1, ONE, b"one")
    + event(1, TWO, b"two")
    + event(3, TWO, b"two")
)
MEASURED = replace(TD_REPORT, rtmr0=extended(ONE, TWO), rtmr1=bytes(48), rtmr2=extended(TWO), rtmr3=bytes(48))
TD_QUOTE = encode_quote(make_quote(MEASURED))
ENCLAVE_QUOTE = encode_quote(make_quote(ENCLAVE_REPORT, version=3))


def examine(evidence: Evidence) -> Claims:
    return verify(evidence, standing(evidence.tee), NOW)


def test_raw_bytes() -> None:
    assert TDX.recognise(TD_QUOTE) == Evidence("tdx", TD_QUOTE)
    assert SGX.recognise(ENCLAVE_QUOTE) == Evidence("sgx", ENCLAVE_QUOTE)
    assert TDX.recognise(ENCLAVE_QUOTE) is None
    assert SGX.recognise(TD_QUOTE) is None
    buffer = TD_QUOTE.ljust(8000, b"\0")
    assert TDX.recognise(buffer) == Evidence("tdx", buffer)
    with pytest.raises(MalformedError, match="quote-malformed"):
        TDX.recognise(TD_QUOTE[:600])


@given(st.binary(max_size=100))
def test_arbitrary_bytes(data: bytes) -> None:
    assert TDX.recognise(data) is None
    assert SGX.recognise(data) is None


def test_envelopes() -> None:
    assert TDX.from_envelope({"quote": b64(TD_QUOTE)}) == Evidence("tdx", TD_QUOTE)
    assert TDX.from_envelope({"quote": b64(TD_QUOTE), "cc_eventlog": None}) == Evidence("tdx", TD_QUOTE)
    logged = TDX.from_envelope({"quote": b64(TD_QUOTE), "cc_eventlog": b64(LOG)})
    assert logged == Evidence("tdx", TD_QUOTE, parts={"event-log": LOG})
    assert SGX.from_envelope({"quote": b64(ENCLAVE_QUOTE)}) == Evidence("sgx", ENCLAVE_QUOTE)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("field-missing", {}),
        ("field-type", {"quote": 7}),
        ("field-unknown", {"quote": b64(TD_QUOTE), "more": 1}),
        ("base64-malformed", {"quote": "*"}),
        ("field-too-long", {"quote": "A" * (4 * QUOTE_LIMIT)}),
        ("quote-malformed", {"quote": ""}),
        ("quote-tee-type", {"quote": b64(ENCLAVE_QUOTE)}),
    ],
)
def test_envelopes_that_are_none(code: str, value: dict[str, object]) -> None:
    with pytest.raises(MalformedError) as caught:
        TDX.from_envelope(value)
    assert caught.value.code == code
    swapped = {"quote": b64(TD_QUOTE)} if code == "quote-tee-type" else value
    with pytest.raises(MalformedError) as caught:
        SGX.from_envelope(swapped)
    assert caught.value.code == code


def test_an_event_log_that_leads_to_the_registers() -> None:
    claims = examine(Evidence("tdx", TD_QUOTE, parts={"event-log": LOG}))
    assert claims.ok, claims.failures
    assert sum(check.name.startswith("event log") for check in claims.checks) == 4


def test_an_event_log_that_does_not() -> None:
    wrong = LOG.replace(ONE, TWO, 1)
    claims = examine(Evidence("tdx", TD_QUOTE, parts={"event-log": wrong}))
    assert [check.code for check in claims.failures] == ["event-log-mismatch"]
    with pytest.raises(MalformedError):
        examine(Evidence("tdx", TD_QUOTE, parts={"event-log": b"\0" * 40}))


def test_no_event_log() -> None:
    claims = examine(Evidence("tdx", TD_QUOTE))
    assert [check.code for check in claims.checks if check.outcome == "not-checked"] == ["event-log-absent"]
    assert claims.ok


def test_quotes_of_the_other_kind() -> None:
    for evidence in (Evidence("tdx", ENCLAVE_QUOTE), Evidence("sgx", TD_QUOTE)):
        with pytest.raises(MalformedError) as caught:
            examine(evidence)
        assert caught.value.code == "quote-tee-type"


def test_fields_for_people_are_plain_json() -> None:
    for evidence in (Evidence("tdx", TD_QUOTE), Evidence("sgx", ENCLAVE_QUOTE)):
        described = tee(evidence.tee).describe(evidence)
        assert json.loads(json.dumps(described)) == described
        assert described.items() <= examine(evidence).details.items()
    assert TDX.describe(Evidence("tdx", TD_QUOTE))["quote"]["header"]["tee_type"] == "81000000"
    assert SGX.describe(Evidence("sgx", ENCLAVE_QUOTE))["header"]["vendor_id"] == "939a7233f79c4ca9940a0db3957f0607"
