"""Authors' keys from files, and their signatures on what is sealed: what guests read of all that `signing` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.errors import MalformedError
from kokon.image.ecdsa import PEM_LIMIT, load_public_key, sign
from kokon.image.signing.forms import simple_payload
from kokon.image.signing.load import read_small
from kokon.image.signing.store import push_classic

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

    from kokon.image.registry import Registry


def load_private_key(path: Path) -> EllipticCurvePrivateKey:
    """The author's private key (PEM, P-256 or P-384, not encrypted).

    Raises `UsageError` (`key-unreadable`), `MalformedError` (`key-malformed`).
    """
    data = read_small(path, PEM_LIMIT)
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError(
            "key-malformed", f"{path} is not a private key that Kokon reads", expected="PEM PKCS#8 without passphrase"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in ("secp256r1", "secp384r1"):
        raise MalformedError("key-malformed", f"{path} is a key of a wrong kind", expected="EC P-256 or P-384")
    return key


def load_author(path: Path) -> EllipticCurvePublicKey:
    """The author's public key, from a public or a private PEM file. Raises as `load_private_key` does."""
    if b"PRIVATE KEY" in read_small(path, PEM_LIMIT):
        return load_private_key(path).public_key()
    return load_public_key(read_small(path, PEM_LIMIT))


def push_signature(
    registry: Registry, repository: str, digest: str, docker_reference: str, key: EllipticCurvePrivateKey
) -> None:
    """Sign the manifest `digest` as host/repository, in the classic form, which guests read.

    Raises as `push_classic`.
    """
    payload = simple_payload(docker_reference, digest)
    push_classic(registry, repository, digest, payload, sign(key, payload))
