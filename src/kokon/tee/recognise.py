"""What is this file? Evidence out of whatever form people keep it in. Pure.

Raw bytes, hex, base64 (standard or URL-safe, padded or not), PEM-like armour, the KBS protocol's JSON objects and the
documents around them, certificates that carry evidence. Each TEE knows its own bytes; here are only the wrappings.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from kokon.errors import KokonError, MalformedError
from kokon.tee.evidence import Evidence
from kokon.tee.registry import TEES, tee
from kokon.wire import parse_json

EVIDENCE_LIMIT: Final = 4 << 20
WRAPPINGS: Final = 6
"""How deep wrappings may be nested: an attestation service's request in base64 in JSON needs three."""

_BEGIN: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----\s")
_HEX: Final = re.compile(rb"(0x)?[0-9a-fA-F\s]+\Z")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_\s-]+={0,2}\s*\Z")
_BLANKS: Final = b" \t\r\n\v\f"
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_MORE: Final = "additional_evidence"
_INNER: Final = ("tee-evidence", "primary_evidence", "evidence")
"""Members that hold evidence in the KBS protocol's and the attestation service's messages (kbs.md, a.4)."""


def recognise(data: bytes, tees: Mapping[str, str] = TEES) -> Evidence | None:
    """The evidence in a file of at most 4 MiB, or None if it is nothing that any TEE knows.

    Raises `MalformedError` for what looks like evidence and does not parse (the TEE's own codes), and
    `evidence-too-large`.
    """
    if len(data) > EVIDENCE_LIMIT:
        raise MalformedError(
            "evidence-too-large", "the file is too large for evidence", expected=f"<= {EVIDENCE_LIMIT}", found=len(data)
        )
    return _recognise(data, tees, WRAPPINGS)


def _recognise(data: bytes, tees: Mapping[str, str], left: int) -> Evidence | None:
    if left == 0 or not data:
        return None
    stripped = data.strip()
    if stripped[:1] in (b"{", b"["):
        return _from_json(stripped, tees, left)
    for name in tees:
        found = tee(name, tees).recognise(data)
        if found is not None:
            return found
    for unwrapped in _unwrapped(stripped):
        found = _recognise(unwrapped, tees, left - 1)
        if found is not None:
            return found
    return None


def _unwrapped(text: bytes) -> Iterator[bytes]:
    """What the text may stand for, the most particular reading first."""
    text = _without_armour(text)
    if _HEX.match(text):
        digits = text.removeprefix(b"0x").translate(None, _BLANKS)
        if len(digits) % 2 == 0:
            yield bytes.fromhex(digits.decode("ascii"))
    if _BASE64.match(text):
        letters = text.translate(_STANDARD, _BLANKS).rstrip(b"=")
        try:
            yield base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
        except binascii.Error:
            return


def _without_armour(text: bytes) -> bytes:
    """What stands between the first BEGIN line and its END; `text` itself if there is no such pair."""
    begin = _BEGIN.search(text)
    if begin is None:
        return text
    end = text.find(b"-----END " + begin.group(1) + b"-----", begin.end())
    return text if end < 0 else text[begin.end() : end]


def _from_json(text: bytes, tees: Mapping[str, str], left: int) -> Evidence | None:
    value = parse_json(text, limit=EVIDENCE_LIMIT, what="the evidence")
    return _from_value(value, tees, left)


def _from_value(value: Any, tees: Mapping[str, str], left: int) -> Evidence | None:
    if left == 0:
        return None
    if isinstance(value, str):
        return _recognise(value.encode(), tees, left - 1)
    if not isinstance(value, dict):
        return None
    _refuse_more(value)
    for name in _INNER:
        if name in value:
            return _from_value(value[name], tees, left - 1)
    requests = value.get("verification_requests")
    if isinstance(requests, list) and len(requests) == 1:
        return _from_value(requests[0], tees, left - 1)
    return _from_envelope(value, tees)


def _refuse_more(value: Mapping[str, Any]) -> None:
    """Evidence of further devices is not verified here, and must not seem to be."""
    if value.get(_MORE) not in (None, "", "{}") or sum(name in value for name in _INNER) > 1:
        raise MalformedError(
            "evidence-composite",
            "the message carries evidence of several devices",
            expected="evidence of one enclave",
            found=", ".join(sorted(set(value) & {*_INNER, _MORE})),
            hint="take them apart and verify each by itself",
        )


def _from_envelope(value: Mapping[str, Any], tees: Mapping[str, str]) -> Evidence | None:
    """By trying: envelopes name no TEE, and their members overlap. The first TEE whose form fits has it; if none fits,
    the complaint of the one that came furthest is lost, so the caller says that nothing was recognised."""
    for name in tees:
        try:
            return tee(name, tees).from_envelope(value)
        except KokonError:
            continue
    return None
