"""A small Intel of our own: authorities, platforms, collateral and quotes, every field settable, for tests.

Independent of `kokon.testing`, so that a mistake there cannot hide one in the verifier.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ObjectIdentifier
from unit_x509 import NOW, Authority, name

from kokon.tee.endorsements import Endorsements, SignedDocument
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.intel.quote import (
    ENCLAVE,
    INTEL_QE,
    PCK_CHAIN,
    TD_1_0,
    TD_1_5,
    Certification,
    EnclaveReport,
    Header,
    Quote,
    TdReport,
    encode_enclave_report,
    encode_quote,
)
from kokon.tee.registry import verify

DAY = timedelta(days=1)
FMSPC = bytes.fromhex("00906ed50000")
PPID = bytes(range(16))
INSTANCE = bytes(range(16, 32))
QE_SIGNER = bytes([0xDC]) * 32
SEPT_VE_DISABLE = (1 << 28).to_bytes(8, "little")
ARC = "1.2.840.113741.1.13.1"


def tlv(tag: int, *content: bytes) -> bytes:
    data = b"".join(content)
    size = bytes([len(data)]) if len(data) < 0x80 else b"\x82" + len(data).to_bytes(2, "big")
    if 0x80 <= len(data) < 0x100:
        size = b"\x81" + bytes([len(data)])
    return bytes([tag]) + size + data


def oid(suffix: str) -> bytes:
    return tlv(6, bytes.fromhex("2a864886f84d010d01") + bytes(int(part) for part in suffix.split(".")))


def member(suffix: str, value: bytes) -> bytes:
    return tlv(0x30, oid(suffix), value)


def number(value: int) -> bytes:
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def pck_extension(
    components: tuple[int, ...] = (5,) * 16,
    *,
    pce_svn: int = 11,
    fmspc: bytes = FMSPC,
    pce_id: bytes = bytes(2),
    sgx_type: int = 1,
    instance: bytes | None = INSTANCE,
    flags: tuple[bool, ...] = (True, False, True),
) -> bytes:
    tcb = [member(f"2.{index}", number(svn)) for index, svn in enumerate((*components, pce_svn), 1)]
    members = [
        member("1", tlv(4, PPID)),
        member("2", tlv(0x30, *tcb, member("2.18", tlv(4, bytes(components))))),
        member("3", tlv(4, pce_id)),
        member("4", tlv(4, fmspc)),
        member("5", tlv(0x0A, bytes([sgx_type]))),
    ]
    if instance is not None:
        members.append(member("6", tlv(4, instance)))
    if flags:
        values = [member(f"7.{index}", tlv(1, b"\xff" if flag else b"\0")) for index, flag in enumerate(flags, 1)]
        members.append(member("7", tlv(0x30, *values)))
    return tlv(0x30, *members)


def extension(value: bytes) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    return ((x509.UnrecognizedExtension(ObjectIdentifier(ARC), value), False),)


ROOT = Authority("Kokon simulated SGX Root CA", path_length=1)
CA = Authority("Intel SGX PCK Platform CA", ROOT, path_length=0)
SIGNING = Authority("Intel SGX TCB Signing", ROOT, ca=False, serial=9)
PCK = Authority("Intel SGX PCK Certificate", CA, ca=False, serial=11, extra=extension(pck_extension()))
ATTESTATION = ec.generate_private_key(ec.SECP256R1())
ACCEPTED = frozenset({ROOT.certificate.fingerprint})


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def pem(*authorities: Authority) -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(der_of(authority)).public_bytes(Encoding.PEM) for authority in authorities
    )


_DERS: dict[int, tuple[Authority, bytes]] = {}


def der_of(authority: Authority) -> bytes:
    """The same bytes every time: signatures are random."""
    if id(authority) not in _DERS:
        _DERS[id(authority)] = (authority, authority.der)
    return _DERS[id(authority)][1]


ENCLAVE_REPORT = EnclaveReport(
    cpu_svn=bytes([5]) * 16,
    misc_select=bytes(4),
    isv_ext_prod_id=bytes(16),
    attributes=(5).to_bytes(8, "little") + (7).to_bytes(8, "little"),
    mr_enclave=bytes([0xE0]) * 32,
    mr_signer=bytes([0xE1]) * 32,
    config_id=bytes([0xE2]) * 64,
    isv_prod_id=7,
    isv_svn=3,
    config_svn=2,
    isv_family_id=bytes(16),
    report_data=bytes(range(64)),
)
TD_REPORT = TdReport(
    tee_tcb_svn=bytes([5, 0, 5]) + bytes(13),
    mr_seam=bytes([0xD0]) * 48,
    mrsigner_seam=bytes(48),
    seam_attributes=bytes(8),
    td_attributes=SEPT_VE_DISABLE,
    xfam=(0xE7).to_bytes(8, "little"),
    mr_td=bytes([0xD1]) * 48,
    mr_config_id=bytes([0xD2]) * 48,
    mr_owner=bytes([0xD3]) * 48,
    mr_owner_config=bytes([0xD4]) * 48,
    rtmr0=bytes([0xD5]) * 48,
    rtmr1=bytes([0xD6]) * 48,
    rtmr2=bytes([0xD7]) * 48,
    rtmr3=bytes([0xD8]) * 48,
    report_data=bytes(range(64)),
)
TD_REPORT_1_5 = replace(TD_REPORT, tee_tcb_svn2=TD_REPORT.tee_tcb_svn, mr_service_td=bytes(48))
QE_REPORT = replace(
    ENCLAVE_REPORT,
    attributes=(0x11).to_bytes(8, "little") + bytes(8),
    mr_signer=QE_SIGNER,
    config_id=bytes(64),
    isv_prod_id=1,
    isv_svn=8,
)
AUTH_DATA = bytes(range(32))


def make_quote(
    body: EnclaveReport | TdReport = TD_REPORT,
    *,
    version: int = 4,
    key: ec.EllipticCurvePrivateKey = ATTESTATION,
    pck: Authority = PCK,
    qe_report: EnclaveReport | None = None,
    auth_data: bytes = AUTH_DATA,
    certification: Certification | None = None,
    **header: Any,
) -> Quote:
    """A quote that holds, unless the arguments say otherwise."""
    tdx = isinstance(body, TdReport)
    binding = hashlib.sha256(point(key) + auth_data).digest() + bytes(32)
    report = qe_report or replace(QE_REPORT, report_data=binding)
    kind = ENCLAVE if not tdx else TD_1_5 if body.tee_tcb_svn2 is not None else TD_1_0
    chain = pem(pck, pck.parent or pck, ROOT) + b"\0"
    quote = Quote(
        header=replace(Header(version, 2, 0x81 if tdx else 0, 0, 0, INTEL_QE, bytes(20)), **header),
        body_type=kind,
        body=body,
        signature=bytes(64),
        attestation_key=point(key),
        qe_report=report,
        qe_report_signature=raw_signature(pck.key, encode_enclave_report(report)),
        qe_auth_data=auth_data,
        certification=certification or Certification(PCK_CHAIN, chain),
    )
    return replace(quote, signature=raw_signature(key, quote.signed))


def date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def level(
    status: str = "UpToDate",
    sgx: tuple[int, ...] = (5,) * 16,
    *,
    pce_svn: int = 11,
    tdx: tuple[int, ...] | None = None,
    advisories: tuple[str, ...] = (),
    moment: datetime = NOW - 100 * DAY,
) -> dict[str, Any]:
    tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": svn} for svn in sgx], "pcesvn": pce_svn}
    if tdx is not None:
        tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in tdx]
    return {"tcb": tcb, "tcbDate": date(moment), "tcbStatus": status} | (
        {"advisoryIDs": list(advisories)} if advisories else {}
    )


def enclave(svn: int, status: str = "UpToDate", advisories: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "tcb": {"isvsvn": svn},
        "tcbDate": date(NOW - 100 * DAY),
        "tcbStatus": status,
        "advisoryIDs": list(advisories),
    }


MODULE = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
TDX_SVNS = (5, 0, 5, *(0,) * 13)


def module(version: int, *levels: dict[str, Any]) -> dict[str, Any]:
    return MODULE | {"id": f"TDX_{version:02X}", "tcbLevels": list(levels)}


def tcb_info(tee: str = "tdx", **changes: Any) -> dict[str, Any]:
    info: dict[str, Any] = {
        "id": tee.upper(),
        "version": 3,
        "issueDate": date(NOW - DAY),
        "nextUpdate": date(NOW + 29 * DAY),
        "fmspc": FMSPC.hex().upper(),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 17,
        "tcbLevels": [level(tdx=TDX_SVNS if tee == "tdx" else None)],
    }
    if tee == "tdx":
        info |= {"tdxModule": MODULE, "tdxModuleIdentities": [module(1, enclave(4))]}
    return info | changes


def qe_identity(tee: str = "tdx", **changes: Any) -> dict[str, Any]:
    return {
        "id": "TD_QE" if tee == "tdx" else "QE",
        "version": 2,
        "issueDate": date(NOW - DAY),
        "nextUpdate": date(NOW + 29 * DAY),
        "tcbEvaluationDataNumber": 17,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11" + "00" * 15,
        "attributesMask": "FBFFFFFFFFFFFFFF" + "00" * 8,
        "mrsigner": QE_SIGNER.hex().upper(),
        "isvprodid": 1,
        "tcbLevels": [enclave(8)],
    } | changes


def document(content: dict[str, Any], signer: Authority = SIGNING) -> SignedDocument:
    kind = "tcb-info" if "fmspc" in content else "qe-identity"
    body = json.dumps(content, separators=(",", ":")).encode()
    return SignedDocument(
        kind, body, raw_signature(signer.key, body), (der_of(signer), der_of(signer.parent or signer))
    )


def crl(authority: Authority, *serials: int, start: datetime = NOW - DAY, end: datetime = NOW + 29 * DAY) -> bytes:
    """A list with the extensions and the digest that Intel's lists have."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name(authority.common))
        .last_update(start)
        .next_update(end)
        .add_extension(x509.CRLNumber(1), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), False)
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(authority.key, SHA256()).public_bytes(Encoding.DER)


@cache
def lists() -> tuple[bytes, ...]:
    """The root's list and that of the PCK authority."""
    return crl(ROOT), crl(CA)


@dataclass(frozen=True)
class World:
    """Everything that a verifier is given, for one TEE."""

    tee: str = "tdx"
    info: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    crls: tuple[bytes, ...] = field(default_factory=lists)
    minimum: int = 0

    @property
    def endorsements(self) -> Endorsements:
        documents = (document(tcb_info(self.tee, **self.info)), document(qe_identity(self.tee, **self.identity)))
        return Endorsements(
            crls=self.crls, documents=documents, accepted_simulated=ACCEPTED, minimum_evaluation=self.minimum
        )


@cache
def standing(tee: str = "tdx") -> Endorsements:
    """Endorsements under which `make_quote()` verifies."""
    return World(tee).endorsements


def examine(quote: Quote | bytes, endorsements: Endorsements | None = None, now: datetime = NOW) -> Claims:
    """The claims of a quote."""
    data = quote if isinstance(quote, bytes) else encode_quote(quote) + quote.padding
    tee = "sgx" if data[4] == 0 else "tdx"
    return verify(Evidence(tee, data), standing(tee) if endorsements is None else endorsements, now)


def failures(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.failures]


def collateral_json(endorsements: Endorsements) -> str:
    """The flat form that dcap-qvl reads; the root's list stands first in `endorsements`."""
    info, identity = endorsements.documents
    return json.dumps(
        {
            "pck_crl_issuer_chain": pem(CA, ROOT).decode(),
            "root_ca_crl": endorsements.crls[0].hex(),
            "pck_crl": endorsements.crls[1].hex(),
            "tcb_info_issuer_chain": pem(SIGNING, ROOT).decode(),
            "tcb_info": info.body.decode(),
            "tcb_info_signature": info.signature.hex(),
            "qe_identity_issuer_chain": pem(SIGNING, ROOT).decode(),
            "qe_identity": identity.body.decode(),
            "qe_identity_signature": identity.signature.hex(),
        }
    )
