"""From what a user names on the command line to a question and its verdict: the files are read here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kokon.appraisal.policy import Policy
from kokon.appraisal.policy_file import parse_policy
from kokon.appraisal.reference import ReferenceValues
from kokon.appraisal.reference_file import parse_references
from kokon.endorsements import files
from kokon.endorsements.bundle import BUNDLE_LIMIT
from kokon.errors import MalformedError, UsageError
from kokon.tee.endorsements import Endorsements
from kokon.tee.eventlog.log import looks_like_event_log
from kokon.tee.recognise import EVIDENCE_LIMIT
from kokon.verifier.examine import Question, examine
from kokon.verifier.verdict import Verdict
from kokon.wire import unhex

if TYPE_CHECKING:
    from kokon.tee.evidence import Claims

FILE_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """The options of `kokon evidence verify`, as typed. Texts of digests are hex."""

    data: bytes
    now: datetime
    endorsements: tuple[Path, ...] = ()
    policy: Path | None = None
    no_policy: bool = False
    references: tuple[Path, ...] = ()
    measurements: tuple[str, ...] = ()
    host_data: str | None = None
    report_data: str | None = None
    event_log: Path | None = None
    accept_simulated: tuple[str, ...] = ()
    offline: bool = False


def run(request: Request, note: Callable[[str], None]) -> Verdict:
    """The verdict. `note` is told of long waits, and of files that are passed over.

    Raises `UsageError` for options that make no sense and files that cannot be read.
    """
    try:
        question = ask(request, note)
    except MalformedError as error:
        raise UsageError(
            "option-malformed", error.message, expected=error.expected, found=error.found, hint=error.hint
        ) from error
    if request.endorsements:
        return examine(request.data, question, request.now)
    return examine(request.data, question, request.now, _completion(request, note))


def ask(request: Request, note: Callable[[str], None]) -> Question:
    """The question that the options stand for. `note` is told of endorsements that are damaged and passed over.

    Raises `UsageError`, and `MalformedError` for policy and references.
    """
    held_against = (request.policy, *request.references, *request.measurements, request.host_data, request.report_data)
    if request.no_policy and any(held_against):
        raise UsageError("options-contradict", "--no-policy leaves nothing to hold the evidence against")
    named = [path for path in request.endorsements if not path.is_dir()]
    contents = [read(path, BUNDLE_LIMIT) for path in named]
    known = files.load([path for path in request.endorsements if path.is_dir()])
    for path, content in zip(named, contents, strict=True):
        parsed = files.parse(content)
        if parsed is None and files.classify(content) is not None:
            note(f"{path} looks like a {files.classify(content)} and does not parse: passed over")
        known |= parsed or Endorsements()
    pieces = [content for content in contents if len(content) <= EVIDENCE_LIMIT]
    if request.event_log is not None:
        log = read(request.event_log, EVIDENCE_LIMIT)
        if not looks_like_event_log(log):
            raise UsageError("event-log-unrecognised", f"{request.event_log} is no event log that Kokon knows")
        pieces.append(log)
    accepted = frozenset(text.lower() for text in request.accept_simulated)
    return Question(
        endorsements=replace(known, accepted_simulated=known.accepted_simulated | accepted),
        pieces=tuple(pieces),
        policy=None if request.no_policy else _policy(request.policy),
        references=_references(request),
    )


def read(path: Path, limit: int = FILE_LIMIT) -> bytes:
    """The content of a file of at most `limit` bytes. Raises `UsageError` (`file-unreadable`)."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise UsageError("file-unreadable", f"cannot read {path}", found=error.strerror) from error
    if len(data) > limit:
        raise UsageError("file-unreadable", f"{path} is too large", expected=f"<= {limit} bytes")
    return data


def _policy(path: Path | None) -> Policy:
    return Policy() if path is None else parse_policy(read(path))


def _references(request: Request) -> tuple[ReferenceValues, ...]:
    """Files of references, and one made of the options; what the options say beside measurements holds for all."""
    found = [entry for path in request.references for entry in parse_references(read(path), str(path))]
    measurements = tuple(_hex(text, "--measurement") for text in request.measurements)
    host_data = None if request.host_data is None else _hex(request.host_data, "--host-data")
    report_data = None if request.report_data is None else _hex(request.report_data, "--report-data")
    if measurements or not found:
        given = ReferenceValues(measurements, source="the command line")
        found += [given] if measurements or host_data or report_data is not None else []
    return tuple(
        replace(entry, host_data=host_data or entry.host_data, report_data=report_data or entry.report_data)
        for entry in found
    )


def _hex(text: str, option: str) -> bytes:
    return unhex(text.lower().removeprefix("0x"), what=option)


def _completion(
    request: Request, note: Callable[[str], None]
) -> Callable[[Callable[[Endorsements], Claims], Endorsements], Claims]:
    """What is lacking comes from the cache, and from the vendors unless the user wants to stay offline."""
    from kokon.endorsements.service import complete
    from kokon.endorsements.sources import CacheOnly, Source, connect, default_cache

    def waiting(seconds: float) -> None:
        note(f"waiting {seconds:.0f} s for AMD's service, which answers one request in ten seconds")

    accepted = frozenset(text.lower() for text in request.accept_simulated)
    source: Source = (
        CacheOnly(default_cache(), accepted=accepted)
        if request.offline
        else connect(accepted=accepted, waiting=waiting)
    )

    def completed(make: Callable[[Endorsements], Claims], endorsements: Endorsements) -> Claims:
        claims, _used = complete(make, endorsements, request.now, source)
        return claims

    return completed
