"""Evaluates Rego policies and makes every way in which they can fail one refused request.

`PolicyEngine` is for threads; every call waits. Beside an event loop:

    claims = await asyncio.to_thread(engine.evaluate_attestation, policy, given, references, now)

Worker processes are started when they are first needed (0.2 s), never before a server forks. Each evaluates many times
and remembers what it compiled, by the policy and its data.

String functions of the engine (regopy 1.5.2) see the escapes of JSON: `"`, `\\` and control characters count as two and
more characters. Comparisons are right.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, Final, Self

from kokon.errors import DeniedError, MalformedError
from kokon.provisioning.rego.claims import TrustClaims, complaint, read_allow, read_trust
from kokon.provisioning.rego.defaults import default_digests
from kokon.provisioning.rego.pool import Limits, Statistics, WorkerPool
from kokon.provisioning.rego.reference import StoredValue, current
from kokon.provisioning.rego.text import PolicyText, read_policy, spell
from kokon.provisioning.rego.trial import TRIALS, PolicyKind, Trial, TrialInput

PACKAGE: Final = "policy"
MODULE: Final = "policy.rego"
RULES: Final[Mapping[PolicyKind, tuple[str, ...]]] = {
    "attestation": ("policy/trust_claims", "policy/extensions"),
    "resource": ("policy/allow",),
}
MAIN: Final[Mapping[PolicyKind, str]] = {"attestation": "trust_claims", "resource": "allow"}
DATA_LIMIT: Final = 4 << 20
INPUT_LIMIT: Final = 2 << 20
"""Bytes of JSON."""
TEXTS: Final = 256
"""Policies whose texts are remembered as read."""

LOOK_UP: Final = "query_reference_value"
_REFERENCES: Final = f"""package {PACKAGE}

{LOOK_UP}(id) := value if {{
	value := data.reference[id]
}} else := null
"""
"""The function that Confidential Containers' attestation service builds into its engine."""


class PolicyEngine:
    """Rego for the server. Use it in a `with` statement or call `close`.

    `tenant` is whose policy it is, a project: those of two tenants are never evaluated in one process.

    Evaluations raise `DeniedError` (`policy-crashed`, `policy-timeout`, `policy-memory`, `policy-malformed`,
    `policy-undefined`), which concerns that one request; `MalformedError` (`policy-input`, and what `read_policy`
    raises); `HostError` (`policy-busy`, `policy-engine-missing`, `policy-engine-failed`) if nothing can be evaluated
    now.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._pool = WorkerPool(limits)
        self._read = lru_cache(maxsize=TEXTS)(partial(read_policy, limit=limits.policy, depth=limits.depth))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers. Whoever still waits is refused."""
        self._pool.close()

    def statistics(self) -> Statistics:
        """Figures since the start."""
        return self._pool.statistics()

    def evaluate_attestation(
        self,
        policy: str,
        given: Mapping[str, Any],
        references: Mapping[str, StoredValue],
        now: datetime,
        *,
        tenant: str = "",
    ) -> TrustClaims:
        """What an attestation policy claims of the evidence that `inputs.policy_input` made `given` of. Of
        `references`, by their names, those that have expired at `now` (aware) do not exist."""
        text = self._read(policy)
        data = {"reference": current(references, now)}
        return read_trust(*self._evaluate(text, "attestation", data, given, tenant))

    def evaluate_resource(
        self, policy: str, claims: Mapping[str, Any], data: Mapping[str, Any], *, tenant: str = ""
    ) -> bool:
        """Whether a resource policy lets whoever holds a token with `claims` have what `data` (`inputs.resource_data`)
        asks for. Only a rule `allow` that is true does; one that is undefined does not."""
        text = self._read(policy)
        allowed = read_allow(*self._evaluate(text, "resource", data, claims, tenant))
        if allowed is None and not _decides(text, "resource"):
            raise DeniedError(
                "policy-undefined",
                "the policy does not decide what is asked of it",
                expected="a rule allow in package policy",
                found=f"package {text.package}",
            )
        return allowed is True

    def check(self, policy: str, kind: PolicyKind, *, tenant: str = "") -> Trial:
        """Try a policy before it is set: its text, the functions that it calls, and what it says of made-up evidence.

        Raises `MalformedError` with any of the codes above, and with `policy-function-unknown`, for a policy that
        cannot work; `HostError` as above.
        """
        text = self._read(policy)
        if not _decides(text, kind):
            raise MalformedError(
                "policy-undefined",
                "the policy does not decide what is asked of it",
                expected=f"a rule {MAIN[kind]} in package {PACKAGE}",
                found=f"package {text.package}",
            )
        try:
            return Trial(tuple((trial.name, self._try(text, kind, trial, tenant)) for trial in TRIALS[kind]))
        except DeniedError as error:
            raise MalformedError(
                error.code, error.message, expected=error.expected, found=error.found, hint=error.hint
            ) from error

    def _try(self, text: PolicyText, kind: PolicyKind, trial: TrialInput, tenant: str) -> str:
        results = self._evaluate(text, kind, trial.data, trial.given, tenant, checked=True)
        if kind == "resource":
            return "allowed" if read_allow(*results) else "denied"
        return read_trust(*results).status

    def _evaluate(
        self,
        text: PolicyText,
        kind: PolicyKind,
        data: Mapping[str, Any],
        given: Mapping[str, Any],
        tenant: str,
        *,
        checked: bool = False,
    ) -> list[str]:
        """What the engine prints for each rule of `kind`. A policy that is `checked` is not in force yet."""
        modules = [[MODULE, text.text]]
        if kind == "attestation" and LOOK_UP not in text.functions:
            modules.append(["references.rego", _REFERENCES])
        request = {
            "modules": modules,
            "data": _spelt(data, DATA_LIMIT, "data"),
            "input": _spelt(given, INPUT_LIMIT, "input"),
            "rules": RULES[kind],
            "calls": text.calls if checked else (),
        }
        answer = self._pool.ask(text.digest, request, tenant=_tenant(text, tenant), careful=checked)
        if "missing" in answer:
            raise MalformedError(
                "policy-function-unknown",
                "the policy calls a function that there is none of",
                expected="functions of Rego, or of the policy's own",
                found=", ".join(map(str, answer["missing"])),
            )
        results = answer.get("results")
        if not isinstance(results, dict) or set(results) != set(RULES[kind]):
            raise DeniedError(
                "policy-malformed",
                "the policy does not compile",
                found=complaint(str(answer.get("refused", "")), {MODULE: text.text}),
            )
        return [str(results[rule]) for rule in RULES[kind]]


def _tenant(text: PolicyText, tenant: str) -> str:
    """Whose worker a policy is evaluated in. Our own policies may share one."""
    return "" if text.digest in default_digests() else f"tenant {tenant}"


def _decides(text: PolicyText, kind: PolicyKind) -> bool:
    return text.package == PACKAGE and text.speaks_of(MAIN[kind])


def _spelt(value: Mapping[str, Any], limit: int, what: str) -> str:
    try:
        text = spell(value)
        size = len(text.encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedError("policy-input", f"the {what} for a policy cannot be given to it", found=error) from error
    if size > limit:
        raise MalformedError(
            "policy-input", f"the {what} for a policy is too large", expected=f"<= {limit} bytes", found=size
        )
    return text
