"""The application from ciphertext to a running container: pull, unseal, provision, start, serve, close.

The order is the security property: nothing secret is asked for before everything public was checked.
"""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.errors import InternalError
from kokon.guest.agent import container as containers
from kokon.guest.agent import disks, kernel
from kokon.guest.agent.logs import Collector, LogRing
from kokon.guest.agent.network import resolve
from kokon.guest.agent.oci import Bind, ContainerSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from kokon.guest.agent.kbs import KeyBroker
    from kokon.guest.agent.netns import AppNetwork
    from kokon.guest.agent.reap import Children
    from kokon.guest.agent.users import User
    from kokon.guest.agent.work import Door, Launch
    from kokon.image.open import PulledImage
    from kokon.launch.document import VolumeUse

_VOLUME_OPTIONS = ("rbind", "rw", "nosuid", "nodev")
_LOOK_FOR_PORT = 0.03
CONNECTIONS = 64
"""Attested TLS connections at once: with their threads and buffers they stay well within `container.RESERVE`."""
IDLE = 600.0
"""Seconds of silence after which a connection to the application is broken off."""


class Workload:
    """The one application of this guest. The steps are called once each, in the order in which they are written."""

    def __init__(self, launch: Launch, children: Children, broker: KeyBroker, scratch: Path) -> None:
        self._launch = launch
        self._document = launch.document
        self._children = children
        self._broker = broker
        self._scratch = scratch
        self._rootfs = scratch / "rootfs"
        self._work = containers.WORK
        self._pulled: PulledImage | None = None
        self._network: AppNetwork | None = None
        self._spec: ContainerSpec | None = None
        self._token = b""
        self._log = LogRing()
        self._collector = Collector(self._log)
        self._mounted: list[Path] = []
        self._ended = threading.Event()

    @property
    def has_volumes(self) -> bool:
        """Whether the launch document names volumes."""
        return bool(self._document.volumes)

    @property
    def is_block(self) -> bool:
        """Whether the image that was pulled is a block image, on a disk of the host's."""
        return self._image().block is not None

    def pull(self) -> None:
        """Pull the image's ciphertext to the scratch disk and check all that can be checked without keys."""
        from kokon.image.fetch import Fetcher
        from kokon.image.open import pull_image

        image = self._document.image
        with Fetcher(image.registry, image.repository, resolve=resolve) as fetcher:
            self._pulled = pull_image(image, fetcher, self._scratch, now=datetime.now(UTC))

    def unseal(self) -> None:
        """Ask for the layers' keys, decrypt and unpack; or open the block image."""
        from kokon.image.open import block_key, unseal_layers

        pulled = self._image()
        keys = {uri: self._broker.resource(uri) for uri in pulled.kek_ids()}
        if pulled.block is None:
            unseal_layers(pulled, keys, self._rootfs)
            return
        from kokon.guest.agent.blockimage import SERIAL, Places, mount_block

        places = Places(self._work / "image", self._scratch, self._rootfs)
        mount_block(disks.find_disk(SERIAL), pulled.block.info, block_key(pulled, keys), places)

    def provision(self) -> None:
        """Ask for the application's secrets and volumes' keys; make everything that the container needs."""
        from kokon.guest.agent.netns import AppNetwork

        config = self._image().config
        secrets = {secret.name: self._broker.resource(secret.resource) for secret in self._document.secrets}
        self._token = self._broker.resource(self._document.log_key)
        user = containers.container_user(config, self._rootfs)
        containers.make_directory(self._rootfs, config.working_directory)
        binds = [self._volume(volume, user) for volume in self._document.volumes]
        binds += containers.write_names(self._document.workload, self._work)
        binds += containers.write_secrets(self._document, secrets, user, self._work)
        self._network = AppNetwork()
        self._spec = containers.plan(
            self._document,
            config,
            user,
            secrets,
            binds,
            rootfs=self._rootfs,
            network=f"/proc/{os.getpid()}/fd/{self._network.descriptor}",
            memory=containers.memory_limit(Path("/proc/meminfo").read_text()),
        )

    def start(self) -> containers.Container:
        """Start the container; its output goes to the log."""
        if self._spec is None:
            raise _out_of_order()
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        self._collector.collect(out_read, err_read)
        try:
            return containers.Container.start(self._children, self._spec, out_write, err_write, self._work)
        finally:
            os.close(out_write)
            os.close(err_write)
            self._spec = None

    def serve(self, door: Door, ready: Callable[[], None]) -> None:
        """Open the attested front door; `ready` is called from another thread once the application's port answers."""
        from kokon.channel.serve import AttestedServer, Limits
        from kokon.guest.agent.presence import Presence

        if self._network is None:
            raise _out_of_order()
        network, port = self._network, self._document.port
        names = (*(s.name for s in self._document.secrets), *(v.name for v in self._document.volumes))
        presence = Presence(
            self._launch.data, self._image().envelope, self._launch.evidence, self._log, self._token, names
        )
        presence.mark_started(datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z"))
        limits = Limits(connections=CONNECTIONS, idle=IDLE)
        AttestedServer(presence, door.key, door.certificate, lambda: network.connect(port), limits=limits).start()
        threading.Thread(target=self._await_port, args=(network, port, ready), name="ready", daemon=True).start()

    def close(self) -> None:
        """After the application's end: take in the rest of its output, release the volumes."""
        self._ended.set()
        self._collector.finish(1.0)
        for target in reversed(self._mounted):
            try:
                kernel.umount(str(target))
            except OSError:
                continue  # something of the container still holds it; sync at power-off is what counts

    def _await_port(self, network: AppNetwork, port: int, ready: Callable[[], None]) -> None:
        while not self._ended.is_set():
            try:
                network.connect(port).close()
            except OSError:
                time.sleep(_LOOK_FOR_PORT)
                continue
            ready()
            return

    def _volume(self, use: VolumeUse, user: User) -> Bind:
        from kokon.guest.agent.volume import Owner, Volume

        target = self._work / "volumes" / use.name
        device = disks.find_disk(disks.volume_serial(use.name))
        owner = Owner(self._document.workload, use.name)
        blank = Volume(self._children, owner, device, self._work).mount(self._broker.resource(use.key), target)
        self._mounted.append(target)
        if blank:
            containers.own_like(self._rootfs, use.path, target, user)
        return Bind(str(target), use.path, _VOLUME_OPTIONS)

    def _image(self) -> PulledImage:
        if self._pulled is None:
            raise _out_of_order()
        return self._pulled


def _out_of_order() -> InternalError:
    return InternalError("internal-error", "a step was taken out of order")
