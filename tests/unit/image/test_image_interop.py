"""Layer encryption against Debian's skopeo, an independent implementation of ocicrypt."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kokon.image.layer import (
    JWE_ANNOTATION,
    check_layer,
    decrypt_chunks,
    gunzip_chunks,
    layer_is_gzip,
    layer_options,
    parse_private_options,
    read_chunks,
    recipients,
)
from kokon.image.manifest import parse_index, parse_manifest
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry
from kokon.image.seal import seal
from kokon.image.source import open_source
from kokon.jose.jwe import decrypt, public_jwk
from support.registry import LocalRegistry
from support.sealed import AUTHOR, CLAIMS, LOWER, OWNER, UPPER, SealedFixture

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def write_keys(directory: Path, key: Key) -> tuple[Path, Path]:
    private, public = directory / "key.pem", directory / "pub.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def skopeo(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", "--src-tls-verify=false"]
    return subprocess.run([*command, *arguments], capture_output=True, check=False)


def layers_of(layout: Path) -> list[bytes]:
    with open_source(f"oci:{layout}") as source:
        return [b"".join(gunzip_chunks(layer.read()) if layer.gzip else layer.read()) for layer in source.layers]


def test_skopeo_opens_what_we_seal(fixture: SealedFixture, tmp_path: Path) -> None:
    private, _ = write_keys(tmp_path, OWNER)
    image = f"docker://{fixture.reference}"
    done = skopeo("--decryption-key", str(private), image, f"oci:{tmp_path}/opened:1")
    assert done.returncode == 0, done.stderr
    assert layers_of(tmp_path / "opened") == [LOWER, UPPER]


def test_skopeo_opens_what_we_seal_to_an_rsa_owner(
    server: LocalRegistry, registry: Registry, layout: Path, tmp_path: Path
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    private, _ = write_keys(tmp_path, key)
    reference = parse_reference(f"{server.host}/rsa:1")
    with open_source(f"oci:{layout}") as source:
        seal(source, registry, reference, AUTHOR, public_jwk(key), CLAIMS)
    done = skopeo("--decryption-key", str(private), f"docker://{reference}", f"oci:{tmp_path}/opened:1")
    assert done.returncode == 0, done.stderr
    assert layers_of(tmp_path / "opened") == [LOWER, UPPER]


def test_skopeo_refuses_another_key(fixture: SealedFixture, tmp_path: Path) -> None:
    private, _ = write_keys(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    done = skopeo("--decryption-key", str(private), f"docker://{fixture.reference}", f"oci:{tmp_path}/opened:1")
    assert done.returncode != 0


@pytest.mark.parametrize("kind", ["ec256", "ec521", "rsa"])
def test_we_open_what_skopeo_encrypts(layout: Path, tmp_path: Path, kind: str) -> None:
    key: Key = {
        "ec256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ec521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]()
    _, public = write_keys(tmp_path, key)
    done = skopeo("--encryption-key", f"jwe:{public}", f"oci:{layout}", f"oci:{tmp_path}/sealed:1")
    assert done.returncode == 0, done.stderr
    blobs = tmp_path / "sealed/blobs/sha256"
    (entry,) = parse_index((tmp_path / "sealed/index.json").read_bytes())
    manifest = parse_manifest((blobs / entry.descriptor.digest.removeprefix("sha256:")).read_bytes())
    for layer, expected in zip(manifest.layers, [LOWER, UPPER], strict=True):
        path = blobs / layer.digest.removeprefix("sha256:")
        public_options = layer_options(layer)
        (message,) = recipients(layer.annotations, JWE_ANNOTATION)
        private = parse_private_options(decrypt(message, key))
        check_layer(path, public_options, private)
        plain = decrypt_chunks(read_chunks(path), public_options, private)
        content = gunzip_chunks(plain) if layer_is_gzip(layer.media_type) else plain
        assert b"".join(content) == expected


def test_copies_by_skopeo_still_verify(fixture: SealedFixture, tmp_path: Path) -> None:
    """Signature and statement travel by tag and digest: nothing in the image changes on the way."""
    done = skopeo("--preserve-digests", f"docker://{fixture.reference}", f"oci:{tmp_path}/copy:1")
    assert done.returncode == 0, done.stderr
    index = json.loads((tmp_path / "copy/index.json").read_text())
    assert index["manifests"][0]["digest"] == fixture.sealed.digest
