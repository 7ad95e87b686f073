"""Principals: who may do what, where and until when. Every decision of the admin interface is made here. Pure.

Invariants: a scope never adds an action to a role; a role never adds a place to a scope; nobody makes a principal that
is beyond themselves in role, scope or time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from kokon.errors import DeniedError, MalformedError, UntrustedError
from kokon.provisioning.access.bearer import DIGEST_SIZE, Token, is_id, same_digest
from kokon.provisioning.access.project import SERVER
from kokon.provisioning.access.roles import Action, Reach, Role, allowed, contains, reach
from kokon.provisioning.access.scope import EVERYTHING, Grant, check_scopes

NAME_LIMIT: Final = 64
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._@-]{0,62}[A-Za-z0-9])?")
_NOBODY: Final = bytes(DIGEST_SIZE)

CredentialKind = Literal["token", "certificate"]


@dataclass(frozen=True, slots=True)
class Credential:
    """How a principal shows who it is. `digest`: SHA-256 of the token's text, or of the client certificate's
    SubjectPublicKeyInfo (DER)."""

    kind: CredentialKind
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody of the admin interface. `id` is that of the token, where there is one; times are aware, in UTC and of
    whole seconds; without `expires` it is for good. Made by `make_principal`, which checks it."""

    id: str
    name: str
    role: Role
    scopes: tuple[Grant, ...]
    created: datetime
    expires: datetime | None
    credential: Credential

    def enters(self, project: str) -> bool:
        """True if something in `project` is in the scope."""
        return any(grant.enters(project) for grant in self.scopes)

    def covers(self, project: str, path: str | None) -> bool:
        """True if `path` in `project` (None: the project as a whole) is in the scope."""
        return any(grant.covers(project, path) for grant in self.scopes)


def make_principal(
    *,
    id: str,  # noqa: A002
    name: str,
    role: Role,
    scopes: tuple[Grant, ...],
    created: datetime,
    expires: datetime | None,
    credential: Credential,
) -> Principal:
    """A principal of these parts; times are cut to whole seconds.

    Raises `MalformedError` (`principal-malformed`, `scope-malformed`).
    """
    if not is_id(id) or not _NAME.fullmatch(name):
        raise _malformed("an id or a name is not one", f"{id[:80]!r}, {name[:80]!r}")
    if len(credential.digest) != DIGEST_SIZE:
        raise _malformed("a digest has a wrong size", str(len(credential.digest)))
    created, expires = _whole(created), None if expires is None else _whole(expires)
    if expires is not None and expires <= created:
        raise _malformed("it ends before it begins", expires.isoformat())
    return Principal(id, name, role, check_scopes(scopes), created, expires, credential)


def authenticate_token(principal: Principal | None, token: Token) -> Principal:
    """The principal that the server has under the token's id (None: there is none), if the token is its own.

    Raises `UntrustedError` (`principal-unknown`): the same for an unknown id and a wrong secret.
    """
    known = principal is not None and principal.credential.kind == "token" and principal.id == token.id
    expected = principal.credential.digest if principal is not None and known else _NOBODY
    if not same_digest(expected, token.digest) or principal is None or not known:
        raise _unknown()
    return principal


def authenticate_certificate(principal: Principal | None, fingerprint: bytes) -> Principal:
    """The principal that the server has under a client certificate's fingerprint (SHA-256 of its
    SubjectPublicKeyInfo), whose private key the TLS handshake has shown.

    Raises `UntrustedError` (`principal-unknown`).
    """
    if (
        principal is None
        or principal.credential.kind != "certificate"
        or not same_digest(principal.credential.digest, fingerprint)
    ):
        raise _unknown()
    return principal


def check(principal: Principal, action: Action, project: str, path: str | None, now: datetime) -> None:
    """Nothing, if the principal may do that there; `project` may be the server itself (`SERVER`), `path` None for the
    project as a whole.

    Raises `DeniedError` (`principal-expired`, `role-insufficient`, `scope-exceeded`).
    """
    _check_role(principal, action, now)
    kind = reach(action)
    if kind is Reach.SERVER:
        granted = EVERYTHING in principal.scopes
    elif kind is Reach.ANY:
        granted = principal.enters(project)
    else:
        granted = principal.covers(project, None if kind is Reach.PROJECT else path)
    if not granted:
        raise _exceeded(principal, project, path if kind is Reach.PATH else None)


def check_somewhere(principal: Principal, action: Action, project: str, now: datetime) -> None:
    """Nothing, if the principal may do that with something in the project: for lists, of which the caller shows what
    `principal.covers`. Actions for whole projects need them whole here too. Raises as `check` does.
    """
    if reach(action) is not Reach.PATH:
        check(principal, action, project, None, now)
        return
    _check_role(principal, action, now)
    if not principal.enters(project):
        raise _exceeded(principal, project, None)


def check_beyond(actor: Principal, other: Principal, *, removal: bool = False) -> None:
    """Nothing, if `other` is not beyond `actor`: may do no more, in no more places and, but for its removal, for no
    longer.

    For making, changing (before and after) and removing principals, besides `check` of `Action.PRINCIPAL_MANAGE`.
    Raises `DeniedError` (`principal-beyond`).
    """
    wider = [str(grant) for grant in other.scopes if not any(own.contains(grant) for own in actor.scopes)]
    found = None
    if not contains(actor.role, other.role):
        found = f"role {other.role}"
    elif wider:
        found = f"scope {', '.join(wider)}"
    elif not removal and actor.expires is not None and (other.expires is None or other.expires > actor.expires):
        found = "it would last longer"
    if found is not None:
        raise DeniedError(
            "principal-beyond",
            "nobody may give more than they have",
            expected=_described(actor),
            found=found,
            hint="ask an owner of a wider scope",
        )


def check_current(principal: Principal, now: datetime) -> None:
    """Nothing, if the principal's time is not over. Raises `DeniedError` (`principal-expired`)."""
    if principal.expires is not None and now >= principal.expires:
        raise DeniedError(
            "principal-expired",
            "this access has expired",
            expected=f"before {principal.expires.isoformat()}",
            found=now.isoformat(),
            hint="an owner can give a new one",
        )


def _check_role(principal: Principal, action: Action, now: datetime) -> None:
    check_current(principal, now)
    if action not in allowed(principal.role):
        raise DeniedError(
            "role-insufficient",
            "this role may not do that",
            expected=", ".join(role for role in Role if action in allowed(role)),
            found=principal.role,
            hint=f"{action} needs another role",
        )


def _exceeded(principal: Principal, project: str, path: str | None) -> DeniedError:
    place = f"{'the server' if project == SERVER else project[:80]}:{'*' if path is None else path[:200]}"
    return DeniedError(
        "scope-exceeded",
        "this is outside the scope",
        expected=", ".join(map(str, principal.scopes)),
        found=place,
        hint="an owner of a wider scope can do it, or widen this one",
    )


def _described(principal: Principal) -> str:
    until = "" if principal.expires is None else f" until {principal.expires.isoformat()}"
    return f"{principal.role} of {', '.join(map(str, principal.scopes))}{until}"


def _whole(moment: datetime) -> datetime:
    if moment.utcoffset() != timedelta(0):
        raise _malformed("a time is not in UTC", moment.isoformat())
    return moment.replace(microsecond=0)


def _malformed(message: str, found: str) -> MalformedError:
    return MalformedError("principal-malformed", f"this is no principal: {message}", found=found)


def _unknown() -> UntrustedError:
    return UntrustedError(
        "principal-unknown", "this token or certificate is nobody's", hint="was it revoked, or is it another server's?"
    )
