"""What differs between the enclave that was expected and the one that was found. Pure.

A report names the identities; what is behind a different MRENCLAVE only the two builds can tell: two SGXS files or two
Gramine manifests are compared, and the first page or all settings and files that differ are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from kokon.tee.explanation import Explanation, Finding, first_difference
from kokon.tee.sgx.gramine import GramineManifest
from kokon.tee.sgx.measure import Add, Create, Extend, Step
from kokon.tee.sgx.sigstruct import Sigstruct

FINDINGS_LIMIT: Final = 20
"""Settings or files of manifests that are listed; the rest is counted."""
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class SgxIdentity:
    """Who an enclave is: MRENCLAVE and MRSIGNER (32 bytes each), ISVPRODID, ISVSVN, whether it can be debugged.

    None: not known or not cared about.
    """

    mrenclave: bytes | None = None
    mrsigner: bytes | None = None
    product_id: int | None = None
    security_version: int | None = None
    debug: bool | None = None


def identity_of(sigstruct: Sigstruct) -> SgxIdentity:
    """The identity that a SIGSTRUCT gives an enclave; MRSIGNER None while it is unsigned, debug None if it admits
    both."""
    either = sigstruct.debug and not sigstruct.flags & 2
    return SgxIdentity(
        mrenclave=sigstruct.mrenclave,
        mrsigner=sigstruct.mrsigner if sigstruct.modulus else None,
        product_id=sigstruct.product_id,
        security_version=sigstruct.security_version,
        debug=None if either else sigstruct.debug,
    )


def explain_sgx(expected: SgxIdentity, found: SgxIdentity, behind: Sequence[Finding] = ()) -> Explanation:
    """Every part of the identity that differs; `behind` is what `compare_steps` or `compare_manifests` found and is
    told with a MRENCLAVE that differs."""
    findings: list[Finding] = []
    if expected.mrenclave not in (None, found.mrenclave):
        findings.append(Finding("mrenclave", _hex(expected.mrenclave), _hex(found.mrenclave)))
        findings += behind
    if expected.mrsigner not in (None, found.mrsigner):
        findings.append(Finding("mrsigner (another key signed it)", _hex(expected.mrsigner), _hex(found.mrsigner)))
    for what, left, right in (
        ("product id", expected.product_id, found.product_id),
        ("security version", expected.security_version, found.security_version),
        ("debug", expected.debug, found.debug),
    ):
        if left is not None and left != right:
            findings.append(Finding(what, str(left), str(right)))
    return Explanation(matches=not findings, findings=tuple(findings), tried="identity, and the builds where given")


def _hex(value: bytes | None) -> str:
    return "none" if value is None else value.hex()


def compare_steps(expected: Sequence[Step], found: Sequence[Step]) -> tuple[Finding, ...]:
    """The first step in which two SGXS files differ, empty if they measure the same."""
    page = "before the first page"
    for left, right in zip_longest(_measured(expected), _measured(found)):
        if left != right:
            return (Finding(f"enclave build, {page}", _step(left), _step(right)),)
        if isinstance(left, Add):
            page = f"after the page at {left.offset:#x}"
    return ()


def _measured(steps: Sequence[Step]) -> Iterator[Step]:
    return (step for step in steps if not isinstance(step, Extend) or step.measured)


def _step(step: Step | None) -> str:
    if step is None:
        return "the end"
    if isinstance(step, Create):
        return f"an enclave of {step.size:#x} bytes with {step.ssa_pages} pages for each SSA frame"
    if isinstance(step, Add):
        return f"a page at {step.offset:#x} with flags {step.flags:#x}"
    return f"bytes at {step.offset:#x}: {step.data[:16].hex()}..."


def compare_manifests(expected: GramineManifest, found: GramineManifest) -> tuple[Finding, ...]:
    """Trusted files and settings that differ between two Gramine manifests, at most 20, by name.

    Manifests that say the same in other bytes differ too, since the bytes are measured.
    """
    findings = [
        *_differences("trusted file", dict(expected.trusted_files), dict(found.trusted_files)),
        *_differences("setting", _flat(expected.values), _flat(found.values)),
    ]
    if not findings and expected.data != found.data:
        left, right = expected.data.decode(), found.data.decode()
        findings.append(Finding("manifest text", *first_difference(left, right)))
    if len(findings) > FINDINGS_LIMIT:
        left_over = len(findings) - FINDINGS_LIMIT
        findings = [*findings[:FINDINGS_LIMIT], Finding("manifest", "the same", f"{left_over} more differences")]
    return tuple(findings)


def _differences(kind: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    for name in sorted({*expected, *found}):
        left, right = expected.get(name, _MISSING), found.get(name, _MISSING)
        if left is not right and left != right:
            yield Finding(f"{kind} {name}", _value(left), _value(right))


def _value(value: Any) -> str:
    return "absent" if value is _MISSING else (str(value) or "without digest")[:200]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{full}.")
        elif full != "sgx.trusted_files":
            flat[full] = value
    return flat
