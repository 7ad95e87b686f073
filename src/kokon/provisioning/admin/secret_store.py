"""Secrets: put, made, rotated, listed, deleted. Nobody reads a value here."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from kokon.errors import DeniedError, UsageError
from kokon.provisioning.access.roles import Action
from kokon.provisioning.catalogue import SECRET
from kokon.provisioning.database.values import Delete, Put
from kokon.provisioning.kbs.paths import check_path
from kokon.provisioning.secret.derive import make_base
from kokon.provisioning.secret.generate import generate, parse_recipe
from kokon.provisioning.secret.request import BODY_LIMIT, Terms, parse_put, parse_rotate
from kokon.provisioning.secret.value import VALUE_LIMIT, Secret, decode_secret, encode_secret
from kokon.provisioning.secret.versions import surplus

if TYPE_CHECKING:
    from kokon.provisioning.admin.request import Asked
    from kokon.provisioning.database.values import Change

__all__ = [
    "BODY_LIMIT",
    "VALUE_LIMIT",
    "delete_secret",
    "list_secrets",
    "put_secret",
    "put_value",
    "rotate_secret",
]


def list_secrets(asked: Asked) -> dict[str, Any]:
    """Names, versions and kinds of the secrets in the scope, never their values."""
    asked.allow_somewhere(Action.SECRET_LIST)
    names = asked.store.snapshot(asked.project).names(SECRET)
    found = (_summary(asked, path) for path in names if asked.covers(path))
    return {"secrets": [one for one in found if one is not None]}


def put_value(asked: Asked, path: str, value: bytes) -> dict[str, Any]:
    """Keep a value as the newest version. Raises `MalformedError` (`resource-path`, `resource-size`)."""
    asked.allow(Action.SECRET_WRITE, check_path(path))
    return _put(asked, path, Secret("given", value), Terms(), "resource-put")


def put_secret(asked: Asked, path: str, body: bytes) -> dict[str, Any]:
    """Keep, generate or prepare to derive a new version. Raises as `parse_put`, `DeniedError` (`changed-meanwhile`)."""
    asked.allow(Action.SECRET_WRITE, check_path(path))
    request = parse_put(body, asked.now)
    if request.recipe is not None:
        secret = generate(request.recipe, secrets.token_bytes)
    elif request.scope is not None:
        secret = make_base(request.scope, secrets.token_bytes)
    else:
        secret = Secret("given", request.value or b"")
    return _put(asked, path, secret, request.terms, "resource-put")


def rotate_secret(asked: Asked, path: str, body: bytes) -> dict[str, Any]:
    """A new version of a secret that was generated or is derived, made as the last one was.

    Raises `DeniedError` (`resource-unknown`, `changed-meanwhile`), `UsageError` (`secret-not-generated`).
    """
    asked.allow(Action.SECRET_ROTATE, check_path(path))
    terms = parse_rotate(body, asked.now)
    last = _newest(asked, path)
    if last.kind == "given":
        raise UsageError(
            "secret-not-generated",
            "this secret was given: only who gave it can give another one",
            found=path,
            hint=f"put the new value there with `kokon secret put {path}`",
        )
    if last.kind == "derived":
        secret = make_base(last.recipe, secrets.token_bytes)
    else:
        secret = generate(parse_recipe(last.recipe), secrets.token_bytes)
    return _put(asked, path, secret, terms, "resource-rotated")


def delete_secret(asked: Asked, path: str, version: int | None) -> dict[str, Any]:
    """Delete one version, or all (None), for good. Raises `DeniedError` (`resource-unknown`)."""
    asked.allow(Action.SECRET_DELETE, check_path(path))
    kept = [one.version for one in asked.store.snapshot(asked.project).versions(SECRET, path)]
    if not kept or (version is not None and version not in kept):
        raise _unknown(path)
    details = {"resource": path, "versions": kept if version is None else [version]}
    asked.write("resource-deleted", details, (Delete(SECRET, path, version),))
    return {"deleted": path}


def _put(asked: Asked, path: str, secret: Secret, terms: Terms, event: str) -> dict[str, Any]:
    kept = asked.store.snapshot(asked.project).versions(SECRET, path)
    changes: list[Change] = [Put(SECRET, path, encode_secret(secret), terms.expires, terms.previous)]
    gone = surplus(kept, terms.keep)
    changes += [Delete(SECRET, path, version) for version in gone]
    details: dict[str, Any] = {"resource": path, "kind": secret.kind}
    if gone:
        details["deleted"] = list(gone)
    if terms.expires is not None:
        details["expires"] = terms.expires.isoformat()
    version = asked.write(event, details, changes).versions[0]
    answer = {"path": path, "version": version, "kind": secret.kind}
    return {**answer, "public": secret.public} if secret.public else answer


def _summary(asked: Asked, path: str) -> dict[str, Any] | None:
    versions = asked.store.snapshot(asked.project).versions(SECRET, path)
    record = asked.store.read(asked.project, SECRET, path, versions[-1].version) if versions else None
    if record is None:
        return None
    secret, last = decode_secret(record), versions[-1]
    summary = {
        "path": path,
        "version": last.version,
        "kind": secret.kind,
        "recipe": secret.recipe,
        "created": last.created.isoformat(),
        "expires": last.expires.isoformat() if last.expires else None,
        "versions": [one.version for one in versions],
    }
    return {**summary, "public": secret.public} if secret.public else summary


def _newest(asked: Asked, path: str) -> Secret:
    record = asked.store.read(asked.project, SECRET, path)
    if record is None:
        raise _unknown(path)
    return decode_secret(record)


def _unknown(path: str) -> DeniedError:
    return DeniedError("resource-unknown", "there is no such resource", found=path)
