"""`kokon explain`: why a launch was denied, or why evidence does not say what was expected."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from kokon.cli.access import DEFAULT_ACCESS, Access
from kokon.cli.inputs import (
    Boot,
    LaunchFiles,
    boot_of,
    direct_boot,
    firmware,
    guest_image,
    guest_images,
    memory_size,
    number,
    read_input,
)
from kokon.cli.output import emit
from kokon.errors import KokonError, UsageError

if TYPE_CHECKING:
    from kokon.tee.evidence import Claims, Evidence
    from kokon.tee.explanation import Explanation, Finding

MEASURED = ("snp", "tdx", "sgx")
"""TEEs whose measurements can be explained."""
CPUS = 256
"""The highest number of CPUs that is tried."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """How it was meant to be launched, beside the files.

    Parameters
    ----------
    cpus
        Number of virtual CPUs.
    cpu_model
        QEMU's name of the CPU model (SNP).
    guest_features
        SEV_FEATURES of the guest (SNP).
    vmm
        The hypervisor (SNP).
    memory
        The guest's memory, as 4G, if QEMU changed the kernel's header (TDX, firmware before 2025.05).
    event_log
        The event log of the launch, if it is not in the evidence (TDX).
    reference_log
        The event log of a launch that was as it should be (TDX).
    sigstruct
        The SIGSTRUCT of the enclave (SGX).
    sgxs
        The enclave as expected in SGXS format (SGX).
    found_sgxs
        The enclave that runs, in SGXS format (SGX).
    manifest
        Gramine's manifest.sgx as expected (SGX).
    found_manifest
        Gramine's manifest.sgx of the enclave that runs (SGX).
    also
        A firmware, kernel or initrd that may have been launched instead. May be repeated; guest images on this machine
        are tried anyway.
    also_append
        A command line that may have been used instead. May be repeated.
    """

    cpus: int = 1
    cpu_model: str = "EPYC-v4"
    guest_features: str = "0x1"
    vmm: Literal["qemu", "ec2", "ec2-2023", "gce"] = "qemu"
    memory: str | None = None
    event_log: Path | None = None
    reference_log: Path | None = None
    sigstruct: Path | None = None
    sgxs: Path | None = None
    found_sgxs: Path | None = None
    manifest: Path | None = None
    found_manifest: Path | None = None
    also: tuple[Path, ...] = ()
    also_append: tuple[str, ...] = ()


DEFAULT_FILES = LaunchFiles()
DEFAULT_EXPECTED = Expected()


def explain(
    target: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    files: LaunchFiles = DEFAULT_FILES,
    expected: Expected = DEFAULT_EXPECTED,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> int:
    """Say why a launch was denied, or which input makes evidence differ from what was expected.

    TARGET is the id of a denial that the guest was told, or a file with evidence. For evidence, say how the launch was
    meant to be; what differs is named: the number of CPUs, the kernel, the command line, the first event of the log.
    Ends with status 0 if nothing differs, 1 if something does. The evidence is not verified here.

    Example: kokon explain 6f1c2d3e4a5b6c7d

    Example: kokon explain report.bin --firmware OVMF.amdsev.fd --cpus 2

    Parameters
    ----------
    target
        A denial's id, or a file with evidence (- for standard input).
    json
        Print JSON.
    """
    path = Path(target)
    if target != "-" and not path.is_file():
        if "/" in target or "." in target:
            raise UsageError("evidence-file-missing", f"there is no file {target}", hint="or give the id of a denial")
        from kokon.cli.log import explain_denial

        explain_denial(target, access=access, json=json)
        return 0
    evidence, claims = load(sys.stdin.buffer.read(4 << 20) if target == "-" else read_input(path, 4 << 20))
    found = explanation(evidence, claims, files, expected)
    emit({"tee": claims.tee, **found.as_dict()}, _text(found), json)
    return 0 if found.matches else 1


def _text(found: Explanation) -> str:
    if found.matches:
        return "nothing differs: it measures as expected"
    if found.findings:
        return "\n".join(
            f"{finding.what}\n  expected: {finding.expected}\n  found: {finding.found}" for finding in found.findings
        )
    more = "name what else may have been launched: --also, --also-append"
    return f"it differs, and nothing that was tried explains it: {found.tried}\n{more}"


def load(data: bytes) -> tuple[Evidence, Claims]:
    """The evidence in a file and what its measured part claims, unverified.

    Raises `UsageError` (`evidence-unknown`: nothing that any TEE knows, or nothing that is measured like this) and
    `MalformedError`.
    """
    from kokon.tee.endorsements import Endorsements
    from kokon.tee.recognise import recognise
    from kokon.tee.registry import verify

    evidence = recognise(data)
    if evidence is None:
        raise UsageError("evidence-unknown", "no evidence was recognised in the file", expected="a report or a quote")
    claims = verify(evidence, Endorsements(), datetime.now(UTC))
    measured = next((part for part in (claims, *claims.parts) if part.tee in MEASURED), None)
    if measured is None:
        raise UsageError(
            "evidence-unknown", "measurements of this TEE are not computed here", expected=", ".join(MEASURED),
            found=claims.tee,
        )  # fmt: skip
    return evidence, measured


def explanation(evidence: Evidence, claims: Claims, files: LaunchFiles, expected: Expected) -> Explanation:
    """Why these claims differ from what was expected. Raises `KokonError` for inputs that cannot be measured."""
    if claims.tee == "sgx":
        return _sgx(claims, expected)
    if claims.tee == "tdx":
        return _tdx(evidence, claims, files, expected)
    if claims.simulated and files.firmware is None:
        return _simulated(claims, files, expected)
    return _snp(claims, files, expected)


def _simulated(claims: Claims, files: LaunchFiles, expected: Expected) -> Explanation:
    from kokon.tee.simulated.explain import explain_simulated

    return explain_simulated(guest_image(files), expected.cpus, claims.measurement, tuple(guest_images()))


@dataclass(frozen=True, slots=True)
class _Others:
    """What else may have been launched: names and contents."""

    firmwares: tuple[tuple[str, bytes], ...]
    kernels: tuple[tuple[str, bytes], ...]
    initrds: tuple[tuple[str, bytes], ...]
    cmdlines: tuple[str, ...]


def _others(expected: Expected) -> _Others:
    firmwares, kernels, initrds = [], [], []
    for path in expected.also:
        data = read_input(path)
        if data[-48:-32] == bytes.fromhex("de82b596b21ff745baeaa366c55a082d"):
            firmwares.append((path.name, data))
        elif data[0x202:0x206] == b"HdrS" or data[:2] == b"MZ":
            kernels.append((path.name, data))
        else:
            initrds.append((path.name, data))
    cmdlines = list(expected.also_append)
    for image in guest_images():
        boot = boot_of(image, image.cmdline)
        label = f"guest image {image.digest[:16]}"
        kernels.append((f"kernel of {label}", boot.kernel))
        initrds.append((f"initrd of {label}", boot.initrd or b""))
        cmdlines.append(boot.cmdline)
    return _Others(tuple(firmwares), tuple(kernels), tuple(initrds), tuple(dict.fromkeys(cmdlines)))


def _snp(claims: Claims, files: LaunchFiles, expected: Expected) -> Explanation:
    import hashlib

    from kokon.tee.snp import vmsa
    from kokon.tee.snp.explain import Alternatives, Firmware, Part, SnpLaunch, explain_snp
    from kokon.tee.snp.ovmf import parse_ovmf

    def part(name: str, data: bytes) -> Part:
        return Part(name, hashlib.sha256(data).digest())

    name, data = firmware(files)
    boot, others = direct_boot(files), _others(expected)
    launch = SnpLaunch(
        firmware=Firmware(name, parse_ovmf(data)),
        kernel=None if boot is None else part(boot.kernel_name, boot.kernel),
        initrd=None if boot is None or boot.initrd is None else part(boot.initrd_name, boot.initrd),
        cmdline="" if boot is None else boot.cmdline,
        vcpus=expected.cpus,
        signature=vmsa.cpu_signature(expected.cpu_model),
        features=number(expected.guest_features, "guest features"),
        vmm=expected.vmm,
    )
    alternatives = Alternatives(
        firmwares=tuple(Firmware(name, parse_ovmf(data)) for name, data in others.firmwares),
        kernels=tuple(part(*other) for other in others.kernels),
        initrds=tuple(part(*other) for other in others.initrds),
        cmdlines=others.cmdlines,
        vcpus=CPUS,
    )
    return explain_snp(launch, claims.measurement, alternatives)


def _log(data: bytes | None) -> Any:
    from kokon.tee.eventlog.log import parse_event_log

    return None if data is None else parse_event_log(data)


def _tdx(evidence: Evidence, claims: Claims, files: LaunchFiles, expected: Expected) -> Explanation:
    from kokon.tee.tdx.explain import TdxAlternatives, TdxReference, explain_tdx
    from kokon.tee.tdx.measure import DirectBoot
    from kokon.tee.tdx.tdvf import parse_tdvf

    others = _others(expected)
    boot: Boot | None = None
    if files.kernel is not None or files.guest is not None:
        boot = direct_boot(files)
    memory = None if expected.memory is None else memory_size(expected.memory)
    reference = TdxReference(
        firmware=None if files.firmware is None else parse_tdvf(firmware(files)[1]),
        boot=None if boot is None else DirectBoot(boot.kernel, boot.initrd, boot.cmdline, memory),
        log=_log(None if expected.reference_log is None else read_input(expected.reference_log, 1 << 20)),
    )
    if reference == TdxReference():
        raise UsageError(
            "reference-missing",
            "nothing to compare with",
            hint="name what was expected: --firmware, --kernel or --guest, --reference-log",
        )
    log = _log(
        evidence.parts.get("event-log") if expected.event_log is None else read_input(expected.event_log, 1 << 20)
    )
    alternatives = TdxAlternatives(
        firmwares=tuple(_tdvf(others.firmwares)),
        kernels=others.kernels,
        initrds=others.initrds,
        cmdlines=others.cmdlines,
    )
    return explain_tdx(claims.registers, reference, log, alternatives)


def _tdvf(firmwares: tuple[tuple[str, bytes], ...]) -> Iterator[tuple[str, Any]]:
    from kokon.tee.tdx.tdvf import parse_tdvf

    for name, data in firmwares:
        try:
            yield name, parse_tdvf(data)
        except KokonError:
            continue


def _sgx(claims: Claims, expected: Expected) -> Explanation:
    from kokon.cli.measure import enclave
    from kokon.tee.sgx.explain import SgxIdentity, explain_sgx, identity_of
    from kokon.tee.sgx.sigstruct import SIZE, parse_sigstruct

    if expected.sigstruct is not None:
        wanted = identity_of(parse_sigstruct(read_input(expected.sigstruct, SIZE)))
    elif expected.sgxs is not None:
        wanted = SgxIdentity(mrenclave=enclave(expected.sgxs, None, None), debug=False)
    else:
        raise UsageError(
            "reference-missing", "nothing to compare with", hint="name what was expected: --sigstruct or --sgxs"
        )
    found = SgxIdentity(claims.measurement, claims.signer, claims.product_id, claims.security_version, claims.debug)
    return explain_sgx(wanted, found, tuple(_builds(expected)))


def _builds(expected: Expected) -> Iterator[Finding]:
    from kokon.tee.sgx.explain import compare_manifests, compare_steps
    from kokon.tee.sgx.gramine import parse_manifest
    from kokon.tee.sgx.measure import parse_sgxs

    if expected.sgxs is not None and expected.found_sgxs is not None:
        yield from compare_steps(parse_sgxs(read_input(expected.sgxs)), parse_sgxs(read_input(expected.found_sgxs)))
    if expected.manifest is not None and expected.found_manifest is not None:
        yield from compare_manifests(
            parse_manifest(read_input(expected.manifest, 64 << 20)),
            parse_manifest(read_input(expected.found_manifest, 64 << 20)),
        )
