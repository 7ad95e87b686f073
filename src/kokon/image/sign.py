"""Authors' keys and signatures, writing side: make a key, sign a manifest as cosign does (facts oci.md 2.1)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.errors import HostError, MalformedError, UsageError
from kokon.image.ecdsa import PEM_LIMIT, key_id, load_public_key, public_pem, sign
from kokon.image.manifest import CONFIG_TYPE, parse_manifest
from kokon.image.registry import descriptor_of, manifest_bytes
from kokon.image.signature import PAYLOAD_TYPE, SIGNATURE_ANNOTATION, signature_tag
from kokon.wire import b64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

    from kokon.image.registry import Registry


def generate_key(path: Path) -> EllipticCurvePrivateKey:
    """Make a P-256 key: PKCS#8 PEM at `path` (mode 0600) and its public half beside it
    (`.pub` added to the name).

    Raises `UsageError` (`key-exists`), `HostError` (`key-not-written`).
    """
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_new(path, private, 0o600)
    try:
        _write_new(public_path(path), public_pem(key.public_key()).encode(), 0o644)
    except (UsageError, HostError):
        path.unlink()
        raise
    return key


def public_path(path: Path) -> Path:
    """Where the public half of the key at `path` is kept."""
    return path.with_name(path.name + ".pub")


def load_private_key(path: Path) -> EllipticCurvePrivateKey:
    """The author's private key (PEM, P-256 or P-384, not encrypted).

    Raises `UsageError` (`key-unreadable`), `MalformedError` (`key-malformed`).
    """
    data = _read(path)
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
    if b"PRIVATE KEY" in _read(path):
        return load_private_key(path).public_key()
    return load_public_key(_read(path))


def build_payload(docker_reference: str, digest: str) -> bytes:
    """The simple signing payload over the manifest `digest`; `docker_reference` is host/repository."""
    payload = {
        "critical": {
            "identity": {"docker-reference": docker_reference},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": None,
    }
    return json.dumps(payload, separators=(",", ":")).encode()


def push_signature(
    registry: Registry, repository: str, digest: str, docker_reference: str, key: EllipticCurvePrivateKey
) -> None:
    """Sign the manifest `digest` and store the signature under its tag, beside those that are there.

    Two writers at the same moment may lose one signature: so it is with cosign's tags.
    """
    payload = build_payload(docker_reference, digest)
    registry.upload_bytes(repository, payload)
    tag = signature_tag(digest)
    found = registry.manifest(repository, tag)
    layers = [] if found is None else list(parse_manifest(found[0]).layers)
    layers.append(descriptor_of(PAYLOAD_TYPE, payload, {SIGNATURE_ANNOTATION: b64(sign(key, payload))}))
    config = json.dumps(
        {
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        },
        separators=(",", ":"),
    ).encode()
    registry.upload_bytes(repository, config)
    registry.put_manifest(repository, tag, manifest_bytes(descriptor_of(CONFIG_TYPE, config), layers))


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """The key's fingerprint for people: `sha256:` and the hex digest of its DER SubjectPublicKeyInfo."""
    return "sha256:" + key_id(key)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(PEM_LIMIT + 1)
    except OSError as error:
        raise UsageError("key-unreadable", f"cannot read {path}", found=error.strerror) from error
    if len(data) > PEM_LIMIT:
        raise MalformedError("key-malformed", f"{path} is too large to be a key")
    return data


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise UsageError(
            "key-exists", f"{path} is there already", hint="a key is never overwritten: choose another name"
        ) from error
    except OSError as error:
        raise HostError("key-not-written", f"cannot write {path}", found=error.strerror) from error
    with os.fdopen(file, "wb") as stream:
        stream.write(data)
