"""The server itself: how it is, and new keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kokon import __version__
from kokon.provisioning.access.roles import Action
from kokon.provisioning.catalogue import SECRET, WORKLOAD
from kokon.provisioning.keys import SERVER, fingerprint

if TYPE_CHECKING:
    from kokon.provisioning.admin.request import Asked

RESEAL = 500
"""Rows that are sealed anew in one transaction."""


def status(asked: Asked) -> dict[str, Any]:
    """Version, keys, projects and logs: for people, and for what watches."""
    core, store = asked.core, asked.store
    found = []
    for name in (SERVER, *core.projects()):
        if name == SERVER or asked.principal.enters(name):
            snapshot = store.snapshot(name)
            found.append(
                {
                    "project": name,
                    "generation": snapshot.generation,
                    "log_size": store.frontier(name).size,
                    "secrets": len(snapshot.names(SECRET)),
                    "workloads": len(snapshot.names(WORKLOAD)),
                }
            )
    return {
        "version": __version__,
        "time": asked.now.isoformat(timespec="seconds"),
        "database": "postgresql" if store.backend.shared else "sqlite",
        "owner_key": fingerprint(core.keys.owner.public_key()),
        "token_key": core.tokens.jwks(asked.now)["keys"][0]["kid"],
        "key_ring": {"identity": store.ring.identity, "generation": store.ring.generation},
        "accepted_simulated": sorted(core.demands.endorsements.accepted_simulated),
        "policy": core.demands.policy.name[:100],
        "projects": found,
    }


def rotate_token_key(asked: Asked) -> dict[str, Any]:
    """Sign tokens with a new key from now on; those of the last one stay good. Raises as the store does."""
    asked.allow(Action.PROJECT_MANAGE)
    return {"kid": asked.core.tokens.rotate(asked.now, asked.by)}


def rotate_data_key(asked: Asked) -> dict[str, Any]:
    """Seal records with a new data key: all that there are, and those to come. Raises as the store does."""
    asked.allow(Action.PROJECT_MANAGE)
    key_id = asked.store.add_data_key()
    asked.write("data-key-added", {"key_id": key_id, "generation": asked.store.ring.generation})
    while asked.store.reseal(RESEAL):
        pass
    retired = asked.store.retire_data_keys()
    if retired:
        asked.write("data-keys-retired", {"key_ids": list(retired), "generation": asked.store.ring.generation})
    return {"key_id": key_id, "retired": list(retired)}
