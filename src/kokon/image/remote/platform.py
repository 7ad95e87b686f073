"""Platforms of an image index, and choosing among them. Pure.

Format: OCI image-spec 1.1, image-index.md ("platform object"); written `os/architecture[/variant]` as everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kokon.errors import UsageError
from kokon.image.manifest import MANIFEST_LIMIT, parse_index
from kokon.wire import parse_json

if TYPE_CHECKING:
    from kokon.image.manifest import Descriptor

_PLATFORM = re.compile(r"[a-z0-9]{1,32}/[a-z0-9_]{1,32}(?:/[a-z0-9.]{1,32})?")
# What one manifest list says of things that are no images (BuildKit's attestations).
_NO_PLATFORM = "unknown"


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """Operating system, architecture and variant (`v8`), each empty where it is not said."""

    system: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    def accepts(self, other: Platform) -> bool:
        """Whether an image for `other` is what is asked for; without a variant any will do."""
        same = (self.system, self.architecture) == (other.system, other.architecture)
        return same and self.variant in ("", other.variant)

    def as_dict(self) -> dict[str, str]:
        """The platform object of an index."""
        members = {"os": self.system, "architecture": self.architecture, "variant": self.variant}
        return {name: value for name, value in members.items() if value}

    def __str__(self) -> str:
        return "/".join(part for part in (self.system, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Choice:
    """One member of an index and the platform that it is for (all empty: not said)."""

    descriptor: Descriptor
    platform: Platform

    @property
    def is_image(self) -> bool:
        """Whether this may be an image to run."""
        return _NO_PLATFORM not in (self.platform.system, self.platform.architecture)


def parse_platform(text: str) -> Platform:
    """`linux/arm64/v8`. Raises `UsageError` (`platform-malformed`)."""
    if not _PLATFORM.fullmatch(text):
        raise UsageError("platform-malformed", "not a platform", expected="OS/ARCH[/VARIANT]", found=repr(text[:80]))
    return Platform(*text.split("/"))


def choices(index: bytes) -> tuple[Choice, ...]:
    """The members of an index with their platforms. Raises as `parse_index` does."""
    entries = parse_index(index)
    members = parse_json(index, limit=MANIFEST_LIMIT, what="index")["manifests"]
    return tuple(
        Choice(entry.descriptor, Platform(entry.operating_system, entry.architecture, _variant(member)))
        for entry, member in zip(entries, members, strict=True)
    )


def _variant(member: dict[str, object]) -> str:
    platform = member.get("platform")
    variant = platform.get("variant") if isinstance(platform, dict) else None
    return variant[:32] if isinstance(variant, str) else ""


def select(offered: tuple[Choice, ...], wanted: Platform | None) -> tuple[Choice, ...]:
    """Those that `wanted` accepts; without a wish, the only one, else those for linux/amd64. One that says no platform
    is taken only if it is the only one: its configuration says what it is."""
    images = tuple(choice for choice in offered if choice.is_image)
    if len(images) == 1 and (wanted is None or not images[0].platform.system):
        return images
    wish = wanted or Platform()
    found = tuple(choice for choice in images if wish.accepts(choice.platform))
    exact = tuple(choice for choice in found if choice.platform == wish)
    return exact or found
