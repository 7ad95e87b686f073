"""The author's registry client: against docker-registry, and against one that misbehaves."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import httpx2
import pytest

from kokon.errors import DeniedError, KokonError, UnreachableError, UntrustedError
from kokon.image.manifest import CONFIG_TYPE, INDEX_TYPE, MANIFEST_LIMIT, MANIFEST_TYPE, Descriptor
from kokon.image.registry import Registry, descriptor_of, fallback_tag, hexdigest, manifest_bytes
from kokon.image.remote.settings import Patience
from support.registry import LocalRegistry
from support.scripted import Answer, ScriptedServer

REPOSITORY = "registry-test"


def refused(kind: type[KokonError], code: str, action: Callable[[], object]) -> None:
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.code == code


def test_blobs(registry: Registry) -> None:
    data = os.urandom(3 << 20)
    digest = hexdigest(data)
    assert not registry.has_blob(REPOSITORY, digest)
    pieces = (data[start : start + 100_000] for start in range(0, len(data), 100_000))
    assert registry.upload(REPOSITORY, pieces) == (digest, len(data))
    assert registry.has_blob(REPOSITORY, digest)
    assert b"".join(registry.blob(REPOSITORY, digest, len(data))) == data
    refused(UntrustedError, "blob-digest-mismatch", lambda: list(registry.blob(REPOSITORY, digest, 5)))
    large = Descriptor("x", digest, len(data))
    refused(UntrustedError, "blob-digest-mismatch", lambda: registry.blob_bytes(REPOSITORY, large, 100))
    assert registry.upload(REPOSITORY, []) == (hexdigest(b""), 0)


def test_manifests_and_referrers(registry: Registry) -> None:
    registry.upload_bytes(REPOSITORY, b"{}")
    config = descriptor_of(CONFIG_TYPE, b"{}")
    data = manifest_bytes(config, [config])
    digest = registry.put_manifest(REPOSITORY, "tag", data)
    assert registry.manifest(REPOSITORY, "tag") == (data, MANIFEST_TYPE)
    assert registry.manifest(REPOSITORY, digest) == (data, MANIFEST_TYPE)
    assert registry.manifest(REPOSITORY, "absent") is None
    assert registry.referrers(REPOSITORY, digest) == ()
    image = descriptor_of(MANIFEST_TYPE, data)
    first = registry.attach(REPOSITORY, image, "a/b", b"one", "text/plain")
    second = registry.attach(REPOSITORY, image, "a/b", b"two", "text/plain")
    registry.attach(REPOSITORY, image, "a/b", b"two", "text/plain")
    found = [entry.descriptor for entry in registry.referrers(REPOSITORY, digest)]
    assert [(entry.digest, entry.artifact_type) for entry in found] == [(first, "a/b"), (second, "a/b")]
    assert registry.manifest(REPOSITORY, fallback_tag(digest)) is not None


def test_spoilt_manifest(server: LocalRegistry, registry: Registry) -> None:
    registry.upload_bytes(REPOSITORY, b"{}")
    data = manifest_bytes(descriptor_of(CONFIG_TYPE, b"{}"), [], annotations={"n": os.urandom(8).hex()})
    digest = registry.put_manifest(REPOSITORY, "spoilt", data)
    server.blob_path(digest).write_bytes(data + b" ")
    with pytest.raises(KokonError):
        registry.manifest(REPOSITORY, digest)


def client(script: Callable[[str, str], Answer]) -> tuple[ScriptedServer, Registry]:
    server = ScriptedServer(script)
    return server, Registry(server.url, auth=("user", "word"), patience=Patience(sleep=lambda _: None))


def test_misbehaviour() -> None:
    digest = "sha256:" + "1" * 64
    cases: list[tuple[Answer, type[KokonError], str, Callable[[Registry], object]]] = [
        (Answer(401), DeniedError, "registry-denied", lambda r: r.manifest("a", "t")),
        (Answer(403), DeniedError, "registry-denied", lambda r: r.upload("a", [b""])),
        (Answer(500), UnreachableError, "registry-error", lambda r: r.has_blob("a", digest)),
        (Answer(500), UnreachableError, "registry-error", lambda r: r.put_manifest("a", "t", b"{}")),
        (Answer(202), UnreachableError, "registry-error", lambda r: r.upload("a", [b""])),
        (Answer(200, b"{}"), UntrustedError, "image-digest-mismatch", lambda r: r.manifest("a", digest)),
        (Answer(200, bytes(MANIFEST_LIMIT + 1)), UnreachableError, "registry-error", lambda r: r.manifest("a", "t")),
        (Answer(200, b"x"), UntrustedError, "blob-digest-mismatch", lambda r: list(r.blob("a", digest, 1))),
        (Answer(200, b"xx" * 99, cut=5), UnreachableError, "registry-unreachable", lambda r: r.manifest("a", "t")),
        (
            Answer(307, b"", {"Location": "/x"}),
            UnreachableError,
            "registry-unreachable",
            lambda r: r.has_blob("a", digest),
        ),
    ]
    for answer, kind, code, action in cases:
        server, registry = client(lambda method, path, answer=answer: answer)  # type: ignore[misc]
        with server, registry:
            refused(kind, code, lambda action=action, registry=registry: action(registry))  # type: ignore[misc]


def test_registry_that_indexes_referrers_itself() -> None:
    pushed: list[str] = []

    def script(method: str, path: str) -> Answer:
        if method == "HEAD":
            return Answer(200)
        if method == "PUT":
            pushed.append(path)
            return Answer(201, b"", {"OCI-Subject": "sha256:1"})
        body = b'{"schemaVersion":2,"manifests":[]}'
        return Answer(200, body, {"Content-Type": INDEX_TYPE})

    server, registry = client(script)
    with server, registry:
        image = Descriptor(MANIFEST_TYPE, "sha256:" + "1" * 64, 3)
        referrer = registry.attach("a", image, "a/b", b"one", "text/plain")
        assert pushed == [f"/v2/a/manifests/{referrer}"]
        assert registry.referrers("a", image.digest) == ()


def test_an_upload_elsewhere_takes_no_password_along() -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append((f"{request.method} {request.url.host}", request.headers.get("Authorization")))
        if request.method == "POST":
            return httpx2.Response(202, headers={"Location": "https://storage.example/upload?id=1"})
        return httpx2.Response(202 if request.method == "PATCH" else 201, headers={"Location": "/upload?id=2"})

    with mocked("https://registry.example", answer) as registry:
        registry.upload("a", [b"data"])
    assert [where for where, _ in seen] == ["POST registry.example", "PATCH storage.example", "PUT storage.example"]
    assert [bool(password) for _, password in seen] == [True, False, False]


def test_an_upload_is_not_led_away_from_tls() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.scheme == "https"
        return httpx2.Response(202, headers={"Location": "http://registry.example/upload"})

    with mocked("https://registry.example", answer) as registry:
        refused(UntrustedError, "upload-downgraded", lambda: registry.upload("a", [b"data"]))


def mocked(url: str, answer: Callable[[httpx2.Request], httpx2.Response]) -> Registry:
    return Registry(url, client=httpx2.Client(transport=httpx2.MockTransport(answer), auth=("user", "word")))


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with Registry(url, patience=Patience(sleep=lambda _: None)) as registry:
            refused(UnreachableError, "registry-unreachable", lambda: registry.manifest("a", "t"))
