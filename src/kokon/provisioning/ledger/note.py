"""Signed notes (C2SP signed-note) and cosignatures of witnesses (C2SP tlog-cosignature, Ed25519).

A note is a text that ends in a newline, an empty line, and a line for each signature:
em dash, space, the signer's name, space, base64 of the key's id (4 bytes) and the signature.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kokon.errors import MalformedError, UntrustedError
from kokon.provisioning.ledger.keys import ID_SIZE, SIGNATURE_SIZE, SigningKey, Use, VerifierKey, check_name
from kokon.wire import b64, unb64

NOTE_LIMIT = 256 << 10
"""Longest note in bytes: 16 signatures of 5 KB each, which the specification demands, and as much again."""
SIGNATURES_LIMIT = 64
_BLOB_LIMIT = 16 << 10
_TIME_SIZE = 8
_TIME_LIMIT = (1 << 63) - 1
_DASH = "\u2014 "


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature as it stands in a note, whoever made it; `value` is what follows the key's id."""

    name: str
    key_id: bytes
    value: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {b64(self.key_id + self.value)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures, verified or not."""

    text: str
    signatures: tuple[Signature, ...] = ()

    def encode(self) -> bytes:
        """The note's bytes."""
        return (self.text + "\n" + "".join(map(str, self.signatures))).encode()

    def adding(self, signature: Signature) -> Note:
        """The note with one more signature, which takes the place of an earlier one by the same key."""
        others = (each for each in self.signatures if (each.name, each.key_id) != (signature.name, signature.key_id))
        return replace(self, signatures=(*others, signature))


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that holds: whose it is and, for a witness, when it was made (seconds since 1970)."""

    key: VerifierKey
    time: int | None = None


def parse_note(data: bytes) -> Note:
    """A note from its bytes. Nothing is verified: `verify_note`.

    Raises `MalformedError` (`note-malformed`, `key-name-malformed`, `base64-malformed`).
    """
    if len(data) > NOTE_LIMIT:
        raise _malformed(f"longer than {NOTE_LIMIT} bytes")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise _malformed("not UTF-8") from error
    if any(char < " " and char != "\n" for char in whole):
        raise _malformed("a control character")
    text, empty, lines = whole.rpartition("\n\n")
    if not empty or not lines.endswith("\n") or lines.count("\n") > SIGNATURES_LIMIT:
        raise _malformed(f"not a text, an empty line and 1 to {SIGNATURES_LIMIT} signatures")
    return Note(text + "\n", tuple(parse_signature(line + "\n") for line in lines[:-1].split("\n")))


def parse_signature(line: str) -> Signature:
    """A signature from its line, the newline included. Raises as `parse_note`."""
    name, _, encoded = line[len(_DASH) : -1].partition(" ")
    if not line.startswith(_DASH) or not line.endswith("\n"):
        raise _malformed("a line that is no signature")
    check_name(name)
    blob = unb64(encoded, what="signature of a note", limit=_BLOB_LIMIT)
    if len(blob) <= ID_SIZE:
        raise _malformed("an empty signature")
    return Signature(name, blob[:ID_SIZE], blob[ID_SIZE:])


def sign_note(text: str, key: SigningKey) -> Signature:
    """The signature of a log's key. Raises `UsageError` (`key-use`)."""
    return Signature(key.verifier.name, key.verifier.id, key.sign(text.encode(), Use.LOG))


def cosign_note(text: str, key: SigningKey, time: int) -> Signature:
    """The signature of a witness, made at `time` (seconds since 1970). Raises `UsageError` (`key-use`)."""
    value = time.to_bytes(_TIME_SIZE) + key.sign(_cosigned(text, time), Use.WITNESS)
    return Signature(key.verifier.name, key.verifier.id, value)


def verify_note(note: Note, keys: Iterable[VerifierKey]) -> tuple[Signed, ...]:
    """The signatures of these keys, possibly none; those of others are ignored.

    Raises `UntrustedError` (`log-signature`) if one that claims to be of these keys does not hold.
    """
    known = {(key.name, key.id): key for key in keys}
    found = []
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is not None:
            found.append(_verify(note.text, signature, key))
    return tuple(dict.fromkeys(found))


def open_note(data: bytes, keys: Iterable[VerifierKey]) -> tuple[Note, tuple[Signed, ...]]:
    """A note that at least one of these keys signed.

    Raises `UntrustedError` (`log-signature`), and as `parse_note`.
    """
    note = parse_note(data)
    signed = verify_note(note, keys)
    if not signed:
        raise UntrustedError(
            "log-signature",
            "no key that you trust signed this",
            found=", ".join(repr(signature.name) for signature in note.signatures),
            hint="compare the verifier key that you use with the one that the log's owner published",
        )
    return note, signed


def _verify(text: str, signature: Signature, key: VerifierKey) -> Signed:
    if key.use is Use.LOG:
        key.verify(signature.value, text.encode())
        return Signed(key)
    time = int.from_bytes(signature.value[:_TIME_SIZE])
    if len(signature.value) != _TIME_SIZE + SIGNATURE_SIZE or time > _TIME_LIMIT:
        raise UntrustedError("log-signature", f"the cosignature of {key.name} is malformed")
    key.verify(signature.value[_TIME_SIZE:], _cosigned(text, time))
    return Signed(key, time)


def _cosigned(text: str, time: int) -> bytes:
    """What a witness signs (C2SP tlog-cosignature, "Ed25519 signed message")."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _malformed(why: str) -> MalformedError:
    return MalformedError("note-malformed", f"this is no signed note: {why}")
