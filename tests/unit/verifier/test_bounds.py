"""However large and strange a file is, judging it takes at most 64 MB and ends."""

import base64
import tracemalloc
from datetime import UTC, datetime

import pytest

from kokon.tee.recognise import EVIDENCE_LIMIT
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.eventlog import CC_BOOT
from kokon.verifier.examine import Question, examine

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MEMORY = 64 << 20
VENDOR = FakeVendor(NOW)
LOG = VENDOR.tdx(log=True, events=CC_BOOT).parts["event-log"]
CERTIFICATE = VENDOR.endorsements(VENDOR.sgx()).certificates[0]


def filled(piece: bytes, start: bytes = b"", end: bytes = b"") -> bytes:
    room = EVIDENCE_LIMIT - len(start) - len(end)
    return start + piece * (room // len(piece)) + end


HOSTILE = {
    "zeros": filled(b"\0"),
    "ones": filled(b"\xff"),
    "hex": filled(b"00"),
    "base64": filled(b"AAAA"),
    "base64 of base64": base64.b64encode(base64.b64encode(bytes(2 << 20))),
    "braces": filled(b"{"),
    "nested arrays": filled(b"["),
    "nested objects": filled(b'{"a":'),
    "many members": filled(b"0,", b'{"evidence":[', b"0]}"),
    "one long text": filled(b"a", b'{"quote":"', b'"}'),
    "many armours": filled(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    "open armour": filled(b"-----BEGIN X-----\n"),
    "many certificates": filled(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(CERTIFICATE) + b"-----END CERTIFICATE-----\n"
    ),
    "long der": filled(b"\x30", b"\x30\x84\x00\x3f\xff\xfa"),
    "cbor arrays": filled(b"\x84"),
    "cbor without end": filled(b"\x9f"),
    "nitro with a huge payload": filled(b"\0", b"\x84\x44\xa1\x01\x38\x22\xa0\x5a\x00\x3f\xff\x00"),
    "events": LOG + filled(b"\0" * 97, LOG)[len(LOG) :],
    "quote with padding": filled(b"\0", VENDOR.tdx().report),
    "quote with a huge length": VENDOR.sgx().report[:432] + filled(b"\0", b"\xf0\xff\x3f\0")[: EVIDENCE_LIMIT - 432],
    "protobuf": filled(b"\x0a\x00"),
    "tpm": filled(b"\xffTCG\x80\x18"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_memory_is_bounded(name: str) -> None:
    data = HOSTILE[name]
    assert len(data) <= EVIDENCE_LIMIT
    tracemalloc.start()
    try:
        verdict = examine(data, Question(pieces=(data[: 1 << 20],)), NOW)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert verdict.outcome in ("refused", "incomplete")
    assert peak < MEMORY, f"{peak >> 20} MB"
