"""HTTP with one registry: logins, redirects, retries, limits. Safe for use by several threads.

Distribution-spec 1.1 says which statuses mean what; RFC 9110 has redirects (15.4) and Retry-After (10.2.3). A login
goes to the registry's own origin only: once a redirect has left it, nothing on that way gets the login any more.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2

from kokon.errors import DeniedError, UnreachableError, UntrustedError
from kokon.image.remote.authorize import Access, Authorizer
from kokon.image.remote.challenge import parse_challenges
from kokon.image.remote.settings import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kokon.image.remote.login import Login
    from kokon.image.remote.settings import Patience

REDIRECTS = 5
ERROR_LIMIT = 1 << 16
PASSING = (408, 425, 429, 500, 502, 503, 504)
_BROKEN = (httpx2.ConnectError, httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError)
_ANY = Access()


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: `content` in parts, which can be sent again, and what it needs access to."""

    method: str
    url: str | httpx2.URL
    access: Access = _ANY
    headers: Mapping[str, str] | None = None
    content: Sequence[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, with the request's last address."""

    status: int
    headers: httpx2.Headers
    body: bytes
    url: httpx2.URL


class Session:
    """Requests to the registry at `url`. `find(repository)` gives the login when the registry asks for one.

    Methods raise `UnreachableError` (`registry-unreachable`, `registry-too-slow`), `UntrustedError`
    (`redirect-downgraded`), and what `Authorizer.answer` raises.
    """

    def __init__(
        self, url: str, client: httpx2.Client, find: Callable[[str], Login | None], patience: Patience
    ) -> None:
        self.url = url.rstrip("/")
        self.patience = patience
        self._client = client
        self._origin = origin(httpx2.URL(self.url))
        self._authorizer = Authorizer(client, self._origin[0], find)

    @property
    def secure(self) -> bool:
        """Whether the registry is spoken to over TLS."""
        return self._origin[0] == "https"

    def exchange(self, request: Request, limit: int = ERROR_LIMIT) -> Reply:
        """Send and read all of the answer; again, after a while, where the failure may pass.

        An answer longer than `limit` bytes is refused before it is read if it says its length:
        `UnreachableError` (`registry-error`).
        """
        attempt = 1
        while True:
            try:
                with self.open(request) as response:
                    passing = response.status_code in PASSING
                    asked = response.headers.get("Retry-After")
                    if not passing or attempt >= self.patience.attempts:
                        body = b"" if request.method == "HEAD" else self._body(response, limit)
                        return Reply(response.status_code, response.headers, body, response.url)
            except UnreachableError as error:
                if not broke(error) or attempt >= self.patience.attempts:
                    raise
                asked = None
            self.patience.sleep(self.patience.pause(attempt, asked))
            attempt += 1

    @contextmanager
    def open(self, request: Request) -> Iterator[httpx2.Response]:
        """Send once and give the answer before its body is read."""
        response: httpx2.Response | None = None
        try:
            response = self._send(request)
            yield response
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise UnreachableError(
                "registry-unreachable",
                f"the registry {self.url} cannot be reached",
                found=str(error) or type(error).__name__,
                hint="check the address and that the registry runs",
            ) from error
        finally:
            if response is not None:
                response.close()

    def _send(self, request: Request) -> httpx2.Response:
        url, renewed, left = httpx2.URL(request.url), False, False
        for _ in range(REDIRECTS + 2):
            left = left or origin(url) != self._origin
            used = None if left else self._authorizer.header(request.access)
            response = self._once(request, url, used, left=left)
            if response.status_code == 401 and not left and not renewed:
                renewed = True
                challenges = parse_challenges(response.headers.get_list("WWW-Authenticate"))
                if self._authorizer.answer(challenges, request.access, used):
                    response.close()
                    continue
            elsewhere = self._redirect(request, response)
            if elsewhere is None:
                return response
            response.close()
            url = elsewhere
        raise UnreachableError("registry-unreachable", f"the registry {self.url} redirects without end")

    def _once(self, request: Request, url: httpx2.URL, authorization: str | None, *, left: bool) -> httpx2.Response:
        headers = {"Accept-Encoding": "identity", **(request.headers or {})}
        if authorization:
            headers["Authorization"] = authorization
        content = None
        if request.content is not None:
            headers["Content-Length"] = str(sum(map(len, request.content)))
            content = iter(request.content)
        built = self._client.build_request(request.method, url, headers=headers, content=content)
        auth = None if left or authorization else httpx2.USE_CLIENT_DEFAULT
        return self._client.send(built, stream=True, auth=auth, follow_redirects=False)

    def _redirect(self, request: Request, response: httpx2.Response) -> httpx2.URL | None:
        """Where the request goes on; other methods than GET and HEAD follow only where they stay what they are."""
        status, location = response.status_code, response.headers.get("Location")
        follow = status in (307, 308) or (status in (301, 302, 303) and request.method in ("GET", "HEAD"))
        if not follow or not location:
            return None
        return self.stay_safe(response.url.join(location), "redirect-downgraded")

    def stay_safe(self, url: httpx2.URL, code: str) -> httpx2.URL:
        """`url` itself unless it has less protection than the registry, else `UntrustedError` with `code`."""
        if url.scheme == "https" or (url.scheme == "http" and not self.secure):
            return url
        raise UntrustedError(
            code,
            f"the registry {self.url} leads away from TLS",
            expected="an https address",
            found=f"{url.scheme}://{url.host}",
        )

    def _body(self, response: httpx2.Response, limit: int) -> bytes:
        said = response.headers.get("Content-Length", "")
        if said.isdigit() and int(said) > limit:
            raise self._too_large(limit, said)
        data, pace = bytearray(), Pace(self.patience)
        for chunk in raw(response):
            data += chunk
            pace.took(len(chunk))
            if len(data) > limit:
                raise self._too_large(limit, f"> {limit}")
        return bytes(data)

    def _too_large(self, limit: int, found: str) -> UnreachableError:
        return UnreachableError(
            "registry-error",
            f"the answer of the registry {self.url} is too large",
            expected=f"<= {limit} bytes",
            found=f"{found} bytes",
        )

    def expect(self, status: int, where: str, *statuses: int) -> None:
        """Raises `DeniedError` (`registry-denied`), `UnreachableError` (`registry-error`) unless `status` is right."""
        if status in (401, 403):
            raise DeniedError(
                "registry-denied",
                f"the registry {self.url} refuses",
                found=f"HTTP {status}",
                hint="log in (docker login, podman login), or give a user name and password that may do this",
            )
        if status not in statuses:
            raise UnreachableError(
                "registry-error",
                f"the registry {self.url} fails",
                expected=f"HTTP {statuses[0]}",
                found=f"HTTP {status} for {where}",
            )


def raw(response: httpx2.Response) -> Iterator[bytes]:
    """The body as it was sent; a transport in memory may have read it already."""
    return iter((response.content,)) if response.is_stream_consumed else response.iter_raw()


def broke(error: UnreachableError) -> bool:
    """Whether the connection broke or was refused, so that a second attempt may help."""
    return isinstance(error.__cause__, _BROKEN)


def origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    """Scheme, host, port (RFC 6454, 4)."""
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
