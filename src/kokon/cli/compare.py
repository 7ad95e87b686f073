"""`kokon compare`: is a sealed image the image that was built from the source?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kokon.image.compare import Opener


def compare(
    source: str,
    sealed: str,
    *,
    author: Path,
    key: Path | None = None,
    kek: Path | None = None,
    plain_http: bool = False,
    json: bool = False,
) -> int:
    """Prove that a sealed image has the content of an image that you built yourself: layers, order, configuration.

    With a key, all layers are decrypted and compared, and the first file that differs is named. Without one, the
    digests of the content that the author signed are compared; an enclave starts nothing that has others. The exit
    status is 4 if the images differ.

    Example: kokon compare oci:rebuilt 127.0.0.1:5000/clinic:1 --author author.key.pub --key certifier.key

    Parameters
    ----------
    source
        Your image: oci:DIR, oci-archive:FILE, docker-archive:FILE or docker://HOST/REPOSITORY.
    sealed
        The sealed image: HOST/REPOSITORY[:TAG][@DIGEST].
    author
        The author's public key (PEM): signature and statement are verified first.
    key
        Private key (PEM, EC) of a recipient of the layers.
    kek
        File with the 32 bytes of the image's key, as the owner may give it to you.
    plain_http
        Speak plain HTTP to registries that are not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.output import emit
    from kokon.cli.seal import registry_login, source_login
    from kokon.errors import UntrustedError
    from kokon.image import compare as comparing
    from kokon.image.ecdsa import public_pem
    from kokon.image.fetch import Fetcher
    from kokon.image.reference import parse_reference
    from kokon.image.registry import Registry
    from kokon.image.sign import load_author
    from kokon.image.source import open_source

    reference = parse_reference(sealed, plain_http=plain_http)
    pem = public_pem(load_author(author))
    opener = _opener(key, kek)
    with Fetcher(reference.registry, reference.repository) as fetcher:
        digest = comparing.signed_digest(fetcher, reference.pointer, pem, datetime.now(UTC))
    with (
        open_source(source, plain_http=plain_http, auth=source_login(source, reference.host)) as image,
        Registry(reference.registry, auth=registry_login()) as registry,
    ):
        result = comparing.compare(image, registry, reference.repository, digest, opener)
    how = "every layer was decrypted" if opener else "by the digests that the author signed"
    text = f"the same content, {result.layers} layers: {how}" if result.same else f"DIFFERENT: {result.difference}"
    emit({"image": str(reference), **result.as_dict()}, f"{result.digest}\n{text}", json)
    return 0 if result.same else UntrustedError.exit_status


def _opener(key: Path | None, kek: Path | None) -> Opener | None:
    """What opens the layers' keys, if anything was given that does."""
    from kokon.image.compare import kek_opener, read_kek, recipient_opener
    from kokon.image.sign import load_private_key

    if key is not None:
        return recipient_opener(load_private_key(key))
    return None if kek is None else kek_opener(read_kek(kek))
