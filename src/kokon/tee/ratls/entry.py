"""RA-TLS certificates' place in the registry. Their claims bear the name of the TEE whose evidence is inside."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

from kokon.errors import MalformedError
from kokon.tee import registry
from kokon.tee.certificates import CERTIFICATE_LIMIT
from kokon.tee.evidence import Evidence
from kokon.tee.ratls.certificate import parse_ratls
from kokon.tee.ratls.verify import describe_certificate, verify_ratls
from kokon.wire import Fields, b64, unb64

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_PEM_LIMIT: Final = 2 * CERTIFICATE_LIMIT
_SEQUENCE: Final = 0x30
_CONTENTS: Final = (bytes.fromhex("678105050409"), bytes.fromhex("2a864886f84d8a3906"))
"""Object identifiers of the extensions as DER content: only a certificate with one of them in it is looked at."""


def recognise(data: bytes) -> Evidence | None:
    """A certificate, DER or the first of a PEM file, with evidence in it; None for every other certificate.

    Raises `MalformedError` for what has the extensions and does not parse (those of `parse_ratls`).
    """
    der = _from_pem(data) if data.lstrip().startswith(b"-----") else data
    if der is None or der[:1] != bytes([_SEQUENCE]) or not any(content in der for content in _CONTENTS):
        return None
    try:
        parse_ratls(der)
    except MalformedError as error:
        if error.code == "ratls-without-evidence":
            return None
        raise
    return Evidence("ratls", der)


def _from_pem(data: bytes) -> bytes | None:
    """The first certificate of a PEM file (RFC 7468), not parsed: strict parsers refuse some of them."""
    armour = _PEM.search(data) if len(data) <= _PEM_LIMIT else None
    try:
        return base64.b64decode(b"".join(armour[1].split()), validate=True) if armour else None
    except binascii.Error:
        return None


def from_envelope(value: Mapping[str, Any]) -> Evidence:
    """From `{"ra-tls-certificate": base64 of DER}`. The KBS protocol has no such evidence: this object is ours.

    Raises `MalformedError`: those of `Fields`, of base64 and of `parse_ratls`.
    """
    fields = Fields(value, "RA-TLS evidence")
    text = fields.text("ra-tls-certificate", limit=2 * CERTIFICATE_LIMIT)
    fields.finish()
    der = unb64(text, what="the certificate", limit=CERTIFICATE_LIMIT)
    parse_ratls(der)
    return Evidence("ratls", der)


def to_envelope(evidence: Evidence) -> dict[str, Any]:
    """The JSON object; inverse of `from_envelope`."""
    return {"ra-tls-certificate": b64(evidence.report)}


def describe(evidence: Evidence) -> dict[str, Any]:
    """The certificate's fields, and those of each piece of evidence in it by its own TEE's names."""
    ratls = parse_ratls(evidence.report)
    inside = [registry.tee(binding.evidence.tee).describe(binding.evidence) for binding in ratls.bindings]
    return {"certificate": describe_certificate(ratls), "evidence": inside}


RATLS: Final = registry.Tee("ratls", verify_ratls, recognise, from_envelope, describe)
