"""What the fake vendor says about its own evidence: endorsements as a verifier would hold them. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Evidence
from kokon.testing.vendor.amd import CSP, Product, SigningKey, Tcb
from kokon.testing.vendor.intel_collateral import Tee, qe_identity, tcb_info
from kokon.testing.vendor.intel_pki import Platform

if TYPE_CHECKING:
    from kokon.testing.vendor.factory import FakeVendor

_HCL_REPORT: Final = slice(32, 32 + 1184)
_TDX: Final = 0x81


def endorse(
    vendor: FakeVendor,
    evidence: Evidence,
    *,
    omit: Collection[str] = (),
    accept: bool = True,
    platform: Platform | None = None,
    product: Product | None = None,
    csp: str = CSP,
) -> Endorsements:
    """What `FakeVendor.endorsements` gives; its options are described there."""
    if evidence.tee == "snp":
        found = _amd(vendor, evidence.report, omit, product, csp)
    elif evidence.tee == "az-snp-vtpm":
        found = _amd(vendor, evidence.parts["hcl-report"][_HCL_REPORT], omit, product, csp)
    elif evidence.tee in ("sgx", "tdx", "ratls", "az-tdx-vtpm"):
        found = _intel(vendor, _intel_tee(evidence), omit, platform or vendor.platforms[0])
    elif evidence.tee == "nitro":
        root = vendor.aws.chain()[0]
        crls = () if "crl" in omit else vendor.aws.crls(vendor.revoked, vendor.lists_span)
        found = Endorsements((root.certificate,), crls, accepted_simulated=frozenset({root.fingerprint}))
    else:
        found = _tpm(vendor, omit)
    return found if accept else Endorsements(found.certificates, found.crls, found.documents)


def product_of(report: bytes) -> Product:
    """AMD's product line by the CPUID in a report of version 3 or later, else Milan."""
    if report[0] < 3:
        return "Milan"
    if report[0x188] == 0x1A:
        return "Turin"
    return "Genoa" if report[0x189] >= 0x10 else "Milan"


def tcb_of(report: bytes, product: Product) -> Tcb:
    """REPORTED_TCB of a report."""
    raw = report[0x180:0x188]
    if product == "Turin":
        return Tcb(raw[1], raw[2], raw[3], raw[7], raw[0])
    return Tcb(raw[0], raw[1], raw[6], raw[7])


def _amd(vendor: FakeVendor, report: bytes, omit: Collection[str], product: Product | None, csp: str) -> Endorsements:
    line = product or product_of(report)
    tcb = tcb_of(report, line)
    key: SigningKey = "vlek" if report[0x48] >> 2 & 7 == 1 else "vcek"
    certificates: list[bytes] = []
    if "leaf" not in omit:
        hardware_id = report[0x1A0 : 0x1A0 + (8 if line == "Turin" else 64)]
        leaf = vendor.amd.vlek(line, csp, tcb) if key == "vlek" else vendor.amd.vcek(line, hardware_id, tcb)
        certificates.append(leaf)
    if "chain" not in omit:
        certificates += vendor.amd.chain(line, key)
    crls = () if "crl" in omit else (vendor.amd.crl(line, vendor.revoked, vendor.lists_span),)
    return Endorsements(tuple(certificates), crls, accepted_simulated=frozenset({vendor.amd.ark(line).fingerprint}))


def _intel_tee(evidence: Evidence) -> Tee:
    if evidence.tee == "ratls":
        return "tdx" if bytes([_TDX, 0, 0, 0]) in _headers(evidence.report) else "sgx"
    return "sgx" if evidence.tee == "sgx" else "tdx"


def _headers(certificate: bytes) -> list[bytes]:
    """The TEE type of each quote in a certificate, found by the vendor id that follows it eight bytes on."""
    vendor_id, found, position = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607"), [], 0
    while (position := certificate.find(vendor_id, position)) >= 0:
        found.append(certificate[position - 8 : position - 4])
        position += 1
    return found


def _intel(vendor: FakeVendor, tee: Tee, omit: Collection[str], platform: Platform) -> Endorsements:
    intel = vendor.intel
    root = intel.root()
    certificates = [intel.ca(platform.ca).certificate, root.certificate]
    crls = {
        "pck-crl": intel.pck_crl(platform.ca, vendor.revoked, vendor.lists_span),
        "root-crl": intel.root_crl(vendor.revoked, vendor.lists_span),
    }
    documents = {
        "tcb-info": tcb_info(intel, vendor.collateral, tee, platform),
        "qe-identity": qe_identity(intel, vendor.collateral, tee),
    }
    return Endorsements(
        tuple(certificates if "pck" in omit else [intel.pck(platform), *certificates]),
        tuple(crl for name, crl in crls.items() if name not in omit),
        tuple(document for name, document in documents.items() if name not in omit),
        frozenset({root.fingerprint}),
    )


def _tpm(vendor: FakeVendor, omit: Collection[str]) -> Endorsements:
    maker = vendor.tpm_of()
    certificates = () if "chain" in omit else (maker.intermediate().certificate, maker.root().certificate)
    crls = (maker.crl(vendor.revoked, vendor.lists_span), maker.root_crl(vendor.revoked, vendor.lists_span))
    return Endorsements(
        certificates, () if "crl" in omit else crls, accepted_simulated=frozenset({maker.root().fingerprint})
    )
