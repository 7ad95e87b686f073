"""Genuine quotes in other encodings and mixed with each other, genuine collateral altered.

Every single bit of what is signed is flipped in test_intel_robustness.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from intel_manifest import Vector, genuine

from kokon.errors import MalformedError
from kokon.tee.evidence import Claims
from kokon.tee.intel.quote import Quote, encode_quote, parse_quote

pytestmark = pytest.mark.vectors

KINDS = ("sgx", "tdx v4", "tdx v5")


@pytest.fixture(scope="module", params=range(3), ids=KINDS)
def vector(request: pytest.FixtureRequest, vectors: Path, manifest: list[dict[str, Any]]) -> Vector:
    found = sorted(genuine(vectors, manifest), key=lambda one: one.file)
    return found[request.param]


def verified(vector: Vector, raw: bytes) -> Claims | None:
    """The claims if they are ok; None if not or if the bytes do not parse. Any other exception is a failure."""
    try:
        claims = vector.verify(raw=raw)
    except MalformedError:
        return None
    return claims if claims.ok else None


def without_padding(claims: Claims) -> Claims:
    return replace(claims, details={name: value for name, value in claims.details.items() if name != "padding"})


def certification_start(vector: Vector) -> int:
    """Where the certificates begin; everything before is signed, hashed, a signature, a key or a length."""
    return vector.raw.index(parse_quote(vector.raw).certification.data)


@pytest.mark.filterwarnings("ignore:Attribute's length")
@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_every_other_byte(vector: Vector, mask: int) -> None:
    """The chain of certificates and the padding: refused, or the same claims."""
    plain = without_padding(vector.verify())
    same = 0
    for offset in range(certification_start(vector), len(vector.raw)):
        flipped = bytearray(vector.raw)
        flipped[offset] ^= mask
        claims = verified(vector, bytes(flipped))
        if claims is not None:
            assert without_padding(claims) == plain, offset
            same += 1
    assert same < len(parse_quote(vector.raw).padding) + 100


def test_extension(vector: Vector) -> None:
    plain = vector.verify()
    for tail in (b"\0", b"\xff" * 70, bytes(8000), vector.raw):
        claims = verified(vector, vector.raw + tail)
        assert claims is not None
        assert without_padding(claims) == without_padding(plain)
    with pytest.raises(MalformedError):
        vector.verify(raw=vector.raw + bytes(1 << 16))


FIELDS = (
    "header",
    "body",
    "signature",
    "attestation_key",
    "qe_report",
    "qe_report_signature",
    "qe_auth_data",
    "certification",
)


def test_fields_of_another_genuine_quote(vector: Vector, vectors: Path, manifest: list[dict[str, Any]]) -> None:
    quote = parse_quote(vector.raw)
    others = [parse_quote(other.raw) for other in genuine(vectors, manifest) if other.file != vector.file]
    swapped = 0
    for other in others:
        for name in FIELDS:
            mixed: Quote = replace(quote, **{name: getattr(other, name)})
            if mixed == quote or type(mixed.body) is not type(quote.body):
                continue
            assert verified(vector, encode_quote(mixed)) is None, name
            swapped += 1
    assert swapped >= 6


def test_collateral_altered(vector: Vector) -> None:
    """A flipped bit in a signed document or a list is noticed."""
    known = vector.endorsements
    for index, document in enumerate(known.documents):
        for offset in range(0, len(document.body), 37):
            body = bytearray(document.body)
            body[offset] ^= 1
            documents = list(known.documents)
            documents[index] = replace(document, body=bytes(body))
            altered = replace(vector, endorsements=replace(known, documents=tuple(documents)))
            assert verified(altered, vector.raw) is None
    for index, crl in enumerate(known.crls):
        for offset in range(0, len(crl), 11):
            flipped = bytearray(crl)
            flipped[offset] ^= 1
            lists = list(known.crls)
            lists[index] = bytes(flipped)
            altered = replace(vector, endorsements=replace(known, crls=tuple(lists)))
            assert verified(altered, vector.raw) is None
