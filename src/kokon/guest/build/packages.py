"""Choosing and downloading the Debian packages of the guest with apt, away from the host's own package state.

apt verifies the archive's signature (debian-archive-keyring) and each file's digest; an empty package status makes the
choice independent of what the host has installed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from kokon.errors import HostError, UnreachableError, UntrustedError
from kokon.guest.build.mirror import BACKPORTS, KEYRING, VARIABLE, Mirror, find_mirror
from kokon.guest.build.record import Package, Store
from kokon.guest.build.run import find_tool, run

Progress = Callable[[str, float | None], None]

ROOT_PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "crun", "cryptsetup-bin", "e2fsprogs")
TOOL_PACKAGES = ("tcc", "erofs-utils")
FIRMWARE_PACKAGE = "seabios"
KERNEL_META_PACKAGE = "linux-image-cloud-amd64"
# Dependencies of packages whose own files are not taken: the check of shared libraries would notice a mistake.
_UNUSED = """
    dmsetup dpkg gcc-12-base libacl1 libbz2-1.0 libcrypt1 libdb5.3 libgssapi-krb5-2 libk5crypto3 libkeyutils1
    libkrb5-3 libkrb5support0 libmd0 libncursesw6 libnsl2 libreadline8 libsqlite3-0 libss2 libtinfo6
    libtirpc-common libtirpc3 logsave media-types readline-common tar
"""
UNUSED_PACKAGES = frozenset(_UNUSED.split())
_URI_LINE = re.compile(r"'[^']+' (?P<file>[^ /_]+_[^ /_]+_[^ /_]+\.deb) \d+ ?\S*")
_CONFIGURATION = """
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
Dir::State "{area}/state";
Dir::State::status "{area}/status";
Dir::Cache "{area}/cache";
Dir::Etc::sourcelist "{area}/sources.list";
Dir::Etc::sourceparts "{area}/none";
Dir::Etc::preferences "{area}/no-preferences";
Dir::Etc::preferencesparts "{area}/none";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Default-Release "";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"""


@dataclass(frozen=True, slots=True)
class Apt:
    """apt with state, cache and sources of its own under `area`."""

    area: Path

    def get(self, *arguments: str, what: str, directory: Path | None = None) -> str:
        """Output of `apt-get`."""
        return self._run("apt-get", arguments, what, directory)

    def cache(self, *arguments: str, what: str) -> str:
        """Output of `apt-cache`."""
        return self._run("apt-cache", arguments, what, None)

    def _run(self, tool: str, arguments: Sequence[str], what: str, directory: Path | None) -> str:
        environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        command = [find_tool(tool), "-q", "-c", str(self.area / "apt.conf"), *arguments]
        return run(command, what=what, environment=environment, directory=directory).decode("utf-8", "replace")


def prepare_apt(area: Path, mirror: Mirror, keyring: Path = KEYRING) -> Apt:
    """apt set up under `area` for the suites of `mirror`. Raises `HostError` (`guest-keyring-missing`)."""
    if not keyring.is_file():
        raise HostError(
            "guest-keyring-missing",
            "the keys that Debian's archive is signed with are not on this host",
            expected=keyring,
            hint="apt-get install debian-archive-keyring",
        )
    for name in ("none", "state/lists/partial", "cache/archives/partial"):
        (area / name).mkdir(parents=True, exist_ok=True)
    (area / "status").write_bytes(b"")
    (area / "sources.list").write_text(mirror.sources(keyring))
    (area / "apt.conf").write_text(_CONFIGURATION.format(area=area))
    return Apt(area)


def update(area: Path, progress: Progress) -> Apt:
    """apt with current package lists. Raises `UnreachableError` (`guest-mirror-unreachable`) and as `find_mirror`."""
    progress("reading the Debian mirror's package lists", None)
    *guesses, known = find_mirror().candidates()
    for mirror in guesses:
        try:
            return _updated(area, mirror)
        except UnreachableError:
            progress("no security archive beside the mirror: going on without", None)
    return _updated(area, known)


def _updated(area: Path, mirror: Mirror) -> Apt:
    apt = prepare_apt(area, mirror)
    try:
        apt.get("update", "--error-on=any", what="apt-get update")
    except HostError as error:
        if error.code != "guest-build-failed":
            raise
        raise UnreachableError(
            "guest-mirror-unreachable",
            "the Debian mirror could not be read",
            found=error.found,
            hint=f"check the network and apt's configuration, or set {VARIABLE}",
        ) from error
    return apt


def choose(apt: Apt) -> list[str]:
    """What to download, as apt-get takes it: each package with its version, and the kernel.

    Raises `HostError` (`guest-build-failed`, `guest-package-unknown`).
    """
    roots = [*ROOT_PACKAGES, *TOOL_PACKAGES, FIRMWARE_PACKAGE]
    lines = apt.get("install", "-y", "--print-uris", *roots, what="apt-get install --print-uris")
    chosen = [f"{name}={version}" for name, version in read_uris(lines) if name not in UNUSED_PACKAGES]
    meta = f"{KERNEL_META_PACKAGE}/{BACKPORTS}"
    depends = apt.cache("depends", meta, what="apt-cache depends")
    kernels = re.findall(r"^\s*Depends: (linux-image-[0-9][a-z0-9.+-]*)$", depends, re.MULTILINE)
    if len(kernels) != 1 or not chosen:
        raise HostError(
            "guest-package-unknown",
            "the Debian mirror does not offer the guest's packages",
            expected=meta,
            found=", ".join(kernels) or "no kernel",
            hint=f"use a mirror that has {BACKPORTS}",
        )
    return [*chosen, f"{kernels[0]}/{BACKPORTS}"]


def read_uris(text: str) -> list[tuple[str, str]]:
    """Names and versions in the lines of `apt-get --print-uris`."""
    found = []
    for line in text.splitlines():
        match = _URI_LINE.fullmatch(line.strip())
        if match:
            found.append(read_file_name(match["file"]))
    return found


def read_file_name(name: str) -> tuple[str, str]:
    """Package and version of a name such as zlib1g_1%3a1.2.13_amd64.deb (deb(5), apt escapes the epoch's colon)."""
    package, _, rest = name.removesuffix(".deb").partition("_")
    return package, unquote(rest.rpartition("_")[0])


def download(apt: Apt, wanted: Sequence[str], store: Store, area: Path) -> list[Package]:
    """Download packages into the store, sorted by name. Raises `UnreachableError` (`guest-mirror-unreachable`)."""
    area.mkdir(parents=True, exist_ok=True)
    try:
        apt.get("download", *wanted, what="apt-get download", directory=area)
    except HostError as error:
        if error.code != "guest-build-failed":
            raise
        raise UnreachableError(
            "guest-mirror-unreachable",
            "the Debian mirror did not give all packages",
            found=error.found,
            hint="try again; if recorded versions are gone from the mirror: kokon guest build --update",
        ) from error
    files = sorted(area.glob("*.deb"))
    return sorted((store.add(file, *read_file_name(file.name)) for file in files), key=lambda found: found.name)


def resolve_packages(store: Store, area: Path, progress: Progress) -> list[Package]:
    """Today's versions of the guest's packages, downloaded into the store. `area` is an empty scratch directory."""
    apt = update(area, progress)
    wanted = choose(apt)
    progress(f"downloading {len(wanted)} packages", None)
    return download(apt, wanted, store, area / "files")


def fetch_packages(packages: Sequence[Package], store: Store, area: Path, progress: Progress) -> None:
    """Download exactly these packages where the store lacks them.

    Raises `UntrustedError` (`guest-package-mismatch`) if the mirror's file is another one, and as `update`.
    """
    missing = [package for package in packages if not store.holds(package)]
    if not missing:
        return
    apt = update(area, progress)
    progress(f"downloading {len(missing)} packages", None)
    found = download(apt, [f"{package.name}={package.version}" for package in missing], store, area / "files")
    for package in missing:
        if package not in found:
            raise UntrustedError(
                "guest-package-mismatch",
                f"the mirror's file of {package.name} {package.version} is not the recorded one",
                expected=package.sha256,
                hint="take today's packages with: kokon guest build --update",
            )
