"""Manifests, indexes, configurations and layer options that are too large, too deep, or mean two things at once."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from kokon.errors import MalformedError
from kokon.image.dsse import parse_envelope
from kokon.image.keyprovider import parse_packet
from kokon.image.layer import CIPHER, parse_private_options, parse_public_options
from kokon.image.manifest import (
    CONFIG_TYPE,
    DOCKER_INDEX_TYPE,
    DOCKER_MANIFEST_TYPE,
    INDEX_TYPE,
    LAYER_GZIP_TYPE,
    MANIFEST_TYPE,
    parse_config,
    parse_index,
    parse_manifest,
)
from kokon.image.signature import parse_payload
from kokon.image.statement import parse_statement
from kokon.wire import b64

DIGEST = "sha256:" + "1" * 64
LAYER = {"mediaType": LAYER_GZIP_TYPE, "digest": DIGEST, "size": 5}
CONFIG = {"mediaType": CONFIG_TYPE, "digest": DIGEST, "size": 2}
MANIFEST = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": CONFIG, "layers": [LAYER]}
INDEX = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [{**LAYER, "mediaType": MANIFEST_TYPE}]}
IMAGE = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/app"]}, "rootfs": {"diff_ids": [DIGEST]}}
PRIVATE = {"symkey": b64(bytes(32)), "digest": DIGEST, "cipheroptions": {"nonce": b64(bytes(16))}}
PUBLIC = {"cipher": CIPHER, "hmac": b64(bytes(32)), "cipheroptions": {}}


def public(data: bytes) -> object:
    return parse_public_options(b64(data))


READERS: dict[str, tuple[Callable[[bytes], object], dict[str, Any]]] = {
    "manifest": (parse_manifest, MANIFEST),
    "index": (parse_index, INDEX),
    "configuration": (parse_config, IMAGE),
    "private": (parse_private_options, PRIVATE),
    "public": (public, PUBLIC),
}
STRICT = {
    **READERS,
    **{each.__name__: (each, {}) for each in (parse_packet, parse_envelope, parse_payload, parse_statement)},
}


def code_of(parse: Callable[[bytes], object], data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        parse(data)
    return caught.value.code


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", READERS)
def test_what_they_are_made_from_is_good(name: str) -> None:
    parse, good = READERS[name]
    assert parse(encoded(good))


@pytest.mark.parametrize("name", STRICT)
def test_deep_nesting(name: str) -> None:
    parse, good = STRICT[name]
    for depth in (40, 1000, 3000):
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        lists = b"[" * depth + b"]" * depth
        codes = {
            code_of(parse, deep),
            code_of(parse, lists),
            code_of(parse, encoded(good)[:-1] + b',"x":' + deep + b"}"),
        }
        assert codes <= {"json-malformed", "json-too-large", "base64-malformed"}


@pytest.mark.parametrize("name", READERS)
def test_every_member_twice(name: str) -> None:
    parse, good = READERS[name]
    for member, value in good.items():
        twice = encoded(good)[:-1] + b"," + encoded(member) + b":" + encoded(value) + b"}"
        assert code_of(parse, twice) == "json-malformed", member
        escaped = f"\\u{ord(member[0]):04x}{member[1:]}"
        twice = encoded(good)[:-1] + b',"' + escaped.encode() + b'":' + encoded(value) + b"}"
        assert code_of(parse, twice) == "json-malformed", member


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("behind", [b"{}", b"\0", b"x", b"//"])
def test_bytes_behind_a_document(name: str, behind: bytes) -> None:
    parse, good = READERS[name]
    assert code_of(parse, encoded(good) + behind) == "json-malformed"


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ("-1", "field-range"),
        ("-9223372036854775809", "field-range"),
        ("9223372036854775808", "field-range"),
        (str((1 << 40) + 1), "field-range"),
        ("1" + "0" * 5000, "json-malformed"),
        ("5.0", "field-type"),
        ("1e3", "field-type"),
        ("1e999", "json-malformed"),
        ("NaN", "json-malformed"),
        ("true", "field-type"),
        ('"5"', "field-type"),
        ("[]", "field-type"),
        ("0x5", "json-malformed"),
        ("05", "json-malformed"),
        ("null", "field-missing"),
    ],
)
@pytest.mark.parametrize("name", ["manifest", "index"])
def test_sizes_in_descriptors(name: str, size: str, code: str) -> None:
    parse, good = READERS[name]
    assert code_of(parse, encoded(good).replace(b'"size": 5', f'"size": {size}'.encode())) == code


def test_ten_thousand_layers() -> None:
    assert code_of(parse_manifest, encoded({**MANIFEST, "layers": [LAYER] * 10_000})) == "field-too-long"
    many = {**IMAGE, "rootfs": {"diff_ids": [DIGEST] * 10_000}}
    assert code_of(parse_config, encoded(many)) == "field-too-long"
    assert code_of(parse_index, encoded({**INDEX, "manifests": INDEX["manifests"] * 10_000})) == "field-too-long"  # type: ignore[operator]


@pytest.mark.parametrize("name", ["manifest", "index", "configuration"])
def test_a_hundred_megabytes_are_not_even_parsed(name: str) -> None:
    parse, good = READERS[name]
    data = encoded(good)[:-1] + b',"x":"' + b"x" * (100 << 20) + b'"}'
    tracemalloc.start()
    try:
        assert code_of(parse, data) == "json-too-large"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("media_type", [None, MANIFEST_TYPE, INDEX_TYPE, DOCKER_MANIFEST_TYPE, DOCKER_INDEX_TYPE])
def test_a_document_that_is_manifest_and_index_at_once(media_type: str | None) -> None:
    """CVE-2021-41190: what a reader takes it for must not depend on what the registry calls it."""
    both = {**MANIFEST, **INDEX, "mediaType": media_type}
    assert code_of(parse_manifest, encoded(both)) == "manifest-malformed"
    assert code_of(parse_index, encoded(both)) == "manifest-malformed"
    assert code_of(parse_index, encoded({**both, "layers": None})) == "manifest-malformed"
    assert code_of(parse_index, encoded({**both, "config": None})) == "manifest-malformed"


def test_media_types_that_contradict_the_content() -> None:
    assert code_of(parse_manifest, encoded({**MANIFEST, "mediaType": INDEX_TYPE})) == "manifest-malformed"
    assert code_of(parse_index, encoded({**INDEX, "mediaType": MANIFEST_TYPE})) == "manifest-malformed"
    assert code_of(parse_manifest, encoded({**MANIFEST, "mediaType": "text/plain"})) == "manifest-malformed"


def respelled(name: str) -> list[str]:
    spellings = {
        name.upper(),
        name.capitalize(),
        name.lower(),
        name.replace("s", "\u017f"),
        name.replace("k", "\u212a"),
    }
    return sorted(spellings - {name})


@pytest.mark.parametrize(
    ("parse", "document", "place", "code"),
    [
        (parse_manifest, MANIFEST, (), "manifest-malformed"),
        (parse_manifest, MANIFEST, ("config",), "manifest-malformed"),
        (parse_manifest, MANIFEST, ("layers", 0), "manifest-malformed"),
        (parse_index, INDEX, (), "manifest-malformed"),
        (parse_index, INDEX, ("manifests", 0), "manifest-malformed"),
        (parse_config, IMAGE, (), "config-malformed"),
        (parse_config, IMAGE, ("config",), "config-malformed"),
        (parse_config, IMAGE, ("rootfs",), "config-malformed"),
    ],
)
def test_names_that_other_readers_take_for_ours(
    parse: Callable[[bytes], object], document: dict[str, Any], place: tuple[Any, ...], code: str
) -> None:
    """Go's encoding/json, which the other tools use, does not tell `Layers` from `layers`, and takes the last one."""
    genuine: Any = document
    for step in place:
        genuine = genuine[step]
    for name in genuine:
        for spelling in respelled(name):
            changed = json.loads(encoded(document))
            target = changed
            for step in place:
                target = target[step]
            target[spelling] = genuine[name]
            assert code_of(parse, encoded(changed)) == code, spelling


def test_a_program_that_only_other_readers_would_run() -> None:
    hidden = {**IMAGE, "config": {"Cmd": ["/app"], "entrypoint": ["/evil"]}}
    assert code_of(parse_config, encoded(hidden)) == "config-malformed"


def test_other_names_pass() -> None:
    assert parse_manifest(encoded({**MANIFEST, "layer": 1, "Future": {"Size": 1}}))
    assert parse_config(encoded({**IMAGE, "container_config": {"cmd": 1}, "Created": "x"}))
