"""A witness of logs: its key, what it remembers of a log, and what it does at each visit. Pure.

A witness's key is a text, `PRIVATE+KEY+name+id+key` (the form that C2SP's signed notes came from has for private keys):
id as in its verifier key, key the base64 of one byte (4) and the 32 bytes of the seed. What it remembers is JSON,
`kokon log witness v1`: the log's verifier key, and the signed checkpoint that it cosigned last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from kokon.errors import MalformedError
from kokon.provisioning.ledger.checkpoint import Checkpoint, Cosigned, cosign, verify_checkpoint
from kokon.provisioning.ledger.keys import (
    KEY_SIZE,
    NAME_LIMIT,
    SigningKey,
    Use,
    VerifierKey,
    parse_verifier_key,
    signing_key,
)
from kokon.provisioning.ledger.note import NOTE_LIMIT
from kokon.wire import Fields, b64, canonical_json, parse_json, unb64

PREFIX: Final = "PRIVATE+KEY+"
KEY_LIMIT: Final = 2 * NAME_LIMIT
MEMORY_FORMAT: Final = "kokon log witness v1"
MEMORY_LIMIT: Final = 2 * NOTE_LIMIT


@dataclass(frozen=True, slots=True)
class Remembered:
    """The key of the log that a witness follows, and the checkpoint that it cosigned last (a signed note)."""

    key: VerifierKey
    note: bytes

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, verified. Raises as `verify_checkpoint`."""
        return verify_checkpoint(self.note, [self.key])


def make_witness_key(name: str, random: Callable[[int], bytes]) -> SigningKey:
    """A new key for the witness `name`, such as a domain and a path. Raises `MalformedError` (`key-name-malformed`)."""
    return signing_key(name, random(KEY_SIZE), Use.WITNESS)


def encode_witness_key(key: SigningKey) -> str:
    """The private key's text: whoever has it can cosign."""
    seed = bytes([key.verifier.use]) + key.private.private_bytes_raw()
    return f"{PREFIX}{key.verifier.name}+{key.verifier.id.hex()}+{b64(seed)}"


def parse_witness_key(text: str) -> SigningKey:
    """The inverse of `encode_witness_key`. The text is in no error.

    Raises `MalformedError` (`witness-key-malformed`, `key-name-malformed`).
    """
    parts = text.removeprefix(PREFIX).split("+", 2) if text.startswith(PREFIX) and len(text) <= KEY_LIMIT else []
    try:
        name, identifier, encoded = parts
        seed = unb64(encoded, what="witness key", size=1 + KEY_SIZE)
    except (ValueError, MalformedError):
        raise _malformed() from None
    if seed[0] != Use.WITNESS:
        raise _malformed()
    key = signing_key(name, seed[1:], Use.WITNESS)
    if key.verifier.id.hex() != identifier:
        raise _malformed()
    return key


def encode_memory(remembered: Remembered) -> bytes:
    """What a witness keeps between two visits."""
    members = {"format": MEMORY_FORMAT, "key": str(remembered.key), "checkpoint": remembered.note.decode()}
    return canonical_json(members) + b"\n"


def parse_memory(data: bytes) -> Remembered:
    """The inverse of `encode_memory`; the checkpoint is not verified.

    Raises `MalformedError` (`witness-memory`, and those of `kokon.wire` and of keys).
    """
    fields = Fields(parse_json(data, limit=MEMORY_LIMIT, what="the witness's memory"), "the witness's memory")
    if fields.text("format") != MEMORY_FORMAT:
        raise MalformedError("witness-memory", "this is not what a witness remembers, or of another version")
    key, note = parse_verifier_key(fields.text("key")), fields.text("checkpoint", limit=NOTE_LIMIT)
    fields.finish()
    return Remembered(key, note.encode())


def visit(
    witness: SigningKey,
    log_key: VerifierKey,
    last: Remembered | None,
    note: bytes,
    proof: Sequence[bytes],
    now: datetime,
) -> tuple[Cosigned, Remembered]:
    """Cosign the checkpoint `note` of the log with `log_key`, if the log only grew since `last`, as `proof` shows. What
    is returned second must be kept durably before anybody sees the first.

    Raises as `cosign`, and `UntrustedError` (`log-other`) if `last` is of another log's key.
    """
    before = None if last is None else verify_checkpoint(last.note, [log_key])
    cosigned = cosign(witness, before, note, [log_key], proof, now)
    return cosigned, Remembered(log_key, note)


def _malformed() -> MalformedError:
    return MalformedError(
        "witness-key-malformed", "this is no private key of a witness", hint="`kokon audit keygen` makes one"
    )
