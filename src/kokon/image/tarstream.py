"""A tar reader for streams: entries one after the other, in constant memory, bounded and strict. Guest code.

Formats: POSIX ustar and pax (IEEE Std 1003.1, pax "ustar Interchange Format" and "pax Extended Header"), and GNU tar's
long names and base-256 numbers. Own code because it runs in the guest under emulation, where the standard library's
reader costs several times as much; tests compare the two. Names are bytes.

What readers are known to understand differently is refused, not resolved: who looks at an image with another tool must
see what runs. That is sparse files, keywords said twice, global headers that change members, links with content, and
members behind a single block of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kokon.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

BLOCK = 512
EXTENSION_LIMIT = 1 << 20
"""Bytes of all extended headers of one entry."""
_OWNER_LIMIT = (1 << 32) - 2
"""The largest user or group id (Linux): the next one means "leave it as it is" to chown."""
_TIME_LIMIT = 1 << 40
_SIZE_LIMIT = 1 << 50
FILE, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (
    "file",
    "link",
    "symlink",
    "char",
    "block",
    "dir",
    "fifo",
)
_KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,
    b"1": HARDLINK,
    b"2": SYMLINK,
    b"3": CHARACTER,
    b"4": BLOCK_DEVICE,
    b"5": DIRECTORY,
    b"6": FIFO,
}
_ZERO = bytes(BLOCK)
_XATTR = b"SCHILY.xattr."
_SPARSE = (b"GNU.sparse", b"SCHILY.realsize")
_CHANGING = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"hdrcharset"))
_CHANGING_PREFIXES = (b"SCHILY.", b"GNU.", b"LIBARCHIVE.")
"""Keywords that change the members to come, if a global header says them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of an archive. `mtime` in whole seconds; `size` is 0 for all but files; names as in the archive."""

    name: bytes
    kind: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    link: bytes = b""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


class _Stream:
    """Exact reads over a sequence of chunks, with a bound on the total."""

    def __init__(self, chunks: Iterable[bytes], limit: int) -> None:
        self._chunks = iter(chunks)
        self._data = memoryview(b"")
        self._left = limit

    def _fill(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._left -= len(chunk)
                if self._left < 0:
                    raise MalformedError("layer-too-large", "a layer unpacks to more than is allowed")
                self._data = memoryview(chunk)
                return True
        return False

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes in views."""
        while count:
            if not self._data and not self._fill():
                raise MalformedError("layer-tar-malformed", "a layer's archive is cut short")
            piece = self._data[:count]
            self._data = self._data[len(piece) :]
            count -= len(piece)
            yield piece

    def block(self) -> bytes | None:
        """The next block; None at a clean end."""
        if len(self._data) >= BLOCK:
            piece = self._data[:BLOCK]
            self._data = self._data[BLOCK:]
            return bytes(piece)
        if not self._data and not self._fill():
            return None
        return b"".join(self.pieces(BLOCK))

    def drain(self) -> None:
        """Read to the end."""
        self._data = memoryview(b"")
        while self._fill():
            self._data = memoryview(b"")


def read_entries(chunks: Iterable[bytes], limit: int = 1 << 40) -> Iterator[tuple[Entry, Iterator[memoryview]]]:
    """The entries of an uncompressed archive and the content of each, to be taken before the next entry is asked for
    (what is left is skipped). The chunks are always read to their end. `limit` bounds the archive in bytes.

    Raises `MalformedError` (`layer-tar-malformed`, `layer-entry-refused`, `layer-too-large`).
    """
    stream = _Stream(chunks, limit)
    extensions: dict[bytes, bytes] = {}
    left = EXTENSION_LIMIT
    while (header := stream.block()) is not None and header != _ZERO:
        flag = _check_header(header)
        if flag in b"LKxg":
            data = _extension(stream, header, left)
            left -= len(data)
            _extend(extensions, flag, data)
            continue
        entry = _entry(header, flag, extensions)
        extensions, left = {}, EXTENSION_LIMIT
        content = stream.pieces(entry.size)
        yield entry, content
        for _ in content:
            pass
        for _ in stream.pieces(-entry.size % BLOCK):
            pass
    if extensions:
        raise MalformedError("layer-tar-malformed", "a layer's archive ends after an extended header")
    if header is not None and (stream.block() or _ZERO) != _ZERO:
        raise MalformedError("layer-tar-malformed", "a layer's archive goes on behind its end")
    stream.drain()


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax extended header ("%d keyword=value\\n"). Raises `MalformedError` (`layer-tar-malformed`)."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 12)
        digits = data[position:space] if space > 0 else b""
        end = position + (int(digits) if digits.isdigit() else 0)
        keyword, separator, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space + 1 or end > len(data) or data[end - 1 : end] != b"\n" or not separator or not keyword:
            raise MalformedError("layer-tar-malformed", "a layer's archive has a damaged extended header")
        _put(records, keyword, value)
        position = end
    return records


def _check_header(header: bytes) -> bytes:
    """The type flag of a header whose checksum holds."""
    expected = sum(header) - sum(header[148:156]) + 8 * 32
    if _number(header[148:156]) != expected:
        raise MalformedError("layer-tar-malformed", "a layer's archive has a wrong header checksum")
    return header[156:157]


def _extension(stream: _Stream, header: bytes, limit: int) -> bytes:
    size = _number(header[124:136])
    if size > limit:
        raise MalformedError("layer-tar-malformed", "an extended header is too large", found=size)
    data = b"".join(stream.pieces(size + -size % BLOCK))
    return data[:size]


def _extend(extensions: dict[bytes, bytes], flag: bytes, data: bytes) -> None:
    if flag == b"x":
        for keyword, value in parse_pax(data).items():
            _put(extensions, keyword, value)
    elif flag == b"g":
        for keyword in parse_pax(data):
            if keyword in _CHANGING or keyword.startswith(_CHANGING_PREFIXES):
                raise MalformedError(
                    "layer-entry-refused",
                    "a layer's archive has a global header that changes entries",
                    found=repr(keyword[:80]),
                )
    else:
        _put(extensions, b"path" if flag == b"L" else b"linkpath", data.rstrip(b"\0"))


def _put(records: dict[bytes, bytes], keyword: bytes, value: bytes) -> None:
    """The first or the last of two? Readers differ."""
    if keyword in records:
        raise MalformedError(
            "layer-tar-malformed", "an entry's extended headers say something twice", found=repr(keyword[:80])
        )
    records[keyword] = value


def _entry(header: bytes, flag: bytes, extensions: dict[bytes, bytes]) -> Entry:
    kind = _KINDS.get(flag)
    if kind is None or any(key.startswith(_SPARSE) for key in extensions):
        raise MalformedError("layer-entry-refused", "a layer has an entry of an unknown type", found=repr(flag))
    name = extensions.get(b"path") or _name(header)
    if kind == FILE and flag == b"\0" and name.endswith(b"/"):
        kind = DIRECTORY
    size = _pax_number(extensions, b"size", header[124:136], _SIZE_LIMIT)
    if size and kind in (HARDLINK, SYMLINK):
        raise MalformedError("layer-tar-malformed", "a layer has a link with content", found=size)
    link = (extensions.get(b"linkpath") or _text(header[157:257])) if kind in (HARDLINK, SYMLINK) else b""
    return Entry(
        name=name,
        kind=kind,
        mode=_number(header[100:108]) & 0o7777,
        uid=_pax_number(extensions, b"uid", header[108:116], _OWNER_LIMIT),
        gid=_pax_number(extensions, b"gid", header[116:124], _OWNER_LIMIT),
        mtime=_pax_number(extensions, b"mtime", header[136:148], _TIME_LIMIT),
        size=size if kind == FILE else 0,
        link=link,
        xattrs={key[len(_XATTR) :]: value for key, value in extensions.items() if key.startswith(_XATTR)},
    )


def _name(header: bytes) -> bytes:
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        name = _text(header[345:500]) + b"/" + name
    return name


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _number(raw: bytes) -> int:
    """An octal number, or GNU's base-256 for large ones."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    digits = raw.strip(b" \0")
    if not digits:
        return 0
    try:
        if not digits.isdigit():
            raise ValueError("no octal digits")
        return int(digits, 8)
    except ValueError as error:
        raise MalformedError("layer-tar-malformed", "a header has a bad number", found=repr(raw)) from error


def _pax_number(extensions: dict[bytes, bytes], keyword: bytes, raw: bytes, limit: int) -> int:
    """A number of the extended header, else of the header (`raw`), from 0 to `limit`. Only times have a fraction,
    which is left out; an empty value takes a record back (POSIX pax)."""
    text = extensions.get(keyword)
    whole, dot, fraction = (text or b"").partition(b".")
    if text and (not whole.isdigit() or len(whole) > 19 or (dot and (keyword != b"mtime" or not fraction.isdigit()))):
        raise MalformedError("layer-tar-malformed", "an extended header has a bad number", found=repr(text[:40]))
    number = int(whole) if text else _number(raw)
    if number > limit:
        raise MalformedError("layer-tar-malformed", f"an entry's {keyword.decode()} is too large", found=number)
    return number
