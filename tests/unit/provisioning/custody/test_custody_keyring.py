"""The key ring and its document."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from custody_kit import MASTER, OTHER, refused
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError, MalformedError, UntrustedError, UsageError
from kokon.provisioning.custody.keyring import KEYS_LIMIT, RING_LIMIT, KeyRing, decode_ring, make_ring
from kokon.provisioning.custody.master import MasterKey, make_master

NONCE = bytes(12)
RING = make_ring().add().add()
DOCUMENT = RING.encode(MASTER)


def sealed(ring: KeyRing, key_id: int) -> bytes:
    return ring.aead(key_id).encrypt(NONCE, b"value", b"name")


def opens(ring: KeyRing, key_id: int, value: bytes) -> bool:
    try:
        return ring.aead(key_id).decrypt(NONCE, value, b"name") == b"value"
    except InvalidTag:
        return False


def forged(change: Callable[[dict[str, Any]], object], document: bytes = DOCUMENT) -> bytes:
    members = json.loads(document)
    change(members)
    return json.dumps(members).encode()


def test_a_new_ring() -> None:
    ring = make_ring()
    assert (ring.current, ring.generation, ring.ids) == (1, 1, (1,))
    assert opens(ring, 1, sealed(ring, 1))
    assert not opens(make_ring(), 1, sealed(ring, 1))
    assert make_ring().identity != ring.identity


def test_nothing_secret_shows() -> None:
    shown = repr(RING) + str(DOCUMENT)
    for secret in (RING._root, *RING._keys.values(), RING.subkey("session")):
        for form in (repr(secret)[2:-1], secret.hex(), str(secret)):
            assert form not in shown
    assert repr(RING) == "KeyRing(current=3, generation=3)"


def test_rings_are_not_changed_by_what_is_made_of_them() -> None:
    ring = make_ring()
    larger = ring.add()
    assert (ring.ids, larger.ids, larger.retire(1).ids) == ((1,), (1, 2), (2,))
    assert (ring.generation, larger.generation, larger.retire(1).generation) == (1, 2, 3)
    assert (ring.current, larger.current, larger.retire(1).current) == (1, 2, 2)
    with pytest.raises(TypeError):
        ring._keys[2] = b"x"  # type: ignore[index]
    assert opens(larger, 1, sealed(ring, 1))
    assert not opens(larger, 2, sealed(ring, 1)), "each key is another"


def test_ids_are_never_used_again() -> None:
    ring = make_ring().add()
    assert ring.retire(1).add().ids == (2, 3)


def test_unknown_and_retired_keys() -> None:
    for key_id in (0, 4, -1):
        with refused("store-key-unknown", UntrustedError):
            RING.aead(key_id)
    with refused("store-key-unknown", UntrustedError):
        RING.retire(2).aead(2)
    with refused("store-key-unknown", UntrustedError):
        RING.retire(2).retire(2)
    with refused("keyring-current", UsageError):
        RING.retire(3)


def test_round_trip() -> None:
    again = decode_ring(DOCUMENT, MASTER, at_least=3, ring=RING.identity)
    assert (again.current, again.generation, again.ids, again.identity) == (3, 3, (1, 2, 3), RING.identity)
    assert all(opens(again, key_id, sealed(RING, key_id)) for key_id in RING.ids)
    assert again.subkey("session") == RING.subkey("session")


def test_subkeys() -> None:
    """They stay when keys and master change, and no two labels share one."""
    later = decode_ring(RING.add().retire(1).rewrap(OTHER), OTHER)
    assert later.subkey("multiset-hash") == RING.subkey("multiset-hash")
    assert len({RING.subkey("a"), RING.subkey("b"), RING._root, *RING._keys.values()}) == 6
    assert make_ring().subkey("a") != RING.subkey("a")
    assert len(RING.subkey("a")) == 32
    for label in ("", "A", "a b", "-a", "a-", "a\0", "a\n", "x" * 65):
        with refused("subkey-label", UsageError):
            RING.subkey(label)


def test_a_new_master_without_touching_what_is_stored() -> None:
    document = decode_ring(DOCUMENT, MASTER).rewrap(OTHER)
    after = decode_ring(document, OTHER, at_least=RING.generation, ring=RING.identity)
    assert all(opens(after, key_id, sealed(RING, key_id)) for key_id in RING.ids)
    with refused("keyring-foreign", UntrustedError):
        decode_ring(document, MASTER)
    with refused("keyring-foreign", UntrustedError):
        decode_ring(DOCUMENT, OTHER)


def test_lost_foreign_and_old_rings() -> None:
    with refused("keyring-missing", UntrustedError):
        decode_ring(None, MASTER)
    with refused("keyring-foreign", UntrustedError):
        decode_ring(make_ring().encode(MASTER), MASTER, ring=RING.identity)
    with refused("keyring-rolled-back", UntrustedError):
        decode_ring(DOCUMENT, MASTER, at_least=4)


def swapped(members: dict[str, Any]) -> None:
    first, second = members["keys"][:2]
    for name in ("nonce", "sealed"):
        first[name], second[name] = second[name], first[name]


def from_another(members: dict[str, Any]) -> None:
    members["keys"][2] = json.loads(make_ring().add().add().encode(MASTER))["keys"][2]


@pytest.mark.parametrize(
    "change",
    [
        swapped,
        from_another,
        lambda members: members["keys"].pop(0),
        lambda members: members.update(generation=4),
        lambda members: members.update(root=json.loads(make_ring().encode(MASTER))["root"]),
        lambda members: members.update(mac="A" * 43 + "="),
        lambda members: (members["keys"].pop(), members.update(current=2)),
    ],
    ids=["two swapped", "one of another ring", "one left out", "generation", "root", "mac", "newest left out"],
)
def test_changed_documents(change: Callable[[dict[str, Any]], object]) -> None:
    with refused("keyring-tampered", UntrustedError):
        decode_ring(forged(change), MASTER)


def renumbered(members: dict[str, Any]) -> None:
    members["keys"][2].update(id=4)
    members.update(current=4)


@pytest.mark.parametrize(("change", "ok"), [(swapped, False), (renumbered, False), (lambda members: None, True)])
def test_a_key_is_bound_to_its_id(change: Callable[[dict[str, Any]], object], ok: bool) -> None:
    """Even with the document's code made anew, which needs the master."""
    from kokon.provisioning.custody.keyring import _mac
    from kokon.wire import b64

    members = json.loads(DOCUMENT)
    change(members)
    del members["mac"]
    document = json.dumps({**members, "mac": b64(_mac(MASTER, members))}).encode()
    if ok:
        assert decode_ring(document, MASTER).ids == RING.ids
        return
    with refused("keyring-tampered", UntrustedError):
        decode_ring(document, MASTER)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"", "json-malformed"),
        (DOCUMENT + b"x", "json-malformed"),
        (DOCUMENT + b" " * RING_LIMIT, "json-too-large"),
        (forged(lambda m: m.update(format="x")), "keyring-format"),
        (forged(lambda m: m.update(version=2)), "keyring-format"),
        (forged(lambda m: m.update(current=2)), "keyring-format"),
        (forged(lambda m: m.update(keys=[])), "keyring-format"),
        (forged(lambda m: m["keys"].reverse()), "keyring-format"),
        (forged(lambda m: m["keys"].append(m["keys"][2])), "keyring-format"),
        (forged(lambda m: m["root"].update(id=1)), "keyring-format"),
        (forged(lambda m: m["root"].update(more=1)), "field-unknown"),
        (forged(lambda m: m.update(more=1)), "field-unknown"),
        (forged(lambda m: m.update(generation=0)), "field-range"),
        (forged(lambda m: m.update(current=0)), "field-range"),
        (forged(lambda m: m.pop("mac")), "field-missing"),
        (forged(lambda m: m.update(mac="")), "size-mismatch"),
        (forged(lambda m: m["keys"][0].update(sealed="AAAA")), "size-mismatch"),
        (forged(lambda m: m.update(keys=[1])), "field-type"),
    ],
)
def test_malformed_documents(document: bytes, code: str) -> None:
    with refused(code, MalformedError):
        decode_ring(document, MASTER)


def test_every_byte_counts() -> None:
    for place in range(len(DOCUMENT)):
        data = bytearray(DOCUMENT)
        data[place] ^= 1
        with pytest.raises(KokonError):
            decode_ring(bytes(data), MASTER)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_ring(data, MASTER)


@given(st.lists(st.integers(0, 5), max_size=20))
def test_any_history_keeps_what_is_not_retired(steps: list[int]) -> None:
    """0 adds, 1 to 3 retire the oldest keys but the current, 4 changes the master, 5 forgets nothing by encoding."""
    ring, master = make_ring(), make_master()
    values = {1: sealed(ring, 1)}
    gone: set[int] = set()
    for step in steps:
        if step == 0:
            ring = ring.add()
            values[ring.current] = sealed(ring, ring.current)
        elif step < 4 and ring.ids[0] != ring.current:
            gone.add(ring.ids[0])
            ring = ring.retire(ring.ids[0])
        else:
            master = make_master() if step == 4 else master
            ring = decode_ring(ring.rewrap(master), master, at_least=ring.generation, ring=ring.identity)
    assert set(ring.ids) == set(values) - gone
    assert ring.current == max(values)
    assert all(opens(ring, key_id, values[key_id]) for key_id in ring.ids)


def test_a_full_ring_still_fits() -> None:
    ring = make_ring()
    while len(ring.ids) < KEYS_LIMIT:
        ring = ring.add()
    document = ring.encode(MASTER)
    assert len(document) <= RING_LIMIT
    assert decode_ring(document, MASTER).ids == ring.ids
    with refused("keyring-full", UsageError):
        ring.add()


def test_used_from_several_threads() -> None:
    ring, wrong = make_ring(), []

    def use(number: int) -> None:
        for count in range(200):
            nonce, value = count.to_bytes(12, "big"), bytes([number]) * count
            if ring.aead(1).decrypt(nonce, ring.aead(1).encrypt(nonce, value, b"a"), b"a") != value:
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_master_itself_wraps_nothing() -> None:
    """Keys under the ring are wrapped with a subkey, so that a store sealed by an older server shares no nonce."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from kokon.wire import unb64

    entry = json.loads(DOCUMENT)["keys"][0]
    nonce, wrapped = (unb64(entry[name], what=name) for name in ("nonce", "sealed"))
    data = b"kokon data key 1\0" + (1).to_bytes(8, "big")
    assert AESGCM(MasterKey(MASTER.key).subkey("key ring wrap")).decrypt(nonce, wrapped, data) == RING._keys[1]
    with pytest.raises(InvalidTag):
        AESGCM(MASTER.key).decrypt(nonce, wrapped, data)
