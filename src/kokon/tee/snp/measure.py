"""What an SNP launch will measure to, computed without the hardware. Pure: contents are arguments.

Order of a launch under QEMU, as the public vectors confirm it: the firmware's pages, then each section of its SEV
metadata, then one VMSA page for each virtual CPU. Launches of plain SEV and of SEV-ES, which hash firmware, kernel
hashes and VMSA pages in one run of SHA-256, are here for completeness.
"""

from __future__ import annotations

import hashlib
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.snp import ovmf as fw
from kokon.tee.snp.hashes import KernelHashes
from kokon.tee.snp.pages import CPUID, PAGE, SECRETS, UNMEASURED, ZERO, LaunchDigest
from kokon.tee.snp.vmsa import BSP_EIP, EC2, vmsa_page

VCPUS_LIMIT: Final = 4096


def measure_snp(
    firmware: fw.Ovmf,
    hashes: KernelHashes | None,
    *,
    vcpus: int,
    signature: int,
    features: int = 0x1,
    vmm: str = "qemu",
    firmware_digest: bytes | None = None,
) -> bytes:
    """The 48-byte launch digest.

    `hashes` None: no direct kernel boot. `signature`: CPUID's family, model and stepping (`vmsa.cpu_signature`);
    `features`: SEV_FEATURES; `vmm`: one of `vmsa.VMMS`.

    Raises `MalformedError`: `firmware-no-hashes`, `firmware-no-sections`, `firmware-section-unknown`,
    `firmware-no-reset`, `vcpus-range`, `vmm-unknown`.
    """
    _check_vcpus(vcpus)
    if not firmware.sections:
        raise MalformedError("firmware-no-sections", "the firmware has no SEV metadata, SNP cannot launch it")
    if hashes is not None and (
        firmware.hashes_address is None or not any(s.kind == fw.SECTION_KERNEL_HASHES for s in firmware.sections)
    ):
        raise MalformedError(
            "firmware-no-hashes",
            "the firmware has no place for kernel hashes, so a kernel would not be measured",
            hint="use the AmdSev build of OVMF",
        )
    if firmware_digest is None:
        digest = LaunchDigest()
        digest.add(firmware.address, firmware.data)
    else:
        digest = LaunchDigest(firmware_digest)
    for section in firmware.sections:
        _add_section(digest, firmware, section, hashes, vmm)
    if vmm in EC2:
        for section in firmware.sections:
            if section.kind == fw.SECTION_CPUID:
                digest.add_unmeasured(CPUID, section.address)
    for page in _vmsa_pages(firmware, vcpus, features, signature, vmm):
        digest.add_vmsa(page)
    return digest.value


def measure_sev(
    firmware: fw.Ovmf,
    hashes: KernelHashes | None,
    *,
    vcpus: int | None = None,
    signature: int = 0,
    vmm: str = "qemu",
) -> bytes:
    """The 32-byte launch digest of SEV, or, with a number of `vcpus`, of SEV-ES (AMD document 55766, LAUNCH_MEASURE).

    Raises `MalformedError`: `firmware-no-hashes`, `firmware-no-reset`, `vcpus-range`, `vmm-unknown`.
    """
    if hashes is not None and firmware.hashes_address is None:
        raise MalformedError(
            "firmware-no-hashes",
            "the firmware has no place for kernel hashes, so a kernel would not be measured",
            hint="use the AmdSev build of OVMF",
        )
    digest = hashlib.sha256(firmware.data)
    if hashes is not None:
        digest.update(hashes.table())
    if vcpus is not None:
        _check_vcpus(vcpus)
        for page in _vmsa_pages(firmware, vcpus, 0, signature, vmm):
            digest.update(page)
    return digest.digest()


def _check_vcpus(vcpus: int) -> None:
    if not 1 <= vcpus <= VCPUS_LIMIT:
        raise MalformedError("vcpus-range", "impossible number of CPUs", expected=f"1 to {VCPUS_LIMIT}", found=vcpus)


def _add_section(
    digest: LaunchDigest, firmware: fw.Ovmf, section: fw.Section, hashes: KernelHashes | None, vmm: str
) -> None:
    if section.kind == fw.SECTION_MEMORY and vmm == "gce":
        digest.add_unmeasured(UNMEASURED, section.address, section.size)
    elif section.kind in (fw.SECTION_MEMORY, fw.SECTION_SVSM_CAA):
        digest.add_unmeasured(ZERO, section.address, section.size)
    elif section.kind == fw.SECTION_SECRETS:
        digest.add_unmeasured(SECRETS, section.address)
    elif section.kind == fw.SECTION_CPUID:
        if vmm not in EC2:  # Amazon's hypervisor adds this page after all others
            digest.add_unmeasured(CPUID, section.address)
    elif section.kind == fw.SECTION_KERNEL_HASHES:
        if hashes is None or firmware.hashes_address is None:
            digest.add_unmeasured(ZERO, section.address, section.size)
        else:
            if section.size != PAGE or firmware.hashes_address - firmware.hashes_address % PAGE != section.address:
                raise MalformedError("firmware-no-hashes", "the kernel hashes lie outside the section for them")
            digest.add(section.address, hashes.page(firmware.hashes_address % PAGE))
    else:
        raise MalformedError("firmware-section-unknown", "the firmware asks for an unknown section", found=section.kind)


def _vmsa_pages(firmware: fw.Ovmf, vcpus: int, features: int, signature: int, vmm: str) -> list[bytes]:
    pages = [vmsa_page(BSP_EIP, features, signature, vmm)]
    if vcpus > 1:
        if firmware.reset_eip is None:
            raise MalformedError("firmware-no-reset", "the firmware does not tell where further CPUs start")
        pages += [vmsa_page(firmware.reset_eip, features, signature, vmm)] * (vcpus - 1)
    return pages
