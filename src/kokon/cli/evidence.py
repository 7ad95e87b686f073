"""`kokon evidence`: what a file of evidence says, and whether it holds."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from kokon.verifier.verdict import Verdict

File = Annotated[Path, Parameter(allow_leading_hyphen=True)]


def show(file: File, *, json: bool = False) -> None:
    """Show every field of a piece of evidence. Nothing is verified.

    Knows reports of AMD SEV-SNP, quotes of Intel TDX and SGX, TPM quotes, AWS Nitro documents and certificates with
    evidence in them: raw, hex, base64, PEM-like, or as the key broker protocol's JSON; also event logs, vendors'
    certificates, revocation lists and collateral.

    Example: kokon evidence show report.bin

    Parameters
    ----------
    file
        The file, or - for standard input.
    json
        Print the fields as JSON.
    """
    from kokon.cli.output import emit
    from kokon.verifier.examine import describe

    found = describe(read(file))
    emit(found, "\n".join(_table(found)), json)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the evidence is held against.

    Parameters
    ----------
    policy
        File with the policy (docs/POLICY.md); the strict default otherwise.
    no_policy
        Answer only whether the evidence is cryptographically valid, chained, unrevoked and in date.
    references
        File with reference values. May be repeated.
    measurement
        A launch measurement to expect, in hex. May be repeated; any of them will do.
    host_data
        HOST_DATA, MRCONFIGID or CONFIGID to expect, in hex.
    report_data
        REPORT_DATA or nonce to expect, in hex; shorter than the field means zeros follow.
    event_log
        The event log that belongs to the evidence, to be replayed.
    """

    policy: Path | None = None
    no_policy: bool = False
    references: list[Path] = field(default_factory=list)
    measurement: list[str] = field(default_factory=list)
    host_data: str | None = None
    report_data: str | None = None
    event_log: Path | None = None


DEFAULT = Expected()


def verify(
    file: File,
    *,
    endorsements: list[Path] | None = None,
    at: str | None = None,
    expected: Expected = DEFAULT,
    accept_simulated: list[str] | None = None,
    offline: bool = False,
    json: bool = False,
) -> int:
    """Verify a piece of evidence: from the chip vendor's root to what was measured, with every reason.

    Ends with status 0 if it was verified and accepted, 1 if it was refused, 2 for wrong usage, 3 if something needed
    is missing: an endorsement, or the network to fetch it. Certificates, revocation lists and collateral can be
    verified themselves as FILE.

    Example: kokon evidence verify report.bin --endorsements bundle.json --measurement 5feee30d...

    Parameters
    ----------
    file
        The evidence, or - for standard input.
    endorsements
        Certificates (PEM or DER), revocation lists, Intel collateral, a bundle, the other parts of a TPM quote, or a
        folder of these. May be repeated. Nothing is fetched then; without, what is missing comes from the cache or
        from the vendor's service.
    at
        The time to verify for, as 2026-11-23T12:00:00Z; now by default.
    expected
        What to hold it against.
    accept_simulated
        Fingerprint of a simulated root to accept. Simulation protects nothing. May be repeated.
    offline
        Fetch nothing; use what was given and the cache.
    json
        Print the verdict as JSON.
    """
    from kokon.cli.output import emit, note
    from kokon.verifier.options import Request, run

    request = Request(
        data=read(file),
        now=moment(at),
        endorsements=tuple(endorsements or ()),
        policy=expected.policy,
        no_policy=expected.no_policy,
        references=tuple(expected.references),
        measurements=tuple(expected.measurement),
        host_data=expected.host_data,
        report_data=expected.report_data,
        event_log=expected.event_log,
        accept_simulated=tuple(accept_simulated or ()),
        offline=offline,
    )
    verdict = run(request, note)
    if json:
        emit({"file": str(file)} | verdict.as_dict(), "", json)
    else:
        _print(str(file), verdict)
    return verdict.status


def read(file: Path) -> bytes:
    """The bytes of `file`, of standard input for -. Raises `UsageError` (`evidence-file-unreadable`)."""
    from kokon.errors import UsageError
    from kokon.tee.recognise import EVIDENCE_LIMIT

    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(EVIDENCE_LIMIT + 1)
        with file.open("rb") as stream:
            return stream.read(EVIDENCE_LIMIT + 1)
    except OSError as error:
        raise UsageError("evidence-file-unreadable", f"cannot read {file}", found=error.strerror) from error


def moment(text: str | None) -> datetime:
    """RFC 3339 text as an aware time; now for None. Raises `UsageError` (`time-malformed`)."""
    from kokon.errors import UsageError

    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            found = found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            "time-malformed", "not a time", expected="RFC 3339, as 2026-11-23T12:00:00Z", found=text
        ) from error
    if found.tzinfo is None:
        raise UsageError(
            "time-malformed", "the time has no zone", expected="RFC 3339, as 2026-11-23T12:00:00Z", found=text
        )
    return found


SENTENCES = {
    "accepted": ("Verified, and accepted by the policy.", "bold green"),
    "verified": ("Verified: valid, chained to the vendor's root and in date. No policy was asked.", "bold green"),
    "refused": ("REFUSED: do not trust this.", "bold red"),
    "incomplete": ("Not decided: something that is needed is missing.", "bold yellow"),
}


def _print(title: str, verdict: Verdict) -> None:
    from kokon.appraisal.explain import steps
    from kokon.appraisal.step import Step
    from kokon.cli.output import emit
    from kokon.cli.tree import plain, print_lines, tree_lines

    sentence, style = SENTENCES[verdict.outcome]
    if verdict.claims is not None and verdict.claims.simulated and verdict.outcome in ("accepted", "verified"):
        sentence, style = f"SIMULATED: {sentence} No chip vendor stands behind this.", "bold yellow"
    subject = verdict.result or verdict.claims
    chain = (Step("format", "The file is what it should be", verdict.checks),) if subject is None else steps(subject)
    lines = tree_lines(title, chain, sentence, style)
    lines += [((f"missing: {need}", "yellow"),) for need in verdict.missing]
    if sys.stdout.isatty():
        print_lines(lines)
    else:
        emit({}, plain(lines))


def _table(value: Any, indent: int = 0) -> list[str]:
    """Nested plain values as indented lines."""
    margin = "  " * indent
    lines: list[str] = []
    for name, member in value.items() if isinstance(value, dict) else enumerate(value):
        label = f"{margin}{name}:" if isinstance(value, dict) else f"{margin}-"
        if isinstance(member, dict | list) and member:
            lines += [label, *_table(member, indent + 1)]
        else:
            lines.append(f"{label} {'' if member is None else member}".rstrip())
    return lines
