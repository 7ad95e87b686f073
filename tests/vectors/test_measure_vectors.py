"""Published launch digests, recomputed."""

import json
from pathlib import Path

import pytest

from kokon.tee.snp.hashes import kernel_hashes
from kokon.tee.snp.measure import measure_snp
from kokon.tee.snp.ovmf import parse_ovmf
from kokon.tee.snp.pages import LaunchDigest

pytestmark = pytest.mark.vectors


def test_every_snp_launch_digest_is_reproduced(vectors: Path) -> None:
    directory = vectors / "measure"
    done = 0
    for case in json.loads((directory / "snp_launch_digest_cases.json").read_text()):
        arguments = case["args"]
        if arguments["mode"] != "SEV_SNP":
            continue
        firmware = parse_ovmf((directory / arguments["ovmf_file"]).read_bytes())
        hashes = None
        if arguments["kernel"] is not None:
            assert arguments["kernel"] == arguments["initrd"] == "/dev/null"
            hashes = kernel_hashes(b"", b"", arguments["append"])
        known = arguments.get("snp_ovmf_hash_str")
        digest = measure_snp(
            firmware,
            hashes,
            vcpus=arguments["vcpus"],
            signature=arguments["vcpu_sig"] or 0,
            features=arguments["guest_features"],
            vmm=arguments.get("vmm_type", "qemu"),
            firmware_digest=bytes.fromhex(known) if known else None,
        )
        assert digest.hex() == case["expected_launch_digest"], case["name"]
        done += 1
    assert done == 10


def test_the_firmwares_part_of_the_digest(vectors: Path) -> None:
    firmware = parse_ovmf((vectors / "measure" / "ovmf_AmdSev_suffix.bin").read_bytes())
    digest = LaunchDigest()
    digest.add(firmware.address, firmware.data)
    known = "086e2e9149ebf45abdc3445fba5b2da8270bdbb04094d7a2c37faaa4b24af3aa16aff8c374c2a55c467a50da6d466b74"
    assert digest.value.hex() == known
