"""docs/API.md out of the table of operations. Pure.

Bodies are written as people write them down: `{"path": text, "expires"?: time}`; a word with a capital is explained
under "Shapes".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kokon.provisioning.web.table import COMPONENTS

if TYPE_CHECKING:
    from kokon.provisioning.web.table import Answer, Api, Content, Operation

_WORDS = {"string": "text", "integer": "number", "number": "number", "boolean": "true or false", "null": "null"}
_FORMATS = {"date-time": "time", "base64": "base64"}


def page(api: Api) -> str:
    """The operations by tag, each with what it takes and gives. The table must be in order (`table.check`)."""
    lines = [f"# {api.title}", "", api.description, ""]
    if api.prefix:
        lines += [f"Below `{api.prefix}`: {api.prefix_description}", ""]
    lines += _common(api)
    for tag, text in (*api.tags.items(), ("", "")):
        chosen = [o for o in api.operations if (tag in o.tags if tag else not o.tags)]
        if not chosen:
            continue
        lines += [f"## {tag or 'other'}", ""] + ([text, ""] if text else [])
        for operation in chosen:
            lines += _section(operation, api)
    return "\n".join(lines + _shapes(api)).rstrip() + "\n"


def _common(api: Api) -> list[str]:
    """What any operation may answer, said once."""
    found: dict[int, str] = {}
    for operation in api.operations:
        for answer in operation.answers:
            if answer.common:
                found.setdefault(answer.status, answer.description)
    if not found:
        return []
    rows = [(str(status), text) for status, text in sorted(found.items())]
    return ["## Refusals", "", *_table(("Status", "Meaning"), rows)]


def _section(operation: Operation, api: Api) -> list[str]:
    lines = [f"### `{operation.method} {operation.template}`", "", f"{operation.summary} (`{operation.name}`)", ""]
    if operation.description:
        lines += [operation.description, ""]
    where = "" if operation.project or not api.prefix else " Only at the root."
    lines += [f"Needs: {' or '.join(operation.security) or 'nothing'}.{where}", ""]
    if operation.request is not None:
        said = f": {operation.request.description}" if operation.request.description else "."
        lines += [f"Body: {_content(operation.request)}{said}", ""]
    if operation.parameters:
        lines += _table(
            ("Parameter", "In", "Meaning"), [(f"`{p.name}`", p.where, p.description) for p in operation.parameters]
        )
    own = [answer for answer in operation.answers if not answer.common]
    lines += _table(("Status", "Body", "Meaning"), [_row(answer) for answer in own])
    also = ", ".join(str(answer.status) for answer in operation.answers if answer.common)
    return [*lines, f"Also: {also}.", ""] if also else lines


def _row(answer: Answer) -> tuple[str, str, str]:
    headers = "; ".join(f"`{name}`: {text}" for name, text in answer.headers.items())
    body = "" if answer.content is None else _content(answer.content)
    return str(answer.status), body, f"{answer.description}; {headers}" if headers else answer.description


def _content(content: Content) -> str:
    if content.schema is None or isinstance(content.schema, type) or content.media_type != "application/json":
        return f"`{content.media_type}`"
    return f"`{shape(content.schema)}`"


def _shapes(api: Api) -> list[str]:
    if not api.schemas:
        return []
    rows = [(f"`{n}`", f"`{shape(s)}`", s.get("description", "")) for n, s in sorted(api.schemas.items())]
    return ["## Shapes", "", *_table(("Name", "Shape", "Meaning"), rows)]


def shape(schema: Mapping[str, Any]) -> str:
    """A JSON Schema in short."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(COMPONENTS)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    for word, between in (("allOf", " & "), ("anyOf", " | ")):
        if word in schema:
            return between.join(shape(each) for each in schema[word])
    return _shape_of_type(schema)


def _shape_of_type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return " | ".join(shape({**schema, "type": one}) for one in kind)
    if kind == "array":
        return f"[{shape(schema.get('items', {}))}, ...]"
    if kind == "object":
        return _object(schema)
    if kind == "string" and schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    return _WORDS.get(kind, str(kind))


def _object(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    members = [
        f"{json.dumps(name)}{'' if name in required else '?'}: {shape(value)}"
        for name, value in schema.get("properties", {}).items()
    ]
    if schema.get("additionalProperties") is not False:
        members.append("...")
    return "{" + ", ".join(members) + "}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *(line(row) for row in rows), ""]
