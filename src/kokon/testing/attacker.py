"""An attacker: everything that can be done to genuine evidence without the vendor's keys, as iterators. Pure.

Each mutation is a `Mutant`: the evidence and, in words, what was done to it. A verifier must accept none of them, and
must answer each with a failed check or with `MalformedError`, with no other exception, in bounded time.
`accepted` drives a verifier over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.evidence import Claims, Evidence

REPORT: Final = "report"


@dataclass(frozen=True, slots=True)
class Mutant:
    """Evidence that was tampered with. `what` says how: "report, bit 1280 flipped"."""

    evidence: Evidence
    what: str


def parts_of(evidence: Evidence) -> dict[str, bytes]:
    """All byte strings of a piece of evidence by name: "report", "certificate 0" and so on, and its parts."""
    certificates = {f"certificate {index}": der for index, der in enumerate(evidence.certificates)}
    return {REPORT: evidence.report} | certificates | dict(evidence.parts)


def with_part(evidence: Evidence, name: str, data: bytes) -> Evidence:
    """The evidence with one of its byte strings, by the names of `parts_of`, exchanged."""
    if name == REPORT:
        return replace(evidence, report=data)
    if name in evidence.parts:
        return replace(evidence, parts={**evidence.parts, name: data})
    index = int(name.removeprefix("certificate "))
    certificates = (*evidence.certificates[:index], data, *evidence.certificates[index + 1 :])
    return replace(evidence, certificates=certificates)


def flips(
    evidence: Evidence, part: str = REPORT, *, start: int = 0, end: int | None = None, step: int = 1
) -> Iterator[Mutant]:
    """One bit flipped, for every `step`-th bit from byte `start` to byte `end` of a part. With a step that is odd and
    above 8, the bits hit within bytes change."""
    data = parts_of(evidence)[part]
    last = len(data) if end is None else end
    for bit in range(8 * start, 8 * last, step):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield Mutant(with_part(evidence, part, bytes(flipped)), f"{part}, bit {bit} flipped")


def truncations(evidence: Evidence, part: str = REPORT, *, step: int = 1) -> Iterator[Mutant]:
    """A part cut off at every `step`-th length."""
    data = parts_of(evidence)[part]
    for length in range(0, len(data), step):
        yield Mutant(with_part(evidence, part, data[:length]), f"{part}, cut to {length} bytes")


def extensions(
    evidence: Evidence, part: str = REPORT, tails: Iterable[bytes] = (b"\1", b"\xff" * 16)
) -> Iterator[Mutant]:
    """A part with bytes behind it."""
    data = parts_of(evidence)[part]
    for tail in tails:
        yield Mutant(with_part(evidence, part, data + tail), f"{part}, extended by {tail[:8].hex()}")


def zeroed(evidence: Evidence, part: str = REPORT, *, size: int = 16) -> Iterator[Mutant]:
    """A part with `size` bytes in a row set to zero, one place after the other; places that are zero already are left
    out."""
    data = parts_of(evidence)[part]
    for start in range(0, len(data), size):
        changed = data[:start] + bytes(len(data[start : start + size])) + data[start + size :]
        if changed != data:
            yield Mutant(with_part(evidence, part, changed), f"{part}, {size} bytes at {start} zeroed")


def swaps(evidence: Evidence, other: Evidence) -> Iterator[Mutant]:
    """Each part exchanged for the other piece of evidence's of the same name, and each left out."""
    own, others = parts_of(evidence), parts_of(other)
    for name, data in own.items():
        if name in others and others[name] != data:
            yield Mutant(with_part(evidence, name, others[name]), f"{name} of other evidence")
    for name in evidence.parts:
        rest = {part: data for part, data in evidence.parts.items() if part != name}
        yield Mutant(replace(evidence, parts=rest), f"without {name}")


def splices(evidence: Evidence, other: Evidence, part: str = REPORT, *, size: int = 16) -> Iterator[Mutant]:
    """`size` bytes of the other evidence's part in the place of this one's, wherever they differ."""
    data, donor = parts_of(evidence)[part], parts_of(other)[part]
    for start in range(0, min(len(data), len(donor)), size):
        piece = donor[start : start + size]
        if data[start : start + size] != piece:
            spliced = data[:start] + piece + data[start + len(piece) :]
            yield Mutant(with_part(evidence, part, spliced), f"{part}, {size} bytes at {start} of other evidence")


def accepted(mutants: Iterable[Mutant], verify: Callable[[Evidence], Claims], genuine: bytes = b"") -> list[str]:
    """What was done to the mutants that `verify` found to be ok: an empty list is what a verifier should give.

    `genuine` is `Claims.canonical` of the untouched evidence: a mutant that verifies and has the same is only another
    encoding of the same evidence (a line break in PEM, padding) and is left out. Exceptions other than
    `MalformedError` are not caught: they are findings too.
    """
    found = []
    for mutant in mutants:
        try:
            claims = verify(mutant.evidence)
        except MalformedError:
            continue
        if claims.ok and (not genuine or claims.canonical != genuine):
            found.append(mutant.what)
    return found
