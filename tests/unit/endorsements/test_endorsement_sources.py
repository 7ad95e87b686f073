"""The services through the cache: once asked, then kept; outages, wrong and old answers, many at once."""

import multiprocessing
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from endorsement_kit import (
    AMD_CRL,
    CHAIN,
    NOW,
    PCK_CRL,
    QE_IDENTITY,
    QUICK,
    ROOT_CRL,
    SGX_TCB_INFO,
    TCB_INFO,
    Clock,
    World,
    pck_need,
    vcek_need,
)

from kokon.endorsements.cache import Cache
from kokon.endorsements.http import Getter, Patience
from kokon.endorsements.kds import Kds
from kokon.endorsements.limiter import Limiter
from kokon.endorsements.pcs import Access, Choice, Pcs
from kokon.endorsements.sources import CacheOnly, Freshness, Nothing, Online, connect, default_cache
from kokon.errors import KokonError, StaleError, UnreachableError, UntrustedError, UsageError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Need
from kokon.testing.server import Mode, VendorServer
from kokon.testing.vendor import FakeVendor

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")


def code(call: object) -> str:
    with pytest.raises(KokonError) as caught:
        call()  # type: ignore[operator]
    return caught.value.code


def test_each_thing_is_asked_for_once(world: World, vendor: FakeVendor) -> None:
    needs = [vcek_need(vendor), AMD_CRL, TCB_INFO, QE_IDENTITY, PCK_CRL, ROOT_CRL, pck_need(vendor)]
    first = [world.online().fetch(need, NOW) for need in needs]
    asked = world.server.count()
    world.server.mode = Mode.DOWN
    again = [world.online().fetch(need, NOW) for need in needs]
    assert again == first
    assert world.server.count() == asked
    assert all(found.certificates or found.crls or found.documents for found in first)


def test_a_leaf_whose_issuer_is_not_known_is_looked_at_with_its_chain(world: World, vendor: FakeVendor) -> None:
    found = world.online().fetch(vcek_need(vendor), NOW)
    assert found.certificates[1:] == vendor.amd.chain("Milan")
    assert world.server.count("/vcek/v1/Milan/cert_chain") == 1
    root = world.online().fetch(ROOT_CRL, NOW)
    assert vendor.intel.root().certificate in root.certificates


@pytest.mark.parametrize("need", [AMD_CRL, TCB_INFO, QE_IDENTITY, PCK_CRL, CHAIN], ids=str)
def test_wrong_answers_are_never_kept(world: World, need: Need) -> None:
    world.server.mode = Mode.WRONG
    with pytest.raises(UntrustedError) as caught:
        world.online().fetch(need, NOW)
    assert caught.value.code == "endorsement-wrong"
    assert list(world.cache.entries()) == []
    world.server.mode = Mode.NORMAL
    world.clock.now += 31
    world.online().fetch(need, NOW)


def test_another_chips_certificate_is_never_kept(world: World, vendor: FakeVendor) -> None:
    world.server.mode = Mode.WRONG
    assert code(lambda: world.online().fetch(vcek_need(vendor), NOW)) == "endorsement-wrong"
    assert list(world.cache.entries()) == []


@pytest.mark.parametrize("need", [AMD_CRL, TCB_INFO, PCK_CRL], ids=str)
def test_stale_answers_are_never_kept(world: World, need: Need) -> None:
    world.server.mode = Mode.STALE
    with pytest.raises(StaleError) as caught:
        world.online().fetch(need, NOW)
    assert caught.value.code == "endorsement-stale"
    assert str(need) not in {entry.key for entry in world.cache.entries()}
    world.server.mode = Mode.NORMAL
    world.online().fetch(need, NOW)


HOSTILE = {
    Mode.ERROR: "endorsement-service-unreachable",
    Mode.RESET: "endorsement-service-unreachable",
    Mode.TRUNCATED: "endorsement-service-unreachable",
    Mode.HUGE: "endorsement-answer-malformed",
    Mode.BOMB: "endorsement-answer-malformed",
    Mode.REDIRECT: "endorsement-redirected",
    Mode.DOWN: "endorsement-service-unreachable",
}


@pytest.mark.parametrize("mode", HOSTILE)
@pytest.mark.parametrize("need", [AMD_CRL, TCB_INFO], ids=str)
def test_hostile_services_leave_nothing_behind(world: World, mode: Mode, need: Need) -> None:
    world.server.mode = mode
    assert code(lambda: world.online().fetch(need, NOW)) == HOSTILE[mode]
    assert list(world.cache.entries()) == []


@pytest.mark.parametrize("mode", [Mode.GARBAGE, Mode.HTML])
@pytest.mark.parametrize("kind", ["vcek", "amd-crl", "amd-chain", "tcb-info", "pck-crl", "root-crl", "pck"])
def test_rubbish_is_never_kept(world: World, vendor: FakeVendor, mode: Mode, kind: str) -> None:
    needs = [vcek_need(vendor), AMD_CRL, CHAIN, TCB_INFO, PCK_CRL, ROOT_CRL, pck_need(vendor)]
    world.server.mode = mode
    (need,) = [need for need in needs if need.kind == kind]
    assert code(lambda: world.online().fetch(need, NOW)) in ("endorsement-wrong", "endorsement-answer-malformed")
    assert list(world.cache.entries()) == []


def test_a_failure_is_not_repeated_at_once(world: World) -> None:
    world.server.mode = Mode.ERROR
    for _ in range(3):
        assert code(lambda: world.online().fetch(TCB_INFO, NOW)) == "endorsement-service-unreachable"
    assert world.server.count() == QUICK.attempts
    world.clock.now += 31
    assert code(lambda: world.online().fetch(TCB_INFO, NOW)) == "endorsement-service-unreachable"
    assert world.server.count() == 2 * QUICK.attempts
    world.server.mode = Mode.NORMAL
    assert world.online(again=True).fetch(TCB_INFO, NOW).documents


def test_what_does_not_exist_is_not_asked_for_again_for_ten_minutes(world: World) -> None:
    need = Need("tcb-info", (("fmspc", "ffffffffffff"), ("tee", "tdx")))
    for seconds, requests in ((0, 1), (590, 1), (20, 2)):
        world.clock.now += seconds
        assert code(lambda: world.online().fetch(need, NOW)) == "endorsement-not-found"
        assert world.server.count() == requests


def test_after_a_day_it_is_asked_for_again_and_an_outage_is_survived(world: World, vendor: FakeVendor) -> None:
    first = world.online().fetch(TCB_INFO, NOW)
    world.clock.now += 86_000
    assert world.online().fetch(TCB_INFO, NOW) == first
    assert world.server.count() == 1
    world.clock.now += 1000
    world.server.mode = Mode.ERROR
    for _ in range(3):
        assert world.online().fetch(TCB_INFO, NOW) == first, "in date, and so better than nothing"
    assert world.server.count() == 1 + QUICK.attempts
    world.server.mode = Mode.NORMAL
    world.clock.now += 31
    world.online().fetch(TCB_INFO, NOW)
    world.online().fetch(TCB_INFO, NOW)
    assert world.server.count() == 2 + QUICK.attempts


def test_certificates_last(world: World, vendor: FakeVendor) -> None:
    first = world.online().fetch(vcek_need(vendor), NOW)
    world.clock.now += 300 * 86_400
    world.server.mode = Mode.DOWN
    limit = Freshness(limit=timedelta(minutes=1))
    assert world.online(freshness=limit).fetch(vcek_need(vendor), NOW + timedelta(days=300)) == first


def test_a_limit_of_age_is_one(world: World) -> None:
    world.online().fetch(TCB_INFO, NOW)
    world.clock.now += 7200
    world.server.mode = Mode.DOWN
    fresh = Freshness(limit=timedelta(hours=1))
    assert code(lambda: world.online(freshness=fresh).fetch(TCB_INFO, NOW)) == "endorsement-service-unreachable"
    older = Freshness(limit=timedelta(hours=3))
    assert world.online(freshness=older).fetch(TCB_INFO, NOW).documents


def test_without_refreshing_only_its_own_end_counts(world: World) -> None:
    world.online().fetch(TCB_INFO, NOW)
    world.clock.now += 28 * 86_400
    world.server.mode = Mode.DOWN
    patient = world.online(freshness=Freshness(refresh=None))
    assert patient.fetch(TCB_INFO, NOW + timedelta(days=28)).documents
    assert code(lambda: patient.fetch(TCB_INFO, NOW + timedelta(days=29))) == "endorsement-service-unreachable"


def test_what_is_out_of_date_is_fetched_anew(world: World, vendor: FakeVendor) -> None:
    world.online().fetch(TCB_INFO, NOW)
    later = NOW + timedelta(days=40)
    world.clock.now += 40 * 86_400
    world.server.vendor = vendor.but(collateral=replace(vendor.collateral, age=-timedelta(days=39)))
    (document,) = world.online().fetch(TCB_INFO, later).documents
    assert b'"issueDate":"2027-01-01' in document.body


def evaluated(vendor: FakeVendor, number: int) -> FakeVendor:
    return vendor.but(collateral=replace(vendor.collateral, evaluation=number))


def test_the_tcb_evaluation_number_never_goes_back(world: World, vendor: FakeVendor) -> None:
    assert world.online().fetch(TCB_INFO, NOW).minimum_evaluation == 20
    world.server.vendor = evaluated(vendor, 19)
    with pytest.raises(UntrustedError) as caught:
        world.online().fetch(QE_IDENTITY, NOW)
    assert caught.value.code == "endorsement-rolled-back"
    assert world.online().fetch(SGX_TCB_INFO, NOW).minimum_evaluation == 19, "each kind of TEE has its own"
    world.server.vendor = evaluated(vendor, 21)
    world.clock.now += 31
    assert world.online().fetch(QE_IDENTITY, NOW).minimum_evaluation == 21
    assert world.online().fetch(TCB_INFO, NOW).minimum_evaluation == 21, "what was kept is too old by now"
    assert world.server.count("/tdx/certification/v4/tcb") == 2


def test_old_knowledge_put_back_into_the_cache_is_not_used(world: World, vendor: FakeVendor) -> None:
    world.online().fetch(TCB_INFO, NOW)
    (kept,) = world.cache.entries()
    world.server.vendor = evaluated(vendor, 22)
    world.online(again=True).fetch(TCB_INFO, NOW)
    world.cache.put(kept.key, kept.endorsements)
    offline = CacheOnly(world.cache, accepted=world.roots, clock=world.clock)
    assert code(lambda: offline.fetch(TCB_INFO, NOW)) == "endorsement-not-cached"


def test_early_numbers_and_other_roots_say_nothing_about_these(
    world: World, vendor: FakeVendor, roots: frozenset[str]
) -> None:
    def pcs(choice: Choice) -> Online:
        clients = (Pcs(Getter(QUICK), Access(world.server.url), choice),)
        return Online(clients, world.cache, accepted=roots, clock=world.clock)

    world.server.vendor = evaluated(vendor, 25)
    assert pcs(Choice("early")).fetch(TCB_INFO, NOW).minimum_evaluation == 25
    world.server.vendor = vendor
    assert pcs(Choice()).fetch(TCB_INFO, NOW).minimum_evaluation == 20
    other = FakeVendor(seed=b"another", now=NOW)
    world.server.vendor = evaluated(other, 3)
    both = Online(
        (Pcs(Getter(QUICK), Access(world.server.url)),),
        world.cache,
        accepted=frozenset({other.intel.root().fingerprint}),
        clock=world.clock,
    )
    assert both.fetch(TCB_INFO, NOW).minimum_evaluation == 3


def test_a_root_that_is_not_accepted_any_more_is_not_used_from_the_cache(world: World) -> None:
    world.online().fetch(TCB_INFO, NOW)
    strict = CacheOnly(world.cache, clock=world.clock)
    assert code(lambda: strict.fetch(TCB_INFO, NOW)) == "endorsement-not-cached"
    assert CacheOnly(world.cache, accepted=world.roots, clock=world.clock).fetch(TCB_INFO, NOW).documents


def test_bytes_changed_on_disk_are_not_used(world: World) -> None:
    """A damaged signature in the cache must not make good evidence fail."""
    world.online().fetch(TCB_INFO, NOW)
    (entry,) = world.cache.entries()
    (document,) = entry.endorsements.documents
    forged = replace(document, signature=bytes([document.signature[0] ^ 1]) + document.signature[1:])
    world.cache.put(entry.key, Endorsements(documents=(forged,)))
    assert world.online().fetch(TCB_INFO, NOW).documents == (document,)
    assert world.server.count() == 2


def test_429_makes_everybody_wait_and_then_goes_on(world: World, vendor: FakeVendor) -> None:
    world.patience = Patience(read=20, total=1000, attempts=2, pause=0.001)
    world.server.mode, world.server.limit, world.server.retry_after = Mode.RATE_LIMIT, 0, 17
    assert code(lambda: world.online().fetch(vcek_need(vendor), NOW)) == "endorsement-rate-limited"
    assert world.clock.slept == [17], "the second attempt had to wait"
    assert world.server.count() == 2
    assert code(lambda: world.online().fetch(vcek_need(vendor), NOW)) == "endorsement-rate-limited"
    assert world.server.count() == 2, "and for a minute nobody asks again"


def test_vceks_are_spaced(world: World, vendor: FakeVendor) -> None:
    for chip in ("first", "second", "third"):
        world.online().fetch(vcek_need(vendor, chip=chip), NOW)
    assert world.clock.slept == [10, 10]


def test_many_threads_make_one_request(world: World) -> None:
    found: list[Endorsements] = []
    threads = [threading.Thread(target=lambda: found.append(world.online().fetch(TCB_INFO, NOW))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(repr, found))) == 1
    assert world.server.count() == 1


def fetch(url: str, directory: Path, roots: frozenset[str], needs: tuple[Need, ...]) -> None:
    clock = Clock()
    getter = Getter(QUICK)
    limiter = Limiter(directory / "kds-turn", 0.05)
    online = Online(
        (Kds(getter, limiter, url), Pcs(getter, Access(url))), Cache(directory), accepted=roots, clock=clock
    )
    for need in needs:
        online.fetch(need, NOW)


def test_two_processes_make_one_request_for_each_thing(
    server: VendorServer, vendor: FakeVendor, roots: frozenset[str], tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    needs = (vcek_need(vendor), AMD_CRL, TCB_INFO, QE_IDENTITY, vcek_need(vendor, chip="second"))
    arguments = (server.url, tmp_path, roots, needs)
    processes = [context.Process(target=fetch, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    targets = [request.target for request in server.requests]
    assert len(targets) == len(set(targets)) == len(needs) + 1, "the chain came along"
    assert (tmp_path / "kds-turn").exists(), "and chips waited for their turn"


def test_what_nobody_can_be_asked_for(world: World, cache: Cache) -> None:
    for need in (Need("ak", ()), Need("vlek", ()), Need("issuer", ())):
        assert code(lambda need=need: world.online().fetch(need, NOW)) == "endorsement-not-offered"
        assert code(lambda need=need: CacheOnly(cache).fetch(need, NOW)) == "endorsement-not-offered"
    amd_only = Online((Kds(Getter(QUICK), Limiter(cache.directory / "x"), world.server.url),), cache)
    assert code(lambda: amd_only.fetch(TCB_INFO, NOW)) == "endorsement-not-offered"
    with pytest.raises(UsageError):
        world.online().fetch(Need("vcek", ()), NOW)


def test_no_source_at_all() -> None:
    with pytest.raises(UnreachableError) as caught:
        Nothing().fetch(TCB_INFO, NOW)
    assert caught.value.code == "endorsement-offline"


def test_a_cache_that_cannot_be_written_is_no_obstacle(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    world.cache = Cache(tmp_path / "file", clock=world.clock)
    online = world.online()
    assert online.fetch(TCB_INFO, NOW).documents
    assert online.problem


def test_connecting_by_environment(
    server: VendorServer, roots: frozenset[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    monkeypatch.setenv("KOKON_KDS_URL", server.url)
    monkeypatch.setenv("KOKON_PCS_URL", server.url + "/sgx/certification/v4")
    online = connect(accepted=roots, getter=Getter(QUICK))
    assert online.fetch(AMD_CRL, NOW).crls
    assert online.fetch(TCB_INFO, NOW).documents
    assert {entry.key.split()[0] for entry in default_cache().entries()} == {"amd-crl", "amd-chain", "tcb-info"}
    monkeypatch.setenv("KOKON_KDS_URL", "http://kds.example")
    assert code(connect) == "endorsement-url"
    (tmp_path / "file").write_text("")
    connect(tmp_path / "file" / "below", kds=server.url)
