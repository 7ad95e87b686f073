"""Finding the virtio disks that the host attached, by the serial it gave them. Their content is hostile input."""

from __future__ import annotations

from pathlib import Path

from kokon.errors import HostError

SERIAL_LIMIT = 20
"""virtio-blk serials have at most 20 bytes (virtio 1.2 section 5.2.6); longer names are cut."""


def volume_serial(name: str) -> str:
    """The serial of the disk of the volume `name`."""
    return f"vol-{name}"[:SERIAL_LIMIT]


def find_disk(serial: str, root: Path = Path("/sys/block"), devices: Path = Path("/dev")) -> Path:
    """The device whose serial this is. Raises `HostError` (`disk-missing`, `disk-ambiguous`)."""
    found = [entry.name for entry in sorted(root.iterdir()) if _serial(entry) == serial.encode()]
    if not found:
        raise HostError(
            "disk-missing", "the host attached no such disk", expected=serial, hint="start it with `kokon run`"
        )
    if len(found) > 1:
        raise HostError("disk-ambiguous", "the host attached two disks with one serial", found=serial)
    return devices / found[0]


def _serial(entry: Path) -> bytes:
    try:
        with (entry / "serial").open("rb") as file:
            return file.read(SERIAL_LIMIT + 1).strip(b"\0\n ")
    except OSError:
        return b""


def read_head(path: Path, size: int) -> bytes:
    """The first `size` bytes of a disk, fewer if it is smaller. Raises `OSError`."""
    with path.open("rb", buffering=0) as file:
        data = bytearray()
        while len(data) < size:
            piece = file.read(size - len(data))
            if not piece:
                break
            data += piece
    return bytes(data)
