"""The vendors' root keys that are always believed, pinned by their keys, and which root stands at the end of a path.

A fingerprint is the SHA-256 of the root's DER SubjectPublicKeyInfo. Pinning the key and neither the name nor the
certificate is the point: anyone can make a certificate called ARK-Milan, and Intel issued its root twice for one key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kokon.tee.certificates import Certificate
from kokon.tee.evidence import Check, failed, passed

AMD: Final[Mapping[str, str]] = {
    "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9": "Milan",
    "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831": "Genoa",
    "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08": "Turin",
}
"""Product line by fingerprint of its AMD Root Key (ARK)."""

INTEL: Final[Mapping[str, str]] = {
    "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e": "Intel SGX Root CA",
}
"""The Intel SGX Root CA, which signs for SGX and TDX."""

AWS: Final[Mapping[str, str]] = {
    "f2caf5ecc6190b4a8399b78bc58a2bbcd0382375db8a1bfd78a82743874fd225": "AWS Nitro Enclaves root G1",
}
"""The root of AWS Nitro Enclaves."""

TPM: Final[Mapping[str, str]] = {
    "56a613f57126a385dd6949294e93b0b566f96ab0573be0c2368e6f5ca779831f": "Google Cloud EK/AK CA Root",
    "5cbc52672ae101263c2976736044a964c1182ce9412c39937183baddcccb8cdf": "Azure Virtual TPM Root 2023",
}
"""Roots of the clouds' virtual TPMs, whose endorsement or attestation key certificates they sign."""

VENDORS: Final[Mapping[str, str]] = (
    {fingerprint: f"ARK-{product}" for fingerprint, product in AMD.items()} | dict(INTEL) | dict(AWS) | dict(TPM)
)
"""All pinned roots, by their names."""

SIMULATED_PREFIX: Final = "Kokon simulated "
"""How the common name of a simulated root begins. It only chooses the error message: what counts is the key."""


def is_simulated(root: Certificate, anchors: Mapping[str, str], accepted: frozenset[str]) -> bool:
    """True for a root that was accepted as simulated or calls itself so, and is none of `anchors`."""
    named = root.fingerprint in accepted or root.name.startswith(SIMULATED_PREFIX)
    return named and root.fingerprint not in anchors


def check_root(root: Certificate, anchors: Mapping[str, str], accepted: frozenset[str]) -> Check:
    """Whether `root` is one of the vendor's `anchors` or of the `accepted` simulated ones, both by fingerprint."""
    if root.fingerprint in anchors:
        return passed("root", anchors[root.fingerprint])
    if root.fingerprint in accepted:
        return passed("root", f"{root.name}, simulated, accepted")
    if root.name.startswith(SIMULATED_PREFIX):
        return failed(
            "root",
            "simulated-root-refused",
            expected="a chip vendor's root",
            found=f"{root.name} ({root.fingerprint})",
            hint=f"simulation protects nothing; to accept it for a trial: --accept-simulated {root.fingerprint}",
        )
    return failed(
        "root",
        "root-untrusted",
        expected=", ".join(anchors.values()),
        found=f"{root.name} ({root.fingerprint})",
        hint="the name may be the vendor's, the key is not",
    )
