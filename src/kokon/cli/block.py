"""`kokon block`: images as one encrypted, verified file system, which a guest starts without unpacking."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from kokon.cli.access import DEFAULT_ACCESS, Access
from kokon.cli.seal import DEFAULTS, Options


def make(
    source: str,
    destination: str,
    *,
    key: Path,
    owner: str | None = None,
    image_key: Path | None = None,
    options: Options = DEFAULTS,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Seal an image as a block image, sign it, state what it is, and push all of it.

    A guest starts it at once, whatever its size: it reads only the blocks that it needs. Format: docs/BLOCK_FORMAT.md.

    Example: kokon block make oci:clinic docker://127.0.0.1:5000/clinic:1 --key author.key --owner owner-key.jwk

    Parameters
    ----------
    source
        The image: oci:DIR, oci-archive:FILE, docker-archive:FILE or docker://HOST/REPOSITORY.
    destination
        Where the sealed image goes: [docker://]HOST/REPOSITORY[:TAG].
    key
        The author's private key, from `kokon keygen`.
    owner
        The owner's public key: a JWK file, or the https URL of the provisioning server. Default: that of the server
        whose state is in Kokon's home on this machine.
    image_key
        File with the image's own key, 32 bytes: the same image and key give the same bytes. Default: a fresh key.
    json
        Print JSON.
    """
    from kokon.cli.output import kokon_home
    from kokon.cli.seal import claims_of, examined, registry_login, show, source_login
    from kokon.image.block.keyfile import read_image_key
    from kokon.image.block.publish import seal_block
    from kokon.image.owner import read_owner
    from kokon.image.reference import parse_reference
    from kokon.image.registry import Registry
    from kokon.image.sign import load_private_key
    from kokon.image.source import open_source

    reference = parse_reference(destination, plain_http=options.plain_http)
    author_key = load_private_key(key)
    secret = None if image_key is None else read_image_key(image_key)
    owner_key = read_owner(owner or str(kokon_home() / "provision" / "owner-key.jwk"), options.owner_certificate)
    claims = claims_of(options, datetime.now(UTC))
    with (
        open_source(source, plain_http=options.plain_http, auth=source_login(source, reference.host)) as image,
        Registry(reference.registry, auth=registry_login()) as registry,
    ):
        clean, claims = examined(image, options, reference.repository, claims, access)
        show(seal_block(clean, registry, reference, author_key, owner_key, claims, secret), json)


def verify(image: str, *, image_key: Path, plain_http: bool = False, json: bool = False) -> None:
    """Decrypt a whole block image and check that it is what its manifest says.

    For whoever has the image's key: an author, a certifier. It does not check signatures: see `kokon inspect`.

    Example: kokon block verify 127.0.0.1:5000/clinic:1 --image-key image.secret

    Parameters
    ----------
    image
        [docker://]HOST/REPOSITORY[:TAG|@DIGEST].
    image_key
        File with the image's own key, 32 bytes.
    plain_http
        Speak plain HTTP to registries that are not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.output import emit
    from kokon.cli.seal import registry_login
    from kokon.image.block.keyfile import read_image_key
    from kokon.image.block.published import verify_published
    from kokon.image.reference import parse_reference
    from kokon.image.registry import Registry

    reference = parse_reference(image, plain_http=plain_http)
    key = read_image_key(image_key)
    with Registry(reference.registry, auth=registry_login()) as registry:
        digest, info = verify_published(registry, reference, key)
    emit(
        {"image": str(reference), "digest": digest, "root": info.root.hex(), "blocks": info.blocks, "size": info.size},
        f"good       {reference}\ndigest     {digest}\nroot       {info.root.hex()}\nsize       {info.size} bytes",
        json,
    )
