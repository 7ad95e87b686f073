"""The key provider as a gRPC service. Needs the extra `keyprovider` (grpcio). [edge: sockets]

Service `keyprovider.KeyProviderService`, methods `WrapKey` and `UnWrapKey`; the messages have one field of bytes
(facts oci.md 1.8), which is all of Protocol Buffers that is needed: tag 0x0a, length, content.

Whoever can connect can have keys unwrapped. So it listens on a Unix socket of the user's own, or on loopback.
"""

from __future__ import annotations

import ipaddress
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kokon.errors import DeniedError, HostError, KokonError, MalformedError, UsageError
from kokon.image.ocicrypt.provider import REQUEST_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kokon.image.ocicrypt.provider import Provider

SERVICE = "keyprovider.KeyProviderService"
_TAG = b"\x0a"
_THREADS = 4


def encode(content: bytes) -> bytes:
    """A message with one field of bytes, number 1 (Protocol Buffers, "Encoding")."""
    size, prefix = len(content), bytearray(_TAG)
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(prefix) + bytes([size]) + content


def decode(message: bytes) -> bytes:
    """The content of such a message. Raises `MalformedError` (`keyprovider-message`)."""
    size, shift, position = 0, 0, 1
    while message[:1] == _TAG and position < len(message) and shift <= 21:
        byte = message[position]
        size |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            if len(message) - position == size:
                return message[position:]
            break
    raise MalformedError("keyprovider-message", "not a message with one field of bytes", found=len(message))


def check_address(text: str) -> str:
    """`text` itself if it is `unix:PATH` or a loopback address with port. Raises `UsageError`
    (`keyprovider-address`)."""
    if text.startswith("unix:") and len(text) > 5:
        return text
    match = re.fullmatch(r"\[?([0-9a-fA-F.:]+?)\]?:([0-9]{1,5})", text)
    try:
        if match is not None and ipaddress.ip_address(match[1]).is_loopback:
            return text
    except ValueError:
        pass
    raise UsageError(
        "keyprovider-address",
        "a key provider hands out keys: it listens on this machine only",
        expected="unix:PATH or 127.0.0.1:PORT",
        found=repr(text[:100]),
    )


@contextmanager
def serving(provider: Provider, address: str) -> Iterator[str]:
    """The service, while the context lasts; gives the address, with the real port where 0 was asked for.

    Raises `HostError` (`keyprovider-no-grpc`, `keyprovider-not-listening`), `UsageError` (`keyprovider-address`).
    """
    check_address(address)
    try:
        import grpc  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise HostError(
            "keyprovider-no-grpc", "grpcio is not installed", hint="pip install 'kokon[keyprovider]'"
        ) from error
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(_THREADS), options=[("grpc.max_receive_message_length", 2 * REQUEST_LIMIT)])
    method = grpc.unary_unary_rpc_method_handler(_handler(provider, grpc))
    handler = grpc.method_handlers_generic_handler(SERVICE, {"WrapKey": method, "UnWrapKey": method})
    server.add_generic_rpc_handlers((handler,))
    bound = _bind(server, address)
    server.start()
    try:
        yield bound
    finally:
        server.stop(1).wait()
        if address.startswith("unix:"):
            Path(address.removeprefix("unix:")).unlink(missing_ok=True)


def _bind(server: Any, address: str) -> str:
    before = os.umask(0o177)  # the socket is for this user alone
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise HostError("keyprovider-not-listening", f"cannot listen on {address}", found=error) from error
    finally:
        os.umask(before)
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _handler(provider: Provider, grpc: Any) -> Any:
    def handle(message: bytes, context: Any) -> bytes:
        try:
            return encode(provider.answer(decode(message)))
        except KokonError as error:
            denied = isinstance(error, DeniedError)
            status = grpc.StatusCode.PERMISSION_DENIED if denied else grpc.StatusCode.INVALID_ARGUMENT
            context.abort(status, f"{error.message} [{error.code}]")
            raise

    return handle
