"""The demo plays the cloud: each attack is really carried out, and its outcome is read from what happened."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from kokon.demo.owner import Owner
from kokon.demo.rogue import forged_signature, replay
from kokon.errors import KokonError
from kokon.host import lifecycle
from kokon.host.launch import start
from kokon.host.processor import DEFAULT_POLICY
from kokon.host.request import Overrides, Publish, RunRequest
from kokon.host.state import Directory, Record
from kokon.host.status import StatusReader

DEBUG = 1 << 19  # SEV-SNP guest policy, bit 19
_DENIAL = re.compile(r"(?:explain|id) ([0-9a-f]{8,})")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack came to: the code and reason of the refusal (None: it was not refused), what the guest reached,
    resources that the server released to it, and whether the owner's log tells of it."""

    name: str
    code: str | None
    reason: str
    phases: tuple[str, ...]
    released: tuple[str, ...]
    logged: bool

    @property
    def held(self) -> bool:
        """Whether the attack was refused, released nothing, started nothing, and left a trace."""
        return self.code is not None and not self.released and "started" not in self.phases and self.logged


@dataclass(frozen=True, slots=True)
class Target:
    """What is attacked: the clinic as the host knows it, the owner's log to look at, and a place to work in."""

    home: Path
    work: Path
    request: RunRequest
    owner: Owner
    registry: Path
    registry_url: str
    image_digest: str
    repository: str
    running: str


Attack = tuple[str, Callable[[Target], tuple[KokonError | None, tuple[str, ...]]]]


def launch(target: Target, name: str, overrides: Overrides) -> tuple[KokonError | None, tuple[str, ...]]:
    """Launch the clinic with something changed; why it failed (None if it did not), and the phases it reached."""
    request = replace(
        target.request, name=name, publish=Publish("127.0.0.1", 0), overrides=overrides, capture=None, volumes=()
    )
    volumes = tuple(replace(v, file=target.work / f"{name}-{v.name}.img") for v in target.request.volumes)
    directory = Directory(target.home, name)
    error: KokonError | None = None
    try:
        record = start(target.home, replace(request, volumes=volumes), datetime.now(UTC))
        error = _await_end(target.home, directory, record)
    except KokonError as refused:
        error = refused
    phases = tuple(status.phase for status in StatusReader(directory.status).read())
    with contextlib.suppress(KokonError):
        lifecycle.remove(target.home, name, force=True)
    return error, phases


def _await_end(home: Path, directory: Directory, record: Record) -> KokonError | None:
    for status in lifecycle.follow(directory, record.machine):
        if status.phase == "serving":
            return None
    return lifecycle.failure(directory, lifecycle.settle(home, directory.name))


@contextlib.contextmanager
def _changed_byte(path: Path) -> Iterator[None]:
    original = path.read_bytes()
    changed = bytearray(original)
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(original)


def layer_changed(target: Target) -> tuple[KokonError | None, tuple[str, ...]]:
    """The registry serves a layer with one bit changed."""
    blobs = (target.registry / "docker/registry/v2/blobs/sha256").rglob("data")
    with _changed_byte(max(blobs, key=lambda path: path.stat().st_size)):
        return launch(target, "attack-layer", Overrides())


def foreign_signature(target: Target) -> tuple[KokonError | None, tuple[str, ...]]:
    """The registry's signature is replaced by one that somebody else made."""
    with forged_signature(target.registry_url, target.repository, target.image_digest):
        return launch(target, "attack-signature", Overrides())


def other_kernel(target: Target) -> tuple[KokonError | None, tuple[str, ...]]:
    """Another kernel: the same with one letter of its version changed, so that it boots."""
    kernel = bytearray(target.request.guest.kernel.read_bytes())
    at = kernel.find(b"(debian-kernel@")
    kernel[at + 1] ^= 0x20
    path = target.work / "other-kernel"
    path.write_bytes(kernel)
    return launch(target, "attack-kernel", Overrides(kernel=path))


def other_cmdline(target: Target) -> tuple[KokonError | None, tuple[str, ...]]:
    """One word changed on the kernel's command line."""
    return launch(
        target, "attack-cmdline", Overrides(cmdline=target.request.guest.cmdline.replace("panic=-1", "panic=-2"))
    )


def other_document(target: Target) -> tuple[KokonError | None, tuple[str, ...]]:
    """A launch document with one word changed: the application would write its log of visits elsewhere."""
    changed = target.request.document.replace(b"[env]", b'[env]\n"CLINIC_JOURNAL" = "/tmp/open.db"')
    return launch(target, "attack-document", Overrides(document=changed))


def debug_guest(target: Target) -> tuple[KokonError | None, tuple[str, ...]]:
    """A guest whose policy lets the host debug it."""
    return launch(target, "attack-debug", Overrides(policy=DEFAULT_POLICY | DEBUG))


def other_root(target: Target) -> tuple[KokonError | None, tuple[str, ...]]:
    """A processor whose certificates end at another vendor's root."""
    return launch(target, "attack-root", Overrides(keys=target.home / "other-processor"))


def replayed_evidence(target: Target) -> tuple[KokonError | None, tuple[str, ...]]:
    """Evidence of the running clinic, sent again with a key of the attacker's."""
    return replay(target.owner, target.running), ()


ATTACKS: Sequence[Attack] = (
    ("one bit changed in a layer at the registry", layer_changed),
    ("image signed by somebody else", foreign_signature),
    ("another kernel", other_kernel),
    ("one word changed on the command line", other_cmdline),
    ("another launch document", other_document),
    ("evidence replayed for a second release", replayed_evidence),
    ("a debug-enabled guest", debug_guest),
    ("certificates of another vendor root", other_root),
)
# These two change the registry that others pull from.
EXCLUSIVE = (layer_changed, foreign_signature)


def play(target: Target, done: Callable[[Outcome], None], attacks: Sequence[Attack] = ATTACKS) -> list[Outcome]:
    """Carry out all attacks, two at a time, and call `done` with each outcome."""
    registry = threading.Lock()
    before = target.owner.log()

    def carry_out(attack: Attack) -> Outcome:
        name, action = attack
        with registry if action in EXCLUSIVE else contextlib.nullcontext():
            error, phases = action(target)
        outcome = _outcome(target, name, error, phases, len(before))
        done(outcome)
        return outcome

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(carry_out, attacks))


def _outcome(target: Target, name: str, error: KokonError | None, phases: tuple[str, ...], since: int) -> Outcome:
    entries = target.owner.log()[since:]
    released = tuple(str(entry.get("resource")) for entry in entries if entry["event"] == "resource-released")
    if error is None:
        return Outcome(name, None, "it was not refused", phases, released, logged=False)
    denial = _DENIAL.search(f"{error.hint} {error.message}")
    # The server tells a guest no more than a code and an id; the reason is in the owner's log under that id.
    code = str(error.found) if error.code == "provisioning-denied" else error.code
    reason = target.owner.reason(denial[1]) if denial else error.message
    logged = any(entry.get("code") == code for entry in entries)
    return Outcome(name, code, reason, phases, released, logged)
