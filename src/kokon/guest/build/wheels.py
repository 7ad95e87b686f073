"""The Python wheels of the guest: locked by digest in requirements.lock, downloaded by pip, unpacked without it."""

from __future__ import annotations

import stat
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from kokon.errors import HostError, MalformedError, UnreachableError
from kokon.guest.build.record import Package, Store
from kokon.guest.build.run import run

LOCK = Path(__file__).with_name("requirements.lock")
# What the guest's C library (glibc 2.36) can load (PEP 600), newest first.
PLATFORMS = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
WHEEL_LIMIT = 64 << 20
"""The most bytes that one wheel may unpack to."""


def download_wheels(store: Store, area: Path, lock: Path = LOCK) -> list[Package]:
    """The locked wheels, in the store. Raises `UnreachableError` (`guest-wheels-unreachable`)."""
    command: list[str | Path] = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--python-version", "3.11"]
    command += ["--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none", "--platform", "any"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    try:
        run([*command, "--requirement", lock, "--dest", area], what="pip download")
    except HostError as error:
        raise UnreachableError(
            "guest-wheels-unreachable",
            "pip could not download the guest's locked wheels",
            found=error.found,
            hint="check the network and pip's configuration",
        ) from error
    files = sorted(area.glob("*.whl"))
    return [store.add(file, *file.name.split("-")[:2]) for file in files]


def unpack_wheels(wheels: Sequence[Path], target: Path) -> None:
    """Unpack what can be imported from each wheel; metadata stays out. Raises `MalformedError` (`wheel-malformed`)."""
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                _unpack(archive, wheel.name, target)
        except zipfile.BadZipFile as error:
            raise MalformedError("wheel-malformed", f"{wheel.name} is not a wheel", found=error) from error


def _unpack(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    members = [member for member in archive.infolist() if _wanted(member, name)]
    if sum(member.file_size for member in members) > WHEEL_LIMIT:
        raise MalformedError("wheel-malformed", f"{name} is too large", expected=f"<= {WHEEL_LIMIT} bytes")
    for member in members:
        path = target / member.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archive.read(member))


def _wanted(member: zipfile.ZipInfo, name: str) -> bool:
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(member.external_attr >> 16):
        raise MalformedError("wheel-malformed", f"{name} holds an unsafe name", found=member.filename)
    metadata = path.parts[0].endswith((".dist-info", ".data"))
    return not member.is_dir() and not metadata and path.suffix in (".py", ".so")
