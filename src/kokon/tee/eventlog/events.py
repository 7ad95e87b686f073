"""What events mean: names, short descriptions, and whether an event's digest covers what the event says.

Only digests are extended. For some types the digest is by definition that of the event data; for others the data is a
remark that whoever stores the log can rewrite at will: the path of a boot loader, the name of a file. Descriptions of
such events end in "(data not covered by its digest)", or in "(data contradicts its digest)" where it should be covered.

Types and their data: TCG PC Client Platform Firmware Profile, section 10.4; UEFI for paths and variables.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

if TYPE_CHECKING:
    from kokon.tee.eventlog.log import Event

NAMES: Final[Mapping[int, str]] = {
    0x00: "EV_PREBOOT_CERT",
    0x01: "EV_POST_CODE",
    0x03: "EV_NO_ACTION",
    0x04: "EV_SEPARATOR",
    0x05: "EV_ACTION",
    0x06: "EV_EVENT_TAG",
    0x07: "EV_S_CRTM_CONTENTS",
    0x08: "EV_S_CRTM_VERSION",
    0x09: "EV_CPU_MICROCODE",
    0x0A: "EV_PLATFORM_CONFIG_FLAGS",
    0x0B: "EV_TABLE_OF_DEVICES",
    0x0C: "EV_COMPACT_HASH",
    0x0D: "EV_IPL",
    0x0E: "EV_IPL_PARTITION_DATA",
    0x0F: "EV_NONHOST_CODE",
    0x10: "EV_NONHOST_CONFIG",
    0x11: "EV_NONHOST_INFO",
    0x12: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x13: "EV_POST_CODE2",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x8000000D: "EV_EFI_GPT_EVENT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
    0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
    0x800000E3: "EV_EFI_SPDM_DEVICE_POLICY",
    0x800000E4: "EV_EFI_SPDM_DEVICE_AUTHORITY",
}
"""Type names by number."""

_VARIABLE_BOOT: Final = 0x80000002
_HASHED: Final = frozenset(
    (0x04, 0x05, 0x08, 0x12, 0x80000001, _VARIABLE_BOOT, 0x80000006, 0x80000007, 0x8000000C, 0x800000E0)
)
"""Types whose digest is defined as that of the event data."""

_VARIABLE: Final = struct.Struct("<16sQQ")
_IMAGE: Final = struct.Struct("<QQQQ")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_TAG: Final = struct.Struct("<II")
_NODE: Final = struct.Struct("<BBH")
_TEXT_LIMIT: Final = 300
_PREFIXES: Final = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ", b"grub_kernel_cmdline ", b"grub_cmd ")
"""How GRUB introduces what it measured."""
_NOT_COVERED: Final = " (data not covered by its digest)"
_CONTRADICTED: Final = " (data contradicts its digest)"


def type_name(kind: int) -> str:
    """The TCG's name of an event type, or its number in hex."""
    return NAMES.get(kind, f"{kind:#x}")


def data_matches(event: Event) -> bool | None:
    """Whether the event's data is what its digests are the hash of.

    True if it is, so that the data is as good as the register. False if the type's digest is defined as the hash of
    the data and is not: somebody changed it, or the firmware has a quirk. None if nothing can be said: the digest is of
    something that is not in the log. For EV_EFI_VARIABLE_BOOT True speaks of the variable's value only, not its name.
    """
    return _matches(event.type, event.data, event.digests)


def _matches(kind: int, data: bytes, digests: Mapping[str, bytes]) -> bool | None:
    if kind == 0x03:
        return None
    for candidate in _candidates(kind, data):
        if _covered(candidate, digests):
            return True
    return False if kind in _HASHED else None


def _covered(candidate: bytes, digests: Mapping[str, bytes]) -> bool:
    """True if every digest that can be computed here is the hash of `candidate`, and one can."""
    computed = 0
    for name, digest in digests.items():
        if name == "sha1":
            right = hashlib.sha1(candidate, usedforsecurity=False).digest()
        elif name in ("sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"):
            right = hashlib.new(name, candidate).digest()
        else:
            continue
        if right != digest:
            return False
        computed += 1
    return computed > 0


def _candidates(kind: int, data: bytes) -> Iterator[bytes]:
    """What the digest may be the hash of."""
    yield data
    if kind == _VARIABLE_BOOT:
        variable = _variable(data)
        if variable is not None:
            yield variable[2]
    elif kind == 0x06 and len(data) >= _TAG.size:
        yield data[_TAG.size :]
    elif kind in (0x05, 0x0D, 0x80000007):
        text = data.rstrip(b"\0")
        yield text
        yield text + b"\0" * (len(text) % 2)
        for prefix in _PREFIXES:
            if text.startswith(prefix):
                yield text.removeprefix(prefix)
                yield data.removeprefix(prefix)


def describe(kind: int, data: bytes, digests: Mapping[str, bytes]) -> str:
    """An event in a few printable words."""
    text = _describe(kind, data)
    matches = _matches(kind, data, digests)
    if kind == 0x03 or matches:
        return text
    return text + (_NOT_COVERED if matches is None else _CONTRADICTED)


def _describe(kind: int, data: bytes) -> str:
    reader = _READERS.get(kind)
    text = reader(data) if reader else None
    return _printable(_text(data) if text is None else text)


def _printable(text: str) -> str:
    kept = "".join(character if character.isprintable() else "." for character in text[: _TEXT_LIMIT + 1])
    return kept if len(text) <= _TEXT_LIMIT else kept[:_TEXT_LIMIT] + "..."


def _text(data: bytes) -> str:
    """Text in ASCII or UTF-16, else how many bytes there are."""
    stripped = data.rstrip(b"\0")[: 4 * _TEXT_LIMIT]
    if stripped and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in stripped):
        return stripped.decode("ascii")
    wide = _wide(data)
    if len(wide) > 1 and all(32 <= ord(character) < 127 for character in wide):
        return wide
    return f"{len(data)} bytes"


def _wide(data: bytes) -> str:
    even = data[: min(len(data) & ~1, 4 * _TEXT_LIMIT)]
    return even.decode("utf-16-le", "replace").split("\0", 1)[0]


def _separator(data: bytes) -> str:
    if data in (bytes(4), b"\xff" * 4):
        return "separator"
    return "the firmware reports an error"


def _variable(data: bytes) -> tuple[str, str, bytes] | None:
    """Vendor GUID, name and value of a UEFI_VARIABLE_DATA."""
    if len(data) < _VARIABLE.size:
        return None
    guid, characters, size = _VARIABLE.unpack_from(data)
    start = _VARIABLE.size + 2 * characters
    if start + size != len(data):
        return None
    name = data[_VARIABLE.size : start].decode("utf-16-le", "replace")
    return str(UUID(bytes_le=guid)), name, data[start:]


def _describe_variable(data: bytes) -> str | None:
    variable = _variable(data)
    if variable is None:
        return None
    guid, name, value = variable
    if name == "SecureBoot" and len(value) < 2:
        return f"SecureBoot is {'on' if value == bytes([1]) else 'off'}"
    known = {"8be4df61-93ca-11d2-aa0d-00e098032b8c", "d719b2cb-3d3a-4596-a3bc-dad00e67656f"}
    owner = "" if guid in known else f" of {guid}"
    return f"variable {name}{owner}, {len(value)} bytes"


def _image(data: bytes) -> str | None:
    """UEFI_IMAGE_LOAD_EVENT: address, length, link-time address, length of the path, device path."""
    if len(data) < _IMAGE.size:
        return None
    _address, size, _link, _path = _IMAGE.unpack_from(data)
    return f"image {_device_path(data[_IMAGE.size :]) or 'without a path'}, {size} bytes"


def _device_path(data: bytes) -> str:
    """The parts of a device path that people know: files, volumes, vendors' GUIDs (UEFI, section 10.3)."""
    parts: list[str] = []
    position = 0
    while position + _NODE.size <= len(data):
        kind, subtype, size = _NODE.unpack_from(data, position)
        content = data[position + _NODE.size : position + size]
        if kind == 0x7F or size < _NODE.size:
            break
        if (kind, subtype) == (4, 4):
            parts.append(_wide(content))
        elif (kind, subtype) in ((4, 6), (4, 7), (1, 4), (4, 3)) and len(content) >= 16:
            parts.append(str(UUID(bytes_le=content[:16])))
        position += size
    return " ".join(parts)


def _table(data: bytes) -> str | None:
    """UEFI_GPT_DATA: the 92 bytes of the header, number of entries, entries."""
    if len(data) < 100 or data[:8] != b"EFI PART":
        return None
    (count,) = _U64.unpack_from(data, 92)
    return f"partition table of disk {UUID(bytes_le=data[56:72])}, {count} partitions"


def _blob(data: bytes) -> str | None:
    """UEFI_PLATFORM_FIRMWARE_BLOB: address and length."""
    if len(data) != 16:
        return None
    address, size = struct.unpack("<QQ", data)
    return f"firmware at {address:#x}, {size} bytes"


def _named_blob(data: bytes) -> str | None:
    """UEFI_PLATFORM_FIRMWARE_BLOB2: length of a name, name, address, length."""
    if not data or len(data) != 17 + data[0]:
        return None
    name = data[1 : 1 + data[0]].rstrip(b"\0").decode("ascii", "replace")
    return f"{name}: {_blob(data[1 + data[0] :])}"


def _tag(data: bytes) -> str | None:
    """TCG_PCClientTaggedEvent: number, size, data. Linux's EFI stub, for one, measures what it names here."""
    if len(data) < _TAG.size:
        return None
    number, size = _TAG.unpack_from(data)
    if size != len(data) - _TAG.size:
        return None
    return f"tag {number:#010x}: {_text(data[_TAG.size :])}"


def _remark(data: bytes) -> str:
    if data.startswith(b"StartupLocality\0") and len(data) == 17:
        return f"TPM started from locality {data[-1]}"
    if data.startswith(b"Spec ID Event"):
        return f"{data[:15].decode('ascii', 'replace')}, TCG log revision {data[21:22].hex()}.{data[20:21].hex()}"
    return f"remark {data[:16].rstrip(bytes(1)).decode('ascii', 'replace')}"


def _microcode(data: bytes) -> str:
    return f"microcode, {len(data)} bytes"


def _version(data: bytes) -> str:
    if len(data) == 16 and b"\0\0\0" not in data:
        return f"firmware version {UUID(bytes_le=data)}"
    return f"firmware version {_text(data)}"


_READERS: Final[Mapping[int, Callable[[bytes], Any]]] = {
    0x03: _remark,
    0x04: _separator,
    0x06: _tag,
    0x08: _version,
    0x09: _microcode,
    0x80000001: _describe_variable,
    _VARIABLE_BOOT: _describe_variable,
    0x80000003: _image,
    0x80000004: _image,
    0x80000005: _image,
    0x80000006: _table,
    0x80000008: _blob,
    0x8000000A: _named_blob,
    0x8000000C: _describe_variable,
    0x8000000D: _table,
    0x800000E0: _describe_variable,
}
