"""Frames and messages of the attested control protocol."""

import contextlib
import hashlib

import pytest
from channel_world import unsigned_evidence
from hypothesis import given
from hypothesis import strategies as st

from kokon.channel.protocol import (
    FRAME_LIMIT,
    REQUEST_LIMIT,
    Answer,
    AttestRequest,
    LogsRequest,
    Request,
    Runtime,
    StatusRequest,
    answer_message,
    encode_frame,
    frame_size,
    parse_answer,
    parse_message,
    parse_request,
    request_message,
)
from kokon.errors import KokonError, MalformedError

RUNTIME = Runtime(bytes(32), bytes(48), "clinic", "sha256:" + "a" * 64, ("db", "ключ"), "2026-11-23T06:00:00Z")
ANSWER = Answer(unsigned_evidence(RUNTIME.report_data()), RUNTIME, b"version = 1\n", {"payload": "AA=="})


def test_frame_is_length_and_json() -> None:
    assert encode_frame({"op": "status"}) == b'\x00\x00\x00\x0f{"op":"status"}'
    assert frame_size(b"\x00\x00\x00\x0f", limit=15) == 15


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"\0\0\0\0", "frame-malformed"),
        (b"\0\0", "frame-malformed"),
        (b"", "frame-malformed"),
        (b"\0\x10\0\x01", "frame-too-large"),
        (b"\xff\xff\xff\xff", "frame-too-large"),
    ],
)
def test_bad_headers_are_refused(header: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        frame_size(header, limit=FRAME_LIMIT)
    assert caught.value.code == code


def test_oversize_message_is_not_sent() -> None:
    with pytest.raises(MalformedError) as caught:
        encode_frame({"log": "x" * FRAME_LIMIT})
    assert caught.value.code == "frame-too-large"


@pytest.mark.parametrize(
    "request_", [AttestRequest(bytes(range(32))), LogsRequest("token", True), LogsRequest("t"), StatusRequest()]
)
def test_requests_survive(request_: Request) -> None:
    frame = encode_frame(request_message(request_))
    assert parse_request(frame[4:]) == request_


def test_log_token_is_not_shown() -> None:
    assert "hunter2" not in repr(LogsRequest("hunter2"))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[]", "frame-malformed"),
        (b"{", "json-malformed"),
        (b"{}", "field-missing"),
        (b'{"op":"shell"}', "operation-unknown"),
        (b'{"op":"status","more":1}', "field-unknown"),
        (b'{"op":"attest","nonce":"AAAA"}', "size-mismatch"),
        (b'{"op":"logs","token":1}', "field-type"),
        (b'{"op":"status","op":"status"}', "json-malformed"),
        (b'"' + b"x" * REQUEST_LIMIT + b'"', "json-too-large"),
    ],
)
def test_bad_requests_are_refused(body: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_request(body)
    assert caught.value.code == code


def test_answer_survives() -> None:
    assert parse_answer(parse_message(encode_frame(answer_message(ANSWER))[4:])) == ANSWER


def test_report_data_covers_every_member() -> None:
    assert len(RUNTIME.report_data()) == 64
    canonical = (
        '{"image":"sha256:' + "a" * 64 + '","nonce":"' + "A" * 43 + '=","released":["db","ключ"],'
        '"started":"2026-11-23T06:00:00Z","tls-spki-sha384":"' + "0" * 96 + '","workload":"clinic"}'
    )
    assert RUNTIME.report_data() == hashlib.sha512(canonical.encode()).digest()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("nonce", "AAAA"),
        ("tls-spki-sha384", "00"),
        ("workload", ""),
        ("workload", "\ud800"),
        ("released", [1]),
        ("released", ["x" * 300]),
        ("released", ["\udc00"]),
        ("started", 5),
        ("surprise", 1),
    ],
)
def test_bad_runtimes_are_refused(member: str, value: object) -> None:
    message = answer_message(ANSWER)
    message["runtime"][member] = value
    with pytest.raises(MalformedError):
        parse_answer(message)


def test_document_must_have_a_utf8_form() -> None:
    message = answer_message(ANSWER)
    message["launch-document"] = "\ud800"
    with pytest.raises(MalformedError) as caught:
        parse_answer(message)
    assert caught.value.code == "frame-malformed"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(body: bytes) -> None:
    with contextlib.suppress(KokonError):
        request = parse_request(body)
        assert parse_request(encode_frame(request_message(request))[4:]) == request


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(["evidence", "runtime", "launch-document", "statement", "other"]), JSON)
def test_any_member_is_read_or_refused(member: str, value: object) -> None:
    message = answer_message(ANSWER) | {member: value}
    with contextlib.suppress(KokonError):
        answer = parse_answer(message)
        assert answer_message(answer) == message


@given(st.text(max_size=20), st.lists(st.text(max_size=10), max_size=4))
def test_runtime_of_any_texts_is_hashed_or_refused(workload: str, released: list[str]) -> None:
    message = answer_message(ANSWER)
    message["runtime"] |= {"workload": workload, "released": released}
    with contextlib.suppress(KokonError):
        assert len(parse_answer(message).runtime.report_data()) == 64
