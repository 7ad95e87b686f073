"""Which launch input explains an SNP measurement that is not the expected one. Pure.

A digest says nothing about its inputs, so this tries: every change of one or two inputs among those that are commonly
wrong (number and model of CPUs, guest features, hypervisor, kernel hashes left out, command line empty or with other
white space) and the alternatives that the caller knows (other kernels, initrds, firmware, command lines). The firmware
is hashed once and the CPUs' pages are chained, so hundreds of launches cost less than a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.explanation import Explanation, Finding, first_difference
from kokon.tee.snp.hashes import KernelHashes, cmdline_digest
from kokon.tee.snp.measure import measure_snp
from kokon.tee.snp.ovmf import Ovmf
from kokon.tee.snp.pages import LaunchDigest
from kokon.tee.snp.vmsa import CPU_SIGNATURES, VMMS, vmsa_page

FEATURE_BITS: Final = 16
"""How many bits of SEV_FEATURES are tried: all that are defined so far."""
CHANGES: Final = 2
"""How many inputs may differ at once."""
EMPTY: Final = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
"""SHA-256 of nothing, which stands for a missing initrd."""


@dataclass(frozen=True, slots=True)
class Part:
    """A kernel or initrd by a name for people and its SHA-256."""

    name: str
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Firmware:
    """A firmware image by a name for people."""

    name: str
    image: Ovmf


@dataclass(frozen=True, slots=True)
class SnpLaunch:
    """All inputs of a launch. `kernel` None: no kernel hashes; `signature` is CPUID's, `features` SEV_FEATURES."""

    firmware: Firmware
    kernel: Part | None
    initrd: Part | None
    cmdline: str
    vcpus: int
    signature: int
    features: int = 1
    vmm: str = "qemu"


@dataclass(frozen=True, slots=True)
class Alternatives:
    """What else may have been launched. `vcpus` is the highest number of CPUs that is tried."""

    firmwares: tuple[Firmware, ...] = ()
    kernels: tuple[Part, ...] = ()
    initrds: tuple[Part, ...] = ()
    cmdlines: tuple[str, ...] = ()
    vcpus: int = 256


def _hashes(launch: SnpLaunch) -> KernelHashes | None:
    if launch.kernel is None:
        return None
    initrd = launch.initrd.sha256 if launch.initrd else EMPTY
    return KernelHashes(launch.kernel.sha256, initrd, cmdline_digest(launch.cmdline))


def launch_digest(launch: SnpLaunch, firmware_digest: bytes | None = None) -> bytes:
    """The 48-byte digest of a launch. Raises `MalformedError` as `measure_snp` does."""
    return measure_snp(
        launch.firmware.image,
        _hashes(launch),
        vcpus=launch.vcpus,
        signature=launch.signature,
        features=launch.features,
        vmm=launch.vmm,
        firmware_digest=firmware_digest,
    )


def cpu_name(signature: int) -> str:
    """QEMU's name for a CPUID signature, or the number in hex."""
    return next((name for name, known in CPU_SIGNATURES.items() if known == signature), f"{signature:#010x}")


def _digest_of(firmware: Firmware) -> bytes:
    digest = LaunchDigest()
    digest.add(firmware.image.address, firmware.image.data)
    return digest.value


def _cmdlines(launch: SnpLaunch, alternatives: Alternatives) -> Iterator[str]:
    text = launch.cmdline
    variants = ("", text.strip(), f"{text} ", f"{text}\n", f" {text}", " ".join(text.split()), *alternatives.cmdlines)
    yield from (variant for variant in dict.fromkeys(variants) if variant != text)


def _single_changes(launch: SnpLaunch, alternatives: Alternatives) -> Iterator[SnpLaunch]:
    """Launches that differ from this one in one input other than its CPUs."""
    for firmware in alternatives.firmwares:
        if firmware.image.data != launch.firmware.image.data:
            yield replace(launch, firmware=firmware)
    if launch.vmm in VMMS:
        yield from (replace(launch, vmm=vmm) for vmm in VMMS if vmm != launch.vmm)
    yield from (replace(launch, kernel=part) for part in alternatives.kernels if part != launch.kernel)
    if launch.kernel is None:
        return
    yield replace(launch, kernel=None)
    initrds = (None, *alternatives.initrds)
    yield from (replace(launch, initrd=part) for part in initrds if part != launch.initrd)
    yield from (replace(launch, cmdline=text) for text in _cmdlines(launch, alternatives))


def _cpu_changes(launch: SnpLaunch, most: int) -> Iterator[SnpLaunch]:
    """Launches with up to `most` of CPU model and guest features changed, number of CPUs aside."""
    models = [launch.signature, *(s for s in CPU_SIGNATURES.values() if s != launch.signature)]
    features = [launch.features, *(launch.features ^ 1 << bit for bit in range(FEATURE_BITS))]
    for signature in models:
        for feature in features:
            if (signature != launch.signature) + (feature != launch.features) <= most:
                yield replace(launch, signature=signature, features=feature)


def _with_cpus(launch: SnpLaunch, measured: bytes, known: bytes, most: int) -> SnpLaunch | None:
    """The launch with the number of CPUs, up to `most`, that leads to `measured`."""
    one = replace(launch, vcpus=1)
    digest = LaunchDigest(launch_digest(one, known))
    if digest.value == measured:
        return one
    eip = launch.firmware.image.reset_eip
    if eip is None:
        return None
    page = vmsa_page(eip, launch.features, launch.signature, launch.vmm)
    for vcpus in range(2, most + 1):
        digest.add_vmsa(page)
        if digest.value == measured:
            return replace(launch, vcpus=vcpus)
    return None


def _changes(first: SnpLaunch, second: SnpLaunch) -> int:
    pairs = (
        (first.firmware, second.firmware),
        (first.kernel, second.kernel),
        (first.initrd, second.initrd),
        (first.cmdline, second.cmdline),
        (first.vcpus, second.vcpus),
        (first.signature, second.signature),
        (first.features, second.features),
        (first.vmm, second.vmm),
    )
    return sum(a != b for a, b in pairs)


def _found_among(
    base: SnpLaunch, expected: SnpLaunch, measured: bytes, known: bytes, alternatives: Alternatives
) -> Iterator[SnpLaunch]:
    """Launches like `base`, apart from the CPUs, that lead to `measured`."""
    left = CHANGES - _changes(base, expected)
    for launch in _cpu_changes(base, left):
        spent = _changes(launch, expected)
        most = max(expected.vcpus, alternatives.vcpus) if spent < CHANGES else expected.vcpus
        try:
            found = _with_cpus(launch, measured, known, most)
        except MalformedError:
            continue  # such a launch is impossible, so it is not what happened
        if found is not None and _changes(found, expected) <= CHANGES:
            yield found


def explain_snp(expected: SnpLaunch, measured: bytes, alternatives: Alternatives = Alternatives()) -> Explanation:
    """What differs between the expected launch and the one that led to `measured` (48 bytes).

    Among several explanations the one with fewest changes is given. Raises `MalformedError` if the expected launch
    itself is impossible (codes of `measure_snp`).
    """
    digests = {expected.firmware.image.data: _digest_of(expected.firmware)}
    if launch_digest(expected, digests[expected.firmware.image.data]) == measured:
        return Explanation(matches=True)
    once = list(_single_changes(expected, alternatives))
    twice = [second for first in once for second in _single_changes(first, alternatives)]
    best: SnpLaunch | None = None
    for launch in (expected, *once, *twice):
        if _changes(launch, expected) > CHANGES:
            continue
        data = launch.firmware.image.data
        if data not in digests:
            digests[data] = _digest_of(launch.firmware)
        for found in _found_among(launch, expected, measured, digests[data], alternatives):
            if best is None or _changes(found, expected) < _changes(best, expected):
                best = found
        if best is not None and _changes(best, expected) == 1:
            break
    tried = f"1 to {alternatives.vcpus} CPUs, {len(CPU_SIGNATURES)} CPU models, guest features, hypervisors, "
    tried += f"kernel hashes left out, {len(once)} other inputs, and pairs of these"
    return Explanation(matches=False, findings=() if best is None else tuple(_findings(expected, best)), tried=tried)


def _part(part: Part | None) -> str:
    return "none" if part is None else f"{part.name} (sha256:{part.sha256.hex()[:16]})"


def _findings(expected: SnpLaunch, found: SnpLaunch) -> Iterator[Finding]:
    if expected.firmware != found.firmware:
        yield Finding("firmware", expected.firmware.name, found.firmware.name)
    if expected.vmm != found.vmm:
        yield Finding("hypervisor", expected.vmm, found.vmm)
    if expected.kernel is not None and found.kernel is None:
        yield Finding("kernel hashes", "measured", "left out of the measurement")
    elif expected.kernel != found.kernel:
        yield Finding("kernel", _part(expected.kernel), _part(found.kernel))
    if expected.initrd != found.initrd:
        yield Finding("initrd", _part(expected.initrd), _part(found.initrd))
    if expected.cmdline != found.cmdline:
        yield Finding("cmdline", *first_difference(expected.cmdline, found.cmdline))
    if expected.vcpus != found.vcpus:
        yield Finding("vcpus", str(expected.vcpus), str(found.vcpus))
    if expected.signature != found.signature:
        yield Finding("cpu model", cpu_name(expected.signature), cpu_name(found.signature))
    if expected.features != found.features:
        yield Finding("guest features", f"{expected.features:#x}", f"{found.features:#x}")
