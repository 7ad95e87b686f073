"""Real TDX and SGX quotes and Intel's real collateral: what must come out, now and after it expired."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from intel_manifest import Vector, entries, moment, quotes

from kokon.errors import MalformedError
from kokon.tee.anchors import INTEL
from kokon.tee.certificates import parse_certificate
from kokon.tee.endorsements import Endorsements, SignedDocument
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.intel.chain import check_chain, make_pool
from kokon.tee.intel.collateral import is_signed_by, read_collateral
from kokon.tee.intel.documents import parse_qe_identity, parse_tcb_info
from kokon.tee.intel.known import certificates
from kokon.tee.intel.pem import CERTIFICATE, read_blocks
from kokon.tee.registry import tee, verify
from kokon.tee.revocation import parse_crl

pytestmark = pytest.mark.vectors

CODES = {
    "tdx/v4_trustee_debug.quote.bin": {"tdx-debug"},
    "tdx/v4_azure_trustee_septve_off.quote.bin": {"tdx-sept-ve-off"},
    "tdx/v5_dcapqvl_notcb.quote.bin": {"intel-tcb-no-level"},
    "tdx/v5_trustee_notcb.quote.bin": {"intel-tcb-no-level", "tdx-service-td"},
    "tdx/v4_ccapi_preproduction.quote.bin": {"root-untrusted"},
    "tdx/v4_tappd.quote.bin": {"intel-tcb-no-level"},
    "tdx/v4_gotdxguest_spr_e4.quote.bin": {"intel-tcb-no-level", "tdx-sept-ve-off"},
    "tdx/derived_v4_dcapqvl_mrtd_flip.quote.bin": {"intel-quote-signature"},
    "sgx/v3_occlum_debug.quote.bin": {"sgx-debug"},
    "sgx/v3_openenclave_debug.quote.bin": {"sgx-debug"},
    "sgx/v3_fortanix_corrupted.quote.bin": {"intel-quote-signature", "sgx-debug"},
    "sgx/v3_intel_qvl_sample.quote.bin": {"root-untrusted"},
    "sgx/derived_v3_dcapqvl_mrenclave_flip.quote.bin": {"intel-quote-signature"},
}
"""What exactly fails, and nothing else."""

ROOT = next(iter(INTEL))


@pytest.fixture(scope="module")
def known(vectors: Path, manifest: list[dict[str, Any]]) -> dict[str, Vector]:
    return {vector.file: vector for vector in quotes(vectors, manifest)}


def codes(claims: Claims) -> set[str | None]:
    return {check.code for check in claims.failures}


def test_every_quote_gives_its_expected_result(known: dict[str, Vector]) -> None:
    for vector in known.values():
        claims, expected = vector.verify(), vector.expected
        if expected["verifies"] == "unknown":
            assert not claims.ok
            continue
        assert claims.ok == expected["verifies"], (vector.file, claims.failures)
        assert codes(claims) == CODES.get(vector.file, set()), vector.file
        assert list(claims.advisories) == expected.get("advisories", list(claims.advisories)), vector.file
        assert claims.tcb_status == expected.get("tcb_status", claims.tcb_status), vector.file
        if claims.ok:
            assert claims.root == ROOT
            assert not claims.simulated
            assert claims.needs == ()
    assert len(known) >= 29


def test_after_expiry_none_verifies(known: dict[str, Vector]) -> None:
    seen = 0
    for vector in known.values():
        late = vector.expected.get("after_expiry")
        if late is not None:
            claims = vector.verify(datetime.fromisoformat(late["at_time"]))
            assert codes(claims) <= {"intel-document-expired", "crl-expired"}
            assert claims.failures, vector.file
            assert claims.needs == (), "expired is not missing"
            seen += 1
    assert seen >= 14


def test_every_claim_is_the_manifests(known: dict[str, Vector]) -> None:
    seen = 0
    for vector in known.values():
        wanted, claims = vector.claims, vector.verify()
        if not wanted:
            continue
        seen += 1
        assert claims.report_data.hex() == wanted["report_data"]
        assert claims.debug == wanted["debug"]
        assert claims.details["certification_type"] == wanted["cert_data_type"]
        assert claims.details["quote_version"] == wanted["version"]
        assert len(vector.raw) - claims.details["padding"] == wanted["quote_len_without_trailing"]
        assert claims.details.get("fmspc") == wanted["fmspc"] or wanted["fmspc"] is None
        (_tdx if vector.tee == "tdx" else _sgx)(claims, wanted)
    assert seen >= 27


def _tdx(claims: Claims, wanted: dict[str, Any]) -> None:
    body = claims.details["quote"]["body"]
    for name in ("mrtd", "mrseam", "mrsignerseam", "mrconfigid", "mrowner", "mrownerconfig", "mrservicetd"):
        assert claims.registers.get(name, b"").hex() == (wanted.get(name) or "")
    for index in range(4):
        assert claims.registers[f"rtmr{index}"].hex() == wanted[f"rtmr{index}"]
    assert (claims.measurement.hex(), claims.host_data.hex()) == (wanted["mrtd"], wanted["mrconfigid"])
    assert (body["tcb_svn"], body["xfam"]) == (wanted["tee_tcb_svn"], wanted["xfam"])
    assert (body["td_attributes"], body["seam_attributes"]) == (wanted["td_attributes"], wanted["seam_attributes"])
    assert body.get("tee_tcb_svn2") == wanted.get("tee_tcb_svn2")
    assert claims.details["td_attributes"]["septve_disable"] == wanted["sept_ve_disable"]


def _sgx(claims: Claims, wanted: dict[str, Any]) -> None:
    body = claims.details["body"]
    assert (claims.measurement.hex(), claims.signer.hex()) == (wanted["mrenclave"], wanted["mrsigner"])
    assert claims.host_data.hex() == wanted["config_id"]
    assert (claims.product_id, claims.security_version) == (wanted["isv_prod_id"], wanted["isv_svn"])
    assert body["attributes.flags"] + body["attributes.xfrm"] == wanted["attributes"]
    assert (body["cpu_svn"], body["misc_select"]) == (wanted["cpu_svn"], wanted["misc_select"])


def test_quotes_are_recognised(known: dict[str, Vector]) -> None:
    for vector in known.values():
        for name in ("tdx", "sgx"):
            found = tee(name).recognise(vector.raw)
            assert found == (Evidence(name, vector.raw) if name == vector.tee else None)


def test_without_collateral_it_is_missing_and_nothing_failed(known: dict[str, Vector]) -> None:
    for vector in known.values():
        if vector.expected["verifies"] is True:
            claims = verify(Evidence(vector.tee, vector.raw), Endorsements(), vector.now)
            assert (claims.ok, claims.failures) == (False, ())
            assert {need.kind for need in claims.needs} == {"root-crl", "pck-crl", "tcb-info", "qe-identity"}


def test_another_platforms_collateral_never_verifies(known: dict[str, Vector]) -> None:
    good = [vector for vector in known.values() if vector.expected["verifies"] is True]
    for vector in good:
        for other in good:
            claims = replace(vector, endorsements=other.endorsements).verify(other.now)
            same = claims.details["fmspc"] == other.verify().details["fmspc"] and vector.tee == other.tee
            assert same or not claims.ok, (vector.file, other.file)


def test_everything_in_one_pool(known: dict[str, Vector]) -> None:
    pool = Endorsements()
    for vector in known.values():
        pool |= vector.endorsements
    for vector in known.values():
        if vector.expected["verifies"] is True:
            claims = replace(vector, endorsements=pool).verify()
            assert claims.ok, (vector.file, claims.failures)
            assert claims.tcb_status == vector.expected["tcb_status"], vector.file


def test_a_chain_out_of_order_is_put_in_order(known: dict[str, Vector]) -> None:
    claims = known["sgx/v3_fortanix_chain_order.quote.bin"].verify()
    passed = {check.name for check in claims.checks if check.outcome == "passed"}
    assert {"root", "quote-signature", "qe-report-signature", "signature of Intel SGX PCK Certificate"} <= passed
    assert codes(claims) == {"sgx-debug"}
    assert {need.kind for need in claims.needs} == {"root-crl", "pck-crl", "tcb-info", "qe-identity"}


def test_an_encrypted_platform_id_is_what_is_needed(known: dict[str, Vector]) -> None:
    claims = known["sgx/v3_oasis_eppid_certtype3.quote.bin"].verify()
    assert claims.failures == ()
    (need,) = [need for need in claims.needs if need.kind == "pck"]
    assert dict(need.parameters) | {"encrypted-ppid": ""} == {
        "cpusvn": "05050c0cffff01000000000000000000",
        "encrypted-ppid": "",
        "pceid": "0000",
        "pcesvn": "0c00",
    }


def test_intels_sample_holds_under_its_own_root(vectors: Path, known: dict[str, Vector]) -> None:
    """Certification data of type 1, TCB info of version 2; its quoting enclave is none, and it is a test's root."""
    sample = vectors / "sgx" / "intel_sample"
    vector = known["sgx/v3_intel_qvl_sample.quote.bin"]
    (root,) = read_blocks((sample / "trustedRootCaCert.pem").read_bytes(), CERTIFICATE)
    signers = read_blocks((sample / "tcbSignChain.pem").read_bytes(), CERTIFICATE)
    crls = tuple((sample / name).read_bytes() for name in ("rootCaCrl.der", "intermediateCaCrl.der"))
    pool = vector.endorsements | Endorsements(
        certificates=signers, crls=crls, accepted_simulated=frozenset({parse_certificate(root).fingerprint})
    )
    for name in ("tcbInfo.json", "qeIdentity.json"):
        pool |= read_collateral((sample / name).read_bytes())
    claims = replace(vector, endorsements=pool).verify(datetime.fromisoformat("2022-01-01T00:00:00Z"))
    assert claims.simulated
    assert claims.needs == ()
    passed = {check.name for check in claims.checks if check.outcome == "passed"}
    assert {"tcb-info-signature", "qe-identity-signature", "qe-report-signature", "tcb-level"} <= passed
    assert all(str(code).startswith("intel-qe-") for code in codes(claims)), claims.failures


def test_the_kbs_form(vectors: Path) -> None:
    from kokon.tee.recognise import recognise

    evidence = recognise((vectors / "coco" / "as_request_sgx.json").read_bytes())
    assert evidence is not None
    assert evidence.tee == "sgx"


def test_event_log_of_the_same_machine(vectors: Path, known: dict[str, Vector]) -> None:
    vector = known["tdx/v4_gce_cos113.quote.bin"]
    log = (vectors / "tdx" / "ccel_gce_cos113.bin").read_bytes()
    claims = verify(Evidence("tdx", vector.raw, parts={"event-log": log}), vector.endorsements, vector.now)
    assert claims.ok, claims.failures
    other = (vectors / "tdx" / "ccel_dstack.bin").read_bytes()
    claims = verify(Evidence("tdx", vector.raw, parts={"event-log": other}), vector.endorsements, vector.now)
    assert "event-log-mismatch" in codes(claims)


def document_holds(document: SignedDocument, now: datetime) -> bool:
    parsed = parse_tcb_info(document.body) if document.kind == "tcb-info" else parse_qe_identity(document.body)
    signers = [parse_certificate(der) for der in (*document.chain, *certificates())]
    signed = [signer for signer in signers if is_signed_by(document, signer)]
    pool = make_pool(Endorsements(documents=(document,)))
    chains = [check_chain(signer, pool, now) for signer in signed]
    in_date = parsed.issue_date <= now < parsed.next_update
    return in_date and any(chain.holds and chain.path[-1].fingerprint == ROOT for chain in chains)


def test_every_piece_of_collateral(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    seen = 0
    for entry in entries(manifest, "collateral"):
        data, expected, now = (vectors / entry["file"]).read_bytes(), entry["expected"], moment(entry["expected"])
        if expected["verifies"] is True:
            found = read_collateral(data)
            assert all(document_holds(document, now) for document in found.documents), entry["file"]
            if "window" in entry["claims"]:
                _check_window(found, entry["claims"], now)
        else:
            try:
                held = all(document_holds(document, now) for document in read_collateral(data).documents)
            except MalformedError:
                held = False
            assert not held, entry["file"]
        seen += 1
    assert seen >= 31


def _check_window(found: Endorsements, claims: dict[str, Any], now: datetime) -> None:
    info, identity = found.documents
    content = parse_tcb_info(info.body)
    assert content.fmspc.hex() == claims["fmspc"]
    assert content.evaluation == claims["tcb_eval"]
    lists = [parse_crl(der) for der in found.crls]
    assert all(crl.current(now) for crl in lists)
    issuers = [parse_certificate(der) for der in (*found.certificates, *certificates())]
    assert all(any(crl.signed_by(issuer) for issuer in issuers) for crl in lists)
    starts = [content.issue_date, parse_qe_identity(identity.body).issue_date, *(crl.this_update for crl in lists)]
    ends = [content.next_update, parse_qe_identity(identity.body).next_update]
    ends += [crl.next_update for crl in lists if crl.next_update is not None]
    assert max(starts) == datetime.fromisoformat(claims["window"][0])
    assert min(ends) == datetime.fromisoformat(claims["window"][1])


def test_documents_that_are_broken_are_malformed(vectors: Path) -> None:
    for name in ("invalid_tcbInfoNegativeInvalidIssueDate", "invalid_tcbInfoNegativeMissingNextUpdate"):
        with pytest.raises(MalformedError):
            read_collateral((vectors / "sgx" / f"{name}.json").read_bytes())


def test_certificates_and_lists(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    seen = 0
    for entry in entries(manifest, "cert", "crl"):
        data, now = (vectors / entry["file"]).read_bytes(), moment(entry["expected"])
        pool = make_pool(Endorsements())
        if entry["kind"] == "cert":
            leaf, *rest = (parse_certificate(der) for der in read_blocks(data, CERTIFICATE))
            chain = check_chain(leaf, pool | tuple(rest), now)
            trusted = chain.root is not None and chain.root.fingerprint == ROOT
            held = trusted and all(check.code in (None, "crl-missing", "not-an-authority") for check in chain.checks)
        else:
            crl = parse_crl(data)
            held = crl.current(now) and any(crl.signed_by(issuer) for issuer in pool.certificates)
        assert held == (entry["expected"]["verifies"] is True), entry["file"]
        seen += 1
    assert seen >= 11


def test_canonical_digests_are_one_per_quote(known: dict[str, Vector]) -> None:
    found = [claims.canonical for claims in map(Vector.verify, known.values()) if claims.ok]
    assert len(set(found)) == len(found) >= 14


def test_details_are_plain_json(known: dict[str, Vector]) -> None:
    for vector in known.values():
        details = vector.verify().details
        assert json.loads(json.dumps(details)) == details
