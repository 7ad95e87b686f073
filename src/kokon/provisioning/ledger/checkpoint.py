"""Checkpoints (C2SP tlog-checkpoint): the signed head of a log, and what a witness checks before it cosigns one.

The text has three lines: origin (which log), size in decimal, root hash in base64. Extension lines are refused. The key
that signs has the origin as its name, so that the head of one log never passes for that of another.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from kokon.errors import MalformedError, UntrustedError, UsageError
from kokon.provisioning.ledger.keys import SigningKey, Use, VerifierKey, check_name
from kokon.provisioning.ledger.merkle import EMPTY_ROOT, HASH_SIZE, SIZE_LIMIT, verify_consistency
from kokon.provisioning.ledger.note import (
    Note,
    Signed,
    cosign_note,
    open_note,
    parse_note,
    parse_signature,
    sign_note,
    verify_note,
)
from kokon.wire import b64, check_size, unb64

_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of the log `origin`. Raises `MalformedError` (`checkpoint-malformed`, `key-name-malformed`,
    `size-mismatch`).
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        check_name(self.origin)
        check_size(self.root, HASH_SIZE, "root hash")
        if not 0 <= self.size <= SIZE_LIMIT:
            raise _malformed("its size is out of range")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise _malformed("an empty log with a root that is not that of an empty tree")

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{b64(self.root)}\n"


@dataclass(frozen=True, slots=True)
class Cosigned:
    """What a witness says, and what it must store durably before it says so: the head it saw last."""

    line: str
    checkpoint: Checkpoint


def parse_checkpoint(text: str) -> Checkpoint:
    """A checkpoint from the text of its note; nothing is verified. Raises as `Checkpoint`, and `base64-malformed`."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise _malformed("not exactly three lines")
    origin, size, root, _ = lines
    if not _SIZE.fullmatch(size):
        raise _malformed("its size is not a decimal number")
    return Checkpoint(origin, int(size), unb64(root, what="root hash", size=HASH_SIZE))


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> bytes:
    """The signed note. Raises `UsageError` (`key-use`, `log-key-name`)."""
    if key.verifier.name != checkpoint.origin:
        raise UsageError(
            "log-key-name", "the key belongs to another log", expected=checkpoint.origin, found=key.verifier.name
        )
    text = str(checkpoint)
    return Note(text, (sign_note(text, key),)).encode()


def verify_checkpoint(data: bytes, keys: Iterable[VerifierKey]) -> Checkpoint:
    """The checkpoint, signed by one of these keys and of the log that the key is named after.

    Raises `UntrustedError` (`log-signature`), `MalformedError` as `parse_note` and `parse_checkpoint`.
    """
    origin = parse_note(data).text.partition("\n")[0]
    note, _ = open_note(data, [key for key in keys if key.use is Use.LOG and key.name == origin])
    return parse_checkpoint(note.text)


def verify_witnesses(data: bytes, witnesses: Iterable[VerifierKey], threshold: int) -> tuple[Signed, ...]:
    """The cosignatures of these witnesses, of which at least `threshold` must have signed, each key counted once.

    Raises `UntrustedError` (`log-unwitnessed`, `log-signature`), `UsageError` (`witnesses-unusable`), `MalformedError`
    as `parse_note`.
    """
    known = list(witnesses)
    if not 0 <= threshold <= len({key.public for key in known}) or any(key.use is not Use.WITNESS for key in known):
        raise UsageError(
            "witnesses-unusable",
            "give the verifier keys of witnesses (type 4), and ask for no more than those",
            found=f"{threshold} of {len(known)}",
        )
    signed = verify_note(parse_note(data), known)
    found = len({each.key.public for each in signed})
    if found < threshold:
        raise UntrustedError(
            "log-unwitnessed",
            "too few witnesses saw this head of the log: others may be shown another",
            expected=f">= {threshold}",
            found=found,
        )
    return signed


def check_extends(last: Checkpoint, new: Checkpoint, proof: Sequence[bytes]) -> None:
    """Check that the log only grew from `last` to `new`, both verified; `proof` is of consistency, empty if the sizes
    are equal or `last` is empty.

    Raises `UntrustedError`: `log-other` (another log), `log-rolled-back` (it became shorter), `log-forked` (two heads
    of one size), `log-broken` (the proof does not hold; for a fork none can); `MalformedError` (`size-mismatch`).
    """
    check_same_log(last.origin, new.origin)
    check_not_shorter(last, new)
    if last.size == new.size:
        check_same_root(last, new.root)
    verify_consistency(last.size, last.root, new.size, new.root, proof)


def check_same_log(expected: str, found: str) -> None:
    """Raises `UntrustedError` (`log-other`) if two origins differ."""
    if expected != found:
        raise UntrustedError("log-other", "this is another log", expected=expected, found=found)


def check_not_shorter(last: Checkpoint, new: Checkpoint) -> None:
    """Raises `UntrustedError` (`log-rolled-back`) if `new` has fewer entries than `last`."""
    if new.size < last.size:
        raise UntrustedError(
            "log-rolled-back",
            "the log is shorter than it was: an old copy was put back, or entries were cut off",
            expected=f">= {last.size} entries",
            found=new.size,
            hint="keep both checkpoints: the longer one, signed, proves that the entries existed",
        )


def check_same_root(last: Checkpoint, root: bytes) -> None:
    """Raises `UntrustedError` (`log-forked`) if the log had another root when it was as long as `last`."""
    if not hmac.compare_digest(last.root, root):
        raise UntrustedError(
            "log-forked",
            f"the log's first {last.size} entries are not those that it had before: it tells different stories",
            expected=last.root.hex(),
            found=root.hex(),
            hint="keep both checkpoints: signed by one key, they prove the fork",
        )


def cosign(
    witness: SigningKey,
    last: Checkpoint | None,
    data: bytes,
    keys: Iterable[VerifierKey],
    proof: Sequence[bytes],
    now: datetime,
) -> Cosigned:
    """A witness's cosignature of the checkpoint `data`, if the log only grew since `last`, the last one that this
    witness cosigned (None: it knows nothing of this log yet, and the proof is empty). `keys` are the log's; `now` is
    aware.

    Two calls for one log must not overlap: store `checkpoint` of the answer first, then hand out its line.
    Raises as `verify_checkpoint` and `check_extends`, and `UsageError` (`key-use`).
    """
    new = verify_checkpoint(data, keys)
    check_extends(Checkpoint(new.origin, 0, EMPTY_ROOT) if last is None else last, new, proof)
    return Cosigned(str(cosign_note(str(new), witness, int(now.timestamp()))), new)


def with_cosignature(data: bytes, line: str, witnesses: Iterable[VerifierKey]) -> bytes:
    """The checkpoint with one more cosignature, which must be of one of these witnesses and hold.

    Raises `UntrustedError` (`log-signature`), `MalformedError` as `parse_note`.
    """
    note = parse_note(data)
    signature = parse_signature(line)
    open_note(Note(note.text, (signature,)).encode(), [key for key in witnesses if key.use is Use.WITNESS])
    return note.adding(signature).encode()


def _malformed(why: str) -> MalformedError:
    return MalformedError("checkpoint-malformed", f"this is no checkpoint: {why}")
