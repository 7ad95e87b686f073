"""`kokon admit`: register an image's identity with the provisioning server, and write its launch document."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kokon.cli.output import emit, note
from kokon.errors import HostError, UsageError

if TYPE_CHECKING:
    from typing import Any

KEY_LIMIT = 16 << 10


def _help(text: str, *names: str) -> Parameter:
    return Parameter(name=names or None, help=text)


def admit(
    image: Annotated[str, _help("The sealed image: host[:port]/repository[:tag][@digest].")],
    /,
    *,
    author: Annotated[Path, _help("Public key of the image's author (PEM).")],
    name: Annotated[str, _help("Name of the workload.")],
    port: Annotated[int | None, _help("TCP port of the application; default: the one that the image declares.")] = None,
    secret: Annotated[tuple[str, ...], _help("NAME[,file=PATH|,env=VARIABLE][,resource=kbs:///a/b/c].")] = (),
    volume: Annotated[tuple[str, ...], _help("NAME=PATH: an encrypted volume; the server makes its key.")] = (),
    env: Annotated[tuple[str, ...], _help("NAME=VALUE, not secret, of those that the author lets vary.")] = (),
    arg: Annotated[tuple[str, ...], _help("Argument for the application instead of the image's own.")] = (),
    server: Annotated[str | None, _help("URL under which guests reach the server; default: its own.")] = None,
    allow_debug: Annotated[bool, _help("Release even to enclaves that can be debugged: development only.")] = False,
    plain_http: Annotated[bool, _help("The registry has no TLS.")] = False,
    output: Annotated[Path, _help("Where the launch document goes.", "--output", "-o")] = Path("launch.toml"),
    admin: Annotated[Path | None, _help("The server's admin.json; default: this machine's.")] = None,
    json: Annotated[bool, _help("Print JSON.")] = False,
) -> None:
    """Admit a sealed image as a workload, and write the launch document for the host.

    Example: `kokon admit 127.0.0.1:5000/clinic:1 --author author.pub --name clinic --secret db-password`

    A secret is the file /run/secrets/NAME, from kbs:///WORKLOAD/secret/NAME, unless its options say otherwise.
    Signature, identity statement and dates are checked here and again by the server. The launch document holds no
    secret.
    """
    from kokon.image.fetch import Fetcher
    from kokon.image.reference import parse_reference
    from kokon.launch.document import document_digest
    from kokon.provisioning.client import AdminClient
    from kokon.provisioning.collect import Wishes, admission_body, collect, launch_document

    reference = parse_reference(image, plain_http=plain_http)
    key = _read_key(author)
    wishes = Wishes(name, port, secret, volume, env, arg, server)
    with Fetcher(reference.registry, reference.repository) as fetcher:
        sealed = collect(fetcher, reference.pointer, key, datetime.now(UTC))
    if reference.digest is None:
        note(f"only the registry says that {reference} is {sealed.digest}: compare with what the author says")
    with AdminClient.from_home(admin) as client:
        document = launch_document(wishes, reference, key, sealed, client.access)
        answer = client.admit(admission_body(name, document, sealed, allow_debug=allow_debug))
        _warn(client.resources(), answer)
    _write(output, document)
    digest = document_digest(document).hex()
    lines = (
        f"admitted {name}: {sealed.digest}",
        f"author {sealed.statement.author or 'without a name'}, until {answer['not_after']}",
        f"launch document {output}, SHA-256 {digest}",
    )
    emit({**answer, "launch_document": str(output), "digest": digest}, "\n".join(lines), json)


def _warn(resources: list[dict[str, Any]], answer: dict[str, Any]) -> None:
    """Say which of the resources that the workload may read are not there yet."""
    present = {one["resource"] for one in resources}
    for path in answer["resources"]:
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
