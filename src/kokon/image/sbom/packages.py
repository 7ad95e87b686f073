"""Packages out of the databases that package managers leave in an image. Pure.

Formats: dpkg's status file (deb-control fields, dpkg-query(1)) and the status.d of images without dpkg; apk's installed
(apk-tools, "P:", "V:", ...); core metadata of Python (PyPA, dist-info/METADATA and egg-info/PKG-INFO); os-release(5).
RPM's database is not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PACKAGES_LIMIT = 50_000
_STATUS_D = re.compile(r"var/lib/dpkg/status\.d/[^/]+(?<!\.md5sums)")
_PYTHON = re.compile(r"(?:.*/)?[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)")
_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
_DPKG, _APK = "var/lib/dpkg/status", ("lib/apk/db/installed", "usr/lib/apk/db/installed")


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """A package: `kind` is deb, apk or pypi (types of package URLs); `license` as the package says it, or ""."""

    kind: str
    name: str
    version: str
    architecture: str = ""
    license: str = ""
    distribution: str = ""

    @property
    def purl(self) -> str:
        """The package URL (purl-spec): pkg:deb/debian/python3@3.11.2-1?arch=all."""
        name = re.sub(r"[-_.]+", "-", self.name).lower() if self.kind == "pypi" else self.name
        space = f"{self.distribution or ('debian' if self.kind == 'deb' else 'alpine')}/" if self.kind != "pypi" else ""
        arch = f"?arch={quote(self.architecture, safe='')}" if self.architecture else ""
        return f"pkg:{self.kind}/{quote(space)}{quote(name, safe='')}@{quote(self.version, safe='')}{arch}"


def is_database(path: str) -> bool:
    """Whether the file at `path` (no leading slash) is one that packages are read from."""
    return path in (_DPKG, *_APK, *_OS_RELEASE) or bool(_STATUS_D.fullmatch(path) or _PYTHON.fullmatch(path))


def read_packages(files: Mapping[str, bytes]) -> tuple[Package, ...]:
    """The packages that these files tell of, sorted, each once; at most 50,000."""
    release = next((files[path] for path in _OS_RELEASE if path in files), b"")
    distribution = _release(release.decode("utf-8", "replace"))
    found: set[Package] = set()
    for path, data in files.items():
        text = data.decode("utf-8", "replace")
        if path == _DPKG or _STATUS_D.fullmatch(path):
            found.update(_deb(text, distribution))
        elif path in _APK:
            found.update(_apk(text, distribution))
        elif _PYTHON.fullmatch(path):
            found.update(_python(text))
    return tuple(sorted(found)[:PACKAGES_LIMIT])


def _release(text: str) -> str:
    """The name of the distribution, as ID of os-release has it."""
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "ID" and re.fullmatch(r"[a-z0-9._-]{1,64}", value.strip("\"' ")):
            return value.strip("\"' ")
    return ""


def _fields(lines: Iterable[str], separator: str) -> dict[str, str]:
    """The one-line fields of a stanza; of two of a name the first."""
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(separator)
        if colon and not line[:1].isspace():
            found.setdefault(name, value.strip())
    return found


def _stanzas(text: str) -> Iterator[list[str]]:
    for stanza in re.split(r"\n\s*\n", text):
        if stanza.strip():
            yield stanza.strip("\n").split("\n")


def _deb(text: str, distribution: str) -> Iterator[Package]:
    for stanza in _stanzas(text):
        fields = _fields(stanza, ":")
        status = fields.get("Status", "install ok installed").split()
        if fields.get("Package") and fields.get("Version") and status[-1:] == ["installed"]:
            yield Package(
                "deb", fields["Package"], fields["Version"], fields.get("Architecture", ""), distribution=distribution
            )


def _apk(text: str, distribution: str) -> Iterator[Package]:
    for stanza in _stanzas(text):
        fields = _fields(stanza, ":")
        if fields.get("P") and fields.get("V"):
            yield Package("apk", fields["P"], fields["V"], fields.get("A", ""), fields.get("L", ""), distribution)


def _python(text: str) -> Iterator[Package]:
    head = text.replace("\r\n", "\n").partition("\n\n")[0]
    fields = _fields(head.split("\n"), ":")
    if fields.get("Name") and fields.get("Version"):
        yield Package("pypi", fields["Name"], fields["Version"], license=fields.get("License-Expression", ""))
