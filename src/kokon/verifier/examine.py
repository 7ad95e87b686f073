"""Bytes of any kind to a verdict. Pure, but for what `complete` does.

The kind of a file is found out; what belongs together is put together (a TPM's quote, its signature and key; a quote
and its event log); it is verified and, if there is a policy, appraised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy
from kokon.appraisal.reference import ReferenceValues
from kokon.endorsements import files
from kokon.errors import MalformedError
from kokon.tee.endorsed import nothing, verify_all
from kokon.tee.endorsements import Endorsements
from kokon.tee.eventlog.log import looks_like_event_log, parse_event_log
from kokon.tee.eventlog.replay import replay
from kokon.tee.evidence import Check, Claims, Evidence, Need, failed
from kokon.tee.recognise import recognise
from kokon.tee.registry import TEES, tee, verify
from kokon.tee.vtpm.assemble import assemble
from kokon.verifier.verdict import Verdict, unreadable

EVENT_LOG: Final = "event-log"
_LOGGED: Final = ("tdx", "tpm", "az-snp-vtpm", "az-tdx-vtpm")
_ASSEMBLED: Final = ("tpm", "az-snp-vtpm", "az-tdx-vtpm")

Completion = Callable[[Callable[[Endorsements], Claims], Endorsements], Claims]
"""Makes claims with a function of endorsements, beginning with those given; may fetch what the claims lack."""


def offline(make: Callable[[Endorsements], Claims], endorsements: Endorsements) -> Claims:
    """Nothing is fetched."""
    return make(endorsements)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a file: with which endorsements and companion files, by which policy (None: no appraisal).

    `pieces` are the contents of files that may belong to it: signature, key, HCL report, event log.
    """

    endorsements: Endorsements = field(default_factory=Endorsements)
    pieces: tuple[bytes, ...] = ()
    policy: Policy | None = None
    references: tuple[ReferenceValues, ...] = ()
    tees: Mapping[str, str] = field(default_factory=lambda: TEES)


def examine(data: bytes, question: Question, now: datetime, complete: Completion = offline) -> Verdict:
    """The verdict on `data` at the time `now` (aware). Bytes that do not parse are refused, nothing is raised for
    them."""
    try:
        evidence = find_evidence(data, question.pieces, question.tees)
        if evidence is None:
            return _endorsement(data, question, now, complete)
        claims = complete(lambda pool: verify(evidence, pool, now, question.tees), question.endorsements)
    except MalformedError as error:
        return unreadable(now, error)
    if question.policy is None:
        return Verdict("evidence", now, claims.checks, claims)
    result = appraise(claims, question.references, question.policy, now)
    return Verdict("evidence", now, result.checks, claims, result)


def find_evidence(data: bytes, pieces: Sequence[bytes] = (), tees: Mapping[str, str] = TEES) -> Evidence | None:
    """The evidence in `data`, completed by what fits among `pieces`; None if there is none.

    Raises `MalformedError` for what looks like evidence and does not parse.
    """
    if looks_like_event_log(data):
        return _with_log(_first(pieces, tees), data)
    if files.classify(data) in ("crl", "collateral", "bundle"):
        return None
    evidence = recognise(data, tees)
    if evidence is not None and evidence.tee not in _ASSEMBLED:
        logs = tuple(dict.fromkeys(piece for piece in pieces if looks_like_event_log(piece)))
        if len(logs) > 1:
            raise _ambiguous("several were given")
        return _with_log(evidence, logs[0]) if logs else evidence
    joined = _assembled(data, pieces)
    if joined is None or evidence is None:
        return joined if evidence is None else evidence
    return replace(joined, certificates=tuple(dict.fromkeys((*evidence.certificates, *joined.certificates))))


def _first(pieces: Sequence[bytes], tees: Mapping[str, str]) -> Evidence | None:
    found = (recognise(piece, tees) for piece in pieces if not looks_like_event_log(piece))
    return next((evidence for evidence in found if evidence is not None), None)


def _with_log(evidence: Evidence | None, log: bytes) -> Evidence | None:
    if evidence is None:
        return None
    if evidence.parts.get(EVENT_LOG, log) != log:
        raise _ambiguous("the evidence carries another")
    if evidence.tee not in _LOGGED:
        raise MalformedError(
            "event-log-useless",
            "no event log belongs to this evidence",
            expected=", ".join(_LOGGED),
            found=evidence.tee,
        )
    return replace(evidence, parts=dict(evidence.parts) | {EVENT_LOG: log})


def _ambiguous(found: str) -> MalformedError:
    return MalformedError("event-log-ambiguous", "which event log is meant?", expected="one event log", found=found)


def _assembled(data: bytes, pieces: Iterable[bytes]) -> Evidence | None:
    """A TPM's evidence out of `data` and those pieces that belong to such; None if `data` is no piece of any."""
    try:
        assemble((data,))
    except MalformedError as error:
        if error.code == "tpm-piece-unknown":
            return None
    fitting = [data]
    for piece in pieces:
        try:
            assemble((piece,))
        except MalformedError as error:
            if error.code == "tpm-piece-unknown":
                continue
        fitting.append(piece)
    try:
        return assemble(fitting)
    except MalformedError as error:
        if error.code == "tpm-pieces-incomplete":
            return None
        raise


def _endorsement(data: bytes, question: Question, now: datetime, complete: Completion) -> Verdict:
    kind = files.classify(data)
    subject = None if kind is None else files.parse(data)
    if looks_like_event_log(data) or (
        subject is not None and subject == Endorsements(enrolled_keys=subject.enrolled_keys)
    ):
        return _half("event log" if subject is None else "public key", now)
    if subject is None:
        raise MalformedError(
            "evidence-unrecognised",
            "this is no evidence that Kokon knows, and no endorsement",
            expected=", ".join(question.tees),
            found=f"{len(data)} bytes, {data[:16].hex()}",
            hint="the parts of a TPM's quote are given with --endorsements",
        )
    claims = complete(lambda pool: verify_all(subject, pool, now), question.endorsements)
    return Verdict(claims.tee, now, (*claims.checks, *_not_evidence(claims, question)), claims)


def _not_evidence(claims: Claims, question: Question) -> Iterator[Check]:
    """An endorsement says nothing about a workload: who asks by a policy asked for something else."""
    if question.policy is not None:
        yield failed(
            "evidence",
            "evidence-expected",
            expected="evidence, to be held against the policy",
            found=claims.tee,
            hint="--no-policy answers whether an endorsement itself is genuine",
        )


def _half(what: str, now: datetime) -> Verdict:
    """The verdict on what says nothing without the quote that it belongs to."""
    claims = nothing(what, Need("quote"), f"give the quote that this {what} belongs to with --endorsements")
    return Verdict(what, now, claims.checks, claims)


def describe(data: bytes, pieces: Sequence[bytes] = (), tees: Mapping[str, str] = TEES) -> dict[str, Any]:
    """Every field of a file as plain JSON values, nothing verified.

    Raises `MalformedError`: the formats' own, and `evidence-unrecognised`.
    """
    if looks_like_event_log(data) and not pieces:
        return {"kind": "event-log"} | describe_log(data)
    evidence = find_evidence(data, pieces, tees)
    if evidence is not None:
        return {"kind": "evidence", "tee": evidence.tee} | tee(evidence.tee, tees).describe(evidence)
    verdict = _endorsement(data, Question(tees=tees), datetime.max.replace(tzinfo=UTC), offline)
    return {"kind": verdict.kind} | dict(verdict.claims.details if verdict.claims else {})


def describe_log(data: bytes) -> dict[str, Any]:
    """An event log's events and the values that its registers come to."""
    log = parse_event_log(data)
    return {
        "algorithms": list(log.algorithms),
        "registers": {
            algorithm: {str(number): value.hex() for number, value in sorted(replay(log, algorithm).items())}
            for algorithm in log.algorithms
        },
        "events": [
            {
                "index": event.index,
                "register": event.register,
                "type": event.type_name,
                "description": event.description,
                "digests": {name: value.hex() for name, value in event.digests.items()},
            }
            for event in log.events
        ],
    }
