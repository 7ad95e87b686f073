"""Bills of materials as documents: SPDX 2.3 JSON and CycloneDX 1.5 JSON, written and counted. Pure.

The same packages, image and time give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError
from kokon.image.statement import format_time
from kokon.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from kokon.image.sbom.packages import Package

SPDX, CYCLONEDX = "spdx", "cyclonedx"
MEDIA_TYPES = {SPDX: "application/spdx+json", CYCLONEDX: "application/vnd.cyclonedx+json"}
"""As the registry of media types (IANA) has them; also the artifact types of the referrers."""
SBOM_LIMIT = 32 << 20
TOOL = "kokon"


@dataclass(frozen=True, slots=True)
class Sbom:
    """A bill of materials: `kind` is spdx or cyclonedx, `data` the JSON document, `packages` how many it lists."""

    kind: str
    data: bytes
    packages: int

    @property
    def media_type(self) -> str:
        """What it is in a registry."""
        return MEDIA_TYPES[self.kind]


def write_sbom(kind: str, name: str, content: str, packages: Iterable[Package], created: datetime) -> Sbom:
    """The document of `kind` about the image `name`, whose content (the digest of its source's configuration) is
    `content`."""
    listed = tuple(packages)
    make = _spdx if kind == SPDX else _cyclonedx
    document = make(name, content, listed, format_time(created.replace(microsecond=0)))
    return Sbom(kind, json.dumps(document, indent=1, sort_keys=True).encode(), len(listed))


def parse_sbom(data: bytes) -> Sbom:
    """A document that any tool made. Raises `MalformedError` (`sbom-unknown`, the codes of `kokon.wire`)."""
    document = parse_json(data, limit=SBOM_LIMIT, what="bill of materials")
    if isinstance(document, dict):
        if str(document.get("spdxVersion", "")).startswith("SPDX-2."):
            described = {one.get("relatedSpdxElement") for one in _tables(document, "relationships", "DESCRIBES")}
            packages = [one for one in _tables(document, "packages") if one.get("SPDXID") not in described]
            return Sbom(SPDX, data, len(packages))
        if document.get("bomFormat") == "CycloneDX":
            return Sbom(CYCLONEDX, data, len(_tables(document, "components")))
    raise MalformedError(
        "sbom-unknown", "this is no bill of materials that Kokon knows", expected="SPDX 2.x or CycloneDX, as JSON"
    )


def _tables(document: dict[str, Any], name: str, relation: str = "") -> list[dict[str, Any]]:
    members = document.get(name)
    tables = [one for one in members if isinstance(one, dict)] if isinstance(members, list) else []
    return [one for one in tables if not relation or one.get("relationshipType") == relation]


def _spdx(name: str, content: str, packages: tuple[Package, ...], created: str) -> dict[str, Any]:
    """SPDX 2.3, clauses 6 (document), 7 (package) and 11 (relationships)."""
    entries = [_spdx_package(package) for package in packages]
    image = {
        "SPDXID": "SPDXRef-image",
        "name": name,
        "versionInfo": content,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "CONTAINER",
    }
    related = [("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")]
    related += [("SPDXRef-image", "CONTAINS", entry["SPDXID"]) for entry in entries]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://kokon.invalid/spdx/{_identity(name, content, created)}",
        "creationInfo": {"created": created, "creators": [f"Tool: {TOOL}"]},
        "packages": [image, *entries],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in related
        ],
    }


def _spdx_package(package: Package) -> dict[str, Any]:
    identity = hashlib.sha256(package.purl.encode()).hexdigest()[:24]
    reference = {
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": package.purl,
    }
    return {
        "SPDXID": f"SPDXRef-{package.kind}-{identity}",
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        # what packages say is often no SPDX expression: it is told as a comment, not as a licence
        "licenseDeclared": "NOASSERTION",
        **({"licenseComments": package.license} if package.license else {}),
        "externalRefs": [reference],
    }


def _cyclonedx(name: str, content: str, packages: tuple[Package, ...], created: str) -> dict[str, Any]:
    """CycloneDX 1.5."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{_identity(name, content, created)}",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "tools": {"components": [{"type": "application", "name": TOOL}]},
            "component": {"type": "container", "name": name, "version": content, "bom-ref": "image"},
        },
        "components": [
            {
                "type": "library",
                "name": package.name,
                "version": package.version,
                "purl": package.purl,
                "bom-ref": package.purl,
                **({"licenses": [{"license": {"name": package.license}}]} if package.license else {}),
            }
            for package in packages
        ],
    }


def _identity(*texts: str) -> uuid.UUID:
    return uuid.UUID(bytes=hashlib.sha256("\n".join(texts).encode()).digest()[:16], version=4)
