"""A whole log in one file, and its verification without the server: `kokon log export v1`.

Lines, each ended by a newline: a header (canonical JSON), each entry's bytes as they are (canonical JSON has no newline
in it), and the checkpoint's note as a JSON text, which begins with a quotation mark where an entry begins with a brace.
Read and verified as a stream; memory does not grow with the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kokon.errors import MalformedError, UntrustedError
from kokon.provisioning.ledger.checkpoint import (
    Checkpoint,
    check_not_shorter,
    check_same_log,
    check_same_root,
    verify_checkpoint,
    verify_witnesses,
)
from kokon.provisioning.ledger.entry import parse_entry
from kokon.provisioning.ledger.keys import VerifierKey, parse_verifier_key
from kokon.provisioning.ledger.merkle import Frontier, leaf_hash
from kokon.provisioning.ledger.note import NOTE_LIMIT, Signed
from kokon.tee.evidence import Check, not_checked, passed
from kokon.wire import Fields, canonical_json, parse_json

EXPORT_FORMAT = "kokon log export v1"
LINE_LIMIT = 2 * NOTE_LIMIT
"""Longest line in bytes."""
_HEADER_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Audit:
    """A log that was verified: its head, the times of its first and last entry, who cosigned, what was checked."""

    checkpoint: Checkpoint
    first: datetime | None
    last: datetime | None
    witnesses: tuple[Signed, ...]
    checks: tuple[Check, ...]

    @property
    def size(self) -> int:
        """How many entries there are; each was read and hashed."""
        return self.checkpoint.size

    @property
    def root(self) -> bytes:
        """The root hash."""
        return self.checkpoint.root

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {
            "origin": self.checkpoint.origin,
            "size": self.size,
            "root": self.root.hex(),
            "first": None if self.first is None else self.first.isoformat(),
            "last": None if self.last is None else self.last.isoformat(),
            "witnesses": [{"name": each.key.name, "time": each.time} for each in self.witnesses],
            "checks": [check.as_dict() for check in self.checks],
        }


@dataclass(frozen=True, slots=True)
class _Read:
    """What reading an export to its end found; `earlier` is the root at the size of the checkpoint kept before."""

    origin: str
    tree: Frontier
    earlier: bytes | None
    times: tuple[datetime, datetime] | None
    checkpoint: bytes


def export(key: VerifierKey, entries: Iterable[bytes], checkpoint: bytes) -> Iterator[bytes]:
    """The lines of an export: `entries` are all that `checkpoint` (a signed note) covers, `key` is the log's.

    Raises `MalformedError` (`log-entry-malformed`) for an entry that would not be one line.
    """
    yield canonical_json({"format": EXPORT_FORMAT, "key": str(key), "origin": key.name}) + b"\n"
    for entry in entries:
        if not entry.startswith(b"{") or b"\n" in entry:
            raise MalformedError("log-entry-malformed", "a log entry is not one line of JSON")
        yield entry + b"\n"
    yield canonical_json(checkpoint.decode()) + b"\n"


def export_lines(readline: Callable[[int], bytes]) -> Iterator[bytes]:
    """The lines of a file by its `readline`, none read further than one may be long."""
    while line := readline(LINE_LIMIT):
        yield line


def verify_export(
    lines: Iterable[bytes],
    keys: Iterable[VerifierKey],
    previous: Checkpoint | None = None,
    witnesses: Iterable[VerifierKey] = (),
    threshold: int = 0,
) -> Audit:
    """Verify an export, of which nothing is believed: each entry's hash, the root, the signature by one of `keys`,
    that it begins with the log of `previous` (a checkpoint that the auditor verified and kept), and that at least
    `threshold` of `witnesses` cosigned.

    Raises `UntrustedError` (`log-signature`, `log-broken`, `log-other`, `log-rolled-back`, `log-forked`,
    `log-unwitnessed`), `MalformedError` (`log-export-malformed`, and those of entries and notes), `UsageError`
    (`witnesses-unusable`).
    """
    read = _read(iter(lines), None if previous is None else previous.size)
    head = verify_checkpoint(read.checkpoint, keys)
    check_same_log(head.origin, read.origin)
    _check_head(head, read.tree)
    checks = [passed("signature", head.origin), passed("entries", head.size)]
    if previous is None:
        checks.append(
            not_checked("earlier checkpoint", "log-earlier-unknown", "keep this checkpoint for the next audit")
        )
    else:
        _check_previous(previous, head, read.earlier)
        checks.append(passed("earlier checkpoint", f"{previous.size} entries"))
    signed = verify_witnesses(read.checkpoint, witnesses, threshold)
    checks.append(_witness_check(signed))
    first, last = read.times or (None, None)
    return Audit(head, first, last, signed, tuple(checks))


def _read(lines: Iterator[bytes], previous: int | None) -> _Read:
    origin = _parse_header(_body(next(lines, b"")))
    tree, times = Frontier(), None
    earlier = tree.root() if previous == 0 else None
    for line in lines:
        body = _body(line)
        if body.startswith(b'"'):
            if next(lines, None) is not None:
                raise _malformed("something follows the checkpoint")
            return _Read(origin, tree, earlier, times, _parse_note_line(body))
        time = parse_entry(body).time
        times = (times[0] if times else time, time)
        tree = tree.append((leaf_hash(body),))
        if tree.size == previous:
            earlier = tree.root()
    raise _malformed("it ends without a checkpoint")


def _body(line: bytes) -> bytes:
    if not line.endswith(b"\n") or len(line) > LINE_LIMIT:
        raise _malformed("a line is too long, or cut off")
    return line[:-1]


def _parse_header(line: bytes) -> str:
    """The log's origin. The key beside it is for people: what is trusted is the auditor's own."""
    fields = Fields(parse_json(line, limit=_HEADER_LIMIT, what="header of the export"), "header of the export")
    if fields.text("format") != EXPORT_FORMAT:
        raise _malformed("it is of another format or version")
    origin, key = fields.text("origin"), parse_verifier_key(fields.text("key"))
    fields.finish()
    if key.name != origin:
        raise _malformed("its key and its origin differ")
    return origin


def _parse_note_line(line: bytes) -> bytes:
    note = parse_json(line, limit=LINE_LIMIT, what="checkpoint of the export")
    return str(note).encode()


def _check_head(head: Checkpoint, tree: Frontier) -> None:
    if head.size != tree.size or head.root != tree.root():
        raise UntrustedError(
            "log-broken",
            "these are not the entries that the log's owner signed: one was changed, removed, put in or moved",
            expected=f"{head.size} entries, root {head.root.hex()}",
            found=f"{tree.size} entries, root {tree.root().hex()}",
            hint="keep the export as evidence, and compare it with an earlier one",
        )


def _check_previous(previous: Checkpoint, head: Checkpoint, root: bytes | None) -> None:
    check_same_log(previous.origin, head.origin)
    check_not_shorter(previous, head)
    check_same_root(previous, root or b"")


def _witness_check(signed: tuple[Signed, ...]) -> Check:
    if not signed:
        return not_checked("witnesses", "log-unwitnessed", "name witnesses: without one, others may see another log")
    return passed("witnesses", ", ".join(each.key.name for each in signed))


def _malformed(why: str) -> MalformedError:
    return MalformedError("log-export-malformed", f"this is no whole export of a log: {why}")
