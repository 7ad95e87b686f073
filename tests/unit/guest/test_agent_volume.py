"""Volumes: when a header is believed, when a file counts as blank; and the scratch disk's parameters."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import HostError, KokonError, MalformedError, UntrustedError
from kokon.guest.agent import dm, scratch, volume
from kokon.guest.agent.volume import AREA, BLOCK, Owner, Volume, classify, seal_area, write_area

KEY = b"k" * 32
OWNER = Owner("clinic", "data")
HEADER = b"LUKS\xba\xbe" + bytes(range(256)) * 64


def test_a_zero_head_is_blank_and_a_sealed_one_is_not() -> None:
    assert classify(bytes(AREA), KEY, OWNER) == "blank"
    assert classify(seal_area(HEADER, KEY, OWNER), KEY, OWNER) == "formatted"
    assert len(seal_area(HEADER, KEY, OWNER)) == AREA


@settings(max_examples=40, deadline=None)
@given(st.integers(0, AREA - BLOCK + 39), st.integers(1, 255))
def test_every_changed_byte_is_noticed(position: int, flip: int) -> None:
    area = bytearray(seal_area(HEADER, KEY, OWNER))
    area[position] ^= flip
    with pytest.raises(UntrustedError) as caught:
        classify(bytes(area), KEY, OWNER)
    assert caught.value.code == "volume-corrupted"


def test_another_key_opens_nothing() -> None:
    with pytest.raises(UntrustedError) as caught:
        classify(seal_area(HEADER, KEY, OWNER), b"j" * 32, OWNER)
    assert caught.value.code == "volume-corrupted"


@pytest.mark.parametrize("owner", [Owner("clinic", "archive"), Owner("office", "data"), Owner("clinicd", "ata")])
def test_two_volumes_under_one_key_are_not_exchangeable(owner: Owner) -> None:
    with pytest.raises(UntrustedError) as caught:
        classify(seal_area(HEADER, KEY, OWNER), KEY, owner)
    assert caught.value.code == "volume-corrupted"


def test_a_foreign_file_is_never_formatted() -> None:
    with pytest.raises(UntrustedError):
        classify(b"\x01" + bytes(AREA - 1), KEY, OWNER)


def test_small_files_and_odd_keys_are_refused() -> None:
    with pytest.raises(HostError) as small:
        classify(bytes(AREA - 1), KEY, OWNER)
    assert small.value.code == "volume-too-small"
    with pytest.raises(MalformedError) as odd:
        classify(bytes(AREA), b"short", OWNER)
    assert odd.value.code == "volume-key-malformed"
    assert "short" not in str(odd.value)


@settings(max_examples=20)
@given(st.binary(max_size=64), st.binary(max_size=40))
def test_no_area_crashes(start: bytes, key: bytes) -> None:
    try:
        assert classify(start.ljust(AREA, b"\0"), key, OWNER) in ("blank", "formatted")
    except KokonError:
        pass


def test_an_interrupted_format_leaves_a_blank_volume(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(2 * AREA))
    area = seal_area(HEADER, KEY, OWNER)
    with disk.open("r+b") as file:  # killed before the first block was written
        file.seek(BLOCK)
        file.write(area[BLOCK:])
    assert classify(disk.read_bytes()[:AREA], KEY, OWNER) == "blank"
    write_area(disk, area)
    assert disk.read_bytes() == area + bytes(AREA)
    assert classify(disk.read_bytes()[:AREA], KEY, OWNER) == "formatted"


class ScriptedChildren:
    """Notes the programs that would be started; `statuses` are their exit statuses by first word and verb."""

    def __init__(self, **statuses: int) -> None:
        self.statuses = statuses
        self.calls: list[list[str]] = []
        self.data: list[bytes] = []

    def run(self, arguments: list[str], data: bytes = b"") -> int:
        self.calls.append(list(arguments))
        self.data.append(data)
        return self.statuses.get(arguments[1].strip("-"), 0)


@pytest.mark.parametrize(
    ("statuses", "code"), [({"luksFormat": 1}, "volume-unusable"), ({"open": 1}, "volume-unusable")]
)
def test_a_new_volume_that_cannot_be_made(tmp_path: Path, statuses: dict[str, int], code: str) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(2 * AREA))
    children = ScriptedChildren(**statuses)
    with pytest.raises(HostError) as caught:
        Volume(children, OWNER, disk, tmp_path).mount(KEY, tmp_path / "mnt")  # type: ignore[arg-type]
    assert caught.value.code == code
    assert not any(disk.read_bytes())
    assert KEY.decode() not in str(children.calls)
    assert children.data[0] == KEY


def test_a_formatted_volume_is_opened_with_the_copy_that_was_checked(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    area = seal_area(HEADER, KEY, OWNER)
    disk.write_bytes(area + bytes(AREA))
    children = ScriptedChildren(open=2)
    with pytest.raises(UntrustedError) as caught:
        Volume(children, OWNER, disk, tmp_path).mount(KEY, tmp_path / "mnt")  # type: ignore[arg-type]
    assert caught.value.code == "volume-corrupted"
    (call,) = children.calls
    assert call[:2] == ["cryptsetup", "open"]
    assert call[-2:] == [str(disk), "vol-data"]
    assert Path(call[call.index("--header") + 1]).read_bytes() == area


def test_a_file_system_that_does_not_mount_is_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(seal_area(HEADER, KEY, OWNER) + bytes(AREA))

    def refuse(*_: object) -> None:
        raise OSError(117, "Structure needs cleaning")

    monkeypatch.setattr(volume.kernel, "mount", refuse)
    with pytest.raises(UntrustedError) as caught:
        Volume(ScriptedChildren(), OWNER, disk, tmp_path).mount(KEY, tmp_path / "mnt")  # type: ignore[arg-type]
    assert caught.value.code == "volume-corrupted"


def test_first_use_writes_the_header_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(2 * AREA))
    monkeypatch.setattr(volume.kernel, "mount", lambda *_: None)
    made: list[str] = []
    monkeypatch.setattr(Volume, "_make_file_system", lambda _, mapped: made.append(mapped))
    (tmp_path / "mnt" / "lost+found").mkdir(parents=True)
    assert Volume(ScriptedChildren(), OWNER, disk, tmp_path).mount(KEY, tmp_path / "mnt")  # type: ignore[arg-type]
    assert made == ["/dev/mapper/vol-data"]
    assert disk.read_bytes()[:AREA] == seal_area(bytes(AREA), KEY, OWNER)
    assert not (tmp_path / "mnt" / "lost+found").exists()
    assert not (tmp_path / "data.header").exists()


def test_mkfs_failing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume, "Path", lambda _: tmp_path / "mapped")
    (tmp_path / "mapped").touch()
    made = Volume(ScriptedChildren(q=1), OWNER, tmp_path / "disk", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(HostError) as caught:
        made._make_file_system("/dev/mapper/vol-data")
    assert caught.value.code == "volume-unusable"
    assert (tmp_path / "mapped").read_bytes() == bytes(64 << 10)


def test_device_mapper_requests_have_the_kernels_layout() -> None:
    request = dm.encode_request("scratch")
    assert len(request) == 312
    assert request[48:55] == b"scratch"
    assert request[12:20] == b"\x38\x01\0\0\x38\x01\0\0"
    target = dm.encode_target(2048, "crypt", "a b")
    assert len(target) == 48
    assert target[8:16] == (2048).to_bytes(8, "little")
    assert target[24:29] == b"crypt"
    answer = bytearray(dm.encode_request("x"))
    answer[40:48] = (253 << 8 | 3).to_bytes(8, "little")
    assert dm.minor_of(bytes(answer)) == 3
    assert dm.crypt_table(b"\1" * 16, "/dev/vdb").startswith("capi:aegis128-random 0101")


def test_sectors_are_whole_blocks(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512 * 21))
    assert dm.sectors_of(disk) == 16


@given(st.integers(16 << 11, 1 << 40))
def test_there_is_room_for_the_tags(sectors: int) -> None:
    usable = dm.usable_sectors(sectors)
    tags = usable // 8 * dm.TAG_SIZE // 512
    runs = usable // 32768 + 1  # the kernel's runs of data between tags, each rounded up to 4 KiB and more
    assert usable % 8 == 0
    assert sectors // 2 < usable < usable + tags + runs * 8 + 2048 < sectors


def test_mkfs_leaves_nothing_unwritten_on_volumes() -> None:
    durable = " ".join(scratch.mkfs_arguments("/dev/x", journal=True))
    assert "lazy_itable_init=0" in durable
    assert "num_backup_sb=0" in durable
    assert "has_journal" not in durable
    passing = " ".join(scratch.mkfs_arguments("/dev/x", journal=False))
    assert "^has_journal" in passing
    assert "num_backup_sb=0" in passing


def test_a_small_scratch_disk_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    with pytest.raises(HostError) as caught:
        scratch.prepare_scratch(ScriptedChildren(), disk, tmp_path / "mnt")  # type: ignore[arg-type]
    assert caught.value.code == "scratch-too-small"


class Mapper:
    """Notes the tables that would be loaded; every device that it makes is the file `mapped`."""

    def __init__(self, mapped: Path) -> None:
        self.mapped = mapped
        self.tables: list[tuple[str, str]] = []

    def create(self, _name: str, _sectors: int, kind: str, table: str) -> Path:
        self.tables.append((kind, table))
        return self.mapped


@pytest.fixture
def mapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapper:
    made = Mapper(tmp_path / "mapped")
    made.mapped.touch()
    monkeypatch.setattr(scratch.dm, "create", made.create)
    return made


def scratch_disk(tmp_path: Path) -> Path:
    disk = tmp_path / "disk"
    disk.write_bytes(b"integrt\0" * 1024)
    os.truncate(disk, 32 << 20)
    return disk


def test_scratch_is_authenticated_under_a_fresh_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapper: Mapper
) -> None:
    mounts: list[tuple[object, ...]] = []
    monkeypatch.setattr(scratch.kernel, "mount", lambda *values: mounts.append(values))
    disk = scratch_disk(tmp_path)
    for _ in range(2):
        assert scratch.prepare_scratch(ScriptedChildren(), disk, tmp_path / "mnt") == {"mapped"}  # type: ignore[arg-type]
    assert not any(disk.read_bytes()[:4096]), "a superblock that the host wrote is not believed"
    assert [kind for kind, _ in mapper.tables] == ["integrity", "crypt"] * 2
    assert " D " in mapper.tables[0][1]
    keys = {table.split()[1] for kind, table in mapper.tables if kind == "crypt"}
    assert len(keys) == 2
    assert all(len(key) == 32 for key in keys)
    assert "inode_readahead_blks=0" in str(mounts[0])


def test_a_scratch_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapper: Mapper) -> None:
    disk = scratch_disk(tmp_path)
    for children in (ScriptedChildren(q=1), ScriptedChildren()):
        with pytest.raises(HostError) as caught:  # mkfs fails, then mount does: there is no such device
            scratch.prepare_scratch(children, disk, tmp_path / "mnt")  # type: ignore[arg-type]
        assert caught.value.code == "scratch-unusable"
