"""The targets: one function per parser, and where its first inputs come from.

A target returns if the bytes parse or are refused with `MalformedError` (or another of our errors where the parser
checks a signature). Anything else is a finding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fuzz.images import image_targets
from fuzz.services import service_targets
from fuzz.structured import structured
from fuzz.target import CHANGES, Target
from kokon.appraisal.corim import read_corim
from kokon.appraisal.policy_file import parse_policy
from kokon.appraisal.reference_file import parse_references
from kokon.endorsements import files
from kokon.endorsements.bundle import encode_bundle, parse_bundle
from kokon.tee.cbor import read_cbor
from kokon.tee.certificates import parse_certificate
from kokon.tee.cose import parse_sign1
from kokon.tee.endorsements import Endorsements
from kokon.tee.eventlog.log import parse_event_log
from kokon.tee.eventlog.replay import replay
from kokon.tee.intel.collateral import read_collateral, read_signed_document
from kokon.tee.intel.documents import parse_qe_identity, parse_tcb_info
from kokon.tee.intel.pck import parse_pck_extension
from kokon.tee.intel.quote import parse_quote
from kokon.tee.nitro.document import parse_document, read_message
from kokon.tee.ratls.certificate import parse_ratls
from kokon.tee.recognise import recognise
from kokon.tee.registry import TEES, tee, verify
from kokon.tee.revocation import parse_crl
from kokon.tee.sgx.measure import parse_sgxs
from kokon.tee.sgx.sigstruct import parse_sigstruct
from kokon.tee.snp.certtable import decode_table
from kokon.tee.snp.extensions import parse_extensions
from kokon.tee.snp.ovmf import parse_ovmf
from kokon.tee.snp.report import parse_report
from kokon.tee.tdx.authenticode import authenticode_digest
from kokon.tee.tdx.tdvf import parse_tdvf
from kokon.tee.vtpm.formats import from_attestation, from_bincode
from kokon.tee.vtpm.hcl import parse_hcl
from kokon.tee.vtpm.quote import parse_pcrs
from kokon.tee.vtpm.tpm import parse_attest, parse_public, parse_signature
from kokon.testing.vendor import FakeVendor

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def _envelope(name: str, genuine: Any) -> Target:
    """The JSON form of a TEE's evidence, changed here and there."""
    return Target(structured(genuine, lambda value: tee(name).from_envelope(value)), CHANGES)


def _document(parse: Callable[[bytes], object], bodies: Iterable[bytes]) -> Target:
    """Intel's JSON, changed here and there, or any bytes if there is none."""
    parsers = [structured(json.loads(body), lambda value: parse(json.dumps(value).encode())) for body in bodies]

    def run(data: bytes) -> object:
        return parsers[data[0] % len(parsers)](data[1:]) if data else None

    return Target(run, CHANGES)


def _verified(name: str, endorsements: Endorsements) -> Callable[[bytes], object]:
    """From bytes to claims: what parses must be judged without an exception."""

    def parse(data: bytes) -> object:
        found = recognise(data, {name: TEES[name]})
        return None if found is None else verify(found, endorsements, NOW)

    return parse


def _extension(data: bytes) -> object:
    """AMD's extensions, one value after the other, each with a byte of length."""
    oids = [f"1.3.6.1.4.1.3704.1.{tail}" for tail in ("1", "2", "3.1", "3.2", "3.3", "3.8", "3.9", "4", "5")]
    values: dict[str, bytes] = {}
    for oid in oids:
        size, data = (data[0], data[1:]) if data else (0, b"")
        values[oid], data = data[:size], data[size:]
    return parse_extensions(values)


def _log(data: bytes) -> object:
    log = parse_event_log(data)
    return [replay(log, algorithm) for algorithm in log.algorithms], [event.description for event in log.events]


def _cbor(data: bytes) -> object:
    return read_cbor(data, limit=1 << 16, what="fuzz", indefinite=True)


def targets() -> Mapping[str, Target]:
    """All targets by name. Seeds come from the fake vendor."""
    vendor = FakeVendor(NOW)
    snp, tdx, sgx, nitro = vendor.snp(), vendor.tdx(), vendor.sgx(), vendor.nitro()
    tpm, azure, ratls = vendor.tpm(), vendor.azure_snp(), vendor.ratls()
    known = Endorsements()
    for evidence in (snp, tdx, sgx, nitro):
        known |= vendor.endorsements(evidence)
    documents = tuple(document.body for document in known.documents)
    signed = tuple(_signed(document.body, document.signature, document.kind) for document in known.documents)
    envelopes = {each.tee: vendor.envelope(each) for each in (snp, tdx, sgx, tpm, azure)}
    texts = tuple(json.dumps(envelope).encode() for envelope in envelopes.values())
    log = tuple(each.parts["event-log"] for each in (tdx, tpm) if "event-log" in each.parts)
    pool = known.certificates + snp.certificates
    return {
        **image_targets(),
        **service_targets(),
        "recognise": Target(recognise, (snp.report, tdx.report, nitro.report, *texts)),
        "certificate": Target(parse_certificate, pool[:6]),
        "crl": Target(parse_crl, known.crls[:4]),
        "endorsement-files": Target(files.parse, (*known.crls[:2], *pool[:2], *signed[:2])),
        "bundle": Target(parse_bundle, (encode_bundle(known, NOW),)),
        "snp-report": Target(parse_report, (snp.report,)),
        "snp-verify": Target(_verified("snp", known), (snp.report,)),
        "snp-certificate-table": Target(decode_table),
        "snp-extensions": Target(_extension),
        "snp-envelope": _envelope("snp", envelopes["snp"]),
        "snp-ovmf": Target(parse_ovmf, _vectors("measure/ovmf_AmdSev_suffix.bin")),
        "intel-quote": Target(parse_quote, (tdx.report, sgx.report)),
        "intel-verify": Target(_verified("tdx", known), (tdx.report,)),
        "intel-tcb-info": _document(parse_tcb_info, documents),
        "intel-qe-identity": _document(parse_qe_identity, documents),
        "intel-signed-document": Target(read_signed_document, signed),
        "intel-collateral": Target(read_collateral, signed),
        "intel-pck": Target(parse_pck_extension),
        "tdx-envelope": _envelope("tdx", envelopes["tdx"]),
        "tdx-firmware": Target(parse_tdvf, _vectors("measure/ovmf_OvmfX64_suffix.bin")),
        "tdx-authenticode": Target(authenticode_digest),
        "sgx-sigstruct": Target(parse_sigstruct, _vectors("sgx/sigstruct_fortanix_sig1.bin")),
        "sgx-sgxs": Target(parse_sgxs),
        "event-log": Target(_log, log + _vectors("tpm/eventlog_debian-10.bin", "tpm/eventlog_ebs_missing")),
        "tpm-attest": Target(parse_attest, (tpm.report,)),
        "tpm-signature": Target(parse_signature, (tpm.parts["signature"],)),
        "tpm-public": Target(parse_public),
        "tpm-pcrs": Target(parse_pcrs, (tpm.parts["pcrs"],)),
        "tpm-bincode": Target(from_bincode, _vectors("tpm/az_quote.bin")),
        "tpm-attestation": Target(from_attestation, _vectors("tpm/gce-cos-85-nonce9009.pb")),
        "tpm-envelope": _envelope("tpm", envelopes["tpm"]),
        "azure-hcl": Target(parse_hcl, (azure.parts["hcl-report"],)),
        "azure-envelope": _envelope("az-snp-vtpm", envelopes["az-snp-vtpm"]),
        "nitro-document": Target(read_message, (nitro.report,)),
        "nitro-payload": Target(parse_document),
        "nitro-verify": Target(_verified("nitro", known), (nitro.report,)),
        "cose": Target(lambda data: parse_sign1(data, limit=1 << 16), (nitro.report,)),
        "cbor": Target(_cbor, (nitro.report,)),
        "ratls": Target(parse_ratls, (ratls.report,)),
        "corim": Target(lambda data: read_corim(data, unsigned=True)),
        "policy": Target(parse_policy, (b'[allow]\ndebug = "testing"\n',)),
        "references": Target(parse_references, (b'[[reference]]\nmeasurement = "00"\n',)),
    }


def _vectors(*names: str) -> tuple[bytes, ...]:
    """Hardware's own bytes as seeds, as far as the vectors are at hand (KOKON_VECTORS)."""
    folder = Path(os.environ.get("KOKON_VECTORS") or "../shared/vectors")
    found = (folder / name for name in names)
    return tuple(path.read_bytes()[:65536] for path in found if path.is_file())


def _signed(body: bytes, signature: bytes, kind: str) -> bytes:
    name: Any = {"tcb-info": b"tcbInfo", "qe-identity": b"enclaveIdentity"}[kind]
    return b'{"%s":%s,"signature":"%s"}' % (name, body, signature.hex().encode())
