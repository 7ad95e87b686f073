"""Reference values from CoRIM manifests (draft-ietf-rats-corim): the envelope, its signature and its dates. Pure.

Forms that are read: an unsigned manifest under CBOR tag 501; a signed one, COSE_Sign1 (tag 18), whose payload is the
manifest with or without tag 501; either also under the tags 500 and 502 of earlier drafts. Of its tags CoMIDs (506) are
read, CoSWIDs (505), trust lists (508) and others are listed in `Corim.not_compared`; so are dependent manifests, which
are not fetched. What a CoMID may say: `kokon.appraisal.comid`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from kokon.appraisal.comid import array, identifier, malformed, read_comid, table, text
from kokon.appraisal.reference import ReferenceValues
from kokon.errors import MalformedError, StaleError, UntrustedError
from kokon.tee.cbor import Tag, read_cbor
from kokon.tee.cose import CONTENT_TYPE, COSE_SIGN1_TAG, CoseSign1, sign1_from, verify_sign1

CORIM_LIMIT: Final = 1 << 20
TAGS_LIMIT: Final = 64
KEY_LIMIT: Final = 16 << 10

CORIM_TAG: Final = 500
UNSIGNED_TAG: Final = 501
SIGNED_TAG: Final = 502
COMID_TAG: Final = 506
TIME_TAG: Final = 1
URI_TAG: Final = 32
CONTENT_TYPES: Final = ("application/rim+cbor", "application/corim-unsigned+cbor")

_CORIM_META: Final = 8
_CWT_CLAIMS: Final = 15
_EXPIRES, _NOT_BEFORE = 4, 5
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND: Final = 253_402_300_799

Span = tuple[datetime | None, datetime | None]


@dataclass(frozen=True, slots=True)
class Corim:
    """A manifest. `values` are acceptable launches, each with the manifest's end as its own; `signer` is the name that
    the signed header gives, "" if the manifest was unsigned; `not_compared` lists for people what was passed over."""

    identifier: str
    profile: str
    signer: str
    signed: bool
    not_before: datetime | None
    not_after: datetime | None
    values: tuple[ReferenceValues, ...]
    not_compared: tuple[str, ...]

    def references(self, now: datetime) -> tuple[ReferenceValues, ...]:
        """The values if they may be used already at `now`; whether they may still be is checked in appraisal.

        Raises `StaleError` (`corim-not-yet-valid`).
        """
        if self.not_before is not None and now < self.not_before:
            raise StaleError(
                "corim-not-yet-valid",
                "the reference values are not valid yet",
                expected=f"from {self.not_before:%Y-%m-%dT%H:%M:%SZ}",
                found=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            )
        return self.values


def read_corim(data: bytes, *, key: bytes | None = None, unsigned: bool = False) -> Corim:
    """A manifest of at most 1 MiB. A signed one must verify under `key`, a public key or a certificate (whose dates
    and issuer are not looked at) in PEM or DER; an unsigned one is read only if `unsigned`.

    Raises `MalformedError` (`corim-malformed`, `corim-unsupported`, `corim-key`, `cbor-malformed`, `cbor-too-large`,
    `cose-malformed`) and `UntrustedError` (`corim-signature`, `corim-unsigned`).
    """
    value = read_cbor(data, limit=CORIM_LIMIT, what="the CoRIM")
    if isinstance(value, Tag) and value.number == CORIM_TAG:
        value = value.value
    if isinstance(value, Tag) and value.number == SIGNED_TAG:
        value = value.value
    elif isinstance(value, Tag) and value.number == UNSIGNED_TAG:
        if not unsigned:
            raise UntrustedError(
                "corim-unsigned",
                "nobody signed these reference values",
                expected="a signed CoRIM",
                hint="allow unsigned ones only if the file itself comes from where you trust",
            )
        return _manifest(value.value, {})
    elif not (isinstance(value, Tag) and value.number == COSE_SIGN1_TAG):
        raise malformed("this is no CoRIM", f"tag {value.number}" if isinstance(value, Tag) else type(value).__name__)
    return _signed(sign1_from(value, what="the signed CoRIM"), key)


def load_public_key(data: bytes) -> PublicKeyTypes:
    """A public key or a certificate's, PEM or DER. Raises `MalformedError` (`corim-key`)."""
    if len(data) > KEY_LIMIT:
        raise MalformedError("corim-key", "the key is too large", expected=f"<= {KEY_LIMIT} bytes", found=len(data))
    try:
        if b"-----BEGIN CERTIFICATE-----" in data:
            return x509.load_pem_x509_certificate(data).public_key()
        if b"-----BEGIN" in data:
            return load_pem_public_key(data)
        try:
            return load_der_public_key(data)
        except ValueError:
            return x509.load_der_x509_certificate(data).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise MalformedError("corim-key", "not a public key or certificate", found=error) from error


def _signed(message: CoseSign1, key: bytes | None) -> Corim:
    if message.payload is None:
        raise malformed("the signed CoRIM has no payload")
    if message.header.get(CONTENT_TYPE, CONTENT_TYPES[0]) not in CONTENT_TYPES:
        raise malformed("the signed payload is no CoRIM", repr(message.header[CONTENT_TYPE])[:80])
    if key is None or not verify_sign1(message, load_public_key(key)):
        raise UntrustedError(
            "corim-signature",
            "the signature of the CoRIM cannot be checked" if key is None else "the CoRIM is not signed by this key",
            expected="a signature by the author's key",
            found="no key was given" if key is None else f"another, algorithm {message.algorithm}",
            hint="name the author's public key or certificate",
        )
    value = read_cbor(message.payload, limit=CORIM_LIMIT, what="the signed CoRIM")
    if isinstance(value, Tag) and value.number == UNSIGNED_TAG:
        value = value.value
    return _manifest(value, message.header)


def _manifest(value: Any, header: Mapping[Any, Any]) -> Corim:
    """The manifest's map (section 4.1); `header` is the signed header, empty for an unsigned manifest."""
    manifest = table(value, "the CoRIM")
    name = identifier(manifest.get(0))
    signer, spans = _meta(header)
    spans.append(_validity(manifest[4]) if 4 in manifest else (None, None))
    not_before = max((start for start, _end in spans if start is not None), default=None)
    not_after = min((end for _start, end in spans if end is not None), default=None)
    values: list[ReferenceValues] = []
    notes = ["dependent manifests"] if 2 in manifest else []
    for tag in array(manifest.get(1), "the CoRIM's tags", TAGS_LIMIT):
        number, content = _content(tag)
        if number != COMID_TAG:
            notes.append(f"tag {number}")
            continue
        comid = read_comid(content)
        values += comid.values
        notes += comid.not_compared
    if not values:
        raise malformed("the CoRIM has no reference values", ", ".join(notes) or None)
    source = f"CoRIM {name}" + (f", signed by {signer}" if signer else "" if header else ", unsigned")
    return Corim(
        identifier=name,
        profile=_profile(manifest.get(3)),
        signer=signer,
        signed=bool(header),
        not_before=not_before,
        not_after=not_after,
        values=tuple(replace(found, not_after=not_after, source=source) for found in values),
        not_compared=tuple(dict.fromkeys(notes)),
    )


def _content(tag: Any) -> tuple[int, Any]:
    """Number and CBOR of one of the manifest's tags: bytes under the number, or, earlier, the number within bytes."""
    outer = tag.number if isinstance(tag, Tag) else None
    data = tag.value if isinstance(tag, Tag) else tag
    if not isinstance(data, bytes):
        raise malformed("one of the CoRIM's tags is not a byte string", type(data).__name__)
    if outer is not None and outer != COMID_TAG:
        return outer, None
    content = read_cbor(data, limit=CORIM_LIMIT, what="one of the CoRIM's tags")
    if outer is not None:
        return outer, content
    if not isinstance(content, Tag):
        raise malformed("one of the CoRIM's tags has no number")
    return content.number, content.value


def _profile(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(_profile, array(value, "profiles", TAGS_LIMIT)))
    return text(value.value, "a profile") if isinstance(value, Tag) and value.number == URI_TAG else identifier(value)


def _meta(header: Mapping[Any, Any]) -> tuple[str, list[Span]]:
    """The signer's name and the signature's spans of validity, by CoRIM's own header (section 4.2.2) and by CWT
    claims."""
    signer = ""
    spans: list[Span] = []
    if _CORIM_META in header:
        if not isinstance(header[_CORIM_META], bytes):
            raise malformed("the signed header's corim-meta must be bytes")
        meta = table(read_cbor(header[_CORIM_META], limit=KEY_LIMIT, what="corim-meta"), "corim-meta")
        signer = text(table(meta.get(0), "the signer").get(0), "the signer's name")
        if 1 in meta:
            spans.append(_validity(meta[1]))
    if _CWT_CLAIMS in header:
        claims = table(header[_CWT_CLAIMS], "CWT claims")
        signer = signer or text(claims.get(1), "the issuer")
        spans.append(_span(claims, _NOT_BEFORE, _EXPIRES))
    return signer, spans


def _validity(value: Any) -> Span:
    members = table(value, "a validity")
    if 1 not in members:
        raise malformed("a validity must have an end")
    return _span(members, 0, 1)


def _span(members: Mapping[Any, Any], start: int, end: int) -> Span:
    first, last = (_time(members[name]) if name in members else None for name in (start, end))
    return first, last


def _time(value: Any) -> datetime:
    """Seconds since 1970, with or without CBOR tag 1 (RFC 8949 section 3.4.2)."""
    seconds = value.value if isinstance(value, Tag) and value.number == TIME_TAG else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LAST_SECOND:
        raise malformed("a time must be seconds since 1970", repr(seconds)[:80])
    return _EPOCH + timedelta(seconds=seconds)
