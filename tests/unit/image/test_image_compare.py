"""Rebuild and compare: the same content is the same, and the first difference has a name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.cli.main import main
from kokon.errors import KokonError, UntrustedError
from kokon.image.compare import Comparison, compare, kek_opener, read_kek, recipient_opener, signed_digest
from kokon.image.ecdsa import public_pem
from kokon.image.fetch import Fetcher
from kokon.image.kek import open_kek
from kokon.image.manifest import CONFIG_TYPE, Descriptor, parse_manifest
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry, descriptor_of, manifest_bytes
from kokon.image.seal import minimal_config, seal
from kokon.image.source import open_source
from kokon.jose.jwe import public_jwk
from support.images import make_tar, member, write_layout
from support.registry import LocalRegistry
from support.sealed import AUTHOR, CLAIMS, LOWER, NOW, OWNER, UPPER, SealedFixture

AUTHOR_PEM = public_pem(AUTHOR.public_key())
RUN = {"Cmd": ["/bin/app"], "Env": ["A=1", "B=2"]}


def compared(fixture: SealedFixture, layout: Path, *, key: bool = True) -> Comparison:
    opener = recipient_opener(OWNER) if key else None
    with open_source(f"oci:{layout}") as source:
        return compare(source, fixture.registry, "clinic", fixture.sealed.digest, opener)


def test_the_same_image_by_all_three_ways(fixture: SealedFixture, layout: Path) -> None:
    assert compared(fixture, layout) == Comparison(fixture.sealed.digest, "decrypted", 2)
    assert compared(fixture, layout, key=False) == Comparison(fixture.sealed.digest, "by-digest", 2)
    kek = open_kek(fixture.sealed.statement.kek.jwe, AUTHOR_PEM, OWNER)
    with open_source(f"oci:{layout}") as source:
        assert compare(source, fixture.registry, "clinic", fixture.sealed.digest, kek_opener(kek)).same


def changed(edit: Callable[[list[Any]], None]) -> bytes:
    members: list[Any] = [("a", None), ("a/x", b"one"), ("a/y", b"two"), (member("a/z", b"2", linkname="y"), None)]
    edit(members)
    return make_tar(members)


def nothing(_: list[Any]) -> None:
    return None


@pytest.mark.parametrize(
    ("edit", "difference"),
    [
        (lambda m: m.__setitem__(2, ("a/y", b"TWO")), "/a/y: content differs"),
        (lambda m: m.__setitem__(2, ("a/y", b"longer")), "/a/y: size is 6 in the source, 3 in the image"),
        (lambda m: m.__setitem__(2, (member("a/y", mode=0o755), b"two")), "/a/y: mode is 493 in the source, 420"),
        (lambda m: m.__setitem__(3, (member("a/z", b"2", linkname="x"), None)), "/a/z: link differs"),
        (lambda m: m.pop(), "/a/z is only in the image"),
        (lambda m: m.append(("b", b"")), "/b is only in the source"),
        (lambda m: m.insert(1, m.pop(2)), "/a/y stands in the source where /a/x stands in the image"),
    ],
)
def test_the_first_difference_is_named(
    server: LocalRegistry, registry: Registry, tmp_path: Path, edit: Callable[[list[Any]], None], difference: str
) -> None:
    write_layout(tmp_path / "sealed", [LOWER, changed(nothing)], run=RUN)
    write_layout(tmp_path / "other", [LOWER, changed(edit)], run=RUN, compress=False)
    with open_source(f"oci:{tmp_path / 'sealed'}") as source:
        sealed = seal(source, registry, parse_reference(f"{server.host}/cmp:1"), AUTHOR, public_jwk(OWNER), CLAIMS)
    with open_source(f"oci:{tmp_path / 'other'}") as source:
        result = compare(source, registry, "cmp", sealed.digest, recipient_opener(OWNER))
        blind = compare(source, registry, "cmp", sealed.digest)
    assert not result.same
    assert result.layers == blind.layers == 1
    assert result.difference.startswith(f"layer 1: {difference}")
    assert blind.difference == "layer 1: the configuration names other content"


@pytest.mark.parametrize(
    ("run", "difference"),
    [
        ({**RUN, "Cmd": ["/bin/other"]}, "configuration: config.Cmd differs"),
        ({**RUN, "Env": ["A=1", "B=3"]}, "configuration: config.Env differs"),
        ({**RUN, "User": "root"}, "configuration: config.User differs"),
    ],
)
def test_configuration_and_order_count(
    server: LocalRegistry, registry: Registry, tmp_path: Path, run: dict[str, Any], difference: str
) -> None:
    write_layout(tmp_path / "sealed", [LOWER, UPPER], run=RUN)
    write_layout(tmp_path / "other", [LOWER, UPPER], run=run)
    write_layout(tmp_path / "turned", [UPPER, LOWER], run=RUN)
    write_layout(tmp_path / "short", [LOWER], run=RUN)
    with open_source(f"oci:{tmp_path / 'sealed'}") as source:
        sealed = seal(source, registry, parse_reference(f"{server.host}/cmp:2"), AUTHOR, public_jwk(OWNER), CLAIMS)
    fixture = SealedFixture(server, registry, parse_reference(f"{server.host}/cmp:2"), sealed)
    results = {}
    for name in ("other", "turned", "short"):
        with open_source(f"oci:{tmp_path / name}") as source:
            results[name] = compare(source, fixture.registry, "cmp", sealed.digest, recipient_opener(OWNER))
    assert results["other"].difference == difference
    assert results["turned"].difference.startswith("layer 0: ")
    assert results["short"].difference == "the source has 1 layers, the image 2"


def test_ciphertext_that_is_not_what_the_configuration_says(fixture: SealedFixture, tmp_path: Path) -> None:
    """By digest it passes (no enclave would start it); decrypted, it does not."""
    found = fixture.registry.manifest("clinic", fixture.sealed.digest)
    assert found is not None
    manifest = parse_manifest(found[0])
    write_layout(tmp_path / "other", [UPPER, LOWER], run=RUN)
    with open_source(f"oci:{tmp_path / 'other'}") as source:
        config = minimal_config(source.config_bytes)
        fixture.registry.upload_bytes("clinic", config)
        forged = manifest_bytes(descriptor_of(CONFIG_TYPE, config), manifest.layers)
        fixture.registry.put_manifest("clinic", "forged", forged)
        digest = descriptor_of("", forged).digest
        assert compare(source, fixture.registry, "clinic", digest).same
        result = compare(source, fixture.registry, "clinic", digest, recipient_opener(OWNER))
    assert result.difference.startswith("layer 0: /")


def refused(code: str, action: Callable[[], object]) -> None:
    with pytest.raises(KokonError) as caught:
        action()
    assert caught.value.code == code


def test_wrong_keys_open_nothing(fixture: SealedFixture, layout: Path) -> None:
    with open_source(f"oci:{layout}") as source:
        for opener in (recipient_opener(ec.generate_private_key(ec.SECP256R1())), kek_opener(bytes(32))):
            refused(
                "layer-key-missing",
                lambda opener=opener: compare(source, fixture.registry, "clinic", fixture.sealed.digest, opener),
            )


def test_a_missing_image_and_a_layer_in_clear(fixture: SealedFixture, layout: Path) -> None:
    found = fixture.registry.manifest("clinic", fixture.sealed.digest)
    assert found is not None
    manifest = parse_manifest(found[0])
    clear = [Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", one.digest, one.size) for one in manifest.layers]
    data = manifest_bytes(manifest.config, clear)
    fixture.registry.put_manifest("clinic", "clear", data)
    with open_source(f"oci:{layout}") as source:
        refused("image-missing", lambda: compare(source, fixture.registry, "clinic", "sha256:" + "0" * 64))
        digest = descriptor_of("", data).digest
        refused("layer-not-encrypted", lambda: compare(source, fixture.registry, "clinic", digest))


def test_a_wrong_mac_is_seen(fixture: SealedFixture, layout: Path) -> None:
    opener = recipient_opener(OWNER)

    def wrong(layer: Descriptor) -> Any:
        return replace(opener(layer), symkey=bytes(32))

    with open_source(f"oci:{layout}") as source, pytest.raises(KokonError) as caught:
        compare(source, fixture.registry, "clinic", fixture.sealed.digest, wrong)
    assert caught.value.code in ("layer-hmac-mismatch", "layer-gzip-malformed")


def test_only_what_the_author_signed_is_compared(fixture: SealedFixture) -> None:
    other = public_pem(ec.generate_private_key(ec.SECP256R1()).public_key())
    with Fetcher(fixture.server.url, "clinic") as fetcher:
        assert signed_digest(fetcher, fixture.sealed.digest, AUTHOR_PEM, NOW) == fixture.sealed.digest
        with pytest.raises(UntrustedError):
            signed_digest(fetcher, fixture.sealed.digest, other, NOW)
        refused("image-missing", lambda: signed_digest(fetcher, "no-such-tag", AUTHOR_PEM, NOW))
        refused(
            "statement-expired",
            lambda: signed_digest(fetcher, fixture.sealed.digest, AUTHOR_PEM, NOW + timedelta(days=99)),
        )


def test_the_command(
    server: LocalRegistry, registry: Registry, layout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    claims = replace(CLAIMS, created=now, not_after=now + timedelta(days=1))
    with open_source(f"oci:{layout}") as source:
        sealed = seal(source, registry, parse_reference(f"{server.host}/cmp:3"), AUTHOR, public_jwk(OWNER), claims)
    author, key = tmp_path / "author.pub", tmp_path / "owner.key"
    author.write_text(AUTHOR_PEM)
    clear = serialization.NoEncryption()
    key.write_bytes(OWNER.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, clear))
    words = [str(sealed.reference), "--author", str(author), "--json"]
    assert main(["compare", f"oci:{layout}", *words, "--key", str(key)]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "decrypted"
    write_layout(tmp_path / "other", [LOWER], run=RUN)
    assert main(["compare", f"oci:{tmp_path / 'other'}", *words]) == 4
    assert json.loads(capsys.readouterr().out)["difference"] == "the source has 1 layers, the image 2"


def test_a_key_file(tmp_path: Path) -> None:
    (tmp_path / "kek").write_bytes(bytes(31))
    refused("size-mismatch", lambda: read_kek(tmp_path / "kek"))
    refused("key-unreadable", lambda: read_kek(tmp_path / "none"))
    (tmp_path / "kek").write_bytes(bytes(32))
    assert read_kek(tmp_path / "kek") == bytes(32)
