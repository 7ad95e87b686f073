"""Secrets that differ by who asks, from one that nobody gets: HKDF with SHA-256 (RFC 5869). Pure.

`workload`: the same for all enclaves of a workload. `platform`: another one on each chip, which the evidence names.
`activation`: another one at each attestation.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kokon.errors import DeniedError, MalformedError, UsageError
from kokon.provisioning.secret.generate import Random, take
from kokon.provisioning.secret.value import Secret

SCOPES: Final = ("workload", "platform", "activation")
SIZE: Final = 32
"""Bytes of what is derived, and of what it is derived from."""
_LABEL: Final = "kokon derived secret 1"


def make_base(scope: str, random: Random) -> Secret:
    """A new secret to derive from. Raises `UsageError` (`secret-scope`), `InternalError` (`secret-randomness`)."""
    return Secret("derived", take(random, SIZE), check_scope(scope))


def check_scope(scope: str) -> str:
    """`scope` itself. Raises `UsageError` (`secret-scope`)."""
    if scope not in SCOPES:
        raise UsageError(
            "secret-scope", "nothing can be derived for that", expected=", ".join(SCOPES), found=repr(scope[:40])
        )
    return scope


def derive(
    base: bytes,
    *,
    project: str,
    path: str,
    version: int,
    scope: str,
    workload: str,
    platform: str,
    activation: str,
) -> bytes:
    """32 bytes for an enclave of `workload` on the chip `platform` (hex) whose token is `activation`.

    `platform` is lower-case, as `bytes.hex` makes it; zeros name no chip (a host can have SEV-SNP mask its id so).
    Raises `DeniedError` (`secret-platform-unknown`, `secret-activation-unknown`) if one that matters is not named,
    `UsageError` (`secret-scope`), `MalformedError` (`secret-record`) if `base` is none.
    """
    if len(base) != SIZE:
        raise MalformedError("secret-record", "what is derived from has a wrong size", expected=SIZE, found=len(base))
    parts = [_LABEL, check_scope(scope), project, path, str(version), workload]
    if scope == "platform":
        if not platform.strip("0"):
            raise DeniedError(
                "secret-platform-unknown",
                "the evidence does not say on which chip the enclave runs",
                hint="let the secret be derived for the workload instead, or have the host show its chip's id",
            )
        parts.append(platform)
    elif scope == "activation":
        if not activation:
            raise DeniedError("secret-activation-unknown", "the token has no id that a secret could be derived for")
        parts.append(activation)
    return HKDF(SHA256(), SIZE, None, encode_info(parts)).derive(base)


def encode_info(parts: list[str]) -> bytes:
    """The parts, each after its length in bytes (32 bits, big-endian): no two lists are encoded alike."""
    encoded = (part.encode() for part in parts)
    return b"".join(len(part).to_bytes(4) + part for part in encoded)
