"""One replica of a server: its state directory opened, its store and keys, and what goes on beside requests."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kokon.errors import KokonError
from kokon.jose.jwe import public_jwk
from kokon.provisioning.admin.callers import PRINCIPAL
from kokon.provisioning.admin.principals import make_owner
from kokon.provisioning.client import ADMIN_FILE
from kokon.provisioning.core import ATTEMPTS, Core, Counters, Demands
from kokon.provisioning.custody import vault
from kokon.provisioning.custody.files import replace_private
from kokon.provisioning.database.memory import Memory, read_memory
from kokon.provisioning.database.rings import RingLoader
from kokon.provisioning.database.store import Store
from kokon.provisioning.database.values import StaleDecision, busy
from kokon.provisioning.keys import SERVER, ServerKeys, fingerprint, open_keys
from kokon.provisioning.ledger.checkpoint import Checkpoint, sign_checkpoint
from kokon.provisioning.ledger.keys import SigningKey, VerifierKey, signing_key
from kokon.provisioning.state import MEMORY, Settings, private_directory
from kokon.wire import Fields, parse_json

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from kokon.provisioning.custody.holder import Holder
    from kokon.provisioning.custody.master import MasterKey

OWNER_JWK = "owner-key.jwk"
"""What the owner gives to authors: the public key that layer keys are encrypted to."""
CERTIFICATE = "tls.pem"
HOUSEKEEPING = 30.0
"""Seconds between two looks at what has expired."""


@dataclass(slots=True)
class Replica:
    """An open replica. `fresh_token` is the owner's token, if there was no principal yet."""

    directory: Path
    store: Store
    keys: ServerKeys
    core: Core
    logs: LogKeys
    fresh_token: str | None = field(default=None, repr=False)


class LogKeys:
    """The keys of the logs: one for each project's, named after it, all from one seed of the key ring."""

    def __init__(self) -> None:
        self._ring: tuple[str, bytes] | None = None
        self._known: dict[str, SigningKey] = {}

    def use(self, identity: str, seed: bytes) -> None:
        """The key ring's public name and the seed (32 bytes)."""
        self._ring = identity, seed

    def signing(self, project: str) -> SigningKey:
        """The key of a project's log ("": the server's own)."""
        known = self._known.get(project)
        if known is None:
            if self._ring is None:
                raise RuntimeError("the key ring is not open yet")
            identity, seed = self._ring
            origin = f"kokon-{identity[:16]}" + (f"/{project}" if project else "")
            known = self._known[project] = signing_key(origin, seed)
        return known

    def verifier(self, project: str) -> VerifierKey:
        """Its public half."""
        return self.signing(project).verifier

    def sign(self, project: str, size: int, root: bytes) -> bytes:
        """A signed checkpoint."""
        key = self.signing(project)
        return sign_checkpoint(Checkpoint(key.verifier.name, size, root), key)


@contextlib.contextmanager
def open_replica(
    directory: Path,
    holder: Holder,
    settings: Settings,
    demands: Demands,
    clock: Callable[[], datetime],
    *,
    names: Sequence[str] = (),
    new_certificate: bool = False,
    counters: Counters | None = None,
) -> Iterator[Replica]:
    """The replica with its state in `directory`, made if it is new. `names` are for the TLS certificate.

    Raises as `vault.ensure`, `Store.open` and `open_keys` do.
    """
    private_directory(directory)
    master = vault.ensure(directory, holder)
    with contextlib.ExitStack() as stack:
        store, logs = _open_store(directory, master, settings, clock, stack)
        keys = open_keys(store, names, clock(), renew=new_certificate)
        core = Core(store, keys, store.ring.subkey("session"), demands, clock, counters)
        stack.callback(core.rego.close)
        _remember_public(directory, keys)
        replica = Replica(directory, store, keys, core, logs)
        replica.fresh_token = _first_owner(store, clock())
        details = {
            "owner_key": fingerprint(keys.owner.public_key()),
            "accepted_simulated": sorted(demands.endorsements.accepted_simulated),
            "policy": demands.policy.name[:100],
            **demands.marks,
            "key_ring": {"identity": store.ring.identity, "generation": store.ring.generation},
        }
        core.write(SERVER, "server-started", details)
        stack.enter_context(_housekeeping(core))
        yield replica
        with contextlib.suppress(KokonError):
            core.write_all_counted()
            core.write(SERVER, "server-stopped", {})


def _open_store(
    directory: Path,
    master: MasterKey,
    settings: Settings,
    clock: Callable[[], datetime],
    stack: contextlib.ExitStack,
) -> tuple[Store, LogKeys]:
    logs = LogKeys()
    remembered = read_memory(directory / MEMORY)
    store = Store.open(
        settings.location(directory),
        RingLoader(master, remembered.ring),
        sign=logs.sign,
        clock=clock,
        remembered=remembered.heads,
    )
    stack.callback(store.close)
    logs.use(store.ring.identity, store.ring.subkey("log"))
    memory = Memory(directory / MEMORY, store)
    stack.callback(memory.close)
    return store, logs


def _first_owner(store: Store, now: datetime) -> str | None:
    """The token of the owner, if there was no principal yet; of replicas that start at once, one makes it.

    Raises as the store does.
    """
    for _ in range(ATTEMPTS):
        snapshot = store.snapshot(SERVER)
        if snapshot.names(PRINCIPAL):
            return None
        with contextlib.suppress(StaleDecision):
            return make_owner(store, now, generation=snapshot.generation)
    raise busy()


def _remember_public(directory: Path, keys: ServerKeys) -> None:
    """What others need, in files that hold nothing secret."""
    replace_private(directory / CERTIFICATE, keys.certificate.encode())
    replace_private(directory / OWNER_JWK, json.dumps(public_jwk(keys.owner.public_key())).encode())
    for name in (CERTIFICATE, OWNER_JWK):
        (directory / name).chmod(0o644)


def write_access(replica: Replica, url: str) -> None:
    """Tell the owner's commands on this machine where the server is: with the token of a first start, or else with the
    one that is there. Raises `HostError` (`state-unusable`)."""
    path = replica.directory / ADMIN_FILE
    token = replica.fresh_token or _token_in(path)
    if token is not None:
        access = {"url": url, "token": token, "certificate": replica.keys.certificate}
        replace_private(path, json.dumps(access).encode())


def _token_in(path: Path) -> str | None:
    try:
        return Fields(parse_json(path.read_bytes(), limit=64 << 10, what=path.name), path.name).text("token")
    except (OSError, KokonError):
        return None


@contextlib.contextmanager
def _housekeeping(core: Core) -> Iterator[None]:
    """Delete what expired, and write down what was only counted, now and then."""
    end = threading.Event()

    def run() -> None:
        while not end.wait(HOUSEKEEPING):
            # What fails now is tried again: the database's failures are the business of whoever asks for something.
            with contextlib.suppress(KokonError):
                core.store.purge(core.clock())
                core.write_all_counted()

    thread = threading.Thread(target=run, name="housekeeping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
