"""/dev/sev-guest and configfs-tsm, played by a simulated chip."""

import ctypes
import struct
from pathlib import Path

import pytest
from tee_kit import NOW, REPORT_DATA, Chip
from test_tsm import FakeTree

from kokon.errors import HostError, KokonError, MalformedError
from kokon.tee import tsm
from kokon.tee.evidence import Evidence
from kokon.tee.registry import verify
from kokon.tee.snp.certtable import encode_table
from kokon.tee.snp.device import (
    RESPONSE_SIZE,
    SNP_GET_DERIVED_KEY,
    SNP_GET_EXT_REPORT,
    SNP_GET_REPORT,
    attest,
    derived_key,
)
from kokon.tee.snp.recognise import recognise


class FakeDevice:
    """The kernel's driver with the chip behind it, reading and writing memory as the ioctls say."""

    def __init__(self, chip: Chip, *, table: bytes = b"", status: int = 0) -> None:
        self.chip, self.table, self.status = chip, table, status
        self.too_small = False
        self.refused: int | None = None
        self.calls: list[int] = []
        self.answers: list[bytes] = []

    def __call__(self, _descriptor: int, code: int, call: bytearray) -> int:
        self.calls.append(code)
        version, request, response, errors = struct.unpack("=B7xQQQ", call)
        assert (version, errors) == (1, 0)
        data, vmpl, reserved = struct.unpack("=64sI28s", ctypes.string_at(request, 96))
        assert not any(reserved)
        if self.refused is not None:
            struct.pack_into("=Q", call, 24, self.refused)
            raise OSError(5, "Input/output error")
        if code == SNP_GET_EXT_REPORT:
            address, length = struct.unpack("=QI", ctypes.string_at(request + 96, 12))
            if self.too_small:
                struct.pack_into("=Q", call, 24, 1 << 32)
                raise OSError(5, "Input/output error")
            assert length % 4096 == 0
            ctypes.memmove(address, self.table, len(self.table))
        report = self.chip.guest().report(data, vmpl)
        answer = (struct.pack("<II24x", self.status, len(report)) + report).ljust(RESPONSE_SIZE, b"\0")
        self.answers.append(answer)
        ctypes.memmove(response, answer, len(answer))
        return 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sev-guest"
    path.write_bytes(b"")
    return path


def ask(fake: FakeDevice, path: Path, data: bytes = REPORT_DATA, vmpl: int = 0) -> Evidence:
    return attest(data, vmpl=vmpl, tree=tsm.Tree(path.with_name("none")), device=path, ioctl=fake)


def test_numbers_of_the_ioctls() -> None:
    both_ways, size = 3 << 30, struct.calcsize("=B7xQQQ") << 16
    assert both_ways | size | ord("S") << 8 == SNP_GET_REPORT
    assert both_ways | size | ord("S") << 8 | 2 == SNP_GET_EXT_REPORT


def test_a_report_with_the_hosts_certificates(chip: Chip, path: Path) -> None:
    fake = FakeDevice(chip, table=encode_table(chip.processor.certificates))
    evidence = ask(fake, path)
    assert evidence.certificates == chip.processor.certificates
    assert verify(evidence, chip.endorsements, NOW).ok
    assert fake.calls == [SNP_GET_EXT_REPORT]
    found = recognise(fake.answers[0])
    assert found is not None
    assert found.report == evidence.report


def test_hosts_without_certificates_and_other_privilege_levels(chip: Chip, path: Path) -> None:
    evidence = ask(FakeDevice(chip), path, vmpl=2)
    assert evidence.certificates == ()
    assert verify(evidence, chip.endorsements, NOW).vmpl == 2


def test_a_table_that_is_too_large_is_left_out(chip: Chip, path: Path) -> None:
    fake = FakeDevice(chip)
    fake.too_small = True
    assert ask(fake, path).certificates == ()
    assert fake.calls == [SNP_GET_EXT_REPORT, SNP_GET_REPORT]


def test_the_firmware_refuses(chip: Chip, path: Path) -> None:
    fake = FakeDevice(chip)
    fake.refused = 2 << 32 | 0x16
    with pytest.raises(HostError) as caught:
        ask(fake, path)
    assert caught.value.code == "snp-device-failed"
    assert "0x16" in (caught.value.found or "")
    with pytest.raises(MalformedError) as answer:
        ask(FakeDevice(chip, status=0x16), path)
    assert answer.value.code == "snp-device-answer"


def test_a_report_over_something_else(chip: Chip, path: Path) -> None:
    fake = FakeDevice(chip)
    other = chip.guest().report(bytes(64))
    fake.chip.guest().report(REPORT_DATA)

    def stale(descriptor: int, code: int, call: bytearray) -> int:
        fake(descriptor, code, call)
        _version, _request, response, _errors = struct.unpack("=B7xQQQ", call)
        ctypes.memmove(response + 32, other, len(other))
        return 0

    with pytest.raises(MalformedError) as caught:
        attest(REPORT_DATA, tree=tsm.Tree(path.with_name("none")), device=path, ioctl=stale)
    assert caught.value.code == "snp-device-answer"


def test_machines_and_requests_without_sense(tmp_path: Path, chip: Chip) -> None:
    nothing = tmp_path / "none"
    for code, data, vmpl in (
        ("snp-device-missing", REPORT_DATA, 0),
        ("report-data-size", b"", 0),
        ("vmpl-range", REPORT_DATA, 4),
    ):
        with pytest.raises(KokonError) as caught:
            attest(data, vmpl=vmpl, tree=tsm.Tree(nothing), device=nothing, ioctl=FakeDevice(chip))
        assert caught.value.code == code


def test_configfs_comes_first(tmp_path: Path, chip: Chip) -> None:
    table = encode_table(chip.processor.certificates)
    tree = FakeTree(tmp_path / "tsm", chip.guest().report, provider="sev_guest", aux=table)
    evidence = attest(REPORT_DATA, tree=tree, device=tmp_path / "none")
    assert verify(evidence, chip.endorsements, NOW).ok
    tree.provider = "tdx_guest"
    with pytest.raises(HostError) as caught:
        attest(REPORT_DATA, tree=tree)
    assert caught.value.code == "snp-device-provider"
    short = FakeTree(tmp_path / "short", lambda data: data, provider="sev_guest", aux=None)
    with pytest.raises(MalformedError) as answer:
        attest(REPORT_DATA, tree=short)
    assert answer.value.code == "snp-device-answer"


def test_a_key_of_the_chip(path: Path) -> None:
    asked: list[bytes] = []

    def ioctl(_descriptor: int, code: int, call: bytearray) -> int:
        assert code == SNP_GET_DERIVED_KEY
        _version, request, response, _errors = struct.unpack("=B7xQQQ", call)
        asked.append(ctypes.string_at(request, 32))
        ctypes.memmove(response, struct.pack("<I28x", status) + key, 64)
        return 0

    status, key = 0, bytes(range(32))
    assert derived_key(fields=0b1001, device=path, ioctl=ioctl) == key
    assert asked == [struct.pack("=IIQIIQ", 0, 0, 0b1001, 0, 0, 0)]
    for status, key in ((0x16, bytes(range(32))), (0, bytes(32))):  # noqa: B007 - what the device answers with
        with pytest.raises(MalformedError) as caught:
            derived_key(fields=1, device=path, ioctl=ioctl)
        assert caught.value.code == "snp-device-answer"
    with pytest.raises(HostError) as missing:
        derived_key(fields=1, device=path.with_name("none"))
    assert missing.value.code == "snp-device-missing"
