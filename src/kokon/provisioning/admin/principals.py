"""Principals: who may use the admin interface, by a token that is shown once, or by a client certificate."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.errors import DeniedError, MalformedError
from kokon.provisioning.access.bearer import ID_ENTROPY, TOKEN_ENTROPY, make_id, make_token
from kokon.provisioning.access.principal import Credential, Principal, check_beyond, make_principal
from kokon.provisioning.access.record import describe, encode_principal, read_role, read_scopes, read_time
from kokon.provisioning.access.roles import Action, Role
from kokon.provisioning.access.scope import EVERYTHING, GRANTS_LIMIT
from kokon.provisioning.admin.callers import CERTIFICATE, PRINCIPAL, no_principal
from kokon.provisioning.database.values import Delete, Entry, Put, Work
from kokon.provisioning.keys import SERVER
from kokon.provisioning.web.tls import check_client_certificate
from kokon.wire import Fields, parse_json

if TYPE_CHECKING:
    from datetime import datetime

    from kokon.provisioning.admin.request import Asked
    from kokon.provisioning.database.store import Store
    from kokon.provisioning.database.values import Change

BODY_LIMIT = 256 << 10
CERTIFICATE_LIMIT = 16 << 10
ENROLLED = "principal-enrolled"
"""The kind of the certificates (DER), by principals' ids."""


def list_principals(asked: Asked) -> dict[str, Any]:
    """The principals that are not beyond the one who asks."""
    asked.allow(Action.PRINCIPAL_MANAGE)
    found = []
    for name in asked.store.snapshot(SERVER).names(PRINCIPAL):
        principal = asked.callers.find(name)
        if principal is not None and _within(asked.principal, principal):
            found.append(describe(principal))
    return {"principals": found}


def add_principal(asked: Asked, body: bytes) -> dict[str, Any]:
    """Make a principal; its token is in the answer and nowhere else.

    Raises `MalformedError` (`principal-malformed`, `scope-malformed`, `client-certificate-malformed`), `UsageError`
    (`client-certificate-authority`), `DeniedError`
    (`principal-beyond`).
    """
    asked.allow(Action.PRINCIPAL_MANAGE)
    fields = Fields(parse_json(body, limit=BODY_LIMIT, what="principal"), "principal")
    name, role = fields.text("name", limit=256), read_role(fields.text("role", limit=32))
    scopes = read_scopes(fields.array("scopes", limit=GRANTS_LIMIT))
    end = fields.optional_text("expires", limit=32)
    pem = fields.optional_text("certificate", limit=CERTIFICATE_LIMIT)
    fields.finish()
    token = make_token(secrets.token_bytes(TOKEN_ENTROPY)) if pem is None else None
    der, digest = _certificate(pem) if pem is not None else (b"", b"")
    principal = make_principal(
        id=token.id if token else make_id(secrets.token_bytes(ID_ENTROPY)),
        name=name,
        role=role,
        scopes=scopes,
        created=asked.now,
        expires=None if end is None else read_time(end),
        credential=Credential("token", token.digest) if token else Credential("certificate", digest),
    )
    check_beyond(asked.principal, principal)
    changes: list[Change] = [Put(PRINCIPAL, principal.id, encode_principal(principal), previous=0)]
    if token is None:
        changes += [
            Put(CERTIFICATE, digest.hex(), principal.id.encode(), previous=0),
            Put(ENROLLED, principal.id, der, previous=0),
        ]
    asked.write("principal-added", {"principal": _logged(principal)}, changes)
    return {**describe(principal), **({"token": token.text} if token else {})}


def delete_principal(asked: Asked, identity: str) -> dict[str, Any]:
    """Take a principal's access away. Raises `DeniedError` (`principal-not-found`,
    `principal-beyond`)."""
    asked.allow(Action.PRINCIPAL_MANAGE)
    principal = asked.callers.find(identity)
    if principal is None:
        raise no_principal(identity)
    check_beyond(asked.principal, principal, removal=True)
    changes: list[Change] = [Delete(PRINCIPAL, identity)]
    if principal.credential.kind == "certificate":
        changes += [Delete(CERTIFICATE, principal.credential.digest.hex()), Delete(ENROLLED, identity)]
    asked.write("principal-removed", {"principal": _logged(principal)}, changes)
    return {"deleted": identity}


def make_owner(store: Store, now: datetime, name: str = "owner", generation: int | None = None) -> str:
    """A new principal that may do everything; its token. Raises as the store does, `StaleDecision` with it if the
    server's records are of another `generation`."""
    token = make_token(secrets.token_bytes(TOKEN_ENTROPY))
    owner = make_principal(
        id=token.id,
        name=name,
        role=Role.OWNER,
        scopes=(EVERYTHING,),
        created=now,
        expires=None,
        credential=Credential("token", token.digest),
    )
    entry = Entry("principal-added", {"principal": _logged(owner), "by": ""})
    change = Put(PRINCIPAL, owner.id, encode_principal(owner), previous=0)
    store.commit(Work(SERVER, (entry,), (change,), generation=generation))
    return token.text


def enrolled(store: Store) -> tuple[bytes, ...]:
    """The client certificates (DER) of all principals, for TLS. Raises as the store does."""
    names = store.snapshot(SERVER).names(ENROLLED)
    return tuple(der for der in (store.read(SERVER, ENROLLED, name) for name in names) if der is not None)


def _certificate(pem: str) -> tuple[bytes, bytes]:
    """A certificate's DER, and the SHA-256 of its SubjectPublicKeyInfo."""
    try:
        der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    except ValueError as error:
        raise MalformedError("client-certificate-malformed", "this is no PEM certificate") from error
    public = check_client_certificate(der).public_key()
    return der, hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _within(actor: Principal, other: Principal) -> bool:
    try:
        check_beyond(actor, other, removal=True)
    except DeniedError:
        return False
    return True


def _logged(principal: Principal) -> dict[str, Any]:
    return {name: value for name, value in describe(principal).items() if name != "created"}
