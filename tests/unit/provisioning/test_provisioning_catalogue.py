"""Catalogues follow the records of a project, and records with a history name what they took the place of."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from database_factory import Lab
from hypothesis import given
from hypothesis import strategies as st

from kokon.appraisal.policy import Policy
from kokon.errors import KokonError
from kokon.provisioning import catalogue as catalogues
from kokon.provisioning.catalogue import (
    ATTESTATION_POLICY,
    PLATFORM_POLICY,
    REFERENCE,
    RESOURCE_POLICY,
    WORKLOAD,
    Catalogues,
)
from kokon.provisioning.database import Delete, Entry, Put, Store, Work
from kokon.provisioning.history import TEXT_LIMIT, Text, check_previous, decode_text, digest_of, encode_text
from kokon.provisioning.rego.reference import StoredValue, encode_value
from kokon.provisioning.workload import Workload, encode_workload
from kokon.wire import canonical_json

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
RULES = Policy()
DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Lab(tmp_path / "kokon.db").open() as store:
        yield store


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(KokonError) as caught:
        call()
    return caught.value.code


def change(store: Store, *changes: Put | Delete, project: str = "default") -> None:
    store.commit(Work(project, (Entry("test", {}),), changes))


def workload(name: str, number: int = 1, **changes: Any) -> Put:
    digest = hashlib.sha256(f"{name} {number}".encode()).digest()
    members = {"host_data": digest, "not_after": NOW + timedelta(days=1), "resources": (f"{name}/a/b",)}
    return Put(WORKLOAD, name, encode_workload(Workload(name=name, admitted=NOW, **{**members, **changes})))


def text(kind: str, name: str, content: str) -> Put:
    return Put(kind, name, encode_text(Text(content, "", "")))


# -- catalogues ----------------------------------------------------------------------------------------------------


def test_an_empty_project(store: Store) -> None:
    found = Catalogues(store).of("default", RULES)
    assert (found.project, dict(found.workloads), dict(found.pinned), found.policy) == ("default", {}, {}, RULES)
    assert found.rego.chosen is None


def test_a_catalogue_follows_its_records(store: Store) -> None:
    known = Catalogues(store)
    change(store, workload("a"), workload("b"), text(PLATFORM_POLICY, "default", 'name = "ours"\n'))
    first = known.of("default", RULES)
    assert sorted(first.workloads) == ["a", "b"]
    assert first.workloads["a"].resources == ("a/a/b",)
    assert {one.name for one in first.pinned.values()} == {"a", "b"}
    assert first.policy.name == "ours"
    assert known.of("default", RULES) is first, "nothing has changed"
    change(store, workload("a", 2), Delete(WORKLOAD, "b"), Delete(PLATFORM_POLICY, "default"))
    change(store, text(ATTESTATION_POLICY, "default", "package policy"), text(RESOURCE_POLICY, "default", "package x"))
    change(store, Put(REFERENCE, "svn", encode_value(StoredValue("svn", [1], NOW))))
    assert known.known("default", RULES) is None
    second = known.of("default", RULES)
    assert sorted(second.workloads) == ["a"]
    assert second.workloads["a"].host_data != first.workloads["a"].host_data
    assert set(second.pinned) == {second.workloads["a"].host_data}
    assert second.policy is RULES
    assert second.rego.chosen == ("default", "package policy")
    assert (dict(second.rego.resource), list(second.rego.references)) == ({"default": "package x"}, ["svn"])
    assert (first.generation < second.generation, sorted(first.workloads)) == (True, ["a", "b"]), "what was, stays"


def test_what_is_no_change_of_the_project_is_none_of_its_catalogue(store: Store) -> None:
    known = Catalogues(store)
    change(store, workload("a"))
    first = known.of("default", RULES)
    change(store, workload("a", 2), project="bank")
    store.commit(Work("default", (Entry("handshake", {}),)))
    assert known.of("default", RULES) is first
    assert known.of("bank", RULES).workloads["a"].host_data != first.workloads["a"].host_data
    other = Policy(name="other")
    assert known.of("default", other).policy is other, "the server's own rules are another's"


def test_only_what_changed_is_read_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Catalogues(store)
    change(store, *(workload(name) for name in "abcde"))
    known.of("default", RULES)
    read: list[str] = []
    original = store.read
    monkeypatch.setattr(
        store, "read", lambda project, kind, name, *v: read.append(name) or original(project, kind, name, *v)
    )
    change(store, workload("c", 2))
    assert len(known.of("default", RULES).workloads) == 5
    assert read == ["c"]


def test_activations_are_counted_anew_after_a_withdrawal(store: Store) -> None:
    known = Catalogues(store)

    def counter() -> str:
        found = known.of("default", RULES)
        return found.activations(found.workloads["a"])

    change(store, workload("a"))
    first = counter()
    change(store, workload("a", 2))
    assert counter() == first, "admitted again it is the same workload"
    change(store, Delete(WORKLOAD, "a"))
    change(store, workload("a"))
    assert counter() != first


def test_a_record_that_goes_in_the_middle(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the snapshot and the reading of a record another request takes it away."""
    known = Catalogues(store)
    change(store, workload("a"), workload("b"))
    original = store.read
    gone: list[str] = []

    def reading(project: str, kind: str, name: str, *version: int) -> bytes | None:
        if name == "b" and not gone:
            gone.append(name)
            change(store, Delete(WORKLOAD, "b"), workload("c"))
        return original(project, kind, name, *version)

    monkeypatch.setattr(store, "read", reading)
    found = known.of("default", RULES)
    assert gone
    assert sorted(found.workloads) == ["a", "c"], "all of one moment"
    assert found.generation == store.snapshot("default").generation


@pytest.mark.parametrize("kind", [WORKLOAD, PLATFORM_POLICY, ATTESTATION_POLICY, REFERENCE])
def test_of_records_that_never_stand_still_nothing_is_made(
    store: Store, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A catalogue without them would let in what the project's policy does not."""
    known = Catalogues(store)
    change(store, Put(kind, "default", b"never read"), text(PLATFORM_POLICY, "default", 'name = "ours"\n'))
    with monkeypatch.context() as patched:
        original = store.read
        patched.setattr(store, "read", lambda project, k, *where: None if k == kind else original(project, k, *where))
        assert refused(lambda: known.of("default", RULES)) == "store-busy"
        assert known.known("default", RULES) is None
    change(store, Delete(kind, "default"))
    known.of("default", RULES)


def test_a_record_that_is_none_is_not_passed_over(store: Store) -> None:
    known = Catalogues(store)
    for kind in (WORKLOAD, PLATFORM_POLICY, ATTESTATION_POLICY, RESOURCE_POLICY, REFERENCE):
        change(store, Put(kind, "default", b"junk"))
        assert refused(lambda: known.of("default", RULES)) == "json-malformed"
        change(store, Delete(kind, "default"))
    assert dict(known.of("default", RULES).workloads) == {}


def test_catalogues_of_many_projects_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogues, "PROJECTS", 3)
    known = Catalogues(store)
    for number in range(5):
        change(store, workload("a", number), project=f"p{number}")
        known.of(f"p{number}", RULES)
    assert set(known._known) == set(known._decoded) == {"p2", "p3", "p4"}
    assert "a" in known.of("p0", RULES).workloads


def test_threads_get_one_catalogue(store: Store) -> None:
    known = Catalogues(store)
    change(store, *(workload(f"w{number}") for number in range(20)))
    found: list[int] = []
    gate = threading.Barrier(4)

    def look() -> None:
        gate.wait(20)
        found.append(len(known.of("default", RULES).workloads))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [20] * 4


# -- records with a history ----------------------------------------------------------------------------------------


@given(st.builds(Text, st.text(max_size=200), st.sampled_from(["", DIGEST]), st.text(max_size=20)))
def test_texts_come_back(kept: Text) -> None:
    assert decode_text(encode_text(kept)) == kept


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 2}, "field-range"),
        ({"text": 1}, "field-type"),
        ({"text": "x" * (TEXT_LIMIT + 1)}, "field-too-long"),
        ({"previous": "x" * 65}, "field-too-long"),
        ({"by": "x" * 65}, "field-too-long"),
        ({"more": 1}, "field-unknown"),
    ],
)
def test_what_is_no_record_of_a_text(changes: dict[str, Any], code: str) -> None:
    record = {"version": 1, "text": "x", "previous": "", "by": ""}
    assert decode_text(canonical_json(record)) == Text("x", "", "")
    assert refused(lambda: decode_text(json.dumps({**record, **changes}).encode())) == code


def test_digests_of_records() -> None:
    assert digest_of(None) == ""
    assert digest_of(b"") == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("found", ["", DIGEST])
def test_a_change_that_knows_what_it_replaces(found: str) -> None:
    check_previous(None, found)
    check_previous(found, found)
    other = DIGEST if not found else ""
    assert refused(lambda: check_previous(other, found)) == "changed-meanwhile"
    assert refused(lambda: check_previous("0" * 64, found)) == "changed-meanwhile"


@pytest.mark.parametrize(
    "given", ["x", DIGEST.upper(), DIGEST[:-1], DIGEST + "0", DIGEST + "\n", "\n", 0, False, [], {}, 1.5, b""]
)
def test_what_names_no_record(given: object) -> None:
    for found in ("", DIGEST):
        assert refused(lambda found=found: check_previous(given, found)) == "previous-malformed"
