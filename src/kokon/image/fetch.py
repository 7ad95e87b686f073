"""The guest's small pull client: manifests and blobs from one repository of a registry. Guest code.

OCI distribution-spec 1.1 (pull, referrers with tag fallback), anonymous, over plain HTTP or TLS. Nothing that arrives
is trusted: the caller names a digest, and bytes are handed out only if they have it.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import http.client
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from kokon.errors import DeniedError, HostError, UnreachableError, UntrustedError, UsageError
from kokon.image.manifest import ACCEPTED, MANIFEST_LIMIT, check_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO, Self

    Resolve = Callable[[str, int], tuple[str, int]]
    Progress = Callable[[int, int], None]

CHUNK = 1 << 20
ATTEMPTS = 3
REDIRECTS = 5
_REDIRECTED = (301, 302, 303, 307, 308)


def hexdigest(data: bytes) -> str:
    """`sha256:<hex>` of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class _Spool:
    """A layer on its way into a file: how much has come, and the digest of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.running = hashlib.sha256()
        self.total = 0

    def take(self, data: memoryview) -> None:
        self.running.update(data)
        self._file.write(data)
        self.total += len(data)

    def restart(self) -> None:
        if not self.total:
            return
        self._file.seek(0)
        self._file.truncate()
        self.running = hashlib.sha256()
        self.total = 0


class Fetcher:
    """Reads one repository. `resolve(host, port)` may name another address to connect to (the guest's gateway for the
    host's loopback); `Host` header and TLS name stay what the URL says. `timeout` in seconds is per socket operation.

    Connections are kept alive; close() or leaving the `with` block ends them. Raises `UnreachableError`
    (`registry-unreachable`, `registry-error`, `image-not-found`), `DeniedError` (`registry-denied`), `UsageError`
    (`registry-url`).
    """

    def __init__(self, registry: str, repository: str, *, resolve: Resolve | None = None, timeout: float = 60) -> None:
        self._base = registry.rstrip("/")
        self._repository = repository
        self._resolve = resolve or _as_is
        self._timeout = timeout
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}
        _endpoint(self._base)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def manifest(self, digest: str) -> tuple[bytes, str]:
        """The manifest with this digest and its media type.

        Raises `UntrustedError` (`image-digest-mismatch`) and what the class raises.
        """
        check_digest(digest, what="image digest")
        found = self.tagged(digest)
        if found is None:
            raise UnreachableError(
                "image-not-found",
                f"the registry does not have {self._repository}",
                expected=digest,
                hint="check the image's name and that it was pushed to this registry",
            )
        actual = hexdigest(found[0])
        if not hmac.compare_digest(actual, digest):
            raise UntrustedError(
                "image-digest-mismatch", "the registry serves another manifest", expected=digest, found=actual
            )
        return found

    def tagged(self, reference: str) -> tuple[bytes, str] | None:
        """The manifest behind a tag, unchecked, and its media type; None if there is none."""
        return self._small(f"manifests/{reference}", MANIFEST_LIMIT, ", ".join(ACCEPTED))

    def referrers(self, digest: str) -> bytes | None:
        """The index of what refers to `digest`: from the referrers API, else the fallback tag; None if there is none.

        Unchecked: members must be fetched by their digest (distribution-spec 1.1, "Listing Referrers").
        """
        found = self._small(f"referrers/{digest}", MANIFEST_LIMIT, ACCEPTED[1])
        if found is None or not found[1].startswith(ACCEPTED[1]):
            found = self.tagged(digest.replace(":", "-", 1))
        return None if found is None else found[0]

    def blob(self, digest: str, size: int, limit: int) -> bytes:
        """A small blob of exactly `size` <= `limit` bytes.

        Raises `UntrustedError` (`blob-digest-mismatch`) and what the class raises.
        """
        if size > limit:
            raise UntrustedError("blob-digest-mismatch", "a blob is too large", expected=f"<= {limit}", found=size)
        found = self._small(f"blobs/{digest}", size, "*/*")
        actual = "nothing" if found is None else hexdigest(found[0])
        if found is None or actual != digest:
            raise UntrustedError(
                "blob-digest-mismatch", "the registry serves another blob", expected=digest, found=actual
            )
        return found[0]

    def blob_to_file(self, digest: str, size: int, path: Path, progress: Progress | None = None) -> None:
        """Stream a layer of `size` bytes into a new file, in constant memory; the file is removed on failure.

        Raises `UntrustedError` (`layer-digest-mismatch`), `HostError` (`disk-full`, `disk-failed`) and what the class
        raises.
        """
        check_digest(digest, what="layer digest")
        try:
            self._spool(digest, size, path, progress)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise disk_error(error, "storing an encrypted layer") from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _spool(self, digest: str, size: int, path: Path, progress: Progress | None) -> None:
        with path.open("wb") as file:
            spool = _Spool(file)
            for attempt in range(ATTEMPTS):
                if self._copy(digest, size, spool, progress):
                    break
                if attempt == ATTEMPTS - 1:
                    raise UnreachableError(
                        "registry-unreachable", "the registry broke off a layer", expected=size, found=spool.total
                    )
        actual = "sha256:" + spool.running.hexdigest()
        if spool.total != size or not hmac.compare_digest(actual, digest):
            raise UntrustedError(
                "layer-digest-mismatch",
                "a layer at the registry is not the one that was sealed",
                expected=f"{digest}, {size} bytes",
                found=f"{actual}, {spool.total} bytes",
                hint="the registry or the network changed it: push the image again, or use another registry",
            )

    def _copy(self, digest: str, size: int, spool: _Spool, progress: Progress | None) -> bool:
        """Go on with a layer where it was cut; whether the transfer was complete as HTTP sees it.

        A registry that ignores Range (RFC 9110, 14.2) or begins elsewhere sends all of it again.
        """
        response = self._get(f"blobs/{digest}", "*/*", start=spool.total)
        if response is None:
            raise UnreachableError("image-not-found", "the registry lacks a layer of the image", expected=digest)
        if response.status != 206:
            spool.restart()
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {spool.total}-"):
            spool.restart()
            return self._broken(response)
        view = memoryview(bytearray(CHUNK))
        while spool.total <= size:
            try:
                count = response.readinto(view)
            except (OSError, http.client.HTTPException):
                return self._broken(response)
            if not count:
                break
            spool.take(view[:count])
            if progress is not None:
                progress(min(spool.total, size), size)
        if spool.total < size and (response.length or 0) > 0:
            return self._broken(response)
        if not response.isclosed():
            self.close()
        return True

    def _broken(self, response: http.client.HTTPResponse) -> bool:
        response.close()
        self.close()
        return False

    def _small(self, path: str, limit: int, accept: str) -> tuple[bytes, str] | None:
        for _ in range(ATTEMPTS):
            response = self._get(path, accept)
            if response is None:
                return None
            data = self._read(response, limit)
            if data is not None:
                return data, response.headers.get("Content-Type", "")
        raise UnreachableError("registry-unreachable", "the registry breaks off its answers", found=path)

    def _read(self, response: http.client.HTTPResponse, limit: int) -> bytes | None:
        """The body of a small answer; None if the connection broke."""
        try:
            data = response.read(limit + 1)
        except (OSError, http.client.HTTPException):
            data = None
        if data is None or (len(data) <= limit and response.length):
            self._broken(response)
            return None
        if len(data) > limit:
            self._broken(response)
            raise UnreachableError("registry-error", "the registry's answer is too large", expected=f"<= {limit}")
        return data

    def _get(self, path: str, accept: str, start: int = 0) -> http.client.HTTPResponse | None:
        """An open answer with status 200, or 206 if it is to begin at byte `start`; None for 404."""
        url = f"{self._base}/v2/{self._repository}/{path}"
        for _ in range(REDIRECTS + 1):
            response = self._request(url, accept, start)
            if response.status == 200 or (start and response.status == 206):
                return response
            location = response.headers.get("Location", "")
            self._broken(response)
            if response.status not in _REDIRECTED or not location:
                _check_status(response.status, url)
                return None
            url = _redirect(url, location)
        raise UnreachableError("registry-error", "the registry redirects in circles", found=urlsplit(url).hostname)

    def _request(self, url: str, accept: str, start: int = 0) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        headers = {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": "kokon"}
        if start:
            headers["Range"] = f"bytes={start}-"
        for attempt in range(2):
            connection = self._connection(parts.scheme, parts.netloc)
            fresh = connection.sock is None
            try:
                if fresh:
                    self._connect(connection, url)
                connection.request("GET", target, headers=headers)
                return connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if fresh or attempt:
                    raise UnreachableError(
                        "registry-unreachable",
                        f"the registry {parts.netloc} cannot be reached",
                        found=error,
                        hint="check the address and that the registry runs",
                    ) from error
        raise UnreachableError("registry-unreachable", f"the registry {parts.netloc} cannot be reached")

    def _connection(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        connection = self._connections.get((scheme, netloc))
        if connection is None:
            kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
            connection = self._connections[scheme, netloc] = kind(netloc, timeout=self._timeout)
        return connection

    def _connect(self, connection: http.client.HTTPConnection, url: str) -> None:
        import socket

        host, port = _endpoint(url)
        raw = socket.create_connection(self._resolve(host, port), self._timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(connection, http.client.HTTPSConnection):
            import ssl

            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
        connection.sock = raw


def disk_error(error: OSError, doing: str) -> HostError:
    """What an `OSError` of the file system means: `disk-full` or `disk-failed`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HostError(
            "disk-full",
            f"the disk is full while {doing}",
            found=error.strerror,
            hint="give the container a larger scratch disk",
        )
    return HostError("disk-failed", f"the file system fails while {doing}", found=error.strerror or error)


def _as_is(host: str, port: int) -> tuple[str, int]:
    return host, port


def _endpoint(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise UsageError("registry-url", "not the URL of a registry", expected="http(s)://host[:port]", found=url[:200])
    return parts.hostname, port or (443 if parts.scheme == "https" else 80)


def _check_status(status: int, url: str) -> None:
    if status == 404:
        return
    if status in (401, 403):
        raise DeniedError(
            "registry-denied",
            f"the registry {urlsplit(url).netloc} refuses anonymous reading",
            found=f"HTTP {status}",
            hint="make the repository readable without a login: its content is encrypted",
        )
    raise UnreachableError("registry-error", "the registry fails", expected="HTTP 200", found=f"HTTP {status}")


def _redirect(url: str, location: str) -> str:
    target = urljoin(url, location)
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise UnreachableError("registry-error", "the registry redirects from TLS to plain text")
    _endpoint(target)
    return target
