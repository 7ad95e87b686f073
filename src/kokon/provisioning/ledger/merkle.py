"""Merkle trees as RFC 9162 section 2.1 defines them: hashes, the right edge, and proofs made and verified.

A *complete subtree* (level, index) covers the 2**level leaves from index * 2**level on; level 0 is the leaf hashes.
Whoever keeps those can prove anything: proofs are made from a function that returns them (`HashAt`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kokon.errors import MalformedError, UntrustedError, UsageError
from kokon.wire import check_size

HASH_SIZE = 32
SIZE_LIMIT = (1 << 53) - 1
"""Most leaves in a tree: what any JSON reader holds exactly."""
EMPTY_ROOT = hashlib.sha256().digest()
"""The root of a tree without leaves."""

HashAt = Callable[[int, int], bytes]
"""From level and index to the hash of a complete subtree."""


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree."""

    level: int
    index: int
    hash: bytes


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf's bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node from those of its children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """The right edge of a tree, all that is needed to append: the roots of the complete subtrees, left to right, that
    make up its `size` leaves, one for each bit that is set in `size`, the largest first.

    Raises `MalformedError` (`frontier-malformed`) if size and roots do not belong together.
    """

    size: int = 0
    roots: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= SIZE_LIMIT or len(self.roots) != self.size.bit_count():
            raise MalformedError(
                "frontier-malformed",
                "a tree's right edge does not fit its size",
                expected=f"a root for each bit of the size, which is at most {SIZE_LIMIT}",
                found=f"size {self.size}, {len(self.roots)} roots",
            )

    def root(self) -> bytes:
        """The root hash of the tree."""
        return _join(self.roots)

    def append(self, leaf_hashes: Iterable[bytes]) -> Frontier:
        """The right edge after these leaves. Raises `MalformedError` (`size-mismatch`, `frontier-malformed`)."""
        return self.grow(leaf_hashes)[0]

    def grow(self, leaf_hashes: Iterable[bytes]) -> tuple[Frontier, tuple[Node, ...]]:
        """As `append`, and the subtrees that the leaves completed, themselves included, each below before above."""
        size, roots, grown = self.size, list(self.roots), []
        for leaf in leaf_hashes:
            check_size(leaf, HASH_SIZE, "leaf hash")
            node = Node(0, size, leaf)
            grown.append(node)
            while node.index & 1:
                node = Node(node.level + 1, node.index >> 1, node_hash(roots.pop(), node.hash))
                grown.append(node)
            roots.append(node.hash)
            size += 1
        return Frontier(size, tuple(roots)), tuple(grown)

    def encode(self) -> bytes:
        """Size (u64 big-endian) and roots."""
        return self.size.to_bytes(8) + b"".join(self.roots)


def decode_frontier(data: bytes) -> Frontier:
    """The right edge that `Frontier.encode` wrote. Raises `MalformedError` (`frontier-malformed`)."""
    roots = data[8:]
    if not 8 <= len(data) <= 8 + 64 * HASH_SIZE or len(roots) % HASH_SIZE:
        raise MalformedError("frontier-malformed", "not the right edge of a tree", found=f"{len(data)} bytes")
    return Frontier(int.from_bytes(data[:8]), split_hashes(roots))


def split_hashes(data: bytes) -> tuple[bytes, ...]:
    """Hashes out of one text of them; its length is a multiple of 32 bytes."""
    return tuple(data[start : start + HASH_SIZE] for start in range(0, len(data), HASH_SIZE))


def inclusion_proof(index: int, size: int, hash_at: HashAt) -> tuple[bytes, ...]:
    """What proves that leaf `index` is in the tree of `size` leaves (RFC 9162 2.1.3.1).

    Raises `UsageError` (`log-proof-range`).
    """
    _check_range(0 <= index < size, f"leaf {index} of {size}")
    start, end, path = 0, size, []
    while end - start > 1:
        middle = _middle(start, end)
        if index < middle:
            path.append(_range_hash(middle, end, hash_at))
            end = middle
        else:
            path.append(_range_hash(start, middle, hash_at))
            start = middle
    return tuple(reversed(path))


def consistency_proof(first: int, second: int, hash_at: HashAt) -> tuple[bytes, ...]:
    """What proves that the tree of `second` leaves begins with the tree of `first` (RFC 9162 2.1.4.1).

    Empty if `first` is 0 or `second`. Raises `UsageError` (`log-proof-range`).
    """
    _check_range(0 <= first <= second, f"from {first} to {second} leaves")
    if first == 0:
        return ()
    start, end, path = 0, second, []
    while first < end:
        middle = _middle(start, end)
        if first <= middle:
            path.append(_range_hash(middle, end, hash_at))
            end = middle
        else:
            path.append(_range_hash(start, middle, hash_at))
            start = middle
    if start:
        path.append(_range_hash(start, end, hash_at))
    return tuple(reversed(path))


def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf with hash `leaf` is number `index` of the tree with this size and root (RFC 9162 2.1.3.2).

    Raises `UntrustedError` (`log-broken`), `MalformedError` (`size-mismatch`).
    """
    _check_hashes(leaf, root, *path)
    if not 0 <= index < size <= SIZE_LIMIT:
        raise _unproven(f"leaf {index} of {size}")
    here, last, computed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise _unproven("the proof is too long")
        if here & 1 or here == last:
            computed = node_hash(sibling, computed)
            here, last = _climb(here, last)
        else:
            computed = node_hash(computed, sibling)
        here, last = here >> 1, last >> 1
    if last or not hmac.compare_digest(computed, root):
        raise _unproven("the proof is too short" if last else f"root {computed.hex()[:16]}")


def verify_consistency(first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]) -> None:
    """Check that the tree of `second` leaves begins with the tree of `first` leaves (RFC 9162 2.1.4.2).

    For `first` 0, and for equal sizes, the path must be empty. Raises `UntrustedError` (`log-broken`), `MalformedError`
    (`size-mismatch`).
    """
    _check_hashes(first_root, second_root, *path)
    if not 0 <= first <= second <= SIZE_LIMIT:
        raise _unproven(f"from {first} to {second} leaves")
    if first == 0:
        old, new, path_fits = EMPTY_ROOT, second_root, not path
    elif first == second:
        old, new, path_fits = first_root, first_root, not path
    else:
        old, new, path_fits = _replay(first, second, first_root, path)
    if not path_fits:
        raise _unproven("the proof has a wrong length")
    if not (hmac.compare_digest(old, first_root) and hmac.compare_digest(new, second_root)):
        raise _unproven(f"roots {old.hex()[:16]} and {new.hex()[:16]}")


def _replay(first: int, second: int, first_root: bytes, path: Sequence[bytes]) -> tuple[bytes, bytes, bool]:
    """The two roots that a consistency path leads to, and whether its length was right."""
    here, last = first - 1, second - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    steps = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not steps:
        return first_root, first_root, False
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return old, new, False
        if here & 1 or here == last:
            old, new = node_hash(step, old), node_hash(step, new)
            here, last = _climb(here, last)
        else:
            new = node_hash(new, step)
        here, last = here >> 1, last >> 1
    return old, new, last == 0


def _climb(here: int, last: int) -> tuple[int, int]:
    """Skip the levels on which the node has no sibling to its right."""
    while here and not here & 1:
        here, last = here >> 1, last >> 1
    return here, last


def _middle(start: int, end: int) -> int:
    """Where a tree of more than one leaf divides: the largest power of two below its size, from `start` on."""
    return start + (1 << ((end - start - 1).bit_length() - 1))


def _range_hash(start: int, end: int, hash_at: HashAt) -> bytes:
    """The hash of leaves `start` to `end`, `start` being a multiple of the largest power of two in their number."""
    roots = []
    while start < end:
        level = (end - start).bit_length() - 1
        roots.append(hash_at(level, start >> level))
        start += 1 << level
    return _join(roots)


def _join(roots: Sequence[bytes]) -> bytes:
    """The hash of a tree from the roots of its complete subtrees, left to right."""
    if not roots:
        return EMPTY_ROOT
    joined = roots[-1]
    for root in roots[-2::-1]:
        joined = node_hash(root, joined)
    return joined


def _check_hashes(*hashes: bytes) -> None:
    for found in hashes:
        check_size(found, HASH_SIZE, "hash of the log")


def _check_range(holds: bool, found: str) -> None:
    if not holds:
        raise UsageError("log-proof-range", "there is no such proof: it would reach beyond the log", found=found)


def _unproven(found: str) -> UntrustedError:
    return UntrustedError(
        "log-broken",
        "the log does not hold what it should: an entry was changed, removed or put in, or the proof is not for it",
        found=found,
        hint="keep everything you were given as evidence, and restore the log from a backup",
    )
