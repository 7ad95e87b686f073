"""The cache on disk: many processes, bad disks, rubbish in files."""

import json
import multiprocessing
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from endorsement_kit import NOW, Clock

from kokon.endorsements.cache import Cache, default_directory
from kokon.errors import StaleError, UnreachableError, UntrustedError, UsageError
from kokon.tee.endorsements import Endorsements
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.authority import Span
from kokon.testing.vendor.intel_collateral import tcb_info


@pytest.fixture(scope="module")
def some(vendor: FakeVendor) -> Endorsements:
    platform = vendor.platforms[0]
    return Endorsements(
        vendor.intel.chain(platform),
        (vendor.intel.root_crl(frozenset(), Span(NOW, timedelta(days=30))),),
        (tcb_info(vendor.intel, vendor.collateral, "tdx", platform),),
    )


def test_what_is_put_comes_back(cache: Cache, clock: Clock, some: Endorsements) -> None:
    assert cache.get("vcek a") is None
    cache.put("vcek a", some)
    clock.now += 5
    entry = cache.get("vcek a")
    assert entry is not None
    assert set(entry.endorsements.certificates) == set(some.certificates)
    assert entry.endorsements.crls == some.crls
    assert entry.endorsements.documents == some.documents
    assert clock.now - entry.fetched == 5
    assert cache.get("vcek b") is None
    assert cache.problem is None
    assert cache.directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in cache.directory.glob("*.json")} == {0o600}


def test_order_of_certificates_within_an_entry_is_kept(cache: Cache, some: Endorsements) -> None:
    """The first is what was asked for, the others its chain."""
    for certificates in (some.certificates, some.certificates[::-1]):
        cache.put("pck", Endorsements(certificates))
        entry = cache.get("pck")
        assert entry is not None
        assert entry.endorsements.certificates == certificates


def test_what_a_caller_believes_is_not_written_down(cache: Cache, some: Endorsements) -> None:
    believed = Endorsements(some.certificates, accepted_simulated=frozenset({"aa"}), enrolled_keys=frozenset({"bb"}))
    cache.put("key", believed)
    entry = cache.get("key")
    assert entry is not None
    assert not entry.endorsements.accepted_simulated
    assert not entry.endorsements.enrolled_keys
    assert cache.everything() == Endorsements(entry.endorsements.certificates)


def only_file(cache: Cache) -> Path:
    (path,) = cache.directory.glob("*.json")
    return path


def test_damaged_files_are_dropped(cache: Cache, some: Endorsements) -> None:
    cache.put("key", some)
    good = only_file(cache).read_bytes()
    for length in (0, 1, 50, len(good) - 1):
        only_file(cache).write_bytes(good[:length])
        assert cache.get("key") is None
        assert list(cache.directory.glob("*.json")) == []
        cache.put("key", some)
    value = json.loads(good)
    for change in ({"format": "other"}, {"extra": 1}, {"items": [{"kind": "x", "data": ""}]}, {"fetched": "now"}):
        only_file(cache).write_text(json.dumps(value | change))
        assert cache.get("key") is None
        cache.put("key", some)
    assert cache.get("key") is not None


def test_a_file_under_another_name_is_not_believed(cache: Cache, some: Endorsements) -> None:
    cache.put("one", some)
    one = only_file(cache)
    cache.put("two", some)
    (two,) = set(cache.directory.glob("*.json")) - {one}
    two.write_bytes(one.read_bytes())
    assert cache.get("two") is None
    assert cache.get("one") is not None


def test_links_folders_and_pipes_are_not_read(cache: Cache, some: Endorsements, tmp_path: Path) -> None:
    cache.put("key", some)
    path = only_file(cache)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.get("key") is None
    path.unlink()
    os.mkfifo(path)
    assert cache.get("key") is None
    path.unlink()
    path.mkdir()
    assert cache.get("key") is None
    cache.put("key", some)
    assert cache.problem is not None


def test_a_disk_that_cannot_be_written_keeps_nothing_and_says_so(tmp_path: Path, some: Endorsements) -> None:
    (tmp_path / "file").write_text("no directory")
    broken = Cache(tmp_path / "file")
    broken.put("key", some)
    broken.put_failure("key", UnreachableError("endorsement-not-found", "x"), 60)
    broken.raise_floor("name", 3)
    assert broken.get("key") is None
    assert broken.failure("key") is None
    assert broken.floor("name") == 0
    assert broken.problem
    assert list(broken.entries()) == []
    with broken.lock("key") as got:
        assert not got


def test_the_least_used_go_when_there_is_too_much(tmp_path: Path, some: Endorsements) -> None:
    probe = Cache(tmp_path / "probe")
    probe.put("x", some)
    size = only_file(probe).stat().st_size
    cache = Cache(tmp_path / "cache", limit=3 * size + 10)
    past = time.time() - 1000
    for number, key in enumerate(["a", "b", "c"]):
        cache.put(key, some)
        os.utime(cache._path(key), (past + number, past + number))
    assert cache.get("a") is not None, "and so a was used last"
    cache.put("d", some)
    assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]


def test_what_nobody_finished_is_removed(cache: Cache, some: Endorsements) -> None:
    cache.put("a", some)
    for name in (".1.tmp", ".2.tmp"):
        (cache.directory / name).write_text("half")
    os.utime(cache.directory / ".1.tmp", (1, 1))
    cache.put("b", some)
    assert sorted(path.name for path in cache.directory.glob(".*.tmp")) == [".2.tmp"]


def test_failures_are_remembered_for_a_while(cache: Cache, clock: Clock, some: Endorsements) -> None:
    assert cache.failure("key") is None
    error = UnreachableError("endorsement-not-found", "no such chip", found="HTTP 404", hint="hm")
    cache.put_failure("key", error, 60)
    found = cache.failure("key")
    assert isinstance(found, UnreachableError)
    assert found.as_dict() == error.as_dict()
    assert cache.failure("other") is None
    clock.now += 61
    assert cache.failure("key") is None
    assert list(cache.directory.glob("*.failed")) == []
    cache.put_failure("key", UntrustedError("endorsement-wrong", "no"), 60)
    assert isinstance(cache.failure("key"), UntrustedError)
    cache.put("key", some)
    assert cache.failure("key") is None


def test_only_the_failures_of_services_are_remembered(cache: Cache) -> None:
    for error in (UsageError("endorsement-parameters", "x"), StaleError("endorsement-stale", "x")):
        cache.put_failure("key", error, 60)
        assert cache.failure("key") is None


def test_a_failure_that_makes_no_sense_is_forgotten(cache: Cache, clock: Clock) -> None:
    cache.put_failure("key", UnreachableError("endorsement-not-found", "x"), 60)
    (path,) = cache.directory.glob("*.failed")
    value = json.loads(path.read_text())
    bad = (
        value | {"until": int(clock.now) + 10**9},
        value | {"key": "other"},
        value | {"format": "endorsement-cache-malformed"},
        value | {"error": value["error"] | {"code": "image-not-found"}},
        value | {"error": value["error"] | {"kind": "internal"}},
        {},
    )
    for members in bad:
        path.write_text(json.dumps(members))
        assert cache.failure("key") is None
        assert not path.exists()
    path.write_text(json.dumps(value))
    assert cache.failure("key") is not None


def test_an_entry_of_another_version_is_dropped(cache: Cache, some: Endorsements) -> None:
    """It raises "endorsement-cache-malformed" inside, which nobody outside sees."""
    cache.put("key", some)
    path = only_file(cache)
    path.write_text(path.read_text().replace("kokon endorsement cache 1", "kokon endorsement cache 2"))
    assert cache.get("key") is None
    assert not path.exists()


def test_floors_only_rise(cache: Cache) -> None:
    assert cache.floor("tdx") == 0
    cache.raise_floor("tdx", 17)
    cache.raise_floor("tdx", 15)
    cache.raise_floor("sgx", 3)
    assert (cache.floor("tdx"), cache.floor("sgx"), Cache(cache.directory).floor("tdx")) == (17, 3, 17)
    (cache.directory / "floors.json").write_text('{"floors":{"tdx":"x","sgx":-1,"ok":4}}')
    assert (cache.floor("tdx"), cache.floor("sgx"), cache.floor("ok")) == (0, 0, 4)
    (cache.directory / "floors.json").write_text("{")
    assert cache.floor("ok") == 0
    cache.raise_floor("tdx", 2)
    assert cache.floor("tdx") == 2


def test_entries_lists_all_and_drops_the_damaged(cache: Cache, some: Endorsements) -> None:
    for key in ("a", "b", "c"):
        cache.put(key, some)
    cache.raise_floor("tdx", 1)
    cache._path("b").write_text("damaged")
    assert {entry.key for entry in cache.entries()} == {"a", "c"}
    assert cache.everything().documents == some.documents


def test_locks_of_different_kinds_never_coincide(cache: Cache) -> None:
    """A VCEK's lock is held while its chain is fetched, which must not wait for itself."""
    for number in range(300):
        with cache.lock(f"vcek {number}") as first, cache.lock("amd-chain x") as second:
            assert first
            assert second


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "endorsements"
    monkeypatch.delenv("KOKON_HOME")
    assert default_directory() == Path.home() / ".local/share/kokon/endorsements"


def hammer(directory: Path, certificates: tuple[bytes, ...], rounds: int, base: int) -> None:
    cache = Cache(directory, limit=40_000)
    for number in range(rounds):
        key = f"vcek {number % 5}"
        cache.put(key, Endorsements(certificates))
        cache.raise_floor("tdx", base + number)
        entry = cache.get(key)
        if entry is not None and entry.endorsements.certificates != certificates:
            raise SystemExit(3)


def test_two_processes_at_once_never_see_half_of_anything(tmp_path: Path, some: Endorsements) -> None:
    context = multiprocessing.get_context("spawn")
    arguments = (tmp_path, some.certificates, 40)
    processes = [context.Process(target=hammer, args=(*arguments, base)) for base in (0, 7)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert Cache(tmp_path).floor("tdx") == 46
    assert list(tmp_path.glob(".*.tmp")) == []
