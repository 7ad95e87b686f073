"""What AMD's and Intel's services answer to a path: a pure function of the vendor. `server.py` speaks HTTP around it.

AMD key distribution service: AMD document 57230, section 4. Intel PCS API version 4, and the paths that only its cache
(PCCS) has. Parameters are checked as the services do: what is malformed is 400, what does not exist 404.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from kokon.tee.endorsements import SignedDocument
from kokon.testing.vendor.amd import PRODUCTS, Product, SigningKey, Tcb
from kokon.testing.vendor.factory import FakeVendor
from kokon.testing.vendor.intel_collateral import Tee, qe_identity, service_json, tcb_info
from kokon.testing.vendor.intel_pki import CertificateAuthority, Platform
from kokon.testing.vendor.intel_quote import pem

DER: Final = "application/octet-stream"
PEM: Final = "application/x-pem-file"
JSON: Final = "application/json"
_SPL: Final[Mapping[str, str]] = {
    "blSPL": "bootloader",
    "teeSPL": "tee",
    "snpSPL": "snp",
    "ucodeSPL": "microcode",
    "fmcSPL": "fmc",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=dict)


NOT_FOUND: Final = Answer(404, b"not found")
BAD_REQUEST: Final = Answer(400, b"bad request")
_CHAIN_HEADERS: Final[Mapping[str, str]] = {
    "tcb-info": "TCB-Info-Issuer-Chain",
    "qe-identity": "SGX-Enclave-Identity-Issuer-Chain",
}


def answer(vendor: FakeVendor, target: str, *, wrong: bool = False) -> Answer:
    """The answer to a GET of `target`, path and query. `wrong`: somebody else's, as a confused or hostile service might
    send: another chip's certificate, another product line's chain and list, another platform's TCB info."""
    parts = urlsplit(target)
    segments = [segment for segment in parts.path.split("/") if segment]
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if len(segments) == 4 and segments[0] in ("vcek", "vlek") and segments[1] == "v1":
        return _kds(vendor, segments, query, wrong)
    if parts.path == "/IntelSGXRootCA.der":
        return Answer(200, _root_crl(vendor), DER)
    if len(segments) >= 4 and segments[0] in ("sgx", "tdx") and segments[1:3] == ["certification", "v4"]:
        return _pcs(vendor, segments[0] == "tdx", "/".join(segments[3:]), query, wrong)
    return NOT_FOUND


def _kds(vendor: FakeVendor, segments: list[str], query: Mapping[str, str], wrong: bool) -> Answer:
    kind: SigningKey = "vlek" if segments[0] == "vlek" else "vcek"
    found = [product for product in PRODUCTS if product == segments[2]]
    if not found:
        return NOT_FOUND
    product: Product = found[0]
    if segments[3] in ("cert_chain", "crl") and wrong:
        product = "Genoa" if product == "Milan" else "Milan"
    if segments[3] == "cert_chain":
        return Answer(200, b"".join(map(pem, vendor.amd.chain(product, kind))), PEM)
    if segments[3] == "crl":
        return Answer(200, vendor.amd.crl(product, vendor.revoked, vendor.lists_span), DER)
    return _vcek(vendor, product, segments[3], query, wrong) if kind == "vcek" else NOT_FOUND


def _vcek(vendor: FakeVendor, product: Product, chip: str, query: Mapping[str, str], wrong: bool) -> Answer:
    names = set(_SPL) - (set() if product == "Turin" else {"fmcSPL"})
    try:
        hardware_id = bytes.fromhex(chip)
        tcb = Tcb(**{_SPL[name]: int(value) for name, value in query.items() if name in names})
    except ValueError:
        return BAD_REQUEST
    if len(hardware_id) != (8 if product == "Turin" else 64) or not names <= set(query):
        return BAD_REQUEST
    if wrong:
        hardware_id = vendor.amd.chip_id(product, "somebody else's")
    return Answer(200, vendor.amd.vcek(product, hardware_id, tcb), DER)


def _pcs(vendor: FakeVendor, tdx: bool, path: str, query: Mapping[str, str], wrong: bool) -> Answer:
    if path == "tcb":
        return _tcb_info(vendor, "tdx" if tdx else "sgx", query, wrong)
    if path == "qe/identity":
        other: Tee = "tdx" if tdx != wrong else "sgx"
        return _document(vendor, qe_identity(vendor.intel, vendor.collateral, other))
    plain: dict[str, Callable[[], Answer]] = {
        "pckcrl": lambda: _pck_crl(vendor, query, wrong),
        "pckcert": lambda: _pck(vendor, query, wrong),
        "rootcacrl": lambda: Answer(200, _root_crl(vendor).hex().encode()),
    }
    return NOT_FOUND if tdx or path not in plain else plain[path]()


def _tcb_info(vendor: FakeVendor, tee: Tee, query: Mapping[str, str], wrong: bool) -> Answer:
    fmspc = query.get("fmspc", "").lower()
    if len(fmspc) != 12 or not fmspc.isalnum():
        return BAD_REQUEST
    platforms = [platform for platform in vendor.platforms if platform.fmspc.hex() == fmspc]
    if not platforms:
        return NOT_FOUND
    platform = Platform(fmspc=bytes.fromhex("50806f000000")) if wrong else platforms[0]
    asked = query.get("tcbEvaluationDataNumber")
    if asked is not None and asked != str(vendor.collateral.evaluation):
        return NOT_FOUND
    return _document(vendor, tcb_info(vendor.intel, vendor.collateral, tee, platform))


def _document(vendor: FakeVendor, document: SignedDocument) -> Answer:
    chain = _chain_header(vendor.intel.tcb_signing(), vendor)
    return Answer(200, service_json(document), JSON, {_CHAIN_HEADERS[document.kind]: chain})


def _chain_header(first: bytes, vendor: FakeVendor) -> str:
    return quote(pem(first) + pem(vendor.intel.root().certificate), safe="")


def _authority(name: str | None) -> CertificateAuthority | None:
    if name == "platform":
        return "platform"
    return "processor" if name == "processor" else None


def _pck_crl(vendor: FakeVendor, query: Mapping[str, str], wrong: bool) -> Answer:
    ca = _authority(query.get("ca"))
    if ca is None:
        return BAD_REQUEST
    if wrong:
        ca = "processor" if ca == "platform" else "platform"
    der = vendor.intel.pck_crl(ca, vendor.revoked, vendor.lists_span)
    headers = {"SGX-PCK-CRL-Issuer-Chain": _chain_header(vendor.intel.ca(ca).certificate, vendor)}
    if query.get("encoding") == "der":
        return Answer(200, der, DER, headers)
    text = base64.encodebytes(der)
    return Answer(200, b"-----BEGIN X509 CRL-----\n" + text + b"-----END X509 CRL-----\n", PEM, headers)


def _pck(vendor: FakeVendor, query: Mapping[str, str], wrong: bool) -> Answer:
    if not {"encrypted_ppid", "cpusvn", "pcesvn", "pceid"} <= set(query):
        return BAD_REQUEST
    for platform in vendor.platforms:
        known = {
            "encrypted_ppid": vendor.intel.encrypted_ppid(platform).hex(),
            "cpusvn": platform.raw_cpusvn.hex(),
            "pcesvn": platform.pcesvn.to_bytes(2, "little").hex(),
            "pceid": platform.pceid.hex(),
        }
        if all(query[name].lower() == value for name, value in known.items()):
            issued = Platform(chip="somebody else's") if wrong else platform
            headers = {
                "SGX-PCK-Certificate-Issuer-Chain": _chain_header(vendor.intel.ca(issued.ca).certificate, vendor),
                "SGX-PCK-Certificate-CA-Type": issued.ca,
                "SGX-FMSPC": issued.fmspc.hex().upper(),
                "SGX-TCBm": known["cpusvn"] + known["pcesvn"],
            }
            return Answer(200, pem(vendor.intel.pck(issued)), PEM, headers)
    return NOT_FOUND


def _root_crl(vendor: FakeVendor) -> bytes:
    return vendor.intel.root_crl(vendor.revoked, vendor.lists_span)
