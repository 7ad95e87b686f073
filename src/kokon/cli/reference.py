"""`kokon reference`: the reference values that a project's Rego policies ask for by name."""

from __future__ import annotations

import json as jsonlib
from typing import Any

from kokon.cli.access import DEFAULT_ACCESS, Access, Source, connect, table
from kokon.cli.output import emit
from kokon.cli.policy import read_text
from kokon.errors import MalformedError, UsageError
from kokon.wire import parse_json

MESSAGE_LIMIT = 2 << 20


def list_references(*, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """List the reference values that Rego policies ask for.

    Example: `kokon reference list`

    Parameters
    ----------
    json
        Print JSON.
    """
    with connect(access) as client:
        references = client.references()
    rows = [(one["name"], jsonlib.dumps(one["value"]), f"until {one['expires']}") for one in references]
    emit({"references": references}, table(rows, "no reference values"), json)


def set_references(
    values: tuple[str, ...] = (),
    /,
    *,
    message: Source | None = None,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Set reference values, for a year; a value that is there is replaced as a whole.

    Example: `kokon reference set launch_digest=1f2e launch_digest=3d4c svn:=3`

    Example: `kokon reference set --message corim.json`

    Parameters
    ----------
    values
        NAME=TEXT: a list of texts, one for each time that NAME is given; NAME:=JSON: that value as it is.
    message
        A message for the Reference Value Provider Service of Confidential Containers instead, as JSON; - for standard
        input.
    json
        Print JSON.
    """
    from kokon.provisioning.client_records import sample_message

    if bool(values) == (message is not None):
        raise UsageError("reference-values-missing", "which values? Give NAME=VALUE, or a message with --message")
    parsed = parse_values(values)
    text = sample_message(parsed) if message is None else read_text(message, MESSAGE_LIMIT).encode()
    with connect(access) as client:
        client.register(text)
    emit({"set": sorted(parsed)} if parsed else {"message": str(message)}, _told(parsed), json)


def rm(names: tuple[str, ...], /, *, access: Access = DEFAULT_ACCESS, json: bool = False) -> None:
    """Remove reference values: what policies demand of them then fails.

    Example: `kokon reference rm launch_digest`

    Parameters
    ----------
    names
        Their names.
    json
        Print JSON.
    """
    with connect(access) as client:
        for name in names:
            client.remove_reference(name)
    emit({"deleted": list(names)}, "\n".join(f"{name}: removed" for name in names), json)


def parse_values(texts: tuple[str, ...]) -> dict[str, Any]:
    """Values as typed. Raises `UsageError` (`reference-value`)."""
    values: dict[str, Any] = {}
    lists: set[str] = set()
    for text in texts:
        typed, separator, value = text.partition("=")
        name = typed.removesuffix(":")
        literal = name != typed
        if not separator or not name or (name in values and (literal or name not in lists)):
            raise _malformed(text)
        if literal:
            values[name] = _literal(value, text)
        else:
            lists.add(name)
            values.setdefault(name, []).append(value)
    return values


def _literal(value: str, text: str) -> Any:
    try:
        return parse_json(value.encode(), limit=MESSAGE_LIMIT, what="value")
    except (MalformedError, UnicodeEncodeError) as error:
        raise _malformed(text) from error


def _malformed(text: str) -> UsageError:
    return UsageError(
        "reference-value",
        "a reference value is NAME=TEXT or, once, NAME:=JSON",
        expected="as launch_digest=1f2e or svn:=3",
        found=ascii(text[:100]),
    )


def _told(values: dict[str, Any]) -> str:
    return "\n".join(f"{name}: set" for name in values) or "registered"
