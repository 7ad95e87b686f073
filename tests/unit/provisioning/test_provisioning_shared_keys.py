"""The server's keys where several replicas make, read and renew them at once, and one of them is late."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from database_factory import Lab, Postgres

from kokon.errors import DeniedError, HostError, KokonError
from kokon.provisioning import bearer
from kokon.provisioning.bearer import TOKEN_KEY_AGE, TOKEN_KEY_OVERLAP, Tokens
from kokon.provisioning.custody.master import make_master
from kokon.provisioning.database import Entry, Put, Store, Work
from kokon.provisioning.keys import SERVER, SERVER_KEY, ServerKeys, kept, open_keys

MASTER = make_master()
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    if request.param == "sqlite":
        return Lab(tmp_path / "kokon.db")
    return Lab(request.getfixturevalue("postgres").reuse())


@pytest.fixture
def store(lab: Lab) -> Iterator[Store]:
    with lab.open_with(MASTER) as store:
        yield store


@pytest.fixture
def pair(postgres: Postgres) -> Iterator[tuple[Store, Store]]:
    """Two stores on one PostgreSQL that hear nothing of each other but when they look."""
    lab = Lab(postgres.reuse())
    with lab.open_with(MASTER) as one, lab.open_with(MASTER) as two:
        for store in (one, two):
            store._listener.close()
            store._writer._task(lambda: None).result()
        yield one, two


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(KokonError) as caught:
        call()
    return caught.value.code


def put(store: Store, name: str, value: bytes) -> None:
    store.commit(Work(SERVER, (Entry("test", {}),), (Put(SERVER_KEY, name, value),)))


def public(keys: ServerKeys) -> tuple[bytes, bytes, str]:
    owner, tls = (
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in (keys.owner, keys.tls)
    )
    return owner, tls, keys.certificate


def made(store: Store) -> list[bytes]:
    return [entry for entry in store.entries(SERVER, 0, 100) if b'"server-key-made"' in entry]


def together(*calls: Callable[[], object]) -> list[object]:
    """What they give or the error that they raise, all begun at once."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        gate.wait(20)
        try:
            return call()
        except KokonError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


# -- the server's own keys -----------------------------------------------------------------------------------------


def test_replicas_that_make_keys_at_once_have_the_same(pair: tuple[Store, Store]) -> None:
    def opening(store: Store) -> Callable[[], object]:
        return lambda: public(open_keys(store, ("server.example",), NOW))

    found = together(*(opening(store) for store in pair * 2))
    assert found == [found[0]] * 4
    assert len(made(pair[0])) == 3


def test_a_key_that_another_made_meanwhile_is_taken(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Heard of between looking for it and making it: it must not take the place of the other's."""
    one, two = pair
    read = two.read

    def looking(*where: str) -> bytes | None:
        found = read(*where)
        if found is None:
            kept(one, "owner", lambda: b"first")
            two.freshen(SERVER)
        return found

    monkeypatch.setattr(two, "read", looking)
    assert kept(two, "owner", lambda: b"second") == b"first"
    assert one.read(SERVER, SERVER_KEY, "owner") == b"first"


@pytest.mark.parametrize("name", ["owner", "tls"])
def test_a_record_that_is_no_key(store: Store, name: str) -> None:
    for value in (b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        put(store, name, value)
        assert refused(lambda: open_keys(store, (), NOW)) == "server-key-malformed"


def test_a_certificate_of_another_key(store: Store) -> None:
    keys = open_keys(store, (), NOW)
    put(store, "certificate", b"no certificate")
    assert refused(lambda: open_keys(store, (), NOW)) == "certificate-malformed"
    open_keys(store, (), NOW, renew=True)
    put(store, "certificate", keys.certificate.encode())
    assert refused(lambda: open_keys(store, (), NOW)) == "certificate-malformed"


def test_key_and_certificate_are_renewed_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_keys(store, ("old.example",), NOW)
    with monkeypatch.context() as patched:

        def stop(_work: Work) -> None:
            raise HostError("disk-full", "no space")

        patched.setattr(store, "commit", stop)
        assert refused(lambda: open_keys(store, (), NOW, renew=True)) == "disk-full"
    assert refused(lambda: open_keys(store, ("sérver",), NOW, renew=True)) == "tls-name-malformed"
    assert public(open_keys(store, ("old.example",), NOW)) == public(before), "neither was"
    after = open_keys(store, ("new.example",), NOW, renew=True)
    assert public(after)[0] == public(before)[0]
    assert public(after)[1] != public(before)[1]
    assert public(open_keys(store, ("new.example",), NOW)) == public(after)
    assert refused(lambda: open_keys(store, ("old.example",), NOW)) == "tls-name-missing"
    certificate = x509.load_pem_x509_certificate(after.certificate.encode())
    assert certificate.public_key() == after.tls.public_key()
    kept_versions = [len(store.snapshot(SERVER).versions(SERVER_KEY, name)) for name in ("tls", "certificate")]
    assert kept_versions == [1, 1], "the old key is gone for good"
    late = NOW + timedelta(days=3651)
    assert refused(lambda: open_keys(store, (), late)) == "tls-expired"
    open_keys(store, (), late, renew=True)


def test_a_new_server_may_begin_with_a_new_certificate(store: Store) -> None:
    keys = open_keys(store, ("server.example",), NOW, renew=True)
    assert public(open_keys(store, ("server.example",), NOW)) == public(keys)
    assert len(made(store)) == 3


def test_replicas_that_renew_at_once(pair: tuple[Store, Store]) -> None:
    """One of them did not know what it replaced; whoever starts next fits together."""
    open_keys(pair[0], (), NOW)
    pair[1].freshen(SERVER)
    found = together(*(lambda store=store: public(open_keys(store, (), NOW, renew=True)) for store in pair))
    lost = [one for one in found if isinstance(one, DeniedError)]
    assert [one.code for one in lost] == ["changed-meanwhile"]
    won = next(one for one in found if not isinstance(one, DeniedError))
    for store in pair:
        store.freshen(SERVER)
        assert public(open_keys(store, (), NOW)) == won


# -- keys of tokens ------------------------------------------------------------------------------------------------


def kids(tokens: Tokens, now: datetime = NOW) -> list[str]:
    return [one["kid"] for one in tokens.jwks(now)["keys"]]


def test_replicas_have_one_token_key(pair: tuple[Store, Store]) -> None:
    found = together(*(lambda store=store: kids(Tokens(store, NOW)) for store in pair * 2))
    assert found == [found[0]] * 4


def test_a_key_that_is_old_enough_is_renewed_once(pair: tuple[Store, Store]) -> None:
    one, two = (Tokens(store, NOW) for store in pair)
    (first,) = kids(one)
    later = NOW + TOKEN_KEY_AGE
    assert one._signing(later - timedelta(seconds=1)).current.kid == first
    signing = together(*(lambda tokens=tokens: tokens._signing(later).current.kid for tokens in (one, two) * 3))
    assert len(set(signing)) == 1, "whoever was late has taken the other's"
    assert kids(one, later) == kids(two, later) == [signing[0], first]
    assert kids(one, later + TOKEN_KEY_OVERLAP) == [signing[0]]
    rotated = [entry for entry in pair[0].entries(SERVER, 0, 100) if b"token-key-rotated" in entry]
    assert len(rotated) == 1
    assert len(pair[0].snapshot(SERVER).versions(SERVER_KEY, "token")) == 1, "older private keys are gone for good"


def test_each_rotation_that_is_asked_for_is_done(pair: tuple[Store, Store]) -> None:
    """At whatever replica, and whatever that one has heard of."""
    one, two = (Tokens(store, NOW) for store in pair)
    asked = [tokens.rotate(NOW, "somebody") for tokens in (one, one, two, two, one)]
    assert len(set(asked)) == 5
    pair[1].freshen(SERVER)
    assert kids(two)[:5] == kids(one)[:5] == asked[::-1]
    asked = [str(kid) for kid in together(*(lambda tokens=tokens: tokens.rotate(NOW, "") for tokens in (one, two) * 2))]
    assert len(set(asked)) == 4
    for store in pair:
        store.freshen(SERVER)
    assert kids(one) == kids(two)
    assert set(kids(one)[:4]) == set(asked)


def test_a_rotation_that_never_comes_through(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(store, NOW)

    def conflict(_work: Work) -> None:
        raise DeniedError("changed-meanwhile", "again")

    before = kids(tokens)
    with monkeypatch.context() as patched:
        patched.setattr(store, "commit", conflict)
        assert refused(lambda: tokens.rotate(NOW, "")) == "store-busy"
    assert kids(tokens) == before
    assert tokens.rotate(NOW, "") not in before


def test_a_rotation_while_a_replica_starts_is_not_missed(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its reading of the record and its looking at which one that was."""
    one, two = pair
    first = Tokens(one, NOW)
    two.freshen(SERVER)

    def reading(store: Store, name: str, make: Callable[[], bytes]) -> bytes:
        found = kept(store, name, make)
        first.rotate(NOW, "")
        store.freshen(SERVER)
        return found

    monkeypatch.setattr(bearer, "kept", reading)
    assert kids(Tokens(two, NOW)) == kids(first)


def test_keys_survive_a_start(lab: Lab) -> None:
    with lab.open_with(MASTER) as store:
        tokens = Tokens(store, NOW)
        tokens.rotate(NOW, "")
        found = kids(tokens)
    with lab.open_with(MASTER) as store, contextlib.nullcontext(Tokens(store, NOW)) as tokens:
        assert kids(tokens) == found
        assert len(found) == 2
