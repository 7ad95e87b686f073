"""Verify, fetch what was lacking, verify again."""

import threading
from dataclasses import replace
from datetime import datetime

import pytest
from endorsement_kit import CHAIN, NOW, QE_IDENTITY, TCB_INFO, World, vcek_need

from kokon.endorsements.gather import Wishes, gather, needs_of
from kokon.endorsements.service import AT_ONCE, Outcome, complete, fetch_all, resolve
from kokon.endorsements.sources import CacheOnly, Nothing
from kokon.errors import KokonError, UnreachableError, UsageError
from kokon.tee.endorsements import Endorsements, SignedDocument
from kokon.tee.evidence import Claims, Evidence, Need, passed
from kokon.testing.server import Mode
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.intel_quote import QuotingEnclave

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")


def bare(evidence: Evidence) -> Evidence:
    return replace(evidence, certificates=())


def test_evidence_alone_is_verified_with_what_the_services_have(world: World, vendor: FakeVendor) -> None:
    given = Endorsements(accepted_simulated=world.roots)
    for evidence in (bare(vendor.snp()), vendor.tdx(), vendor.sgx()):
        claims, pool = resolve(evidence, given, NOW, world.online())
        assert claims.ok
        assert claims.needs == ()
        assert not [check for check in claims.checks if check.code == "endorsement-unavailable"]
        assert pool.accepted_simulated == world.roots
        assert resolve(evidence, pool, NOW, Nothing())[0].ok
    asked = world.server.count()
    offline = CacheOnly(world.cache, accepted=world.roots, clock=world.clock)
    assert resolve(vendor.tdx(), given, NOW, offline)[0].ok
    assert world.server.count() == asked


def test_a_quote_without_its_certificate_gets_one(world: World, vendor: FakeVendor) -> None:
    """And only then is it known which platform's TCB info is needed."""
    evidence = vendor.sgx(enclave=QuotingEnclave(certification="encrypted-ppid"))
    claims, _pool = resolve(evidence, Endorsements(accepted_simulated=world.roots), NOW, world.online())
    assert claims.ok, (claims.failures, claims.needs)
    plain = vendor.sgx(enclave=QuotingEnclave(certification="plain-ppid"))
    claims, _pool = resolve(plain, Endorsements(accepted_simulated=world.roots), NOW, world.online())
    assert not claims.ok
    assert any("endorsement-not-offered" in str(check.found) for check in claims.checks)


def test_what_cannot_be_fetched_stays_a_need_with_the_reason(world: World, vendor: FakeVendor) -> None:
    world.server.mode = Mode.DOWN
    given = Endorsements(accepted_simulated=world.roots)
    claims, pool = resolve(bare(vendor.snp()), given, NOW, world.online())
    assert not claims.ok
    assert pool == given
    assert [need.kind for need in claims.needs if need.required] == ["vcek"]
    (reason,) = [check for check in claims.checks if check.code == "endorsement-unavailable"]
    assert reason.outcome == "not-checked"
    assert "endorsement-service-unreachable" in str(reason.found)
    assert reason.hint


def test_without_a_source_the_reason_is_that(vendor: FakeVendor, roots: frozenset[str]) -> None:
    claims, _pool = resolve(vendor.tdx(), Endorsements(accepted_simulated=roots), NOW, Nothing())
    codes = [check.found for check in claims.checks if check.code == "endorsement-unavailable"]
    assert len(codes) == len(claims.needs) > 2
    assert all("endorsement-offline" in str(found) for found in codes)


@pytest.mark.parametrize("mode", [Mode.WRONG, Mode.GARBAGE, Mode.HTML, Mode.ERROR])
def test_bad_services_never_make_good_or_forged_evidence(world: World, vendor: FakeVendor, mode: Mode) -> None:
    world.server.mode = mode
    given = Endorsements(accepted_simulated=world.roots)
    for evidence in (bare(vendor.snp()), vendor.tdx()):
        claims, pool = resolve(evidence, given, NOW, world.online())
        assert not claims.ok
        assert not claims.failures, "evidence is not to blame for a service"
        assert pool == given


class Scripted:
    """A source that has what it is told, and says what it was asked for."""

    def __init__(self, has: dict[str, Endorsements | KokonError]) -> None:
        self.has = has
        self.asked: list[Need] = []

    def fetch(self, need: Need, now: datetime) -> Endorsements:
        self.asked.append(need)
        found = self.has.get(need.kind, UnreachableError("endorsement-not-found", "no"))
        if isinstance(found, KokonError):
            raise found
        return found


def claims_with(*needs: Need) -> Claims:
    return Claims(
        tee="toy", simulated=True, root="", product="", measurement=b"", host_data=b"", report_data=b"", debug=False,
        migratable=False, vmpl=0, chip_id=b"", reported_tcb={}, checks=(passed("toy"),), needs=needs,
    )  # fmt: skip


CERTIFICATE = Endorsements((b"certificate",))


def test_of_several_chips_one_is_asked_for_at_a_time() -> None:
    """Reports of version 2 do not say their product line."""
    milan, genoa = (Need("vcek", (("product", line),)) for line in ("Milan", "Genoa"))
    source = Scripted({"vcek": CERTIFICATE})
    claims, pool = complete(
        lambda pool: claims_with() if pool.certificates else claims_with(milan, genoa), Endorsements(), NOW, source
    )
    assert source.asked == [milan]
    assert claims.needs == ()
    assert pool == CERTIFICATE
    nothing = Scripted({})
    claims, _pool = complete(lambda _pool: claims_with(milan, genoa), Endorsements(), NOW, nothing)
    assert nothing.asked == [milan, genoa]
    assert len([check for check in claims.checks if check.code == "endorsement-unavailable"]) == 2


def test_rounds_end() -> None:
    """Something that always wants more gets what four rounds bring, each thing once."""
    source = Scripted({"crl": CERTIFICATE})
    count = 0

    def greedy(_pool: Endorsements) -> Claims:
        nonlocal count
        count += 1
        return claims_with(Need("crl", (("number", str(count)),)))

    claims, _pool = complete(greedy, Endorsements(), NOW, source)
    assert len(source.asked) == 4
    assert count == 5
    assert claims.needs


def test_what_was_given_and_does_not_help_is_not_asked_for_again() -> None:
    source = Scripted({"crl": CERTIFICATE})
    claims, _pool = complete(lambda _pool: claims_with(Need("crl", ())), Endorsements(), NOW, source)
    assert len(source.asked) == 1
    assert claims.needs == (Need("crl", ()),)


class Slow:
    def __init__(self) -> None:
        self.together = threading.Barrier(3)
        self.threads: dict[str, str] = {}

    def fetch(self, need: Need, now: datetime) -> Endorsements:
        self.threads[need.kind] = threading.current_thread().name
        if need.kind != "vcek":
            self.together.wait(5)
        return CERTIFICATE


def test_several_at_once_but_chips_in_the_callers_thread() -> None:
    source = Slow()
    needs = [Need("a", ()), Need("vcek", ()), Need("b", ()), Need("c", ()), Need("a", ())]
    done: list[str] = []
    found = fetch_all(source, needs, NOW, lambda need, _outcome: done.append(need.kind))
    assert list(found) == needs[:4]
    assert sorted(done) == ["a", "b", "c", "vcek"]
    assert source.threads["vcek"] == threading.current_thread().name
    assert source.threads["a"].startswith("endorsements")
    assert AT_ONCE >= 3


def test_older_documents_of_a_batch_are_fetched_once_more() -> None:
    document = SignedDocument("tcb-info", b"", b"")
    numbers = {"tcb-info": [18, 19], "qe-identity": [19]}

    class Renewing:
        def fetch(self, need: Need, now: datetime) -> Endorsements:
            return Endorsements(documents=(document,), minimum_evaluation=numbers[need.kind].pop(0))

    found = fetch_all(Renewing(), [TCB_INFO, QE_IDENTITY], NOW)
    assert [outcome.minimum_evaluation for outcome in found.values() if isinstance(outcome, Endorsements)] == [19, 19]
    assert numbers == {"tcb-info": [], "qe-identity": []}


def test_a_quote_is_verified_although_the_cache_is_of_the_time_before(world: World, vendor: FakeVendor) -> None:
    given = Endorsements(accepted_simulated=world.roots)
    world.online().fetch(TCB_INFO, NOW)
    world.server.vendor = vendor.but(collateral=replace(vendor.collateral, evaluation=21))
    claims, pool = resolve(vendor.tdx(), given, NOW, world.online())
    assert claims.ok, claims.failures
    assert pool.minimum_evaluation == 21


def silent(_need: Need, _outcome: Outcome) -> None:
    pass


def test_wishes_become_needs(vendor: FakeVendor) -> None:
    assert [str(need) for need in needs_of(Wishes(products=("Milan",)))] == [
        "amd-chain kind=vcek product=Milan", "amd-chain kind=vlek product=Milan", "amd-crl product=Milan",
    ]  # fmt: skip
    kinds = [need.kind for need in needs_of(Wishes(fmspcs=("00606A000000",)))]
    assert kinds == ["tcb-info"] * 2 + ["qe-identity"] * 2 + ["pck-crl"] * 2 + ["root-crl"]
    (info, *_others) = needs_of(Wishes(fmspcs=("00606A000000",), tees=("tdx",)))
    assert info == TCB_INFO
    assert [need.kind for need in needs_of(Wishes(tees=("sgx",)))] == ["qe-identity", "pck-crl", "pck-crl", "root-crl"]
    chip = vendor.amd.chip_id("Milan").hex()
    wishes = Wishes(chips=(f"Milan:{chip}:bootloader=4,tee=0,snp=22,microcode=213",))
    assert needs_of(wishes)[0] == vcek_need(vendor)
    assert CHAIN in needs_of(wishes)


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(products=("milan/..",)),
        Wishes(fmspcs=("00606a",)),
        Wishes(tees=("nitro",)),
        Wishes(chips=("Milan",)),
        Wishes(chips=("Milan:00:bootloader=1",)),
        Wishes(chips=(f"Milan:{'11' * 64}:bootloader=1,tee=0,snp=2,microcode=x",)),
        Wishes(chips=(f"Milan:{'11' * 64}:bootloader=1,tee=0,snp=2,snp=2,microcode=1",)),
        Wishes(chips=(f"Milan:{'11' * 64}:bootloader=1,tee=0,snp=2,microcode=1,color=3",)),
        Wishes(chips=(f"Milan:{'11' * 64}:bootloader=1,tee=0,snp=2",)),
    ],
    ids=str,
)
def test_wishes_that_make_no_sense(wishes: Wishes) -> None:
    with pytest.raises(UsageError) as caught:
        needs_of(wishes)
    assert caught.value.code == "endorsement-parameters"


def test_gathering_for_evidence_and_wishes_together(world: World, vendor: FakeVendor) -> None:
    given = Endorsements(accepted_simulated=world.roots)
    seen: list[Need] = []
    wishes = Wishes(fmspcs=("00606a000000",), tees=("sgx",))
    gathered = gather(
        [vendor.tdx(), bare(vendor.snp())], wishes, given, NOW, world.online(), lambda need, _outcome: seen.append(need)
    )
    gathered.require()
    assert set(seen) == set(gathered.outcomes)
    for evidence in (vendor.tdx(), vendor.sgx(), bare(vendor.snp())):
        assert resolve(evidence, gathered.endorsements, NOW, Nothing())[0].ok


def test_what_is_missing_is_said(world: World, vendor: FakeVendor) -> None:
    wishes = Wishes(fmspcs=("ffffffffffff",), tees=("sgx",))
    gathered = gather([], wishes, Endorsements(), NOW, world.online(), silent)
    assert [need.kind for need in gathered.missing] == ["tcb-info"]
    with pytest.raises(UnreachableError) as caught:
        gathered.require()
    assert caught.value.code == "endorsements-incomplete"
    assert "fmspc=ffffffffffff" in str(caught.value.expected)
    assert "endorsement-not-found" in str(caught.value.found)


def test_a_platform_without_one_of_the_tees_is_complete() -> None:
    class SgxOnly:
        def fetch(self, need: Need, now: datetime) -> Endorsements:
            if need.kind == "tcb-info" and ("tee", "tdx") in need.parameters:
                raise UnreachableError("endorsement-not-found", "no TDX")
            return CERTIFICATE

    gather([], Wishes(fmspcs=("00606a000000",)), Endorsements(), NOW, SgxOnly(), silent).require()
    nothing = gather(
        [], Wishes(fmspcs=("00606a000000",)), Endorsements(), NOW, Scripted({"qe-identity": CERTIFICATE}), silent
    )
    assert [need.kind for need in nothing.missing].count("tcb-info") == 2


def test_an_old_reports_other_product_lines_are_not_missing(world: World, vendor: FakeVendor) -> None:
    evidence = bare(vendor.snp(version=2))
    given = Endorsements(accepted_simulated=world.roots)
    gathered = gather([evidence], Wishes(), given, NOW, world.online(), silent)
    gathered.require()
    assert resolve(evidence, gathered.endorsements, NOW, Nothing())[0].ok
