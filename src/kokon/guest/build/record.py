"""The record of what a guest image is made of: names, versions and digests of packages and wheels, and their store."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from kokon.errors import MalformedError, UntrustedError
from kokon.wire import Fields, canonical_json, parse_json

RECORD = "packages.json"
RECORD_LIMIT = 1 << 20
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.~:_-]*")


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package or Python wheel: name, version, SHA-256 (hex) of its file, and the suffix of its file."""

    name: str
    version: str
    sha256: str
    suffix: str = "deb"


@dataclass(frozen=True, slots=True)
class Record:
    """Packages and wheels, and `request`: the digest of what was asked for when they were chosen."""

    request: str
    packages: tuple[Package, ...]

    def of(self, suffix: str) -> tuple[Package, ...]:
        """The packages whose file has this suffix."""
        return tuple(package for package in self.packages if package.suffix == suffix)


def write_record(record: Record, path: Path) -> None:
    """Write the record as canonical JSON, replacing the file at once."""
    members = [
        {"name": package.name, "version": package.version, "sha256": package.sha256, "suffix": package.suffix}
        for package in record.packages
    ]
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(canonical_json({"version": 1, "request": record.request, "packages": members}) + b"\n")
    scratch.replace(path)


def read_record(path: Path) -> Record:
    """The record in a file. Raises `MalformedError` (`packages-malformed`, `json-...`, `field-...`), `OSError`."""
    with path.open("rb") as file:
        return parse_record(file.read(RECORD_LIMIT + 1))


def parse_record(data: bytes) -> Record:
    """The record in `data`. Raises `MalformedError` as `read_record` does."""
    fields = Fields(parse_json(data, limit=RECORD_LIMIT, what=RECORD), RECORD)
    if fields.integer("version") != 1:
        raise MalformedError("packages-malformed", f"{RECORD} has an unknown version", expected=1)
    request = fields.text("request", limit=64)
    packages = tuple(_package(Fields(entry, "package")) for entry in fields.array("packages", limit=1024))
    fields.finish()
    return Record(request, packages)


def _package(fields: Fields) -> Package:
    package = Package(
        fields.text("name", limit=128),
        fields.text("version", limit=128),
        fields.text("sha256", limit=64),
        fields.text("suffix", limit=8),
    )
    fields.finish()
    plain = all(_PLAIN.fullmatch(text) for text in (package.name, package.version))
    if not plain or package.suffix not in ("deb", "whl") or not re.fullmatch("[0-9a-f]{64}", package.sha256):
        raise MalformedError("packages-malformed", f"an entry of {RECORD} is malformed", found=package.name)
    return package


class Store:
    """Package files by digest, in `directory`; the first use in a process checks a file's digest."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._checked: set[str] = set()

    def path(self, package: Package) -> Path:
        """Where the package's file is, or would be."""
        return self._directory / f"{package.sha256}.{package.suffix}"

    def holds(self, package: Package) -> bool:
        """Whether the file is there. A file with another content raises `UntrustedError` (`guest-package-mismatch`)."""
        path = self.path(package)
        if package.sha256 in self._checked:
            return True
        if not path.is_file():
            return False
        found = sha256_file(path)
        if found != package.sha256:
            raise UntrustedError(
                "guest-package-mismatch",
                f"the stored file of {package.name} {package.version} was changed",
                expected=package.sha256,
                found=found,
                hint=f"delete {path} and build again",
            )
        self._checked.add(package.sha256)
        return True

    def add(self, file: Path, name: str, version: str) -> Package:
        """Move a downloaded file into the store; its suffix stays."""
        package = Package(name, version, sha256_file(file), file.suffix[1:])
        self._directory.mkdir(parents=True, exist_ok=True)
        file.replace(self.path(package))
        self._checked.add(package.sha256)
        return package


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
