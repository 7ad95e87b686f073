"""Hostile layers on the whole way: an author's key signed them, the guest unseals them, and nothing of them stays."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from kokon.errors import KokonError
from kokon.image.fetch import Fetcher
from kokon.image.kek import open_kek
from kokon.image.open import pull_image, unseal_layers
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry
from kokon.image.seal import seal
from kokon.image.source import open_source
from kokon.image.unpack import Limits
from kokon.jose.jwe import public_jwk
from support.hostile import END, pax, raw_member
from support.images import write_layout
from support.registry import LocalRegistry
from support.sealed import AUTHOR, CLAIMS, LOWER, NOW, OWNER, SealedFixture

LAYERS = [
    ("way-out", raw_member(b"../../outside/file", b"evil"), "layer-entry-unsafe"),
    ("link-out", raw_member(b"h", b"", b"1", link=b"../outside/file"), "layer-entry-unsafe"),
    ("device", raw_member(b"dev/sda", b"", b"4"), "layer-entry-refused"),
    ("whiteout-of-the-root", raw_member(b".wh..", b""), "layer-entry-unsafe"),
    ("negative-size", raw_member(b"a", b"", size=b"\xff" * 12), "layer-tar-malformed"),
    ("keyword-twice", pax((b"path", b"b"), (b"path", b"c")) + raw_member(b"a"), "layer-tar-malformed"),
    ("sparse", raw_member(b"a", b"", b"S"), "layer-entry-refused"),
    ("attribute", pax((b"SCHILY.xattr.user.a\0b", b"x")) + raw_member(b"a"), "layer-entry-unsafe"),
    ("bomb", raw_member(b"zeros", bytes(8 << 20)), "layer-too-large"),
    ("entries", b"".join(raw_member(b"f%d" % number) for number in range(400)), "layer-too-large"),
]
LIMITS = Limits(entries=300, free=4 << 20, ratio=100)


def sealed(server: LocalRegistry, registry: Registry, layout: Path) -> SealedFixture:
    reference = parse_reference(f"{server.host}/hostile:1")
    with open_source(f"oci:{layout}") as source:
        return SealedFixture(
            server, registry, reference, seal(source, registry, reference, AUTHOR, public_jwk(OWNER), CLAIMS)
        )


def unseal(fixture: SealedFixture, top: Path, limits: Limits | None = None) -> None:
    image = fixture.image()
    (top / "blobs").mkdir()
    with Fetcher(image.registry, image.repository) as fetcher:
        pulled = pull_image(image, fetcher, top / "blobs", now=NOW)
    kek = fixture.sealed.statement.kek
    unseal_layers(pulled, {kek.kid: open_kek(kek.jwe, image.author, OWNER)}, top / "root", limits=limits)


@pytest.mark.parametrize(("hostile", "code"), [case[1:] for case in LAYERS], ids=[case[0] for case in LAYERS])
def test_a_hostile_layer_leaves_nothing(
    server: LocalRegistry, registry: Registry, tmp_path: Path, hostile: bytes, code: str
) -> None:
    layout, top = tmp_path / "layout", tmp_path / "top"
    write_layout(layout, [LOWER, raw_member(b"first", b"x") + hostile + END])
    (top / "outside").mkdir(parents=True)
    (top / "outside/file").write_text("untouched")
    with pytest.raises(KokonError) as caught:
        unseal(sealed(server, registry, layout), top, LIMITS)
    assert caught.value.code == code
    assert {path.name for path in top.iterdir()} == {"outside", "blobs"}
    assert (top / "outside/file").read_text() == "untouched"
    assert {path.name for path in (top / "outside").iterdir()} == {"file"}


def test_rubbish_behind_the_gzip_of_a_sealed_layer(
    server: LocalRegistry, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own sealing refuses to make it; another author's tool may not."""
    write_layout(tmp_path / "layout", [LOWER])
    packed = gzip.compress(LOWER, mtime=0) + b"rubbish"
    monkeypatch.setattr("kokon.image.seal.gzip_layer", lambda *_, **__: iter([packed]))
    (tmp_path / "top").mkdir()
    with pytest.raises(KokonError) as caught:
        unseal(sealed(server, registry, tmp_path / "layout"), tmp_path / "top")
    assert caught.value.code == "layer-gzip-malformed"
    assert {path.name for path in (tmp_path / "top").iterdir()} == {"blobs"}


def test_other_content_than_the_configuration_names(
    server: LocalRegistry, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_layout(tmp_path / "layout", [LOWER])
    other = gzip.compress(raw_member(b"other", b"x") + END, mtime=0)
    monkeypatch.setattr("kokon.image.seal.gzip_layer", lambda *_, **__: iter([other]))
    (tmp_path / "top").mkdir()
    with pytest.raises(KokonError) as caught:
        unseal(sealed(server, registry, tmp_path / "layout"), tmp_path / "top")
    assert caught.value.code == "layer-diff-id-mismatch"
    assert {path.name for path in (tmp_path / "top").iterdir()} == {"blobs"}


def test_the_same_way_with_a_good_layer(server: LocalRegistry, registry: Registry, tmp_path: Path) -> None:
    good = raw_member(b"first", b"x") + END
    layout = tmp_path / "layout"
    write_layout(layout, [LOWER, good])
    (tmp_path / "top").mkdir()
    unseal(sealed(server, registry, layout), tmp_path / "top", LIMITS)
    assert (tmp_path / "top/root/first").read_bytes() == b"x"
