"""Copies between registries and layouts: whole, in order, and nothing published half."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kokon.errors import KokonError, MalformedError, UnreachableError, UntrustedError, UsageError
from kokon.image.manifest import INDEX_TYPE, MANIFEST_TYPE, parse_index
from kokon.image.registry import Registry, descriptor_of, fallback_tag, hexdigest, manifest_bytes
from kokon.image.remote.copy import Place, copy_image
from kokon.image.remote.layout import Layout
from kokon.image.remote.platform import Platform, choices, parse_platform, select
from kokon.image.remote.settings import Patience
from support.crooked import Asked, CrookedServer, Says
from support.registry import LocalRegistry


def refused(kind: type[KokonError], code: str, action: Callable[[], object]) -> KokonError:
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.code == code
    return caught.value


def image(layout: Layout, architecture: str) -> dict[str, object]:
    """An image of two layers, nowhere named; answers its member of an index."""
    config = json.dumps({"architecture": architecture, "os": "linux", "rootfs": {"diff_ids": []}}).encode()
    layers = [os.urandom(200_000), architecture.encode()]
    for blob in (config, *layers):
        layout.upload_bytes("", blob)
    data = manifest_bytes(descriptor_of("c/c", config), [descriptor_of("l/l", layer) for layer in layers])
    layout.put_manifest("", hexdigest(data), data)
    name, _, variant = architecture.partition("/")
    platform = {"os": "linux", "architecture": name, **({"variant": variant} if variant else {})}
    return {**descriptor_of(MANIFEST_TYPE, data).as_dict(), "platform": platform}


def index_of(*members: dict[str, object]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(members)}).encode()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "source", create=True)
    members = [image(made, name) for name in ("amd64", "arm64/v8", "arm/v7", "arm/v6")]
    attestation = {**image(made, "none"), "platform": {"os": "unknown", "architecture": "unknown"}}
    made.put_manifest("", "all", index_of(*members, attestation), INDEX_TYPE)
    return made


def everything(store: Registry | Layout, repository: str, pointer: str) -> dict[str, bytes]:
    """All documents and blobs below `pointer`, by digest."""
    found = store.manifest(repository, pointer)
    assert found is not None
    document = json.loads(found[0])
    whole = {hexdigest(found[0]): found[0]}
    for member in document.get("manifests", []):
        whole |= everything(store, repository, member["digest"])
    for blob in [document["config"], *document["layers"]] if "config" in document else []:
        whole[blob["digest"]] = b"".join(store.blob(repository, blob["digest"], blob["size"]))
    return whole


def test_all_platforms_there_and_back(layout: Layout, registry: Registry, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    there = Place(registry, "copies/all")
    copied = copy_image(Place(layout, ""), "all", there, "1", progress=lambda done, total: calls.append((done, total)))
    assert copied.media_type == INDEX_TYPE
    assert (copied.blobs, copied.there) == (15, 0)
    assert calls[-1] == (copied.sent, copied.sent)
    assert everything(registry, "copies/all", "1") == everything(layout, "", "all")
    again = copy_image(Place(layout, ""), "all", there, "2")
    assert (again.blobs, again.there, again.sent) == (0, 15, 0)
    back = Layout(tmp_path / "back", create=True)
    assert copy_image(there, copied.digest, Place(back, ""), "back").digest == copied.digest
    assert everything(back, "", "back") == everything(layout, "", "all")


@pytest.mark.parametrize(
    ("wanted", "expected"), [("linux/amd64", 0), ("linux/arm64", 1), ("linux/arm64/v8", 1), ("linux/arm/v6", 3)]
)
def test_one_platform_is_chosen(layout: Layout, tmp_path: Path, wanted: str, expected: int) -> None:
    found = layout.manifest("", "all")
    assert found is not None
    target = Layout(tmp_path / "target", create=True)
    copied = copy_image(Place(layout, ""), "all", Place(target, ""), "one", platform=parse_platform(wanted))
    assert copied.digest == parse_index(found[0])[expected].descriptor.digest
    assert copied.blobs == 3


@pytest.mark.parametrize("wanted", ["linux/s390x", "linux/arm", "linux/arm64/v9", "unknown/unknown"])
def test_a_platform_that_is_not_there_or_not_one(layout: Layout, tmp_path: Path, wanted: str) -> None:
    target = Layout(tmp_path / "target", create=True)
    error = refused(
        UsageError,
        "source-not-found",
        lambda: copy_image(Place(layout, ""), "all", Place(target, ""), "one", platform=parse_platform(wanted)),
    )
    assert "linux/arm64/v8" in (error.hint or "")
    assert target.manifest("", "one") is None


def test_platforms() -> None:
    assert str(Platform("linux", "arm", "v7")) == "linux/arm/v7"
    for text in ("linux", "", "linux/", "Linux/amd64", "linux/amd64/v1/x"):
        refused(UsageError, "platform-malformed", lambda text=text: parse_platform(text))  # type: ignore[misc]
    lonely = choices(index_of(descriptor_of(MANIFEST_TYPE, b"x").as_dict()))
    assert select(lonely, None) == select(lonely, Platform()) == lonely
    foreign = choices(
        index_of({**descriptor_of(MANIFEST_TYPE, b"x").as_dict(), "platform": {"os": "a", "architecture": "b"}})
    )
    assert select(foreign, None) == foreign
    assert select(foreign, Platform()) == ()


def test_signatures_and_referrers_go_along(layout: Layout, registry: Registry, tmp_path: Path) -> None:
    found = layout.manifest("", "all")
    assert found is not None
    digest = hexdigest(found[0])
    subject = descriptor_of(INDEX_TYPE, found[0])
    first = layout.attach("", subject, "a/b", b"statement", "t/t")
    second = layout.attach("", subject, "c/d", b"other", "t/t")
    layout.upload_bytes("", b"{}")
    layout.upload_bytes("", b"signature")
    signed = manifest_bytes(descriptor_of("c/c", b"{}"), [descriptor_of("s/s", b"signature")])
    layout.put_manifest("", fallback_tag(digest) + ".sig", signed)
    there = Place(registry, "copies/attached")
    copy_image(Place(layout, ""), "all", there, "1", attachments=True)
    referrers = [entry.descriptor for entry in registry.referrers("copies/attached", digest)]
    assert [(entry.digest, entry.artifact_type) for entry in referrers] == [(first, "a/b"), (second, "c/d")]
    assert "statement" not in registry.url
    assert registry.manifest("copies/attached", fallback_tag(digest) + ".sig") == (signed, MANIFEST_TYPE)
    assert len(everything(registry, "copies/attached", first)) == 3
    plain = Layout(tmp_path / "plain", create=True)
    copy_image(there, "1", Place(plain, ""), "1")
    assert plain.referrers("", digest) == ()


def test_blobs_of_the_same_registry_are_mounted(layout: Layout, server: LocalRegistry) -> None:
    with Registry(server.url) as registry:
        copy_image(Place(layout, ""), "all", Place(registry, "copies/from"), "1")
        copied = copy_image(Place(registry, "copies/from"), "1", Place(registry, "copies/mounted"), "1")
        assert (copied.sent, copied.there) == (0, 15)
        assert everything(registry, "copies/mounted", "1") == everything(layout, "", "all")


# Bad input


def blob_path(layout: Layout, digest: str) -> Path:
    return Path(layout.url.removeprefix("oci:")) / "blobs/sha256" / digest.removeprefix("sha256:")


def test_an_index_that_points_at_itself(layout: Layout, registry: Registry, tmp_path: Path) -> None:
    """It cannot have its own digest, so it lies: as a layout's file it is damaged, from a registry it is another."""
    digest = "sha256:" + "7" * 64
    member = {"mediaType": INDEX_TYPE, "digest": digest, "size": 0}
    looped = index_of(member)
    looped = index_of({**member, "size": len(looped) + 2})
    blob_path(layout, digest).write_bytes(looped)
    layout.put_manifest("", "loop", looped, INDEX_TYPE)
    target = Layout(tmp_path / "target", create=True)
    refused(
        UntrustedError,
        "image-digest-mismatch",
        lambda: copy_image(Place(layout, ""), "loop", Place(target, ""), "loop"),
    )
    with (
        CrookedServer(lambda _: Says(200, looped, {"Content-Type": INDEX_TYPE})) as server,
        Registry(server.url) as liar,
    ):
        refused(
            UntrustedError,
            "image-digest-mismatch",
            lambda: copy_image(Place(liar, "a"), "loop", Place(target, ""), "loop"),
        )
        assert len(server.seen) == 2
    assert target.manifest("", "loop") is None


class Unhashed(Layout):
    """A store that gives an index under any digest: what the copy itself must refuse."""

    def manifest(self, repository: str, pointer: str) -> tuple[bytes, str] | None:
        return super().manifest(repository, "loop")


def test_an_index_that_goes_on_without_end(layout: Layout, tmp_path: Path) -> None:
    size = len(index_of({"mediaType": INDEX_TYPE, "digest": "sha256:" + "7" * 64, "size": 100}))
    looped = index_of({"mediaType": INDEX_TYPE, "digest": "sha256:" + "7" * 64, "size": size})
    layout.put_manifest("", "loop", looped, INDEX_TYPE)
    endless = Unhashed(Path(layout.url.removeprefix("oci:")))
    target = Layout(tmp_path / "target", create=True)
    for platform in (None, Platform()):
        refused(
            MalformedError,
            "image-malformed",
            lambda platform=platform: copy_image(  # type: ignore[misc]
                Place(endless, ""), "loop", Place(target, ""), "loop", platform=platform
            ),
        )


def test_an_index_of_very_many(layout: Layout, tmp_path: Path) -> None:
    """Indexes of indexes: each is small, together they are refused."""
    outer = []
    for number in range(2):
        members = []
        for inner in range(600):
            data = manifest_bytes(descriptor_of("c/c", b"{}"), [], annotations={"n": f"{number}.{inner}"})
            layout.put_manifest("", hexdigest(data), data)
            members.append(descriptor_of(MANIFEST_TYPE, data).as_dict())
        index = index_of(*members)
        layout.put_manifest("", hexdigest(index), index, INDEX_TYPE)
        outer.append(descriptor_of(INDEX_TYPE, index).as_dict())
    layout.put_manifest("", "many", index_of(*outer), INDEX_TYPE)
    target = Layout(tmp_path / "target", create=True)
    refused(MalformedError, "image-malformed", lambda: copy_image(Place(layout, ""), "many", Place(target, ""), "many"))


def test_an_index_that_lies_about_a_size(layout: Layout, tmp_path: Path) -> None:
    member = {**image(layout, "amd64"), "size": 5}
    layout.put_manifest("", "liar", index_of(member), INDEX_TYPE)
    target = Layout(tmp_path / "target", create=True)
    refused(MalformedError, "image-malformed", lambda: copy_image(Place(layout, ""), "liar", Place(target, ""), "liar"))


def test_a_damaged_blob_leaves_no_tag(layout: Layout, registry: Registry) -> None:
    found = layout.manifest("", "all")
    assert found is not None
    manifest = layout.manifest("", parse_index(found[0])[2].descriptor.digest)
    assert manifest is not None
    layer = json.loads(manifest[0])["layers"][0]["digest"]
    data = bytearray(blob_path(layout, layer).read_bytes())
    data[-1] ^= 1
    blob_path(layout, layer).write_bytes(bytes(data))
    refused(
        UntrustedError,
        "blob-digest-mismatch",
        lambda: copy_image(Place(layout, ""), "all", Place(registry, "copies/damaged"), "1"),
    )
    assert registry.manifest("copies/damaged", "1") is None
    assert registry.manifest("copies/damaged", hexdigest(found[0])) is None
    assert not registry.has_blob("copies/damaged", layer)


@pytest.mark.parametrize("failing", range(1, 40, 4))
def test_a_push_that_breaks_anywhere_leaves_no_tag(layout: Layout, failing: int) -> None:
    """The registry stops answering at its n-th request; the tag is the very last thing that it is ever told."""
    tagged: list[str] = []
    lock, count = threading.Lock(), [0]

    def script(asked: Asked) -> Says:
        with lock:
            count[0] += 1
            if count[0] >= failing:
                return Says(403)
        if asked.method == "HEAD":
            return Says(404)
        if asked.method in ("POST", "PATCH"):
            return Says(202, headers={"Location": "/upload"})
        if asked.path.endswith("/manifests/1"):
            tagged.append(asked.path)
        return Says(201)

    with CrookedServer(script) as server, Registry(server.url, auth=("a", "b")) as registry:
        with pytest.raises(KokonError) as caught:
            copy_image(Place(layout, ""), "all", Place(registry, "a"), "1")
        assert caught.value.code == "registry-denied"
        paths = [asked.path for asked in server.seen]
    assert not tagged
    assert not any(path.endswith("/manifests/1") for path in paths)


def test_a_full_push_ends_with_the_tag(layout: Layout) -> None:
    def script(asked: Asked) -> Says:
        if asked.method == "HEAD":
            return Says(404)
        return Says(202 if asked.method in ("POST", "PATCH") else 201, headers={"Location": "/upload"})

    with CrookedServer(script) as server, Registry(server.url, auth=("a", "b")) as registry:
        copy_image(Place(layout, ""), "all", Place(registry, "a"), "1")
    manifests = [index for index, asked in enumerate(server.seen) if "/manifests/" in asked.path]
    assert manifests == list(range(len(server.seen) - 7, len(server.seen)))
    assert server.seen[-1].path == "/v2/a/manifests/1"


# Layouts


def test_a_layout_keeps_other_tags(layout: Layout) -> None:
    data = manifest_bytes(descriptor_of("c/c", b"{}"), [])
    before = layout.manifest("", "all")
    assert layout.put_manifest("", "other", data) == hexdigest(data)
    layout.put_manifest("", "other", data)
    assert layout.manifest("", "all") == before
    assert layout.manifest("", "other") == (data, MANIFEST_TYPE)
    assert layout.manifest("", "none") is None
    assert layout.manifest("", "sha256:" + "0" * 64) is None
    assert len(parse_index(layout.entries())) == 2


def test_a_layout_that_cannot_be_used(tmp_path: Path, layout: Layout) -> None:
    refused(UsageError, "image-unreadable", lambda: Layout(tmp_path / "none").manifest("", "t"))
    (tmp_path / "file").write_text("")
    refused(KokonError, "image-not-written", lambda: Layout(tmp_path / "file", create=True))
    refused(KokonError, "image-not-written", lambda: Layout(tmp_path / "none").upload("", [b"x"]))
    (tmp_path / "source/index.json").write_bytes(b" " * (5 << 20))
    refused(MalformedError, "image-malformed", lambda: layout.manifest("", "all"))


def test_an_upload_that_fails_leaves_nothing(layout: Layout) -> None:
    def chunks() -> object:
        yield b"x"
        raise UnreachableError("registry-unreachable", "gone")

    blobs = blob_path(layout, "sha256:" + "0" * 64).parent
    before = sorted(path.name for path in blobs.iterdir())
    refused(UnreachableError, "registry-unreachable", lambda: layout.upload("", chunks()))  # type: ignore[arg-type]
    assert sorted(path.name for path in blobs.iterdir()) == before


def test_patience_is_bounded() -> None:
    assert Patience(backoff=1, wait_limit=5).pause(9, None) == 5
    assert Patience().pause(1, "12") == 12
