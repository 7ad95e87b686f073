"""The simulated measurement: what counts, and that the reference value of a guest image is what a launch gives."""

from pathlib import Path

import pytest
from fake_machine import Machine

from kokon.errors import MalformedError
from kokon.launch.image import write_description
from kokon.tee.simulated.launch import measure_order, parse_order
from kokon.tee.simulated.measure import cpu_signature, measure_guest, measure_simulated
from kokon.tee.snp.hashes import kernel_hashes

HASHES = kernel_hashes(b"kernel", b"initrd", "quiet")
FIRMWARE = bytes(8192)


def test_everything_counts() -> None:
    def digest(**changes: object) -> bytes:
        values: dict[str, object] = {"firmware": FIRMWARE, "hashes": HASHES, "vcpus": 1, "cpu": "max"} | changes
        return measure_simulated(
            values["firmware"],  # type: ignore[arg-type]
            values["hashes"],  # type: ignore[arg-type]
            vcpus=values["vcpus"],  # type: ignore[arg-type]
            cpu=values["cpu"],  # type: ignore[arg-type]
        )

    digests = {
        digest(),
        digest(firmware=b"\1" + bytes(8191)),
        digest(firmware=bytes(4096)),
        digest(hashes=kernel_hashes(b"kernel", b"initrd", "quieT")),
        digest(hashes=kernel_hashes(b"kernal", b"initrd", "quiet")),
        digest(hashes=kernel_hashes(b"kernel", b"Initrd", "quiet")),
        digest(vcpus=2),
        digest(cpu="EPYC-Milan"),
    }
    assert len(digests) == 8
    assert digest(cpu="max,-cx16") == digest()
    assert len(digest()) == 48


@pytest.mark.parametrize(
    ("firmware", "vcpus", "cpu", "code"),
    [
        (b"", 1, "max", "firmware-size"),
        (bytes(4095), 1, "max", "firmware-size"),
        (bytes(17 << 20), 1, "max", "firmware-size"),
        (FIRMWARE, 0, "max", "vcpus-range"),
        (FIRMWARE, 65, "max", "vcpus-range"),
        (FIRMWARE, 1, "host", "cpu-model-unknown"),
    ],
)
def test_what_cannot_be_measured(firmware: bytes, vcpus: int, cpu: str, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        measure_simulated(firmware, HASHES, vcpus=vcpus, cpu=cpu)
    assert caught.value.code == code


def test_models() -> None:
    assert cpu_signature("EPYC-Genoa,-cx16") != cpu_signature("max,-cx16")


def test_the_reference_value_is_what_the_launch_measures(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "root").write_bytes(b"root")
    names = {name: name for name in ("kernel", "initrd", "root", "firmware")}
    image = write_description(tmp_path, "6.12", "console=ttyS0 quiet", names)
    measured = measure_order(parse_order(machine.order()))
    measured.close()
    assert measure_guest(image, 1) == measured.measurement
    assert measure_guest(image, 2) != measured.measurement
    with pytest.raises(MalformedError) as caught:
        measure_guest(image, 1, read=lambda _path: bytes(4096))
    assert caught.value.code == "firmware-digest"
