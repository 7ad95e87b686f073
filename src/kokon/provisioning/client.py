"""The owner's client for the server's admin interface."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

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
from kokon.provisioning.log import Head, verify_chain
from kokon.provisioning.tls import client_context
from kokon.wire import Fields, parse_json

ADMIN_FILE = "admin.json"
ANSWER_LIMIT = 80 << 20
"""Bytes of one answer: a page of the log at its largest."""
TIMEOUT = 30.0
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
    """How to reach the admin interface: URL, admin token, the server's certificate (PEM)."""

    url: str
    token: str = field(repr=False)
    certificate: str


def state_directory() -> Path:
    """Where the server keeps its state unless told otherwise: `provision` in Kokon's home."""
    home = os.environ.get("KOKON_HOME") or Path.home() / ".local" / "share" / "kokon"
    return Path(home).absolute() / "provision"


def read_access(path: Path | None = None) -> AdminAccess:
    """The access that a server on this machine left in `path` (default: in its state directory, or $KOKON_ADMIN).

    Raises `UsageError` (`admin-access-missing`), `MalformedError` as `kokon.wire`.
    """
    path = path or Path(os.environ.get("KOKON_ADMIN") or state_directory() / ADMIN_FILE)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            "admin-access-missing",
            f"cannot read {path.name}, which tells where the provisioning server is",
            found=error.strerror,
            hint="start one with `kokon provision serve`, or name the file with --admin",
        ) from error
    fields = Fields(parse_json(data, limit=64 << 10, what=path.name), path.name)
    access = AdminAccess(
        url=fields.text("url"), token=fields.text("token"), certificate=fields.text("certificate", limit=32 << 10)
    )
    fields.finish()
    return access


class AdminClient:
    """One connection to the admin interface; close it or use it in a `with` block.

    What the server refuses is raised as the server's own error, code and all. Besides: `UnreachableError`
    (`provisioning-unreachable`), `UntrustedError` (`provisioning-certificate`), `MalformedError`
    (`provisioning-answer`).
    """

    def __init__(self, access: AdminAccess, timeout: float = TIMEOUT) -> None:
        self._url = access.url
        self._http = httpx2.Client(
            base_url=access.url,
            headers={"Authorization": f"Bearer {access.token}"},
            verify=client_context(access.certificate),
            timeout=timeout,
            trust_env=False,
        )
        self.access = access

    @classmethod
    def from_home(cls, path: Path | None = None) -> Self:
        """The client for the server of this machine. Raises as `read_access`."""
        return cls(read_access(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    def put(self, path: str, value: bytes) -> int:
        """Store a resource; its version."""
        return int(self._call("POST", f"/kbs/v0/resource/{path}", content=value)["version"])

    def delete(self, path: str) -> None:
        """Delete a resource."""
        self._call("DELETE", f"/kbs/v0/resource/{path}")

    def resources(self) -> list[dict[str, Any]]:
        """Names, versions and times of resources."""
        return self._call("GET", "/kokon/v1/resources")["resources"]  # type: ignore[no-any-return]

    def admit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Have a workload admitted; its summary."""
        return self._call("POST", "/kokon/v1/workloads", json=dict(body))

    def withdraw(self, name: str) -> None:
        """Have a workload forgotten."""
        self._call("DELETE", f"/kokon/v1/workloads/{quote(name, safe='')}")

    def workloads(self) -> list[dict[str, Any]]:
        """All workloads."""
        return self._call("GET", "/kokon/v1/workloads")["workloads"]  # type: ignore[no-any-return]

    def log_token(self, workload: str) -> str:
        """The token that opens the log of a workload's containers; asking for it is logged."""
        return str(self._call("POST", f"/kokon/v1/workloads/{quote(workload, safe='')}/log-token")["token"])

    def rotate_token_key(self) -> str:
        """Have tokens signed with a new key; its key id."""
        return str(self._call("POST", "/kokon/v1/token-key")["kid"])

    def owner_key(self) -> dict[str, Any]:
        """The owner's public key: `jwk` and `fingerprint`."""
        return self._call("GET", "/kokon/v1/owner-key")

    def log(self, start: Head | None = None) -> tuple[list[bytes], Head]:
        """All entries that follow `start`, their chain verified up to the head that the server names.

        Raises `UntrustedError` (`log-broken`), also if entries are missing at the end.
        """
        entries: list[bytes] = []
        head = start or Head()
        while True:
            page, named = self._page(head.sequence)
            head = verify_chain(page, head)
            entries += page
            if not page or head.sequence >= named.sequence:
                break
        if head != named:
            raise UntrustedError(
                "log-broken",
                "the log does not end as the server says",
                expected=f"entry {named.sequence} {named.digest[:16]}",
                found=f"entry {head.sequence} {head.digest[:16]}",
            )
        return entries, head

    def _page(self, after: int) -> tuple[list[bytes], Head]:
        fields = Fields(self._call("GET", "/kokon/v1/log", params={"after": after}), "log")
        page = [str(entry).encode() for entry in fields.array("entries", limit=1 << 16)]
        named = Fields(fields.table("head"), "head")
        return page, Head(named.integer("sequence"), named.text("digest"))

    def denial(self, identity: str) -> dict[str, Any]:
        """The log entry of a denial, with every check."""
        return self._call("GET", f"/kokon/v1/denials/{quote(identity, safe='')}")

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from error
        value = parse_json(answer.content, limit=ANSWER_LIMIT, what="the server's answer")
        if not isinstance(value, dict):
            raise MalformedError(
                "provisioning-answer", "the server's answer is not an object", found=answer.status_code
            )
        if not answer.is_success:
            raise _remote(value, answer.status_code)
        return value

    def _unreachable(self, error: httpx2.HTTPError) -> KokonError:
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
            f"the provisioning server at {self._url} does not answer",
            found=str(error) or type(error).__name__,
            hint="start it with `kokon provision serve`",
        )


def _remote(value: Mapping[str, Any], status: int) -> KokonError:
    """The server's error as an error of ours."""
    members = value.get("error")
    if not isinstance(members, dict) or not isinstance(members.get("code"), str):
        return MalformedError("provisioning-answer", "the server refused without a reason", found=f"status {status}")
    kind = _KINDS.get(str(members.get("kind")), DeniedError)
    texts = {name: members[name] for name in ("expected", "found", "hint") if isinstance(members.get(name), str)}
    return kind(members["code"][:64], str(members.get("message", ""))[:1000], **texts)
