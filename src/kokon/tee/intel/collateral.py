"""Intel's collateral out of the forms in which it is handed around. Pure; nothing is verified here but the signature
of a document by a given key.

What Intel signs is the inner JSON object byte for byte as it was sent, so it is cut out of the text around it and
never written anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from kokon.errors import MalformedError
from kokon.tee.certificates import REMEMBERED, Certificate
from kokon.tee.endorsements import Endorsements, SignedDocument
from kokon.tee.intel.documents import DOCUMENT_LIMIT, parse_qe_identity, parse_tcb_info
from kokon.tee.intel.pem import CERTIFICATE, CRL, read_blocks
from kokon.tee.revocation import CRL_LIMIT
from kokon.wire import Fields, parse_json, unhex

COLLATERAL_LIMIT: Final = 4 * CRL_LIMIT

_Kind = Literal["tcb-info", "qe-identity"]
_INNER: Final[Mapping[str, _Kind]] = {"tcbInfo": "tcb-info", "enclaveIdentity": "qe-identity"}
_FLAT: Final[Mapping[str, _Kind]] = {"tcb_info": "tcb-info", "qe_identity": "qe-identity"}
_FLAT_CHAINS: Final = ("pck_crl_issuer_chain", "pck_certificate_chain")
_FLAT_CRLS: Final = ("root_ca_crl", "pck_crl")
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_HEX_CRL: Final = re.compile(rb"\s*30[0-9a-fA-F]+\s*")
_SIGNATURE: Final = 64


def _malformed(what: str, found: object = None) -> MalformedError:
    return MalformedError("collateral-malformed", f"{what} is malformed", found=found)


def read_signed_document(data: bytes, chain: tuple[bytes, ...] = ()) -> SignedDocument:
    """TCB info or an enclave identity as Intel's service sends it: `{"tcbInfo":{...},"signature":"..."}`.

    `chain` are the issuer's certificates (DER), which the service sends beside it. Raises `MalformedError`:
    `collateral-malformed`, and what `documents` raises for the inner object.
    """
    value = parse_json(data, limit=2 * DOCUMENT_LIMIT, what="the document")
    kinds = [name for name in _INNER if isinstance(value, dict) and name in value]
    if len(kinds) != 1 or set(value) != {kinds[0], "signature"}:
        raise _malformed("the document", "not one inner object and a signature")
    signature = Fields(value, "the document").text("signature", limit=2 * _SIGNATURE)
    body = _members(data.decode())[kinds[0]]
    return _document(_INNER[kinds[0]], body.encode(), signature, chain)


def _document(kind: _Kind, body: bytes, signature: str, chain: tuple[bytes, ...]) -> SignedDocument:
    if kind == "tcb-info":
        parse_tcb_info(body)
    else:
        parse_qe_identity(body)
    return SignedDocument(kind, body, unhex(signature, what="the signature", size=_SIGNATURE), chain)


def _members(text: str) -> dict[str, str]:
    """The source text of each member of a JSON object that is known to be strict JSON."""
    decoder = json.JSONDecoder()

    def skip(position: int) -> int:
        match = _SPACE.match(text, position)
        return match.end() if match else position

    members: dict[str, str] = {}
    position = skip(0) + 1
    while text[position - 1] != "}":
        name, position = decoder.raw_decode(text, skip(position))
        start = skip(skip(position) + 1)
        _value, end = decoder.raw_decode(text, start)
        members[name] = text[start:end]
        position = skip(end) + 1
    return members


def read_collateral(data: bytes) -> Endorsements:
    """Endorsements in one file: a document as Intel's service sends it, everything for a quote in one flat JSON
    object (`tcb_info`, `tcb_info_signature`, `root_ca_crl`..., as dcap-qvl keeps it), or a revocation list in hex.

    Raises `MalformedError`: `collateral-malformed`, `pem-malformed`, those of `read_signed_document`.
    """
    if len(data) > COLLATERAL_LIMIT:
        raise _malformed("the collateral", f"{len(data)} bytes")
    if _HEX_CRL.fullmatch(data):
        return Endorsements(crls=(_crl(data.decode().strip()),))
    value = parse_json(data, limit=COLLATERAL_LIMIT, what="the collateral")
    if not isinstance(value, dict):
        raise _malformed("the collateral", type(value).__name__)
    if any(name in value for name in _INNER):
        return Endorsements(documents=(read_signed_document(data),))
    documents = tuple(_flat_documents(value))
    if not documents and not any(name in value for name in _FLAT_CRLS):
        raise _malformed("the collateral", ", ".join(sorted(value))[:100])
    certificates = [
        certificate
        for name in _FLAT_CHAINS
        if value.get(name)
        for certificate in _certificates(Fields(value, "the collateral").text(name, limit=DOCUMENT_LIMIT))
    ]
    crls = [
        _crl(Fields(value, "the collateral").text(name, limit=4 * CRL_LIMIT)) for name in _FLAT_CRLS if name in value
    ]
    return Endorsements(tuple(dict.fromkeys(certificates)), tuple(dict.fromkeys(crls)), documents)


def _flat_documents(value: Mapping[str, Any]) -> Iterator[SignedDocument]:
    for name, kind in _FLAT.items():
        if name in value:
            fields = Fields(value, "the collateral")
            body = fields.text(name, limit=DOCUMENT_LIMIT)
            signature = fields.text(f"{name}_signature", limit=2 * _SIGNATURE)
            chain = _certificates(fields.text(f"{name}_issuer_chain", default="", limit=DOCUMENT_LIMIT))
            yield _document(kind, body.encode(), signature, chain)


def _certificates(text: str) -> tuple[bytes, ...]:
    return read_blocks(text.encode(), CERTIFICATE)


def _crl(text: str) -> bytes:
    if text.startswith("-----BEGIN"):
        blocks = read_blocks(text.encode(), CRL)
        if len(blocks) != 1:
            raise _malformed("a revocation list", f"{len(blocks)} PEM blocks")
        return blocks[0]
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise _malformed("a revocation list", "neither hexadecimal nor PEM") from error


def raw_signature_holds(key: object, signature: bytes, signed: bytes) -> bool:
    """True if `signature` (r and s, 32 bytes each, big-endian) over `signed` is by the P-256 `key`, with SHA-256."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=REMEMBERED // 4)
def is_signed_by(document: SignedDocument, signer: Certificate) -> bool:
    """True if the key of `signer` signed the document."""
    return raw_signature_holds(signer.key, document.signature, document.body)
