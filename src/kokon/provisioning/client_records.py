"""What the admin interface keeps for a project: secrets, workloads, policies, reference values, denials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from kokon.provisioning.client_transport import Transport
from kokon.provisioning.secret.request import Terms
from kokon.wire import b64

_ANY = Terms()


class RecordCalls(Transport):
    """Calls about a project's records. All raise as `Transport`."""

    # -- secrets ---------------------------------------------------------------------------------------------------

    def secrets(self) -> list[dict[str, Any]]:
        """Paths, versions, kinds and times of secrets, never values."""
        return self.call("GET", "/kokon/v1/secrets")["secrets"]  # type: ignore[no-any-return]

    def put(self, path: str, value: bytes, terms: Terms = _ANY) -> int:
        """Store a value; its version."""
        return int(self._put(path, {"value": b64(value)}, terms)["version"])

    def generate(self, path: str, recipe: str, terms: Terms = _ANY) -> dict[str, Any]:
        """Have a value made that nobody sees; `public` is its public half, if it has one."""
        return self._put(path, {"generate": recipe}, terms)

    def derive(self, path: str, scope: str, terms: Terms = _ANY) -> dict[str, Any]:
        """Have values derived, another one for each `scope`: workload, platform or activation."""
        return self._put(path, {"derive": scope}, terms)

    def rotate(self, path: str, terms: Terms = _ANY) -> dict[str, Any]:
        """Have a new version made as the last one was."""
        return self.call("POST", f"/kokon/v1/secrets/{path}/rotate", json=_members(terms))

    def delete(self, path: str, version: int | None = None) -> None:
        """Delete one version for good, or all (None)."""
        query = {} if version is None else {"version": version}
        self.call("DELETE", f"/kokon/v1/secrets/{path}", params=query)

    def _put(self, path: str, members: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
        return self.call("PUT", f"/kokon/v1/secrets/{path}", json={**members, **_members(terms)})

    # -- workloads -------------------------------------------------------------------------------------------------

    def admit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Have a workload admitted; its summary."""
        return self.call("POST", "/kokon/v1/workloads", json=dict(body))

    def withdraw(self, name: str) -> None:
        """Have a workload forgotten."""
        self.call("DELETE", _workload(name))

    def workloads(self) -> list[dict[str, Any]]:
        """All workloads."""
        return self.call("GET", "/kokon/v1/workloads")["workloads"]  # type: ignore[no-any-return]

    def workload(self, name: str) -> dict[str, Any]:
        """One workload, and the digest of its record."""
        return self.call("GET", _workload(name))

    def workload_history(self, name: str) -> list[dict[str, Any]]:
        """All that a workload ever was, oldest first."""
        return self.call("GET", f"{_workload(name)}/history")["history"]  # type: ignore[no-any-return]

    def add_statement(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Have an image admitted under the rule of a workload."""
        return self.call("POST", f"{_workload(name)}/statements", json=dict(body))

    def remove_statement(self, name: str, host_data: str) -> None:
        """Take back what was admitted under a rule; `host_data` is its launch document's SHA-256 in hex."""
        self.call("DELETE", f"{_workload(name)}/statements/{quote(host_data, safe='')}")

    def log_token(self, workload: str) -> str:
        """The token that opens the log of a workload's containers; asking for it is logged."""
        return str(self.call("POST", f"{_workload(workload)}/log-token")["token"])

    # -- policies and reference values -----------------------------------------------------------------------------

    def policies(self) -> list[dict[str, Any]]:
        """All policies, without their texts."""
        return self.call("GET", "/kokon/v1/policies")["policies"]  # type: ignore[no-any-return]

    def policy(self, kind: str, name: str) -> dict[str, Any]:
        """A policy, its text and its history."""
        return self.call("GET", _policy(kind, name))

    def set_policy(self, kind: str, name: str, text: str, previous: str | None = None) -> dict[str, Any]:
        """Set a policy; with `previous`, only in the place of the record with that digest ("": of none)."""
        return self.call("PUT", _policy(kind, name), json={"text": text, **_previous(previous)})

    def remove_policy(self, kind: str, name: str) -> None:
        """Remove a policy."""
        self.call("DELETE", _policy(kind, name))

    def references(self) -> list[dict[str, Any]]:
        """Names, values and ends of the reference values that Rego policies ask for."""
        return self.call("GET", "/kokon/v1/references")["references"]  # type: ignore[no-any-return]

    def register(self, message: bytes) -> None:
        """Register reference values: a message of the key broker's provider service (`rego.reference`)."""
        self.post("/kbs/v0/reference-value", message)

    def remove_reference(self, name: str) -> None:
        """Remove a reference value."""
        self.call("DELETE", f"/kokon/v1/references/{quote(name, safe='/:')}")

    # -- others ----------------------------------------------------------------------------------------------------

    def denial(self, identity: str) -> dict[str, Any]:
        """The log entry of a denial, with every check."""
        return self.call("GET", f"/kokon/v1/denials/{quote(identity, safe='')}")

    def owner_key(self) -> dict[str, Any]:
        """The owner's public key: `jwk` and `fingerprint`."""
        return self.call("GET", "/kokon/v1/owner-key")


def sample_message(values: Mapping[str, Any]) -> bytes:
    """The message that registers plain JSON values by name."""
    payload = b64(json.dumps(dict(values), allow_nan=False).encode())
    return json.dumps({"version": "0.1.0", "type": "sample", "payload": payload}).encode()


def _members(terms: Terms) -> dict[str, Any]:
    expires = None if terms.expires is None else terms.expires.isoformat()
    members = {"expires": expires, "previous": terms.previous, "keep": terms.keep}
    return {name: value for name, value in members.items() if value is not None}


def _previous(previous: str | None) -> dict[str, str]:
    return {} if previous is None else {"previous": previous}


def _workload(name: str) -> str:
    return f"/kokon/v1/workloads/{quote(name, safe='')}"


def _policy(kind: str, name: str) -> str:
    return f"/kokon/v1/policies/{quote(kind, safe='')}/{quote(name, safe='')}"
