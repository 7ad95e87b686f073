"""The whole way of an image: sealed, pushed to a real registry, pulled and opened as the guest does; attacks on it."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.errors import HostError, KokonError, MalformedError, StaleError, UnreachableError, UntrustedError
from kokon.image.dsse import ENVELOPE_TYPE, IN_TOTO_TYPE, sign_envelope
from kokon.image.fetch import Fetcher
from kokon.image.kek import open_kek
from kokon.image.layer import AGENT_ANNOTATION, PUBLIC_ANNOTATION
from kokon.image.manifest import MANIFEST_TYPE, Descriptor, parse_manifest
from kokon.image.open import PulledImage, pull_image, unseal_layers
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry, descriptor_of, fallback_tag, manifest_bytes
from kokon.image.seal import seal
from kokon.image.sign import push_signature
from kokon.image.signature import signature_tag
from kokon.image.source import open_source
from kokon.image.statement import encode_statement
from kokon.image.unpack import Limits
from kokon.jose.jwe import public_jwk
from support.registry import LocalRegistry
from support.sealed import AUTHOR, CLAIMS, NOW, OWNER, SealedFixture

STRANGER = ec.generate_private_key(ec.SECP256R1())


def pull(fixture: SealedFixture, directory: Path, **changes: object) -> PulledImage:
    directory.mkdir(exist_ok=True)
    image = fixture.image(**changes)  # type: ignore[arg-type]
    with Fetcher(image.registry, image.repository) as fetcher:
        return pull_image(image, fetcher, directory, now=NOW)


def keks(fixture: SealedFixture) -> dict[str, bytes]:
    kek = fixture.sealed.statement.kek
    return {kek.kid: open_kek(kek.jwe, fixture.image().author, OWNER)}


def refused(kind: type[KokonError], code: str, action: Callable[[], object]) -> KokonError:
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.code == code
    return caught.value


def test_sealed_image_opens_to_the_same_files(fixture: SealedFixture, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pulled = pull(fixture, tmp_path / "blobs")
    assert pulled.kek_ids() == (fixture.sealed.statement.kek.kid,)
    assert pulled.config.command == ("/bin/app",)
    assert pulled.statement == fixture.sealed.statement
    assert json.loads(pulled.envelope) == fixture.sealed.envelope.as_dict()
    unseal_layers(pulled, keks(fixture), tmp_path / "root", lambda done, total: seen.append((done, total)))
    assert (tmp_path / "root/bin/app").read_bytes().startswith(b"#!/bin/sh\ncanary-program")
    assert (tmp_path / "root/data/records").read_bytes() == b"canary-data " * 9000
    assert (tmp_path / "root/bin/sh").readlink() == Path("app")
    assert not (tmp_path / "root/etc/old").exists()
    assert seen[-1][0] == seen[-1][1]
    assert not list((tmp_path / "blobs").iterdir())


def test_registry_holds_no_plaintext(layout: Path, tmp_path: Path) -> None:
    """In a registry of its own: other tests push what is not sealed."""
    with LocalRegistry(tmp_path / "registry") as server:
        with open_source(f"oci:{layout}") as source, Registry(server.url) as registry:
            reference = parse_reference(f"{server.host}/clinic:1")
            seal(source, registry, reference, AUTHOR, public_jwk(OWNER), CLAIMS)
        contents = [path.read_bytes() for path in (server.directory / "storage").rglob("data")]
    assert len(contents) > 4
    for content in contents:
        assert b"canary" not in content
        assert b"secret build step" not in content


def test_pull_reports_progress_and_follows_the_resolver(fixture: SealedFixture, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    image = replace(fixture.image(), registry="http://registry.invalid:5000")

    def resolve(host: str, port: int) -> tuple[str, int]:
        assert (host, port) == ("registry.invalid", 5000)
        return "127.0.0.1", fixture.server.port

    with Fetcher(image.registry, image.repository, resolve=resolve) as fetcher:
        pull_image(image, fetcher, tmp_path, lambda done, total: seen.append((done, total)), now=NOW)
    total = sum(layer.size for layer in manifest_of(fixture).layers)
    assert seen[-1] == (total, total)


def manifest_of(fixture: SealedFixture):  # type: ignore[no-untyped-def]
    found = fixture.registry.manifest("clinic", fixture.sealed.digest)
    assert found is not None
    return parse_manifest(found[0])


def flip(path: Path, offset: int = 20) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def test_one_byte_of_a_layer_changed_at_the_registry(fixture: SealedFixture, tmp_path: Path) -> None:
    flip(fixture.server.blob_path(manifest_of(fixture).layers[0].digest))
    refused(UntrustedError, "layer-digest-mismatch", lambda: pull(fixture, tmp_path / "b"))
    assert not list((tmp_path / "b").iterdir())


def test_layer_cut_short_or_gone(fixture: SealedFixture, tmp_path: Path) -> None:
    path = fixture.server.blob_path(manifest_of(fixture).layers[1].digest)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(UntrustedError, "layer-digest-mismatch", lambda: pull(fixture, tmp_path / "b"))
    path.write_bytes(whole + b"x")
    refused(UntrustedError, "layer-digest-mismatch", lambda: pull(fixture, tmp_path / "b"))
    path.unlink()
    refused(UnreachableError, "image-not-found", lambda: pull(fixture, tmp_path / "b"))


def test_config_changed(fixture: SealedFixture, tmp_path: Path) -> None:
    flip(fixture.server.blob_path(manifest_of(fixture).config.digest))
    refused(UntrustedError, "blob-digest-mismatch", lambda: pull(fixture, tmp_path / "b"))


def test_another_author(fixture: SealedFixture, tmp_path: Path) -> None:
    refused(UntrustedError, "image-author-unknown", lambda: pull(fixture, tmp_path / "b", author=STRANGER))


def resealed(fixture: SealedFixture, config: Descriptor, layers: list[Descriptor]) -> Descriptor:
    """Push a manifest that the author did not seal."""
    data = manifest_bytes(config, layers)
    fixture.registry.put_manifest("clinic", descriptor_of(MANIFEST_TYPE, data).digest, data)
    return descriptor_of(MANIFEST_TYPE, data)


def attach(fixture: SealedFixture, image: Descriptor, key: ec.EllipticCurvePrivateKey, **changes: object) -> None:
    statement = replace(fixture.sealed.statement, **{"subject": image.digest, **changes})  # type: ignore[arg-type]
    envelope = json.dumps(sign_envelope(encode_statement(statement), key).as_dict()).encode()
    fixture.registry.attach("clinic", image, IN_TOTO_TYPE, envelope, ENVELOPE_TYPE)


def sign(fixture: SealedFixture, image: Descriptor, key: ec.EllipticCurvePrivateKey = AUTHOR) -> None:
    push_signature(fixture.registry, "clinic", image.digest, "127.0.0.1/clinic", key)


def variant(fixture: SealedFixture) -> Descriptor:
    """A manifest with the sealed image's blobs, one layer less."""
    manifest = manifest_of(fixture)
    return resealed(fixture, manifest.config, list(manifest.layers[:1]))


def test_unsigned_image(fixture: SealedFixture, tmp_path: Path) -> None:
    image = variant(fixture)
    refused(UntrustedError, "image-unsigned", lambda: pull(fixture, tmp_path / "b", digest=image.digest))


def test_signature_of_another_image_under_this_tag(fixture: SealedFixture, tmp_path: Path) -> None:
    image = variant(fixture)
    found = fixture.registry.manifest("clinic", signature_tag(fixture.sealed.digest))
    assert found is not None
    fixture.registry.put_manifest("clinic", signature_tag(image.digest), found[0])
    refused(UntrustedError, "signature-image-mismatch", lambda: pull(fixture, tmp_path / "b", digest=image.digest))


def test_author_signature_counts_beside_a_strangers(fixture: SealedFixture, tmp_path: Path) -> None:
    image = Descriptor(MANIFEST_TYPE, fixture.sealed.digest, 0)
    sign(fixture, image, STRANGER)
    pull(fixture, tmp_path / "author")
    refused(UntrustedError, "statement-author-unknown", lambda: pull(fixture, tmp_path / "b", author=STRANGER))


def test_statement_missing(fixture: SealedFixture, tmp_path: Path) -> None:
    image = variant(fixture)
    sign(fixture, image)
    refused(UntrustedError, "statement-missing", lambda: pull(fixture, tmp_path / "b", digest=image.digest))


@pytest.mark.parametrize(
    ("kind", "code", "changes"),
    [
        (StaleError, "statement-expired", {"not_after": NOW}),
        (UntrustedError, "statement-subject-mismatch", {"subject": "sha256:" + "0" * 64}),
        (UntrustedError, "statement-image-mismatch", {}),
    ],
)
def test_statement_does_not_fit(
    fixture: SealedFixture,
    tmp_path: Path,
    kind: type[KokonError],
    code: str,
    changes: dict[str, object],
) -> None:
    image = variant(fixture)
    sign(fixture, image)
    attach(fixture, image, AUTHOR, **changes)
    refused(kind, code, lambda: pull(fixture, tmp_path / "b", digest=image.digest))


def test_newest_good_statement_wins(fixture: SealedFixture, tmp_path: Path) -> None:
    manifest = fixture.registry.manifest("clinic", fixture.sealed.digest)
    assert manifest is not None
    image = descriptor_of(MANIFEST_TYPE, manifest[0])
    attach(fixture, image, AUTHOR, created=NOW + timedelta(days=1), author="newer")
    attach(fixture, image, STRANGER, created=NOW + timedelta(days=2), author="stranger")
    attach(fixture, image, AUTHOR, created=NOW + timedelta(days=3), not_after=NOW, author="expired")
    assert pull(fixture, tmp_path / "b").statement.author == "newer"


def test_statement_manifest_without_envelope(fixture: SealedFixture, tmp_path: Path) -> None:
    image = variant(fixture)
    sign(fixture, image)
    fixture.registry.attach("clinic", image, IN_TOTO_TYPE, b"{}", "text/plain")
    refused(MalformedError, "statement-malformed", lambda: pull(fixture, tmp_path / "b", digest=image.digest))


def relabelled(fixture: SealedFixture, **changes: object) -> str:
    """The sealed image, signed and stated by the author, with a first layer whose descriptor differs."""
    manifest = manifest_of(fixture)
    first = replace(manifest.layers[0], **changes)  # type: ignore[arg-type]
    image = resealed(fixture, manifest.config, [first, *manifest.layers[1:]])
    sign(fixture, image)
    attach(fixture, image, AUTHOR)
    return image.digest


def test_layer_not_encrypted_or_for_another_key(fixture: SealedFixture, tmp_path: Path) -> None:
    plain = relabelled(fixture, media_type="application/vnd.oci.image.layer.v1.tar+gzip")
    refused(UntrustedError, "layer-not-encrypted", lambda: pull(fixture, tmp_path / "b", digest=plain))
    annotations = dict(manifest_of(fixture).layers[0].annotations)
    del annotations[AGENT_ANNOTATION]
    keyless = relabelled(fixture, annotations=annotations)
    refused(UntrustedError, "layer-key-missing", lambda: pull(fixture, tmp_path / "b", digest=keyless))


def test_fewer_diff_ids_than_layers(fixture: SealedFixture, tmp_path: Path) -> None:
    manifest = manifest_of(fixture)
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    fixture.registry.upload_bytes("clinic", config)
    image = resealed(fixture, descriptor_of(manifest.config.media_type, config), list(manifest.layers))
    sign(fixture, image)
    attach(fixture, image, AUTHOR, config=descriptor_of("", config).digest)
    refused(MalformedError, "image-malformed", lambda: pull(fixture, tmp_path / "b", digest=image.digest))


def test_unknown_digest(fixture: SealedFixture, tmp_path: Path) -> None:
    absent = "sha256:" + "1" * 64
    refused(UnreachableError, "image-not-found", lambda: pull(fixture, tmp_path / "b", digest=absent))


def test_wrong_and_missing_keys(fixture: SealedFixture, tmp_path: Path) -> None:
    pulled = pull(fixture, tmp_path / "b")
    kid = pulled.kek_ids()[0]
    refused(UntrustedError, "kek-missing", lambda: unseal_layers(pulled, {}, tmp_path / "root"))
    refused(UntrustedError, "kek-wrong", lambda: unseal_layers(pulled, {kid: bytes(32)}, tmp_path / "root"))
    refused(MalformedError, "size-mismatch", lambda: unseal_layers(pulled, {kid: b"short"}, tmp_path / "root"))
    assert not (tmp_path / "root").exists()
    assert not (tmp_path / "root.partial").exists()


def test_ciphertext_changed_after_the_pull(fixture: SealedFixture, tmp_path: Path) -> None:
    pulled = pull(fixture, tmp_path / "b")
    flip(pulled.layers[1].path)
    refused(
        UntrustedError,
        "layer-hmac-mismatch",
        lambda: unseal_layers(pulled, keks(fixture), tmp_path / "root"),
    )
    assert not (tmp_path / "root").exists()
    assert not (tmp_path / "root.partial").exists()


def test_content_is_held_to_the_diff_id(fixture: SealedFixture, tmp_path: Path) -> None:
    pulled = pull(fixture, tmp_path / "b")
    layer = replace(pulled.layers[0], diff_id="sha256:" + "2" * 64)
    pulled = replace(pulled, layers=(layer, *pulled.layers[1:]))
    refused(
        UntrustedError,
        "layer-diff-id-mismatch",
        lambda: unseal_layers(pulled, keks(fixture), tmp_path / "root"),
    )
    assert not (tmp_path / "root").exists()


def test_bounds_and_full_disks(fixture: SealedFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pulled = pull(fixture, tmp_path / "b")
    few = Limits(entries=2)
    refused(
        MalformedError,
        "layer-too-large",
        lambda: unseal_layers(pulled, keks(fixture), tmp_path / "root", limits=few),
    )

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        refused(HostError, "disk-full", lambda: unseal_layers(pulled, keks(fixture), tmp_path / "root"))
    assert not (tmp_path / "root.partial").exists()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/kept").touch()
    refused(HostError, "disk-failed", lambda: unseal_layers(pulled, keks(fixture), tmp_path / "other/root"))


def test_really_full_disk_while_pulling(fixture: SealedFixture, tmp_path: Path) -> None:
    """Ciphertext goes to a file system that has no room: /dev/full says so as a disk would."""
    image = fixture.image()
    layer = manifest_of(fixture).layers[0]
    with Fetcher(image.registry, image.repository) as fetcher:
        link = tmp_path / "layer"
        link.symlink_to("/dev/full")
        refused(HostError, "disk-full", lambda: fetcher.blob_to_file(layer.digest, layer.size, link))


def test_secrets_stay_out_of_texts(fixture: SealedFixture, tmp_path: Path) -> None:
    pulled = pull(fixture, tmp_path / "b")
    kek = keks(fixture)[pulled.kek_ids()[0]]
    for text in (repr(pulled), repr(fixture.sealed), repr(CLAIMS)):
        assert repr(kek) not in text
        assert kek.hex() not in text


def test_pubopts_of_another_layer(fixture: SealedFixture, tmp_path: Path) -> None:
    layers = manifest_of(fixture).layers
    annotations = {
        **layers[0].annotations,
        PUBLIC_ANNOTATION: layers[1].annotations[PUBLIC_ANNOTATION],
    }
    digest = relabelled(fixture, annotations=annotations)
    pulled = pull(fixture, tmp_path / "b", digest=digest)
    refused(
        UntrustedError,
        "layer-hmac-mismatch",
        lambda: unseal_layers(pulled, keks(fixture), tmp_path / "root"),
    )


def test_opening_imports_nothing_that_only_authors_need() -> None:
    import subprocess

    code = (
        "import sys; import kokon.image.open, kokon.image.fetch; "
        "bad = {'httpx2', 'joserfc', 'rich', 'cyclopts', 'starlette', 'tarfile', 'kokon.image.seal', "
        "'kokon.image.registry', 'kokon.image.encrypt', 'cryptography.x509'} & set(sys.modules); "
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fallback_tag_is_what_the_specification_says() -> None:
    assert fallback_tag("sha256:" + "a" * 64) == "sha256-" + "a" * 64
