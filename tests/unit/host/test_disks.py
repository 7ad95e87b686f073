import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from kokon.errors import HostError, KokonError
from kokon.host.disks import check_space, check_volumes, create_sparse, create_volumes
from kokon.host.request import Volume
from kokon.launch.document import VolumeUse

MIB = 1 << 20
DATA = VolumeUse("data", "/data", "kbs:///a/b/c")


def code_of(uses: list[VolumeUse], given: list[Volume]) -> str:
    with pytest.raises(KokonError) as caught:
        check_volumes(uses, given)
    return caught.value.code


def test_sparse_file(tmp_path: Path) -> None:
    path = tmp_path / "scratch.img"
    create_sparse(path, 1 << 33)
    status = path.stat()
    assert status.st_size == 1 << 33
    assert status.st_blocks == 0
    assert stat.S_IMODE(status.st_mode) == 0o600


def test_what_was_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"precious")
    with pytest.raises(HostError) as caught:
        create_sparse(path, 4096)
    assert caught.value.code == "disk-not-created"
    assert path.read_bytes() == b"precious"


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * MIB))
    with pytest.raises(HostError) as caught:
        check_space(tmp_path)
    assert caught.value.code == "disk-space"
    check_space(tmp_path, 3 * MIB)


def test_volumes_are_matched_with_the_document(tmp_path: Path) -> None:
    new = Volume("data", tmp_path / "data.img", 64 * MIB)
    assert check_volumes([DATA], [new]) == (new,)
    create_volumes([new])
    create_volumes([new])
    assert check_volumes([DATA], [new]) == (new,)
    assert check_volumes([DATA], [Volume("data", tmp_path / "data.img")])
    assert check_volumes([], []) == ()


def test_volumes_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "data.img").write_bytes(bytes(1 << 9))
    create_sparse(tmp_path / "good.img", 64 * MIB)
    good = Volume("data", tmp_path / "good.img")
    assert code_of([DATA], []) == "volume-missing"
    assert code_of([], [good]) == "volume-unknown"
    assert code_of([DATA], [good, good]) == "volume-unknown"
    assert code_of([DATA], [Volume("data", tmp_path / "good.img", 65 * MIB)]) == "volume-size"
    assert code_of([DATA], [Volume("data", tmp_path / "new.img")]) == "volume-size"
    assert code_of([DATA], [Volume("data", tmp_path / "new.img", MIB)]) == "volume-size"
    assert code_of([DATA], [Volume("data", tmp_path / "none" / "new.img", 64 * MIB)]) == "volume-unusable"
    assert code_of([DATA], [Volume("data", tmp_path / "data.img")]) == "volume-unusable"
    assert code_of([DATA], [Volume("data", tmp_path)]) == "volume-unusable"
    assert code_of([DATA], [Volume("data", tmp_path / "good.img" / "below")]) == "volume-unusable"


def test_volume_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_sparse(tmp_path / "good.img", 64 * MIB)
    monkeypatch.setattr("kokon.host.disks.os.access", lambda *_: False)
    assert code_of([DATA], [Volume("data", tmp_path / "good.img")]) == "volume-unusable"
