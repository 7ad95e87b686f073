"""`kokon certify`: countersign what an author says about an image."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kokon.image.certify import Certified
    from kokon.image.fetch import Fetcher
    from kokon.image.reference import Reference


def certify(image: str, *, key: Path, author: Path, plain_http: bool = False, json: bool = False) -> None:
    """Countersign the identity statement of a sealed image, and attach it to the image.

    What you vouch for is all that the statement says: image, version, reference values, what a launch may vary. Owners
    may demand the signatures of certifiers before a workload gets its secrets. Use a key that signs nothing else.

    A registry that wants a login gets it from $KOKON_REGISTRY_AUTH (USER:PASSWORD).

    Example: kokon certify 127.0.0.1:5000/clinic@sha256:... --key certifier.key --author author.key.pub

    Parameters
    ----------
    image
        HOST/REPOSITORY[:TAG][@DIGEST].
    key
        The certifier's private key, from `kokon keygen`.
    author
        Public key of the image's author (PEM).
    plain_http
        Speak plain HTTP to a registry that is not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.seal import registry_login
    from kokon.image.certify import certify as certify_image
    from kokon.image.ecdsa import public_pem
    from kokon.image.fetch import Fetcher
    from kokon.image.reference import parse_reference
    from kokon.image.registry import Registry
    from kokon.image.sign import load_author, load_private_key
    from kokon.image.signing.keys import fingerprint

    reference = parse_reference(image, plain_http=plain_http)
    certifier, pem = load_private_key(key), public_pem(load_author(author))
    with (
        Fetcher(reference.registry, reference.repository) as fetcher,
        Registry(reference.registry, auth=registry_login()) as registry,
    ):
        pinned = _pinned(reference, fetcher)
        certified = certify_image(fetcher, registry, pinned, pem, certifier, datetime.now(UTC))
    _show(pinned, certified, fingerprint(certifier.public_key()), json)


def _pinned(reference: Reference, fetcher: Fetcher) -> Reference:
    from kokon.cli.output import note
    from kokon.errors import UnreachableError
    from kokon.image.fetch import hexdigest

    if reference.digest is not None:
        return reference
    found = fetcher.tagged(reference.pointer)
    if found is None:
        raise UnreachableError("image-not-found", "the registry has no such image", expected=reference)
    pinned = reference.with_digest(hexdigest(found[0]))
    note(f"only the registry says that {reference} is {pinned.digest}: compare with what you have examined")
    return pinned


def _show(image: Reference, certified: Certified, name: str, json: bool) -> None:
    from kokon.cli.output import emit

    statement = certified.statement
    done = f"attached as {certified.referrer}" if certified.referrer else "was there already: nothing to add"
    emit(
        {
            "image": str(image),
            "digest": statement.subject,
            "author": statement.author,
            "version": statement.version,
            "certifier": name,
            "signatures": len(certified.envelope.signatures),
            "statement": certified.referrer,
        },
        f"certified  {image}\nauthor     {statement.author or '(no name)'}\n"
        f"version    {statement.version or '(none)'}\ncertifier  {name}\nsignature  {done}",
        json,
    )
