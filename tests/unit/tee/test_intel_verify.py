"""Whole quotes of our own making: what holds, each thing that may not, and what is lacking."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from intel_kit import (
    ACCEPTED,
    ATTESTATION,
    AUTH_DATA,
    CA,
    DAY,
    ENCLAVE_REPORT,
    FMSPC,
    INSTANCE,
    NOW,
    PCK,
    PPID,
    QE_REPORT,
    ROOT,
    SIGNING,
    TD_REPORT,
    TD_REPORT_1_5,
    World,
    crl,
    date,
    der_of,
    document,
    enclave,
    examine,
    extension,
    failures,
    level,
    lists,
    make_quote,
    module,
    pck_extension,
    pem,
    point,
    qe_identity,
    standing,
    tcb_info,
)
from unit_x509 import Authority

from kokon.errors import MalformedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Need
from kokon.tee.intel.quote import (
    PCK_LEAF,
    PPID_PLAIN,
    PPID_RSA_3072,
    Certification,
    Quote,
    encode_quote,
    parse_quote,
)

KINDS = [
    (ENCLAVE_REPORT, 3),
    (ENCLAVE_REPORT, 4),
    (ENCLAVE_REPORT, 5),
    (TD_REPORT, 4),
    (TD_REPORT, 5),
    (TD_REPORT_1_5, 5),
]
QUOTE = make_quote()
SGX_QUOTE = make_quote(ENCLAVE_REPORT, version=3)
CHAIN = QUOTE.certification.data


def open_codes(claims: Claims) -> list[str]:
    return [check.code for check in claims.checks if check.outcome == "not-checked" and check.code]


def with_chain(data: bytes, kind: int = 5) -> Quote:
    return replace(QUOTE, certification=Certification(kind, data))


@pytest.mark.parametrize(("body", "version"), KINDS)
def test_every_kind_of_quote(body: Any, version: int) -> None:
    claims = examine(make_quote(body, version=version))
    assert claims.ok, claims.failures
    assert (claims.simulated, claims.root) == (True, ROOT.certificate.fingerprint)
    assert (claims.tcb_status, claims.advisories, claims.needs) == ("UpToDate", (), ())
    assert claims.product == f"FMSPC {FMSPC.hex()}, Scalable"
    assert claims.chip_id == INSTANCE
    assert claims.report_data == bytes(range(64))
    assert claims.reported_tcb["sgxtcbcomp16"] == 5
    assert claims.reported_tcb["pcesvn"] == 11


def test_claims_of_a_td() -> None:
    claims = examine(make_quote(TD_REPORT_1_5, version=5))
    assert claims.tee == "tdx"
    assert claims.measurement == claims.registers["mrtd"] == TD_REPORT.mr_td
    assert claims.host_data == claims.registers["mrconfigid"] == TD_REPORT.mr_config_id
    assert claims.registers["rtmr3"] == TD_REPORT.rtmr3
    assert claims.registers["mrservicetd"] == bytes(48)
    assert claims.reported_tcb["tdxtcbcomp01"] == 5
    assert claims.tcbs["current"]["tdxtcbcomp03"] == 5
    assert claims.details["quote"]["body"]["mr_td"] == TD_REPORT.mr_td.hex()
    assert claims.details["quote"]["type"] == "0300"
    assert claims.details["td_attributes"] == {
        name: name == "septve_disable" for name in claims.details["td_attributes"]
    }
    assert "mrservicetd" not in examine(QUOTE).registers


def test_claims_of_an_enclave() -> None:
    claims = examine(SGX_QUOTE)
    assert claims.measurement == claims.registers["mrenclave"] == ENCLAVE_REPORT.mr_enclave
    assert claims.signer == claims.registers["mrsigner"] == ENCLAVE_REPORT.mr_signer
    assert (claims.product_id, claims.security_version) == (7, 3)
    assert claims.host_data == ENCLAVE_REPORT.config_id
    assert claims.details["body"]["isv_prod_id"] == "0700"
    assert claims.details["attributes"]["debug"] is False


def test_details_of_the_platform() -> None:
    details = examine(QUOTE).details
    assert details["platform_provider_id"] == PPID.hex()
    assert details["sgx_type"] == "Scalable"
    assert (details["is_dynamic_platform"], details["is_cached_keys"], details["is_smt_enabled"]) == (True, False, True)
    assert details["collateral_expiration_status"] == "0"
    assert details["earliest_expiration_date"] == date(NOW + 29 * DAY)
    assert details["tcb_date"] == date(NOW - 100 * DAY)
    assert (details["tcb_eval_num"], details["qe_tcb_eval_num"]) == (17, 17)
    assert details["certification_type"] == 5
    assert examine(QUOTE, now=NOW + 40 * DAY).details["collateral_expiration_status"] == "1"


def test_padding_changes_nothing_but_its_own_length() -> None:
    plain, padded = examine(QUOTE), examine(replace(QUOTE, padding=b"\xa5" * 70))
    assert plain.canonical == padded.canonical
    assert padded.details["padding"] == 70
    assert replace(plain, details={}) == replace(padded, details={})


def test_one_canonical_form_for_all_encodings_of_the_chain() -> None:
    ders = tuple(der_of(authority) for authority in (PCK, CA, ROOT))
    forms = [
        CHAIN,
        CHAIN.rstrip(b"\0"),
        CHAIN.replace(b"\n", b"\r\n"),
        b"".join(ders),
        pem(ROOT, PCK, CA),
        pem(CA, PCK),
    ]
    known = replace(standing(), certificates=(der_of(ROOT),))
    found = [examine(with_chain(form), known) for form in forms]
    assert all(claims.ok for claims in found)
    assert len({claims.canonical for claims in found}) == 1
    assert examine(make_quote()).canonical == found[0].canonical
    assert examine(make_quote(replace(TD_REPORT, rtmr0=bytes(48)))).canonical != found[0].canonical


def test_nothing_of_certificates_alone() -> None:
    claims = examine(with_chain(pem(PCK)))
    assert "chain-incomplete" in failures(claims)
    known = replace(standing(), certificates=(b"junk", der_of(ROOT), der_of(CA)))
    assert examine(with_chain(pem(PCK)), known).ok
    assert examine(with_chain(pem(PCK), PCK_LEAF), known).ok


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("intel-qe-vendor", lambda: make_quote(qe_vendor_id=bytes(16))),
        ("intel-quote-signature", lambda: replace(QUOTE, signature=bytes(64))),
        ("intel-quote-signature", lambda: replace(QUOTE, body=replace(TD_REPORT, rtmr2=bytes(48)))),
        ("intel-qe-binding", lambda: replace(QUOTE, qe_auth_data=AUTH_DATA[1:])),
        ("intel-qe-binding", lambda: make_quote(qe_report=replace(QE_REPORT, report_data=bound() + bytes(31) + b"\1"))),
        ("intel-qe-report-signature", lambda: replace(QUOTE, qe_report_signature=b"\1" * 64)),
        ("intel-qe-debug", lambda: make_quote(qe_report=qe(attributes=b"\x13" + bytes(15)))),
        ("intel-qe-mrsigner", lambda: make_quote(qe_report=qe(mr_signer=bytes(32)))),
        ("intel-qe-no-level", lambda: make_quote(qe_report=qe(isv_svn=1))),
        ("tdx-debug", lambda: td(b"\1\0\0\x10\0\0\0\0")),
        ("tdx-debug", lambda: td(b"\x20\0\0\x10\0\0\0\0")),
        ("tdx-reserved-attributes", lambda: td(b"\0\1\0\x10\0\0\0\0")),
        ("tdx-reserved-attributes", lambda: td(b"\0\0\0\x30\0\0\0\0")),
        ("tdx-reserved-attributes", lambda: td(b"\0\0\0\x10\0\0\0\x40")),
        ("tdx-sept-ve-off", lambda: td(bytes(8))),
        ("tdx-service-td", lambda: make_quote(replace(TD_REPORT_1_5, mr_service_td=bytes([1]) * 48), version=5)),
        ("sgx-debug", lambda: enclave_with(b"\7" + bytes(7) + b"\7" + bytes(7))),
        ("sgx-reserved-attributes", lambda: enclave_with(b"\x0d" + bytes(7) + b"\7" + bytes(7))),
        ("intel-pck-absent", lambda: with_chain(pem(CA, ROOT))),
    ],
)
def test_each_thing_that_may_not_hold(code: str, make: Callable[[], Quote]) -> None:
    claims = examine(make())
    assert not claims.ok
    assert code in failures(claims)


def bound() -> bytes:
    return hashlib.sha256(point(ATTESTATION) + AUTH_DATA).digest()


def qe(**changes: Any) -> Any:
    return replace(QE_REPORT, report_data=bound() + bytes(32), **changes)


def td(attributes: bytes) -> Quote:
    return make_quote(replace(TD_REPORT, td_attributes=attributes))


def enclave_with(attributes: bytes) -> Quote:
    return make_quote(replace(ENCLAVE_REPORT, attributes=attributes), version=3)


def test_what_a_policy_may_excuse() -> None:
    waivers = {
        check.code: check.waiver
        for quote in (td(b"\1" + bytes(7)), enclave_with(b"\7" + bytes(15)), service_td())
        for check in examine(quote).failures
    }
    assert waivers == {
        "tdx-debug": "allow_debug",
        "tdx-sept-ve-off": "allow_sept_ve_off",
        "tdx-service-td": "allow_service_td",
        "sgx-debug": "allow_debug",
    }


def service_td() -> Quote:
    return make_quote(replace(TD_REPORT_1_5, mr_service_td=bytes([1]) * 48), version=5)


def test_known_attributes_are_no_failure() -> None:
    keys = (1 << 28 | 1 << 30 | 1 << 31 | 1 << 63).to_bytes(8, "little")
    assert examine(td(keys)).ok
    assert examine(enclave_with(b"\xf5\x04" + bytes(6) + b"\7" + bytes(7))).ok
    assert examine(td(b"\1\0\0\x10\0\0\0\0")).debug
    assert examine(td(b"\0\0\0\x30\0\0\0\0")).migratable


def test_an_attestation_key_that_is_no_point() -> None:
    quote = replace(QUOTE, attestation_key=bytes(64))
    assert {"intel-quote-signature", "intel-qe-binding"} <= set(failures(examine(quote)))


def test_the_qe_report_of_another_platform() -> None:
    other = Authority("Intel SGX PCK Certificate", CA, ca=False, serial=12, extra=extension(pck_extension()))
    quote = replace(QUOTE, qe_report_signature=make_quote(pck=other).qe_report_signature)
    assert failures(examine(quote)) == ["intel-qe-report-signature"]
    both = pem(PCK, other, CA, ROOT)
    assert examine(replace(quote, certification=Certification(5, both))).ok


def test_two_genuine_quotes_mixed() -> None:
    other = make_quote(key=ec.generate_private_key(ec.SECP256R1()))
    for name in ("signature", "attestation_key", "qe_report", "qe_report_signature"):
        assert not examine(replace(QUOTE, **{name: getattr(other, name)})).ok, name


def test_an_altered_copy_of_the_root() -> None:
    altered = bytearray(der_of(ROOT))
    altered[-1] ^= 1
    claims = examine(
        with_chain(der_of(PCK) + der_of(CA) + bytes(altered)), replace(standing(), certificates=(der_of(ROOT),))
    )
    assert failures(claims) == ["intel-chain-altered"]


def test_chains_in_quotes_that_do_not_parse() -> None:
    for data, code in ((b"text", "pem-malformed"), (b"\x30\x03\2\1\1", "certificate-malformed")):
        with pytest.raises(MalformedError) as caught:
            examine(with_chain(data))
        assert caught.value.code == code
    broken = Authority("Intel SGX PCK Certificate", CA, ca=False, extra=extension(b"\x30\0"))
    with pytest.raises(MalformedError) as caught:
        examine(make_quote(pck=broken))
    assert caught.value.code == "pck-extension"


def test_roots() -> None:
    claims = examine(QUOTE, replace(standing(), accepted_simulated=frozenset()))
    assert set(failures(claims)) == {"simulated-root-refused"}
    assert claims.simulated
    stranger = Authority("Intel SGX Root CA")
    ca = Authority("Intel SGX PCK Platform CA", stranger)
    pck = Authority("Intel SGX PCK Certificate", ca, ca=False, extra=extension(pck_extension()))
    forged = make_quote(pck=pck, certification=Certification(5, pem(pck, ca, stranger)))
    claims = examine(forged)
    assert "root-untrusted" in failures(claims)
    assert not claims.simulated


def test_a_ca_may_not_sign_quotes() -> None:
    pck = Authority("Intel SGX PCK Certificate", CA, ca=True, extra=extension(pck_extension()))
    assert "not-an-authority" in failures(examine(make_quote(pck=pck)))


def test_two_accepted_roots_are_not_mixed() -> None:
    other_root = Authority("Kokon simulated other root")
    signer = Authority("Other TCB Signing", other_root, ca=False)
    documents = (document(tcb_info(), signer), document(qe_identity()))
    known = replace(
        standing(),
        documents=documents,
        crls=(*lists(), crl(other_root)),
        accepted_simulated=ACCEPTED | {other_root.certificate.fingerprint},
    )
    assert failures(examine(QUOTE, known)) == ["intel-root-mixed"]


def test_nothing_given() -> None:
    claims = examine(QUOTE, Endorsements(accepted_simulated=ACCEPTED))
    assert not claims.ok
    assert claims.failures == ()
    assert set(claims.needs) == {
        Need("root-crl"),
        Need("pck-crl", (("ca", "platform"),)),
        Need("qe-identity", (("tee", "tdx"),)),
        Need("tcb-info", (("fmspc", FMSPC.hex()), ("tee", "tdx"))),
    }
    assert {"crl-missing", "intel-qe-identity-missing", "intel-tcb-info-missing"} <= set(open_codes(claims))


def test_one_thing_lacking_at_a_time() -> None:
    whole = standing()
    info, identity = whole.documents
    for without, need, code in (
        (replace(whole, documents=(info,)), "qe-identity", "intel-qe-identity-missing"),
        (replace(whole, documents=(identity,)), "tcb-info", "intel-tcb-info-missing"),
        (replace(whole, crls=whole.crls[:1]), "pck-crl", "crl-missing"),
        (replace(whole, crls=whole.crls[1:]), "root-crl", "crl-missing"),
    ):
        claims = examine(QUOTE, without)
        assert (claims.ok, claims.failures) == (False, ())
        assert [one.kind for one in claims.needs] == [need]
        assert code in open_codes(claims)


def test_the_processor_authority_has_its_own_list() -> None:
    ca = Authority("Intel SGX PCK Processor CA", ROOT, path_length=0)
    pck = Authority("Intel SGX PCK Certificate", ca, ca=False, extra=extension(pck_extension(instance=None, flags=())))
    claims = examine(make_quote(pck=pck))
    assert claims.needs == (Need("pck-crl", (("ca", "processor"),)),)
    assert claims.chip_id == b""
    assert "is_smt_enabled" not in claims.details
    assert "platform_instance_id" not in claims.details


def test_another_platforms_collateral_never_verifies() -> None:
    other = World(info={"fmspc": "000000000000"}).endorsements
    claims = examine(QUOTE, other)
    assert (claims.ok, [need.kind for need in claims.needs]) == (False, ["tcb-info"])
    claims = examine(QUOTE, standing("sgx"))
    assert (claims.ok, sorted(need.kind for need in claims.needs)) == (False, ["qe-identity", "tcb-info"])
    assert failures(examine(QUOTE, World(info={"pceId": "0001"}).endorsements)) == ["intel-pce-id"]


def test_dates() -> None:
    assert failures(examine(QUOTE, World(info={"nextUpdate": date(NOW)}).endorsements)) == ["intel-document-expired"]
    late = World(identity={"issueDate": date(NOW + DAY)}).endorsements
    assert failures(examine(QUOTE, late)) == ["intel-document-not-yet-valid"]
    assert examine(QUOTE, World(info={"issueDate": date(NOW)}).endorsements).ok
    expired = set(failures(examine(QUOTE, now=NOW + 500 * DAY)))
    assert {"certificate-expired", "crl-expired", "intel-document-expired"} == expired
    assert "certificate-not-yet-valid" in failures(examine(QUOTE, now=NOW - 500 * DAY))


@pytest.mark.parametrize(
    ("code", "crls"),
    [
        ("certificate-revoked", lambda: (crl(ROOT), crl(CA, PCK.serial))),
        ("certificate-revoked", lambda: (crl(ROOT, CA.serial), crl(CA))),
        ("certificate-revoked", lambda: (crl(ROOT, SIGNING.serial), crl(CA))),
        ("crl-expired", lambda: (crl(ROOT), crl(CA, end=NOW))),
        ("crl-expired", lambda: (crl(ROOT, start=NOW - 9 * DAY, end=NOW - DAY), crl(CA))),
        ("crl-untrusted", lambda: (crl(ROOT), crl(Authority(CA.common)))),
    ],
)
def test_revocation(code: str, crls: Callable[[], tuple[bytes, ...]]) -> None:
    assert code in failures(examine(QUOTE, World(crls=crls()).endorsements))


def test_documents_must_be_signed_by_tcb_signing() -> None:
    info, identity = standing().documents
    altered = replace(info, body=info.body.replace(b'"svn":5', b'"svn":4', 1))
    assert failures(examine(QUOTE, replace(standing(), documents=(altered, identity)))) == ["intel-document-signature"]
    for signer in (PCK, CA):
        claims = examine(QUOTE, replace(standing(), documents=(document(tcb_info(), signer), identity)))
        assert "intel-document-signature" in failures(claims)
    stranger = Authority("Intel SGX TCB Signing", Authority("Intel SGX Root CA"), ca=False)
    claims = examine(QUOTE, replace(standing(), documents=(document(tcb_info(), stranger), identity)))
    assert "root-untrusted" in failures(claims)
    bare = tuple(replace(one, chain=(b"junk",)) for one in standing().documents)
    known = replace(standing(), documents=bare)
    assert failures(examine(QUOTE, known)) == ["intel-document-signature"] * 2
    assert examine(QUOTE, replace(known, certificates=(der_of(SIGNING), der_of(ROOT)))).ok


def test_the_best_of_several_documents() -> None:
    info, identity = standing().documents
    stranger = Authority("Intel SGX TCB Signing", Authority("Intel SGX Root CA"), ca=False)
    revoked = {"tcbLevels": [level("Revoked", tdx=(0,) * 16)]}
    forged = document(tcb_info(tcbEvaluationDataNumber=99, **revoked), stranger)
    expired = document(tcb_info(tcbEvaluationDataNumber=98, nextUpdate=date(NOW), **revoked))
    earlier = document(tcb_info(issueDate=date(NOW - 2 * DAY), **revoked))
    lower = document(tcb_info(tcbEvaluationDataNumber=16, issueDate=date(NOW), **revoked))
    foreign = document(tcb_info(fmspc="000000000000", **revoked))
    broken = replace(info, body=b"{}")
    for documents in (
        (info, forged, expired, earlier, lower, foreign, broken, identity),
        (identity, broken, foreign, lower, earlier, expired, forged, info),
    ):
        claims = examine(QUOTE, replace(standing(), documents=documents))
        assert claims.ok, claims.failures
    newer = document(tcb_info(tcbEvaluationDataNumber=18, **revoked))
    claims = examine(QUOTE, replace(standing(), documents=(info, newer, identity)))
    assert failures(claims) == ["intel-tcb-revoked"]


def test_evaluation_numbers_never_go_back() -> None:
    assert examine(QUOTE, World(minimum=17).endorsements).ok
    assert failures(examine(QUOTE, World(minimum=18).endorsements)) == ["intel-evaluation-number"] * 2


def test_levels_of_platform_and_quoting_enclave() -> None:
    low = World(info={"tcbLevels": [level("OutOfDate", tdx=(0,) * 16, advisories=("INTEL-SA-1",))]})
    claims = examine(QUOTE, low.endorsements)
    assert (claims.ok, claims.tcb_status, claims.advisories) == (True, "OutOfDate", ("INTEL-SA-1",))
    old = World(identity={"tcbLevels": [enclave(8, "OutOfDate", ("INTEL-SA-2",))]})
    claims = examine(QUOTE, old.endorsements)
    assert (claims.ok, claims.tcb_status, claims.advisories) == (True, "OutOfDate", ("INTEL-SA-2",))
    high = World(info={"tcbLevels": [level(tdx=(9,) * 16)]})
    assert failures(examine(QUOTE, high.endorsements)) == ["intel-tcb-no-level"]
    bad = World(info={"tcbLevels": [level("Revoked", tdx=(0,) * 16)]})
    assert failures(examine(QUOTE, bad.endorsements)) == ["intel-tcb-revoked"]
    body = replace(
        TD_REPORT_1_5, tee_tcb_svn=bytes([4, 1, 5]).ljust(16, b"\0"), tee_tcb_svn2=bytes([6, 1, 5]).ljust(16, b"\0")
    )
    modules = World(info={"tdxModuleIdentities": [module(1, enclave(6), enclave(4, "OutOfDate"))]})
    claims = examine(make_quote(body, version=5), modules.endorsements)
    assert (claims.ok, claims.tcb_status, claims.details["current_tcb_status"]) == (
        True,
        "TDRelaunchAdvised",
        "UpToDate",
    )


def test_quotes_without_a_certificate() -> None:
    plain = Certification(PPID_PLAIN, PPID + bytes([5]) * 16 + b"\x0b\0" + b"\0\0")
    quote = replace(QUOTE, certification=plain)
    claims = examine(quote)
    need = Need("pck", (("cpusvn", "05" * 16), ("pceid", "0000"), ("pcesvn", "0b00"), ("ppid", PPID.hex())))
    assert (claims.ok, claims.failures, claims.needs) == (False, (), (need,))
    assert "intel-pck-missing" in open_codes(claims)
    assert (claims.root, claims.product, claims.chip_id) == ("", "", b"")
    encrypted = replace(QUOTE, certification=Certification(PPID_RSA_3072, bytes(404)))
    assert [name for name, _value in examine(encrypted).needs[-1].parameters] == [
        "cpusvn",
        "encrypted-ppid",
        "pceid",
        "pcesvn",
    ]
    other = Authority("Intel SGX PCK Certificate", CA, ca=False, serial=12, extra=extension(pck_extension()))
    odd = Authority("Intel SGX PCK Certificate", CA, ca=False, serial=13, key=PCK.key, extra=extension(b"\x30\0"))
    ders = tuple(der_of(authority) for authority in (odd, other, PCK, CA, ROOT))
    found = examine(quote, replace(standing(), certificates=ders))
    assert found.ok, found.failures
    assert found.canonical == examine(QUOTE).canonical


def test_encoding_is_that_of_the_parser() -> None:
    assert parse_quote(encode_quote(QUOTE)) == QUOTE


def test_a_crowd_of_certificates_in_a_quote() -> None:
    with pytest.raises(MalformedError, match="quote-malformed"):
        examine(with_chain(pem(PCK, CA, ROOT) * 3))


def test_whose_key_it_was_is_part_of_the_canonical_form() -> None:
    other = replace(PCK, key=ec.generate_private_key(ec.SECP256R1()))
    genuine, stranger = examine(with_chain(pem(PCK, CA))), examine(with_chain(pem(other, CA)))
    assert genuine.canonical != stranger.canonical
