"""`kokon copy`: images from anywhere to anywhere, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

if TYPE_CHECKING:
    from kokon.image.remote.copy import Copied


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is copied and how.

    Parameters
    ----------
    platform
        Take only the image for this platform, as linux/arm64/v8.
    only_image
        Leave out signatures, attestations and statements.
    jobs
        How many blobs travel at once.
    plain_http
        Speak plain HTTP to registries that are not on this machine.
    """

    platform: str | None = None
    only_image: bool = False
    jobs: int = 4
    plain_http: bool = False


DEFAULTS = Options()


def copy(source: str, destination: str, *, options: Options = DEFAULTS, json: bool = False) -> None:
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
    json
        Print JSON.
    """
    from kokon.cli.output import progress
    from kokon.cli.seal import registry_login
    from kokon.image.remote.copy import copy_image
    from kokon.image.remote.destination import open_destination
    from kokon.image.remote.origin import open_origin
    from kokon.image.remote.platform import parse_platform

    wanted = None if options.platform is None else parse_platform(options.platform)
    plain, login = options.plain_http, registry_login()
    with (
        open_origin(source, plain_http=plain) as (place, pointer),
        open_destination(destination, plain_http=plain, auth=login) as to,
        progress("copying") as update,
    ):
        belongings = to.holds_attachments and not options.only_image
        copied = copy_image(
            place,
            pointer,
            to.place,
            to.tag,
            platform=wanted,
            attachments=belongings,
            jobs=options.jobs,
            progress=update,
        )
    _show(copied, json)


def _show(copied: Copied, json: bool) -> None:
    from kokon.cli.output import emit

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
