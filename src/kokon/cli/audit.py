"""`kokon audit`: proofs about a log that hold without its server."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from cyclopts import Parameter

from kokon.cli.access import DEFAULT_ACCESS, Access, Source, connect
from kokon.cli.log import read_key
from kokon.cli.output import emit, note
from kokon.errors import HostError, MalformedError, UsageError
from kokon.wire import parse_json

if TYPE_CHECKING:
    from kokon.provisioning.client import AdminClient
    from kokon.provisioning.ledger.checkpoint import Checkpoint
    from kokon.provisioning.ledger.keys import VerifierKey

_Output = Annotated[Path | None, Parameter(name=("--output", "-o"))]
_MARKS = {"passed": "ok  ", "failed": "FAIL", "not-checked": "-   "}
_FIRST_LIMIT = 2 << 20


def export(
    *,
    output: _Output = None,
    witnessed: bool = False,
    server: bool = False,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Write a project's whole log, with its signed head, for `kokon audit verify`.

    Example: `kokon audit export --output clinic.log`

    Parameters
    ----------
    output
        Write it to this file, which must not be there; default: standard output.
    witnessed
        Only up to the newest head that witnesses cosigned, with their signatures.
    server
        The server's own log instead.
    json
        Print JSON about the file.
    """
    if json and output is None:
        raise UsageError("output-needed", "the log itself goes to standard output: --json needs --output")
    with connect(access) as client:
        pieces = _witnessed(client, server=server) if witnessed else client.export(server=server)
        if output is None:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        size, digest = _save(output, pieces)
    emit({"output": str(output), "size": size, "sha256": digest}, f"{output}: {size} bytes, SHA-256 {digest}", json)
    note(f"verify it with: kokon audit verify {output} --key KEY")


def verify(
    file: Source,
    /,
    *,
    key: tuple[str, ...],
    previous: Path | None = None,
    witness: tuple[str, ...] = (),
    threshold: int | None = None,
    keep: Path | None = None,
    json: bool = False,
) -> None:
    """Verify an exported log or a receipt, offline. Nothing in the file is believed.

    Example: `kokon audit verify clinic.log --key clinic.key --previous last.checkpoint --keep this.checkpoint`

    Of a log: each entry, the signed head, that it begins with the log as it was at an earlier audit, and that witnesses
    saw the same. Of a receipt: that its entry is in the log, and the entry is printed.

    Parameters
    ----------
    file
        What `kokon audit export` or `kokon audit receipt` wrote; - for standard input.
    key
        The log's verifier key, or a file with it, as its owner published it; not the one in the file. May be repeated.
    previous
        The signed head that you kept from the last audit.
    witness
        Verifier key of a witness, or a file with it. May be repeated.
    threshold
        How many of the witnesses must have cosigned; default: all of them.
    keep
        Write the verified head to this file, for `--previous` of the next audit.
    json
        Print JSON.
    """
    from kokon.cli.inputs import opened_input

    keys, witnesses = [read_key(text) for text in key], [read_key(text) for text in witness]
    needed = len(witnesses) if threshold is None else threshold
    with opened_input(file) as source:
        first = source.readline(_FIRST_LIMIT)
        if _format_of(first) == "receipt":
            if previous is not None or keep is not None:
                raise UsageError("audit-options", "a receipt has no earlier head: --previous and --keep are for logs")
            _verify_receipt(first + source.read(_FIRST_LIMIT), keys, witnesses, needed, json=json)
            return
        lines = _Lines(first, source)
        _verify_log(lines, keys, previous, witnesses, needed, json=json)
    if keep is not None:
        _write_new(keep, str(parse_json(lines.last, limit=_FIRST_LIMIT, what="checkpoint")).encode())


def receipt(
    index: int,
    /,
    *,
    output: _Output = None,
    server: bool = False,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Get one entry with all that proves, years later and without the server, that it is in the log.

    Example: `kokon audit receipt 4711 --output release.receipt`

    Parameters
    ----------
    index
        The entry's number, as `kokon log` shows it.
    output
        Write it to this file, which must not be there; default: standard output.
    server
        Of the server's own log instead.
    json
        Print JSON; a receipt is JSON anyway.
    """
    from kokon.provisioning.ledger.receipt import parse_receipt, verify_receipt

    with connect(access) as client:
        data = client.receipt(index, server=server)
        proven = verify_receipt(parse_receipt(data), [client.log_key(server=server)])
    told = {"index": proven.index, "event": proven.entry.event, "size": proven.checkpoint.size}
    _give(data + b"\n", output, {**told, "output": str(output)}, f"{output}: entry {index}", json)


def checkpoint(
    *,
    output: _Output = None,
    server: bool = False,
    key: str | None = None,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Get the log's signed head, to be kept elsewhere: a server that shows an older log later is then found out.

    Example: `kokon audit checkpoint --output clinic.checkpoint`

    Parameters
    ----------
    output
        Write the head to this file, which must not be there; default: standard output.
    server
        Of the server's own log instead.
    key
        The log's verifier key, or a file with it; default: what the server says.
    json
        Print JSON, with what witnesses cosigned.
    """
    from kokon.provisioning.ledger.checkpoint import verify_checkpoint

    with connect(access) as client:
        verifier = client.log_key(server=server) if key is None else read_key(key)
        data = client.checkpoint(server=server)
        head = verify_checkpoint(data, [verifier])
        cosigned = client.cosigned(server=server)
    members: dict[str, Any] = {**_head(head), "key": str(verifier), "checkpoint": data.decode()}
    members["cosigned"] = {name: signed.decode() for name, signed in cosigned.items()}
    if output is not None:
        _write_new(output, data)
        emit({**members, "output": str(output)}, f"{output}: {head.size} entries, root {head.root.hex()}", json)
    else:
        emit(members, data.decode().removesuffix("\n"), json)
    note(f"the log's verifier key: {verifier}")


# -- verification --------------------------------------------------------------------------------------------------


class _Lines:
    """The lines of an export, the last of which is remembered."""

    def __init__(self, first: bytes, source: BinaryIO) -> None:
        self.last = first
        self._source = source

    def __iter__(self) -> Iterator[bytes]:
        from kokon.provisioning.ledger.audit import export_lines

        yield self.last
        for line in export_lines(self._source.readline):
            self.last = line
            yield line


def _verify_log(
    lines: _Lines,
    keys: list[VerifierKey],
    previous: Path | None,
    witnesses: list[VerifierKey],
    threshold: int,
    *,
    json: bool,
) -> None:
    from kokon.cli.inputs import read_input
    from kokon.provisioning.ledger.audit import verify_export
    from kokon.provisioning.ledger.checkpoint import verify_checkpoint
    from kokon.provisioning.ledger.note import NOTE_LIMIT

    earlier = None if previous is None else verify_checkpoint(read_input(previous, NOTE_LIMIT), keys)
    audit = verify_export(lines, keys, earlier, witnesses, threshold)
    told = [f"{audit.checkpoint.origin}: {audit.size} entries, root {audit.root.hex()}"]
    if audit.first is not None and audit.last is not None:
        told.append(f"from {audit.first.isoformat()} to {audit.last.isoformat()}")
    for check in audit.checks:
        members = check.as_dict()
        told.append(
            f"{_MARKS[members['outcome']]} {members['name']}  {members.get('found') or members.get('hint', '')}"
        )
    emit({"verified": True, **audit.as_dict()}, "\n".join(line.rstrip() for line in told), json)


def _verify_receipt(
    data: bytes, keys: list[VerifierKey], witnesses: list[VerifierKey], threshold: int, *, json: bool
) -> None:
    from kokon.provisioning.ledger.receipt import parse_receipt, verify_receipt

    parsed = parse_receipt(data)
    proven = verify_receipt(parsed, keys, witnesses, threshold)
    members = {
        "verified": True,
        "index": proven.index,
        **_head(proven.checkpoint),
        "witnesses": [{"name": each.key.name, "time": each.time} for each in proven.witnesses],
        "entry": parse_json(parsed.entry, limit=_FIRST_LIMIT, what="entry"),
    }
    emit(members, parsed.entry.decode(), json)
    note(f"entry {proven.index} of {proven.checkpoint.size} in {proven.checkpoint.origin}: verified")


def _format_of(first: bytes) -> str:
    """Whether a file that begins with this line is an export or a receipt; the rest is for the parsers to say."""
    from kokon.provisioning.ledger.receipt import RECEIPT_FORMAT

    try:
        value = parse_json(first, limit=_FIRST_LIMIT, what="file")
    except MalformedError:
        return "export"
    return "receipt" if isinstance(value, dict) and value.get("format") == RECEIPT_FORMAT else "export"


def _head(head: Checkpoint) -> dict[str, Any]:
    return {"origin": head.origin, "size": head.size, "root": head.root.hex()}


# -- what witnesses saw --------------------------------------------------------------------------------------------


def _witnessed(client: AdminClient, *, server: bool) -> Iterator[bytes]:
    """An export up to the newest checkpoint that was cosigned, with all cosignatures of it."""
    from kokon.provisioning.ledger.audit import export as export_of
    from kokon.provisioning.ledger.checkpoint import verify_checkpoint
    from kokon.provisioning.ledger.note import parse_note

    key = client.log_key(server=server)
    notes = [(verify_checkpoint(data, [key]), parse_note(data)) for data in client.cosigned(server=server).values()]
    if not notes:
        raise UsageError(
            "log-not-cosigned", "no witness cosigned this log yet", hint="`kokon audit witness` makes one of you"
        )
    head, newest = max(notes, key=lambda one: one[0].size)
    for _, other in notes:
        for signature in other.signatures if other.text == newest.text else ():
            newest = newest.adding(signature)
    return export_of(key, client.entries(head.size, server=server), newest.encode())


# -- files ---------------------------------------------------------------------------------------------------------


def _give(data: bytes, output: Path | None, told: dict[str, Any], text: str, json: bool) -> None:
    """`data` on standard output, or in a file with an answer about it."""
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    _write_new(output, data)
    emit(told, text, json)


def _write_new(path: Path, data: bytes) -> None:
    from kokon.cli.inputs import write_output

    write_output(path, data)


def _save(path: Path, pieces: Iterable[bytes]) -> tuple[int, str]:
    """Size and SHA-256 of a new file. It has its name only once it is whole."""
    if path.exists():
        raise UsageError("output-exists", f"{path} exists already, nothing is overwritten")
    temporary = path.with_name(f".{path.name}.new")
    digest, size = hashlib.sha256(), 0
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                size += len(piece)
        temporary.rename(path)
    except OSError as error:
        raise HostError("output-not-written", f"cannot write {path}", found=error.strerror) from error
    finally:
        temporary.unlink(missing_ok=True)
    return size, digest.hexdigest()
