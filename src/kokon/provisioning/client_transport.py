"""How the admin interface is reached: one connection, its certificate pinned, and what the server refuses as errors.

[machine's edge: sockets, files]
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from kokon.errors import (
    DeniedError,
    HostError,
    InternalError,
    KokonError,
    MalformedError,
    StaleError,
    UnreachableError,
    UntrustedError,
    UsageError,
)
from kokon.provisioning.access.project import DEFAULT, check_project
from kokon.provisioning.tls import client_context
from kokon.wire import parse_json

ANSWER_LIMIT = 80 << 20
"""Bytes of one answer: a page of the log at its largest."""
TIMEOUT = 30.0
_PROJECT = re.compile(r"(.*?)/p/([a-z0-9-]+)/?", re.DOTALL)
_KINDS: Mapping[str, type[KokonError]] = {
    kind.kind: kind
    for kind in (
        DeniedError,
        HostError,
        InternalError,
        MalformedError,
        StaleError,
        UnreachableError,
        UntrustedError,
        UsageError,
    )
}


@dataclass(frozen=True, slots=True)
class AdminAccess:
    """How to reach the admin interface: URL (with `/p/NAME` at its end: of that project), admin token, the server's
    certificate (PEM); instead of a token, "", the files of a client certificate and its key (PEM)."""

    url: str
    token: str = field(repr=False)
    certificate: str
    client_certificate: Path | None = None
    client_key: Path | None = None

    @property
    def root(self) -> str:
        """The URL of the server itself."""
        match = _PROJECT.fullmatch(self.url)
        return match[1] if match else self.url.rstrip("/")

    @property
    def project(self) -> str:
        """The project that the URL is of."""
        match = _PROJECT.fullmatch(self.url)
        return match[2] if match else DEFAULT

    def of_project(self, name: str) -> AdminAccess:
        """The same server's project `name`. Raises `MalformedError` (`project-name`)."""
        return replace(self, url=self.root if name == DEFAULT else f"{self.root}/p/{check_project(name)}")


class Transport:
    """One connection to the admin interface; close it or use it in a `with` block.

    What the server refuses is raised as the server's own error, code and all. Besides: `UnreachableError`
    (`provisioning-unreachable`), `UntrustedError` (`provisioning-certificate`), `MalformedError`
    (`provisioning-answer`). Making one raises `MalformedError` (`certificate-malformed`), `UsageError`
    (`client-certificate`).
    """

    def __init__(self, access: AdminAccess, timeout: float = TIMEOUT) -> None:
        self.access = access
        self._http = httpx2.Client(
            headers={"Authorization": f"Bearer {access.token}"} if access.token else {},
            verify=_context(access),
            timeout=timeout,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    def call(self, method: str, path: str, *, server: bool = False, **options: Any) -> dict[str, Any]:
        """A JSON object from below the project's URL, or the server's own if `server`."""
        with self._asked(method, path, server=server, **options) as answer:
            data = _bounded(answer)
        value = parse_json(data, limit=ANSWER_LIMIT, what="the server's answer")
        if not isinstance(value, dict):
            raise MalformedError("provisioning-answer", "the server's answer is not an object")
        return value

    def post(self, path: str, content: bytes) -> None:
        """Send a body to where the answer is empty (the key broker's own interface)."""
        with self._asked("POST", path, server=False, content=content) as answer:
            _bounded(answer)

    def data(self, path: str, *, server: bool = False) -> bytes:
        """The bytes at `path`, of any kind."""
        with self._asked("GET", path, server=server) as answer:
            return _bounded(answer)

    def stream(self, path: str, *, server: bool = False) -> Iterator[bytes]:
        """The bytes at `path`, piece by piece, without a limit."""
        with self._asked("GET", path, server=server) as answer:
            yield from answer.iter_bytes()

    def _asked(self, method: str, path: str, *, server: bool, **options: Any) -> _Answered:
        base = self.access.root if server else self.access.url.rstrip("/")
        return _Answered(self._http.stream(method, base + path, **options), base)


class _Answered:
    """An answer that is no refusal, while the context lasts; what goes wrong in it is an error of ours."""

    def __init__(self, context: Any, url: str) -> None:
        self._context = context
        self._url = url

    def __enter__(self) -> httpx2.Response:
        try:
            answer: httpx2.Response = self._context.__enter__()
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise unreachable(error, self._url) from error
        try:
            if answer.is_success:
                return answer
            raise _remote(_bounded(answer), answer)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)
        if isinstance(error, httpx2.HTTPError):
            raise unreachable(error, self._url) from error


def _context(access: AdminAccess) -> ssl.SSLContext:
    context = client_context(access.certificate)
    if access.client_certificate is not None:
        try:
            # A password would be asked for at the terminal, in the middle of whatever: there is none.
            context.load_cert_chain(access.client_certificate, access.client_key, password=lambda: b"")
        except (OSError, ValueError) as error:
            raise UsageError(
                "client-certificate",
                f"cannot use the client certificate {access.client_certificate} with its key",
                found=getattr(error, "strerror", None) or type(error).__name__,
                hint="both must be PEM files, and the key without a passphrase",
            ) from error
    return context


def _bounded(answer: httpx2.Response) -> bytes:
    data = bytearray()
    for piece in answer.iter_bytes():
        data += piece
        if len(data) > ANSWER_LIMIT:
            raise MalformedError("provisioning-answer", "the server's answer is too large", found=f"> {ANSWER_LIMIT}")
    return bytes(data)


def unreachable(error: Exception, url: str) -> KokonError:
    """What a failed connection to `url` means."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UntrustedError(
                "provisioning-certificate",
                "somebody else answers at the provisioning server's address",
                expected="the pinned certificate",
                found=cause.verify_message,
                hint="check the address, or take the new certificate from the server's state directory",
            )
        cause = cause.__cause__ or cause.__context__
    return UnreachableError(
        "provisioning-unreachable",
        f"the provisioning server at {url} does not answer",
        found=str(error) or type(error).__name__,
        hint="start it with `kokon provision serve`",
    )


def _remote(data: bytes, answer: httpx2.Response) -> KokonError:
    """The server's error as an error of ours."""
    status = answer.status_code
    try:
        value = parse_json(data, limit=ANSWER_LIMIT, what="the server's refusal")
        members = value["error"]
        code, message = members["code"][:64], str(members.get("message", ""))[:1000]
    except (MalformedError, LookupError, TypeError, AttributeError):
        return MalformedError("provisioning-answer", "the server refused without a reason", found=f"status {status}")
    texts = {name: members[name] for name in ("expected", "found", "hint") if isinstance(members.get(name), str)}
    wait = answer.headers.get("retry-after", "")
    if wait.isdecimal():
        texts.setdefault("hint", f"try again in {wait[:6]} s")
    kind = _KINDS.get(str(members.get("kind")), DeniedError)
    return kind(code, message, **texts)
