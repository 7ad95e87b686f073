"""The description of a guest image: written, read, and refused when it lies."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import HostError, KokonError, MalformedError
from kokon.launch.image import PARTS, parse_description, read_guest_image, write_description

NAMES = {"kernel": "vmlinuz", "initrd": "initrd", "root": "root.img", "firmware": "firmware.bin"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in NAMES.values():
        (tmp_path / name).write_bytes(name.encode())
    write_description(tmp_path, "6.12.1-cloud-amd64", "console=ttyS0 verity.root=00", NAMES)
    return tmp_path


def test_reads_what_was_written(directory: Path) -> None:
    image = read_guest_image(directory)
    assert image.cmdline == "console=ttyS0 verity.root=00"
    assert image.kernel_release == "6.12.1-cloud-amd64"
    assert [getattr(image, role) for role in PARTS] == [directory / NAMES[role] for role in PARTS]
    assert len(image.digest) == 64


def test_missing_image_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        read_guest_image(tmp_path)
    assert caught.value.code == "guest-image-missing"
    assert "kokon guest build" in str(caught.value.hint)


def test_truncated_file_is_noticed(directory: Path) -> None:
    (directory / "root.img").write_bytes(b"r")
    with pytest.raises(HostError) as caught:
        read_guest_image(directory)
    assert caught.value.code == "guest-image-missing"


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (("version",), 2, "guest-image-malformed"),
        (("files", "kernel", "name"), "../vmlinuz", "guest-image-malformed"),
        (("files", "kernel", "name"), "a,b", "guest-image-malformed"),
        (("files", "kernel", "sha256"), "00", "guest-image-malformed"),
        (("files", "kernel", "size"), 0, "field-range"),
        (("files", "extra"), {}, "field-unknown"),
        (("cmdline",), "x" * 3000, "field-too-long"),
    ],
)
def test_bad_descriptions_are_refused(directory: Path, path: tuple[str, ...], value: object, code: str) -> None:
    description = json.loads((directory / "guest.json").read_bytes())
    target = description
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    with pytest.raises(MalformedError) as caught:
        parse_description(json.dumps(description).encode(), directory)
    assert caught.value.code == code


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(KokonError):
        parse_description(noise, Path())
