"""Every format of the fake vendor against its verifier: what is right verifies, each wrong thing is found as itself.

The vendor writes its bytes without the verifiers' parsers, so each row checks both. A row names all codes that must
fail, no more and no less; what is lacking is a need.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy
from kokon.appraisal.reference import ReferenceValues
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.registry import verify
from kokon.testing import FakeVendor
from kokon.testing.vendor.amd import Tcb
from kokon.testing.vendor.authority import Span
from kokon.testing.vendor.azure import RuntimeData
from kokon.testing.vendor.eventlog import BOOT, CC_BOOT, IPL, LogEvent, encode_log, startup_locality
from kokon.testing.vendor.intel_collateral import Collateral, IsvLevel, ModuleIdentity, TcbLevel
from kokon.testing.vendor.intel_pki import Platform
from kokon.testing.vendor.intel_quote import TD_SEPT_VE_DISABLE, TDX_QE, QuotingEnclave
from kokon.testing.vendor.ratls import RatlsOptions

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
VENDOR = FakeVendor(NOW)
OTHER = FakeVendor(NOW, seed=b"another vendor")
PAST = Span(NOW - 10 * DAY, 10 * DAY)
"""Ends at the very moment of verification, which counts as expired."""
FUTURE = Span(NOW + DAY, 10 * DAY)
SECOND = Platform(chip="second")
FOREIGN = Platform(chip="third", fmspc=bytes.fromhex("90c06f000000"))
MORE = (LogEvent(3, IPL, b"one event more"),)
QE = QuotingEnclave()

Make = Callable[[FakeVendor], Evidence]


@dataclass(frozen=True)
class Row:
    """`codes` are the failed checks, `needs` what is lacking and required, `optional` lacking and not required."""

    name: str
    make: Make
    codes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    vendor: dict[str, Any] = field(default_factory=dict)
    endorsing: dict[str, Any] = field(default_factory=dict)
    holder: FakeVendor | None = None
    now: datetime = NOW
    claims: dict[str, Any] = field(default_factory=dict)


def part(evidence: Evidence, **parts: bytes) -> Evidence:
    return replace(
        evidence, parts=dict(evidence.parts) | {name.replace("_", "-"): data for name, data in parts.items()}
    )


def flip(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


def snp_rows() -> Iterator[Row]:
    for product in ("Milan", "Genoa", "Turin"):
        for key in ("vcek", "vlek"):
            for version in (3, 4, 5):
                yield Row(
                    f"{product} v{version} {key}",
                    lambda v, p=product, k=key, n=version: v.snp(product=p, key=k, version=n),  # type: ignore[misc]
                    claims={"product": product},
                )
    yield Row("Milan v2", lambda v: v.snp(version=2))
    yield Row("Genoa v2", lambda v: v.snp(version=2, product="Genoa"), endorsing={"product": "Genoa"})
    yield Row("leaf from endorsements", lambda v: v.snp(certificates="none"))
    yield Row("leaf missing", lambda v: v.snp(certificates="none"), (), ("vcek",), endorsing={"omit": ("leaf",)})
    yield Row(
        "VLEK missing", lambda v: v.snp(key="vlek", certificates="none"), (), ("vlek",), endorsing={"omit": ("leaf",)}
    )
    yield Row(
        "chain missing",
        lambda v: v.snp(certificates="leaf"),
        (),
        ("amd-chain",),
        ("amd-crl",),
        endorsing={"omit": ("chain",)},
    )
    yield Row("list missing", lambda v: v.snp(), optional=("amd-crl",), endorsing={"omit": ("crl",)})
    yield Row("list in the evidence", lambda v: v.snp(crl=True), endorsing={"omit": ("crl",)})
    yield Row("list stale", lambda v: v.snp(), optional=("amd-crl",), vendor={"lists_age": 45 * DAY})
    yield Row("ASK revoked", lambda v: v.snp(), ("certificate-revoked",), vendor={"revoked": frozenset({"ask"})})
    yield Row(
        "ASK revoked on a stale list",
        lambda v: v.snp(),
        ("certificate-revoked",),
        vendor={"revoked": frozenset({"ask"}), "lists_age": 45 * DAY},
    )
    yield Row(
        "ASVK revoked", lambda v: v.snp(key="vlek"), ("certificate-revoked",), vendor={"revoked": frozenset({"asvk"})}
    )
    yield Row("ASVK revoked, VCEK used", lambda v: v.snp(), vendor={"revoked": frozenset({"asvk"})})
    yield Row("leaf expired", lambda v: v.snp(span=PAST), ("certificate-expired",), endorsing={"omit": ("leaf",)})
    yield Row("leaf expired, a newer one held", lambda v: v.snp(span=PAST))
    yield Row(
        "leaf not yet valid",
        lambda v: v.snp(span=FUTURE),
        ("certificate-not-yet-valid",),
        endorsing={"omit": ("leaf",)},
    )
    yield Row(
        "other chip's certificate",
        lambda v: replace(v.snp(), certificates=v.snp(chip="second").certificates),
        ("snp-chip-id-mismatch", "snp-signature-invalid"),
        endorsing={"omit": ("leaf",)},
    )
    yield Row(
        "other TCB's certificate",
        lambda v: replace(v.snp(), certificates=v.snp(reported_tcb=Tcb(microcode=200)).certificates),
        ("snp-signature-invalid", "snp-tcb-mismatch"),
        endorsing={"omit": ("leaf",)},
    )
    yield Row("root not accepted", lambda v: v.snp(), ("simulated-root-refused",), endorsing={"accept": False})
    yield Row("other root accepted", lambda v: v.snp(), ("crl-untrusted", "simulated-root-refused"), holder=OTHER)
    yield Row("masked", lambda v: v.snp(masked=True), ("snp-chip-key-masked", "snp-signature-invalid"))
    yield Row("altered", lambda v: replace(v.snp(), report=flip(v.snp().report, 0x90)), ("snp-signature-invalid",))
    yield Row(
        "signature altered", lambda v: replace(v.snp(), report=flip(v.snp().report, 0x2A0)), ("snp-signature-invalid",)
    )
    yield Row("other algorithm", lambda v: v.snp(signature_algo=2), ("snp-signature-algorithm",))
    yield Row(
        "VCEK claims to be a VLEK",
        lambda v: v.snp(key_info=4),
        ("snp-signing-key-mismatch",),
        endorsing={"omit": ("leaf",)},
    )
    yield Row("committed below reported", lambda v: v.snp(committed_tcb=Tcb(snp=1)), ("snp-tcb-order",))
    yield Row("debug", lambda v: v.snp(debug=True), claims={"debug": True})
    yield Row("migratable", lambda v: v.snp(policy=0x70000), claims={"migratable": True})
    yield Row("VMPL 3", lambda v: v.snp(vmpl=3), claims={"vmpl": 3})


def intel_rows(tee: str) -> Iterator[Row]:
    def quote(**options: Any) -> Make:
        return lambda v: getattr(v, tee)(**options)

    good = quote()
    enclave = QE if tee == "sgx" else TDX_QE
    for kind in ("pem", "pem-nul", "der"):
        yield Row(f"chain as {kind}", quote(enclave=replace(enclave, certification=kind)))
    yield Row("chain out of order", quote(enclave=replace(enclave, reversed_chain=True)))
    yield Row("padded", quote(enclave=replace(enclave, padding=64)))
    yield Row(
        "Processor CA", quote(platform=Platform(ca="processor")), endorsing={"platform": Platform(ca="processor")}
    )
    for kind in ("plain-ppid", "encrypted-ppid"):
        bare = quote(enclave=replace(enclave, certification=kind))
        yield Row(f"{kind}, PCK held", bare)
        yield Row(f"{kind}, PCK missing", bare, (), ("pck",), endorsing={"omit": ("pck",)})
    for what in ("tcb-info", "qe-identity", "pck-crl", "root-crl"):
        yield Row(f"{what} missing", good, (), (what,), endorsing={"omit": (what,)})
    yield Row(
        "TCB info of another platform",
        quote(platform=FOREIGN),
        (),
        ("tcb-info",),
        endorsing={"platform": VENDOR.platforms[0]},
    )
    yield Row("documents stale", good, ("intel-document-expired",) * 2, vendor={"collateral": Collateral(age=40 * DAY)})
    yield Row(
        "documents of tomorrow",
        good,
        ("intel-document-not-yet-valid",) * 2,
        vendor={"collateral": Collateral(age=-DAY)},
    )
    yield Row(
        "documents end now", good, ("intel-document-expired",) * 2, vendor={"collateral": Collateral(age=30 * DAY)}
    )
    yield Row("lists stale", good, ("crl-expired",) * 4, vendor={"lists_age": 45 * DAY})
    for what, count in (("pck", 1), ("platform-ca", 1), ("tcb-signing", 1)):
        yield Row(f"{what} revoked", good, ("certificate-revoked",) * count, vendor={"revoked": frozenset({what})})
    yield Row("Processor CA revoked, Platform CA used", good, vendor={"revoked": frozenset({"processor-ca"})})
    for status in (
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    ):
        collateral = Collateral(status=status, advisories=("INTEL-SA-00615",))
        claims = {"tcb_status": status, "advisories": ("INTEL-SA-00615",)}
        yield Row(f"status {status}", good, vendor={"collateral": collateral}, claims=claims)
    yield Row(
        "quoting enclave out of date",
        good,
        vendor={"collateral": Collateral(qe_status="OutOfDate")},
        claims={"tcb_status": "OutOfDate"},
    )
    yield Row("status Revoked", good, ("intel-tcb-revoked",), vendor={"collateral": Collateral(status="Revoked")})
    yield Row("status unknown", good, ("intel-tcb-status-unknown",), vendor={"collateral": Collateral(status="Fine")})
    high = (TcbLevel((255,) * 16, 11),)
    yield Row("no level", good, ("intel-tcb-no-level",), vendor={"collateral": Collateral(levels=high)})
    old = Platform(components=(6, 7, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0), pcesvn=9)
    yield Row("older platform", quote(platform=old), claims={"tcb_status": "OutOfDate"})
    yield Row(
        "evaluation number went back",
        good,
        ("intel-evaluation-number",) * 2,
        holder=None,
        vendor={"collateral": Collateral(evaluation=5)},
        endorsing={"minimum": 20},
    )
    yield Row(
        "quoting enclave unlike its identity",
        good,
        ("intel-qe-mrsigner",),
        vendor={"collateral": Collateral(qe_signer=bytes(32))},
    )
    debug = replace(enclave, report=replace(enclave.report, flags=0x13))
    yield Row("quoting enclave in debug mode", quote(enclave=debug), ("intel-qe-attributes", "intel-qe-debug"))
    too_old = replace(enclave, report=replace(enclave.report, isvsvn=0))
    yield Row("quoting enclave too old", quote(enclave=too_old), ("intel-qe-no-level",))
    yield Row(
        "another maker's quoting enclave", quote(enclave=replace(enclave, vendor=bytes(16))), ("intel-qe-vendor",)
    )
    yield Row("attestation key not bound", quote(enclave=replace(enclave, bound=False)), ("intel-qe-binding",))
    yield Row("PCK expired", quote(span=PAST), ("certificate-expired",), endorsing={"omit": ("pck",)})
    yield Row("PCK expired, a newer one held", quote(span=PAST), ("certificate-expired",))
    yield Row("root not accepted", good, ("simulated-root-refused",), endorsing={"accept": False})
    others = ("crl-untrusted",) * 3 + ("intel-root-mixed",) * 2 + ("simulated-root-refused",)
    yield Row("endorsements of another vendor", good, others, holder=OTHER)
    yield Row("altered", lambda v: replace(good(v), report=flip(good(v).report, 200)), ("intel-quote-signature",))
    yield Row("debug", quote(debug=True), (f"{tee}-debug",), claims={"debug": True})


def tdx_rows() -> Iterator[Row]:
    yield from intel_rows("tdx")
    yield Row("v4", lambda v: v.tdx(log=True))
    yield Row("v5 TD 1.0", lambda v: v.tdx(version=5, log=True))
    yield Row("v5 TD 1.5", lambda v: v.tdx(version=5, later=True, log=True))
    yield Row("SEPT_VE_DISABLE off", lambda v: v.tdx(td_attributes=0), ("tdx-sept-ve-off",))
    yield Row(
        "reserved attributes", lambda v: v.tdx(td_attributes=TD_SEPT_VE_DISABLE | 1 << 20), ("tdx-reserved-attributes",)
    )
    yield Row("service TD", lambda v: v.tdx(version=5, later=True, mrservicetd=b"\1" * 48), ("tdx-service-td",))
    yield Row("module not Intel's", lambda v: v.tdx(mrsignerseam=b"\1" * 48), ("tdx-module-signer",))
    yield Row("module unknown", lambda v: v.tdx(tee_tcb_svn=bytes([5, 9, 2]) + bytes(13)), ("tdx-module-unknown",))
    yield Row("module too old", lambda v: v.tdx(tee_tcb_svn=bytes([1, 1, 2]) + bytes(13)), ("tdx-module-no-level",))
    out = {"tcb_status": "OutOfDate", "advisories": ("INTEL-SA-00001",)}
    yield Row("module out of date", lambda v: v.tdx(tee_tcb_svn=bytes([3, 1, 2]) + bytes(13)), claims=out)
    yield Row("SEAM attributes", lambda v: v.tdx(seam_attributes=1), ("tdx-seam-attributes",))
    yield Row(
        "relaunch advised",
        lambda v: v.tdx(version=5, later=True, tee_tcb_svn=bytes([3, 1, 2]) + bytes(13)),
        claims={"tcb_status": "TDRelaunchAdvised"},
    )
    yield Row(
        "modules by version",
        lambda v: v.tdx(tee_tcb_svn=bytes([3, 3, 2]) + bytes(13)),
        vendor={"collateral": Collateral(modules=(ModuleIdentity("TDX_03", (IsvLevel(3, "OutOfDate"),)),))},
        claims={"tcb_status": "OutOfDate"},
    )
    yield Row(
        "log of another boot",
        lambda v: part(v.tdx(log=True), event_log=encode_log(CC_BOOT + MORE, ("sha384",))),
        ("event-log-mismatch",),
    )
    yield Row("SGX identity for TDX", lambda v: v.tdx(enclave=QE), ("intel-qe-product",))


def sgx_rows() -> Iterator[Row]:
    yield from intel_rows("sgx")
    yield Row("v3", lambda v: v.sgx())
    yield Row("v4", lambda v: v.sgx(version=4))
    yield Row(
        "fields",
        lambda v: v.sgx(isvprodid=7, isvsvn=9, configid=b"\2" * 64),
        claims={"product_id": 7, "security_version": 9, "host_data": b"\2" * 64},
    )


def nitro_rows() -> Iterator[Row]:
    yield Row("indefinite map", lambda v: v.nitro())
    yield Row("definite map", lambda v: v.nitro(indefinite=False))
    yield Row("tagged", lambda v: v.nitro(tagged=True))
    yield Row(
        "with everything", lambda v: v.nitro(nonce=b"n", user_data=b"u", public_key=b"k"), claims={"report_data": b"n"}
    )
    yield Row("17 PCRs", lambda v: v.nitro(pcrs=dict.fromkeys(range(17), b"\x01" * 48)))
    yield Row("debug", lambda v: v.nitro(debug=True), claims={"debug": True})
    yield Row("three hours later", lambda v: v.nitro(), ("certificate-expired",), now=NOW + timedelta(hours=3))
    yield Row("leaf expired", lambda v: v.nitro(span=PAST), ("certificate-expired", "nitro-timestamp-outside"))
    yield Row(
        "time outside the certificate",
        lambda v: v.nitro(span=Span(NOW - DAY / 24, DAY / 8), timestamp=NOW - DAY),
        ("nitro-timestamp-outside",),
    )
    for what in ("region", "zone", "instance"):
        yield Row(
            f"{what} revoked", lambda v: v.nitro(), ("certificate-revoked",), vendor={"revoked": frozenset({what})}
        )
    yield Row("root not accepted", lambda v: v.nitro(), ("simulated-root-refused",), endorsing={"accept": False})
    yield Row(
        "other root accepted", lambda v: v.nitro(), ("crl-untrusted",) * 3 + ("simulated-root-refused",), holder=OTHER
    )
    yield Row(
        "signature altered",
        lambda v: replace(v.nitro(), report=flip(v.nitro().report, -1)),
        ("nitro-signature-invalid",),
    )


def tpm_rows() -> Iterator[Row]:
    yield Row("RSA, certified", lambda v: v.tpm())
    yield Row("RSA-PSS", lambda v: v.tpm(scheme=0x16))
    yield Row("ECC, certified", lambda v: v.tpm(key="ecc"))
    yield Row("with its public area", lambda v: v.tpm(public_area=True))
    yield Row("ECC with its public area", lambda v: v.tpm(key="ecc", public_area=True))
    yield Row("no certificate", lambda v: v.tpm(certified=False), optional=("ak",), endorsing={"omit": ("chain",)})
    yield Row("started from locality 3", lambda v: v.tpm(events=(startup_locality(3), *BOOT)))
    yield Row("some PCRs", lambda v: v.tpm(selection=(0, 4, 7)))
    yield Row("SHA-384 bank", lambda v: v.tpm(bank="sha384", log=False))
    yield Row("SHA-1 bank only", lambda v: v.tpm(bank="sha1", log=False), ("tpm-sha1-only",))
    yield Row("PCR digest wrong", lambda v: v.tpm(pcr_digest=bytes(32)), ("tpm-pcr-digest",))
    yield Row(
        "PCR exchanged", lambda v: part(v.tpm(), pcrs=v.tpm(events=BOOT + MORE).parts["pcrs"]), ("tpm-pcr-digest",)
    )
    yield Row(
        "log of another boot", lambda v: part(v.tpm(), event_log=encode_log(BOOT + MORE)), ("event-log-mismatch",)
    )
    yield Row("AK revoked", lambda v: v.tpm(), ("certificate-revoked",), vendor={"revoked": frozenset({"ak"})})
    yield Row("EK CA revoked", lambda v: v.tpm(), ("certificate-revoked",), vendor={"revoked": frozenset({"ek-ca"})})
    yield Row("AK certificate expired", lambda v: v.tpm(span=PAST), ("certificate-expired",))
    yield Row(
        "another machine's certificate",
        lambda v: replace(v.tpm(), certificates=v.tpm(machine="second").certificates),
        optional=("ak",),
    )
    yield Row(
        "another machine's signature",
        lambda v: part(v.tpm(), signature=v.tpm(machine="second").parts["signature"]),
        ("tpm-signature",),
    )
    yield Row("root not accepted", lambda v: v.tpm(), ("simulated-root-refused",), endorsing={"accept": False})
    yield Row(
        "other root accepted", lambda v: v.tpm(), ("crl-untrusted",) * 2 + ("simulated-root-refused",), holder=OTHER
    )


def azure_rows(tee: str) -> Iterator[Row]:
    make = "azure_snp" if tee == "az-snp-vtpm" else "azure_tdx"

    def quote(**options: Any) -> Make:
        return lambda v: getattr(v, make)(**options)

    good = quote()
    yield Row("good", good)
    yield Row("nonce", quote(nonce=b"challenge"), claims={"report_data": b"challenge"})
    yield Row("user data", quote(runtime=RuntimeData(user_data=b"\7" * 64)))
    yield Row("report names another key", quote(ak_machine="second"), ("tpm-signature",))
    yield Row("runtime data not bound", quote(report_data=bytes(64)), ("azure-runtime-data",))
    yield Row("PCR digest wrong", quote(attest={"pcr_digest": bytes(32)}), ("tpm-pcr-digest",))
    yield Row("quote taken away", lambda v: replace(good(v), report=b""), optional=("quote",))
    yield Row("root not accepted", good, ("simulated-root-refused",), endorsing={"accept": False})
    hardware = ("snp-chip-id-mismatch", "snp-signature-invalid") if tee == "az-snp-vtpm" else ("azure-td-report",)
    yield Row(
        "other machine's HCL report",
        lambda v: part(good(v), hcl_report=getattr(v, make)(machine="second").parts["hcl-report"]),
        ("tpm-signature", *hardware),
        endorsing={"omit": ("leaf",)},
    )


def azure_snp_rows() -> Iterator[Row]:
    yield from azure_rows("az-snp-vtpm")
    yield Row("Turin", lambda v: v.azure_snp(product="Turin", version=5))
    yield Row("VCEK missing", lambda v: v.azure_snp(certificates="none"), (), ("vcek",), endorsing={"omit": ("leaf",)})
    yield Row("ASK revoked", lambda v: v.azure_snp(), ("certificate-revoked",), vendor={"revoked": frozenset({"ask"})})
    yield Row("debug", lambda v: v.azure_snp(debug=True), claims={"debug": True})


def azure_tdx_rows() -> Iterator[Row]:
    yield from azure_rows("az-tdx-vtpm")
    yield Row("quote of another TD", lambda v: v.azure_tdx(quoted={"mrtd": b"\3" * 48}), ("azure-td-report",))
    yield Row("TCB info missing", lambda v: v.azure_tdx(), (), ("tcb-info",), endorsing={"omit": ("tcb-info",)})
    yield Row("debug", lambda v: v.azure_tdx(debug=True), ("tdx-debug",), claims={"debug": True})


def ratls_rows() -> Iterator[Row]:
    def make(**options: Any) -> Make:
        return lambda v: v.ratls(options=RatlsOptions(**options))

    for form in ("legacy", "dice", "both"):
        yield Row(form, make(form=form))
    yield Row("TDX inside", lambda v: v.ratls(tee="tdx", options=RatlsOptions(form="dice")), claims={"tee": "tdx"})
    yield Row("SHA-384 of the key", make(hash=7))
    yield Row("nonce", make(nonce=b"n"))
    other = b"another key"
    yield Row("legacy: another key", make(form="legacy", bound_key=other), ("ratls-binding-mismatch",))
    yield Row("dice: another key", make(form="dice", bound_key=other), ("ratls-key-mismatch",))
    yield Row("upper half used", make(form="legacy", wide=b"\1" * 32), ("ratls-report-data-excess",))
    yield Row("key not among the claims", make(form="dice", with_key_hash=False), ("ratls-key-unbound",))
    yield Row("expired", make(form="dice", not_after=NOW), ("certificate-expired",))
    yield Row("debug", lambda v: v.ratls(debug=True, options=RatlsOptions(form="dice")), ("sgx-debug",))
    yield Row("root not accepted", make(form="dice"), ("simulated-root-refused",), endorsing={"accept": False})
    yield Row("TCB info missing", make(), (), ("tcb-info",), endorsing={"omit": ("tcb-info",)})


ROWS: dict[str, tuple[Row, ...]] = {
    "snp": tuple(snp_rows()),
    "tdx": tuple(tdx_rows()),
    "sgx": tuple(sgx_rows()),
    "nitro": tuple(nitro_rows()),
    "tpm": tuple(tpm_rows()),
    "az-snp-vtpm": tuple(azure_snp_rows()),
    "az-tdx-vtpm": tuple(azure_tdx_rows()),
    "ratls": tuple(ratls_rows()),
}


def verified(row: Row) -> Claims:
    vendor = VENDOR.but(**row.vendor)
    evidence = row.make(vendor)
    options = dict(row.endorsing)
    minimum = options.pop("minimum", 0)
    endorsements = (row.holder or vendor).endorsements(evidence, **options)
    return verify(evidence, replace(endorsements, minimum_evaluation=minimum), row.now)


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{tee}: {row.name}") for tee, rows in ROWS.items() for row in rows]
)
def test_verifier_sees_what_the_vendor_did(row: Row) -> None:
    claims = verified(row)
    assert sorted(str(check.code) for check in claims.failures) == sorted(row.codes), claims.failures
    assert sorted(need.kind for need in claims.needs if need.required) == sorted(row.needs)
    assert sorted(need.kind for need in claims.needs if not need.required) == sorted(row.optional)
    assert claims.ok == (not row.codes and not row.needs)
    assert {name: getattr(claims, name) for name in row.claims} == row.claims


@pytest.mark.parametrize("tee", ROWS)
def test_a_stranger_in_the_pool_does_no_harm(tee: str) -> None:
    row = next(row for row in ROWS[tee] if not row.codes and not row.needs)
    evidence = row.make(VENDOR)
    strangers = OTHER.endorsements(OTHER.tdx()) | OTHER.endorsements(OTHER.snp()) | OTHER.endorsements(OTHER.nitro())
    held = strangers | VENDOR.endorsements(evidence, **row.endorsing)
    assert verify(evidence, held, NOW).ok
    assert verify(evidence, replace(held, accepted_simulated=frozenset()), NOW).failures


def appraised(tee: str, evidence: Evidence, nonce: bytes) -> list[str | None]:
    """The failed codes of the strictest policy for evidence that should hold this nonce."""
    claims = verify(evidence, VENDOR.endorsements(evidence), NOW)
    reference = ReferenceValues(
        measurements=(claims.measurement,),
        registers={name: (value,) for name, value in claims.registers.items()},
        report_data=nonce,
    )
    return [check.code for check in appraise(claims, reference, Policy(), NOW).failures]


NONCES: dict[str, Callable[[bytes], Evidence]] = {
    "snp": lambda nonce: VENDOR.snp(report_data=nonce.ljust(64, b"\0")),
    "tdx": lambda nonce: VENDOR.tdx(report_data=nonce.ljust(64, b"\0"), log=True),
    "sgx": lambda nonce: VENDOR.sgx(report_data=nonce.ljust(64, b"\0")),
    "nitro": lambda nonce: VENDOR.nitro(nonce=nonce),
    "tpm": lambda nonce: VENDOR.tpm(extra_data=nonce),
    "az-snp-vtpm": lambda nonce: VENDOR.azure_snp(nonce=nonce),
    "az-tdx-vtpm": lambda nonce: VENDOR.azure_tdx(nonce=nonce),
}


@pytest.mark.parametrize("tee", NONCES)
def test_the_strictest_policy_accepts_the_nonce_and_no_other(tee: str) -> None:
    nonce = b"a challenge of 32 bytes, or so...."[:32]
    assert appraised(tee, NONCES[tee](nonce), nonce) == []
    assert appraised(tee, NONCES[tee](nonce), b"\1" * 32) == ["report-data-mismatch"]


DEBUG: dict[str, Evidence] = {
    "snp": VENDOR.snp(debug=True),
    "tdx": VENDOR.tdx(debug=True),
    "sgx": VENDOR.sgx(debug=True),
    "nitro": VENDOR.nitro(debug=True),
    "az-snp-vtpm": VENDOR.azure_snp(debug=True),
    "az-tdx-vtpm": VENDOR.azure_tdx(debug=True),
}


@pytest.mark.parametrize("tee", DEBUG)
def test_the_strictest_policy_refuses_debug(tee: str) -> None:
    evidence = DEBUG[tee]
    claims = verify(evidence, VENDOR.endorsements(evidence), NOW)
    assert claims.debug
    assert "debug-enabled" in appraised(tee, evidence, claims.report_data)


@pytest.mark.parametrize("tee", ROWS)
def test_every_tee_has_a_good_and_a_bad_row_of_each_kind(tee: str) -> None:
    rows = ROWS[tee]
    assert any(not row.codes and not row.needs for row in rows)
    assert any("simulated-root-refused" in row.codes for row in rows)


@pytest.mark.parametrize("tee", [name for name in ROWS if name != "tpm"])
def test_simulated_is_always_said(tee: str) -> None:
    claims = verified(ROWS[tee][0])
    assert claims.ok
    assert claims.simulated
    assert claims.root in VENDOR.roots
