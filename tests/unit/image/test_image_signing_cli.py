"""`kokon keygen`, `sign` and `verify-image` as they are typed, against a real registry."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from kokon.cli.main import main
from kokon.image.manifest import MANIFEST_TYPE
from kokon.image.registry import Registry, descriptor_of, manifest_bytes
from support.registry import LocalRegistry


@pytest.fixture
def image(server: LocalRegistry) -> str:
    """A new repository with one artifact in it, which stands for an image."""
    repository = f"typed/{uuid.uuid4().hex}"
    with Registry(server.url) as registry:
        blob = uuid.uuid4().bytes
        for data in (blob, b"{}"):
            registry.upload_bytes(repository, data)
        config = descriptor_of("application/vnd.oci.empty.v1+json", b"{}")
        registry.put_manifest(repository, "1", manifest_bytes(config, [descriptor_of("a/b", blob)]), MANIFEST_TYPE)
    return f"{server.url.removeprefix('http://')}/{repository}:1"


def typed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, Any]:
    """The exit status and what is printed as JSON."""
    capsys.readouterr()
    status = main([*map(str, words), "--json"])
    said = capsys.readouterr()
    return status, json.loads(said.out or said.err)


def code(answer: Any) -> str:
    return str(answer["error"]["code"] if "error" in answer else answer["code"])


@pytest.mark.parametrize("algorithm", ["p256", "p384", "ed25519", "rsa"])
def test_a_key_is_made_signs_and_verifies(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, image: str, algorithm: str
) -> None:
    key, public = tmp_path / "key", tmp_path / "key.pub"
    status, made = typed(capsys, "keygen", key, "--algorithm", algorithm)
    assert (status, key.stat().st_mode & 0o777) == (0, 0o600)
    status, unsigned = typed(capsys, "verify-image", image, "--key", public)
    assert (status, code(unsigned)) == (4, "image-unsigned")
    status, signed = typed(capsys, "sign", image, "--key", key)
    assert (status, signed["key"], set(signed["signatures"])) == (0, made["fingerprint"], {"classic", "bundle"})
    status, verified = typed(capsys, "verify-image", image, "--key", public)
    assert (status, verified["digest"]) == (0, signed["digest"])
    assert sorted(one["form"] for one in verified["signatures"]) == ["bundle", "classic"]


def test_an_encrypted_key_wants_its_password(capsys: pytest.CaptureFixture[str], tmp_path: Path, image: str) -> None:
    def with_password(text: str, *words: str | Path) -> tuple[int, Any]:
        read, write = os.pipe()
        os.write(write, text.encode())
        os.close(write)
        try:
            return typed(capsys, *words, "--password-fd", str(read))
        finally:
            os.close(read)

    key = tmp_path / "key"
    assert with_password("correct horse", "keygen", key)[0] == 0
    assert b"ENCRYPTED SIGSTORE PRIVATE KEY" in key.read_bytes()
    status, wrong = with_password("another", "sign", image, "--key", key)
    assert (status, code(wrong)) == (4, "key-password")
    assert with_password("correct horse", "sign", image, "--key", key, "--form", "bundle")[0] == 0
    assert typed(capsys, "verify-image", image, "--key", tmp_path / "key.pub")[0] == 0


@pytest.mark.parametrize("form", ["classic", "bundle"])
def test_a_key_elsewhere_signs_in_two_steps(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, image: str, form: str
) -> None:
    key, public, message, signature = (tmp_path / name for name in ("key", "key.pub", "message", "signature"))
    typed(capsys, "keygen", key)
    assert typed(capsys, "sign", image, "--form", form, "--prepare", message)[0] == 0
    subprocess.run(["openssl", "dgst", "-sha256", "-sign", key, "-out", signature, message], check=True)
    assert typed(capsys, "sign", image, "--form", form, "--signature", signature, "--public", public)[0] == 0
    assert typed(capsys, "verify-image", image, "--key", public)[0] == 0
    signature.write_bytes(bytes(70))
    status, refused = typed(capsys, "sign", image, "--form", form, "--signature", signature, "--public", public)
    assert (status, code(refused)) == (4, "signature-wrong")


def test_a_policy_decides(capsys: pytest.CaptureFixture[str], tmp_path: Path, image: str) -> None:
    typed(capsys, "keygen", tmp_path / "author")
    typed(capsys, "keygen", tmp_path / "other")
    typed(capsys, "sign", image, "--key", tmp_path / "author")
    name = image.rpartition(":")[0]
    short, full = tmp_path / "policy.toml", tmp_path / "policy.json"
    short.write_text(f'[images."{name}"]\nkeys = ["author.pub"]\n')
    rule = {"type": "sigstoreSigned", "keyPath": "author.pub", "signedIdentity": {"type": "matchRepository"}}
    full.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {"docker": {name: [rule]}}}))
    for policy in (short, full):
        assert typed(capsys, "verify-image", image, "--policy", policy)[0] == 0
    short.write_text(f'[images."{name}"]\nkeys = ["other.pub"]\n')
    status, refused = typed(capsys, "verify-image", image, "--policy", short)
    assert (status, code(refused)) == (5, "image-policy")
    short.write_text('[images."registry.example/other"]\nkeys = ["author.pub"]\n')
    assert code(typed(capsys, "verify-image", image, "--policy", short)[1]) == "image-policy"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sign"], "signer-needed"),
        (["sign", "--pkcs11-token", "a"], "signer-needed"),
        (["sign", "--prepare", "x"], "sign-steps"),
        (["sign", "--form", "classic", "--prepare", "x", "--signature", "y", "--public", "z"], "sign-steps"),
        (["sign", "--form", "classic", "--signature", "y"], "sign-steps"),
        (["sign", "--form", "gpg"], "signature-form"),
        (["verify-image"], "verify-by-what"),
        (["verify-image", "--key", "a", "--policy", "b"], "verify-by-what"),
        (["sign", "--key", "/nothing"], "key-unreadable"),
    ],
)
def test_what_makes_no_sense(capsys: pytest.CaptureFixture[str], image: str, words: list[str], expected: str) -> None:
    status, refused = typed(capsys, words[0], image, *words[1:])
    assert (status, code(refused)) == (2, expected)


def test_an_image_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path, image: str) -> None:
    typed(capsys, "keygen", tmp_path / "key")
    status, refused = typed(capsys, "sign", image + "2", "--key", tmp_path / "key")
    assert (status, code(refused)) == (7, "image-not-found")
