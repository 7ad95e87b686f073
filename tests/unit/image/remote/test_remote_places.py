"""Sources and destinations of every kind, with the tools that they belong to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kokon.cli.main import main
from kokon.errors import HostError, KokonError, MalformedError, UntrustedError, UsageError
from kokon.image.layer import gunzip_chunks
from kokon.image.manifest import INDEX_TYPE
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry, descriptor_of, hexdigest
from kokon.image.remote.copy import Place, copy_image
from kokon.image.remote.destination import open_destination
from kokon.image.remote.documents import index_bytes
from kokon.image.remote.layout import Layout
from kokon.image.remote.mirror import open_registry, parse_mirrors
from kokon.image.remote.origin import open_origin
from kokon.image.remote.platform import Platform
from kokon.image.remote.storage import check_name, save
from kokon.image.source import open_platforms, open_source
from support.crooked import CrookedServer, Says
from support.images import write_layout
from support.registry import LocalRegistry
from support.sealed import LOWER, UPPER


def refused(kind: type[KokonError], code: str, action: Callable[[], object]) -> KokonError:
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.code == code
    return caught.value


def layers_of(text: str, platform: Platform | None = None) -> list[bytes]:
    with open_source(text, platform=platform) as source:
        stored = [(layer.gzip, b"".join(layer.read())) for layer in source.layers]
    return [b"".join(gunzip_chunks([data])) if gzip else data for gzip, data in stored]


def copy(source: str, destination: str, **options: str) -> None:
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["copy", source, destination, *arguments]) == 0


def skopeo_digest(text: str) -> str:
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", text]
    return hexdigest(subprocess.run(command, check=True, capture_output=True).stdout)


def test_every_kind_to_every_kind(layout: Path, tmp_path: Path, server: LocalRegistry) -> None:
    """Once around; where manifests are kept, they stay byte for byte, and skopeo reads the same."""
    registry = f"docker://{server.host}/around:1"
    copy(f"oci:{layout}", registry)
    copy(registry, f"oci-archive:{tmp_path}/a.tar:1")
    copy(f"oci-archive:{tmp_path}/a.tar:1", f"oci:{tmp_path}/b:x")
    digests = {skopeo_digest(text) for text in (registry, f"oci:{layout}", f"oci:{tmp_path}/b:x")}
    digests.add(skopeo_digest(f"oci-archive:{tmp_path}/a.tar:1"))
    assert len(digests) == 1
    copy(f"oci:{tmp_path}/b", f"docker-archive:{tmp_path}/c.tar:example/around:1")
    copy(f"docker-archive:{tmp_path}/c.tar:example/around:1", f"oci:{tmp_path}/d")
    for text in (f"docker-archive:{tmp_path}/c.tar", f"oci:{tmp_path}/d", f"oci-archive:{tmp_path}/a.tar"):
        assert layers_of(text) == [LOWER, UPPER]
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", f"docker-archive:{tmp_path}/c.tar", f"oci:{tmp_path}/e:1"],
        check=True,
        capture_output=True,
    )
    assert layers_of(f"oci:{tmp_path}/e") == [LOWER, UPPER]


def test_archives_are_reproducible(layout: Path, tmp_path: Path) -> None:
    for kind in ("oci-archive", "docker-archive"):
        copy(f"oci:{layout}", f"{kind}:{tmp_path}/1.tar:n:1")
        copy(f"oci:{layout}", f"{kind}:{tmp_path}/2.tar:n:1")
        assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
        (tmp_path / "1.tar").unlink()
        (tmp_path / "2.tar").unlink()


def test_what_the_command_says(layout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["copy", f"oci:{layout}", f"oci:{tmp_path}/b", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["digest"], said["blobs"]) == (skopeo_digest(f"oci:{tmp_path}/b"), 3)


def test_a_failure_leaves_no_archive(layout: Path, tmp_path: Path) -> None:
    blob = next(path for path in (layout / "blobs/sha256").iterdir() if path.read_bytes()[:2] == b"\x1f\x8b")
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    for kind in ("oci-archive", "docker-archive"):
        assert main(["copy", f"oci:{layout}", f"{kind}:{tmp_path}/x.tar"]) == UntrustedError.exit_status
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout"]


def destination(text: str, source: str) -> None:
    with open_origin(source) as (place, pointer), open_destination(text) as target:
        copy_image(place, pointer, target.place, target.tag)


def test_destinations_that_cannot_be(layout: Path, tmp_path: Path) -> None:
    source = f"oci:{layout}"
    for text in ("", "x", "dir:x", "oci:", "docker:x", "oci-archive"):
        refused(UsageError, "destination-unknown", lambda text=text: destination(text, source))  # type: ignore[misc]
    refused(UsageError, "destination-unfit", lambda: destination(f"oci-archive:{tmp_path}/none/x.tar", source))
    refused(UsageError, "reference-malformed", lambda: destination("docker-daemon:-x", source))
    (tmp_path / "d.tar").mkdir()
    refused(HostError, "image-not-written", lambda: destination(f"oci-archive:{tmp_path}/d.tar", source))
    several = platforms(tmp_path)
    refused(UsageError, "destination-unfit", lambda: destination(f"docker-archive:{tmp_path}/x.tar", several))
    encrypted = tmp_path / "encrypted"
    write_layout(encrypted, [LOWER])
    rewrite(encrypted, lambda manifest: manifest["layers"][0].update(mediaType="application/x+encrypted"))
    refused(
        UsageError, "destination-unfit", lambda: destination(f"docker-archive:{tmp_path}/x.tar", f"oci:{encrypted}")
    )
    fewer = tmp_path / "fewer"
    write_layout(fewer, [LOWER])
    rewrite(fewer, lambda manifest: manifest["layers"].pop())
    refused(MalformedError, "image-malformed", lambda: destination(f"docker-archive:{tmp_path}/x.tar", f"oci:{fewer}"))


def rewrite(directory: Path, edit: Callable[[dict], object]) -> None:  # type: ignore[type-arg]
    layout = Layout(directory)
    found = layout.manifest("", "latest")
    assert found is not None
    manifest = json.loads(found[0])
    edit(manifest)
    layout.put_manifest("", "latest", json.dumps(manifest).encode())


def test_a_layout_with_several_tags_wants_one_named(layout: Path) -> None:
    Layout(layout).put_manifest("", "other", b'{"schemaVersion":2,"manifests":[]}', INDEX_TYPE)
    refused(UsageError, "source-not-found", lambda: destination("oci:x", f"oci:{layout}"))


# Platforms


def platforms(tmp_path: Path) -> str:
    """A layout with an index of three platforms, whose layers say which it is, nested in another index."""
    layout = Layout(tmp_path / "several", create=True)
    members = []
    for name in ("amd64", "arm64", "s390x"):
        write_layout(tmp_path / name, [LOWER, UPPER + name.encode()], extra={"architecture": name}, tag=name)
        with open_origin(f"oci:{tmp_path / name}") as (place, pointer):
            copied = copy_image(place, pointer, Place(layout, ""), name)
        found = layout.manifest("", copied.digest)
        assert found is not None
        variant = "v8" if name == "arm64" else ""
        members.append((descriptor_of(found[1], found[0]), Platform("linux", name, variant)))
    inner = index_bytes(members)
    layout.put_manifest("", hexdigest(inner), inner, INDEX_TYPE)
    outer = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [descriptor_of(INDEX_TYPE, inner).as_dict()]}
    layout.put_manifest("", "nested", json.dumps(outer).encode(), INDEX_TYPE)
    layout.put_manifest("", "all", inner, INDEX_TYPE)
    return f"oci:{tmp_path}/several:all"


@pytest.mark.parametrize("tag", ["all", "nested"])
def test_a_source_offers_all_platforms(tmp_path: Path, server: LocalRegistry, tag: str) -> None:
    text = platforms(tmp_path).replace(":all", f":{tag}")
    copy(text, f"docker://{server.host}/platforms:{tag}")
    for source in (text, f"docker://{server.host}/platforms:{tag}"):
        with open_platforms(source) as found:
            assert [str(platform) for platform, _ in found] == ["linux/amd64", "linux/arm64/v8", "linux/s390x"]
            assert all(len(list(image.layers[1].read())) for _, image in found)
        assert layers_of(source) == [LOWER, UPPER + b"amd64"]
        assert layers_of(source, Platform("linux", "arm64")) == [LOWER, UPPER + b"arm64"]
        assert layers_of(source, Platform("linux", "s390x")) == [LOWER, UPPER + b"s390x"]
        refused(UsageError, "source-not-found", lambda source=source: layers_of(source, Platform("linux", "riscv64")))  # type: ignore[misc]


def test_one_platform_of_many_by_command(tmp_path: Path) -> None:
    copy(platforms(tmp_path), f"docker-archive:{tmp_path}/one.tar:x:1", platform="linux/arm64")
    assert layers_of(f"docker-archive:{tmp_path}/one.tar") == [LOWER, UPPER + b"arm64"]


def test_one_image_is_a_choice_of_one(layout: Path, tmp_path: Path) -> None:
    copy(f"oci:{layout}", f"docker-archive:{tmp_path}/c.tar")
    for text in (f"oci:{layout}", f"docker-archive:{tmp_path}/c.tar"):
        with open_platforms(text) as found:
            assert [platform for platform, _ in found] == [Platform("linux", "amd64")]


def test_platforms_without_end(tmp_path: Path) -> None:
    platforms(tmp_path)
    layout = Layout(tmp_path / "several")
    found = layout.manifest("", "nested")
    assert found is not None
    for depth in range(3):
        outer = index_bytes([(descriptor_of(INDEX_TYPE, found[0]), Platform())])
        layout.put_manifest("", f"deep{depth}", outer, INDEX_TYPE)
        found = (outer, INDEX_TYPE)

    def offered(tag: str) -> None:
        with open_platforms(f"oci:{tmp_path}/several:{tag}"):
            pass

    refused(MalformedError, "image-malformed", lambda: offered("deep1"))
    inner = layout.manifest("", "all")
    assert inner is not None
    layout.put_manifest("", "many", index_bytes([(descriptor_of(INDEX_TYPE, inner[0]), Platform())] * 30), INDEX_TYPE)
    refused(MalformedError, "image-malformed", lambda: offered("many"))
    layout.put_manifest("", "none", index_bytes([]), INDEX_TYPE)
    refused(UsageError, "source-not-found", lambda: offered("none"))


# Podman and Docker


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Podman with a storage of its own; also under the name of docker, whose commands it knows."""
    program = shutil.which("podman")
    if program is None:
        pytest.skip("SKIPPED LOUDLY: no podman here; its storage as source and destination is untested")
    for name in ("root", "run"):
        (tmp_path / "storage" / name).mkdir(parents=True)
    config = tmp_path / "storage" / "storage.conf"
    config.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/storage/root"\nrunroot = "{tmp_path}/storage/run"\n'
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").symlink_to(program)
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(config))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return program


def test_podman_and_docker_storage(podman: str, layout: Path, tmp_path: Path) -> None:
    for kind, name in (("containers-storage", "localhost/kokon-a:1"), ("docker-daemon", "localhost/kokon-b:2")):
        copy(f"oci:{layout}", f"{kind}:{name}")
        subprocess.run([podman, "image", "exists", name], check=True)
        assert layers_of(f"{kind}:{name}") == [LOWER, UPPER]
        copy(f"{kind}:{name}", f"oci:{tmp_path}/{kind}:x")
        assert layers_of(f"oci:{tmp_path}/{kind}") == [LOWER, UPPER]
    error = refused(HostError, "storage-tool-failed", lambda: layers_of("containers-storage:localhost/none:1"))
    assert "none" in (error.found or "")


def test_no_tool_and_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(HostError, "storage-tool-missing", lambda: save("docker-daemon", "x", tmp_path / "x"))
    for name in ("", "-v", "--output=x", "a b", "a\nb", "a;b"):
        refused(UsageError, "reference-malformed", lambda name=name: check_name(name))  # type: ignore[misc]


def test_archives_that_are_cut_or_strange(layout: Path, tmp_path: Path) -> None:
    copy(f"oci:{layout}", f"oci-archive:{tmp_path}/a.tar")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:3000])
    with pytest.raises(KokonError):
        destination(f"oci:{tmp_path}/x", f"oci-archive:{tmp_path}/cut.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        names = archive.getnames()
    assert names == sorted(names)
    assert {"index.json", "oci-layout"} < set(names)


# Mirrors


def test_mirrors_are_asked_first(layout: Path, server: LocalRegistry) -> None:
    copy(f"oci:{layout}", f"docker://{server.host}/cache/app:1")
    reference = parse_reference("localhost:9/app:1")
    with open_registry(reference, mirrors={"localhost:9": ("127.0.0.1:1", f"{server.host}/cache")}) as found:
        data = found.manifest("app", "1")
        assert data is not None
        layer = json.loads(data[0])["layers"][0]
        assert hexdigest(b"".join(found.blob("app", layer["digest"], layer["size"]))) == layer["digest"]


def test_a_mirror_that_lacks_or_refuses_is_passed_over(layout: Path, server: LocalRegistry) -> None:
    copy(f"oci:{layout}", f"docker://{server.host}/mirrored:1")
    for says in (Says(404), Says(403)):
        with CrookedServer(lambda _, says=says: says) as mirror:
            mirrors = {server.host: (f"127.0.0.1:{mirror.port}",)}
            with open_registry(parse_reference(f"{server.host}/mirrored:1"), mirrors=mirrors) as found:
                data = found.manifest("mirrored", "1")
                assert data is not None
                layer = json.loads(data[0])["layers"][0]
                assert found.has_blob("mirrored", layer["digest"])
                if says.status == 403:
                    assert b"".join(found.blob("mirrored", layer["digest"], layer["size"]))
            assert len(mirror.seen) == (1 if says.status == 404 else 2)


def test_a_mirror_that_lies_is_caught(layout: Path, server: LocalRegistry) -> None:
    copy(f"oci:{layout}", f"docker://{server.host}/mirrored:1")
    with CrookedServer(lambda _: Says(200, b"lie")) as mirror, Registry(server.url) as registry:
        digest = hexdigest((registry.manifest("mirrored", "1") or (b"", ""))[0])
        mirrors = {server.host: (f"127.0.0.1:{mirror.port}",)}
        with open_registry(parse_reference(f"{server.host}/mirrored:1"), mirrors=mirrors) as found:
            refused(UntrustedError, "image-digest-mismatch", lambda: found.manifest("mirrored", digest))


def test_the_setting_for_mirrors(layout: Path, server: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_mirrors("") == {}
    assert parse_mirrors("a.b=c:5/x/y, a.b=d,e:1=f") == {"a.b": ("c:5/x/y", "d"), "e:1": ("f",)}
    for text in ("a", "a=", "=b", "a=b c", "a=https://b", "a/b=c", ",".join(["a=b"] * 9)):
        refused(UsageError, "mirror-malformed", lambda text=text: parse_mirrors(text))  # type: ignore[misc]
    copy(f"oci:{layout}", f"docker://{server.host}/setting:1")
    monkeypatch.setenv("KOKON_REGISTRY_MIRRORS", f"nowhere.invalid={server.host}")
    assert layers_of("docker://nowhere.invalid/setting:1") == [LOWER, UPPER]
