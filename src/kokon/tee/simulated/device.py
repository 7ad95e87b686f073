"""The guest's side of the simulated processor: a virtio-serial port. [G, machine's edge: a device file]"""

from __future__ import annotations

import os
import select
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kokon.errors import HostError, MalformedError, UnreachableError
from kokon.tee.simulated import wire
from kokon.tee.snp.certtable import decode_extended
from kokon.tee.snp.report import parse_report

if TYPE_CHECKING:
    from kokon.tee.evidence import Evidence

PORTS: Final = Path("/sys/class/virtio-ports")
DEVICES: Final = Path("/dev")
TIMEOUT: Final = 30.0


def find_port(name: str = wire.PORT_NAME, ports: Path = PORTS, devices: Path = DEVICES) -> Path:
    """The device file of the virtio-serial port called `name`. Raises `HostError` (`processor-missing`)."""
    try:
        for entry in sorted(ports.iterdir()):
            if (entry / "name").read_text().strip() == name:
                return devices / entry.name
    except OSError:
        pass
    raise HostError("processor-missing", "this machine has no security processor", expected=f"virtio port {name}")


class SimulatedDevice:
    """The processor behind an open port. Safe to use from several threads; after one failure it refuses all further
    requests, since an answer that comes late could be taken for another request's.
    """

    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        """Open the port. Raises `UnreachableError` (`processor-unreachable`)."""
        self._lock = threading.Lock()
        self._timeout = timeout
        try:
            self._port = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise UnreachableError(
                "processor-unreachable", "the security processor's port does not open", found=error.strerror
            ) from error
        self._broken = False

    def close(self) -> None:
        """Close the port."""
        with self._lock:
            if not self._broken:
                self._fail()

    def report(self, report_data: bytes, vmpl: int = 0) -> Evidence:
        """Evidence over 64 bytes of the caller's choice.

        Raises `UnreachableError` (`processor-unreachable`), `MalformedError` (`processor-answer` and those of the
        parsers).
        """
        body = wire.REPORT_BODY.pack(report_data, vmpl, bytes(28))
        evidence = decode_extended(self._request(wire.KIND_REPORT, body))
        if len(report_data) != 64 or parse_report(evidence.report).report_data != report_data:
            raise MalformedError("processor-answer", "the security processor reported on something else")
        return evidence

    def derived_key(
        self, *, fields: int, root: int = 0, vmpl: int = 0, guest_svn: int = 0, tcb: bytes = bytes(8)
    ) -> bytes:
        """A 32-byte key of this chip; `fields` are the ABI's guest field bits (3: measurement, 0: policy, 5: TCB).

        Raises as `report` does.
        """
        key = self._request(wire.KIND_KEY, wire.KEY_BODY.pack(root, 0, fields, vmpl, guest_svn, tcb))
        if len(key) != 32:
            raise MalformedError("processor-answer", "the security processor's key has a wrong size", found=len(key))
        return key

    def _request(self, kind: int, body: bytes) -> bytes:
        with self._lock:
            if self._broken:
                raise UnreachableError("processor-unreachable", "the security processor's port is closed")
            try:
                answer = self._exchange(wire.frame(kind, body))
            except (OSError, UnreachableError, MalformedError) as error:
                self._fail()
                if isinstance(error, OSError):
                    raise UnreachableError(
                        "processor-unreachable", "the security processor does not answer", found=error.strerror
                    ) from error
                raise
        if answer[0] != wire.STATUS_OK:
            raise MalformedError(
                "processor-answer", "the security processor refused the request", expected=0, found=answer[0]
            )
        return answer[1:]

    def _fail(self) -> None:
        self._broken = True
        os.close(self._port)

    def _exchange(self, request: bytes) -> bytes:
        deadline = time.monotonic() + self._timeout
        while request:
            self._wait(select.POLLOUT, deadline)
            request = request[os.write(self._port, request) :]
        (length,) = wire.LENGTH.unpack(self._read(wire.LENGTH.size, deadline))
        if not 1 <= length <= wire.ANSWER_LIMIT:
            raise MalformedError("processor-answer", "the answer has an impossible length", found=length)
        return self._read(length, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        data = b""
        while len(data) < size:
            self._wait(select.POLLIN, deadline)
            chunk = os.read(self._port, size - len(data))
            if not chunk:
                raise UnreachableError("processor-unreachable", "the security processor hung up")
            data += chunk
        return data

    def _wait(self, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._port, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise UnreachableError(
                "processor-unreachable",
                "the security processor does not answer",
                expected=f"within {self._timeout:.0f} s",
            )
