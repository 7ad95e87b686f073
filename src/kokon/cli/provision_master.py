"""The master key of a state directory: replaced by a new one, or given to another holder, while the server rests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kokon.cli.custody import Custody, Opening, Token, asker, make_token_key, opened_database, state_of

if TYPE_CHECKING:
    from kokon.provisioning.custody.holder import Holder
    from kokon.provisioning.state import Settings


def rotate_master(
    state: Path | None,
    custody: Custody | None,
    token: Token,
    opening: Opening,
    new_opening: Opening,
    *,
    renew: bool,
    finish: bool,
) -> dict[str, Any]:
    """Replace the master key by a new one (`renew`), or give it to another holder (`custody`), or both; `finish` takes
    the key ring away from all master keys but the present one. What was done.

    Raises as `custody.vault`, `database.rings` and `open_backend`, `UsageError` (`state-differs`).
    """
    from kokon.provisioning.custody import vault
    from kokon.provisioning.state import holder_of, read_settings, write_settings

    directory = state_of(state)
    settings = read_settings(directory)
    holder = holder_of(vault.held_by(directory) or "file", settings, asker(opening))
    master = vault.open_master(directory, holder)
    done: dict[str, Any] = {"state": str(directory), "custody": holder.name}
    if renew or finish:
        done |= _renew(directory, holder, renew=renew)
    if custody is not None:
        changed = _with_token(settings, token)
        target = holder_of(custody, changed, asker(new_opening, twice=True))
        make_token_key(target)
        write_settings(directory, changed)
        vault.rewrap(directory, holder, target)
        done["custody"] = custody
    return {"master": master.identity, **done}


def _renew(directory: Path, holder: Holder, *, renew: bool) -> dict[str, Any]:
    """A new master key: the key ring is kept for it too, then it takes the old one's place, then the ring is taken from
    the old one, unless other replicas still have that."""
    from kokon.provisioning.custody import vault
    from kokon.provisioning.custody.master import make_master
    from kokon.provisioning.database.rings import add_master, remove_masters

    master = vault.open_master(directory, holder)
    with opened_database(directory, existing=True) as backend:
        if renew:
            new = make_master()
            add_master(backend, master, new)
            vault.replace(directory, holder, master, new)
            master = new
        finished = not (renew and backend.shared)
        if finished:
            remove_masters(backend, master)
    return {"master": master.identity, "finished": finished}


def _with_token(settings: Settings, token: Token) -> Settings:
    if token.pkcs11_module is None:
        return settings
    module = str(token.pkcs11_module.absolute())
    return replace(settings, library=module, token=token.pkcs11_token, key=token.pkcs11_key)
