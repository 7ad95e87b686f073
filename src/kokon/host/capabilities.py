"""What this machine can do for confidential containers: looked at, never assumed.

Each finding says what was seen and where. That hardware or a kernel claims a feature is not that a guest was started
with it, so such findings are worded as claims. Paths are read below `root`, so that tests can make up a machine.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kokon.host.kvm import qemu_version
from kokon.host.launch import available_memory
from kokon.host.qemu import PROGRAM

State = Literal["ok", "missing", "unknown"]

MEMORY_NEEDED = 512
"""MiB that one small guest and the processes beside it take."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `needed` says that `kokon run` cannot do without it."""

    name: str
    state: State
    seen: str
    hint: str | None = None
    needed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        members = {name: getattr(self, name) for name in ("name", "state", "seen", "hint", "needed")}
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Program:
    """A program, the Debian package it comes in, and what it is for."""

    name: str
    package: str
    purpose: str
    needed: bool = False


PROGRAMS = (
    Program(PROGRAM, "qemu-system-x86", "runs guests", needed=True),
    Program("dpkg-deb", "dpkg", "kokon guest build"),
    Program("apt-get", "apt", "kokon guest build"),
    Program("docker-registry", "docker-registry", "make demo"),
    Program("podman", "podman", "make demo: the ordinary container to compare with"),
    Program("buildah", "buildah", "building images to seal"),
)

DISTRIBUTIONS = ("cryptography", "cbor2", "cyclopts", "httpx2", "msgspec", "rich", "starlette", "uvicorn")


def examine(root: Path = Path("/")) -> list[Finding]:
    """All findings about the machine whose file system is at `root`."""
    flags = cpu_flags(root / "proc/cpuinfo")
    objects = qemu_objects()
    return [
        snp_host(root, flags, objects),
        tdx_host(root, flags, objects),
        sgx(root, flags),
        inside_enclave(root, flags),
        kvm_device(root),
        tpm(root),
        memory(root),
        *programs(PROGRAMS, shutil.which),
        *distributions(DISTRIBUTIONS),
    ]


def cpu_flags(cpuinfo: Path) -> frozenset[str]:
    """Feature flags of the first processor (proc(5), cpuinfo); empty if unknown."""
    text = _read(cpuinfo) or ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(1 << 20).decode("utf-8", "replace").strip()
    except OSError:
        return None


def qemu_objects() -> frozenset[str]:
    """Kinds of objects that QEMU can make; empty if it cannot be run."""
    try:
        answer = subprocess.run(
            [PROGRAM, "-object", "help"], capture_output=True, timeout=20, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return frozenset(line.strip() for line in answer.stdout.decode("utf-8", "replace").splitlines())


def _hardware(name: str, seen: dict[str, bool], hint: str) -> Finding:
    """`seen` maps each observation to whether it was made; only all together are called ok, and then as a claim."""
    text = "; ".join(f"{what}: {'yes' if there else 'no'}" for what, there in seen.items())
    if all(seen.values()):
        return Finding(name, "ok", f"{text} (what they claim; no guest was started to prove it)")
    return Finding(name, "missing", text, hint)


def snp_host(root: Path, flags: frozenset[str], objects: frozenset[str]) -> Finding:
    """Whether guests with AMD SEV-SNP could be started here."""
    enabled = _read(root / "sys/module/kvm_amd/parameters/sev_snp")
    seen = {
        "CPU flag sev_snp": "sev_snp" in flags,
        "kvm_amd sev_snp=Y": enabled in ("Y", "1"),
        "/dev/sev": (root / "dev/sev").exists(),
        "QEMU object sev-snp-guest": "sev-snp-guest" in objects,
    }
    hint = (
        "needs an AMD EPYC 7003 or later with SNP switched on in its firmware settings, Linux 6.11 or later"
        " with kvm_amd.sev_snp=1, and QEMU 9.1 or later (Debian 12: bookworm-backports)"
    )
    return _hardware("SEV-SNP guests", seen, hint)


def tdx_host(root: Path, flags: frozenset[str], objects: frozenset[str]) -> Finding:
    """Whether guests with Intel TDX could be started here."""
    enabled = _read(root / "sys/module/kvm_intel/parameters/tdx")
    seen = {
        "CPU flag tdx_host_platform": "tdx_host_platform" in flags,
        "kvm_intel tdx=Y": enabled in ("Y", "1"),
        "QEMU object tdx-guest": "tdx-guest" in objects,
    }
    hint = (
        "needs an Intel Xeon of the 4th generation or later with TDX switched on in its firmware settings, Linux 6.16"
        " or later with kvm_intel.tdx=1, and QEMU 10.1 or later (Debian 13: trixie-backports)"
    )
    return _hardware("TDX guests", seen, hint)


def sgx(root: Path, flags: frozenset[str]) -> Finding:
    """Whether SGX enclaves could be started here."""
    seen = {
        "CPU flag sgx": "sgx" in flags,
        "CPU flag sgx_lc": "sgx_lc" in flags,
        "/dev/sgx_enclave": (root / "dev/sgx_enclave").exists(),
        "/dev/sgx_provision": (root / "dev/sgx_provision").exists(),
    }
    hint = (
        "needs an Intel Xeon with SGX and launch control switched on in its firmware settings, and Linux 5.11 or later"
    )
    return _hardware("SGX enclaves", seen, hint)


def inside_enclave(root: Path, flags: frozenset[str]) -> Finding:
    """Whether this machine is itself a confidential virtual machine."""
    if (root / "dev/sev-guest").exists():
        return Finding("inside an enclave", "ok", "/dev/sev-guest is there: this machine says it is an SEV-SNP guest")
    if (root / "dev/tdx_guest").exists() or "tdx_guest" in flags:
        return Finding("inside an enclave", "ok", "this machine says it is a TDX guest")
    return Finding(
        "inside an enclave",
        "missing",
        "neither /dev/sev-guest nor /dev/tdx_guest",
        "rent a confidential virtual machine to run containers in place",
    )


def kvm_device(root: Path) -> Finding:
    """Whether KVM offers itself; whether it boots a guest only `kokon.host.kvm.probe_kvm` knows."""
    if (root / "dev/kvm").exists():
        return Finding(
            "KVM", "unknown", "/dev/kvm is there, which does not show that a guest boots", "see: kokon doctor --probe"
        )
    return Finding(
        "KVM",
        "missing",
        "no /dev/kvm: guests run in emulation (slower, otherwise the same)",
        "switch virtualisation on in the firmware settings, or choose a machine type with nested virtualisation",
    )


def tpm(root: Path) -> Finding:
    """Whether there is a TPM 2.0."""
    version = _read(root / "sys/class/tpm/tpm0/tpm_version_major")
    if version == "2" and (root / "dev/tpmrm0").exists():
        return Finding("TPM", "ok", "/dev/tpmrm0, version 2")
    seen = "no /sys/class/tpm/tpm0" if version is None else f"version {version}, /dev/tpmrm0 missing or too old"
    return Finding("TPM", "missing", seen, "switch the TPM on in the firmware settings; Kokon's guests do not need it")


def memory(root: Path) -> Finding:
    """Whether there is room for one guest."""
    free = available_memory(root / "proc/meminfo")
    if free is None:
        return Finding("memory", "unknown", "the kernel does not say", needed=True)
    state: State = "ok" if free >= MEMORY_NEEDED else "missing"
    hint = None if state == "ok" else f"free some: one guest needs {MEMORY_NEEDED} MiB with all around it"
    return Finding("memory", state, f"{free} MiB available", hint, needed=True)


def programs(wanted: Iterable[Program], which: Callable[[str], str | None]) -> list[Finding]:
    """Whether each program is installed, and how to get it."""
    findings = []
    for program in wanted:
        path = which(program.name)
        if path is None:
            hint = f"sudo apt-get install {program.package}   ({program.purpose})"
            findings.append(Finding(program.name, "missing", "not found", hint, program.needed))
        else:
            seen = (qemu_version() or path) if program.name == PROGRAM else path
            findings.append(Finding(program.name, "ok", seen, needed=program.needed))
    return findings


def distributions(wanted: Iterable[str]) -> list[Finding]:
    """Whether each Python distribution is installed."""
    findings = []
    for name in wanted:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            hint = "pip install --require-hashes -r requirements.lock"
            findings.append(Finding(f"python: {name}", "missing", "not installed", hint, needed=True))
        else:
            findings.append(Finding(f"python: {name}", "ok", version, needed=True))
    return findings
