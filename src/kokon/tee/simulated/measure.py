"""What the simulated processor measures of a launch. Pure: contents are arguments, argv is parsed and never run here.

The digest is SNP's page chain over, in this order, the firmware's pages below 4 GiB, one page with QEMU's
kernel-hashes table, and a VMSA page for each CPU. Debian's SeaBIOS has no SEV metadata to say where that table goes,
so it has a fixed address here; this and the missing metadata pages are where a simulated digest differs from one of
real hardware (docs/LIMITATIONS).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kokon.errors import MalformedError
from kokon.tee.simulated.argv import LaunchInputs, launch_inputs
from kokon.tee.snp.hashes import KernelHashes, cmdline_digest
from kokon.tee.snp.pages import PAGE, LaunchDigest
from kokon.tee.snp.vmsa import BSP_EIP, CPU_SIGNATURES, SEV_FEATURE_SNP, vmsa_page
from kokon.wire import unhex

if TYPE_CHECKING:
    from kokon.launch.image import GuestImage

__all__ = ["LaunchInputs", "launch_inputs", "measure_guest", "measure_simulated"]

HASHES_ADDRESS: Final = 0x0081_0000
"""Where the AmdSev build of OVMF keeps the page with the kernel hashes."""
MAX_SIGNATURE: Final = 0x0000_0663
"""CPUID signature that stands for QEMU's model "max", whatever it is on the machine."""
FIRMWARE_LIMIT: Final = 16 << 20
VCPUS_LIMIT: Final = 64
FOUR_GIB: Final = 1 << 32


def cpu_signature(cpu: str) -> int:
    """CPUID signature of the model part of a QEMU `-cpu` argument. Raises `MalformedError` (`cpu-model-unknown`)."""
    model = cpu.partition(",")[0]
    signatures = {"max": MAX_SIGNATURE} | dict(CPU_SIGNATURES)
    if model not in signatures:
        raise MalformedError(
            "cpu-model-unknown",
            "the simulated processor does not know this CPU model",
            expected=", ".join(signatures),
            found=model,
        )
    return signatures[model]


def measure_simulated(firmware: bytes, hashes: KernelHashes, *, vcpus: int, cpu: str) -> bytes:
    """The 48-byte launch digest of a simulated guest.

    Raises `MalformedError` (`firmware-size`, `vcpus-range`, `cpu-model-unknown`).
    """
    if not PAGE <= len(firmware) <= FIRMWARE_LIMIT or len(firmware) % PAGE:
        raise MalformedError(
            "firmware-size", "the firmware is not made of whole pages or too large", found=f"{len(firmware)} bytes"
        )
    if not 1 <= vcpus <= VCPUS_LIMIT:
        raise MalformedError("vcpus-range", "impossible number of CPUs", expected=f"1 to {VCPUS_LIMIT}", found=vcpus)
    page = vmsa_page(BSP_EIP, SEV_FEATURE_SNP, cpu_signature(cpu))
    digest = LaunchDigest()
    digest.add(FOUR_GIB - len(firmware), firmware)
    digest.add(HASHES_ADDRESS, hashes.page(0))
    for _cpu in range(vcpus):
        digest.add_vmsa(page)
    return digest.value


def measure_guest(
    image: GuestImage, vcpus: int, cpu: str = "max,-cx16", *, read: Callable[[Path], bytes] = Path.read_bytes
) -> bytes:
    """What a guest image will measure to: the reference value for it. `read` gives the content of its firmware file.

    Raises as `measure_simulated`, and `MalformedError`: `firmware-digest`, `hex-malformed`, `cmdline-malformed`;
    whatever `read` raises.
    """
    firmware = read(image.firmware)
    if hashlib.sha256(firmware).hexdigest() != image.parts["firmware"].sha256:
        raise MalformedError(
            "firmware-digest", "the firmware is not the one that the guest image names", hint="kokon guest build"
        )
    kernel, initrd = (unhex(image.parts[role].sha256, what=role, size=32) for role in ("kernel", "initrd"))
    hashes = KernelHashes(kernel, initrd, cmdline_digest(image.cmdline))
    return measure_simulated(firmware, hashes, vcpus=vcpus, cpu=cpu)
