"""Tar members byte by byte, so that a test can say what no archiver would write."""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)


def header(
    name: bytes = b"a", kind: bytes = b"0", *, size: bytes = b"0", link: bytes = b"", mode: bytes = b"644"
) -> bytes:
    """A ustar header with a right checksum. `size` and `mode` are the raw fields; octal digits are padded."""
    fields = [
        name.ljust(100, b"\0"),
        mode.rjust(7, b"0") + b"\0",
        b"0000000\0" * 2,
        size if len(size) == 12 else size.rjust(11, b"0") + b"\0",
        b"00000000000\0",
        b" " * 8,
        kind,
        link.ljust(100, b"\0"),
        b"ustar\x0000",
    ]
    raw = b"".join(fields).ljust(BLOCK, b"\0")
    return raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]


def raw_member(name: bytes = b"a", content: bytes = b"", kind: bytes = b"0", **fields: bytes) -> bytes:
    """A header and its content, padded to blocks; the header says the content's size unless `size` is given."""
    fields.setdefault("size", b"%o" % len(content))
    return header(name, kind, **fields) + content + bytes(-len(content) % BLOCK)


def record(keyword: bytes, value: bytes) -> bytes:
    """One record of a pax extended header."""
    body = b" " + keyword + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """An extended header with these records, or a global one (`kind` g)."""
    return raw_member(b"PaxHeaders/a", b"".join(record(*each) for each in records), kind)
