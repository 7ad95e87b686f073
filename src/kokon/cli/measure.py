"""`kokon measure`: what a launch will measure to, computed without the hardware."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from kokon.cli.inputs import Boot, LaunchFiles, cpu_counts, direct_boot, firmware, memory_size, number, read_input
from kokon.cli.output import emit

DEFAULT_FILES = LaunchFiles()


def snp(
    *,
    files: LaunchFiles = DEFAULT_FILES,
    cpus: str = "1",
    cpu_model: str = "EPYC-v4",
    cpu_signature: str | None = None,
    guest_features: str = "0x1",
    vmm: Literal["qemu", "ec2", "ec2-2023", "gce"] = "qemu",
    json: bool = False,
) -> None:
    """Compute the launch digest of an AMD SEV-SNP guest: the MEASUREMENT of its report.

    The number and model of the CPUs, the guest features and the hypervisor are part of it.

    Example: kokon measure snp --firmware OVMF.amdsev.fd --kernel vmlinuz --initrd initrd --cpus 1-8

    Parameters
    ----------
    cpus
        Number of virtual CPUs; several as 1-8 or 1,2,4.
    cpu_model
        QEMU's name of the CPU model.
    cpu_signature
        CPUID signature (family, model, stepping) instead of --cpu-model.
    guest_features
        SEV_FEATURES of the guest: 0x1 is SNP alone, 0x21 with debug swap.
    vmm
        The hypervisor; they fill the first CPU registers differently.
    json
        Print JSON.
    """
    from kokon.tee.snp import vmsa

    name, data = firmware(files)
    boot = direct_boot(files)
    signature = number(cpu_signature, "the CPU signature") if cpu_signature else vmsa.cpu_signature(cpu_model)
    features = number(guest_features, "guest features")
    measured = _launch_digests(data, boot, cpu_counts(cpus), signature, features, vmm)
    answer: dict[str, Any] = {
        "tee": "snp",
        "firmware": {"name": name, "sha256": hashlib.sha256(data).hexdigest()},
        "boot": _boot(boot),
        "cpu_signature": f"{signature:#010x}",
        "guest_features": f"{features:#x}",
        "vmm": vmm,
        "measurements": [{"vcpus": count, "measurement": digest} for count, digest in measured],
    }
    text = (
        measured[0][1] if len(measured) == 1 else "\n".join(f"{count:>3} CPUs  {digest}" for count, digest in measured)
    )
    emit(answer, text, json)


def _launch_digests(
    data: bytes, boot: Boot | None, counts: tuple[int, ...], signature: int, features: int, vmm: str
) -> list[tuple[int, str]]:
    """The launch digest in hex for each number of CPUs."""
    from kokon.tee.snp.hashes import kernel_hashes
    from kokon.tee.snp.measure import measure_snp
    from kokon.tee.snp.ovmf import parse_ovmf
    from kokon.tee.snp.pages import LaunchDigest

    image = parse_ovmf(data)
    hashes = kernel_hashes(boot.kernel, boot.initrd, boot.cmdline) if boot else None
    known = LaunchDigest()
    known.add(image.address, image.data)

    def digest(vcpus: int) -> str:
        return measure_snp(
            image,
            hashes,
            vcpus=vcpus,
            signature=signature,
            features=features,
            vmm=vmm,
            firmware_digest=known.value,
        ).hex()

    return [(count, digest(count)) for count in counts]


def _boot(boot: Boot | None) -> dict[str, Any] | None:
    if boot is None:
        return None
    return {
        "kernel_sha256": hashlib.sha256(boot.kernel).hexdigest(),
        "initrd_sha256": None if boot.initrd is None else hashlib.sha256(boot.initrd).hexdigest(),
        "cmdline": boot.cmdline,
    }


def tdx(
    *,
    files: LaunchFiles = DEFAULT_FILES,
    memory: str | None = None,
    page_order: Literal["page", "section"] = "page",
    separator: Literal["rtmr0", "rtmr1"] = "rtmr1",
    json: bool = False,
) -> None:
    """Compute MRTD, RTMR1 and RTMR2 of an Intel TDX guest.

    MRTD covers the firmware; RTMR1 and RTMR2 cover a kernel that is booted directly, its command line and initrd.
    RTMR0 also covers ACPI tables and the memory map, which the hypervisor makes, and is not computed.

    Example: kokon measure tdx --firmware OVMF.fd --kernel vmlinuz --initrd initrd --append console=ttyS0 --memory 4G

    Parameters
    ----------
    memory
        The guest's memory, as 4G, for firmware that gets the kernel with the header that QEMU changes for it (OVMF
        before 2025.05); without it the kernel is measured as it is in the file.
    page_order
        Contents measured page by page (KVM as in Linux, Google) or section by section (KVM for TDX before that).
    separator
        The register into which the firmware extends its last separator: builds of OVMF do either.
    json
        Print JSON.
    """
    from kokon.tee.tdx.measure import DirectBoot, measure_boot, mrtd, replayed
    from kokon.tee.tdx.tdvf import parse_tdvf

    name, data = firmware(files)
    sections = parse_tdvf(data)
    registers = {"mrtd": mrtd(sections, page_order).hex()}
    answer: dict[str, Any] = {
        "tee": "tdx",
        "firmware": {"name": name, "sha256": hashlib.sha256(data).hexdigest()},
        "registers": registers,
        "sections": [
            {"name": s.name, "address": f"{s.address:#x}", "size": f"{s.size:#x}", "measured": bool(s.attributes & 1)}
            for s in sections
        ],
    }
    boot = direct_boot(files)
    if boot is not None:
        size = None if memory is None else memory_size(memory)
        launch = DirectBoot(boot.kernel, boot.initrd, boot.cmdline, size, separator == "rtmr1")
        events = measure_boot(launch)
        registers |= {register: replayed(extended).hex() for register, extended in events.items()}
        answer["events"] = {
            register: [{"event": event.what, "digest": event.digest.hex()} for event in extended]
            for register, extended in events.items()
        }
    answer["boot"] = _boot(boot)
    emit(answer, "\n".join(f"{register:<6} {value}" for register, value in registers.items()), json)


def sgx(
    file: Path | None = None,
    *,
    manifest: Path | None = None,
    libpal: Path | None = None,
    sigstruct: Path | None = None,
    json: bool = False,
) -> int:
    """Compute MRENCLAVE of a built SGX enclave: of an SGXS file, or of what Gramine loads.

    With --sigstruct it is compared with what the signer vouched for, and a difference ends with status 1.

    Example: kokon measure sgx --manifest app.manifest.sgx --libpal libpal.so --sigstruct app.sig

    Parameters
    ----------
    file
        The enclave in SGXS format (Fortanix).
    manifest
        Gramine's final manifest (.manifest.sgx).
    libpal
        Gramine's loader, sgx/libpal.so.
    sigstruct
        A SIGSTRUCT (.sig) to compare with.
    json
        Print JSON.
    """
    from kokon.tee.sgx.sigstruct import SIZE, parse_sigstruct

    measured = enclave(file, manifest, libpal)
    answer: dict[str, Any] = {"tee": "sgx", "mrenclave": measured.hex()}
    text = measured.hex()
    same = True
    if sigstruct is not None:
        expected = parse_sigstruct(read_input(sigstruct, SIZE)).mrenclave
        same = expected == measured
        answer |= {"sigstruct_mrenclave": expected.hex(), "matches": same}
        text += "\nthe SIGSTRUCT says the same" if same else f"\nDIFFERS from the SIGSTRUCT: {expected.hex()}"
    emit(answer, text, json)
    return 0 if same else 1


def enclave(file: Path | None, manifest: Path | None, libpal: Path | None) -> bytes:
    """MRENCLAVE of an SGXS file or of a Gramine enclave. Raises `UsageError` (`enclave-options`, `input-...`)."""
    from kokon.errors import UsageError
    from kokon.tee.sgx.gramine import gramine_mrenclave, parse_manifest
    from kokon.tee.sgx.measure import mrenclave, parse_sgxs

    if file is not None and manifest is None and libpal is None:
        return mrenclave(parse_sgxs(read_input(file)))
    if file is None and manifest is not None and libpal is not None:
        return gramine_mrenclave(parse_manifest(read_input(manifest, 64 << 20)), read_input(libpal, 256 << 20))
    raise UsageError(
        "enclave-options",
        "which enclave? Name either an SGXS file, or Gramine's manifest and loader",
        hint="kokon measure sgx app.sgxs, or: --manifest app.manifest.sgx --libpal libpal.so",
    )
