"""Evidence out of every wrapping that people keep it in."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tee_kit import NOW, make_chip

from kokon.errors import MalformedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Evidence
from kokon.tee.recognise import EVIDENCE_LIMIT, recognise
from kokon.tee.registry import tee, verify

ENVELOPE = {"svn": "1", "report_data": base64.b64encode(bytes(48)).decode()}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_chip(tmp_path_factory.mktemp("chip")).evidence().report


def wrappings(raw: bytes) -> list[bytes]:
    armour = base64.encodebytes(raw)
    return [
        raw,
        raw.hex().encode(),
        b"0x" + raw.hex().upper().encode() + b"\n",
        b"\n".join(raw.hex().encode()[start : start + 64] for start in range(0, 2 * len(raw), 64)),
        base64.b64encode(raw),
        armour,
        base64.urlsafe_b64encode(raw).rstrip(b"="),
        b"-----BEGIN SNP REPORT-----\n" + armour + b"-----END SNP REPORT-----\n",
        base64.b64encode(raw.hex().encode()),
    ]


def test_every_wrapping_gives_the_same_evidence(report: bytes) -> None:
    for form in wrappings(report):
        found = recognise(form)
        assert found is not None, form[:40]
        assert (found.tee, found.report) == ("snp", report)


def test_messages_of_the_protocol() -> None:
    inner = json.dumps(ENVELOPE)
    url = base64.urlsafe_b64encode(inner.encode()).decode()
    for message in (
        inner,
        json.dumps({"tee-evidence": {"primary_evidence": ENVELOPE, "additional_evidence": ""}}),
        json.dumps({"tee-evidence": {"primary_evidence": inner}}),
        json.dumps({"verification_requests": [{"tee": "sample", "evidence": url}]}),
        json.dumps({"evidence": url}),
    ):
        found = recognise(message.encode())
        assert found is not None, message
        assert found.tee == "sample"


@pytest.mark.parametrize("data", [b"", b"\n", b"hello", b"[]", b"{}", b'{"evidence": 1}', b"0x123", b"x" * 2000])
def test_nothing_of_this(data: bytes) -> None:
    assert recognise(data) is None


def test_limits() -> None:
    with pytest.raises(MalformedError, match="evidence-too-large"):
        recognise(bytes(EVIDENCE_LIMIT + 1))
    deep = b"ab"
    for _ in range(12):
        deep = base64.b64encode(deep)
    assert recognise(deep) is None
    assert (
        recognise(json.dumps({"evidence": {"evidence": {"evidence": {"evidence": {"evidence": {}}}}}}).encode()) is None
    )


@given(st.binary(max_size=3000))
def test_any_bytes_do_no_harm(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        recognise(data)


def test_sample_evidence_proves_nothing() -> None:
    evidence = tee("sample").from_envelope(ENVELOPE)
    refused = verify(evidence, Endorsements(), NOW)
    assert [check.code for check in refused.failures] == ["sample-refused"]
    accepted = verify(evidence, Endorsements(accepted_simulated=frozenset({"sample"})), NOW)
    assert accepted.ok
    assert accepted.simulated
    assert [check.code for check in accepted.checks] == ["sample-unsigned"]
    assert tee("sample").describe(evidence) == ENVELOPE
    with pytest.raises(MalformedError, match="sample-malformed"):
        tee("sample").from_envelope({"svn": "1", "quote": ""})
    with pytest.raises(MalformedError, match="tee-unknown"):
        verify(Evidence("abacus", b""), Endorsements(), NOW)
