"""Layer encryption and wrapped keys: round trips, every parser, every refusal."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import KokonError, MalformedError, UntrustedError
from kokon.image.encrypt import LayerEncryptor, gzip_layer
from kokon.image.keyprovider import Packet, parse_packet, unwrap, wrap
from kokon.image.layer import (
    AGENT_ANNOTATION,
    CHUNK,
    CIPHER,
    JWE_ANNOTATION,
    PUBLIC_ANNOTATION,
    PrivateOptions,
    PublicOptions,
    check_layer,
    checked_chunks,
    decrypt_chunks,
    gunzip_chunks,
    layer_is_gzip,
    layer_options,
    parse_private_options,
    parse_public_options,
    recipients,
)
from kokon.image.manifest import Descriptor
from kokon.jose.jwe import decrypt, public_jwk
from kokon.wire import b64
from support.sealed import OWNER

KID = "kbs:///default/kek/1"
KEK = bytes(range(32))


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(KokonError) as caught:
        action()
    return caught.value.code


def encoded(value: Any) -> str:
    return b64(json.dumps(value).encode())


def public(**changes: Any) -> dict[str, Any]:
    return {"cipher": CIPHER, "hmac": b64(bytes(32)), "cipheroptions": {}, **changes}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=6))
def test_round_trip_and_both_recipients(chunks: list[bytes]) -> None:
    encryptor = LayerEncryptor()
    sealed = b"".join(encryptor.chunks(chunks))
    annotations = encryptor.annotations(public_jwk(OWNER), KEK, KID)
    options = parse_public_options(annotations[PUBLIC_ANNOTATION])
    (message,) = recipients(annotations, JWE_ANNOTATION)
    (packet,) = recipients(annotations, AGENT_ANNOTATION)
    private = parse_private_options(decrypt(message, OWNER))
    assert private == parse_private_options(unwrap(parse_packet(packet), KEK))
    assert b"".join(decrypt_chunks([sealed], options, private)) == b"".join(chunks)
    assert private.digest == "sha256:" + hashlib.sha256(b"".join(chunks)).hexdigest()
    assert len(sealed) == sum(map(len, chunks))


def test_cipher_is_ocicrypts(tmp_path: Path) -> None:
    """The cipher said again in the specification's words, with other code paths than ours."""
    key, nonce = bytes(32), b"\xff" * 16
    plain = b"layer" * 1000
    cipher = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    counters = [(int.from_bytes(nonce, "big") + n) % 2**128 for n in range(len(plain) // 16 + 1)]
    stream = b"".join(cipher.update(counter.to_bytes(16, "big")) for counter in counters)
    sealed = bytes(a ^ b for a, b in zip(plain, stream, strict=False))
    private = PrivateOptions(key, nonce)
    options = PublicOptions(hmac.digest(key, sealed, "sha256"))
    path = tmp_path / "layer"
    path.write_bytes(sealed)
    check_layer(path, options, private)
    assert b"".join(decrypt_chunks([sealed], options, private)) == plain
    assert b"".join(decrypt_chunks([sealed], PublicOptions(bytes(32), nonce), PrivateOptions(key, None))) == plain
    path.write_bytes(sealed[:-1])
    assert code_of(lambda: check_layer(path, options, private)) == "layer-hmac-mismatch"
    nowhere = PrivateOptions(key, None)
    assert code_of(lambda: list(decrypt_chunks([sealed], options, nowhere))) == "layer-nonce-missing"


def test_secrets_have_no_repr() -> None:
    options = PrivateOptions(b"K" * 32, b"N" * 16)
    assert "K" * 32 not in repr(options)
    assert "N" * 16 not in repr(options)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (public(cipher="AES_128"), "layer-cipher-unsupported"),
        (public(hmac=b64(bytes(31))), "size-mismatch"),
        (public(hmac="!"), "base64-malformed"),
        ({"cipher": CIPHER}, "field-missing"),
        (public(cipheroptions={"nonce": b64(bytes(15))}), "size-mismatch"),
        (public(cipheroptions=[]), "field-type"),
        (public(more=1), "field-unknown"),
        ([], "field-type"),
    ],
)
def test_bad_public_options(value: Any, code: str) -> None:
    assert code_of(lambda: parse_public_options(encoded(value))) == code


def test_public_options_that_others_write() -> None:
    assert parse_public_options(encoded(public(cipheroptions=None))).nonce is None
    assert parse_public_options(encoded(public(cipheroptions={"nonce": b64(bytes(16))}))).nonce == bytes(16)
    without = {"cipher": CIPHER, "hmac": b64(bytes(32))}
    assert parse_public_options(encoded(without)).hmac == bytes(32)
    assert code_of(lambda: parse_public_options("A" * 20_000)) == "base64-malformed"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"symkey": b64(bytes(16)), "cipheroptions": {}}, "size-mismatch"),
        ({"cipheroptions": {}}, "field-missing"),
        ({"symkey": b64(bytes(32)), "x": 1}, "field-unknown"),
        ({"symkey": 1}, "field-type"),
    ],
)
def test_bad_private_options(value: Any, code: str) -> None:
    assert code_of(lambda: parse_private_options(json.dumps(value).encode())) == code


@given(st.binary(max_size=400), st.text(max_size=400))
def test_parsers_read_or_refuse_anything(data: bytes, text: str) -> None:
    for action in (
        lambda: parse_private_options(data),
        lambda: parse_public_options(text),
        lambda: parse_public_options(b64(data)),
        lambda: parse_packet(data),
        lambda: recipients({AGENT_ANNOTATION: text}, AGENT_ANNOTATION),
    ):
        try:
            action()
        except MalformedError:
            pass


def test_layer_descriptors() -> None:
    gz = "application/vnd.oci.image.layer.v1.tar+gzip"
    good = {PUBLIC_ANNOTATION: encoded(public())}

    def options(media_type: str, annotations: dict[str, str]) -> PublicOptions:
        return layer_options(Descriptor(media_type, "sha256:" + "0" * 64, 1, annotations))

    assert options(gz + "+encrypted", good).hmac == bytes(32)
    assert code_of(lambda: options(gz, good)) == "layer-not-encrypted"
    assert code_of(lambda: options(gz + "+encrypted", {})) == "layer-not-encrypted"
    zstd = "application/vnd.oci.image.layer.v1.tar+zstd+encrypted"
    assert code_of(lambda: options(zstd, good)) == "layer-type-unsupported"
    assert layer_is_gzip("application/vnd.docker.image.rootfs.diff.tar.gzip")
    assert not layer_is_gzip("application/vnd.oci.image.layer.v1.tar+encrypted")


def test_recipient_lists() -> None:
    assert recipients({}, "x") == ()
    assert recipients({"x": "YQ==,Yg=="}, "x") == (b"a", b"b")
    assert code_of(lambda: recipients({"x": "YQ==,"}, "x")) == "layer-recipients"
    assert code_of(lambda: recipients({"x": "?"}, "x")) == "base64-malformed"
    assert code_of(lambda: recipients({"x": ",".join(["YQ=="] * 33)}, "x")) == "layer-recipients"


def test_packet_versions_and_refusals() -> None:
    packet = wrap(KEK, KID, b"options", os.urandom)
    assert unwrap(parse_packet(packet), KEK) == b"options"
    members = json.loads(packet)
    version1 = {name: members[name] for name in ("kid", "wrapped_data", "iv", "wrap_type")}
    assert unwrap(parse_packet(json.dumps(version1).encode()), KEK) == b"options"
    for change in (
        {"wrap_type": "A256CTR"},
        {"provider": "aliyun"},
        {"version": "0.2.0"},
        {"iv": b64(bytes(16))},
    ):
        data = json.dumps({**members, **change}).encode()
        assert code_of(lambda data=data: parse_packet(data)) == "packet-unsupported"  # type: ignore[misc]
    bad_kid = json.dumps({**members, "kid": "kbs:///../x"}).encode()
    assert code_of(lambda: parse_packet(bad_kid)) == "kid-malformed"
    assert code_of(lambda: unwrap(parse_packet(packet), bytes(32))) == "kek-wrong"
    assert code_of(lambda: unwrap(parse_packet(packet), b"")) == "size-mismatch"
    assert code_of(lambda: wrap(b"", KID, b"", os.urandom)) == "size-mismatch"
    assert code_of(lambda: wrap(KEK, "file:///x", b"", os.urandom)) == "kid-malformed"


@settings(max_examples=50)
@given(st.binary(min_size=12, max_size=12), st.binary(max_size=64))
def test_forged_packets_never_open(iv: bytes, wrapped: bytes) -> None:
    with pytest.raises(UntrustedError) as caught:
        unwrap(Packet(KID, wrapped, iv), KEK)
    assert caught.value.code == "kek-wrong"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=3), st.integers(1, 999))
def test_gzip_of_several_members_in_any_pieces(parts: list[bytes], size: int) -> None:
    data = b"".join(gzip.compress(part) for part in parts)
    chunks = (data[start : start + size] for start in range(0, len(data), size))
    assert b"".join(gunzip_chunks(chunks)) == b"".join(parts)


def test_gzip_bombs_come_in_small_pieces() -> None:
    data = gzip.compress(bytes(20 << 20))
    sizes = [len(piece) for piece in gunzip_chunks([data])]
    assert sum(sizes) == 20 << 20
    assert max(sizes) <= CHUNK


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f",
        gzip.compress(b"x" * 99, mtime=0)[:-1],
        gzip.compress(b"x", mtime=0) + b"junk",
        b"plain",
        gzip.compress(b"x", mtime=0)[:-9] + bytes(9),
    ],
)
def test_damaged_gzip(data: bytes) -> None:
    assert code_of(lambda: list(gunzip_chunks([data]))) == "layer-gzip-malformed"


def test_layers_are_compressed_or_passed_and_checked() -> None:
    plain = os.urandom(3 << 20)
    diff_id = "sha256:" + hashlib.sha256(plain).hexdigest()
    packed = gzip.compress(plain, 1)
    chunks = [plain[start : start + 70_000] for start in range(0, len(plain), 70_000)]
    assert zlib.decompress(b"".join(gzip_layer(chunks, diff_id, is_gzip=False)), 31) == plain
    pieces = [packed[start : start + 70_000] for start in range(0, len(packed), 70_000)]
    assert b"".join(gzip_layer(pieces, diff_id, is_gzip=True)) == packed
    other = "sha256:" + "0" * 64
    assert code_of(lambda: list(gzip_layer(pieces, other, is_gzip=True))) == "layer-diff-id-mismatch"
    assert code_of(lambda: list(gzip_layer(chunks, other, is_gzip=False))) == "layer-diff-id-mismatch"
    assert code_of(lambda: list(checked_chunks([], other))) == "layer-diff-id-mismatch"
