"""`kokon conformance`: does a key broker do what its protocol demands?"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kokon.conformance.evidence import Attester
    from kokon.conformance.options import Options
    from kokon.conformance.run import Report

FILE_LIMIT = 1 << 20
WIDTH = 170
"""Columns of the table where nobody says how wide the paper is."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the suite may do on the server.

    Parameters
    ----------
    ca
        File with the certificate to trust (PEM); by default what this machine trusts.
    admin_token
        File with an admin token: the suite then sets and deletes resources below names of its own.
    resource
        Resource to use, as repository/type/tag. Without --resource-file and with an admin token it is overwritten and
        deleted.
    resource_file
        What the resource holds; it is only read then.
    change_policies
        Set the resource policy, an attestation policy and a reference value too. For servers that nobody uses.
    policy_after
        File with the resource policy to set at the end; without it the policy then denies everything.
    """

    ca: Path | None = None
    admin_token: Path | None = None
    resource: str | None = None
    resource_file: Path | None = None
    change_policies: bool = False
    policy_after: Path | None = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """As whom the suite attests.

    Parameters
    ----------
    tee
        sample, or snp: a simulated chip whose root the server must accept.
    processor
        Folder with the simulated chip's keys; by default this machine's.
    show_root
        Print the fingerprint of the simulated chip's root, for the server to accept, and end.
    init_data
        File with the launch document of the guest.
    measurement
        Launch measurement of the guest (hex); by default the bytes 00 to 2f.
    """

    tee: str = "sample"
    processor: Path | None = None
    show_root: bool = False
    init_data: Path | None = None
    measurement: str | None = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What is tried, and for how long.

    Parameters
    ----------
    versions
        Protocol versions that must be spoken, with commas between them; the others only should be.
    only
        Try this case alone; a name with * at its end means all that begin so. May be repeated.
    strict
        Let what is tolerated count as failed.
    patience
        Seconds to wait for sessions and tokens to expire; by default those cases are skipped.
    timeout
        Seconds for one request.
    seconds
        Seconds for the whole run, without waiting for expiry.
    """

    versions: str = "0.4.0"
    only: list[str] = field(default_factory=list)
    strict: bool = False
    patience: float = 0.0
    timeout: float = 10.0
    seconds: float = 300.0


ACCESS, GUEST, EXTENT = Access(), Guest(), Extent()


def conformance(
    url: str | None = None,
    *,
    access: Access = ACCESS,
    guest: Guest = GUEST,
    extent: Extent = EXTENT,
    list_cases: Annotated[bool, Parameter(name="--list")] = False,
    json: bool = False,
) -> int:
    """Hold a key broker against the protocol of Confidential Containers, from outside.

    Works with any server of that protocol. Ends with status 0 if no demand failed, 1 if one did or the run did not
    come to its end. The server must let the suite attest: docs/CONFORMANCE.md says how.

    Example: kokon conformance https://127.0.0.1:8443 --ca server.pem --admin-token admin.token

    Parameters
    ----------
    url
        The server's address; with a path, everything is below it.
    access
        What the suite may do there.
    guest
        As whom it attests.
    extent
        What it tries.
    list_cases
        List the cases, and try none.
    json
        Print JSON.
    """
    from kokon.cli.output import emit, note, progress
    from kokon.conformance.run import run

    if list_cases:
        return _list(extent.only, json)
    if guest.show_root:
        return _show_root(guest, json)
    options = _options(url, access, guest, extent)
    attester = _attester(guest, options)
    with progress("trying") as update:
        report = run(options, attester, progress=update)
    if json:
        emit(report.as_dict(), "", json)
    else:
        _print(report)
    for remark in report.remarks:
        note(f"note: {remark}")
    return 0 if report.conforms else 1


def _options(url: str | None, access: Access, guest: Guest, extent: Extent) -> Options:
    from kokon.conformance.options import DEFAULT_INIT_DATA, DEFAULT_MEASUREMENT, Options, check_options, parse_target
    from kokon.errors import UsageError
    from kokon.wire import unhex

    if url is None:
        raise UsageError("conformance-url", "whose conformance?", expected="https://host:port", found="no URL")
    measured = guest.measurement
    options = Options(
        target=parse_target(url),
        certificate=_text(access.ca),
        admin_token=_token(access.admin_token),
        tee=guest.tee,
        init_data=_text(guest.init_data) or DEFAULT_INIT_DATA,
        measurement=DEFAULT_MEASUREMENT if measured is None else unhex(measured, what="the measurement", size=48),
        versions=tuple(part.strip() for part in extent.versions.split(",") if part.strip()),
        resource=access.resource,
        value=None if access.resource_file is None else _read(access.resource_file),
        change_policies=access.change_policies,
        policy_after=_text(access.policy_after),
        only=tuple(extent.only),
        strict=extent.strict,
        patience=extent.patience,
        timeout=extent.timeout,
        seconds=extent.seconds,
    )
    return check_options(options)


def _attester(guest: Guest, options: Options) -> Attester:
    from kokon.conformance.evidence import Sample, Snp, fitted_digest
    from kokon.tee.simulated.keys import load_processor

    if options.tee == "sample":
        return Sample()
    return Snp(load_processor(_processor(guest)), fitted_digest(options.init_data), options.measurement)


def _processor(guest: Guest) -> Path:
    from kokon.cli.output import kokon_home

    return (guest.processor or kokon_home() / "processor").absolute()


def _show_root(guest: Guest, json: bool) -> int:
    from kokon.cli.output import emit
    from kokon.tee.simulated.keys import fingerprint

    root = fingerprint(_processor(guest))
    emit({"root": root, "processor": str(_processor(guest))}, root, json)
    return 0


def _token(file: Path | None) -> str | None:
    from kokon.errors import UsageError

    if file is None:
        return None
    token = _read(file).decode("utf-8", "replace").strip()
    if not token or not token.isascii() or not token.isprintable() or len(token) > 16_384:
        raise UsageError("conformance-token", f"{file} does not hold one token", expected="one line of ASCII")
    return token


def _text(file: Path | None) -> str | None:
    from kokon.errors import UsageError

    if file is None:
        return None
    try:
        return _read(file).decode()
    except UnicodeDecodeError as error:
        raise UsageError("conformance-file", f"{file} is not text", found=error.reason) from error


def _read(file: Path) -> bytes:
    from kokon.errors import UsageError

    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_LIMIT + 1)
    except OSError as error:
        raise UsageError("conformance-file", f"cannot read {file}", found=error.strerror) from error
    if len(data) > FILE_LIMIT:
        raise UsageError("conformance-file", f"{file} is too large", expected=f"<= {FILE_LIMIT} bytes")
    return data


# -- output --------------------------------------------------------------------------------------------------------

STYLES = {"pass": "green", "fail": "bold red", "skip": "dim", "tolerated": "yellow"}


def _list(only: Iterable[str], json: bool) -> int:
    from kokon.cli.output import emit
    from kokon.conformance.run import chosen

    cases = chosen(only)
    listed = [{"name": c.name, "level": str(c.level), "section": c.section, "demanded": c.title} for c in cases]
    if json:
        emit({"cases": listed}, "", json)
    else:
        rows = [(case.name, case.title, str(case.level), case.section) for case in cases]
        _draw(("name", "demanded", "level", "section"), rows)
    return 0


def _print(report: Report) -> None:
    from kokon.cli.output import emit
    from kokon.conformance.case import Level, Outcome

    rows = [
        (result.case.name, result.case.title, str(result.level), str(result.outcome), result.found)
        for result in report.results
    ]
    _draw(("name", "demanded", "level", "outcome", "found"), rows)
    counted = ", ".join(f"{count} {name}" for name, count in report.counts().items())
    untried = sum(one.level is Level.MUST and one.outcome is Outcome.SKIP for one in report.results)
    lines = [f"{report.url} with {report.tee} evidence: {counted}; {report.requests} requests"]
    if untried:
        lines.append(f"{untried} demands that must hold could not be tried")
    if report.unfinished is not None:
        lines.append(f"the run did not come to its end: {report.unfinished}")
    lines.append("No demand failed." if report.conforms else "NOT CONFORMING.")
    emit({}, "\n".join(lines))


def _draw(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on stdout, as wide as the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kokon.cli.output import printable

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in head:
        whole: dict[str, Any] = {"no_wrap": True} if name in ("name", "level", "outcome") else {"overflow": "fold"}
        table.add_column(name, **whole)
    for row in rows:
        table.add_row(*(Text(printable(cell), style=STYLES.get(cell, "")) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)
