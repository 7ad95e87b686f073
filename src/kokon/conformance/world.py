"""What the cases act on: one server, one chip, and what a run has already got: a handshake, a resource, a token.

A case that shows that something bad is refused asks for `attested()` or `resource()` first: a server that refuses
everything must not pass.
"""

from __future__ import annotations

import contextlib
import email.utils
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from kokon.conformance import tokens
from kokon.conformance.case import Skip, Violation
from kokon.conformance.connection import Answer, Broken, Client
from kokon.conformance.evidence import Attester
from kokon.conformance.keys import Public, TeeKey, make_key, unlock
from kokon.conformance.messages import (
    COOKIE,
    NEWEST,
    attestation,
    b64url,
    init_data,
    request,
    runtime_digest,
    selected_hash,
)
from kokon.conformance.options import Options

KBS: Final = "/kbs/v0"
DEFAULT_LIFETIME: Final = timedelta(minutes=5)
"""How long a session lasts that does not say so."""
DENY_ALL: Final = "package policy\n\ndefault allow = false\n"
_SECRET_SIZE: Final = 8
_UNSET: Any = object()


@dataclass(frozen=True, slots=True)
class Session:
    """A handshake after /auth: the cookie's value, the Challenge, the answer it came in, and when it ends."""

    version: str
    cookie: str = field(repr=False)
    nonce: str
    algorithm: str
    answer: Answer
    ends: datetime


@dataclass(frozen=True, slots=True)
class Attested:
    """A handshake that was granted: session, key, the message that was sent, the token. `opened` is the session as it
    was before: its cookie may be another."""

    session: Session
    key: TeeKey
    message: dict[str, Any]
    answer: Answer
    token: str = field(repr=False)
    opened: Session


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource that the suite may read; its value if that is known, and whether the suite wrote it."""

    path: str
    value: bytes | None = field(repr=False)
    own: bool


class World:
    """One run. `now` gives the time (aware)."""

    def __init__(self, options: Options, client: Client, attester: Attester, now: Callable[[], datetime]) -> None:
        self.options = options
        self.client = client
        self.attester = attester
        self.now = now
        self.mark = secrets.token_hex(6)
        """Names everything that this run makes on the server."""
        self._attested: Attested | Skip | None = None
        self._resource: Resource | Skip | Violation | None = None
        self._readable: Skip | bool | None = None
        self._secrets: set[str] = set()
        self._written: set[str] = set()
        self._keys: dict[str, TeeKey] = {}
        self._policy_changed = False
        self.secret(options.admin_token)

    # -- requests --------------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        cookie: str | None = None,
        bearer: str | None = None,
        kind: str | None = "application/json",
        chunked: bool = False,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> Answer:
        """The answer to a request; `path` is sent as it is, below the server's prefix."""
        sent = list(headers)
        if body is not None and kind is not None:
            sent.append(("Content-Type", kind))
        if cookie is not None:
            sent.append(("Cookie", f"{COOKIE}={cookie}"))
        if bearer is not None:
            sent.append(("Authorization", f"Bearer {bearer}"))
        return self.client.send(method, self.client.target.prefix + path, body=body, headers=sent, chunked=chunked)

    def post(self, path: str, value: Any, **options: Any) -> Answer:
        """The answer to a POST of JSON."""
        return self.call("POST", KBS + path, body=tokens.dump(value), **options)

    def admin(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/octet-stream"
    ) -> Answer:
        """The answer to a request with the admin token. Raises `Skip` without one."""
        if self.options.admin_token is None:
            raise Skip("no --admin-token")
        return self.call(method, KBS + path, body=body, kind=kind, bearer=self.options.admin_token)

    def get(self, path: str, cookie: str | None = None, bearer: str | None = None) -> Answer:
        """The answer to a request for the resource at `path`."""
        return self.call("GET", f"{KBS}/resource/{path}", cookie=cookie, bearer=bearer)

    # -- handshakes ------------------------------------------------------------------------------------------------

    def auth(self, version: str = NEWEST, tee: str | None = None) -> Session:
        """A new handshake. Raises `Violation` if the server refuses or answers out of form."""
        answer = self.post("/auth", request(version, tee or self.attester.tee))
        if answer.status != 200:
            raise Violation(f"/auth for version {version}: {answer.summary(detail=True)}")
        challenge = answer.json()
        nonce = challenge.get("nonce") if isinstance(challenge, dict) else None
        if not isinstance(nonce, str):
            raise Violation("the Challenge has no nonce")
        cookie, ends = self.cookie_of(answer)
        return Session(version, cookie, nonce, selected_hash(challenge.get("extra-params")), answer, ends)

    def cookie_of(self, answer: Answer) -> tuple[str, datetime]:
        """Value and end of the session cookie in `answer`. Raises `Violation`."""
        for text in answer.all("set-cookie"):
            pair, *rest = text.split(";")
            name, _, value = pair.strip().partition("=")
            if name == COOKIE and value:
                self.secret(value)
                return value, self.now() + lifetime(rest, self.now())
        raise Violation(f"no cookie {COOKIE}")

    def digest(self, session: Session, key: Public, additional: str = "", nonce: str | None = None) -> bytes:
        """What evidence for this session and key is bound to."""
        said = session.nonce if nonce is None else nonce
        return runtime_digest(session.version, key.jwk, said, additional, session.algorithm)

    def message(
        self,
        session: Session,
        key: Public,
        *,
        nonce: str | None = None,
        jwk: Any = _UNSET,
        evidence: Any = _UNSET,
        additional: str = "",
        document: Any = _UNSET,
    ) -> dict[str, Any]:
        """The Attestation of a good guest, but for what is given."""
        said = session.nonce if nonce is None else nonce
        if evidence is _UNSET:
            evidence = self.attester.evidence(self.digest(session, key, additional, said))
        if document is _UNSET:
            document = init_data(self.options.init_data) if self.attester.binds_init_data else None
        return attestation(session.version, said, key.jwk if jwk is _UNSET else jwk, evidence, additional, document)

    def attest(self, session: Session, message: Any, cookie: str | None = None) -> Answer:
        """The answer to an Attestation."""
        return self.post("/attest", message, cookie=session.cookie if cookie is None else cookie)

    def followed(self, session: Session, answer: Answer) -> Session:
        """The session as a client with a cookie jar goes on with it: /attest may set a new value."""
        if not any(text.strip().startswith(f"{COOKIE}=") for text in answer.all("set-cookie")):
            return session
        cookie, ends = self.cookie_of(answer)
        return replace(session, cookie=cookie, ends=ends)

    def handshake(self, version: str = NEWEST, key: TeeKey | None = None, **changes: Any) -> Attested:
        """A whole handshake. Raises `Violation` if it is refused."""
        key = key or self.key("RSA" if version == "0.1.1" else "P-256")
        session = self.auth(version)
        message = self.message(session, key, **changes)
        answer = self.attest(session, message)
        if answer.status != 200:
            raise Violation(f"/attest with version {version}: {answer.summary(detail=True)}")
        value = answer.json()
        token = value.get("token") if isinstance(value, dict) else None
        if not isinstance(token, str) or not token:
            raise Violation("the answer to /attest has no token")
        self.secret(token)
        return Attested(self.followed(session, answer), key, message, answer, token, session)

    def attested(self) -> Attested:
        """A granted handshake, the same each time. Raises `Skip` if the server grants none."""
        if self._attested is None:
            try:
                self._attested = self.handshake()
            except (Violation, Broken, ValueError, TypeError) as error:
                self._attested = Skip(f"no attestation is granted: {error}")
        if isinstance(self._attested, Skip):
            raise self._attested
        return self._attested

    def token(self) -> tokens.Token:
        """The granted token, taken apart. Raises `Skip` if there is none or it cannot be."""
        try:
            return tokens.read(self.attested().token)
        except Violation as error:
            raise Skip(f"the token cannot be read: {error}") from error

    def key(self, kind: str) -> TeeKey:
        """The run's key of that kind: RSA keys take their time."""
        if kind not in self._keys:
            self._keys[kind] = make_key(kind)
        return self._keys[kind]

    # -- resources -------------------------------------------------------------------------------------------------

    def own_path(self, name: str) -> str:
        """A resource name that only this run uses."""
        return f"kokon-conformance/{self.mark}/{name}"

    def resource(self) -> Resource:
        """The resource that the suite may read, made if need be.

        Raises `Skip` if the suite was given none and may make none, `Violation` if it cannot be made.
        """
        if self._resource is None:
            try:
                self._resource = self._make_resource()
            except (Skip, Violation) as error:
                self._resource = error
            except Broken as error:
                self._resource = Violation(str(error))
        if isinstance(self._resource, Exception):
            raise self._resource
        return self._resource

    def _make_resource(self) -> Resource:
        given = self.options.resource
        if given is not None and (self.options.admin_token is None or self.options.value is not None):
            return Resource(given, self.options.value, own=False)
        if self.options.admin_token is None:
            raise Skip("nothing to read: give --admin-token or --resource")
        path = given or self.own_path("value")
        if self.options.change_policies:
            with contextlib.suppress(Violation):  # a case of its own says so
                self.set_policy(allow_only(path))
        value = secrets.token_bytes(40) + b"\0\r\n\xff"
        self.write(path, value)
        return Resource(path, value, own=True)

    def write(self, path: str, value: bytes) -> None:
        """Set a resource as an administrator. Raises `Violation` if that fails."""
        self.secret(b64url(value))
        self._written.add(path)
        answer = self.admin("POST", f"/resource/{path}", value)
        if not 200 <= answer.status < 300:
            raise Violation(f"setting a resource: {answer.summary(detail=True)}")

    def wrote(self, path: str, *answers: Answer) -> None:
        """Remember to delete what a request to `path`, below the prefix, should not have been able to write."""
        if any(200 <= answer.status < 300 for answer in answers):
            self._written.add(path.removeprefix(f"{KBS}/resource/"))

    def delete(self, path: str) -> Answer:
        """The answer to deleting a resource as an administrator."""
        answer = self.admin("DELETE", f"/resource/{path}")
        if 200 <= answer.status < 300:
            self._written.discard(path)
        return answer

    def release(self, attested: Attested, *, bearer: bool = False) -> dict[str, Any]:
        """The encrypted resource for an attested guest, with its value checked. Raises `Violation`."""
        resource = self.resource()
        answer = self.get(resource.path, *((None, attested.token) if bearer else (attested.session.cookie, None)))
        if answer.status != 200:
            raise Violation(f"the resource is not released: {answer.summary(detail=True)}")
        message = answer.json()
        if not isinstance(message, dict):
            raise Violation("the answer is not a JWE in JSON")
        found = unlock(message, attested.key)
        if resource.value is not None and found != resource.value:
            raise Violation("another value than the one that was set")
        return message

    def readable(self) -> Resource:
        """The resource, which an attested guest is really given. Raises `Skip`."""
        if self._readable is None:
            try:
                self.release(self.attested())
                self._readable = True
            except (Violation, Broken, Skip) as error:
                self._readable = Skip(f"no resource can be read: {error}")
        if isinstance(self._readable, Skip):
            raise self._readable
        return self.resource()

    # -- policies --------------------------------------------------------------------------------------------------

    def may_change_policies(self) -> None:
        """Raises `Skip` unless the suite may."""
        if self.options.admin_token is None or not self.options.change_policies:
            raise Skip("no --change-policies")

    def post_policy(self, text: str) -> Answer:
        """The answer to setting the resource policy. Raises `Skip` unless the suite may."""
        self.may_change_policies()
        body = tokens.dump({"policy": b64url(text.encode())})
        answer = self.admin("POST", "/resource-policy", body, "application/json")
        self._policy_changed = self._policy_changed or answer.status < 300
        return answer

    def set_policy(self, text: str) -> None:
        """Set the resource policy. Raises `Violation` if that fails."""
        answer = self.post_policy(text)
        if not 200 <= answer.status < 300:
            raise Violation(f"setting the resource policy: {answer.summary(detail=True)}")

    # -- the end ---------------------------------------------------------------------------------------------------

    def secret(self, text: str | None) -> None:
        """Remember something that must not be printed."""
        if text is not None and len(text) >= _SECRET_SIZE:
            self._secrets.add(text)

    def scrub(self, text: str) -> str:
        """`text` without any secret of this run, should the server have said one."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "[…]")
        return text

    def close(self) -> list[str]:
        """Delete what the run made and put the policy back; what could not be done, or should be known."""
        remarks = []
        for path in sorted(self._written):
            try:
                answer = self.delete(path)
            except (Broken, Skip) as error:
                remarks.append(f"the resource {path} may still be there: {error}")
                continue
            if not 200 <= answer.status < 300 and answer.status != 404:
                remarks.append(f"the resource {path} may still be there: {answer.summary()}")
        if self._policy_changed:
            remarks.append(self._restore())
        return [self.scrub(remark) for remark in remarks]

    def _restore(self) -> str:
        after = self.options.policy_after
        try:
            self.set_policy(DENY_ALL if after is None else after)
        except (Violation, Broken) as error:
            return f"the resource policy is one of the suite's: {error}"
        return "the resource policy now denies everything" if after is None else "the resource policy was put back"


def allow_only(path: str) -> str:
    """A resource policy that releases one resource to whoever has a token."""
    segments = ", ".join(f'"{segment}"' for segment in path.split("/"))
    return (
        "package policy\n\nimport rego.v1\n\ndefault allow = false\n\n"
        f'allow if {{\n\tdata.plugin == "resource"\n\tdata["resource-path"] == [{segments}]\n}}\n'
    )


def lifetime(attributes: list[str], now: datetime) -> timedelta:
    """How long a cookie with these attributes lasts: Max-Age, else Expires, else five minutes."""
    found = {name.strip().lower(): value.strip() for name, _, value in (part.partition("=") for part in attributes)}
    age = found.get("max-age", "")
    if re.fullmatch(r"-?[0-9]{1,9}", age):
        return timedelta(seconds=int(age))
    try:
        expires = email.utils.parsedate_to_datetime(found.get("expires", ""))
    except (ValueError, TypeError, IndexError):
        return DEFAULT_LIFETIME
    return expires - now if expires.tzinfo is not None else DEFAULT_LIFETIME
