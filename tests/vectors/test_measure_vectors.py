"""Published launch digests, recomputed, and any other launch beside the tool that everybody compares with."""

import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from kokon.tee.snp.hashes import KernelHashes, kernel_hashes
from kokon.tee.snp.measure import measure_sev, measure_snp
from kokon.tee.snp.ovmf import Ovmf, Section, parse_ovmf
from kokon.tee.snp.pages import LaunchDigest
from kokon.tee.snp.vmsa import CPU_SIGNATURES, cpu_signature

pytestmark = pytest.mark.vectors

AMDSEV, X64 = "ovmf_AmdSev_suffix.bin", "ovmf_OvmfX64_suffix.bin"


def measured(arguments: dict[str, Any], firmware: Ovmf) -> bytes:
    hashes: KernelHashes | None = None
    if arguments["kernel"] is not None:
        assert arguments["kernel"] == "/dev/null"
        assert arguments["initrd"] in ("/dev/null", None)
        hashes = kernel_hashes(b"", b"", arguments["append"])
    if arguments["mode"] == "SEV":
        return measure_sev(firmware, hashes)
    if arguments["mode"] == "SEV_ES":
        return measure_sev(firmware, hashes, vcpus=arguments["vcpus"], signature=arguments["vcpu_sig"] or 0)
    assert arguments["mode"] == "SEV_SNP"
    known = arguments.get("snp_ovmf_hash_str")
    return measure_snp(
        firmware,
        hashes,
        vcpus=arguments["vcpus"],
        signature=arguments["vcpu_sig"] or 0,
        features=arguments["guest_features"],
        vmm=arguments.get("vmm_type", "qemu"),
        firmware_digest=bytes.fromhex(known) if known else None,
    )


def test_every_published_launch_digest_is_reproduced(vectors: Path) -> None:
    directory = vectors / "measure"
    modes = []
    for case in json.loads((directory / "snp_launch_digest_cases.json").read_text()):
        arguments = case["args"]
        firmware = parse_ovmf((directory / arguments["ovmf_file"]).read_bytes())
        assert measured(arguments, firmware).hex() == case["expected_launch_digest"], case["name"]
        modes.append(arguments["mode"])
    assert {mode: modes.count(mode) for mode in modes} == {"SEV": 2, "SEV_ES": 2, "SEV_SNP": 10}


def test_a_launch_on_ec2_of_2023(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    """From the firmware's metadata and digest alone: two CPUs, features 1, as the manifest says."""
    (entry,) = (entry for entry in manifest if entry["file"] == "measure/ovmf_img_1_metadata.json")
    known = json.loads((vectors / entry["file"]).read_text())
    sections = tuple(
        Section(int(item["GPA"], 16), int(item["Size"], 16), item["SectionTypeInt"]) for item in known["MetadataItems"]
    )
    firmware = Ovmf(b"", 0, sections, None, int(known["ResetEIP"], 16))
    digests = {
        vmm: measure_snp(
            firmware, None, vcpus=2, signature=0, vmm=vmm, firmware_digest=bytes.fromhex(known["OVMFHash"])
        ).hex()
        for vmm in ("ec2", "ec2-2023")
    }
    assert digests["ec2-2023"] == entry["claims"]["expected_launch_digest"]
    assert digests["ec2"] != digests["ec2-2023"]


def test_the_firmwares_part_of_the_digest(vectors: Path) -> None:
    firmware = parse_ovmf((vectors / "measure" / AMDSEV).read_bytes())
    digest = LaunchDigest()
    digest.add(firmware.address, firmware.data)
    known = "086e2e9149ebf45abdc3445fba5b2da8270bdbb04094d7a2c37faaa4b24af3aa16aff8c374c2a55c467a50da6d466b74"
    assert digest.value.hex() == known


class Oracle:
    """sev-snp-measure, which knows files only."""

    def __init__(self) -> None:
        self.guest, self.modes, self.vmms, self.models = (
            importlib.import_module(f"sevsnpmeasure.{name}")
            for name in ("guest", "sev_mode", "vmm_types", "vcpu_types")
        )

    def measure(
        self, mode: str, vmm: str, firmware: Path, boot: tuple[Path, Path, str] | None, vcpus: int, signature: int,
        features: int,
    ) -> bytes:  # fmt: skip
        kernel, initrd, append = (None, None, None) if boot is None else (str(boot[0]), str(boot[1]), boot[2])
        digest: bytes = self.guest.calc_launch_digest(
            getattr(self.modes.SevMode, mode), vcpus, signature, str(firmware), kernel, initrd, append, features,
            vmm_type=getattr(self.vmms.VMMType, vmm),
        )  # fmt: skip
        return digest


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    pytest.importorskip(
        "sevsnpmeasure",
        reason="sev-snp-measure IS NOT INSTALLED: launch digests ARE NOT COMPARED with it in this run",
    )
    return Oracle()


def test_cpu_models_as_the_oracle_has_them(oracle: Oracle) -> None:
    assert {name: cpu_signature(name) for name in oracle.models.CPU_SIGS} == oracle.models.CPU_SIGS
    assert set(CPU_SIGNATURES) <= set(oracle.models.CPU_SIGS)


def test_launches_side_by_side(vectors: Path, oracle: Oracle, tmp_path: Path) -> None:
    """Two firmwares, with and without a kernel, several CPUs, models, features and hypervisors."""
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(bytes(range(256)) * 33)
    initrd.write_bytes(b"initrd" * 1000)
    line = "console=ttyS0 root=/dev/vda ro"
    boots = (None, (kernel, initrd, line), (kernel, Path("/dev/null"), ""))
    signatures = (0, cpu_signature("EPYC-Milan"), cpu_signature("EPYC-Turin"))
    compared = 0
    for name, boot in itertools.product((AMDSEV, X64), boots):
        path = vectors / "measure" / name
        firmware = parse_ovmf(path.read_bytes())
        if boot is not None and firmware.hashes_address is None:
            continue
        hashes = None if boot is None else kernel_hashes(boot[0].read_bytes(), boot[1].read_bytes(), boot[2])
        for vcpus, signature in itertools.product((1, 2, 7, 255), signatures):
            for vmm, vendors in (("qemu", "QEMU"), ("ec2", "ec2"), ("gce", "gce")):
                for features in (0x1, 0x21, 0x3F):
                    ours = measure_snp(firmware, hashes, vcpus=vcpus, signature=signature, features=features, vmm=vmm)
                    theirs = oracle.measure("SEV_SNP", vendors, path, boot, vcpus, signature, features)
                    assert ours == theirs, (name, boot, vcpus, hex(signature), features, vmm)
                    compared += 1
                theirs = oracle.measure("SEV_ES", vendors, path, boot, vcpus, signature, 0)
                assert measure_sev(firmware, hashes, vcpus=vcpus, signature=signature, vmm=vmm) == theirs
        assert measure_sev(firmware, hashes) == oracle.measure("SEV", "QEMU", path, boot, 1, 0, 0)
    assert compared >= 4 * 12 * 9
