"""Getting something small from a vendor's service over HTTP, whatever the service does.

TLS always, except to this machine's own loopback; no redirect to another host; the size of an answer is bounded while
it streams in, and the time for everything together; what may pass is tried again, after growing pauses with jitter
and never before the service's own Retry-After (RFC 9110, section 10.2.3).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import SplitResult, urljoin, urlsplit

from kokon.errors import KokonError, UnreachableError, UsageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    import httpx2

REDIRECTS: Final = 3
HEADERS_LIMIT: Final = 64 << 10
_REDIRECTED: Final = (301, 302, 303, 307, 308)
_ABSENT: Final = (400, 404, 410, 461, 462)
"""How services say that they have no such thing: 400 for parameters that fit no chip, 461 and 462 by Intel's PCCS."""
_REFUSED: Final = (401, 403)
_LIMITED: Final = (429, 503)
_JITTER = random.SystemRandom().random


class Gate(Protocol):
    """Lets one request through at a time: `kokon.endorsements.limiter`."""

    def enter(self) -> None:
        """Return when the next request may be sent."""

    def refused(self, seconds: float) -> None:
        """The service wants nobody to ask for so many seconds."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a service may take, in seconds: to connect, between two pieces of an answer, and for everything
    together, all `attempts` and the pauses between them. `pause` is the first of those; each further one may be twice
    as long, up to `longest`."""

    connect: float = 10.0
    read: float = 15.0
    total: float = 60.0
    attempts: int = 4
    pause: float = 0.5
    longest: float = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of an answer with status 200, and its headers by lower-case name."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Again:
    """An attempt that failed and may be repeated: how, and how long the service wants to be left alone."""

    error: KokonError
    wait: float | None = None


def check_url(url: str) -> str:
    """The base URL of a service without a slash at its end: https, or http to this machine's loopback.

    Raises `UsageError` (`endorsement-url`).
    """
    try:
        parts = urlsplit(url)
        allowed = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        good = allowed and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good, parts = False, urlsplit("")
    if not good or parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            "endorsement-url",
            "not the URL of an endorsement service",
            expected="https://host[:port][/path], or http:// to this machine itself",
            found=url[:200],
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """True for the names and addresses by which a machine reaches itself."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Getter:
    """Fetches answers; safe to use from several threads. `clock` is monotonic, in seconds; `jitter` gives 0 to 1.

    TLS trusts what this machine's system store trusts (SSL_CERT_FILE to change it); proxies come from the
    environment. Raises `UnreachableError`: `endorsement-service-unreachable`, `endorsement-rate-limited`,
    `endorsement-not-found`, `endorsement-service-refused`, `endorsement-redirected`, `endorsement-answer-malformed`.
    """

    def __init__(
        self,
        patience: Patience = Patience(),
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = _JITTER,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._patience = patience
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._tls = tls
        self._lock = threading.Lock()

    def get(
        self, url: str, *, limit: int, headers: Mapping[str, str] | None = None, gate: Gate | None = None
    ) -> Answer:
        """The answer to GET, of at most `limit` bytes. Time spent waiting at `gate` does not count as the service's."""
        deadline = self._clock() + self._patience.total
        attempt = 0
        while True:
            if gate is not None:
                before = self._clock()
                gate.enter()
                deadline += self._clock() - before
            outcome = self._follow(url, limit, headers or {}, deadline)
            if isinstance(outcome, Answer):
                return outcome
            attempt += 1
            pause = self._pause(attempt, outcome.wait)
            if gate is not None and outcome.wait is not None:
                gate.refused(pause)
            if attempt >= self._patience.attempts or self._clock() + pause >= deadline:
                raise outcome.error
            if gate is None or outcome.wait is None:
                self._sleep(pause)

    def _pause(self, attempt: int, wanted: float | None) -> float:
        longest = min(self._patience.pause * 2.0 ** (attempt - 1), self._patience.longest)
        return max(wanted or 0.0, longest * (0.5 + self._jitter() / 2))

    def _follow(self, url: str, limit: int, headers: Mapping[str, str], deadline: float) -> Answer | _Again:
        here = url
        for _ in range(REDIRECTS + 1):
            outcome = self._attempt(here, limit, headers, deadline)
            if not isinstance(outcome, str):
                return outcome
            here = _same_host(here, outcome)
        raise UnreachableError(
            "endorsement-redirected", f"{_host(url)} redirects in circles", expected=f"<= {REDIRECTS} redirects"
        )

    def _attempt(self, url: str, limit: int, headers: Mapping[str, str], deadline: float) -> Answer | _Again | str:
        """An answer, a failure that may pass, or the address of a redirect."""
        import httpx2

        try:
            with self._open(url, headers, deadline) as response:
                if response.status_code in _REDIRECTED:
                    return str(response.headers.get("location", ""))
                failure = _failure(response, url)
                if failure is not None:
                    return failure
                return Answer(self._body(response, url, limit, deadline), _headers(response, url))
        except (httpx2.HTTPError, httpx2.StreamError, OSError, ValueError) as error:
            return _Again(_unreachable(url, error, self._patience.total if self._clock() >= deadline else None))

    @contextmanager
    def _open(self, url: str, headers: Mapping[str, str], deadline: float) -> Iterator[httpx2.Response]:
        import httpx2

        left = max(deadline - self._clock(), 0.001)
        timeout = httpx2.Timeout(min(self._patience.read, left), connect=min(self._patience.connect, left))
        fields = {"User-Agent": "kokon", "Accept": "*/*", "Accept-Encoding": "identity", **headers}
        local = is_loopback(urlsplit(url).hostname or "")
        verify = False if url.startswith("http:") else self._context()
        with httpx2.Client(verify=verify, timeout=timeout, trust_env=not local, follow_redirects=False) as client:
            # A peer that drips one byte of a header now and then never runs into a timeout of the socket.
            guard = threading.Timer(left, client.close)
            guard.daemon = True
            guard.start()
            try:
                with client.stream("GET", url, headers=fields) as response:
                    yield response
            finally:
                guard.cancel()

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                import ssl

                self._tls = ssl.create_default_context()
            return self._tls

    def _body(self, response: httpx2.Response, url: str, limit: int, deadline: float) -> bytes:
        if response.headers.get("content-encoding", "identity") not in ("identity", ""):
            raise _malformed(url, "not compressed", response.headers["content-encoding"])
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > limit:
                raise _malformed(url, f"<= {limit} bytes", "more")
            if self._clock() >= deadline:
                raise TimeoutError("the answer did not come to its end")
        if not body:
            raise _malformed(url, "something", "an empty answer")
        return bytes(body)


def _failure(response: httpx2.Response, url: str) -> _Again | None:
    status = response.status_code
    if status == 200:
        return None
    host = _host(url)
    if status in _LIMITED and (status == 429 or "retry-after" in response.headers):
        wait = retry_after(response.headers.get("retry-after", ""))
        return _Again(
            UnreachableError(
                "endorsement-rate-limited",
                f"{host} wants fewer requests",
                found=f"HTTP {status}" + (f", again in {wait:.0f} s" if wait else ""),
                hint="try again later, or give the endorsements as files: kokon endorsements bundle, on any machine",
            ),
            wait,
        )
    if status >= 500:
        return _Again(_unreachable(url, f"HTTP {status}"))
    if status in _ABSENT:
        raise UnreachableError(
            "endorsement-not-found",
            f"{host} does not have it",
            found=f"HTTP {status}",
            hint="the chip, its firmware or the platform is not known to the vendor's service",
        )
    if status in _REFUSED:
        raise UnreachableError(
            "endorsement-service-refused",
            f"{host} refuses the request",
            found=f"HTTP {status}",
            hint="the service wants a subscription key or a login",
        )
    raise _malformed(url, "HTTP 200", f"HTTP {status}")


def retry_after(text: str) -> float:
    """Seconds from a Retry-After header, a number or a date; 0 if it says neither."""
    if text.strip().isascii() and text.strip().isdigit():
        return float(min(int(text.strip()[:9]), 86400))
    try:
        moment = parsedate_to_datetime(text)
        return min(max(moment.timestamp() - time.time(), 0.0), 86400.0)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _headers(response: httpx2.Response, url: str) -> dict[str, str]:
    found = {name.lower(): value for name, value in response.headers.items()}
    if sum(len(name) + len(value) for name, value in found.items()) > HEADERS_LIMIT:
        raise _malformed(url, f"<= {HEADERS_LIMIT} bytes of headers", "more")
    return found


def _same_host(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        same = _origin(urlsplit(url)) == _origin(urlsplit(target))
    except ValueError:
        same = False
    if not location or not same:
        raise UnreachableError(
            "endorsement-redirected",
            f"{_host(url)} redirects to another place",
            expected="an answer from the host that was asked",
            found=location[:200],
        )
    return target


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _malformed(url: str, expected: str, found: str) -> UnreachableError:
    return UnreachableError(
        "endorsement-answer-malformed",
        f"{_host(url)} gives an answer that makes no sense",
        expected=expected,
        found=found,
        hint="is that the right service?",
    )


def _unreachable(url: str, cause: object, late: float | None = None) -> UnreachableError:
    return UnreachableError(
        "endorsement-service-unreachable",
        f"{_host(url)} does not answer" + ("" if late is None else f" in {late:.0f} s"),
        found=str(cause) or type(cause).__name__,
        hint="check the network, or give the endorsements as files: kokon endorsements bundle, on a connected machine",
    )
