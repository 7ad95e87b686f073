"""A receipt: one entry with all that proves, years later and without the server, that it is in the log.

JSON, `kokon log receipt v1`: the entry's text, its index, the proof of inclusion and the signed checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kokon.errors import MalformedError
from kokon.provisioning.ledger.checkpoint import Checkpoint, verify_checkpoint, verify_witnesses
from kokon.provisioning.ledger.entry import Entry, parse_entry
from kokon.provisioning.ledger.keys import VerifierKey
from kokon.provisioning.ledger.merkle import HASH_SIZE, SIZE_LIMIT, HashAt, inclusion_proof, leaf_hash, verify_inclusion
from kokon.provisioning.ledger.note import NOTE_LIMIT, Signed
from kokon.wire import Fields, b64, canonical_json, parse_json, unb64

RECEIPT_FORMAT = "kokon log receipt v1"
RECEIPT_LIMIT = 1 << 20
"""Longest receipt in bytes."""
_PROOF_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Receipt:
    """One entry's bytes, where it stands, its proof, and the checkpoint (a signed note) that the proof leads to."""

    entry: bytes
    index: int
    proof: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        """The receipt as canonical JSON."""
        return canonical_json(
            {
                "format": RECEIPT_FORMAT,
                "entry": self.entry.decode(),
                "index": self.index,
                "proof": [b64(each) for each in self.proof],
                "checkpoint": self.checkpoint.decode(),
            }
        )


@dataclass(frozen=True, slots=True)
class Proven:
    """An entry that is number `index` of the log with this head; `witnesses` are those that cosigned the head."""

    entry: Entry
    index: int
    checkpoint: Checkpoint
    witnesses: tuple[Signed, ...]


def make_receipt(entry: bytes, index: int, checkpoint: bytes, size: int, hash_at: HashAt) -> Receipt:
    """The receipt of an entry; `size` is the checkpoint's. Raises `UsageError` (`log-proof-range`)."""
    return Receipt(entry, index, inclusion_proof(index, size, hash_at), checkpoint)


def parse_receipt(data: bytes) -> Receipt:
    """A receipt from its bytes; nothing is verified.

    Raises `MalformedError` (`log-receipt-malformed`, `size-mismatch`, and those of `kokon.wire`).
    """
    fields = Fields(parse_json(data, limit=RECEIPT_LIMIT, what="receipt"), "receipt")
    if fields.text("format") != RECEIPT_FORMAT:
        raise MalformedError("log-receipt-malformed", "this is no receipt, or one of another version")
    entry = fields.text("entry", limit=RECEIPT_LIMIT).encode()
    index = fields.integer("index", high=SIZE_LIMIT)
    proof = fields.array("proof", limit=_PROOF_LIMIT)
    checkpoint = fields.text("checkpoint", limit=NOTE_LIMIT).encode()
    fields.finish()
    if not all(isinstance(each, str) for each in proof):
        raise MalformedError("log-receipt-malformed", "the proof of a receipt is not made of texts")
    return Receipt(entry, index, tuple(unb64(each, what="proof", size=HASH_SIZE) for each in proof), checkpoint)


def verify_receipt(
    receipt: Receipt, keys: Iterable[VerifierKey], witnesses: Iterable[VerifierKey] = (), threshold: int = 0
) -> Proven:
    """Check that the entry is in the log that one of `keys` signed, with at least `threshold` of `witnesses`.

    Raises `UntrustedError` (`log-signature`, `log-broken`, `log-unwitnessed`), `MalformedError` (those of entries and
    notes), `UsageError` (`witnesses-unusable`).
    """
    head = verify_checkpoint(receipt.checkpoint, keys)
    verify_inclusion(receipt.index, head.size, leaf_hash(receipt.entry), receipt.proof, head.root)
    signed = verify_witnesses(receipt.checkpoint, witnesses, threshold)
    return Proven(parse_entry(receipt.entry), receipt.index, head, signed)
