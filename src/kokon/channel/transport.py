"""The attested channel as a transport of httpx2, so that Python programs use it as any HTTP client.

    peer = AttestedPeer("https://clinic.example:8443", read_trust(path))
    with httpx2.Client(transport=AttestedTransport(peer)) as client:
        client.get("https://clinic.example:8443/patients/1")

Requests to any other origin are refused, redirects included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import httpcore2
import httpx2

from kokon.channel.client import parse_address
from kokon.channel.tls import client_context
from kokon.errors import KokonError, UnreachableError, UntrustedError

if TYPE_CHECKING:
    import ssl

    from kokon.channel.client import AttestedPeer
    from kokon.channel.tls import TlsStream

DEFAULT_TIMEOUT = 60.0


class AttestedTransport(httpx2.BaseTransport):
    """Sends requests to one guest, each connection verified (HTTP/1.1, kept alive).

    A guest that is not what it should be raises `kokon.errors.UntrustedError` and its kin, never an `httpx2` error;
    a request to another origin raises `UntrustedError` (`origin-not-attested`).
    """

    def __init__(self, peer: AttestedPeer, *, max_connections: int = 10) -> None:
        self._peer = peer
        self._pool = httpcore2.ConnectionPool(
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=30.0,
            network_backend=_Backend(peer),
            ssl_context=client_context([]),  # never used: see _Stream.start_tls
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send `request` over the attested channel."""
        url = request.url
        if url.scheme != "https" or parse_address(f"https://{url.netloc.decode()}") != self._peer.address:
            raise UntrustedError(
                "origin-not-attested",
                "this client talks to one attested workload only",
                expected=self._peer.address,
                found=f"{url.scheme}://{url.netloc.decode()}",
            )
        core = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            response = self._pool.handle_request(core)
        except _CORE_ERRORS as error:
            raise _translated(error) from error
        return httpx2.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response.stream),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


_CORE_ERRORS = (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError)


def _translated(error: Exception) -> Exception:
    """The httpx2 error of the same name."""
    kind: type[Exception] = getattr(httpx2, type(error).__name__, httpx2.TransportError)
    return kind(str(error))


class _Body(httpx2.SyncByteStream):
    """A response's body."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except _CORE_ERRORS as error:
            raise _translated(error) from error

    def close(self) -> None:
        self._stream.close()


class _Backend(httpcore2.NetworkBackend):
    """Gives httpcore2 verified connections and nothing else."""

    def __init__(self, peer: AttestedPeer) -> None:
        self._peer = peer

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        del host, port, timeout, local_address, socket_options  # the peer's own address and limits hold
        try:
            return _Stream(self._peer.open())
        except UnreachableError as error:
            raise httpcore2.ConnectError(str(error)) from error


class _Stream(httpcore2.NetworkStream):
    """A `TlsStream` as httpcore2 wants it; it is TLS from the start."""

    def __init__(self, stream: TlsStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._stream.read(max_bytes, DEFAULT_TIMEOUT if timeout is None else timeout)
        except UnreachableError as error:
            raise _core_error(error, httpcore2.ReadTimeout, httpcore2.ReadError) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._stream.write(buffer, DEFAULT_TIMEOUT if timeout is None else timeout)
        except UnreachableError as error:
            raise _core_error(error, httpcore2.WriteTimeout, httpcore2.WriteError) from error

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        del ssl_context, server_hostname, timeout  # nothing of the pool's own TLS may replace the attested one
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "socket":
            return self._stream.socket
        if info == "is_readable":
            return self._stream.readable()
        return None


def _core_error(error: KokonError, timed_out: type[Exception], broken: type[Exception]) -> Exception:
    return (timed_out if error.code == "peer-timeout" else broken)(str(error))
