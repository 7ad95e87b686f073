"""Endorsements out of files: whatever people keep certificates, revocation lists and collateral in.

A folder is read with all that is below it, and what is no endorsement is passed over. A file that is named must be
one. Enrolled keys, the only thing here that is believed without a signature, are read from named files alone: nobody
should come to trust a key because it lay in a folder.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kokon.endorsements.bundle import BUNDLE_LIMIT, looks_like_bundle, parse_bundle
from kokon.errors import MalformedError, UsageError
from kokon.tee.certificates import CERTIFICATE_LIMIT, parse_certificate
from kokon.tee.endorsements import Endorsements
from kokon.tee.intel.collateral import COLLATERAL_LIMIT, read_collateral
from kokon.tee.revocation import CRL_LIMIT, parse_crl

FILES_LIMIT: Final = 20_000
DEPTH_LIMIT: Final = 16
BLOCKS_LIMIT: Final = 10_000

Kind = Literal["certificate", "crl", "pem", "hex", "collateral", "bundle"]

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\s([A-Za-z0-9+/=\s]+)-----END \1-----")
_HEX: Final = re.compile(rb"30[0-9a-fA-F]+")
_MARKS: Final = (b'"tcbInfo"', b'"enclaveIdentity"', b'"tcb_info"', b'"qe_identity"', b'"pck_crl"', b'"root_ca_crl"')
_PEEK: Final = 64
_TEXT: Final = bytes(range(0x20, 0x7F)) + b"\t\r\n"


@dataclass(slots=True)
class _Found:
    """What was found so far, each thing once, in the order in which it came."""

    certificates: dict[bytes, None] = field(default_factory=dict)
    crls: dict[bytes, None] = field(default_factory=dict)
    others: list[Endorsements] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def together(self) -> Endorsements:
        first = Endorsements(tuple(self.certificates), tuple(self.crls), enrolled_keys=frozenset(self.keys))
        certificates = (der for other in (first, *self.others) for der in other.certificates)
        crls = (der for other in (first, *self.others) for der in other.crls)
        documents = (document for other in self.others for document in other.documents)
        return Endorsements(
            tuple(dict.fromkeys(certificates)),
            tuple(dict.fromkeys(crls)),
            tuple(dict.fromkeys(documents)),
            enrolled_keys=first.enrolled_keys,
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """What files held: how many of them were endorsements, and how many were passed over."""

    endorsements: Endorsements
    read: int
    skipped: int


def load(paths: Sequence[Path]) -> Endorsements:
    """The endorsements in files and folders.

    Raises `UsageError`: `endorsements-unreadable`, `endorsements-unknown` for a named file that holds none,
    `endorsements-too-many`.
    """
    return load_counted(paths).endorsements


def load_counted(paths: Sequence[Path]) -> Loaded:
    """As `load`, and how many files were read and passed over."""
    found = _Found()
    read = skipped = 0
    for path in paths:
        if path.is_dir():
            for file in _walk(path):
                data = _plausible(file)
                if data is not None and _take(data, found, keys=False):
                    read += 1
                else:
                    skipped += 1
        else:
            _named(path, found)
            read += 1
    return Loaded(found.together(), read, skipped)


def parse(data: bytes) -> Endorsements | None:
    """The endorsements in the bytes of one file, keys included; None if it holds none."""
    found = _Found()
    return found.together() if _take(data, found, keys=True) else None


def classify(data: bytes) -> Kind | None:
    """What kind of file of endorsements this looks like, by its first bytes and a few words; None for anything else.
    Nothing is parsed."""
    if data[:1] == b"\x30":
        return _der_kind(data)
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"{":
        if looks_like_bundle(start):
            return "bundle"
        return "collateral" if any(mark in start for mark in _MARKS) else None
    if not data.isascii():
        return None
    if b"-----BEGIN " in data:
        return "pem"
    return "hex" if start[:2] == b"30" and _HEX.fullmatch(start.rstrip()) else None


def _der_kind(data: bytes) -> Kind | None:
    """A DER SEQUENCE that is exactly as long as it says; a certificate's first member begins with its version, a
    list's, which has a version without a tag, does not (RFC 5280, 4.1 and 5.1)."""
    count = data[1] & 0x7F if len(data) > 1 and data[1] > 0x80 else 0
    size = int.from_bytes(data[2 : 2 + count], "big")
    if not 1 <= count <= 3 or len(data) != 2 + count + size or data[2 + count : 3 + count] != b"\x30":
        return None
    inner = 2 + count + 1
    first = data[inner] if inner < len(data) else 0
    content = inner + 1 + (first & 0x7F if first > 0x80 else 0)
    return "certificate" if data[content : content + 1] == b"\xa0" else "crl"


def _take(data: bytes, found: _Found, *, keys: bool) -> bool:
    """Add what is in `data`; False if there is nothing in it."""
    kind = classify(data)
    try:
        if kind in ("certificate", "crl"):
            _take_der(data, found)
        elif kind == "pem":
            return _take_pem(data, found, keys=keys)
        elif kind == "hex":
            _take_der(bytes.fromhex(data.strip().decode("ascii")), found)
        elif kind == "bundle":
            found.others.append(parse_bundle(data).endorsements)
        elif kind == "collateral":
            found.others.append(_parsed(read_collateral(data)))
        else:
            return False
    except (MalformedError, ValueError):
        return False
    return True


def _take_der(der: bytes, found: _Found) -> None:
    if _der_kind(der) == "certificate":
        found.certificates[parse_certificate(der).der] = None
    else:
        found.crls[parse_crl(der).der] = None


def _parsed(endorsements: Endorsements) -> Endorsements:
    """Collateral whose lists and certificates parse; its documents already did."""
    for der in (*endorsements.certificates, *(der for document in endorsements.documents for der in document.chain)):
        parse_certificate(der)
    for der in endorsements.crls:
        parse_crl(der)
    return endorsements


def _take_pem(text: bytes, found: _Found, *, keys: bool) -> bool:
    """Add every block that parses; False if none did."""
    readers: dict[bytes, Callable[[bytes], None]] = {
        b"CERTIFICATE": lambda der: found.certificates.setdefault(parse_certificate(der).der),
        b"X509 CRL": lambda der: found.crls.setdefault(parse_crl(der).der),
    }
    if keys:
        readers[b"PUBLIC KEY"] = lambda der: found.keys.add(_key(der))
    taken = 0
    for count, match in enumerate(_BLOCK.finditer(text)):
        if count == BLOCKS_LIMIT:
            break
        reader = readers.get(match.group(1))
        if reader is not None:
            try:
                reader(base64.b64decode(b"".join(match.group(2).split()), validate=True))
                taken += 1
            except (MalformedError, binascii.Error):
                continue
    return taken > 0


def _key(der: bytes) -> str:
    """SHA-256 of a public key's DER SubjectPublicKeyInfo, in the one form that DER has for it."""
    if len(der) > CERTIFICATE_LIMIT:
        raise MalformedError("public-key-malformed", "a public key is too large", found=len(der))
    try:
        spki = load_der_public_key(der).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("public-key-malformed", "a public key does not parse", found=error) from error
    return hashlib.sha256(spki).hexdigest()


def _named(path: Path, found: _Found) -> None:
    try:
        with path.open("rb") as file:
            data = file.read(BUNDLE_LIMIT + 1)
    except OSError as error:
        raise UsageError(
            "endorsements-unreadable", f"cannot read {path}", found=error.strerror, hint="check the path"
        ) from error
    if len(data) > BUNDLE_LIMIT or not _take(data, found, keys=True):
        raise UsageError(
            "endorsements-unknown",
            f"{path.name} holds no endorsements",
            expected="certificates, revocation lists or public keys (PEM, DER), Intel's collateral (JSON), or a bundle",
            found=f"{len(data)} bytes, like {classify(data[:BUNDLE_LIMIT]) or 'nothing known'}",
            hint="the file may be damaged; evidence itself is not an endorsement",
        )


def _walk(folder: Path) -> Iterator[Path]:
    """The regular files below a folder, in order of their names; links to folders are not followed."""
    count = 0
    folders = [(folder, 0)]
    while folders:
        here, depth = folders.pop()
        try:
            with os.scandir(here) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if here == folder:
                raise UsageError("endorsements-unreadable", f"cannot read {folder}", found=error.strerror) from error
            continue
        for entry in ordered:
            count += 1
            if count > FILES_LIMIT:
                raise UsageError(
                    "endorsements-too-many",
                    f"{folder} holds too many files",
                    expected=f"<= {FILES_LIMIT}",
                    hint="make a bundle of what is needed: kokon endorsements bundle",
                )
            if entry.is_dir(follow_symlinks=False):
                if depth < DEPTH_LIMIT:
                    folders.append((Path(entry.path), depth + 1))
            elif _is_file(entry):
                yield Path(entry.path)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A regular file, or a link to one; a link that leads nowhere or in a circle is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _plausible(path: Path) -> bytes | None:
    """The bytes of a file that may be endorsements by how it begins and how large it is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            start = file.read(_PEEK)
            text = not start.translate(None, _TEXT) or start.startswith(b"\xef\xbb\xbf")
            limit = COLLATERAL_LIMIT if text else CRL_LIMIT
            if not stat.S_ISREG(about.st_mode) or about.st_size > limit or not (text or start[:1] == b"\x30"):
                return None
            return start + file.read(limit)
    except OSError:
        return None
