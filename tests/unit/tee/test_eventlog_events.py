"""What events say in words, and whether their digests cover it."""

import struct
from uuid import UUID

import pytest
from eventlog_kit import agile, digest, new, spec_id

from kokon.tee.eventlog.events import NAMES, data_matches, type_name
from kokon.tee.eventlog.log import Event, parse_event_log

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
OTHER = UUID("605dab50-e046-4300-abb6-3dd810dd8b23")


def event(kind: int, data: bytes, measured: bytes | None = None, names: tuple[str, ...] = ("sha256",)) -> Event:
    return parse_event_log(spec_id(names) + new(1, kind, data, measured, names)).events[1]


def variable(name: str, value: bytes, guid: UUID = GLOBAL) -> bytes:
    return guid.bytes_le + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


def node(kind: int, subtype: int, content: bytes) -> bytes:
    return struct.pack("<BBH", kind, subtype, 4 + len(content)) + content


def image(path: bytes) -> bytes:
    return struct.pack("<QQQQ", 0x1000, 4096, 0, len(path)) + path


def wide(text: str) -> bytes:
    return (text + "\0").encode("utf-16-le")


PATH = node(1, 1, bytes(2)) + node(4, 4, wide(r"\EFI\BOOT\BOOTX64.EFI")) + node(0x7F, 0xFF, b"")
TABLE = b"EFI PART" + bytes(48) + OTHER.bytes_le + bytes(20) + struct.pack("<Q", 2) + bytes(256)

CASES = [
    (0x04, bytes(4), None, "separator", True),
    (0x04, b"\xff" * 4, None, "separator", True),
    (0x04, b"\1\0\0\0", None, "the firmware reports an error", True),
    (0x04, bytes(4), b"\1\0\0\0", "separator (data contradicts its digest)", False),
    (0x80000007, b"Exit Boot Services Invocation", None, "Exit Boot Services Invocation", True),
    (0x80000007, b"Exit Boot Services Invocation", b"another", "Exit Boot Services Invocation (data contr", False),
    (0x05, b"an action\0", b"an action", "an action", True),
    (0x80000001, variable("SecureBoot", b"\1"), None, "SecureBoot is on", True),
    (0x80000001, variable("SecureBoot", b"\0"), None, "SecureBoot is off", True),
    (0x80000001, variable("SecureBoot", b""), None, "SecureBoot is off", True),
    (0x80000001, variable("SecureBoot", b"\1"), variable("SecureBoot", b"\0"), "SecureBoot is on (data contr", False),
    (0x80000001, variable("db", b"abc"), None, "variable db, 3 bytes", True),
    (0x800000E0, variable("MokList", b"abc", OTHER), None, f"variable MokList of {OTHER}, 3 bytes", True),
    (0x80000002, variable("Boot0001", b"abc"), b"abc", "variable Boot0001, 3 bytes", True),
    (0x80000002, variable("Boot0001", b"abc"), None, "variable Boot0001, 3 bytes", True),
    (0x80000002, variable("Boot0001", b"abc"), b"abd", "variable Boot0001, 3 bytes (data contr", False),
    (0x80000002, b"short", None, "short", True),
    (0x800000E0, variable("db", b"abc") + b"x", None, "40 bytes", True),
    (0x80000003, image(PATH), b"Authenticode", r"image \EFI\BOOT\BOOTX64.EFI, 4096 bytes (data not cov", None),
    (0x80000004, image(node(4, 6, OTHER.bytes_le)), b"x", f"image {OTHER}, 4096 bytes (data not", None),
    (0x80000005, image(node(4, 4, b"")[:3]), b"x", "image without a path, 4096 bytes (data not", None),
    (0x80000003, image(struct.pack("<BBH", 4, 4, 0)), b"x", "image without a path", None),
    (0x80000003, b"x" * 9, b"y", "xxxxxxxxx (data not covered by its digest)", None),
    (0x80000006, TABLE, None, f"partition table of disk {OTHER}, 2 partitions", True),
    (0x80000006, b"\1\2\3", None, "3 bytes", True),
    (0x8000000D, TABLE, b"with the last partition", f"partition table of disk {OTHER}, 2 partitions (data n", None),
    (0x80000008, struct.pack("<QQ", 0xFF, 9), b"code", "firmware at 0xff, 9 bytes (data not covered", None),
    (0x80000008, b"\1", b"code", "1 bytes (data not covered", None),
    (0x8000000A, b"\2Fv" + struct.pack("<QQ", 0xFF, 9), b"c", "Fv: firmware at 0xff, 9 bytes (data not", None),
    (0x8000000A, b"", b"code", "0 bytes (data not covered", None),
    (0x0D, b"grub_cmd: linux /vmlinuz\0", b"linux /vmlinuz", "grub_cmd: linux /vmlinuz", True),
    (0x0D, b"kernel_cmdline: /vmlinuz quiet\0", b"/vmlinuz quiet", "kernel_cmdline: /vmlinuz quiet", True),
    (0x0D, b"grub_cmd: linux /vmlinuz\0", b"linux /other", "grub_cmd: linux /vmlinuz (data not covered", None),
    (0x0D, wide("quiet splash"), None, "quiet splash", True),
    (0x0D, wide("quiet splash")[:-1], b"x", "quiet splash (data not covered", None),
    (0x0D, b"a\1b\xff", None, "4 bytes", True),
    (0x06, struct.pack("<II", 7, 5) + b"words", b"words", "tag 0x00000007: words", True),
    (0x06, struct.pack("<II", 0x8F3B22ED, 27) + b"LOADED_IMAGE::LoadOptions\0\0", b"q", "tag 0x8f3b22ed: LOAD", None),
    (0x06, struct.pack("<II", 7, 4) + b"words", b"q", "13 bytes (data not", None),
    (0x06, b"tag", b"q", "tag (data not", None),
    (0x08, wide("1.2"), None, "firmware version 1.2", True),
    (0x08, OTHER.bytes_le, None, f"firmware version {OTHER}", True),
    (0x08, wide("1.2"), b"1.3", "firmware version 1.2 (data contradicts", False),
    (0x09, bytes(16), None, "microcode, 16 bytes", True),
    (0x03, b"StartupLocality\0\3", None, "TPM started from locality 3", None),
    (0x03, b"SP800-155 Event\0rest", None, "remark SP800-155 Event", None),
    (0x0C, b"line one\nline \x7f", b"x", "15 bytes (data", None),
    (0x01, b"line one\nline two", b"x", "line one.line two (data", None),
    (0x01, b"x" * 400, b"x", "x" * 300 + "... (data", None),
    (0x12345678, b"odd", None, "odd", True),
]


@pytest.mark.parametrize(("kind", "data", "measured", "text", "matches"), CASES)
def test_words_and_coverage(kind: int, data: bytes, measured: bytes | None, text: str, matches: bool | None) -> None:
    found = event(kind, data, measured)
    assert found.description.startswith(text)
    assert data_matches(found) is matches
    assert ("digest)" in found.description) == (matches is not True and kind != 3)
    assert found.description.isprintable()


def test_the_first_event_tells_the_revision() -> None:
    first = parse_event_log(agile((0, 4, bytes(4)))).events[0]
    assert first.description == "Spec ID Event03, TCG log revision 02.00"
    assert (first.type_name, data_matches(first)) == ("EV_NO_ACTION", None)


def test_all_digests_must_be_of_the_data() -> None:
    names = ("sha1", "sha256")
    lie = Event(0, 0, 4, {"sha1": digest("sha1", b"x"), "sha256": digest("sha256", bytes(4))}, bytes(4))
    assert data_matches(lie) is False
    assert data_matches(event(4, bytes(4), names=names)) is True
    assert data_matches(Event(0, 0, 4, {"sm3": bytes(32)}, bytes(4))) is False
    assert data_matches(Event(0, 0, 1, {"sm3": bytes(32)}, bytes(4))) is None


def test_names() -> None:
    assert type_name(0x80000003) == "EV_EFI_BOOT_SERVICES_APPLICATION"
    assert type_name(0x99) == "0x99"
    assert len(set(NAMES.values())) == len(NAMES)
