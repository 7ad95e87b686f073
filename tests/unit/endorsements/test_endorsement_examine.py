"""Is an answer what was asked for? Genuine ones pass; everything else is refused with a reason."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from endorsement_kit import (
    AMD_CRL,
    CHAIN,
    NOW,
    PCK_CRL,
    QE_IDENTITY,
    ROOT_CRL,
    SGX_TCB_INFO,
    TCB_INFO,
    pck_need,
    vcek_need,
)

from kokon.endorsements.examine import examine
from kokon.errors import KokonError, StaleError, UntrustedError, UsageError
from kokon.tee.endorsements import Endorsements, SignedDocument
from kokon.tee.evidence import Need
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.amd import Tcb
from kokon.testing.vendor.authority import Span, make_root
from kokon.testing.vendor.intel_collateral import Tee, qe_identity, tcb_info

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

MONTH = timedelta(days=30)
SPAN = Span(NOW - timedelta(days=1), MONTH)
YEARS = timedelta(days=3650)


def vcek(vendor: FakeVendor, chip: str = "first", tcb: Tcb | None = None) -> Endorsements:
    leaf = vendor.amd.vcek("Milan", vendor.amd.chip_id("Milan", chip), tcb or Tcb())
    return Endorsements((leaf, *vendor.amd.chain("Milan")))


def crl(vendor: FakeVendor, span: Span = SPAN) -> Endorsements:
    return Endorsements(vendor.amd.chain("Milan"), (vendor.amd.crl("Milan", frozenset(), span),))


def info(vendor: FakeVendor, tee: Tee = "tdx", **changes: object) -> Endorsements:
    collateral = replace(vendor.collateral, **changes)  # type: ignore[arg-type]
    return Endorsements(documents=(tcb_info(vendor.intel, collateral, tee, vendor.platforms[0]),))


def identity(vendor: FakeVendor, tee: Tee = "tdx") -> Endorsements:
    return Endorsements(documents=(qe_identity(vendor.intel, vendor.collateral, tee),))


def pck_crl(vendor: FakeVendor, span: Span = SPAN) -> Endorsements:
    chain = (vendor.intel.ca("platform").certificate, vendor.intel.root().certificate)
    return Endorsements(chain, (vendor.intel.pck_crl("platform", frozenset(), span),))


def root_crl(vendor: FakeVendor) -> Endorsements:
    return Endorsements((vendor.intel.root().certificate,), (vendor.intel.root_crl(frozenset(), SPAN),))


def good(vendor: FakeVendor) -> dict[Need, Endorsements]:
    return {
        vcek_need(vendor): vcek(vendor),
        CHAIN: Endorsements(vendor.amd.chain("Milan")),
        Need("amd-chain", (("kind", "vlek"), ("product", "Milan"))): Endorsements(vendor.amd.chain("Milan", "vlek")),
        AMD_CRL: crl(vendor),
        TCB_INFO: info(vendor),
        SGX_TCB_INFO: info(vendor, "sgx"),
        Need("tcb-info", (("fmspc", "00606A000000"), ("tee", "sgx"))): info(vendor, "sgx", version=2),
        QE_IDENTITY: identity(vendor),
        PCK_CRL: pck_crl(vendor),
        ROOT_CRL: root_crl(vendor),
        pck_need(vendor): Endorsements(vendor.intel.chain(vendor.platforms[0])),
    }


def test_what_was_asked_for_passes(vendor: FakeVendor, roots: frozenset[str]) -> None:
    for need, answer in good(vendor).items():
        examined = examine(need, answer, NOW, accepted=roots)
        assert examined.root in roots
        assert examined.expires is not None
        assert examined.expires > NOW
        assert examined.evaluation == (20 if answer.documents else 0)


def test_every_answer_is_wrong_for_every_other_need(vendor: FakeVendor, roots: frozenset[str]) -> None:
    """But for two needs of SGX TCB info that differ in the case of the FMSPC only, for AMD's list, which comes with its
    chain here, and for simulated roots, which may stand for any vendor: only the pinned ones are one vendor's."""
    answers = good(vendor)
    passing = []
    for need in answers:
        for other, answer in answers.items():
            try:
                examine(need, answer, NOW, accepted=roots)
                passing.append((need, other))
            except UntrustedError as error:
                assert error.code == "endorsement-wrong"  # noqa: PT017
    infos = [need for need in answers if need.kind == "tcb-info" and ("tee", "sgx") in need.parameters]
    same = [(one, other) for one in infos for other in infos]
    known = {(CHAIN, AMD_CRL), (ROOT_CRL, AMD_CRL)}
    assert set(passing) == {(need, need) for need in answers} | set(same) | known


def test_nothing_and_rubbish_are_wrong(vendor: FakeVendor, roots: frozenset[str]) -> None:
    rubbish = SignedDocument("tcb-info", b"{}", bytes(64))
    for need in good(vendor):
        for answer in (Endorsements(), Endorsements((b"0",), (b"0",), (rubbish,)), Endorsements((b"",), (b"",))):
            with pytest.raises(UntrustedError) as caught:
                examine(need, answer, NOW, accepted=roots)
            assert caught.value.code == "endorsement-wrong"


def test_a_simulated_root_must_be_accepted(vendor: FakeVendor) -> None:
    for need, answer in good(vendor).items():
        with pytest.raises(UntrustedError) as caught:
            examine(need, answer, NOW)
        assert caught.value.code == "endorsement-wrong"
        assert "--accept-simulated" in str(caught.value.hint)


Change = Callable[[FakeVendor], tuple[Need, Endorsements]]
WRONG: dict[str, Change] = {
    "another chip": lambda v: (vcek_need(v), vcek(v, "second")),
    "another TCB": lambda v: (vcek_need(v), vcek(v, tcb=Tcb(microcode=5))),
    "a VLEK": lambda v: (vcek_need(v), Endorsements((v.amd.vlek("Milan", "CN=x", Tcb()), *v.amd.chain("Milan")))),
    "no chain": lambda v: (vcek_need(v), Endorsements(vcek(v).certificates[:1])),
    "forged leaf": lambda v: (vcek_need(v), Endorsements((flip(vcek(v).certificates[0]), *v.amd.chain("Milan")))),
    "another kind of authority": lambda v: (CHAIN, Endorsements(v.amd.chain("Milan", "vlek"))),
    "root first": lambda v: (CHAIN, Endorsements(v.amd.chain("Milan")[::-1])),
    "forged list": lambda v: (AMD_CRL, Endorsements(v.amd.chain("Milan"), (flip(crl(v).crls[0]),))),
    "two lists": lambda v: (AMD_CRL, replace(crl(v), crls=crl(v).crls + crl(v, Span(NOW, MONTH)).crls)),
    "another platform": lambda v: (Need("tcb-info", (("fmspc", "50806f000000"), ("tee", "tdx"))), info(v)),
    "another TEE": lambda v: (TCB_INFO, info(v, "sgx")),
    "another TEE's identity": lambda v: (QE_IDENTITY, identity(v, "sgx")),
    "an identity": lambda v: (TCB_INFO, identity(v)),
    "forged document": lambda v: (TCB_INFO, Endorsements(documents=(forged(info(v).documents[0]),))),
    "no issuer": lambda v: (TCB_INFO, Endorsements(documents=(replace(info(v).documents[0], chain=()),))),
    "the other CA's list": lambda v: (Need("pck-crl", (("ca", "processor"),)), pck_crl(v)),
    "the CA's list for the root's": lambda v: (ROOT_CRL, pck_crl(v)),
    "another PCE": lambda v: (
        Need("pck", tuple(sorted((dict(pck_need(v).parameters) | {"pceid": "0100"}).items()))),
        Endorsements(v.intel.chain(v.platforms[0])),
    ),
}


def flip(der: bytes) -> bytes:
    return der[:-1] + bytes([der[-1] ^ 1])


def forged(document: SignedDocument) -> SignedDocument:
    return replace(document, body=document.body.replace(b'"UpToDate"', b'"Upt0Date"'))


@pytest.mark.parametrize("name", WRONG)
def test_something_else_is_refused(name: str, vendor: FakeVendor, roots: frozenset[str]) -> None:
    need, answer = WRONG[name](vendor)
    with pytest.raises(UntrustedError) as caught:
        examine(need, answer, NOW, accepted=roots)
    assert caught.value.code == "endorsement-wrong"


def test_a_root_of_another_product_line(vendor: FakeVendor, roots: frozenset[str]) -> None:
    for need in (Need("amd-chain", (("kind", "vcek"), ("product", "Genoa"))), Need("amd-crl", (("product", "Genoa"),))):
        with pytest.raises(UntrustedError) as caught:
            examine(need, Endorsements(vendor.amd.chain("Milan"), crl(vendor).crls), NOW, accepted=roots)
        assert caught.value.expected == "Genoa"


def test_an_impostor_with_the_vendors_name_is_refused(vendor: FakeVendor, roots: frozenset[str]) -> None:
    key = vendor.keys.elliptic("impostor")
    root = make_root("Intel SGX Root CA", key, Span(NOW - YEARS, 2 * YEARS), serial=1)
    answer = Endorsements((root.certificate,), (root.crl([], SPAN),))
    with pytest.raises(UntrustedError) as caught:
        examine(ROOT_CRL, answer, NOW, accepted=roots)
    assert caught.value.code == "endorsement-wrong"
    assert examine(ROOT_CRL, answer, NOW, accepted=frozenset({root.fingerprint})).root == root.fingerprint


@pytest.mark.parametrize("days", [-2, 29, 30, 400])
def test_what_is_out_of_date_is_stale_not_wrong(days: int, vendor: FakeVendor, roots: frozenset[str]) -> None:
    """Its very end is out of date already: everything here began a day before NOW and lives for 30."""
    at = NOW + timedelta(days=days)
    for need, answer in ((AMD_CRL, crl(vendor)), (TCB_INFO, info(vendor)), (PCK_CRL, pck_crl(vendor))):
        with pytest.raises(StaleError) as caught:
            examine(need, answer, at, accepted=roots)
        assert caught.value.code == "endorsement-stale"
        examine(need, answer, NOW + timedelta(days=28), accepted=roots)


def test_an_expired_certificate_is_stale(vendor: FakeVendor, roots: frozenset[str]) -> None:
    with pytest.raises(StaleError) as caught:
        examine(vcek_need(vendor), vcek(vendor), NOW + YEARS, accepted=roots)
    assert caught.value.code == "endorsement-stale"


BAD = {
    "no product": Need("vcek", ()),
    "path in the product": Need("amd-crl", (("product", "../x"),)),
    "empty chip": Need("vcek", (("chip-id", "00" * 64), ("product", "Milan"))),
    "short chip": Need("vcek", (("chip-id", "11" * 8), ("product", "Milan"))),
    "long chip": Need("vcek", (("chip-id", "11" * 64), ("product", "Turin"))),
    "no TCB": Need("vcek", (("chip-id", "11" * 64), ("product", "Milan"))),
    "TCB too large": Need(
        "vcek",
        (("bootloader", "256"), ("chip-id", "11" * 64), ("microcode", "1"), ("product", "Milan"), ("snp", "1"),
         ("tee", "1")),
    ),
    "FMSPC": Need("tcb-info", (("fmspc", "xyz"), ("tee", "tdx"))),
    "TEE": Need("qe-identity", (("tee", "nitro"),)),
    "CA": Need("pck-crl", (("ca", "root"),)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_needs_that_make_no_sense(name: str, vendor: FakeVendor) -> None:
    answers = [answer for need, answer in good(vendor).items() if need.kind == BAD[name].kind]
    with pytest.raises(KokonError) as caught:
        examine(BAD[name], answers[0], NOW)
    assert isinstance(caught.value, UsageError)
    assert caught.value.code == "endorsement-parameters"
