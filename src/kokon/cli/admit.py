"""`kokon admit`: register an image's identity with the provisioning server, and write its launch document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kokon.cli.access import DEFAULT_ACCESS, Access, connect
from kokon.cli.output import emit, note
from kokon.cli.policy import POLICY_LIMIT, digest_option, read_text
from kokon.errors import HostError, UsageError

if TYPE_CHECKING:
    from typing import Any

    from kokon.provisioning.client import AdminClient

KEY_LIMIT = 16 << 10


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Whose image it is, and how it is launched.

    Parameters
    ----------
    author
        Public key of the image's author (PEM).
    port
        TCP port of the application; default: the one that the image declares.
    secret
        NAME[,file=PATH|,env=VARIABLE][,resource=kbs:///a/b/c]. May be repeated.
    volume
        NAME=PATH: an encrypted volume; the server makes its key. May be repeated.
    env
        NAME=VALUE, not secret, of those that the author lets vary. May be repeated.
    arg
        Argument for the application instead of the image's own. May be repeated.
    server
        URL under which guests reach the server; default: its own.
    allow_debug
        Release even to enclaves that can be debugged: development only.
    plain_http
        The registry has no TLS.
    output
        Where the launch document goes.
    """

    author: Path
    port: int | None = None
    secret: tuple[str, ...] = ()
    volume: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    arg: tuple[str, ...] = ()
    server: str | None = None
    allow_debug: bool = False
    plain_http: bool = False
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("launch.toml")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where and how often enclaves of a workload may run.

    Parameters
    ----------
    tee
        Kind of TEE that is allowed: snp, tdx, sgx, ..., or simulated. May be repeated; default: all.
    chip
        Id of a chip that is allowed, in hex. May be repeated; default: all.
    policy
        Policy for the platform (docs/POLICY.md); default: the project's.
    max_activations
        How many attestations are granted in all; default: any number.
    """

    tee: tuple[str, ...] = ()
    chip: tuple[str, ...] = ()
    policy: Path | None = None
    max_activations: int | None = None


UNLIMITED = Limits()


def limits_of(limits: Limits, policy: str) -> dict[str, Any]:
    """The members of a request that these are; `policy` is what the policy's is called there, left out if there is
    none. Raises as `read_text`."""
    members: dict[str, Any] = {
        "tees": list(limits.tee),
        "chips": list(limits.chip),
        "max_activations": limits.max_activations,
        policy: None if limits.policy is None else read_text(limits.policy, POLICY_LIMIT),
    }
    return {name: value for name, value in members.items() if value is not None and value != []}


def admit(
    image: str,
    /,
    *,
    name: str,
    launch: Launch,
    limits: Limits = UNLIMITED,
    previous: str | None = None,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Admit a sealed image as a workload, and write the launch document for the host.

    Example: `kokon admit 127.0.0.1:5000/clinic:1 --author author.pub --name clinic --secret db-password`

    A secret is the file /run/secrets/NAME, from kbs:///WORKLOAD/secret/NAME, unless its options say otherwise.
    Signature, identity statement and dates are checked here and again by the server. The launch document holds no
    secret.

    Parameters
    ----------
    image
        The sealed image: host[:port]/repository[:tag][@digest].
    name
        Name of the workload.
    previous
        Digest of the workload's record that you have seen (`none` for a new one): if it was changed meanwhile, nothing
        is admitted.
    json
        Print JSON.
    """
    more = {**limits_of(limits, "platform"), **expecting(previous)}
    submit(image, name, launch, access, lambda client, body: client.admit({**body, **more}), json=json)


def submit(
    image: str,
    name: str,
    launch: Launch,
    access: Access,
    send: Callable[[AdminClient, dict[str, Any]], dict[str, Any]],
    *,
    json: bool,
) -> None:
    """Have `send` submit an image for the workload `name`, write its launch document, and tell of it."""
    from kokon.image.fetch import Fetcher
    from kokon.image.reference import parse_reference
    from kokon.launch.document import document_digest
    from kokon.provisioning.collect import Wishes, admission_body, collect, launch_document

    reference = parse_reference(image, plain_http=launch.plain_http)
    key = _read_key(launch.author)
    wishes = Wishes(name, launch.port, launch.secret, launch.volume, launch.env, launch.arg, launch.server)
    with Fetcher(reference.registry, reference.repository) as fetcher:
        sealed = collect(fetcher, reference.pointer, key, datetime.now(UTC))
    if reference.digest is None:
        note(f"only the registry says that {reference} is {sealed.digest}: compare with what the author says")
    with connect(access) as client:
        document = launch_document(wishes, reference, key, sealed, client.access)
        answer = send(client, admission_body(name, document, sealed, allow_debug=launch.allow_debug))
        tell_missing(client, answer.get("resources", []))
    _write(launch.output, document)
    digest = document_digest(document).hex()
    lines = (
        f"admitted {name}: {sealed.digest}",
        f"author {sealed.statement.author or 'without a name'}, until {answer['not_after']}",
        f"launch document {launch.output}, SHA-256 {digest}",
    )
    told = {**answer, "launch_document": str(launch.output), "launch_document_digest": digest}
    emit(told, "\n".join(lines), json)


def expecting(previous: str | None) -> dict[str, str]:
    """The member `previous` of a request, if it was given."""
    expected = digest_option(previous)
    return {} if expected is None else {"previous": expected}


def tell_missing(client: AdminClient, resources: list[str]) -> None:
    """Say which of the resources that a workload may read are not there yet."""
    present = {one["path"] for one in client.secrets()}
    for path in resources:
        if path not in present:
            note(f"still missing: kokon secret put {path}")


def _read_key(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(KEY_LIMIT).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "author-key-unreadable",
            f"cannot read the author's public key {path}",
            hint="the author makes one with `kokon keygen` and gives you the .pub file",
        ) from error


def _write(path: Path, document: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(document)
        temporary.replace(path)
    except OSError as error:
        raise HostError("output-unwritable", f"cannot write {path}", found=error.strerror) from error
