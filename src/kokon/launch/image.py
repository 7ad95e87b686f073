"""The guest image as a launch uses it: firmware, kernel, initrd, root file system and the kernel command line.

`guest.json` beside the files describes them; its SHA-256 names the guest image. What it says is checked later:
the launch measurement covers firmware, kernel, initrd and command line, and the command line covers the root.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kokon.errors import HostError, MalformedError
from kokon.wire import Fields, canonical_json, parse_json

DESCRIPTION = "guest.json"
DESCRIPTION_LIMIT = 64 << 10
PARTS = ("kernel", "initrd", "root", "firmware")


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the guest image: name inside the directory, SHA-256 (hex) and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A guest image in `directory`; `digest` is SHA-256 (hex) of guest.json."""

    directory: Path
    kernel_release: str
    cmdline: str
    parts: dict[str, Part]
    digest: str

    @property
    def kernel(self) -> Path:
        """The kernel (bzImage or vmlinux)."""
        return self.directory / self.parts["kernel"].name

    @property
    def initrd(self) -> Path:
        """The initial RAM disk."""
        return self.directory / self.parts["initrd"].name

    @property
    def root(self) -> Path:
        """The root file system with its dm-verity tree behind it."""
        return self.directory / self.parts["root"].name

    @property
    def firmware(self) -> Path:
        """The firmware."""
        return self.directory / self.parts["firmware"].name


def current_guest(home: Path) -> Path:
    """The directory of the guest image that was built last below Kokon's home; it may not be there yet."""
    return home / "guest" / "current"


def read_guest_image(directory: Path) -> GuestImage:
    """The guest image described in `directory`.

    Raises `HostError` (`guest-image-missing`) and `MalformedError` (`guest-image-malformed`, `json-...`, `field-...`).
    """
    try:
        with (directory / DESCRIPTION).open("rb") as file:
            data = file.read(DESCRIPTION_LIMIT + 1)
    except OSError as error:
        raise HostError(
            "guest-image-missing",
            f"no guest image in {directory}",
            found=error.strerror,
            hint="build one with: kokon guest build",
        ) from error
    image = parse_description(data, directory)
    for part in image.parts.values():
        path = directory / part.name
        if not path.is_file() or path.stat().st_size != part.size:
            raise HostError(
                "guest-image-missing",
                f"{part.name} of the guest image is missing or incomplete",
                expected=f"{part.size} bytes",
                hint="build it again with: kokon guest build",
            )
    return image


def parse_description(data: bytes, directory: Path) -> GuestImage:
    """`guest.json` as a value. Raises `MalformedError`."""
    fields = Fields(parse_json(data, limit=DESCRIPTION_LIMIT, what=DESCRIPTION), DESCRIPTION)
    if fields.integer("version") != 1:
        raise MalformedError("guest-image-malformed", "guest.json has an unknown version", expected=1)
    release = fields.text("kernel_release", limit=128)
    cmdline = fields.text("cmdline", limit=2047)
    fields.text("packages", limit=64)
    files = Fields(fields.table("files"), "files of guest.json")
    fields.finish()
    parts = {role: _part(Fields(files.table(role), role)) for role in PARTS}
    files.finish()
    return GuestImage(directory, release, cmdline, parts, hashlib.sha256(data).hexdigest())


def _part(fields: Fields) -> Part:
    part = Part(
        name=fields.text("name", limit=64),
        sha256=fields.text("sha256", limit=64),
        size=fields.integer("size", low=1),
    )
    fields.finish()
    plain = part.name not in (".", "..") and "/" not in part.name and part.name.isascii() and part.name.isprintable()
    if not plain or "," in part.name or len(part.sha256) != 64:
        raise MalformedError("guest-image-malformed", "a file of guest.json is malformed", found=repr(part.name))
    return part


def write_description(directory: Path, kernel_release: str, cmdline: str, names: dict[str, str]) -> GuestImage:
    """Write guest.json for the files `names` (role to file name) in `directory` and return the image."""
    files = {}
    for role in PARTS:
        data = (directory / names[role]).read_bytes()
        files[role] = {"name": names[role], "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    description = {
        "version": 1,
        "kernel_release": kernel_release,
        "cmdline": cmdline,
        "files": files,
        "packages": "packages.json",
    }
    (directory / DESCRIPTION).write_bytes(canonical_json(description) + b"\n")
    return read_guest_image(directory)
