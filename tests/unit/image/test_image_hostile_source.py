"""Sources that are not what they say: sealing one ends with a code, and nothing of it can be seen in the registry."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kokon.errors import KokonError, MalformedError, UntrustedError, UsageError
from kokon.image.manifest import INDEX_TYPE
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry
from kokon.image.seal import seal
from kokon.image.source import open_source
from kokon.jose.jwe import public_jwk
from support.hostile import END, header, raw_member
from support.images import LAYER, digest_of, write_layout
from support.registry import LocalRegistry
from support.sealed import AUTHOR, CLAIMS, LOWER, OWNER, UPPER


class Layout:
    """An OCI layout that a test spoils. Documents are found anew by their digests, so that only the lie is wrong."""

    def __init__(self, directory: Path, **options: Any) -> None:
        write_layout(directory, [LOWER, UPPER], **options)
        self.directory = directory
        self.blobs = directory / "blobs/sha256"

    def blob(self, digest: str) -> Path:
        return self.blobs / digest.removeprefix("sha256:")

    def index(self) -> dict[str, Any]:
        return dict(json.loads((self.directory / "index.json").read_text()))

    def manifest(self) -> dict[str, Any]:
        return dict(json.loads(self.blob(self.index()["manifests"][0]["digest"]).read_text()))

    def layers(self) -> list[Path]:
        return [self.blob(layer["digest"]) for layer in self.manifest()["layers"]]

    def put(self, data: bytes) -> dict[str, Any]:
        self.blob(digest_of(data)).write_bytes(data)
        return {"digest": digest_of(data), "size": len(data)}

    def edit_index(self, **changes: Any) -> None:
        (self.directory / "index.json").write_text(json.dumps({**self.index(), **changes}))

    def edit_entry(self, **changes: Any) -> None:
        self.edit_index(manifests=[{**self.index()["manifests"][0], **changes}])

    def edit_manifest(self, **changes: Any) -> None:
        self.edit_entry(**self.put(json.dumps({**self.manifest(), **changes}).encode()))

    def edit_layer(self, **changes: Any) -> None:
        first, *others = self.manifest()["layers"]
        self.edit_manifest(layers=[{**first, **changes}, *others])


def truncated(layout: Layout) -> None:
    path = layout.layers()[1]
    path.write_bytes(path.read_bytes()[:-1])


def emptied(layout: Layout) -> None:
    layout.layers()[0].write_bytes(b"")


def lengthened(layout: Layout) -> None:
    path = layout.layers()[0]
    path.write_bytes(path.read_bytes() + b"x")


def exchanged(layout: Layout) -> None:
    one, other = layout.layers()
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def reordered(layout: Layout) -> None:
    layout.edit_manifest(layers=layout.manifest()["layers"][::-1])


def size_that_lies(layout: Layout) -> None:
    layout.edit_layer(size=layout.manifest()["layers"][0]["size"] + 1)


def negative_size(layout: Layout) -> None:
    layout.edit_layer(size=-1)


def digest_of_nothing(layout: Layout) -> None:
    layout.edit_layer(digest="sha256:" + "0" * 64)


def digest_with_a_way_out(layout: Layout) -> None:
    layout.edit_layer(digest="sha256:../../../../etc/passwd")


def other_algorithm(layout: Layout) -> None:
    layout.edit_layer(digest="sha512:" + "0" * 128)


def gzip_that_is_called_plain(layout: Layout) -> None:
    layout.edit_layer(mediaType=LAYER)


def rubbish_behind_gzip(layout: Layout) -> None:
    packed = gzip.compress(LOWER, mtime=0) + b"rubbish"
    layout.edit_layer(**layout.put(packed))


def plain_that_is_called_gzip(layout: Layout) -> None:
    layout.edit_layer(**layout.put(LOWER))


def ten_thousand_layers(layout: Layout) -> None:
    layout.edit_manifest(layers=layout.manifest()["layers"][:1] * 10_000)


def manifest_of_a_hundred_megabytes(layout: Layout) -> None:
    layout.edit_manifest(annotations={"x": "x" * (100 << 20)})


def the_same_with_a_small_size(layout: Layout) -> None:
    manifest_of_a_hundred_megabytes(layout)
    layout.edit_entry(size=500)


def index_of_twenty_megabytes(layout: Layout) -> None:
    layout.edit_index(annotations={"x": "x" * (20 << 20)})


def index_within_itself(layout: Layout) -> None:
    """A document cannot hold its own digest; one that says so is not what it says."""
    entry = {"mediaType": INDEX_TYPE, "digest": "sha256:" + "a" * 64, "size": 300}
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}).encode()
    layout.blob(entry["digest"]).write_bytes(data)  # type: ignore[arg-type]
    layout.edit_entry(**{**entry, "size": len(data)})


def indexes_in_a_long_row(layout: Layout) -> None:
    entry = layout.index()["manifests"][0]
    for _ in range(40):
        data = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}).encode()
        entry = {"mediaType": INDEX_TYPE, **layout.put(data)}
    layout.edit_index(manifests=[entry])


def manifest_called_index(layout: Layout) -> None:
    layout.edit_entry(mediaType=INDEX_TYPE)


def manifest_and_index_at_once(layout: Layout) -> None:
    layout.edit_manifest(manifests=layout.index()["manifests"], mediaType=None)


def a_name_twice(layout: Layout) -> None:
    data = json.dumps(layout.manifest()).encode()
    layout.edit_entry(**layout.put(data[:-1] + b',"layers":[]}'))


def deep_nesting(layout: Layout) -> None:
    layout.edit_manifest(annotations=json.loads('{"a":' * 60 + "1" + "}" * 60))


def more_diff_ids_than_layers(layout: Layout) -> None:
    layout.edit_manifest(layers=layout.manifest()["layers"][:1])


def pipe_for_a_layer(layout: Layout) -> None:
    path = layout.layers()[0]
    path.unlink()
    os.mkfifo(path)


def directory_for_a_layer(layout: Layout) -> None:
    path = layout.layers()[0]
    path.unlink()
    path.mkdir()


CASES: list[tuple[Callable[[Layout], None], type[KokonError], str]] = [
    (truncated, UntrustedError, "blob-digest-mismatch"),
    (emptied, UntrustedError, "blob-digest-mismatch"),
    (lengthened, UntrustedError, "blob-digest-mismatch"),
    (exchanged, UntrustedError, "blob-digest-mismatch"),
    (reordered, UntrustedError, "layer-diff-id-mismatch"),
    (size_that_lies, UntrustedError, "blob-digest-mismatch"),
    (negative_size, MalformedError, "field-range"),
    (digest_of_nothing, UsageError, "image-unreadable"),
    (digest_with_a_way_out, MalformedError, "digest-malformed"),
    (other_algorithm, MalformedError, "digest-malformed"),
    (gzip_that_is_called_plain, UntrustedError, "layer-diff-id-mismatch"),
    (rubbish_behind_gzip, MalformedError, "layer-gzip-malformed"),
    (plain_that_is_called_gzip, MalformedError, "layer-gzip-malformed"),
    (ten_thousand_layers, MalformedError, "field-too-long"),
    (manifest_of_a_hundred_megabytes, MalformedError, "image-malformed"),
    (the_same_with_a_small_size, UntrustedError, "blob-digest-mismatch"),
    (index_of_twenty_megabytes, MalformedError, "image-malformed"),
    (index_within_itself, UntrustedError, "blob-digest-mismatch"),
    (indexes_in_a_long_row, MalformedError, "image-malformed"),
    (manifest_called_index, MalformedError, "manifest-malformed"),
    (manifest_and_index_at_once, MalformedError, "manifest-malformed"),
    (a_name_twice, MalformedError, "json-malformed"),
    (deep_nesting, MalformedError, "json-malformed"),
    (more_diff_ids_than_layers, MalformedError, "image-malformed"),
    (pipe_for_a_layer, UsageError, "image-unreadable"),
    (directory_for_a_layer, UsageError, "image-unreadable"),
]


@pytest.mark.parametrize(("spoil", "kind", "code"), CASES, ids=[case[0].__name__.replace("_", "-") for case in CASES])
def test_nothing_of_a_bad_source_is_published(
    server: LocalRegistry,
    registry: Registry,
    tmp_path: Path,
    spoil: Callable[[Layout], None],
    kind: type[KokonError],
    code: str,
) -> None:
    layout = Layout(tmp_path / "layout")
    spoil(layout)
    name = "bad/" + spoil.__name__.replace("_", "-")
    before = sorted(tmp_path.rglob("*"))
    tracemalloc.start()
    with pytest.raises(kind) as caught, open_source(f"oci:{tmp_path}/layout") as source:
        seal(source, registry, parse_reference(f"{server.host}/{name}:1"), AUTHOR, public_jwk(OWNER), CLAIMS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == code
    assert peak < 40 << 20
    assert registry.manifest(name, "1") is None
    manifests = server.directory / "storage/docker/registry/v2/repositories" / name / "_manifests"
    assert not list(manifests.rglob("link"))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_layout_is_good_before_it_is_spoilt(server: LocalRegistry, registry: Registry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.edit_manifest(annotations={"a": "b"})
    with open_source(f"oci:{tmp_path}/layout") as source:
        seal(source, registry, parse_reference(f"{server.host}/bad/none:1"), AUTHOR, public_jwk(OWNER), CLAIMS)
    assert registry.manifest("bad/none", "1") is not None


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_an_archive_that_is_a_bomb(tmp_path: Path, kind: str) -> None:
    """100 KB that hold an extended header of 100 MB, which the standard library reads whole."""
    bomb = header(b"p", b"x", size=b"%o" % (100 << 20)) + bytes(100 << 20) + raw_member(b"index.json") + END
    (tmp_path / "i.tar").write_bytes(gzip.compress(bomb, 1))
    del bomb
    tracemalloc.start()
    with pytest.raises(MalformedError) as caught, open_source(f"{kind}:{tmp_path}/i.tar"):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == "image-malformed"
    assert peak < 20 << 20
