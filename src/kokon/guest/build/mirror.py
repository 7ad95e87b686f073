"""Where this host takes Debian packages from: asked of its own apt, so that no address is written down here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from kokon.errors import HostError
from kokon.guest.build.run import find_tool, run

SUITE = "bookworm"
BACKPORTS = f"{SUITE}-backports"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
VARIABLE = "KOKON_DEBIAN_MIRROR"
SECURITY_VARIABLE = "KOKON_DEBIAN_SECURITY_MIRROR"
_DEBOOTSTRAP = ("/usr/share/debootstrap/scripts", "/usr/sbin/debootstrap")
_FORMAT = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"


@dataclass(frozen=True, slots=True)
class Mirror:
    """Base addresses of the Debian archive and of its security archive; the latter may be unknown."""

    archive: str
    security: str | None

    def candidates(self) -> list[Mirror]:
        """This mirror; where its security archive is unknown, first with the place beside it that is usual."""
        if self.security is not None or not self.archive.endswith("/debian"):
            return [self]
        return [Mirror(self.archive, f"{self.archive}-security"), self]

    def sources(self, keyring: Path = KEYRING) -> str:
        """The text of a sources.list for the suites that the guest is made of (sources.list(5))."""
        options = f"[arch=amd64 signed-by={keyring}]"
        suites = [(self.archive, suite) for suite in (SUITE, f"{SUITE}-updates", BACKPORTS)]
        if self.security is not None:
            suites.append((self.security, f"{SUITE}-security"))
        return "".join(f"deb {options} {address} {suite} main\n" for address, suite in suites)


def find_mirror() -> Mirror:
    """The Debian mirror from the environment, else from this host's apt, else from its debootstrap.

    Raises `HostError` (`guest-mirror-unknown`, `guest-tool-missing`).
    """
    named = os.environ.get(VARIABLE)
    security = os.environ.get(SECURITY_VARIABLE)
    if named:
        return Mirror(_address(named), _address(security) if security else None)
    targets = run([find_tool("apt-get"), "indextargets", "--format", _FORMAT], what="apt-get indextargets")
    mirror = read_targets(targets.decode("utf-8", "replace"))
    if mirror is not None:
        return mirror
    archive = find_default_mirror([Path(name) for name in _DEBOOTSTRAP])
    if archive is not None:
        return Mirror(archive, None)
    raise HostError(
        "guest-mirror-unknown",
        "this host knows no Debian mirror to take the guest's packages from",
        expected="a Debian source in apt's configuration, or debootstrap",
        hint=f"apt-get install debootstrap, or set {VARIABLE} to a mirror's address",
    )


def read_targets(text: str) -> Mirror | None:
    """The mirror that `apt-get indextargets` lines of the form origin|label|address name, if any is Debian's."""
    archive = security = None
    for line in text.splitlines():
        origin, _, rest = line.partition("|")
        label, _, address = rest.partition("|")
        if origin != "Debian" or not _usable(address):
            continue
        if label == "Debian":
            archive = archive or address.rstrip("/")
        elif label == "Debian-Security":
            security = security or address.rstrip("/")
    return None if archive is None else Mirror(archive, security)


def find_default_mirror(places: list[Path]) -> str | None:
    """The mirror that debootstrap's own files name for Debian: the first in `places` that names one."""
    for place in places:
        path = place / SUITE if place.is_dir() else place
        if not path.is_file():
            continue
        text = path.read_text("utf-8", "replace")
        for address in re.findall(r"(?:default_mirror\s+|DEF_MIRROR=)\"?(https?://[^\s\"']+)", text):
            if address.rstrip("/").endswith("/debian"):
                return str(address).rstrip("/")
    return None


def _usable(address: str) -> bool:
    return re.fullmatch(r"[a-z][a-z0-9+.-]*:[!-Z^-~]+", address) is not None


def _address(text: str) -> str:
    if not _usable(text):
        raise HostError(
            "guest-mirror-unknown",
            "the mirror's address in the environment is not usable",
            expected="scheme://host/path",
            found=text,
            hint=f"correct {VARIABLE} or {SECURITY_VARIABLE}",
        )
    return text.rstrip("/")
