"""The owner's public key, that authors encrypt to: from a JWK file, or from the owner's provisioning server."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx2

from kokon.errors import DeniedError, MalformedError, UnreachableError, UsageError
from kokon.jose.jwe import from_jwk, public_jwk
from kokon.wire import Fields, parse_json

KEY_LIMIT = 16 << 10
PATH = "/kokon/v1/owner-key"


def read_owner(where: str, certificate: Path | None = None) -> dict[str, Any]:
    """The owner's public JWK: from a file, or from the server at an https URL.

    The server is believed only with the pinned `certificate` (PEM), or if the system trusts its certificate.
    Raises `UsageError` (`owner-unreadable`, `owner-url`), `UnreachableError` (`owner-unreachable`), `DeniedError`
    (`owner-refused`), `MalformedError` (`owner-certificate`, those of `kokon.jose.jwe.from_jwk` and `kokon.wire`).
    """
    if where.startswith("http://"):
        raise UsageError("owner-url", "an owner's key is not taken over plain HTTP", expected="https://... or a file")
    if where.startswith("https://"):
        data = _download(where.rstrip("/") + PATH, certificate)
    else:
        data = _read(Path(where))
    document = parse_json(data, limit=KEY_LIMIT, what="owner's key")
    jwk = document.get("jwk", document) if isinstance(document, dict) else document
    Fields(jwk, "owner's key")
    return dict(public_jwk(from_jwk(jwk)))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(KEY_LIMIT + 1)
    except OSError as error:
        raise UsageError(
            "owner-unreadable",
            f"cannot read the owner's key from {path}",
            found=error.strerror,
            hint="the owner finds it beside the provisioning server's state: owner-key.jwk",
        ) from error


def _download(url: str, certificate: Path | None) -> bytes:
    try:
        with (
            httpx2.Client(verify=_context(certificate), timeout=15) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != 200:
                raise DeniedError(
                    "owner-refused",
                    "the provisioning server does not give its key",
                    found=f"HTTP {response.status_code}",
                )
            data = b""
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > KEY_LIMIT:
                    break
            return data
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise UnreachableError(
            "owner-unreachable",
            "the provisioning server cannot be reached",
            found=str(error) or type(error).__name__,
            hint="check the URL, and give the server's own certificate with --owner-certificate",
        ) from error


def _context(certificate: Path | None) -> ssl.SSLContext:
    if certificate is None:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=_read(certificate).decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise MalformedError("owner-certificate", f"{certificate} is not a PEM certificate") from error
    return context
