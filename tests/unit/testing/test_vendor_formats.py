"""The fake vendor's bytes, field by field, as the independent parsers of `kokon.tee` and `dcap-qvl` read them."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.tee.anchors import SIMULATED_PREFIX
from kokon.tee.certificates import parse_certificate
from kokon.tee.eventlog.log import parse_event_log
from kokon.tee.eventlog.replay import replay
from kokon.tee.evidence import Evidence
from kokon.tee.intel.documents import parse_tcb_info
from kokon.tee.intel.pck import parse_pck_extension
from kokon.tee.intel.quote import EnclaveReport, parse_quote
from kokon.tee.intel.quote import TdReport as ParsedTd
from kokon.tee.nitro.document import read_message
from kokon.tee.recognise import recognise
from kokon.tee.registry import tee, verify
from kokon.tee.snp.report import parse_report
from kokon.tee.vtpm.hcl import parse_hcl
from kokon.tee.vtpm.quote import key_of, parse_pcrs, spki_of
from kokon.tee.vtpm.tpm import parse_attest, parse_public, parse_signature
from kokon.testing import FakeVendor
from kokon.testing.vendor.amd import Tcb
from kokon.testing.vendor.authority import ROOT_PREFIX, KeyRing
from kokon.testing.vendor.azure import RuntimeData, td_report
from kokon.testing.vendor.encoding import cbor, cbor_head, der, der_integer, der_oid
from kokon.testing.vendor.eventlog import (
    BOOT,
    CC_BOOT,
    LogEvent,
    encode_log,
    encode_old_log,
    pcr_bank,
    replayed,
    startup_locality,
)
from kokon.testing.vendor.intel_collateral import Collateral, flat_json, qe_identity, tcb_info
from kokon.testing.vendor.intel_pki import SGX_EXTENSIONS, Platform
from kokon.testing.vendor.intel_quote import TDX_QE, QuotingEnclave, SgxReport, TdReport
from kokon.testing.vendor.ratls import RatlsOptions
from kokon.testing.vendor.tpm import Attest, Quoted, bincode_quote

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
VENDOR = FakeVendor(NOW)
FEW = settings(max_examples=25, deadline=None)
u8, u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))


def sized(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


# SEV-SNP

tcbs = st.builds(Tcb, bootloader=u8, tee=u8, snp=u8, microcode=u8, fmc=u8)
snp_fields = st.fixed_dictionaries(
    {
        "product": st.sampled_from(("Milan", "Genoa", "Turin")),
        "version": st.integers(3, 5),
        "guest_svn": u32,
        "policy": u32,
        "family_id": sized(16),
        "image_id": sized(16),
        "vmpl": u32,
        "platform_info": u64,
        "report_data": sized(64),
        "measurement": sized(48),
        "host_data": sized(32),
        "id_key_digest": sized(48),
        "author_key_digest": sized(48),
        "report_id": sized(32),
        "report_id_ma": sized(32),
        "current_version": st.tuples(u8, u8, u8),
        "committed_version": st.tuples(u8, u8, u8),
    }
)
versions = st.fixed_dictionaries(dict.fromkeys(("reported_tcb", "current_tcb", "committed_tcb", "launch_tcb"), tcbs))


@FEW
@given(snp_fields, versions)
def test_snp_fields_stand_where_the_abi_has_them(fields: dict[str, Any], tcbs: dict[str, Tcb]) -> None:
    report = parse_report(VENDOR.snp(certificates="none", **fields, **tcbs).report)
    product = fields.pop("product")
    assert {name: getattr(report, name) for name in fields} == fields
    for name, tcb in tcbs.items():
        expected = {"bootloader": tcb.bootloader, "tee": tcb.tee, "snp": tcb.snp, "microcode": tcb.microcode}
        expected |= {"fmc": tcb.fmc} if product == "Turin" else {}
        assert report.tcb(getattr(report, name)) == expected
    assert report.chip_id == VENDOR.amd.chip_id(product).ljust(64, b"\0")
    assert report.cpuid[0] == (0x1A if product == "Turin" else 0x19)
    mitigations = 0x3F if fields["version"] == 5 else 0
    assert (report.launch_mitigations, report.current_mitigations) == (mitigations, mitigations)


def test_snp_certificates_have_amds_shape() -> None:
    tcb = Tcb(microcode=0xDB)
    turin = x509.load_der_x509_certificate(VENDOR.amd.vcek("Turin", bytes(range(8)), tcb))
    assert turin.serial_number == 0
    values = {e.oid.dotted_string: e.value.value for e in turin.extensions}  # type: ignore[attr-defined]
    arc = "1.3.6.1.4.1.3704.1."
    assert values[arc + "1"] == bytes.fromhex("020101")
    assert values[arc + "2"] == b"\x16\x05Turin"
    assert values[arc + "3.8"] == bytes.fromhex("020200db")
    assert values[arc + "3.9"] == bytes.fromhex("020101")
    assert values[arc + "4"] == bytes(range(8))
    vlek = parse_certificate(VENDOR.amd.vlek("Milan", "CN=somebody", tcb))
    assert arc + "4" not in vlek.unknown
    assert vlek.unknown[arc + "5"] == b"\x16\x0bCN=somebody"
    assert vlek.not_after - vlek.not_before == timedelta(days=365)


# Intel


@FEW
@given(
    st.fixed_dictionaries(
        {
            "cpusvn": sized(16),
            "isvextprodid": sized(16),
            "mrenclave": sized(32),
            "mrsigner": sized(32),
            "configid": sized(64),
            "isvprodid": u16,
            "isvsvn": u16,
            "configsvn": u16,
            "isvfamilyid": sized(16),
            "report_data": sized(64),
        }
    ),
    st.sampled_from((3, 4)),
)
def test_sgx_fields_stand_where_intel_has_them(fields: dict[str, Any], version: Any) -> None:
    quote = parse_quote(VENDOR.sgx(version=version, **fields).report)
    body = quote.body
    assert isinstance(body, EnclaveReport)
    names = {"cpusvn": "cpu_svn", "isvextprodid": "isv_ext_prod_id", "mrenclave": "mr_enclave", "mrsigner": "mr_signer",
             "configid": "config_id", "isvprodid": "isv_prod_id", "isvsvn": "isv_svn", "configsvn": "config_svn",
             "isvfamilyid": "isv_family_id", "report_data": "report_data"}  # fmt: skip
    assert {name: getattr(body, other) for name, other in names.items()} == fields
    assert (quote.header.version, body.flags) == (version, 5)


@FEW
@given(
    st.fixed_dictionaries(
        {
            "tee_tcb_svn": sized(16), "mrseam": sized(48), "mrsignerseam": sized(48), "mrtd": sized(48),
            "mrconfigid": sized(48), "mrowner": sized(48), "mrownerconfig": sized(48),
            "rtmrs": st.tuples(*[sized(48)] * 4), "report_data": sized(64), "tee_tcb_svn2": sized(16),
            "mrservicetd": sized(48),
        }
    ),
    st.sampled_from(((4, False), (5, False), (5, True))),
)  # fmt: skip
def test_tdx_fields_stand_where_intel_has_them(fields: dict[str, Any], form: tuple[Any, bool]) -> None:
    version, later = form
    quote = parse_quote(VENDOR.tdx(version=version, later=later, seam_attributes=3, xfam=7, **fields).report)
    body = quote.body
    assert isinstance(body, ParsedTd)
    names = {"tee_tcb_svn": "tee_tcb_svn", "mrseam": "mr_seam", "mrsignerseam": "mrsigner_seam", "mrtd": "mr_td",
             "mrconfigid": "mr_config_id", "mrowner": "mr_owner", "mrownerconfig": "mr_owner_config",
             "report_data": "report_data", "tee_tcb_svn2": "tee_tcb_svn2", "mrservicetd": "mr_service_td"}  # fmt: skip
    expected = fields if later else fields | {"tee_tcb_svn2": None, "mrservicetd": None}
    found = {name: getattr(body, other) for name, other in names.items()}
    assert found | {"rtmrs": (body.rtmr0, body.rtmr1, body.rtmr2, body.rtmr3)} == expected
    assert (body.seam_attributes[0], body.attributes, body.xfam[0]) == (3, 1 << 28, 7)


def test_pck_extension_is_intels() -> None:
    platform = Platform(pcesvn=0x1234, components=tuple(range(240, 256)), dynamic=True, sgx_type=2)
    certificate = parse_certificate(VENDOR.intel.pck(platform))
    found = parse_pck_extension(certificate.unknown[SGX_EXTENSIONS])
    assert (found.fmspc, found.pce_id, found.pce_svn) == (platform.fmspc, platform.pceid, 0x1234)
    assert (found.components, found.cpu_svn) == (platform.components, bytes(range(240, 256)))
    assert (found.ppid, found.platform_instance_id) == (VENDOR.intel.ppid(platform), VENDOR.intel.instance_id(platform))
    assert (found.dynamic_platform, found.cached_keys, found.smt_enabled, found.sgx_type) == (True, False, True, 2)


def dcap(vendor: FakeVendor, evidence: Evidence, now: datetime = NOW) -> Any:
    """What the vendors' common verifier, dcap-qvl, says about a quote."""
    qvl = pytest.importorskip("dcap_qvl")
    kind = "sgx" if evidence.tee == "sgx" else "tdx"
    platform, intel = vendor.platforms[0], vendor.intel
    span = vendor.lists_span
    flat = flat_json(
        tcb_info(intel, vendor.collateral, kind, platform),
        qe_identity(intel, vendor.collateral, kind),
        intel.pck_crl(platform.ca, vendor.revoked, span),
        intel.root_crl(vendor.revoked, span),
        intel.ca(platform.ca).certificate,
    )
    collateral = qvl.QuoteCollateralV3.from_json(flat.decode())
    return qvl.verify_with_root_ca(evidence.report, collateral, intel.root().certificate, int(now.timestamp()))


OLD = FakeVendor(NOW, collateral=Collateral(status="ConfigurationNeeded", advisories=("INTEL-SA-00615",)))
GOOD_QUOTES = {
    "sgx": (VENDOR, VENDOR.sgx(), "UpToDate"),
    "sgx configuration": (OLD, OLD.sgx(), "ConfigurationNeeded"),
    "sgx other order": (VENDOR, VENDOR.sgx(enclave=QuotingEnclave(reversed_chain=True)), "UpToDate"),
    "tdx v4": (VENDOR, VENDOR.tdx(), "UpToDate"),
    "tdx v5": (VENDOR, VENDOR.tdx(version=5), "UpToDate"),
    "tdx v5 1.5": (VENDOR, VENDOR.tdx(version=5, later=True), "UpToDate"),
    "tdx module": (VENDOR, VENDOR.tdx(tee_tcb_svn=bytes([3, 1, 2]) + bytes(13)), "OutOfDate"),
}
REVOKED = VENDOR.but(revoked=frozenset({"pck"}))
BAD_QUOTES = {
    "debug": (VENDOR, VENDOR.sgx(debug=True)),
    "TD debug": (VENDOR, VENDOR.tdx(debug=True)),
    "sept ve": (VENDOR, VENDOR.tdx(td_attributes=0)),
    "service TD": (VENDOR, VENDOR.tdx(version=5, later=True, mrservicetd=b"\1" * 48)),
    "unbound": (VENDOR, VENDOR.tdx(enclave=replace(TDX_QE, bound=False))),
    "revoked": (REVOKED, REVOKED.tdx()),
    "stale": (VENDOR.but(collateral=Collateral(age=timedelta(days=31))), VENDOR.sgx()),
    "other vendor": (FakeVendor(NOW, seed=b"other"), VENDOR.sgx()),
}


@pytest.mark.parametrize("name", GOOD_QUOTES)
def test_dcap_qvl_accepts_quotes_and_collateral(name: str) -> None:
    vendor, evidence, status = GOOD_QUOTES[name]
    assert dcap(vendor, evidence).status == status
    assert verify(evidence, vendor.endorsements(evidence), NOW).tcb_status == status


@pytest.mark.parametrize("name", BAD_QUOTES)
def test_dcap_qvl_refuses_what_is_wrong(name: str) -> None:
    vendor, evidence = BAD_QUOTES[name]
    with pytest.raises(ValueError, match="failed"):
        dcap(vendor, evidence)
    assert not verify(evidence, vendor.endorsements(evidence), NOW).ok


# AWS Nitro


@FEW
@given(
    st.booleans(),
    st.dictionaries(st.integers(0, 31), sized(48), min_size=1, max_size=32),
    st.none() | st.binary(max_size=600),
    st.none() | st.binary(max_size=600),
    st.none() | st.binary(min_size=1, max_size=600),
)
def test_nitro_documents_hold_what_was_asked_for(
    indefinite: bool, pcrs: dict[int, bytes], nonce: bytes | None, user_data: bytes | None, key: bytes | None
) -> None:
    options: dict[str, Any] = {"pcrs": pcrs, "nonce": nonce, "user_data": user_data, "public_key": key}
    _message, document = read_message(VENDOR.nitro(indefinite=indefinite, **options).report)
    assert {name: getattr(document, name) for name in options} == options
    assert document.timestamp == int(NOW.timestamp() * 1000)


# TPM


@FEW
@given(
    st.binary(max_size=64),
    st.sets(st.integers(0, 23), min_size=1).map(lambda found: tuple(sorted(found))),
    st.sampled_from(("sha1", "sha256", "sha384")),
    st.tuples(u64, u32, u32, st.booleans(), u64),
)
def test_tpm_quotes_hold_what_was_asked_for(
    nonce: bytes, selection: tuple[int, ...], bank: str, numbers: tuple[int, int, int, bool, int]
) -> None:
    clock, resets, restarts, safe, firmware = numbers
    registers = tuple(hashlib.new(bank, bytes([index])).digest() for index in range(24))
    attest = parse_attest(
        Attest(nonce, registers, selection, bank, None, "sha256", clock=clock, reset_count=resets,
               restart_count=restarts, safe=safe, firmware_version=firmware).encode()
    )  # fmt: skip
    assert (attest.extra_data, attest.clock, attest.reset_count, attest.restart_count) == (
        nonce,
        clock,
        resets,
        restarts,
    )
    assert (attest.safe, attest.firmware_version) == (safe, firmware)
    assert [(found.bank, found.pcrs) for found in attest.selections] == [(bank, selection)]
    assert attest.pcr_digest == hashlib.sha256(b"".join(registers[index] for index in selection)).digest()


@pytest.mark.parametrize(("kind", "scheme"), [("rsa", "rsassa"), ("ecc", "ecdsa")])
def test_attestation_keys(kind: Any, scheme: str) -> None:
    maker = VENDOR.tpm_of()
    public = parse_public(maker.public_area(kind))
    assert spki_of(key_of(public)) == maker.ak_public(kind)
    assert all(public.has(name) for name in ("restricted", "sign", "fixedTPM"))
    assert parse_signature(maker.sign(b"message", kind)).scheme == scheme
    assert parse_certificate(maker.ak_certificate(kind)).spki == maker.ak_public(kind)


def test_pcr_values() -> None:
    evidence = VENDOR.tpm()
    assert parse_pcrs(evidence.parts["pcrs"]) == {"sha256": dict(enumerate(pcr_bank(BOOT)))}


events = st.builds(
    LogEvent,
    st.integers(0, 23),
    st.sampled_from((4, 5, 8, 13, 0x80000003)),
    st.binary(max_size=40),
    st.none() | st.binary(),
)


@FEW
@given(st.lists(events, min_size=1, max_size=12).map(tuple), st.sampled_from((None, 3, 4)))
def test_event_logs_replay_to_the_same_registers(found: tuple[LogEvent, ...], locality: int | None) -> None:
    log = found if locality is None else (startup_locality(locality), *found)
    parsed = parse_event_log(encode_log(log, ("sha1", "sha256", "sha384")))
    for algorithm in ("sha1", "sha256", "sha384"):
        expected = {number: value for number, value in replayed(log, algorithm).items()
                    if any(event.register == number for event in found)}  # fmt: skip
        assert replay(parsed, algorithm) == expected
    assert [(event.register, event.type, event.data) for event in parsed.events if event.extended] == [
        (event.register, event.type, event.data) for event in found
    ]


def test_old_event_logs_too() -> None:
    assert replay(parse_event_log(encode_old_log(BOOT)), "sha1") == replayed(BOOT, "sha1")


def test_cc_log_padding_is_not_part_of_it() -> None:
    log = encode_log(CC_BOOT, ("sha384",))
    assert replay(parse_event_log(log + b"\xff" * 500), "sha384") == replayed(CC_BOOT, "sha384")


# Azure


@pytest.mark.parametrize("make", ["azure_snp", "azure_tdx"])
def test_hcl_reports_bind_the_key(make: str) -> None:
    evidence = getattr(VENDOR, make)(runtime=RuntimeData(user_data=b"\5" * 64))
    hcl = parse_hcl(evidence.parts["hcl-report"])
    assert hcl.report_data == hcl.binding
    assert hcl.ak == VENDOR.tpm_of().ak_public()
    assert hcl.user_data == b"\5" * 64


def test_td_reports_have_intels_hashes() -> None:
    report = TdReport(mrtd=b"\7" * 48, report_data=b"\x08" * 64)
    raw = td_report(report, bytes(16))
    assert len(raw) == 1024
    assert raw[32:80] == hashlib.sha384(raw[256:495]).digest()
    assert raw[80:128] == hashlib.sha384(raw[512:1024]).digest()
    assert raw[128:192] == report.report_data
    assert raw[528:576] == report.mrtd


# Everything

EVIDENCE = {
    "snp": VENDOR.snp(version=5, product="Turin"),
    "snp vlek": VENDOR.snp(key="vlek"),
    "tdx": VENDOR.tdx(log=True),
    "tdx v5": VENDOR.tdx(version=5, later=True),
    "sgx": VENDOR.sgx(),
    "nitro": VENDOR.nitro(nonce=b"n"),
    "tpm": VENDOR.tpm(log=False, certified=False),
    "az-snp-vtpm": VENDOR.azure_snp(),
    "az-tdx-vtpm": VENDOR.azure_tdx(),
    "ratls": VENDOR.ratls(options=RatlsOptions(form="both")),
}


@pytest.mark.parametrize("name", EVIDENCE)
def test_envelopes_are_read_back(name: str) -> None:
    evidence = EVIDENCE[name]
    for version in (0, 1, 2):
        found = tee(evidence.tee).from_envelope(VENDOR.envelope(evidence, version))
        assert found.report == evidence.report
        assert found.certificates == evidence.certificates
        assert {part: found.parts[part] for part in evidence.parts} == dict(evidence.parts)


@pytest.mark.parametrize("name", [name for name in EVIDENCE if not name.startswith("az-")])
def test_raw_bytes_are_recognised(name: str) -> None:
    evidence = EVIDENCE[name]
    found = recognise(VENDOR.raw(evidence))
    assert found is not None
    assert (found.tee, found.report, found.certificates) == (evidence.tee, evidence.report, evidence.certificates)


def test_revocation_list_in_the_certificate_table() -> None:
    evidence = VENDOR.but(revoked=frozenset({"ask"})).snp(crl=True)
    found = recognise(VENDOR.raw(evidence))
    assert found is not None
    claims = verify(found, VENDOR.endorsements(evidence, omit=("crl",)), NOW)
    assert [check.code for check in claims.failures] == ["certificate-revoked"]


def test_googles_message_verifies() -> None:
    found = recognise(VENDOR.google(nonce=b"nonce"))
    assert found is not None
    claims = verify(found, VENDOR.endorsements(found), NOW)
    assert claims.ok, claims.failures
    assert claims.report_data == b"nonce"
    assert claims.registers["pcr4"] == pcr_bank(BOOT)[4]


def test_bincode_is_recognised() -> None:
    evidence = VENDOR.azure_snp()
    quoted = Quoted(evidence.report, evidence.parts["signature"], pcr_bank(BOOT))
    found = recognise(bincode_quote(quoted))
    assert found is not None
    assert found.report == evidence.report
    assert found.parts["pcrs"] == evidence.parts["pcrs"]


def test_roots_say_that_they_are_simulated() -> None:
    roots = [VENDOR.amd.ark(product) for product in ("Milan", "Genoa", "Turin")]
    roots += [VENDOR.intel.root(), VENDOR.aws.chain()[0], VENDOR.tpm_of().root()]
    assert ROOT_PREFIX == SIMULATED_PREFIX
    assert all(parse_certificate(root.certificate).name.startswith(SIMULATED_PREFIX) for root in roots)
    assert {root.fingerprint for root in roots} == VENDOR.roots
    assert {parse_certificate(root.certificate).fingerprint for root in roots} == VENDOR.roots


def test_the_same_seed_gives_the_same_evidence() -> None:
    again, other = FakeVendor(NOW), FakeVendor(NOW, seed=b"other")
    for make in ("sgx", "tdx", "nitro"):
        assert getattr(again, make)() == getattr(VENDOR, make)()
        assert getattr(other, make)() != getattr(VENDOR, make)()
    assert again.snp().report == VENDOR.snp().report
    assert again.roots == VENDOR.roots
    assert not other.roots & VENDOR.roots


def test_elliptic_roots_are_the_same_in_every_process() -> None:
    code = (
        "from datetime import UTC, datetime; from kokon.testing import FakeVendor;"
        "print(*sorted(FakeVendor(datetime(2026, 11, 23, 12, tzinfo=UTC)).elliptic_roots))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == sorted(VENDOR.elliptic_roots)


def test_no_key_has_a_repr() -> None:
    vendor = FakeVendor(NOW, seed=b"a secret seed")
    everything = repr((vendor, vendor.keys, vendor.intel, vendor.intel.root(), vendor.aws, vendor.tpm_of()))
    assert "secret" not in everything
    assert "PrivateKey" not in everything
    key = KeyRing(b"x").elliptic("label").private_numbers().private_value
    assert str(key) not in everything


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (der_integer(0), "020100"),
        (der_integer(127), "02017f"),
        (der_integer(0xDB), "020200db"),
        (der(0x04, bytes(200))[:4], "0481c800"),
        (der(0x04, bytes(300))[:5], "0482012c00"),
        (der_oid("1.2.840.113741.1.13.1"), "060a2a864886f84d010d01".replace("060a", "0609")),
        (cbor([0, 23, 24, 255, 256, -1, -35, None, "a", b"b", {1: 2}]), "8b00171818 18ff190100203822f6616141 62a10102"),
        (cbor_head(2, 1 << 16), "5a00010000"),
        (cbor_head(0, 1 << 32), "1b0000000100000000"),
    ],
)
def test_encodings(encoded: bytes, expected: str) -> None:
    assert encoded == bytes.fromhex(expected)


def test_encodings_refuse_what_they_cannot_say() -> None:
    with pytest.raises(TypeError):
        cbor(1.5)
    with pytest.raises(OverflowError):
        cbor_head(0, 1 << 64)
    with pytest.raises(TypeError):
        VENDOR.snp(mesurement=bytes(48))
    assert SgxReport().encode() == SgxReport(reserved=bytes(12)).encode()


def test_version_2_tcb_info_is_written_as_the_older_service_did() -> None:
    document = tcb_info(VENDOR.intel, Collateral(version=2), "sgx", VENDOR.platforms[0])
    parsed = json.loads(document.body)
    assert parsed["version"] == 2
    assert "id" not in parsed
    assert parsed["tcbLevels"][0]["tcb"]["sgxtcbcomp01svn"] == VENDOR.platforms[0].components[0]
    assert parse_tcb_info(document.body).levels[0].sgx == VENDOR.platforms[0].components
