"""PID 1 of the guest: one sequence of steps from power-on to power-off. Each step is a function of what came before.

Whatever fails, fails the whole: one status line for the host (a code, never a text), one event for the owner if the
server knows this enclave, power off. An exception that is no `KokonError` is `internal-error` to everybody.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from kokon.errors import KokonError, UntrustedError
from kokon.guest.agent import boot, disks, kmsg, modules, network, ports
from kokon.guest.agent.power import power_off
from kokon.guest.agent.reap import Children
from kokon.guest.agent.status import INTERNAL, StatusPort, status_line, uptime
from kokon.guest.agent.tasks import Task
from kokon.guest.agent.work import Launch

if TYPE_CHECKING:
    from kokon.guest.agent.container import Container, Ending
    from kokon.guest.agent.control import Stop
    from kokon.guest.agent.kbs import KeyBroker
    from kokon.guest.agent.workload import Workload

# The failures whose `found` and `hint` are the server's code and denial id, and nothing else.
_SERVER_CODES = frozenset({"provisioning-denied", "resource-missing"})


class Agent:
    """The run of one guest. `run` goes through the steps, `end` is always last and never returns."""

    def __init__(self) -> None:
        self._status = StatusPort(None)
        self._last: bytes | None = None
        self._broker: KeyBroker | None = None
        self._container: Container | None = None
        self._gate = threading.Lock()
        self._scratch: frozenset[str] | None = None
        self._corrupted: str | None = None

    def run(self) -> None:
        """All steps in order. Raises `KokonError` for the first that fails."""
        index = self._boot()
        launch = self._launch()
        self._phase("agent-ready")
        children = Children()
        self._watch()
        scratch = Task(lambda: launch.scratch(children), "scratch")
        self._broker = launch.broker()
        self._broker.attest()
        self._phase("attested")
        door = Task(launch.door, "door")
        self._scratch = scratch.result()
        workload = launch.workload(children, self._broker)
        workload.pull()
        self._phase("pulled")
        if workload.is_block:
            modules.load(modules.load_order(index, modules.BLOCK))
        workload.unseal()
        self._phase("unsealed")
        self._prepare(workload, index)
        opened = door.result()
        self._phase("provisioned")
        with self._gate:
            self._refuse_corruption()
            self._container = workload.start()
        self._phase("started")
        workload.serve(opened, lambda: self._phase("serving"))
        self._broker.report("application-started", "")
        self._finish(workload, self._container.wait())

    def fail(self, error: KokonError) -> None:
        """Tell the host the code and the owner the whole of a failure; one that a corrupted disk led to is named so."""
        error = self._corruption() or error
        found, hint = (error.found, error.hint) if error.code in _SERVER_CODES else (None, None)
        self._last = status_line(uptime(), "failed", kind=error.kind, code=error.code, found=found, hint=hint)
        if self._broker is not None:
            self._broker.report(error.code, str(error))

    def end(self) -> None:
        """Say the last word, also for an exception that nobody expected, and power off."""
        try:
            corruption = self._corruption() if self._last is None else None
            if corruption is not None:
                self.fail(corruption)
            self._status.write(self._last or status_line(uptime(), "failed", kind="internal", code=INTERNAL))
            self._status.drain()
            if self._last is None and self._broker is not None:
                self._broker.report(INTERNAL, "")
        finally:
            power_off()

    def _boot(self) -> dict[str, modules.Module]:
        boot.mount_all()
        boot.silence()
        self._status = StatusPort(ports.open_port(ports.STATUS, os.O_WRONLY | os.O_NONBLOCK))
        boot.detach_consoles()
        boot.harden()
        descriptor = ports.open_port(ports.CONTROL, os.O_RDONLY)
        if descriptor is not None:
            from kokon.guest.agent.control import follow

            threading.Thread(target=follow, args=(descriptor, self._stop), name="control", daemon=True).start()
        index = modules.read_index()
        modules.load(modules.load_order(index, (*modules.NETWORK, *modules.STORAGE)))
        return index

    def _launch(self) -> Launch:
        network.configure()
        return Launch.read(disks.find_disk("initdata"))

    def _prepare(self, workload: Workload, index: dict[str, modules.Module]) -> None:
        if workload.has_volumes:
            modules.load(modules.load_order(index, modules.VOLUME))
        workload.provision()
        boot.lock_modules()

    def _watch(self) -> None:
        descriptor = kmsg.open_log()
        threading.Thread(target=kmsg.watch, args=(descriptor, self._on_corruption), name="kmsg", daemon=True).start()

    def _on_corruption(self, device: str) -> None:
        self._corrupted = device
        with self._gate:
            if self._container is not None:
                self._container.signal(9)

    def _corruption(self) -> KokonError | None:
        """What became of the disks, also if the watching thread has not come round to it."""
        device = self._corrupted or kmsg.already_reported()
        if device is None:
            return None
        if ":" in device:
            from kokon.guest.agent.blockimage import corrupted

            return corrupted("a block of the image, or of the guest's own root, does not authenticate")
        if self._scratch is None or device in self._scratch:
            return UntrustedError(
                "scratch-corrupted", "a block of the scratch disk does not authenticate", hint="the host changed it"
            )
        return UntrustedError(
            "volume-corrupted", "a block of a volume does not authenticate", hint="the host changed it"
        )

    def _refuse_corruption(self) -> None:
        error = self._corruption()
        if error is not None:
            raise error

    def _stop(self, stop: Stop) -> None:
        with self._gate:
            if self._container is not None:
                self._container.signal(stop.signal)
                return
            self._last = status_line(uptime(), "exited", status=128 + stop.signal, signal=stop.signal)
            self.end()

    def _finish(self, workload: Workload, ending: Ending) -> None:
        workload.close()
        self._refuse_corruption()
        code = "guest-out-of-memory" if ending.out_of_memory else None
        self._last = status_line(
            uptime(), "exited", status=ending.status, signal=ending.signal, code=code, kind="host" if code else None
        )
        if self._broker is not None:
            self._broker.report(code or "application-exited", f"exit status {ending.status}")

    def _phase(self, phase: str) -> None:
        self._status.write(status_line(uptime(), phase))


def main() -> None:
    """Run the guest; only the machine's end ends this."""
    threading.excepthook = lambda _: None
    agent = Agent()
    try:
        agent.run()
    except KokonError as error:
        agent.fail(error)
    finally:
        agent.end()
