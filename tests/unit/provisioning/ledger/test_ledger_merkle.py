"""The tree against the public vectors of RFC 6962 implementations, and against the RFC's definitions word by word."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ledger_kit import flipped, naive_consistency, naive_inclusion, naive_root, node, perhaps_refused, refused

from kokon.provisioning.ledger.merkle import (
    EMPTY_ROOT,
    SIZE_LIMIT,
    Frontier,
    HashAt,
    Node,
    consistency_proof,
    decode_frontier,
    inclusion_proof,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

# Test vectors of Certificate Transparency (certificate-transparency-go, transparency-dev/merkle: testonly).
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
L0, L2, L4, L6 = (leaf_hash(bytes.fromhex(LEAVES[index])).hex() for index in (0, 2, 4, 6))
PAIR01 = "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
PAIR23 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
PAIR45 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
PAIR67 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
FOUR03 = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
FOUR47 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
EIGHT = [leaf_hash(bytes.fromhex(data)) for data in LEAVES]

many = (
    st.integers(1, 70)
    .flatmap(lambda size: st.lists(st.binary(max_size=3), min_size=size, max_size=size))
    .map(lambda datas: [leaf_hash(b"%d %s" % (number, data)) for number, data in enumerate(datas)])
)


def at(hashes: list[bytes]) -> HashAt:
    """The complete subtrees of these leaves, as the store would keep them."""
    _, grown = Frontier().grow(hashes)
    nodes = {(each.level, each.index): each.hash for each in grown}
    return lambda level, index: nodes[level, index]


@pytest.mark.parametrize("size", range(9))
def test_roots_of_the_public_vectors(size: int) -> None:
    assert Frontier().append(EIGHT[:size]).root().hex() == ROOTS[size]


def test_leaves_and_nodes_of_the_public_vectors() -> None:
    assert EIGHT[1].hex() == "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
    assert EIGHT[7].hex() == "46f6ffadd3d06a09ff3c5860d2755c8b9819db7df44251788c7d8e3180de8eb1"
    assert node_hash(EIGHT[0], EIGHT[1]).hex() == PAIR01
    assert node_hash(bytes.fromhex(FOUR03), bytes.fromhex(FOUR47)).hex() == ROOTS[8]


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (0, 8, [EIGHT[1].hex(), PAIR23, FOUR47]),
        (5, 8, [L4, PAIR67, FOUR03]),
        (2, 3, [PAIR01]),
        (1, 5, [L0, PAIR23, L4]),
        (4, 7, [EIGHT[5].hex(), L6, FOUR03]),
    ],
)
def test_inclusion_proofs_of_the_public_vectors(index: int, size: int, path: list[str]) -> None:
    proof = inclusion_proof(index, size, at(EIGHT))
    assert [each.hex() for each in proof] == path
    verify_inclusion(index, size, EIGHT[index], proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        (1, 1, []),
        (1, 8, [EIGHT[1].hex(), PAIR23, FOUR47]),
        (6, 8, [PAIR45, PAIR67, FOUR03]),
        (2, 5, [PAIR23, L4]),
        (3, 7, [L2, EIGHT[3].hex(), PAIR01, node(bytes.fromhex(PAIR45), EIGHT[6]).hex()]),
        (4, 8, [FOUR47]),
    ],
)
def test_consistency_proofs_of_the_public_vectors(first: int, second: int, path: list[str]) -> None:
    proof = consistency_proof(first, second, at(EIGHT))
    assert [each.hex() for each in proof] == path
    verify_consistency(first, bytes.fromhex(ROOTS[first]), second, bytes.fromhex(ROOTS[second]), proof)


@given(many)
@settings(deadline=None)
def test_root_is_that_of_the_definition(hashes: list[bytes]) -> None:
    assert Frontier().append(hashes).root() == naive_root(hashes)


@given(many, st.integers(0, 70))
@settings(deadline=None)
def test_appending_in_two_goes_is_appending_at_once(hashes: list[bytes], cut: int) -> None:
    first, grown = Frontier().grow(hashes[:cut])
    both, rest = first.grow(hashes[cut:])
    once, all_grown = Frontier().grow(hashes)
    assert (both, grown + rest) == (once, all_grown)
    assert first == Frontier().append(hashes[:cut]), "the older edge is unchanged"


@given(many)
@settings(deadline=None)
def test_grown_nodes_are_all_complete_subtrees(hashes: list[bytes]) -> None:
    _, grown = Frontier().grow(hashes)
    complete = {
        Node(level, index, naive_root(hashes[index << level : (index + 1) << level]))
        for level in range(8)
        for index in range(len(hashes) >> level)
    }
    assert len(grown) == len(complete)
    assert set(grown) == complete


@given(many, st.data())
@settings(deadline=None)
def test_inclusion_is_proven_as_defined_and_nothing_else_is(hashes: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(hashes) - 1))
    proof, root = inclusion_proof(index, len(hashes), at(hashes)), naive_root(hashes)
    assert list(proof) == naive_inclusion(index, hashes)
    verify_inclusion(index, len(hashes), hashes[index], proof, root)
    other = data.draw(st.integers(0, len(hashes) + 2))
    if other != index:
        with refused("log-broken"):
            verify_inclusion(other, len(hashes), hashes[index], proof, root)
    bit = data.draw(st.integers(0, 255))
    for leaf, end in ((flipped(hashes[index], bit), root), (hashes[index], flipped(root, bit))):
        with refused("log-broken"):
            verify_inclusion(index, len(hashes), leaf, proof, end)


@given(many, st.data())
@settings(deadline=None)
def test_mutated_inclusion_proofs_fail(hashes: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(hashes) - 1))
    proof, root = inclusion_proof(index, len(hashes), at(hashes)), naive_root(hashes)
    for path in mutations(proof, data):
        with refused("log-broken"):
            verify_inclusion(index, len(hashes), hashes[index], path, root)


@given(many, st.data())
@settings(deadline=None)
def test_consistency_is_proven_as_defined(hashes: list[bytes], data: st.DataObject) -> None:
    first = data.draw(st.integers(1, len(hashes)))
    proof = consistency_proof(first, len(hashes), at(hashes))
    assert list(proof) == naive_consistency(first, hashes)
    verify_consistency(first, naive_root(hashes[:first]), len(hashes), naive_root(hashes), proof)


@given(many, st.data())
@settings(deadline=None)
def test_mutated_consistency_proofs_fail(hashes: list[bytes], data: st.DataObject) -> None:
    first, size, bit = data.draw(st.integers(1, len(hashes))), len(hashes), data.draw(st.integers(0, 255))
    proof, old, new = consistency_proof(first, size, at(hashes)), naive_root(hashes[:first]), naive_root(hashes)
    for path in mutations(proof, data):
        with refused("log-broken"):
            verify_consistency(first, old, size, new, path)
    for wrong_old, wrong_new in (
        (flipped(old, bit), new),
        (old, flipped(new, bit)),
        (flipped(old, bit), flipped(new, bit)),
    ):
        if first < size or wrong_old != wrong_new:
            with refused("log-broken"):
                verify_consistency(first, wrong_old, size, wrong_new, proof)


@given(many, st.data())
@settings(deadline=None)
def test_no_proof_leads_to_a_tree_whose_past_was_changed(hashes: list[bytes], data: st.DataObject) -> None:
    first = data.draw(st.integers(1, len(hashes)))
    changed = [*hashes]
    changed[data.draw(st.integers(0, first - 1))] = leaf_hash(b"another past")
    assume(changed != hashes)
    old, new = naive_root(hashes[:first]), naive_root(changed)
    for path in (consistency_proof(first, len(hashes), at(hashes)), consistency_proof(first, len(hashes), at(changed))):
        with refused("log-broken"):
            verify_consistency(first, old, len(hashes), new, path)


def mutations(proof: tuple[bytes, ...], data: st.DataObject) -> list[tuple[bytes, ...]]:
    """The proof with a hash put in, and, if it has any, one changed, one left out, and two swapped."""
    at_place, bit = data.draw(st.integers(0, len(proof))), data.draw(st.integers(0, 255))
    extra = data.draw(st.sampled_from([EMPTY_ROOT, *proof]))
    found = [(*proof[:at_place], extra, *proof[at_place:]), (*proof, extra)]
    if proof:
        place = at_place % len(proof)
        found.append((*proof[:place], flipped(proof[place], bit), *proof[place + 1 :]))
        found.append((*proof[:place], *proof[place + 1 :]))
        swapped = (*proof[:place], *proof[place + 1 :], proof[place])
        if swapped != proof:
            found.append(swapped)
    return found


def test_growing_from_nothing_needs_no_proof() -> None:
    verify_consistency(0, EMPTY_ROOT, 8, bytes.fromhex(ROOTS[8]), ())
    verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, ())
    assert consistency_proof(0, 8, at(EIGHT)) == ()
    for first_root, path in ((bytes.fromhex(ROOTS[1]), ()), (EMPTY_ROOT, (EMPTY_ROOT,))):
        with refused("log-broken"):
            verify_consistency(0, first_root, 8, bytes.fromhex(ROOTS[8]), path)


def test_leaves_and_nodes_are_told_apart() -> None:
    """A node's two hashes, offered as a leaf's bytes, do not make the node's hash."""
    pair = EIGHT[0] + EIGHT[1]
    with refused("log-broken"):
        verify_inclusion(0, 1, leaf_hash(pair), (), bytes.fromhex(PAIR01))


@pytest.mark.parametrize(("first", "second"), [(5, 4), (-1, 4), (4, SIZE_LIMIT + 1)])
def test_consistency_of_sizes_that_cannot_be(first: int, second: int) -> None:
    with refused("log-broken"):
        verify_consistency(first, EIGHT[0], second, EIGHT[1], (EIGHT[2],))


def test_hashes_of_a_wrong_length_are_refused() -> None:
    short, root = EIGHT[1][:31], bytes.fromhex(ROOTS[2])
    with refused("size-mismatch"):
        verify_inclusion(0, 2, EIGHT[0], (short,), root)
    with refused("size-mismatch"):
        verify_consistency(1, EIGHT[0], 2, root, (short,))
    with refused("size-mismatch"):
        Frontier().append([short])


@pytest.mark.parametrize(("index", "size"), [(-1, 8), (8, 8), (0, 0)])
def test_inclusion_that_cannot_be_proven(index: int, size: int) -> None:
    with refused("log-proof-range"):
        inclusion_proof(index, size, at(EIGHT))


@pytest.mark.parametrize(("first", "second"), [(-1, 8), (8, 7)])
def test_consistency_that_cannot_be_proven(first: int, second: int) -> None:
    with refused("log-proof-range"):
        consistency_proof(first, second, at(EIGHT))


@given(many)
@settings(deadline=None)
def test_the_edge_survives_storage(hashes: list[bytes]) -> None:
    edge = Frontier().append(hashes)
    assert decode_frontier(edge.encode()) == edge
    assert len(edge.encode()) == 8 + 32 * len(hashes).bit_count()


def test_the_empty_edge_survives_storage() -> None:
    assert decode_frontier(bytes(8)) == Frontier()
    assert Frontier().root() == EMPTY_ROOT


@given(st.binary(max_size=200))
def test_any_bytes_are_an_edge_or_refused(data: bytes) -> None:
    with perhaps_refused("frontier-malformed"):
        assert decode_frontier(data).encode() == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        bytes(8) + bytes(32),
        (1).to_bytes(8),
        (1).to_bytes(8) + bytes(31),
        (1).to_bytes(8) + bytes(33),
        (1).to_bytes(8) + bytes(64),
        (SIZE_LIMIT + 1).to_bytes(8) + bytes(32),
        bytes(8 + 65 * 32),
    ],
)
def test_edges_that_cannot_be(data: bytes) -> None:
    with refused("frontier-malformed"):
        decode_frontier(data)
