"""`kokon inspect`: what a sealed image says about itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from kokon.image.inspection import Inspection


def inspect(image: str, *, author: Path | None = None, plain_http: bool = False, json: bool = False) -> None:
    """Show a sealed image: layers and who can open them, signature, identity statement.

    With the author's public key signature and statement are verified; without it they are only looked for.

    Example: kokon inspect 127.0.0.1:5000/clinic:1 --author author.key.pub

    Parameters
    ----------
    image
        HOST/REPOSITORY[:TAG][@DIGEST].
    author
        The author's public key (PEM).
    plain_http
        Speak plain HTTP to a registry that is not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.output import emit
    from kokon.image.ecdsa import public_pem
    from kokon.image.fetch import Fetcher
    from kokon.image.inspection import inspect_image
    from kokon.image.reference import parse_reference
    from kokon.image.sign import load_author

    reference = parse_reference(image, plain_http=plain_http)
    pem = None if author is None else public_pem(load_author(author))
    with Fetcher(reference.registry, reference.repository) as fetcher:
        found = inspect_image(fetcher, reference.pointer, pem, datetime.now(UTC))
    emit({"image": str(reference), **found.as_dict()}, describe(str(reference), found), json)


def describe(name: str, found: Inspection) -> str:
    """An inspection as text."""
    config = found.config
    lines = [f"image      {name}", f"digest     {found.digest}"]
    for layer in found.layers:
        state = "encrypted" if layer["encrypted"] else "NOT ENCRYPTED"
        lines.append(f"layer      {layer['digest'][:19]}  {layer['size']:>12} bytes  {state}")
        lines += [f"           opened by {kid}" for kid in layer["keys"]]
    lines.append(f"command    {' '.join([*config['entrypoint'], *config['command']])}")
    lines += [f"{check:<14} {outcome}" for check, outcome in found.checks.items()]
    for bill in found.sboms:
        lines.append(f"sbom       {bill['format']}, {bill['packages']} packages, signature {bill['signature']}")
    if found.statement is not None:
        statement = found.statement
        lines.append(
            f"author     {statement['author'] or '(no name)'}, {statement['created']} to {statement['not_after']}"
        )
        if statement["version"]:
            lines.append(f"version    {statement['version']}")
        lines.append(f"may vary   {_variable(statement)}")
        lines += [
            f"reference  {entry['tee']}, {entry['vcpus']} vCPU: {entry['measurement'][:32]}..."
            for entry in statement["reference"]
        ]
    return "\n".join(lines)


def _variable(statement: dict[str, Any]) -> str:
    """What the author lets a launch decide about command and environment."""
    return ", ".join(["arguments"] * statement["args_may_vary"] + statement["env"]) or "nothing"
