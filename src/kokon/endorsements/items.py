"""Endorsements as plain JSON values and back, for bundles and for the cache.

Only what is signed by somebody else is written: accepted roots and enrolled keys are a caller's decision and do not
travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from kokon.errors import KokonError, MalformedError
from kokon.tee.certificates import CERTIFICATE_LIMIT, parse_certificate
from kokon.tee.endorsements import Endorsements, SignedDocument
from kokon.tee.revocation import CRL_LIMIT, parse_crl
from kokon.wire import Fields, b64, unb64

DOCUMENT_LIMIT: Final = 1 << 20
CHAIN_LIMIT: Final = 8
SIGNATURE_SIZE: Final = 64
_DOCUMENTS: Final[Mapping[str, Literal["tcb-info", "qe-identity"]]] = {
    "tcb-info": "tcb-info",
    "qe-identity": "qe-identity",
}
_TEXT: Final = (CRL_LIMIT * 4) // 3 + 8


def to_items(endorsements: Endorsements) -> list[dict[str, Any]]:
    """One object for each certificate, list and document, each thing once, in their order."""
    items: list[dict[str, Any]] = [
        {"kind": "certificate", "data": b64(der)} for der in dict.fromkeys(endorsements.certificates)
    ]
    items += [{"kind": "crl", "data": b64(der)} for der in dict.fromkeys(endorsements.crls)]
    items += [
        {
            "kind": document.kind,
            "data": b64(document.body),
            "signature": b64(document.signature),
            "chain": [b64(der) for der in document.chain],
        }
        for document in dict.fromkeys(endorsements.documents)
    ]
    return items


def from_items(items: Sequence[Any]) -> Endorsements:
    """Endorsements from such objects, each of which must parse.

    Raises `MalformedError` (`endorsement-item-malformed`).
    """
    certificates: list[bytes] = []
    crls: list[bytes] = []
    documents: list[SignedDocument] = []
    for number, item in enumerate(items, start=1):
        try:
            fields = Fields(item, "item")
            kind = fields.text("kind", limit=32)
            if kind == "certificate":
                certificates.append(_certificate(_data(fields, CERTIFICATE_LIMIT)))
            elif kind == "crl":
                crls.append(parse_crl(_data(fields, CRL_LIMIT)).der)
            elif kind in _DOCUMENTS:
                documents.append(_document(_DOCUMENTS[kind], fields))
            else:
                raise MalformedError("endorsement-item-malformed", "unknown kind of endorsement", found=kind)
            fields.finish()
        except KokonError as error:
            raise MalformedError(
                "endorsement-item-malformed", f"item {number} of the endorsements is malformed", found=error
            ) from error
    return Endorsements(tuple(certificates), tuple(crls), tuple(documents))


def _data(fields: Fields, limit: int) -> bytes:
    return unb64(fields.text("data", limit=_TEXT), what="data", limit=limit)


def _certificate(der: bytes) -> bytes:
    return parse_certificate(der).der


def _document(kind: Literal["tcb-info", "qe-identity"], fields: Fields) -> SignedDocument:
    body = _data(fields, DOCUMENT_LIMIT)
    signature = unb64(fields.text("signature", limit=128), what="signature", size=SIGNATURE_SIZE)
    chain = fields.array("chain", limit=CHAIN_LIMIT)
    if not all(isinstance(text, str) for text in chain):
        raise MalformedError("endorsement-item-malformed", "a chain is not a list of texts")
    decoded = tuple(_certificate(unb64(text, what="certificate", limit=CERTIFICATE_LIMIT)) for text in chain)
    return SignedDocument(kind, body, signature, decoded)
