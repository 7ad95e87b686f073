"""Whether an image may be used, by the signatures that it has: a policy's decision with every reason. Pure.

The semantics of containers-image's policy.json (containers-policy.json(5), facts kbs.md g.4): the narrowest scope that
the image's name lies in gives the requirements, and all of them must hold. What is not said is denied: an empty list of
requirements, and every requirement that Kokon cannot check.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kokon.errors import DeniedError, MalformedError
from kokon.image.signing.identity import IdentityRule, Name, docker_scopes, parse_name
from kokon.image.signing.verify import Held, Refusal, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kokon.image.signing.keys import PublicKey
    from kokon.image.signing.store import Found

RequirementKind = Literal["insecureAcceptAnything", "reject", "sigstoreSigned", "unsupported"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement. For `sigstoreSigned` a signature by one of the keys, files (`paths`) and PEM (`data`), must
    hold and name the image as `identity` wants; `unsupported` is one that Kokon cannot check, named in `note`."""

    kind: RequirementKind
    paths: tuple[str, ...] = ()
    data: tuple[bytes, ...] = ()
    identity: IdentityRule = field(default=IdentityRule())
    note: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy: `default`, and for each transport its scopes; "" is the whole transport."""

    default: tuple[Requirement, ...]
    transports: Mapping[str, Mapping[str, tuple[Requirement, ...]]]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the image is admitted, by which scope, the signatures that it was admitted for, and why not others."""

    admitted: bool
    scope: str
    held: tuple[Held, ...]
    reasons: tuple[Refusal, ...]

    def as_dict(self) -> dict[str, Any]:
        """The decision as JSON values."""
        return {
            "admitted": self.admitted,
            "scope": self.scope,
            "reasons": [one.as_dict() for one in self.reasons],
        }


def requirements_for(policy: Policy, transport: str, scopes: tuple[str, ...]) -> tuple[str, tuple[Requirement, ...]]:
    """The scope that counts, as `transport:scope`, and its requirements: the first of `scopes` that the policy has,
    else the whole transport, else the default."""
    known = policy.transports.get(transport, {})
    for scope in (*scopes, ""):
        if scope in known:
            return f"{transport}:{scope}", known[scope]
    return "default", policy.default


def decide(
    policy: Policy, image: Name, digest: str, found: Found, load: Callable[[Requirement], tuple[PublicKey, ...]]
) -> Decision:
    """Decide about the image `image` whose manifest is `digest` and whose signatures are `found`.

    `load` gives the keys of a requirement. Raises what `load` raises.
    """
    scope, requirements = requirements_for(policy, "docker", docker_scopes(image))
    if not requirements:
        reason = Refusal("policy", "policy-empty", "the policy says nothing about this image: denied", "a requirement")
        return Decision(False, scope, (), (reason,))
    held: list[Held] = []
    reasons: list[Refusal] = []
    admitted = True
    for requirement in requirements:
        passed, why = _one(requirement, image, digest, found, load)
        held += [one for one in passed if one not in held]
        reasons += why
        admitted = admitted and (requirement.kind == "insecureAcceptAnything" or bool(passed))
    return Decision(admitted, scope, tuple(held), tuple(reasons))


def enforce(decision: Decision) -> Decision:
    """The decision itself if it admits. Raises `DeniedError` (`image-policy`), with all reasons in the hint."""
    if decision.admitted:
        return decision
    raise DeniedError(
        "image-policy",
        "the policy does not admit this image",
        expected=f"what the scope {decision.scope} demands",
        found=", ".join(f"{one.form} {one.code}" for one in decision.reasons),
        hint="; ".join(dict.fromkeys(one.message for one in decision.reasons)) or None,
    )


def _one(
    requirement: Requirement,
    image: Name,
    digest: str,
    found: Found,
    load: Callable[[Requirement], tuple[PublicKey, ...]],
) -> tuple[list[Held], list[Refusal]]:
    if requirement.kind == "insecureAcceptAnything":
        return [], []
    if requirement.kind == "reject":
        return [], [Refusal("policy", "policy-reject", "the policy rejects this image")]
    if requirement.kind == "unsupported":
        message = f"Kokon cannot check the requirement {requirement.note}"
        return [], [Refusal("policy", "policy-unsupported", message)]
    judged = judge(found, digest, load(requirement))
    held, refused = [], list(judged.refused)
    for one in judged.held:
        wrong = _identity(requirement.identity, image, one)
        if wrong is None:
            held.append(one)
        else:
            refused.append(wrong)
    if not held and not refused:
        refused.append(Refusal("policy", "image-unsigned", "the image has no signature"))
    return held, refused


def _identity(rule: IdentityRule, image: Name, held: Held) -> Refusal | None:
    if held.claim.identity is None:
        return Refusal(
            held.claim.form, "signature-nameless", "the signature names no image, and the policy compares names"
        )
    try:
        fits = rule.admits(image, parse_name(held.claim.identity))
    except MalformedError as error:
        return Refusal(held.claim.form, error.code, error.message, found=held.claim.identity[:200])
    if fits:
        return None
    return Refusal(
        held.claim.form,
        "signature-identity",
        "the signature names another image",
        f"{rule.kind} of {image}",
        held.claim.identity[:200],
    )
