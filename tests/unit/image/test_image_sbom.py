"""Bills of materials: read from package databases over all layers, written in two formats, attached and signed."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kokon.cli.main import main
from kokon.errors import KokonError
from kokon.image.ecdsa import public_pem
from kokon.image.fetch import Fetcher
from kokon.image.inspection import inspect_image
from kokon.image.manifest import MANIFEST_TYPE
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry, descriptor_of
from kokon.image.sbom import collect
from kokon.image.sbom.collect import databases, make_sbom, read_sbom
from kokon.image.sbom.document import CYCLONEDX, MEDIA_TYPES, SPDX, Sbom, parse_sbom, write_sbom
from kokon.image.sbom.packages import Package, is_database, read_packages
from kokon.image.seal import seal
from kokon.image.source import open_source
from kokon.jose.jwe import public_jwk
from support.images import make_tar, write_layout
from support.registry import LocalRegistry
from support.sealed import AUTHOR, CLAIMS, NOW, OWNER, SealedFixture

STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u4
Description: GNU C Library
 Version: not a field, but a line of the description

Package: gone
Status: deinstall ok config-files
Version: 1

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2024a-0
"""
APK = b"C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\n\nP:busybox\nV:1.36.1-r5\nA:x86_64\nL:GPL-2.0-only\n"
METADATA = b"Metadata-Version: 2.4\nName: Zope.Interface\nVersion: 6.0\nLicense-Expression: ZPL-2.1\n\nName: no\n"
OS = b'PRETTY_NAME="Debian 12"\nID=debian\n'
LIBC = Package("deb", "libc6", "2.36-9+deb12u4", "amd64", distribution="debian")
TZDATA = Package("deb", "tzdata", "2024a-0", "all", distribution="debian")
ZOPE = Package("pypi", "Zope.Interface", "6.0", license="ZPL-2.1")


def test_packages_of_each_manager() -> None:
    files = {
        "var/lib/dpkg/status": STATUS,
        "etc/os-release": OS,
        "usr/lib/python3/dist-packages/zope.interface-6.0.dist-info/METADATA": METADATA,
    }
    assert read_packages(files) == (LIBC, TZDATA, ZOPE)
    assert [one.purl for one in read_packages(files)] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64",
        "pkg:deb/debian/tzdata@2024a-0?arch=all",
        "pkg:pypi/zope-interface@6.0",
    ]
    busybox, musl = read_packages({"lib/apk/db/installed": APK, "usr/lib/os-release": b"ID=wolfi\n"})
    assert (musl.name, musl.version, musl.license) == ("musl", "1.2.4-r2", "MIT")
    assert busybox.purl == "pkg:apk/wolfi/busybox@1.36.1-r5?arch=x86_64"


def test_this_machines_packages_as_dpkg_lists_them() -> None:
    """dpkg's own answer is the oracle."""
    status = Path("/var/lib/dpkg/status")
    if not status.exists():
        pytest.skip("SKIPPED LOUDLY: no dpkg on this machine, so its own list cannot be compared")
    command = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version} ${Architecture}\n"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = {tuple(line.split()[1:]) for line in listed if line.startswith("installed ")}
    found = read_packages({"var/lib/dpkg/status": status.read_bytes()})
    assert {(one.name, one.version, one.architecture) for one in found} == expected
    assert len(expected) > 20


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("var/lib/dpkg/status", True),
        ("var/lib/dpkg/status.d/base", True),
        ("var/lib/dpkg/status.d/base.md5sums", False),
        ("lib/apk/db/installed", True),
        ("venv/lib/x-1.dist-info/METADATA", True),
        ("usr/lib/python3/x.egg-info", True),
        ("usr/lib/python3/x.dist-info/RECORD", False),
        ("home/var/lib/dpkg/status", False),
    ],
)
def test_what_is_a_database(path: str, known: bool) -> None:
    assert is_database(path) is known


def test_later_layers_replace_and_remove(tmp_path: Path) -> None:
    info = "venv/lib/zope-6.dist-info"
    lower = make_tar([("var/lib/dpkg/status", b"Package: old\nVersion: 1\n"), (f"{info}/METADATA", METADATA)])
    middle = make_tar([("./var/lib/dpkg/status", STATUS), ("etc/os-release", OS), ("opt/a.egg-info", METADATA)])
    upper = make_tar([("venv/lib/.wh.zope-6.dist-info", b""), ("opt/.wh..wh..opq", b"")])
    write_layout(tmp_path / "layout", [lower, middle, upper])
    with open_source(f"oci:{tmp_path / 'layout'}") as source:
        assert databases(source) == {"var/lib/dpkg/status": STATUS, "etc/os-release": OS}
        made = make_sbom(source, SPDX, "clinic", NOW)
    assert made.packages == 2
    assert parse_sbom(made.data) == made


def test_databases_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "DATABASES_LIMIT", len(STATUS) - 1)
    write_layout(tmp_path / "layout", [make_tar([("var/lib/dpkg/status", STATUS)])])
    with open_source(f"oci:{tmp_path / 'layout'}") as source:
        refused("sbom-too-large", lambda: databases(source))


def refused(code: str, action: Any) -> None:
    with pytest.raises(KokonError) as caught:
        action()
    assert caught.value.code == code


def test_spdx_has_what_the_specification_demands() -> None:
    made = write_sbom(SPDX, "clinic", "sha256:" + "a" * 64, (LIBC, ZOPE), NOW)
    document = json.loads(made.data)
    assert {"spdxVersion", "dataLicense", "SPDXID", "name", "documentNamespace", "creationInfo"} <= document.keys()
    assert document["creationInfo"]["created"] == "2026-11-23T12:00:00Z"
    identities = [one["SPDXID"] for one in document["packages"]]
    assert len(set(identities)) == 3
    assert all({"name", "downloadLocation"} <= one.keys() for one in document["packages"])
    related = {(one["relationshipType"], one["relatedSpdxElement"]) for one in document["relationships"]}
    assert related == {("DESCRIBES", "SPDXRef-image")} | {("CONTAINS", one) for one in identities[1:]}
    assert made == write_sbom(SPDX, "clinic", "sha256:" + "a" * 64, (LIBC, ZOPE), NOW)
    assert parse_sbom(made.data).packages == 2


def test_cyclonedx() -> None:
    made = write_sbom(CYCLONEDX, "clinic", "sha256:" + "a" * 64, (LIBC, ZOPE), NOW)
    document = json.loads(made.data)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert [one["purl"] for one in document["components"]] == [LIBC.purl, ZOPE.purl]
    assert parse_sbom(made.data) == made


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"spdxVersion":"SPDX-3.0"}'])
def test_other_documents_are_refused(data: bytes) -> None:
    refused("sbom-unknown", lambda: parse_sbom(data))


def test_files_of_other_tools(tmp_path: Path) -> None:
    (tmp_path / "bom").write_text('{"bomFormat":"CycloneDX","components":[{"name":"x"}]}')
    assert read_sbom(tmp_path / "bom").packages == 1
    refused("sbom-unreadable", lambda: read_sbom(tmp_path / "none"))


@pytest.mark.parametrize("kind", [SPDX, CYCLONEDX])
def test_sealing_attaches_and_inspection_shows(
    server: LocalRegistry, registry: Registry, layout: Path, kind: str
) -> None:
    made = write_sbom(kind, "clinic", "sha256:" + "a" * 64, (LIBC, TZDATA), NOW)
    with open_source(f"oci:{layout}") as source:
        target = parse_reference(f"{server.host}/billed:{kind}")
        sealed = seal(source, registry, target, AUTHOR, public_jwk(OWNER), replace(CLAIMS, sbom=made))
    (entry,) = registry.referrers("billed", sealed.digest, MEDIA_TYPES[kind])
    expected = {"digest": entry.descriptor.digest, "format": kind, "packages": 2}
    with Fetcher(server.url, "billed") as fetcher:
        seen = inspect_image(fetcher, sealed.digest, public_pem(AUTHOR.public_key()), NOW)
        assert seen.sboms == ({**expected, "signature": "passed"},)
        assert set(seen.checks.values()) == {"passed"}
        assert inspect_image(fetcher, sealed.digest, None, NOW).sboms == ({**expected, "signature": "not-checked"},)
        other = public_pem(OWNER.public_key())
        assert inspect_image(fetcher, sealed.digest, other, NOW).sboms[0]["signature"] != "passed"


def test_an_sbom_that_a_stranger_attached_does_not_pass(fixture: SealedFixture) -> None:
    made = write_sbom(SPDX, "clinic", "sha256:" + "a" * 64, (LIBC,), NOW)
    found = fixture.registry.manifest("clinic", fixture.sealed.digest)
    assert found is not None
    image = descriptor_of(MANIFEST_TYPE, found[0])
    fixture.registry.attach("clinic", image, made.media_type, made.data, made.media_type)
    fixture.registry.attach("clinic", image, made.media_type, b"{}", made.media_type)
    with Fetcher(fixture.server.url, "clinic") as fetcher:
        seen = inspect_image(fetcher, fixture.sealed.digest, public_pem(AUTHOR.public_key()), NOW)
    assert sorted(one["signature"] for one in seen.sboms) == ["image-unsigned", "sbom-unknown"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_layout(tmp_path / "layout", [make_tar([("var/lib/dpkg/status", STATUS)])])
    out = tmp_path / "bom.json"
    words = ["sbom", f"oci:{tmp_path / 'layout'}", "--format", "cyclonedx"]
    assert main([*words, "--output", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"] == parse_sbom(out.read_bytes()).packages == 2
    assert main(words) == 0
    assert isinstance(parse_sbom(capsys.readouterr().out.encode()), Sbom)
    assert main([*words, "--output", str(tmp_path / "no" / "such"), "--json"]) != 0
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "output-not-written"


def test_the_time_is_in_seconds() -> None:
    made = write_sbom(SPDX, "x", "y", (), datetime(2026, 1, 1, 0, 0, 0, 123, tzinfo=UTC))
    assert b"2026-01-01T00:00:00Z" in made.data
