"""Who asks: principals by their tokens and client certificates, what they may do, and that they came, in the log."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kokon.errors import DeniedError, KokonError
from kokon.provisioning.access.bearer import DIGEST_SIZE, parse_token
from kokon.provisioning.access.principal import (
    Credential,
    Principal,
    authenticate_certificate,
    authenticate_token,
    check,
    check_current,
    check_somewhere,
    make_principal,
)
from kokon.provisioning.access.record import decode_principal
from kokon.provisioning.access.roles import Role
from kokon.provisioning.access.scope import EVERYTHING
from kokon.provisioning.database.values import Entry, Work
from kokon.provisioning.keys import SERVER

if TYPE_CHECKING:
    from kokon.provisioning.access.roles import Action
    from kokon.provisioning.core import Core

PRINCIPAL = "principal"
CERTIFICATE = "principal-certificate"
"""The kind whose names are SPKI digests in hex, and whose values are principals' ids."""
LOGIN_PERIOD = timedelta(minutes=15)
"""Somebody who comes again within this time is not logged in anew."""
_REMEMBERED = 4096
DEVELOPER = make_principal(
    id="developerdev",
    name="anybody",
    role=Role.OWNER,
    scopes=(EVERYTHING,),
    created=datetime(2026, 1, 1, tzinfo=UTC),
    expires=None,
    credential=Credential("token", bytes(DIGEST_SIZE)),
)
"""Who asks without a token where a server is open for development. No token leads to it: it is not in the store."""


class Callers:
    """Knows the principals of a server. Calls are safe from several threads."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._decoded: dict[str, tuple[bytes, Principal]] = {}
        self._seen: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    def identify(self, bearer: str | None, certificate: bytes | None, project: str) -> Principal:
        """Who that is, by token, else by the SHA-256 of the client certificate's SubjectPublicKeyInfo; as of now, also
        where other replicas write. Who is nobody costs the database nothing.

        Raises `DeniedError` (`admin-token`: neither was shown), `UntrustedError` (`principal-unknown`),
        `DeniedError` (`principal-expired`), `MalformedError` (`admin-token-malformed`), and as the store does.
        Refusals are logged.
        """
        try:
            principal = self._identify(bearer, certificate)
            if principal is not DEVELOPER and self._core.store.backend.shared:
                self._core.store.freshen(SERVER)  # another replica may have taken it away a moment ago
                principal = self._identify(bearer, certificate)
            check_current(principal, self._core.clock())
        except KokonError as error:
            self._note_refusal(SERVER, error, "")
            raise
        self._note_login(principal, project)
        return principal

    def _identify(self, bearer: str | None, certificate: bytes | None) -> Principal:
        if bearer is not None:
            token = parse_token(bearer)
            return authenticate_token(self.find(token.id), token)
        if certificate is None and self._core.demands.development:
            return DEVELOPER
        if certificate is not None:
            found = self._core.store.read(SERVER, CERTIFICATE, certificate.hex())
            return authenticate_certificate(self.find(found.decode()) if found else None, certificate)
        raise DeniedError(
            "admin-token",
            "the admin token is needed here",
            hint="the server keeps its token and address in admin.json in its state directory: name it with --admin",
        )

    def find(self, identity: str) -> Principal | None:
        """The principal with this id, or None."""
        meta = self._core.store.snapshot(SERVER).get(PRINCIPAL, identity)
        if meta is None:
            self._decoded.pop(identity, None)
            return None
        digest, principal = self._decoded.get(identity, (b"", None))
        if principal is None or digest != meta.digest:
            record = self._core.store.read(SERVER, PRINCIPAL, identity, meta.version)
            if record is None:
                return None
            principal = decode_principal(record)
            self._decoded[identity] = (meta.digest, principal)
        return principal

    def allow(self, principal: Principal, action: Action, project: str, path: str | None = None) -> None:
        """Nothing, if the principal may do that there. Raises as `access.principal.check`; refusals are logged."""
        try:
            check(principal, action, project, path, self._core.clock())
        except KokonError as error:
            self._note_refusal(project, error, principal.id)
            raise

    def allow_somewhere(self, principal: Principal, action: Action, project: str) -> None:
        """The same for lists, of which only what is in the scope is shown."""
        try:
            check_somewhere(principal, action, project, self._core.clock())
        except KokonError as error:
            self._note_refusal(project, error, principal.id)
            raise

    def _note_refusal(self, project: str, error: KokonError, by: str) -> None:
        self._core.counters.denial(error.code)
        details = {"code": error.code, "by": by, "found": str(error.found or "")[:200]}
        work = self._core.throttled(project, Entry("admin-denied", details), error.code)
        if work is not None:
            self._core.store.commit(work)

    def _note_login(self, principal: Principal, project: str) -> None:
        now, key = self._core.clock(), (principal.id, project)
        with self._lock:
            last = self._seen.get(key)
            if last is not None and last <= now < last + LOGIN_PERIOD:
                return
            self._seen[key] = now
            self._seen.move_to_end(key)
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        details = {"by": principal.id, "name": principal.name, "role": str(principal.role)}
        self._core.store.commit(Work(project, (Entry("admin-login", details),)))


def no_principal(identity: str) -> DeniedError:
    """There is nobody with this id."""
    return DeniedError("principal-not-found", "there is no principal with this id", found=identity[:64])
