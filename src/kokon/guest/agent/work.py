"""What a launch document makes of a booted guest: evidence, a session with its server, a key for its front door."""

from __future__ import annotations

import hmac
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kokon.errors import UntrustedError
from kokon.guest.agent import disks
from kokon.guest.agent.network import resolve
from kokon.launch.document import DOCUMENT_LIMIT, LaunchDocument, document_digest, parse_document, read_disk
from kokon.tee.snp.report import parse_report

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from kokon.guest.agent.kbs import KeyBroker
    from kokon.guest.agent.reap import Children
    from kokon.guest.agent.workload import Workload
    from kokon.tee.evidence import Evidence

SCRATCH = Path("/run/kokon/scratch")


class Device(Protocol):
    """The hardware, as seen from inside."""

    def report(self, report_data: bytes) -> Evidence:
        """Evidence over 64 bytes."""
        ...


def open_device() -> Device:
    """The security processor that this guest has. Raises `HostError`, `UnreachableError`."""
    from kokon.tee.simulated.device import SimulatedDevice, find_port

    return SimulatedDevice(find_port())


@dataclass(frozen=True, slots=True)
class Door:
    """The front door's key and certificate (DER), both made inside."""

    key: EllipticCurvePrivateKey
    certificate: bytes


class Launch:
    """One launch: the document's bytes, what they say, and the device that vouches for them."""

    def __init__(self, data: bytes, device: Device) -> None:
        self.data = data
        self.document: LaunchDocument = parse_document(data)
        self._device = device
        self._lock = threading.Lock()

    @classmethod
    def read(cls, disk: Path) -> Launch:
        """Read the document from its disk. Raises `MalformedError`, `HostError`."""
        return cls(read_disk(disks.read_head(disk, DOCUMENT_LIMIT + 512)), open_device())

    def evidence(self, report_data: bytes) -> Evidence:
        """Evidence over 64 bytes for exactly this launch document, from any thread.

        Raises `UntrustedError` (`launch-document-mismatch`) if the hardware was given another one.
        """
        with self._lock:
            evidence = self._device.report(report_data)
        if not hmac.compare_digest(parse_report(evidence.report).host_data, document_digest(self.data)):
            raise UntrustedError(
                "launch-document-mismatch",
                "the launch document is not the one that the hardware was told of",
                hint="the host exchanged it",
            )
        return evidence

    def scratch(self, children: Children) -> frozenset[str]:
        """Make the encrypted scratch disk ready; the names of its devices."""
        from kokon.guest.agent.scratch import SERIAL, prepare_scratch

        return prepare_scratch(children, disks.find_disk(SERIAL), SCRATCH)

    def broker(self) -> KeyBroker:
        """A session with the provisioning server, not yet begun."""
        from kokon.guest.agent.kbs import Connection, KeyBroker

        connection = Connection(self.document.provisioning, resolve)
        return KeyBroker(connection, self.evidence, self.data.decode())

    def door(self) -> Door:
        """A fresh key for attested TLS and its certificate."""
        from cryptography.hazmat.primitives.asymmetric import ec

        from kokon.channel.mint import make_certificate

        key = ec.generate_private_key(ec.SECP384R1())
        return Door(key, make_certificate(key, self.evidence, datetime.now(UTC)))

    def workload(self, children: Children, broker: KeyBroker) -> Workload:
        """What is to run."""
        from kokon.guest.agent.workload import Workload

        return Workload(self, children, broker, SCRATCH)
