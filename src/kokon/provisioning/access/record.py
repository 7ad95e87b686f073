"""Principals as the store keeps them: strict JSON. Bytes to values and back. Pure.

`version` (1), `id`, `name`, `role`, `scopes` ([{`project`, `path`}]), `created` and, unless it is for good, `expires`
(RFC 3339, whole seconds, `Z`), `credential` ({`kind`, `sha256`: 64 hex digits}).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from kokon.errors import MalformedError
from kokon.provisioning.access.bearer import DIGEST_SIZE
from kokon.provisioning.access.principal import Credential, CredentialKind, Principal, make_principal
from kokon.provisioning.access.roles import Role
from kokon.provisioning.access.scope import GRANTS_LIMIT, Grant
from kokon.wire import Fields, canonical_json, parse_json, unhex

VERSION: Final = 1
RECORD_LIMIT: Final = 128 << 10
"""Bytes that a record may have: the longest scopes fit."""
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def encode_principal(principal: Principal) -> bytes:
    """The record, canonical JSON."""
    return canonical_json(
        {
            "version": VERSION,
            **describe(principal),
            "credential": {"kind": principal.credential.kind, "sha256": principal.credential.digest.hex()},
        }
    )


def describe(principal: Principal) -> dict[str, Any]:
    """What may be shown of a principal, as JSON values: all but the digest."""
    members = {
        "id": principal.id,
        "name": principal.name,
        "role": str(principal.role),
        "scopes": [{"project": grant.project, "path": grant.pattern} for grant in principal.scopes],
        "created": _text(principal.created),
        "credential": principal.credential.kind,
    }
    return members if principal.expires is None else {**members, "expires": _text(principal.expires)}


def decode_principal(data: bytes) -> Principal:
    """The principal of a record.

    Raises `MalformedError` (`principal-malformed`, `scope-malformed`, and those of `kokon.wire`).
    """
    fields = Fields(parse_json(data, limit=RECORD_LIMIT, what="principal"), "principal")
    version = fields.integer("version")
    if version != VERSION:
        raise MalformedError("principal-malformed", "the record is of another version", expected=1, found=version)
    principal = make_principal(
        id=fields.text("id", limit=64),
        name=fields.text("name", limit=256),
        role=read_role(fields.text("role", limit=32)),
        scopes=read_scopes(fields.array("scopes", limit=GRANTS_LIMIT)),
        created=read_time(fields.text("created", limit=32)),
        expires=_optional_time(fields.optional_text("expires", limit=32)),
        credential=_credential(fields.table("credential")),
    )
    fields.finish()
    return principal


def read_role(text: str) -> Role:
    """The role of that name. Raises `MalformedError` (`principal-malformed`)."""
    for role in Role:
        if role == text:
            return role
    raise MalformedError("principal-malformed", "there is no such role", expected=", ".join(Role), found=repr(text))


def read_scopes(values: list[Any]) -> tuple[Grant, ...]:
    """Grants of JSON values [{`project`, `path`}]. Raises as `decode_principal` does."""
    return tuple(_grant(value) for value in values)


def read_time(text: str) -> datetime:
    """The moment of `YYYY-MM-DDTHH:MM:SSZ`. Raises `MalformedError` (`principal-malformed`)."""
    try:
        if not _TIME.fullmatch(text):
            raise ValueError("another form")
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise MalformedError(
            "principal-malformed", "a time has another form", expected="YYYY-MM-DDTHH:MM:SSZ", found=repr(text)
        ) from error


def _optional_time(text: str | None) -> datetime | None:
    return None if text is None else read_time(text)


def _grant(value: Any) -> Grant:
    fields = Fields(value, "scope")
    grant = Grant(fields.text("project", limit=64), fields.text("path", limit=2048))
    fields.finish()
    return grant


def _credential(value: Any) -> Credential:
    fields = Fields(value, "credential")
    kinds: tuple[CredentialKind, ...] = ("token", "certificate")
    text = fields.text("kind", limit=32)
    digest = unhex(fields.text("sha256", limit=64), what="sha256", size=DIGEST_SIZE)
    fields.finish()
    for kind in kinds:
        if kind == text:
            return Credential(kind, digest)
    raise MalformedError("principal-malformed", "there is no such credential", expected=kinds, found=repr(text))


def _text(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
