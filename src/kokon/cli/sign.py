"""`kokon sign`: put a signature on an image."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from kokon.cli.signing import SignerOptions
from kokon.errors import UsageError

if TYPE_CHECKING:
    from kokon.image.manifest import Descriptor
    from kokon.image.reference import Reference
    from kokon.image.registry import Registry
    from kokon.image.signing.forms import Form
    from kokon.image.signing.make import Signed

SIGNATURE_LIMIT = 512


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """A key that Kokon cannot reach signs in two steps, each in one form, both with the same --identity.

    Parameters
    ----------
    prepare
        Sign nothing: write the bytes to sign to this new file.
    signature
        Attach this signature, made elsewhere over the bytes of --prepare; it is verified first.
    public
        Public key (PEM) of --signature.
    """

    prepare: Path | None = None
    signature: Path | None = None
    public: Path | None = None

    def check(self, forms: tuple[Form, ...]) -> None:
        """Raise `UsageError` (`sign-steps`) for steps that do not go together."""
        if (self.signature is None) != (self.public is None) or (self.prepare and self.signature):
            raise UsageError(
                "sign-steps", "the steps are mixed", expected="--prepare, or --signature with --public, or neither"
            )
        if (self.prepare or self.signature) and len(forms) != 1:
            raise UsageError("sign-steps", "each step takes one form", expected="--form classic or --form bundle")


NOBODY, AT_ONCE = SignerOptions(), Steps()


def sign(
    image: str,
    *,
    signer: SignerOptions = NOBODY,
    form: str = "both",
    identity: str = "",
    steps: Steps = AT_ONCE,
    plain_http: bool = False,
    json: bool = False,
) -> None:
    """Sign an image in a registry, so that cosign, podman and Kokon can verify it.

    The classic form is what podman, skopeo and older cosign read; the bundle is what cosign 3 reads. Both are written
    unless one is chosen. Logins are as for `kokon copy`.

    Example: kokon sign 127.0.0.1:5000/clinic:1 --key author.key

    Parameters
    ----------
    image
        HOST/REPOSITORY[:TAG][@DIGEST].
    form
        classic, bundle or both.
    identity
        The name that the signature gives the image; default: HOST/REPOSITORY.
    plain_http
        Speak plain HTTP to a registry that is not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.seal import registry_login
    from kokon.cli.signing import resolve
    from kokon.image.fetch import Fetcher
    from kokon.image.reference import parse_reference
    from kokon.image.registry import Registry
    from kokon.image.signing.make import wanted

    reference = parse_reference(image, plain_http=plain_http)
    name = identity or f"{reference.host}/{reference.repository}"
    forms = wanted(form)
    steps.check(forms)
    with Fetcher(reference.registry, reference.repository) as fetcher:
        subject = resolve(fetcher, reference)
    if steps.prepare is not None:
        _prepare(steps.prepare, forms[0], name, subject, json)
        return
    with Registry(reference.registry, auth=registry_login()) as registry:
        if steps.signature is not None and steps.public is not None:
            signed = _attach(registry, reference, subject, name, forms, steps.signature, steps.public)
        else:
            signed = _sign(registry, reference, subject, name, forms, signer)
    _show(reference, subject, name, signed, json)


def sign_pushed(image: Reference, key: Path) -> Signed:
    """Sign an image that was pushed a moment ago and is named by its digest, in both forms."""
    from kokon.cli.seal import registry_login
    from kokon.cli.signing import resolve
    from kokon.image.fetch import Fetcher
    from kokon.image.registry import Registry
    from kokon.image.signing.make import wanted

    with Fetcher(image.registry, image.repository) as fetcher:
        subject = resolve(fetcher, image)
    name = f"{image.host}/{image.repository}"
    with Registry(image.registry, auth=registry_login()) as registry:
        return _sign(registry, image, subject, name, wanted("both"), SignerOptions(key=key))


def _prepare(file: Path, form: Form, name: str, subject: Descriptor, json: bool) -> None:
    from kokon.cli.inputs import write_output
    from kokon.cli.output import emit
    from kokon.image.signing.make import prepared

    write_output(file, prepared(form, name, subject.digest))
    emit(
        {"digest": subject.digest, "identity": name, "form": form, "file": str(file)},
        f"to sign  {file}\nform     {form}\nimage    {name}@{subject.digest}",
        json,
    )


def _sign(
    registry: Registry,
    reference: Reference,
    subject: Descriptor,
    name: str,
    forms: tuple[Form, ...],
    options: SignerOptions,
) -> Signed:
    from kokon.cli.signing import signer_of
    from kokon.image.signing.make import sign_image

    now = datetime.now(UTC)
    return sign_image(registry, reference.repository, subject, name, signer_of(options), forms, now)


def _attach(
    registry: Registry,
    reference: Reference,
    subject: Descriptor,
    name: str,
    forms: tuple[Form, ...],
    signature: Path,
    public: Path,
) -> Signed:
    from kokon.image.signing.load import load_public, read_small
    from kokon.image.signing.make import attach

    made = {forms[0]: read_small(signature, SIGNATURE_LIMIT)}
    return attach(registry, reference.repository, subject, name, load_public(public), made, datetime.now(UTC))


def _show(reference: Reference, subject: Descriptor, name: str, signed: Signed, json: bool) -> None:
    from kokon.cli.output import emit

    places = dict(signed.places)
    lines = [f"signed    {reference.with_digest(subject.digest)}", f"identity  {name}", f"key       {signed.key}"]
    lines += [f"{form:<9} {place}" for form, place in places.items()]
    emit(
        {
            "image": str(reference.with_digest(subject.digest)),
            "digest": subject.digest,
            "identity": name,
            "key": signed.key,
            "signatures": places,
        },
        "\n".join(lines),
        json,
    )
