"""What the admin interface has of the server itself: projects, principals, keys, its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from kokon.provisioning.client_transport import Transport


class ServerCalls(Transport):
    """Calls about the server, whichever project the client is for. All raise as `Transport`."""

    def projects(self) -> list[str]:
        """The projects that one may enter."""
        return self.call("GET", "/kokon/v1/projects", server=True)["projects"]  # type: ignore[no-any-return]

    def add_project(self, name: str) -> dict[str, Any]:
        """Make a project."""
        return self.call("POST", "/kokon/v1/projects", server=True, json={"name": name})

    def close_project(self, name: str) -> dict[str, Any]:
        """Close a project: nothing is served of it any more; its records and its log stay."""
        return self.call("DELETE", f"/kokon/v1/projects/{quote(name, safe='')}", server=True)

    def principals(self) -> list[dict[str, Any]]:
        """Who may use the admin interface."""
        return self.call("GET", "/kokon/v1/principals", server=True)["principals"]  # type: ignore[no-any-return]

    def add_principal(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a principal; `token` is told this once, unless it has a certificate."""
        return self.call("POST", "/kokon/v1/principals", server=True, json=dict(body))

    def remove_principal(self, identity: str) -> None:
        """Take a principal's access away."""
        self.call("DELETE", f"/kokon/v1/principals/{quote(identity, safe='')}", server=True)

    def status(self) -> dict[str, Any]:
        """Version, keys, projects and logs."""
        return self.call("GET", "/kokon/v1/status", server=True)

    def rotate_token_key(self) -> str:
        """Have tokens signed with a new key; its key id."""
        return str(self.call("POST", "/kokon/v1/token-key", server=True)["kid"])

    def rotate_data_key(self) -> dict[str, Any]:
        """Have records sealed with a new data key: `key_id`, and the ids of older ones that were `retired`."""
        return self.call("POST", "/kokon/v1/data-key", server=True)
