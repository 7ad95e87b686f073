"""What encryption alone allows, and the signature does not: layers exchanged, images put in another's place, old ones
put back. The attacker holds the registry and every public key.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.errors import KokonError, UntrustedError
from kokon.image.dsse import ENVELOPE_TYPE, IN_TOTO_TYPE, sign_envelope
from kokon.image.fetch import Fetcher
from kokon.image.kek import open_kek
from kokon.image.manifest import CONFIG_TYPE, MANIFEST_TYPE, Descriptor, Manifest, parse_manifest
from kokon.image.open import PulledImage, pull_image, unseal_layers
from kokon.image.registry import descriptor_of, fallback_tag, manifest_bytes
from kokon.image.seal import Sealed, seal
from kokon.image.sign import push_signature
from kokon.image.signature import signature_tag
from kokon.image.source import open_source
from kokon.image.statement import encode_statement
from kokon.jose.jwe import public_jwk
from support.images import make_tar, write_layout
from support.sealed import AUTHOR, CLAIMS, NOW, OWNER, SealedFixture

STRANGER = ec.generate_private_key(ec.SECP256R1())


def pull(fixture: SealedFixture, directory: Path, digest: str | None = None) -> PulledImage:
    directory.mkdir(exist_ok=True)
    image = fixture.image(digest=digest)
    with Fetcher(image.registry, image.repository) as fetcher:
        return pull_image(image, fetcher, directory, now=NOW)


def refusal(fixture: SealedFixture, directory: Path, digest: str | None = None) -> str:
    """The code that the pull ends with; nothing is left on the disk."""
    with pytest.raises(KokonError) as caught:
        pull(fixture, directory, digest)
    assert not list(directory.iterdir())
    return caught.value.code


def keks(fixture: SealedFixture) -> dict[str, bytes]:
    kek = fixture.sealed.statement.kek
    return {kek.kid: open_kek(kek.jwe, fixture.image().author, OWNER)}


def manifest_of(fixture: SealedFixture, digest: str | None = None) -> Manifest:
    found = fixture.registry.manifest("clinic", digest or fixture.sealed.digest)
    assert found is not None
    return parse_manifest(found[0])


def swapped(fixture: SealedFixture) -> bytes:
    """The sealed image's manifest with its layers exchanged, and a configuration that fits."""
    manifest = manifest_of(fixture)
    config = json.loads(fixture.registry.blob_bytes("clinic", manifest.config, 1 << 20))
    config["rootfs"]["diff_ids"].reverse()
    data = json.dumps(config).encode()
    fixture.registry.upload_bytes("clinic", data)
    return manifest_bytes(descriptor_of(CONFIG_TYPE, data), manifest.layers[::-1])


def push(fixture: SealedFixture, manifest: bytes, signer: ec.EllipticCurvePrivateKey | None) -> Descriptor:
    image = descriptor_of(MANIFEST_TYPE, manifest)
    fixture.registry.put_manifest("clinic", image.digest, manifest)
    if signer is not None:
        push_signature(fixture.registry, "clinic", image.digest, "127.0.0.1/clinic", signer)
    return image


def attach(fixture: SealedFixture, image: Descriptor, signer: ec.EllipticCurvePrivateKey, **changes: object) -> None:
    statement = replace(fixture.sealed.statement, **{"subject": image.digest, **changes})  # type: ignore[arg-type]
    envelope = json.dumps(sign_envelope(encode_statement(statement), signer).as_dict()).encode()
    fixture.registry.attach("clinic", image, IN_TOTO_TYPE, envelope, ENVELOPE_TYPE)


def seal_again(fixture: SealedFixture, layout: Path, signer: ec.EllipticCurvePrivateKey, content: bytes) -> Sealed:
    """Another image sealed to the same owner under the same tag."""
    write_layout(layout, [make_tar([("bin/app", content)])])
    with open_source(f"oci:{layout}") as source:
        return seal(source, fixture.registry, fixture.reference, signer, public_jwk(OWNER), CLAIMS)


def test_encryption_alone_lets_layers_be_exchanged(fixture: SealedFixture, tmp_path: Path) -> None:
    """Both are encrypted to one key and each has its own MAC: opened in the wrong order, the hidden file is back."""
    pulled = pull(fixture, tmp_path / "b")
    unseal_layers(replace(pulled, layers=pulled.layers[::-1]), keks(fixture), tmp_path / "root")
    assert (tmp_path / "root/etc/old").exists()


def test_exchanged_layers_under_the_pinned_digest(fixture: SealedFixture, tmp_path: Path) -> None:
    fixture.server.blob_path(fixture.sealed.digest).write_bytes(swapped(fixture))
    assert refusal(fixture, tmp_path / "b") in ("image-digest-mismatch", "registry-error")


@pytest.mark.parametrize(("signer", "code"), [(None, "image-unsigned"), (STRANGER, "image-author-unknown")])
def test_exchanged_layers_in_an_image_of_its_own(
    fixture: SealedFixture, tmp_path: Path, signer: ec.EllipticCurvePrivateKey | None, code: str
) -> None:
    image = push(fixture, swapped(fixture), signer)
    attach(fixture, image, STRANGER)
    assert refusal(fixture, tmp_path / "b", image.digest) == code


def test_exchanged_layers_with_the_authors_signature_and_statement_copied(
    fixture: SealedFixture, tmp_path: Path
) -> None:
    image = push(fixture, swapped(fixture), None)
    signature = fixture.registry.manifest("clinic", signature_tag(fixture.sealed.digest))
    assert signature is not None
    fixture.registry.put_manifest("clinic", signature_tag(image.digest), signature[0])
    attach(fixture, image, AUTHOR, subject=fixture.sealed.digest)
    assert refusal(fixture, tmp_path / "b", image.digest) == "signature-image-mismatch"


def test_exchanged_layers_that_the_author_was_led_to_sign(fixture: SealedFixture, tmp_path: Path) -> None:
    """A plain signature over a digest does not know layers; the statement names them in their order."""
    image = push(fixture, swapped(fixture), AUTHOR)
    attach(fixture, image, AUTHOR)
    assert refusal(fixture, tmp_path / "b", image.digest) == "statement-image-mismatch"
    config = manifest_of(fixture, image.digest).config.digest
    attach(fixture, image, AUTHOR, config=config, created=NOW + timedelta(days=1))
    assert refusal(fixture, tmp_path / "c", image.digest) == "statement-image-mismatch"


def test_a_layer_of_another_image_of_the_same_owner(fixture: SealedFixture, tmp_path: Path) -> None:
    other = seal_again(fixture, tmp_path / "other", AUTHOR, b"other")
    manifest = manifest_of(fixture)
    foreign = manifest_of(fixture, other.digest).layers[0]
    image = push(fixture, manifest_bytes(manifest.config, [foreign, manifest.layers[1]]), AUTHOR)
    layers = (foreign.digest, manifest.layers[1].digest)
    attach(fixture, image, AUTHOR, layers=layers)
    assert refusal(fixture, tmp_path / "b", image.digest) == "layer-key-missing"


def test_an_image_by_somebody_who_has_the_public_key(fixture: SealedFixture, tmp_path: Path) -> None:
    """Anybody can encrypt to the owner, and give the result the tag; nobody else can sign as the author."""
    forged = seal_again(fixture, tmp_path / "forged", STRANGER, b"evil")
    assert fixture.registry.manifest("clinic", "1") == fixture.registry.manifest("clinic", forged.digest)
    assert refusal(fixture, tmp_path / "b", forged.digest) == "image-author-unknown"
    assert pull(fixture, tmp_path / "c").digest == fixture.sealed.digest


def test_a_forged_image_with_the_authors_signature_copied(fixture: SealedFixture, tmp_path: Path) -> None:
    forged = seal_again(fixture, tmp_path / "forged", STRANGER, b"evil")
    signature = fixture.registry.manifest("clinic", signature_tag(fixture.sealed.digest))
    assert signature is not None
    fixture.registry.put_manifest("clinic", signature_tag(forged.digest), signature[0])
    assert refusal(fixture, tmp_path / "b", forged.digest) == "signature-image-mismatch"


def test_a_forged_image_with_the_authors_layer_key(fixture: SealedFixture, tmp_path: Path) -> None:
    """The statement's wrapped key is bound to its author: in a stranger's statement it does not open."""
    kek = fixture.sealed.statement.kek
    forged = seal_again(fixture, tmp_path / "forged", STRANGER, b"evil")
    with pytest.raises(UntrustedError) as caught:
        open_kek(kek.jwe, fixture.image(author=STRANGER).author, OWNER)
    assert caught.value.code == "kek-of-another-author"
    assert forged.statement.kek.kid != kek.kid


def test_an_older_image_put_back_under_the_tag(fixture: SealedFixture, tmp_path: Path) -> None:
    """The launch document pins a digest: what the tag says does not matter."""
    old = fixture.sealed
    new = seal_again(fixture, tmp_path / "new", AUTHOR, b"mended")
    data = fixture.registry.manifest("clinic", old.digest)
    assert data is not None
    fixture.registry.put_manifest("clinic", "1", data[0])
    assert pull(fixture, tmp_path / "b", new.digest).digest == new.digest


def test_an_older_image_under_the_newer_ones_digest(fixture: SealedFixture, tmp_path: Path) -> None:
    old = fixture.registry.manifest("clinic", fixture.sealed.digest)
    new = seal_again(fixture, tmp_path / "new", AUTHOR, b"mended")
    assert old is not None
    fixture.server.blob_path(new.digest).write_bytes(old[0])
    assert refusal(fixture, tmp_path / "b", new.digest) in ("image-digest-mismatch", "registry-error")


def test_an_older_statement_put_back(fixture: SealedFixture, tmp_path: Path) -> None:
    """While it is in date it counts: dates are what withdraws a statement from a registry that hides its successor."""
    image = Descriptor(MANIFEST_TYPE, fixture.sealed.digest, 0)
    before = fixture.registry.manifest("clinic", fallback_tag(image.digest))
    attach(fixture, image, AUTHOR, created=NOW + timedelta(days=1), author="newer")
    assert pull(fixture, tmp_path / "b").statement.author == "newer"
    assert before is not None
    fixture.registry.put_manifest("clinic", fallback_tag(image.digest), before[0], before[1])
    assert pull(fixture, tmp_path / "c").statement.author == "Ada"


def test_an_expired_statement_put_back(fixture: SealedFixture, tmp_path: Path) -> None:
    image = push(
        fixture,
        manifest_bytes(manifest_of(fixture).config, manifest_of(fixture).layers, annotations={"a": "b"}),
        AUTHOR,
    )
    attach(fixture, image, AUTHOR, not_after=NOW)
    assert refusal(fixture, tmp_path / "b", image.digest) == "statement-expired"


def test_everything_that_was_pulled_goes_if_the_last_layer_is_wrong(fixture: SealedFixture, tmp_path: Path) -> None:
    last = fixture.server.blob_path(manifest_of(fixture).layers[-1].digest)
    data = last.read_bytes()
    for damaged in (data[:-1], data + b"x", data[::-1], b""):
        last.write_bytes(damaged)
        assert refusal(fixture, tmp_path / "b") in ("layer-digest-mismatch", "registry-unreachable", "registry-error")


def test_two_blobs_exchanged_at_the_registry(fixture: SealedFixture, tmp_path: Path) -> None:
    one, other = (fixture.server.blob_path(layer.digest) for layer in manifest_of(fixture).layers)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert refusal(fixture, tmp_path / "b") == "layer-digest-mismatch"
