"""What a policy may answer: a trustworthiness vector with extensions, or a yes. All of it is checked. Pure.

The vector's names and the tiers of its numbers: draft-ietf-rats-ar4si; Confidential Containers' attestation service
takes them from the rule `trust_claims`, and members of the EAR appraisal from `extensions`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from kokon.appraisal.vector import ASPECTS, NO_CLAIM, UNRECOGNIZED, Status, tier, worst
from kokon.errors import DeniedError, MalformedError
from kokon.tee.evidence import Claims
from kokon.wire import Fields, parse_json

EXTENSIONS_LIMIT: Final = 32
RESULT_LIMIT: Final = 256 << 10
_LOWEST, _HIGHEST = -128, 127
"""AR4SI numbers are one signed byte (section 2.3)."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")
_RESERVED: Final = frozenset(
    (
        "ear.status",
        "ear.trustworthiness-vector",
        "ear.appraisal-policy-id",
        "ear.veraison.annotated-evidence",
        "ear.veraison.policy-claims",
        "ear.veraison.key-attestation",
    )
)
"""Members of an appraisal (draft-ietf-rats-ear, section 3.3) that no extension may stand in for."""
_OURS: Final = "kokon."
"""How members begin that this server adds to an appraisal: no extension may stand in for those either."""
_COMPLAINT: Final = re.compile(
    r"\(error(?: [0-9]+:(?P<module>[^|\n]*)\|(?P<offset>[0-9]+)\|[0-9]+)?\s+\(errormsg [0-9]+:(?P<text>[^\n]*)\)"
)
_OF_HARDWARE: Final = ("hardware", "runtime-opaque")
UNDEFINED: Final = "undefined"


@dataclass(frozen=True, slots=True)
class Extension:
    """A member that a policy adds to the appraisal; `key` is its number in CBOR."""

    name: str
    key: int
    value: Any


@dataclass(frozen=True, slots=True)
class TrustClaims:
    """An attestation policy's answer: all eight AR4SI names with their numbers, 0 where the policy claims nothing."""

    vector: Mapping[str, int]
    extensions: tuple[Extension, ...] = ()

    @property
    def status(self) -> Status:
        """The worst tier in the vector."""
        return worst(self.vector)

    def of(self, claims: Claims) -> TrustClaims:
        """What of this can be said of `claims`. Policies do not see that hardware is simulated: nothing is claimed
        about such hardware and its memory, and sample evidence, which nobody signed, is contraindicated."""
        if claims.tee == "sample":
            return replace(self, vector={**self.vector, "hardware": UNRECOGNIZED})
        if not claims.simulated:
            return self
        hidden = {name: NO_CLAIM for name in _OF_HARDWARE if tier(self.vector[name]) == "affirming"}
        return replace(self, vector={**self.vector, **hidden})

    def appraisal(self, policy_id: str) -> dict[str, Any]:
        """Members of the EAR submodule, without the annotated evidence."""
        return {
            "ear.status": self.status,
            "ear.trustworthiness-vector": dict(self.vector),
            "ear.appraisal-policy-id": policy_id,
            **{extension.name: extension.value for extension in self.extensions},
        }


def read_trust(claims: str, extensions: str) -> TrustClaims:
    """What the engine printed for `trust_claims` and `extensions`. A missing `trust_claims` claims nothing.

    Raises `DeniedError` (`policy-malformed`, `policy-undefined`).
    """
    vector = dict.fromkeys(ASPECTS, NO_CLAIM)
    found = read_value("trust_claims", claims)
    if found is not None:
        if not isinstance(found, dict):
            raise _nonsense("trust_claims must be an object", found)
        if not found:
            raise DeniedError(
                "policy-undefined",
                "the policy claims nothing: trust_claims is empty",
                expected="at least one of " + " ".join(ASPECTS),
                found="{}",
            )
        vector |= {name: _number(name, value) for name, value in found.items()}
    return TrustClaims(vector, _extensions(read_value("extensions", extensions)))


def read_allow(printed: str) -> bool | None:
    """What the engine printed for `allow`; None if the rule is undefined. Raises `DeniedError` (`policy-malformed`)."""
    found = read_value("allow", printed)
    if found is None or isinstance(found, bool):
        return found
    raise _nonsense("allow must be true or false", found)


def read_value(rule: str, printed: str) -> Any:
    """The value of a rule in what the engine printed; None if it is undefined. Raises `DeniedError`
    (`policy-malformed`)."""
    if printed == UNDEFINED:
        return None
    if printed.startswith(("(", "<")):
        raise DeniedError(
            "policy-malformed",
            f"the policy fails when {rule} is evaluated",
            found=complaint(printed),
            hint="a function that does not exist, rules that contradict each other, or recursion",
        )
    try:
        fields = Fields(parse_json(printed.encode(), limit=RESULT_LIMIT, what=rule), rule)
        values = fields.array("expressions", limit=1)
        fields.finish()
    except (MalformedError, UnicodeEncodeError) as error:
        raise _nonsense(f"{rule} is not JSON of a sensible size", error) from error
    if len(values) != 1 or values[0] is None:
        raise _nonsense(f"{rule} has no value", values)
    return values[0]


def complaint(printed: str, modules: Mapping[str, str] | None = None) -> str:
    """The engine's errors in a line, with line numbers where they concern one of `modules`. It prints syntax trees."""
    found = []
    for match in _COMPLAINT.finditer(printed):
        source = (modules or {}).get(match["module"] or "")
        line = "" if source is None else f"line {source.encode()[: int(match['offset'])].count(10) + 1}: "
        found.append(line + match["text"])
    if not found and len(printed) < 100:
        return printed.strip("<>\n")
    return "; ".join(dict.fromkeys(found))[:500] or "the engine gives no reason"


def _nonsense(message: str, found: object) -> DeniedError:
    return DeniedError("policy-malformed", f"the policy's answer makes no sense: {message}", found=repr(found)[:200])


def _number(name: str, value: Any) -> int:
    if name not in ASPECTS:
        raise _nonsense("trust_claims has an unknown name", name)
    if isinstance(value, bool) or not isinstance(value, int) or not _LOWEST <= value <= _HIGHEST:
        raise _nonsense(f"{name} must be a whole number from {_LOWEST} to {_HIGHEST}", value)
    return value


def _extensions(found: Any) -> tuple[Extension, ...]:
    if found is None:
        return ()
    if not isinstance(found, list) or len(found) > EXTENSIONS_LIMIT:
        raise _nonsense(f"extensions must be an array of at most {EXTENSIONS_LIMIT}", found)
    extensions = tuple(map(_extension, found))
    if len({extension.name for extension in extensions}) != len(extensions):
        raise _nonsense("an extension is there twice", [extension.name for extension in extensions])
    return extensions


def _extension(found: Any) -> Extension:
    if not isinstance(found, dict) or set(found) != {"name", "key", "value"}:
        raise _nonsense("an extension must have name, key and value", found)
    name, key = found["name"], found["key"]
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED or name.startswith(_OURS):
        raise _nonsense("an extension has a name that it must not have", name)
    if isinstance(key, bool) or not isinstance(key, int) or abs(key) >= 1 << 63:
        raise _nonsense(f"the key of {name} must be a whole number", key)
    return Extension(name, key, found["value"])
