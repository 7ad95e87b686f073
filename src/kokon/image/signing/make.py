"""Sign an image: in cosign's classic form, as a bundle, or both; in one step, or with a signature from outside.

In two steps, `prepared` gives the bytes to sign and `attach` takes the signature over exactly these bytes, and verifies
it before anything is pushed. Both are functions of image and name only, so nothing need be kept between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from kokon.errors import UntrustedError, UsageError
from kokon.image.dsse import IN_TOTO_TYPE, pre_authentication
from kokon.image.signing.forms import encode_bundle, sign_statement, simple_payload
from kokon.image.signing.keys import fingerprint, signature_holds
from kokon.image.signing.store import push_bundle, push_classic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from kokon.image.manifest import Descriptor
    from kokon.image.registry import Registry
    from kokon.image.signing.forms import Form
    from kokon.image.signing.keys import PublicKey, Signer

    Stamp = Callable[[bytes], bytes]

Forms = Literal["classic", "bundle", "both"]
FORMS: Final[tuple[Forms, ...]] = ("classic", "bundle", "both")


@dataclass(frozen=True, slots=True)
class Signed:
    """What was pushed: the digest of the manifest that holds the signature, for each form."""

    key: str
    places: Mapping[Form, str]


def wanted(forms: str) -> tuple[Form, ...]:
    """The forms that `classic`, `bundle` or `both` mean. Raises `UsageError` (`signature-form`)."""
    if forms == "classic":
        return ("classic",)
    if forms == "bundle":
        return ("bundle",)
    if forms == "both":
        return ("classic", "bundle")
    raise UsageError("signature-form", "no such form of signature", expected=", ".join(FORMS), found=forms)


def prepared(form: Form, identity: str, digest: str) -> bytes:
    """The bytes that a signer outside signs: the payload (classic), or DSSE's encoding of the statement (bundle)."""
    if form == "classic":
        return simple_payload(identity, digest)
    return pre_authentication(IN_TOTO_TYPE, sign_statement(identity, digest))


def sign_image(
    registry: Registry,
    repository: str,
    subject: Descriptor,
    identity: str,
    signer: Signer,
    forms: tuple[Form, ...],
    now: datetime,
    stamp: Stamp | None = None,
) -> Signed:
    """Sign the manifest `subject` as `identity` (host/repository, with or without tag) and push the signatures.

    `stamp` gives an RFC 3161 response about the bytes of a signature. Raises as `attach`, and what `signer` and `stamp`
    raise; then nothing of the form at hand is pushed.
    """
    signatures = {form: signer.sign(prepared(form, identity, subject.digest)) for form in forms}
    return attach(registry, repository, subject, identity, signer.public, signatures, now, stamp)


def attach(
    registry: Registry,
    repository: str,
    subject: Descriptor,
    identity: str,
    key: PublicKey,
    signatures: Mapping[Form, bytes],
    now: datetime,
    stamp: Stamp | None = None,
) -> Signed:
    """Push signatures over `prepared` bytes, once all are verified with `key`.

    Raises `UntrustedError` (`signature-wrong`), `UsageError` (`signatures-full`), and what the registry raises.
    """
    for form, signature in signatures.items():
        if not signature_holds(key, signature, prepared(form, identity, subject.digest)):
            raise UntrustedError(
                "signature-wrong",
                f"the signature of the {form} form is not the key's over the prepared bytes",
                expected=fingerprint(key),
                hint="sign exactly the bytes that --prepare wrote, with SHA-256, and give the signature in DER",
            )
    stamps = {form: None if stamp is None else stamp(signature) for form, signature in signatures.items()}
    places: dict[Form, str] = {}
    for form, signature in signatures.items():
        if form == "classic":
            payload = simple_payload(identity, subject.digest)
            places[form] = push_classic(registry, repository, subject.digest, payload, signature, stamps[form])
        else:
            bundle = encode_bundle(sign_statement(identity, subject.digest), signature, key, stamps[form])
            places[form] = push_bundle(registry, repository, subject, bundle, now)
    return Signed(fingerprint(key), places)
