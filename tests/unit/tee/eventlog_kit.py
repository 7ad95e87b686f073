"""Event logs for tests, written out by hand from the TCG's tables."""

import hashlib
import struct

NUMBERS = {"sha1": 4, "sha256": 11, "sha384": 12, "sha512": 13}
SEPARATOR = 4
IPL = 13


def digest(name: str, data: bytes) -> bytes:
    return hashlib.new(name, data).digest()


def old(register: int, kind: int, data: bytes, measured: bytes | None = None) -> bytes:
    value = bytes(20) if kind == 3 else digest("sha1", data if measured is None else measured)
    return struct.pack("<II20sI", register, kind, value, len(data)) + data


def spec_id(names: tuple[str, ...], register: int = 0) -> bytes:
    sizes = b"".join(struct.pack("<HH", NUMBERS[name], len(digest(name, b""))) for name in names)
    data = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(names)) + sizes + b"\0"
    return old(register, 3, data)


def new(
    register: int, kind: int, data: bytes, measured: bytes | None = None, names: tuple[str, ...] = ("sha256",)
) -> bytes:
    out = struct.pack("<III", register, kind, len(names))
    for name in names:
        value = bytes(len(digest(name, b""))) if kind == 3 else digest(name, data if measured is None else measured)
        out += struct.pack("<H", NUMBERS[name]) + value
    return out + struct.pack("<I", len(data)) + data


def agile(*events: tuple[int, int, bytes], names: tuple[str, ...] = ("sha256",), register: int = 0) -> bytes:
    return spec_id(names, register) + b"".join(new(*event, names=names) for event in events)


def extended(name: str, *measured: bytes, start: bytes = b"") -> bytes:
    value = start or bytes(len(digest(name, b"")))
    for data in measured:
        value = digest(name, value + digest(name, data))
    return value
