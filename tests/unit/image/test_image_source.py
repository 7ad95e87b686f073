"""Images read from layouts, archives and registries, as real tools write them."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kokon.errors import KokonError, MalformedError, UntrustedError, UsageError
from kokon.image.layer import gunzip_chunks
from kokon.image.manifest import INDEX_TYPE
from kokon.image.source import Source, open_source
from support.images import LAYER, digest_of, make_tar, member, write_layout
from support.registry import LocalRegistry
from support.scripted import Answer, ScriptedServer
from support.sealed import LOWER, UPPER


def refused(kind: type[KokonError], code: str, action: Callable[[], object]) -> None:
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.code == code


def plain_layers(text: str, **options: Any) -> list[bytes]:
    with open_source(text, **options) as source:
        return contents(source)


def contents(source: Source) -> list[bytes]:
    found = []
    for layer in source.layers:
        stored = b"".join(layer.read())
        assert len(stored) == layer.size
        found.append(b"".join(gunzip_chunks([stored])) if layer.gzip else stored)
    return found


def skopeo(*arguments: str) -> None:
    command = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", "--src-tls-verify=false"]
    subprocess.run([*command, *arguments], check=True, capture_output=True)


def test_what_skopeo_writes(layout: Path, tmp_path: Path, server: LocalRegistry) -> None:
    expected = [LOWER, UPPER]
    assert plain_layers(f"oci:{layout}") == expected
    assert plain_layers(f"oci:{layout}:latest") == expected
    skopeo(f"oci:{layout}", f"oci-archive:{tmp_path}/image.tar:v1")
    assert plain_layers(f"oci-archive:{tmp_path}/image.tar") == expected
    assert plain_layers(f"oci-archive:{tmp_path}/image.tar:v1") == expected
    skopeo(f"oci:{layout}", f"docker-archive:{tmp_path}/docker.tar:example/app:2")
    assert plain_layers(f"docker-archive:{tmp_path}/docker.tar") == expected
    assert plain_layers(f"docker-archive:{tmp_path}/docker.tar:example/app:2") == expected
    skopeo(f"oci:{layout}", f"docker://{server.host}/source:1")
    assert plain_layers(f"docker://{server.host}/source:1") == expected
    skopeo("--format=v2s2", f"oci:{layout}", f"docker://{server.host}/source:docker")
    assert plain_layers(f"docker://{server.host}/source:docker") == expected


def test_plain_layers_and_a_tar_in_gzip(tmp_path: Path) -> None:
    write_layout(tmp_path / "plain", [LOWER], compress=False)
    assert plain_layers(f"oci:{tmp_path}/plain") == [LOWER]
    with tarfile.open(tmp_path / "plain.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "plain", ".")
    assert plain_layers(f"oci-archive:{tmp_path}/plain.tar.gz") == [LOWER]


def test_old_docker_save_with_linked_layers(tmp_path: Path) -> None:
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [digest_of(LOWER)] * 2}}
    images = [{"Config": "c.json", "RepoTags": None, "Layers": ["a/layer.tar", "b/layer.tar"]}]
    data = make_tar(
        [
            ("c.json", json.dumps(config).encode()),
            ("a/layer.tar", LOWER),
            (member("b/layer.tar", tarfile.SYMTYPE, linkname="../a/layer.tar"), None),
            ("manifest.json", json.dumps(images).encode()),
        ]
    )
    (tmp_path / "i.tar").write_bytes(data)
    assert plain_layers(f"docker-archive:{tmp_path}/i.tar") == [LOWER, LOWER]
    refused(UsageError, "source-not-found", lambda: plain_layers(f"docker-archive:{tmp_path}/i.tar:other"))


@pytest.mark.parametrize("manifest", [b"[]", b"{}", b"[1]", b'[{"Config":"x"}]', b'[{"Config":"nowhere","Layers":[]}]'])
def test_bad_docker_archives(tmp_path: Path, manifest: bytes) -> None:
    (tmp_path / "i.tar").write_bytes(make_tar([("manifest.json", manifest)]))
    with pytest.raises(KokonError):
        plain_layers(f"docker-archive:{tmp_path}/i.tar")


def test_docker_archive_with_wrong_count(tmp_path: Path) -> None:
    config = json.dumps({"architecture": "a", "os": "l", "rootfs": {"diff_ids": []}}).encode()
    images = json.dumps([{"Config": "c", "Layers": ["l"]}]).encode()
    (tmp_path / "i.tar").write_bytes(make_tar([("manifest.json", images), ("c", config), ("l", LOWER)]))
    refused(MalformedError, "image-malformed", lambda: plain_layers(f"docker-archive:{tmp_path}/i.tar"))
    (tmp_path / "j.tar").write_bytes(make_tar([("manifest.json", b" " * (5 << 20))]))
    refused(MalformedError, "image-malformed", lambda: plain_layers(f"docker-archive:{tmp_path}/j.tar"))


def test_damaged_blob(layout: Path) -> None:
    blob = layout / "blobs/sha256" / digest_of(gzip.compress(UPPER, mtime=0)).removeprefix("sha256:")
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(bytes(data))
    refused(UntrustedError, "blob-digest-mismatch", lambda: plain_layers(f"oci:{layout}"))
    blob.unlink()
    with open_source(f"oci:{layout}") as source:
        refused(UsageError, "image-unreadable", lambda: list(source.layers[1].read()))


def test_unreadable_sources(tmp_path: Path, layout: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    for text in (f"oci:{tmp_path}/none", f"oci-archive:{tmp_path}/none", f"docker-archive:{tmp_path}/junk"):
        refused(UsageError, "image-unreadable", lambda text=text: plain_layers(text))  # type: ignore[misc]
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        archive.add(layout, ".")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:3000])
    with pytest.raises(KokonError):
        plain_layers(f"oci-archive:{tmp_path}/cut.tar")
    for text in ("", "clinic", "dir:x", "oci:", "docker:x"):
        refused(UsageError, "source-unknown", lambda text=text: plain_layers(text))  # type: ignore[misc]
    refused(UsageError, "source-not-found", lambda: plain_layers(f"oci:{layout}:other"))


def test_empty_archive_and_links_without_end(tmp_path: Path) -> None:
    (tmp_path / "e.tar").write_bytes(
        make_tar([(member("manifest.json", tarfile.SYMTYPE, linkname="manifest.json"), None)])
    )
    refused(UsageError, "image-unreadable", lambda: plain_layers(f"docker-archive:{tmp_path}/e.tar"))


def edit_index(layout: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((layout / "index.json").read_text())
    edit(index)
    (layout / "index.json").write_text(json.dumps(index))


def test_of_several_platforms_ours_is_taken(layout: Path) -> None:
    def several(index: dict[str, Any]) -> None:
        ours = index["manifests"][0]
        ours["platform"] = {"os": "linux", "architecture": "amd64"}
        index["manifests"].append({**ours, "platform": {"os": "linux", "architecture": "arm64"}})

    edit_index(layout, several)
    assert plain_layers(f"oci:{layout}") == [LOWER, UPPER]
    edit_index(layout, lambda index: index["manifests"].pop(0))
    edit_index(layout, lambda index: index["manifests"].append(index["manifests"][0]))
    refused(UsageError, "source-not-found", lambda: plain_layers(f"oci:{layout}"))


def test_indexes_within_indexes(layout: Path, server: LocalRegistry, registry: Any) -> None:
    skopeo(f"oci:{layout}", f"docker://{server.host}/nested:1")
    data, media_type = registry.manifest("nested", "1")
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE}
    entry = {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}
    for depth in range(3):
        body = json.dumps({**index, "manifests": [entry]}).encode()
        registry.put_manifest("nested", f"depth{depth}", body, INDEX_TYPE)
        entry = {"mediaType": INDEX_TYPE, "digest": digest_of(body), "size": len(body)}
        (layout / "blobs/sha256" / digest_of(body).removeprefix("sha256:")).write_bytes(body)
    assert plain_layers(f"docker://{server.host}/nested:depth1") == [LOWER, UPPER]
    refused(MalformedError, "image-malformed", lambda: plain_layers(f"docker://{server.host}/nested:depth2"))
    edit_index(layout, lambda index: index.update(manifests=[entry]))
    refused(MalformedError, "image-malformed", lambda: plain_layers(f"oci:{layout}"))
    refused(UsageError, "source-not-found", lambda: plain_layers(f"docker://{server.host}/nested:none"))


def test_large_documents_and_encrypted_or_foreign_layers(layout: Path) -> None:
    edit_index(layout, lambda index: index["manifests"][0].update(size=1 << 30))
    refused(MalformedError, "image-malformed", lambda: plain_layers(f"oci:{layout}"))


@pytest.mark.parametrize(
    ("media_type", "kind", "code"),
    [
        (f"{LAYER}+gzip+encrypted", UntrustedError, "source-encrypted"),
        (f"{LAYER}+zstd", MalformedError, "layer-type-unsupported"),
    ],
)
def test_layer_types(layout: Path, media_type: str, kind: type[KokonError], code: str) -> None:
    index = json.loads((layout / "index.json").read_text())
    blobs = layout / "blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_text())
    manifest["layers"][0]["mediaType"] = media_type
    data = json.dumps(manifest).encode()
    (blobs / digest_of(data).removeprefix("sha256:")).write_bytes(data)
    edit_index(layout, lambda index: index["manifests"][0].update(digest=digest_of(data), size=len(data)))
    refused(kind, code, lambda: plain_layers(f"oci:{layout}"))


def test_registry_with_another_blob(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"]
    manifest = (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()

    def script(method: str, path: str) -> Answer:
        return Answer(200, manifest if "/manifests/" in path else b"x")

    with ScriptedServer(script) as server:
        refused(
            UntrustedError,
            "blob-digest-mismatch",
            lambda: plain_layers(f"docker://127.0.0.1:{server.port}/a:t"),
        )


def test_docker_archive_layers_may_be_gzip(tmp_path: Path) -> None:
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [digest_of(LOWER)]}}
    images = [{"Config": "c.json", "RepoTags": [], "Layers": ["l"]}]
    out = io.BytesIO(gzip.compress(LOWER))
    data = make_tar(
        [("c.json", json.dumps(config).encode()), ("l", out.read()), ("manifest.json", json.dumps(images).encode())]
    )
    (tmp_path / "i.tar").write_bytes(data)
    assert plain_layers(f"docker-archive:{tmp_path}/i.tar") == [LOWER]
