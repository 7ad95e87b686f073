"""Refuse an image that holds secrets, but for those that its author allows by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kokon.errors import DeniedError, UsageError
from kokon.image.scan.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kokon.image.scan.scan import Finding

_SHOWN = 12
_NAMES = frozenset({rule.name for rule in RULES} | {"password", "password-in-url"})


def parse_allowed(texts: Iterable[str]) -> frozenset[str]:
    """Names as `Finding.name` has them. Raises `UsageError` (`secret-allow-malformed`) unless each is RULE:PATH."""
    allowed = frozenset(texts)
    for text in allowed:
        rule, _, path = text.partition(":")
        if rule not in _NAMES or not path:
            raise UsageError(
                "secret-allow-malformed",
                "a secret is allowed by its rule and path",
                expected="RULE:PATH, as `kokon scan` prints it",
                found=repr(text[:200]),
            )
    return allowed


def not_allowed(findings: Iterable[Finding], allowed: frozenset[str]) -> tuple[Finding, ...]:
    """The findings that `allowed` does not name."""
    return tuple(finding for finding in findings if finding.name not in allowed)


def refuse_secrets(findings: Iterable[Finding], allowed: frozenset[str]) -> None:
    """Raise `DeniedError` (`image-has-secrets`) with file and line of each, unless all are allowed by name."""
    left = not_allowed(findings, allowed)
    if not left:
        return
    lines = [f"{finding.rule} in {_place(finding)}" for finding in left[:_SHOWN]]
    more = [f"and {len(left) - _SHOWN} more"] if len(left) > _SHOWN else []
    raise DeniedError(
        "image-has-secrets",
        "the image holds secrets, which all who may open it would get",
        expected="none, or each allowed with --allow-secret RULE:PATH",
        found="; ".join([*lines, *more]),
        hint=_hint(left),
    )


def _place(finding: Finding) -> str:
    line = "" if finding.line is None else f":{finding.line}"
    return finding.path + line + ("" if finding.layer is None else f" (layer {finding.layer})")


def _hint(findings: tuple[Finding, ...]) -> str:
    for finding in findings:
        kind, _, name = finding.path.partition("/")
        if finding.layer is None and kind == "env":
            return f"move it to your provisioning server: --move-secret {name}=WORKLOAD/NAME; `kokon scan` shows all"
    return "build without them and give each to your provisioning server (`kokon secret put`); `kokon scan` shows all"
