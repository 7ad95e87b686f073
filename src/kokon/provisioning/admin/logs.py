"""A log's entries, checkpoints, tiles, proofs and receipts, for auditors and witnesses (docs/LOG.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kokon.errors import DeniedError, UsageError
from kokon.provisioning.access.roles import Action
from kokon.provisioning.database.values import Put
from kokon.provisioning.ledger.audit import export
from kokon.provisioning.ledger.checkpoint import (
    parse_checkpoint,
    verify_checkpoint,
    verify_witnesses,
    with_cosignature,
)
from kokon.provisioning.ledger.keys import parse_verifier_key
from kokon.provisioning.ledger.merkle import consistency_proof
from kokon.provisioning.ledger.note import NOTE_LIMIT, parse_note
from kokon.provisioning.ledger.receipt import make_receipt
from kokon.provisioning.ledger.tiles import WIDTH, make_bundle, make_tile, parse_tile_path
from kokon.wire import Fields, b64, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kokon.provisioning.admin.request import Asked
    from kokon.provisioning.ledger.keys import VerifierKey

PAGE = 1000
"""Entries of one answer."""
BODY_LIMIT = 256 << 10
COSIGNED = "cosigned"
"""The kind of checkpoints with cosignatures, by witnesses' names."""


def entries(asked: Asked, start: int, limit: int) -> dict[str, Any]:
    """Entries (exact texts) from number `start` on, and the size of the log."""
    asked.allow(Action.LOG_READ)
    asked.core.write_counted(asked.project)
    found = asked.store.entries(asked.project, start, min(limit, PAGE))
    return {"entries": [entry.decode() for entry in found], "size": asked.store.frontier(asked.project).size}


def checkpoint(asked: Asked) -> bytes:
    """The latest signed checkpoint."""
    asked.allow(Action.LOG_READ)
    return asked.store.checkpoint(asked.project)


def tile(asked: Asked, path: str) -> bytes:
    """A tile of hashes or a bundle of entries. Raises `MalformedError` (`tile-malformed`), `DeniedError`
    (`tile-unknown`)."""
    asked.allow(Action.LOG_READ)
    wanted = parse_tile_path(path)
    size = asked.store.frontier(asked.project).size
    if not wanted.within(size):
        raise DeniedError("tile-unknown", "the log is not that long yet", expected=f"{size} entries", found=path[:100])
    if wanted.level is not None:
        return make_tile(wanted, lambda level, index: asked.store.hash_at(asked.project, level, index))
    return make_bundle(asked.store.entries(asked.project, wanted.index * WIDTH, wanted.width))


def receipt(asked: Asked, index: int) -> bytes:
    """One entry with all that proves, without the server, that it is in the log. Raises `UsageError`
    (`log-proof-range`)."""
    asked.allow(Action.LOG_READ)
    note = asked.store.checkpoint(asked.project)
    size = _size(note)
    found = asked.store.entries(asked.project, index, 1) if index < size else []
    if not found:
        raise UsageError("log-proof-range", "the log has no such entry", expected=f"0..{size - 1}", found=index)
    made = make_receipt(found[0], index, note, size, lambda level, at: asked.store.hash_at(asked.project, level, at))
    return made.encode()


def consistency(asked: Asked, first: int) -> dict[str, Any]:
    """The proof that the log of `first` entries is the beginning of this one, and the checkpoint that it leads to."""
    asked.allow(Action.LOG_READ)
    note = asked.store.checkpoint(asked.project)
    size = _size(note)
    proof = consistency_proof(first, size, lambda level, at: asked.store.hash_at(asked.project, level, at))
    return {"size": size, "proof": [b64(each) for each in proof], "checkpoint": note.decode()}


def add_cosignature(asked: Asked, body: bytes, key: VerifierKey) -> dict[str, Any]:
    """Keep a witness' cosignature of one of the log's checkpoints. JSON: `checkpoint` (the signed note), `line` (what
    the witness signed), `key` (the witness' verifier key; whether it is one to trust, auditors decide).

    Raises `UntrustedError` (`log-signature`, `log-unwitnessed`), `MalformedError` as notes and keys are parsed.
    """
    asked.allow(Action.CHECKPOINT_COSIGN)
    fields = Fields(parse_json(body, limit=BODY_LIMIT, what="cosignature"), "cosignature")
    note, line = fields.text("checkpoint", limit=NOTE_LIMIT).encode(), fields.text("line", limit=4096)
    witness = parse_verifier_key(fields.text("key", limit=1024))
    fields.finish()
    head = verify_checkpoint(note, [key])
    cosigned = with_cosignature(note, line, [witness])
    verify_witnesses(cosigned, [witness], 1)
    details = {"size": head.size, "root": head.root.hex(), "witness": str(witness)}
    asked.write("checkpoint-cosigned", details, (Put(COSIGNED, witness.name, cosigned),))
    return {"size": head.size, "witness": witness.name}


def cosigned(asked: Asked) -> dict[str, Any]:
    """The latest checkpoint that each witness cosigned."""
    asked.allow(Action.LOG_READ)
    found = {}
    for name in asked.store.snapshot(asked.project).names(COSIGNED):
        note = asked.store.read(asked.project, COSIGNED, name)
        if note is not None:
            found[name] = note.decode()
    return {"cosigned": found}


def lines(asked: Asked, key: VerifierKey) -> Iterator[bytes]:
    """The whole log as of now, for `kokon audit verify`."""
    asked.allow(Action.LOG_READ)
    asked.core.write_counted(asked.project)
    note = asked.store.checkpoint(asked.project)
    return export(key, _entries(asked, _size(note)), note)


def _entries(asked: Asked, size: int) -> Iterator[bytes]:
    at = 0
    while at < size:
        found = asked.store.entries(asked.project, at, min(PAGE, size - at))
        if not found:
            raise UsageError("log-proof-range", "the log ends early", expected=size, found=at)
        yield from found
        at += len(found)


def _size(note: bytes) -> int:
    return parse_checkpoint(parse_note(note).text).size


def show_denial(asked: Asked, identity: str) -> dict[str, Any]:
    """The log entry of a denial, in full. Raises `DeniedError` (`denial-unknown`)."""
    asked.allow_somewhere(Action.DENIAL_READ)
    found = asked.store.denial(asked.project, identity)
    entry = None if found is None else parse_json(found, limit=1 << 20, what="log entry")
    if entry is None or not _covered(asked, entry):
        raise DeniedError(
            "denial-unknown",
            "there is no denial with this id",
            found=identity[:64],
            hint="of many refusals alike the log keeps some and the number of the others: kokon log",
        )
    shown: dict[str, Any] = entry
    return shown


def _covered(asked: Asked, entry: dict[str, Any]) -> bool:
    """Whether the denial is about a resource or workload in the scope; one about neither is for the whole project."""
    about = entry.get("resource") or entry.get("workload")
    if isinstance(about, str) and asked.covers(about):
        return True
    return asked.principal.covers(asked.project, None)
