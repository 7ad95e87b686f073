"""Which signatures of an image hold: every one judged, each refusal with its reason. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kokon.errors import UntrustedError
from kokon.image.signing.keys import fingerprint, signature_holds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kokon.image.signing.forms import Claim, Form
    from kokon.image.signing.keys import PublicKey
    from kokon.image.signing.store import Found


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a signature does not count: its form (or `policy`), a stable code, and what was expected and found."""

    form: Form | Literal["policy"]
    code: str
    message: str
    expected: str = ""
    found: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The refusal as JSON values."""
        return {
            "form": self.form,
            "code": self.code,
            "message": self.message,
            "expected": self.expected,
            "found": self.found,
        }


@dataclass(frozen=True, slots=True)
class Held:
    """A signature that holds: the claim, and the fingerprint of the key that made it."""

    claim: Claim
    key: str


@dataclass(frozen=True, slots=True)
class Judged:
    """All signatures of one image: those that hold, and why the others do not."""

    held: tuple[Held, ...]
    refused: tuple[Refusal, ...]


def judge(found: Found, digest: str, keys: tuple[PublicKey, ...]) -> Judged:
    """Judge every claim: made by one of `keys`, about the manifest `digest`."""
    held: list[Held] = []
    refused = [Refusal(one.form, one.code, one.message, found=one.place) for one in found.unread]
    for claim in found.claims:
        outcome = judge_claim(claim, digest, keys)
        if isinstance(outcome, Held):
            held.append(outcome)
        else:
            refused.append(outcome)
    return Judged(tuple(held), tuple(refused))


def judge_claim(claim: Claim, digest: str, keys: tuple[PublicKey, ...]) -> Held | Refusal:
    """One claim, as `judge` does."""
    maker = next((key for key in keys if signature_holds(key, claim.signature, claim.message)), None)
    if maker is None:
        names = ", ".join(fingerprint(key)[:23] for key in keys)
        return Refusal(claim.form, "image-signer-unknown", "signed by another key", names, "a signature of another key")
    if claim.digest != digest:
        return Refusal(
            claim.form, "signature-image-mismatch", "the signature is about another image", digest, claim.digest
        )
    return Held(claim, fingerprint(maker))


def require(judged: Judged) -> tuple[Held, ...]:
    """The signatures that hold.

    Raises `UntrustedError`: `image-unsigned` if there is none at all, else the code of the first refusal
    (`image-signer-unknown`, `signature-image-mismatch`, or why it could not be read).
    """
    if judged.held:
        return judged.held
    if not judged.refused:
        raise UntrustedError(
            "image-unsigned",
            "the image has no signature",
            expected="a signature in cosign's classic or bundle form",
            hint="sign it with `kokon sign`, and copy signatures along with images",
        )
    raise refusal_error(judged.refused)


def refusal_error(refused: Iterable[Refusal]) -> UntrustedError:
    """The error for an image none of whose signatures counts: the first refusal, and the codes of all."""
    every = list(refused)
    first = every[0]
    return UntrustedError(
        first.code,
        f"no signature of the image counts; the first: {first.message}",
        expected=first.expected or None,
        found=first.found or None,
        hint="all: " + ", ".join(f"{one.form} {one.code}" for one in every),
    )
