"""Sealing and signing: what is pushed, in which order, what is left out; keys; the owner's key."""

from __future__ import annotations

import json
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kokon.errors import (
    DeniedError,
    HostError,
    KokonError,
    MalformedError,
    UnreachableError,
    UntrustedError,
    UsageError,
)
from kokon.image import owner as owner_module
from kokon.image.manifest import CONFIG_LIMIT, parse_manifest
from kokon.image.owner import read_owner
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry
from kokon.image.seal import check_days, minimal_config, seal
from kokon.image.sign import load_author, load_private_key, push_signature
from kokon.image.signature import signature_tag
from kokon.image.signing.keys import fingerprint
from kokon.image.signing.load import write_key
from kokon.image.source import open_source
from kokon.jose.jwe import public_jwk
from support.images import write_layout
from support.registry import LocalRegistry
from support.scripted import Answer, ScriptedServer
from support.sealed import AUTHOR, CLAIMS, LOWER, OWNER, SealedFixture


def refused(kind: type[KokonError], code: str, action: Callable[[], object]) -> None:
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.code == code


def test_what_is_pushed(fixture: SealedFixture) -> None:
    found = fixture.registry.manifest("clinic", "1")
    assert found is not None
    manifest = parse_manifest(found[0])
    for layer in manifest.layers:
        assert layer.media_type == "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
    config = fixture.registry.blob_bytes("clinic", manifest.config, CONFIG_LIMIT)
    assert b"secret build step" not in config
    assert json.loads(config)["config"]["Cmd"] == ["/bin/app"]
    assert fixture.sealed.statement.ports == ("8080/tcp",)
    assert str(fixture.sealed.reference) == f"{fixture.server.host}/clinic:1@{fixture.sealed.digest}"


def test_every_sealing_has_its_own_keys(
    fixture: SealedFixture, server: LocalRegistry, registry: Registry, layout: Path
) -> None:
    seen: list[tuple[int, int]] = []
    with open_source(f"oci:{layout}") as source:
        again = seal(
            source,
            registry,
            parse_reference(f"{server.host}/clinic:2"),
            AUTHOR,
            public_jwk(OWNER),
            CLAIMS,
            lambda done, total: seen.append((done, total)),
        )
    assert not set(again.statement.layers) & set(fixture.sealed.statement.layers)
    assert again.statement.kek.kid != fixture.sealed.statement.kek.kid
    assert seen[-1][0] == seen[-1][1] > 0


def test_uncompressed_source(server: LocalRegistry, registry: Registry, tmp_path: Path) -> None:
    write_layout(tmp_path / "plain", [LOWER], compress=False)
    with open_source(f"oci:{tmp_path}/plain") as source:
        sealed = seal(
            source,
            registry,
            parse_reference(f"{server.host}/plain"),
            AUTHOR,
            public_jwk(OWNER),
            CLAIMS,
        )
    assert registry.manifest("plain", "latest") is not None
    assert len(sealed.statement.layers) == 1


def test_no_tag_for_an_image_whose_content_is_not_what_it_says(
    server: LocalRegistry, registry: Registry, tmp_path: Path
) -> None:
    lies = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "3" * 64]}}
    write_layout(tmp_path / "lies", [LOWER], extra=lies)
    reference = parse_reference(f"{server.host}/lies:1")
    with open_source(f"oci:{tmp_path}/lies") as source:
        refused(
            UntrustedError,
            "layer-diff-id-mismatch",
            lambda: seal(source, registry, reference, AUTHOR, public_jwk(OWNER), CLAIMS),
        )
    assert registry.manifest("lies", "1") is None


def test_minimal_configuration() -> None:
    full = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "author": "me",
        "history": [{"created_by": "x"}],
        "config": {"Env": ["A=1"], "Labels": {"build-host": "h"}, "Cmd": None, "Hostname": "h", "User": "1"},
        "rootfs": {"type": "layers", "diff_ids": []},
        "container_config": {"Cmd": ["y"]},
    }
    assert json.loads(minimal_config(json.dumps(full).encode())) == {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Env": ["A=1"], "User": "1"},
        "rootfs": {"type": "layers", "diff_ids": []},
    }


def test_days() -> None:
    assert check_days(1) == 1
    for days in (0, -1, 10_000):
        refused(UsageError, "validity-range", lambda days=days: check_days(days))  # type: ignore[misc]


def test_signatures_add_up(fixture: SealedFixture) -> None:
    push_signature(fixture.registry, "clinic", fixture.sealed.digest, "h/clinic", AUTHOR)
    found = fixture.registry.manifest("clinic", signature_tag(fixture.sealed.digest))
    assert found is not None
    assert len(parse_manifest(found[0]).layers) == 2


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "author.key"
    public = tmp_path / "author.key.pub"
    key = write_key(path, "p256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_private_key(path).private_numbers() == key.private_numbers()
    for file in (path, public):
        assert fingerprint(load_author(file)) == fingerprint(key.public_key())
    refused(UsageError, "key-exists", lambda: write_key(path, "p256"))
    path.unlink()
    refused(UsageError, "key-exists", lambda: write_key(path, "p256"))
    assert not path.exists()
    refused(HostError, "key-not-written", lambda: write_key(tmp_path / "none/key", "p256"))


def test_bad_key_files(tmp_path: Path) -> None:
    path = tmp_path / "key"
    refused(UsageError, "key-unreadable", lambda: load_private_key(path))
    path.write_bytes(b"x" * 20_000)
    refused(MalformedError, "key-malformed", lambda: load_author(path))
    path.write_bytes(b"junk")
    refused(MalformedError, "key-malformed", lambda: load_private_key(path))
    for key, encryption in (
        (rsa.generate_private_key(65537, 2048), serialization.NoEncryption()),
        (ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"pass")),
    ):
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
        refused(MalformedError, "key-malformed", lambda: load_private_key(path))


def test_owner_key_from_a_file(tmp_path: Path) -> None:
    jwk = public_jwk(OWNER)
    path = tmp_path / "owner.jwk"
    for document in (jwk, {"jwk": jwk, "fingerprint": "x"}):
        path.write_text(json.dumps(document))
        assert read_owner(str(path)) == jwk
    path.write_text("[]")
    refused(MalformedError, "field-type", lambda: read_owner(str(path)))
    path.write_text("x" * 20_000)
    refused(MalformedError, "json-too-large", lambda: read_owner(str(path)))
    refused(UsageError, "owner-unreadable", lambda: read_owner(str(tmp_path / "none")))
    refused(UsageError, "owner-url", lambda: read_owner("http://127.0.0.1:1"))


def test_owner_key_from_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(200, json.dumps({"jwk": public_jwk(OWNER)}).encode())
    with ScriptedServer(lambda method, path: answer) as server:
        # TLS towards a plain server: refused whether pinned or not.
        url = server.url.replace("http:", "https:")
        refused(UnreachableError, "owner-unreachable", lambda: read_owner(url))
        (tmp_path / "c.pem").write_text("junk")
        refused(MalformedError, "owner-certificate", lambda: read_owner(url, tmp_path / "c.pem"))
        real = httpx2.Client

        def plain(**options: Any) -> httpx2.Client:
            assert isinstance(options.pop("verify"), ssl.SSLContext)
            return real(**options, transport=_Downgrade())

        monkeypatch.setattr(owner_module.httpx2, "Client", plain)
        assert read_owner(url) == public_jwk(OWNER)
        assert server.seen == [("GET", "/kokon/v1/owner-key")]
        answer.status = 404
        refused(DeniedError, "owner-refused", lambda: read_owner(url))
        answer.status, answer.body = 200, b"x" * 100_000
        refused(MalformedError, "json-too-large", lambda: read_owner(url))


class _Downgrade(httpx2.HTTPTransport):
    """Speaks plain HTTP where https is asked for: stands for a server with the right certificate."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.url = request.url.copy_with(scheme="http")
        return super().handle_request(request)
