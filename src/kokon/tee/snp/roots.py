"""The vendor roots for SEV-SNP that are always trusted, pinned by their keys.

Each fingerprint is the SHA-256 of the root's DER SubjectPublicKeyInfo. Pinning the key and not the name is the point:
anyone can make a certificate called ARK-Milan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PINNED: Final[Mapping[str, str]] = {
    "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9": "Milan",
    "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831": "Genoa",
    "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08": "Turin",
}
"""Product line by fingerprint of its AMD Root Key (ARK)."""

SIMULATED_PREFIX: Final = "Kokon simulated ARK "
"""How the common name of a simulated root begins. It only chooses the error message: what counts is the key."""
