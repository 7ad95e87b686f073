"""The page with the registers that a virtual CPU starts with (VMSA), as QEMU with KVM, Amazon EC2 and Google Compute
Engine fill it.

Layout: AMD64 Architecture Programmer's Manual volume 2, appendix B, state save area for SEV-ES and SEV-SNP. The
register values are those of an x86 reset, apart from what each hypervisor does differently; they were checked against
published launch digests.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.snp.pages import PAGE

BSP_EIP: Final = 0xFFFF_FFF0
SEV_FEATURE_SNP: Final = 0x1
VMMS: Final = ("qemu", "ec2", "ec2-2023", "gce")
"""Known hypervisors. EC2 changed the first value of RDX after its first SNP instances; "ec2-2023" is how it was."""
EC2: Final = ("ec2", "ec2-2023")

CPU_SIGNATURES: Final[Mapping[str, int]] = {
    "EPYC": 0x00800F12,
    "EPYC-Rome": 0x00830F10,
    "EPYC-Milan": 0x00A00F11,
    "EPYC-Genoa": 0x00A10F10,
    "EPYC-Turin": 0x00B00F00,
}
"""CPUID leaf 1 EAX (family, model, stepping) by QEMU's name of the CPU model, without its "-vN" or "-IBPB" ending."""

_SEGMENT = struct.Struct("<HHIQ")


@dataclass(frozen=True, slots=True)
class _Start:
    """What differs between hypervisors: attributes of CS, SS and TR, and RDX, MXCSR, FCW, PAT."""

    cs: int
    ss: int
    tr: int
    rdx: int
    mxcsr: int
    fcw: int
    pat: int = 0x0007040600070406


def cpu_signature(model: str) -> int:
    """CPUID signature of a QEMU model like "EPYC-Milan-v2". Raises `MalformedError` (`cpu-model-unknown`)."""
    name = model.removesuffix("-IBPB")
    base, dash, version = name.rpartition("-v")
    if dash and version.isdecimal():
        name = base
    if name not in CPU_SIGNATURES:
        raise MalformedError(
            "cpu-model-unknown",
            "no signature known for this CPU model",
            expected=", ".join(CPU_SIGNATURES),
            found=model,
        )
    return CPU_SIGNATURES[name]


def cpuid_signature(family: int, model: int, stepping: int) -> int:
    """CPUID leaf 1 EAX of a processor (AMD document 25481, "Fn0000_0001_EAX"). Raises `MalformedError`
    (`cpu-model-unknown`) for numbers that do not fit."""
    if not (0 <= family <= 0x10E and 0 <= model <= 0xFF and 0 <= stepping <= 0xF):
        raise MalformedError("cpu-model-unknown", "no such processor", found=f"{family}, {model}, {stepping}")
    base = min(family, 0xF)
    return (family - base) << 20 | model >> 4 << 16 | base << 8 | (model & 0xF) << 4 | stepping


def _start(vmm: str, eip: int, signature: int) -> _Start:
    if vmm == "qemu":
        return _Start(0x9B, 0x93, 0x8B, signature, 0x1F80, 0x37F)
    if vmm in EC2:
        return _Start(0x9A if eip == BSP_EIP else 0x9B, 0x92, 0x83, 0x600 if vmm == "ec2" else 0, 0, 0)
    if vmm == "gce":
        return _Start(0x9B, 0x93, 0x8B, 0x600, 0, 0, 0x00070106)
    raise MalformedError("vmm-unknown", "unknown hypervisor", expected=", ".join(VMMS), found=vmm)


def vmsa_page(eip: int, features: int, signature: int, vmm: str = "qemu") -> bytes:
    """The 4096 bytes for a CPU that starts at `eip`.

    `features` is SEV_FEATURES (bit 0 SNP, bit 5 debug swap), `signature` CPUID's family, model and stepping.
    Raises `MalformedError` (`vmm-unknown`).
    """
    start = _start(vmm, eip, signature)
    page = bytearray(PAGE)
    segments = {
        0x000: (0, 0x93, 0xFFFF, 0),
        0x010: (0xF000, start.cs, 0xFFFF, eip & 0xFFFF0000),
        0x020: (0, start.ss, 0xFFFF, 0),
        0x030: (0, 0x93, 0xFFFF, 0),
        0x040: (0, 0x93, 0xFFFF, 0),
        0x050: (0, 0x93, 0xFFFF, 0),
        0x060: (0, 0, 0xFFFF, 0),
        0x070: (0, 0x82, 0xFFFF, 0),
        0x080: (0, 0, 0xFFFF, 0),
        0x090: (0, start.tr, 0xFFFF, 0),
    }
    for offset, segment in segments.items():
        _SEGMENT.pack_into(page, offset, *segment)
    quads = {
        0x0D0: 0x1000,  # EFER: SVME
        0x148: 0x40,  # CR4: MCE
        0x158: 0x10,  # CR0: ET
        0x160: 0x400,  # DR7
        0x168: 0xFFFF0FF0,  # DR6
        0x170: 0x2,  # RFLAGS
        0x178: eip & 0xFFFF,  # RIP
        0x268: start.pat,
        0x310: start.rdx,
        0x3B0: features,
        0x3E8: 0x1,  # XCR0: x87
    }
    for offset, value in quads.items():
        struct.pack_into("<Q", page, offset, value)
    struct.pack_into("<I", page, 0x408, start.mxcsr)
    struct.pack_into("<H", page, 0x410, start.fcw)
    return bytes(page)
