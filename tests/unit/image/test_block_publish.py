"""Block images at a registry: sealed by the author, cached by the host, pulled and opened by the guest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.cli.main import main
from kokon.errors import KokonError, UntrustedError, UsageError
from kokon.image.block.cache import cached_block
from kokon.image.block.format import ARTIFACT_TYPE, BlockInfo, parse_block
from kokon.image.block.keyfile import read_image_key
from kokon.image.block.publish import seal_block
from kokon.image.block.published import verify_published
from kokon.image.ecdsa import public_pem
from kokon.image.fetch import Fetcher
from kokon.image.kek import open_kek
from kokon.image.manifest import parse_manifest
from kokon.image.open import PulledImage, block_key, pull_image
from kokon.image.reference import Reference, parse_reference
from kokon.image.registry import Registry
from kokon.image.seal import Claims, Sealed, seal
from kokon.image.source import open_source
from kokon.jose.jwe import public_jwk
from kokon.launch.document import ImageRef
from support.images import make_tar, write_layout
from support.registry import LocalRegistry

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
KEY = bytes(range(32))
AUTHOR = ec.generate_private_key(ec.SECP256R1())
OWNER = ec.generate_private_key(ec.SECP256R1())
LAYERS = [make_tar([("bin", None), ("bin/app", b"application" * 4000)])]


@dataclass(frozen=True)
class Published:
    registry: Registry
    reference: Reference
    sealed: Sealed
    layout: Path

    @property
    def image(self) -> ImageRef:
        repository = self.reference.repository
        return ImageRef(self.registry.url, repository, self.sealed.digest, public_pem(AUTHOR.public_key()))

    def again(self, repository: str, *, key: bytes | None = KEY, block: bool = True) -> Sealed:
        reference = replace(self.reference, repository=repository)
        claims = Claims(created=NOW, not_after=NOW + timedelta(days=30))
        with open_source(f"oci:{self.layout}") as source:
            if block:
                return seal_block(source, self.registry, reference, AUTHOR, public_jwk(OWNER), claims, key)
            return seal(source, self.registry, reference, AUTHOR, public_jwk(OWNER), claims)

    def pull(self, directory: Path) -> PulledImage:
        with Fetcher(self.image.registry, self.image.repository) as fetcher:
            return pull_image(self.image, fetcher, directory, now=NOW)


@pytest.fixture(scope="module", name="published")
def publish(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    layout = tmp_path_factory.mktemp("source") / "image"
    write_layout(layout, LAYERS)
    with LocalRegistry(tmp_path_factory.mktemp("storage")) as local:
        reference = parse_reference(f"{local.host}/blocks:1")
        with Registry(reference.registry) as registry:
            empty = Published(registry, reference, None, layout)  # type: ignore[arg-type]
            yield replace(empty, sealed=empty.again("blocks"))


def info_of(published: Published) -> BlockInfo:
    found = published.registry.manifest("blocks", published.sealed.digest)
    assert found is not None
    return parse_block(parse_manifest(found[0]))[1]


def test_a_guest_gets_papers_and_key_but_no_layer(published: Published, tmp_path: Path) -> None:
    pulled = published.pull(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (pulled.layers, pulled.config.command) == ((), ("/bin/app",))
    assert pulled.block is not None
    assert pulled.block.info == info_of(published)
    (kid,) = pulled.kek_ids()
    kek = open_kek(published.sealed.statement.kek.jwe, published.image.author, OWNER)
    assert block_key(pulled, {kid: kek}) == KEY
    for keys, code in (({}, "kek-missing"), ({kid: bytes(32)}, "kek-wrong")):
        with pytest.raises(UntrustedError) as caught:
            block_key(pulled, keys)
        assert caught.value.code == code


def test_an_image_of_layers_has_no_block(published: Published, tmp_path: Path) -> None:
    sealed = published.again("layers", block=False)
    image = replace(published.image, repository="layers", digest=sealed.digest)
    with Fetcher(image.registry, image.repository) as fetcher:
        pulled = pull_image(image, fetcher, tmp_path, now=NOW)
    assert (pulled.block, len(pulled.layers)) == (None, 1)
    with pytest.raises(KokonError) as caught:
        block_key(pulled, {})
    assert caught.value.code == "block-malformed"
    assert cached_block(image, tmp_path / "cache") is None
    assert not (tmp_path / "cache").exists()


def test_the_signed_manifest_covers_the_root_digest(published: Published) -> None:
    found = published.registry.manifest("blocks", published.sealed.digest)
    assert found is not None
    document = json.loads(found[0])
    assert document["artifactType"] == ARTIFACT_TYPE
    assert published.sealed.statement.layers == (document["layers"][0]["digest"],)
    assert document["layers"][0]["annotations"]["dev.kokon.block.root"] == info_of(published).root.hex()


def test_the_same_key_gives_the_same_blob_and_another_one_another(published: Published) -> None:
    first = published.sealed.statement.layers
    assert published.again("again").statement.layers == first
    assert published.again("fresh", key=None).statement.layers != first


def test_a_tag_is_needed(published: Published) -> None:
    reference = published.reference.with_digest(published.sealed.digest)
    claims = Claims(created=NOW, not_after=NOW + timedelta(days=30))
    with open_source(f"oci:{published.layout}") as source, pytest.raises(UsageError) as caught:
        seal_block(source, published.registry, reference, AUTHOR, public_jwk(OWNER), claims)
    assert caught.value.code == "destination-digest"


def test_the_host_fetches_the_ciphertext_once(published: Published, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    file = cached_block(published.image, cache)
    assert file is not None
    assert "sha256:" + file.name == published.sealed.statement.layers[0]
    assert (file.stat().st_size, file.stat().st_mode & 0o777) == (info_of(published).size, 0o400)
    before = file.stat()
    assert cached_block(published.image, cache) == file
    assert file.stat() == before
    file.chmod(0o600)
    file.write_bytes(b"short")
    assert cached_block(published.image, cache) == file
    assert file.stat().st_size == before.st_size


def test_a_registry_that_does_not_answer_leaves_it_to_the_guest(published: Published, tmp_path: Path) -> None:
    unknown = replace(published.image, digest="sha256:" + "0" * 64)
    assert cached_block(unknown, tmp_path) is None
    assert cached_block(replace(published.image, registry="http://127.0.0.1:1"), tmp_path) is None


def test_a_cache_that_cannot_be_written_is_an_error_of_the_host(published: Published, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KokonError) as caught:
        cached_block(published.image, tmp_path / "file")
    assert caught.value.code == "disk-failed"


def test_a_published_image_is_verified(published: Published) -> None:
    digest, info = verify_published(published.registry, published.reference, KEY)
    assert (digest, info) == (published.sealed.digest, info_of(published))
    with pytest.raises(UntrustedError) as caught:
        verify_published(published.registry, published.reference, bytes(32))
    assert caught.value.code == "block-mismatch"
    with pytest.raises(UsageError) as missing:
        verify_published(published.registry, replace(published.reference, repository="none"), KEY)
    assert missing.value.code == "source-not-found"


def test_a_key_file_has_32_bytes(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    assert read_image_key(tmp_path / "key") == KEY
    for size in (0, 31, 33):
        (tmp_path / "key").write_bytes(bytes(size))
        with pytest.raises(UsageError) as caught:
            read_image_key(tmp_path / "key")
        assert caught.value.code == "image-key-unusable"
    with pytest.raises(UsageError):
        read_image_key(tmp_path / "none")


def test_the_command_verifies(published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_bytes(KEY)
    words = ["block", "verify", str(published.reference), "--image-key", str(tmp_path / "key"), "--json"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["digest"], said["root"]) == (published.sealed.digest, info_of(published).root.hex())
    (tmp_path / "key").write_bytes(bytes(32))
    assert main(words) == 4
    assert "block-mismatch" in capsys.readouterr().err
