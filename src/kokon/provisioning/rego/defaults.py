"""Our own default policies, in Rego. Pure but for reading them from the package.

`default_cpu` appraises evidence as Confidential Containers' default does, SGX besides. Of the resource policies
`secure` is this server's default: without affirming evidence of real hardware nothing is released.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources
from typing import Final, Literal, get_args

PolicyName = Literal["default_cpu", "secure", "affirming", "allow_all", "deny_all"]

ATTESTATION: Final[PolicyName] = "default_cpu"
RESOURCE: Final[PolicyName] = "secure"


@lru_cache
def default_policy(name: PolicyName) -> str:
    """The text of a policy."""
    return resources.files("kokon.provisioning.rego").joinpath("policies", f"{name}.rego").read_text()


@lru_cache
def default_digests() -> frozenset[bytes]:
    """SHA-256 of each policy's text."""
    return frozenset(hashlib.sha256(default_policy(name).encode()).digest() for name in get_args(PolicyName))
