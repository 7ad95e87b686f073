"""The enclave that this process runs in, as the one that a master key is sealed to. [machine's edge: a device]

SEV-SNP, where the server's virtual machine has /dev/sev-guest. Written for real hardware, UNTESTED ON HARDWARE.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kokon.errors import HostError, UsageError
from kokon.provisioning.custody.enclave import processor_key
from kokon.tee.snp import device
from kokon.tee.snp.report import parse_report

if TYPE_CHECKING:
    from kokon.provisioning.custody.enclave import Derive


@dataclass(frozen=True, slots=True)
class SevGuest:
    """The kernel's device of an SNP guest."""

    def derived_key(self, *, fields: int) -> bytes:
        """Raises as `kokon.tee.snp.device.derived_key`."""
        return device.derived_key(fields=fields)


def this_enclave() -> Derive:
    """Derives from this enclave's key. Raises `UsageError` (`custody-no-enclave`), and as the device does."""
    try:
        report = parse_report(device.attest(os.urandom(64)).report)
    except HostError as error:
        raise UsageError(
            "custody-no-enclave",
            "the master key is for an enclave, and this machine is none",
            found=error.message,
            hint="start the server in the confidential virtual machine that the key was sealed in",
        ) from error
    return processor_key(SevGuest(), report.host_data)
