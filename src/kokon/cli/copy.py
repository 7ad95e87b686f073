"""`kokon copy`: images from anywhere to anywhere, whole or not at all."""

from __future__ import annotations


def copy(
    source: str,
    destination: str,
    *,
    platform: str | None = None,
    only_image: bool = False,
    jobs: int = 4,
    plain_http: bool = False,
    json: bool = False,
) -> None:
    """Copy an image between registries, layouts, archives and the storage of Podman or Docker.

    All platforms go along, and what belongs to the image: signatures, attestations, statements. Every digest is
    checked. The tag is set last, so a copy that fails leaves none.

    Logins are those of `docker login` and `podman login`, or $KOKON_REGISTRY_AUTH (USER:PASSWORD) for the destination.
    $KOKON_REGISTRY_MIRRORS (HOST=MIRROR[/PREFIX],...) names registries to read from first.

    Example: kokon copy docker://registry.example/clinic:1 oci-archive:clinic.tar

    Parameters
    ----------
    source
        docker://HOST/REPOSITORY[:TAG], oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME],
        containers-storage:NAME (Podman) or docker-daemon:NAME.
    destination
        The same kinds.
    platform
        Take only the image for this platform, as linux/arm64/v8.
    only_image
        Leave out signatures, attestations and statements.
    jobs
        How many blobs travel at once.
    plain_http
        Speak plain HTTP to registries that are not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.output import emit, progress
    from kokon.cli.seal import registry_login
    from kokon.image.remote.copy import copy_image
    from kokon.image.remote.destination import open_destination
    from kokon.image.remote.origin import open_origin
    from kokon.image.remote.platform import parse_platform

    wanted = None if platform is None else parse_platform(platform)
    with (
        open_origin(source, plain_http=plain_http) as (place, pointer),
        open_destination(destination, plain_http=plain_http, auth=registry_login()) as target,
        progress("copying") as update,
    ):
        copied = copy_image(
            place,
            pointer,
            target.place,
            target.tag,
            platform=wanted,
            attachments=target.holds_attachments and not only_image,
            jobs=jobs,
            progress=update,
        )
    emit(
        {
            "digest": copied.digest,
            "mediaType": copied.media_type,
            "sent": copied.sent,
            "blobs": copied.blobs,
            "there": copied.there,
        },
        f"copied     {copied.digest}\nblobs      {copied.blobs} sent ({copied.sent} bytes), {copied.there} were there",
        json,
    )
