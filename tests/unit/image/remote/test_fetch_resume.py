"""The guest's client goes on with a layer after a cut, whatever the registry makes of Range."""

from __future__ import annotations

from pathlib import Path

import pytest

from kokon.errors import UnreachableError, UntrustedError
from kokon.image.fetch import Fetcher
from kokon.image.registry import hexdigest
from support.crooked import Asked, CrookedServer, Says

DATA = bytes(range(256)) * 10_000
DIGEST = hexdigest(DATA)


def fetched(server: CrookedServer, path: Path) -> bytes:
    with Fetcher(server.url, "a") as fetcher:
        fetcher.blob_to_file(DIGEST, len(DATA), path)
    return path.read_bytes()


def start_of(asked: Asked) -> int:
    return int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


def test_a_layer_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    def script(asked: Asked) -> Says:
        start = start_of(asked)
        headers = {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"}
        return Says(206 if start else 200, DATA[start : start + 1_000_000], headers, length=len(DATA) - start)

    with CrookedServer(script) as server:
        assert fetched(server, tmp_path / "layer") == DATA
    assert [start_of(asked) for asked in server.seen] == [0, 1_000_000, 2_000_000]


@pytest.mark.parametrize("second", [Says(200, DATA), Says(206, DATA, {"Content-Range": "bytes 5-9/10"}), Says(206)])
def test_a_registry_that_takes_ranges_otherwise(tmp_path: Path, second: Says) -> None:
    answers = iter([Says(200, DATA[:1_000_000], length=len(DATA)), second, Says(200, DATA)])
    with CrookedServer(lambda _: next(answers)) as server:
        assert fetched(server, tmp_path / "layer") == DATA


def test_another_rest_is_refused(tmp_path: Path) -> None:
    headers = {"Content-Range": f"bytes 1000000-{len(DATA) - 1}/{len(DATA)}"}
    answers = iter([Says(200, DATA[:1_000_000], length=len(DATA)), Says(206, bytes(len(DATA) - 1_000_000), headers)])
    with CrookedServer(lambda _: next(answers)) as server, pytest.raises(UntrustedError) as caught:
        fetched(server, tmp_path / "layer")
    assert caught.value.code == "layer-digest-mismatch"
    assert not (tmp_path / "layer").exists()


def test_a_registry_that_only_cuts(tmp_path: Path) -> None:
    with CrookedServer(lambda _: Says(200, b"x", length=len(DATA))) as server:
        with pytest.raises(UnreachableError) as caught:
            fetched(server, tmp_path / "layer")
        assert caught.value.code == "registry-unreachable"
        assert len(server.seen) == 3
    assert not (tmp_path / "layer").exists()
