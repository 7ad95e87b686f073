"""Answers to a registry that wants a login: basic authentication, or a token from the service that it names.

Protocol: distribution's token specification (docs/spec/auth/token.md, oauth.md). Tokens live in memory; one that
expired is renewed once for a request. Safe for use by several threads.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2

from kokon.errors import DeniedError, MalformedError, UnreachableError, UntrustedError
from kokon.wire import Fields, b64, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from kokon.image.remote.challenge import Challenge
    from kokon.image.remote.login import Login

TOKEN_LIMIT = 1 << 18


@dataclass(frozen=True, slots=True)
class Access:
    """What a request wants: its repository, whether it writes, and another repository that it reads from."""

    repository: str = ""
    write: bool = False
    also: str = ""

    def scopes(self) -> tuple[str, ...]:
        """The scopes of the token specification, to be asked for beside those that the registry names."""
        own = f"repository:{self.repository}:pull" + (",push" if self.write else "")
        other = (f"repository:{self.also}:pull",) if self.also else ()
        return ((own,) if self.repository else ()) + other


class Authorizer:
    """The login of one registry, at `scheme://host`; `find` looks for it when the registry asks for the first time."""

    def __init__(self, client: httpx2.Client, scheme: str, find: Callable[[str], Login | None]) -> None:
        self._client = client
        self._scheme = scheme
        self._find = find
        self._headers: dict[Access, str] = {}
        self._lock = threading.Lock()

    def header(self, access: Access) -> str | None:
        """The Authorization header to send, if there is one yet."""
        return self._headers.get(access)

    def answer(self, challenges: tuple[Challenge, ...], access: Access, used: str | None) -> bool:
        """Get a new header after one (`used`, maybe none) was refused; False if there is nothing new to try.

        Raises `UntrustedError` (`token-service-downgraded`), `UnreachableError` (`token-service-failed`),
        `DeniedError` (`registry-denied`), and what `find_login` raises.
        """
        with self._lock:
            if self._headers.get(access) != used:
                return True  # another thread was faster
            login = self._find(access.repository)
            for challenge in challenges:
                if challenge.scheme == "bearer" and challenge.realm:
                    self._headers[access] = "Bearer " + self._token(challenge, access, login)
                    return True
                if challenge.scheme == "basic" and login is not None and login.user:
                    fresh = basic(login)
                    self._headers[access] = fresh
                    return fresh != used
            return False

    def _token(self, challenge: Challenge, access: Access, login: Login | None) -> str:
        try:
            realm = httpx2.URL(challenge.realm)
        except httpx2.InvalidURL as error:
            raise UnreachableError("token-service-failed", "the registry names no token service") from error
        if realm.scheme != "https" and not (realm.scheme == self._scheme and realm.scheme == "http"):
            raise UntrustedError(
                "token-service-downgraded",
                "the registry wants the login sent without TLS",
                expected="an https address",
                found=f"{realm.scheme}://{realm.host}",
            )
        try:
            return _parse_token(self._ask(realm, challenge, access, login))
        except httpx2.TransportError as error:
            raise UnreachableError(
                "token-service-failed",
                f"the token service {realm.host} cannot be reached",
                found=type(error).__name__,
            ) from error

    def _ask(self, realm: httpx2.URL, challenge: Challenge, access: Access, login: Login | None) -> bytes:
        """The token service's answer. A redirect is not followed: the login stays where it was sent."""
        named = challenge.members.get("scope", "").split()
        scopes = list(dict.fromkeys([*named, *access.scopes()]))
        service = challenge.members.get("service", "")
        if login is not None and login.identity:
            form = {"grant_type": "refresh_token", "service": service, "client_id": "kokon"}
            body = str(httpx2.QueryParams({**form, "scope": " ".join(scopes), "refresh_token": login.identity}))
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            request = self._client.build_request("POST", realm, content=body.encode(), headers=headers)
        else:
            url = realm.copy_merge_params({"service": service}) if service else realm
            for scope in scopes:
                url = url.copy_add_param("scope", scope)
            headers = {} if login is None else {"Authorization": basic(login)}
            request = self._client.build_request("GET", url, headers=headers)
        response = self._client.send(request, stream=True, auth=None, follow_redirects=False)
        try:
            return _answer(response, realm.host)
        finally:
            response.close()


def basic(login: Login) -> str:
    """The header of basic authentication (RFC 7617)."""
    return "Basic " + b64(f"{login.user}:{login.password}".encode())


def _answer(response: httpx2.Response, host: str) -> bytes:
    if response.status_code in (401, 403):
        raise DeniedError(
            "registry-denied",
            f"the token service {host} refuses the login",
            found=f"HTTP {response.status_code}",
            hint="give a user name and password that may do this",
        )
    if response.status_code != 200:
        raise UnreachableError(
            "token-service-failed", f"the token service {host} fails", found=f"HTTP {response.status_code}"
        )
    data = bytearray()
    for chunk in (response.content,) if response.is_stream_consumed else response.iter_raw():
        data += chunk
        if len(data) > TOKEN_LIMIT:
            raise UnreachableError("token-service-failed", f"the token service {host} answers too much")
    return bytes(data)


def _parse_token(data: bytes) -> str:
    """The token in the service's answer, which may name it in two ways."""
    try:
        fields = Fields(parse_json(data, limit=TOKEN_LIMIT, what="token"), "token")
        for name in ("token", "access_token"):
            token = fields.text(name, default="", limit=TOKEN_LIMIT)
            if token and token.isascii() and token.isprintable():
                return token
    except MalformedError:
        pass  # said below, without what was received
    raise UnreachableError("token-service-failed", "the token service answers no token")
