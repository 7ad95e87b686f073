"""What hardware says, verified: `verify(evidence, endorsements, now)` for every TEE.

`kokon.tee.recognise.recognise(data)` makes evidence out of files.

Names are imported when they are first used: a guest that only makes evidence loads no verifier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kokon.tee.endorsements import Endorsements
    from kokon.tee.evidence import Check, Claims, Evidence, Need
    from kokon.tee.registry import TEES, Tee, verify

__all__ = ["TEES", "Check", "Claims", "Endorsements", "Evidence", "Need", "Tee", "verify"]

_PLACES = {
    "Check": "kokon.tee.evidence",
    "Claims": "kokon.tee.evidence",
    "Endorsements": "kokon.tee.endorsements",
    "Evidence": "kokon.tee.evidence",
    "Need": "kokon.tee.evidence",
    "TEES": "kokon.tee.registry",
    "Tee": "kokon.tee.registry",
    "verify": "kokon.tee.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = found
    return found
