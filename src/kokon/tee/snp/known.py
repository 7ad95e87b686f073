"""AMD's built-in certificates, parsed when this module is first used and kept for as long as the program runs.

Their signatures on one another are facts about constants: a test of this package checks each of them, so a verification
does not. That holds for exactly these bytes; whatever else bears AMD's names is parsed and checked like a stranger's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from kokon.tee.certificates import Certificate, parse_certificate
from kokon.tee.snp.amd import certificates


def _vouched() -> Iterator[Certificate]:
    """Each certificate with the key of its product line's root as the one that is known to have signed it."""
    parsed = [parse_certificate(der) for der in certificates()]
    roots = {one.subject: one for one in parsed if one.self_issued}
    for one in parsed:
        yield replace(one, vouched=roots[one.issuer].fingerprint)


KNOWN: Final[Mapping[bytes, Certificate]] = MappingProxyType({one.der: one for one in _vouched()})
"""By their DER bytes."""


def recall(der: bytes) -> Certificate:
    """The certificate of these bytes: AMD's own as it is known, any other parsed. Raises as `parse_certificate`."""
    return KNOWN.get(der) or parse_certificate(der)
