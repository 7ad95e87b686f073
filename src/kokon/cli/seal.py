"""`kokon seal`: from an ordinary container image to one that only an enclave can open."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from kokon.cli.access import DEFAULT_ACCESS, Access, connect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kokon.image.seal import Claims, Sealed
    from kokon.image.source import Source
    from kokon.image.statement import GuestReference, ReferenceEntry

VCPUS = (1, 2, 4)
"""Machine shapes that reference values are computed for."""
CPU = "max,-cx16"


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the author says beside the image, and how registry and server are reached.

    Parameters
    ----------
    owner_certificate
        The provisioning server's certificate (PEM), if --owner is a URL.
    guest
        Directory of the guest image that reference values are computed for; default: the one of this machine.
    author
        The author's name, for people.
    version
        The image's version, as 1.4.2: owners may admit all that you sign from some version on.
    secret
        Name of a secret that the application expects; if any is named, a launch may give no others. May be repeated.
    vary
        Name of an environment variable that a launch may set. May be repeated.
    vary_args
        A launch may replace the image's arguments; without an entry point, that is the whole command.
    not_after
        Days until the statement expires.
    plain_http
        Speak plain HTTP to registries that are not on this machine.
    allow_secret
        RULE:PATH of a secret that may stay in the image, as `kokon scan` prints it. May be repeated.
    move_secret
        PLACE=WORKLOAD/NAME or PLACE=kbs:///a/b/c: take what is at PLACE (a variable of the environment, or /PATH of a
        file in the topmost layer) out of the image, give it to the provisioning server, and name it as a secret that
        the application expects. May be repeated.
    sbom
        Attach a bill of materials, readable by all who reach the registry: spdx or cyclonedx makes one from the image's
        package databases; else a file that another tool made (SPDX or CycloneDX, JSON).
    """

    owner_certificate: Path | None = None
    guest: Path | None = None
    author: str = ""
    version: str = ""
    secret: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()
    vary_args: bool = False
    not_after: int = 365
    plain_http: bool = False
    allow_secret: tuple[str, ...] = ()
    move_secret: tuple[str, ...] = ()
    sbom: str = ""


DEFAULTS = Options()


def seal(
    source: str,
    destination: str,
    *,
    key: Path,
    owner: str | None = None,
    options: Options = DEFAULTS,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Encrypt and sign an image, state what it is, and push all of it.

    Every layer is encrypted under a fresh key that only the owner can open. The image's configuration (command,
    environment, user, ports) stays readable in the registry. An image that holds secrets is refused: allow each by
    name, or have it moved to the provisioning server.

    Logins are those of `docker login` and `podman login`, or $KOKON_REGISTRY_AUTH (USER:PASSWORD) for the destination.

    Example: kokon seal oci:clinic docker://127.0.0.1:5000/clinic:1 --key author.key --owner owner-key.jwk

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
    json
        Print JSON.
    """
    from kokon.cli.output import kokon_home, progress
    from kokon.image.owner import read_owner
    from kokon.image.reference import parse_reference
    from kokon.image.registry import Registry
    from kokon.image.seal import seal as seal_image
    from kokon.image.sign import load_private_key
    from kokon.image.source import open_source

    reference = parse_reference(destination, plain_http=options.plain_http)
    author_key = load_private_key(key)
    owner_key = read_owner(owner or str(kokon_home() / "provision" / "owner-key.jwk"), options.owner_certificate)
    claims = claims_of(options, datetime.now(UTC))
    with (
        open_source(source, plain_http=options.plain_http, auth=source_login(source, reference.host)) as image,
        Registry(reference.registry, auth=registry_login()) as registry,
        progress("sealing") as update,
    ):
        clean, claims = examined(image, options, reference.repository, claims, access)
        sealed = seal_image(clean, registry, reference, author_key, owner_key, claims, update)
    show(sealed, json)


def examined(source: Source, options: Options, name: str, claims: Claims, access: Access) -> tuple[Source, Claims]:
    """The image as it may be published, without the secrets that are to be moved, and what is said of it then. Refused
    if it holds others."""
    from kokon.image.scan.move import parse_moves
    from kokon.image.scan.refuse import parse_allowed

    allowed, moves = parse_allowed(options.allow_secret), parse_moves(options.move_secret)
    clean, claims = without_secrets(source, moves, allowed, claims, access)
    return clean, with_sbom(clean, options.sbom, name, claims) if options.sbom else claims


def without_secrets(
    source: Source, moves: Mapping[str, str], allowed: frozenset[str], claims: Claims, access: Access
) -> tuple[Source, Claims]:
    """The image without the secrets of `moves`, which then are on the server. Refused if others are left."""
    from dataclasses import replace

    from kokon.cli.output import note, progress
    from kokon.image.scan.move import take_out
    from kokon.image.scan.refuse import refuse_secrets
    from kokon.image.scan.scan import scan_image
    from kokon.provisioning.collect import secret_path

    paths = {place: secret_path(name) for place, name in moves.items()}
    source, moved = take_out(source, paths) if paths else (source, ())
    with progress("looking for secrets") as update:
        refuse_secrets(scan_image(source, update), allowed)
    if not moved:
        return source, claims
    with connect(access) as client:
        for one in moved:
            client.put(paths[one.place], one.value)
    for one in moved:
        path = paths[one.place]
        use = f"{path.rpartition('/')[2]},{one.option},resource=kbs:///{path}"
        note(f"moved {one.place}; to put it back: kokon admit --secret {use}")
    names = (path.rpartition("/")[2] for path in paths.values())
    return source, replace(claims, secrets=tuple(dict.fromkeys((*claims.secrets, *names))))


def with_sbom(source: Source, wish: str, name: str, claims: Claims) -> Claims:
    """The claims with a bill of materials: made as `wish` names a format, else read from the file `wish`."""
    from dataclasses import replace

    from kokon.image.sbom.collect import make_sbom, read_sbom
    from kokon.image.sbom.document import MEDIA_TYPES

    made = make_sbom(source, wish, name, claims.created) if wish in MEDIA_TYPES else read_sbom(Path(wish))
    return replace(claims, sbom=made)


def show(sealed: Sealed, json: bool) -> None:
    """Print what was sealed."""
    from kokon.cli.output import emit

    statement = sealed.statement
    emit(
        {
            "image": str(sealed.reference),
            "digest": sealed.digest,
            "statement": sealed.referrer,
            "version": statement.version,
            "kek": statement.kek.kid,
            "layers": list(statement.layers),
            "reference": [entry.measurement.hex() for entry in statement.reference],
        },
        f"sealed     {sealed.reference}\nstatement  {sealed.referrer}\nlayers     {len(statement.layers)}, "
        f"each under its own key\nkey        {statement.kek.kid} (only the owner can open it)",
        json,
    )


def claims_of(options: Options, now: datetime) -> Claims:
    """What the author says, with reference values for the guest image."""
    from kokon.cli.output import kokon_home
    from kokon.image.seal import Claims, check_days
    from kokon.image.version import parse_version
    from kokon.launch.image import current_guest

    if options.version:
        parse_version(options.version)
    guest, values = reference_values((options.guest or current_guest(kokon_home())).absolute())
    return Claims(
        created=now,
        not_after=now + timedelta(days=check_days(options.not_after)),
        author=options.author,
        version=options.version,
        env=options.vary,
        args_may_vary=options.vary_args,
        secrets=options.secret,
        guest=guest,
        reference=values,
    )


def reference_values(directory: Path) -> tuple[GuestReference, tuple[ReferenceEntry, ...]]:
    """What the guest image in `directory` measures to, for each machine shape."""
    from kokon.image.statement import GuestReference, ReferenceEntry
    from kokon.launch.image import read_guest_image
    from kokon.tee.simulated.measure import measure_guest

    image = read_guest_image(directory)
    values = tuple(ReferenceEntry("simulated", vcpus, CPU, measure_guest(image, vcpus, CPU)) for vcpus in VCPUS)
    return GuestReference(image.digest, image.kernel_release), values


def source_login(source: str, host: str) -> tuple[str, str] | None:
    """The login of `registry_login` for a source on the destination's `host`: no other host gets it."""
    from kokon.image.reference import parse_reference

    if not source.startswith("docker://") or parse_reference(source).host != host:
        return None
    return registry_login()


def registry_login() -> tuple[str, str] | None:
    """User and password of $KOKON_REGISTRY_AUTH, if it is set."""
    name, separator, password = os.environ.get("KOKON_REGISTRY_AUTH", "").partition(":")
    return (name, password) if separator else None
