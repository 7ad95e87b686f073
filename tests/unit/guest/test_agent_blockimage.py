"""How the guest opens a block image: order, tables, places, and what it refuses. The VM tests do it for real."""

from __future__ import annotations

import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from kokon.errors import HostError, MalformedError, UntrustedError
from kokon.guest.agent import blockimage, dm, kernel
from kokon.guest.agent.blockimage import Places, mount_block
from kokon.image.block.format import BlockInfo, crypt_table, verity_table

INFO = BlockInfo(b"\5" * 32, 200)
KEY = bytes(range(32))


@pytest.fixture(name="places")
def make_places(tmp_path: Path) -> Places:
    (tmp_path / "scratch").mkdir()
    return Places(tmp_path / "image", tmp_path / "scratch", tmp_path / "rootfs")


@pytest.fixture(name="disk")
def make_disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").write_bytes(bytes(INFO.size))
    return tmp_path / "disk"


def record(monkeypatch: pytest.MonkeyPatch, *, refuse: str = "") -> list[tuple[Any, ...]]:
    done: list[tuple[Any, ...]] = []

    def create(name: str, *arguments: object, read_only: bool) -> Path:
        if name == refuse:
            raise OSError(5, "refused")
        done.append((name, *arguments, read_only))
        return Path(f"/dev/dm-{len(done)}")

    def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        if kind == refuse:
            raise OSError(5, "Input/output error")
        done.append((source, target, kind, flags, data))

    monkeypatch.setattr(dm, "create", create)
    monkeypatch.setattr(kernel, "mount", mount)
    return done


def test_decrypted_then_verified_then_mounted(disk: Path, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    done = record(monkeypatch)
    mount_block(disk, INFO, KEY, places)
    assert done[0] == ("image-plain", INFO.total_blocks * 8, "crypt", crypt_table(KEY, INFO, str(disk)), True)
    assert done[1] == ("image", 1600, "verity", verity_table(KEY, INFO, "/dev/dm-1"), True)
    read_only = kernel.MS_RDONLY | kernel.MS_NODEV
    assert done[2] == ("/dev/dm-2", str(places.image), "erofs", read_only, "")
    assert done[3][:3] == ("overlay", str(places.rootfs), "overlay")
    upper, work = places.scratch / "upper", places.scratch / "work"
    assert done[3][4] == f"lowerdir={places.image},upperdir={upper},workdir={work}"
    assert stat.S_IMODE(upper.stat().st_mode) == stat.S_IMODE(places.image.stat().st_mode)
    assert work.is_dir()


@pytest.mark.parametrize("change", [-4096, -512, 512, 4096])
def test_a_disk_of_another_size_is_refused(
    disk: Path, places: Places, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    done = record(monkeypatch)
    disk.write_bytes(bytes(INFO.size + change))
    with pytest.raises(UntrustedError) as caught:
        mount_block(disk, INFO, KEY, places)
    assert (caught.value.code, done) == ("image-corrupted", [])


@pytest.mark.parametrize(
    ("refuse", "code"),
    [
        ("image-plain", "image-unusable"),
        ("image", "image-unusable"),
        ("erofs", "image-corrupted"),
        ("overlay", "image-unusable"),
    ],
)
def test_what_the_kernel_refuses(
    disk: Path, places: Places, monkeypatch: pytest.MonkeyPatch, refuse: str, code: str
) -> None:
    record(monkeypatch, refuse=refuse)
    with pytest.raises((HostError, UntrustedError)) as caught:
        mount_block(disk, INFO, KEY, places)
    assert caught.value.code == code
    assert KEY.hex() not in str(caught.value)


def test_a_disk_that_is_gone_and_a_key_of_another_size(
    disk: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(monkeypatch)
    with pytest.raises(HostError) as gone:
        mount_block(disk.with_name("none"), INFO, KEY, places)
    assert gone.value.code == "image-unusable"
    with pytest.raises(MalformedError) as caught:
        mount_block(disk, INFO, KEY[:16], places)
    assert caught.value.code == "size-mismatch"


def test_read_only_devices_are_asked_for() -> None:
    flags = struct.Struct("=3I4IIII").unpack_from
    assert flags(dm.encode_request("x"))[7] & 1 == 0
    assert flags(dm.encode_request("x", read_only=True))[7] & 1 == 1


def test_the_serial_is_what_qemu_is_given() -> None:
    assert blockimage.SERIAL == "image"
