"""Manifests, indexes, configurations and references."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError, MalformedError, UsageError
from kokon.image.manifest import (
    CONFIG_TYPE,
    INDEX_TYPE,
    LAYER_GZIP_TYPE,
    MANIFEST_LIMIT,
    MANIFEST_TYPE,
    Descriptor,
    check_digest,
    is_index,
    parse_config,
    parse_index,
    parse_manifest,
)
from kokon.image.reference import parse_reference
from kokon.image.registry import manifest_bytes

DIGEST = "sha256:" + "1" * 64
CONFIG = Descriptor(CONFIG_TYPE, DIGEST, 2)
LAYER = Descriptor(LAYER_GZIP_TYPE, DIGEST, 5, {"a": "b"}, "x/y")


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(KokonError) as caught:
        action()
    return caught.value.code


def test_manifest_round_trip() -> None:
    data = manifest_bytes(CONFIG, [LAYER], artifact_type="a/b", subject=CONFIG, annotations={"k": "v"})
    manifest = parse_manifest(data)
    assert manifest.config == CONFIG
    assert manifest.layers == (LAYER,)
    assert (manifest.artifact_type, manifest.subject) == ("a/b", DIGEST)
    assert not is_index(data, "")
    assert parse_manifest(manifest_bytes(CONFIG, [])).subject is None


def manifest(**changes: Any) -> bytes:
    return json.dumps({**json.loads(manifest_bytes(CONFIG, [LAYER])), **changes}).encode()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (manifest(schemaVersion=1), "manifest-malformed"),
        (manifest(mediaType=INDEX_TYPE), "manifest-malformed"),
        (manifest(config=None), "field-missing"),
        (manifest(layers={}), "field-type"),
        (manifest(layers=[{}] * 257), "field-too-long"),
        (manifest(layers=[{**LAYER.as_dict(), "digest": "sha512:" + "1" * 64}]), "digest-malformed"),
        (manifest(layers=[{**LAYER.as_dict(), "size": -1}]), "field-range"),
        (manifest(layers=[{**LAYER.as_dict(), "size": True}]), "field-type"),
        (manifest(layers=[{**LAYER.as_dict(), "annotations": {"a": 1}}]), "manifest-malformed"),
        (manifest(layers=[{**LAYER.as_dict(), "annotations": {"a": "x" * 70000}}]), "manifest-malformed"),
        (b'{"schemaVersion":2,"schemaVersion":2}', "json-malformed"),
        (b" " * (MANIFEST_LIMIT + 1), "json-too-large"),
        (b"[]", "field-type"),
    ],
)
def test_bad_manifests(data: bytes, code: str) -> None:
    assert code_of(lambda: parse_manifest(data)) == code


def test_docker_documents_and_unknown_members_pass() -> None:
    data = manifest(mediaType="application/vnd.docker.distribution.manifest.v2+json", future=1)
    assert parse_manifest(data).layers == (LAYER,)


def test_indexes() -> None:
    entry = {**LAYER.as_dict(), "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}).encode()
    (found,) = parse_index(data)
    assert (found.descriptor, found.architecture, found.operating_system) == (LAYER, "arm64", "linux")
    assert is_index(data, "")
    assert is_index(b"", INDEX_TYPE)
    assert code_of(lambda: parse_index(manifest())) == "manifest-malformed"
    wrong = json.dumps({"schemaVersion": 2, "manifests": [1]}).encode()
    assert code_of(lambda: parse_index(wrong)) == "field-type"


def config(**run: Any) -> bytes:
    document = {"architecture": "amd64", "os": "linux", "config": run, "rootfs": {"diff_ids": [DIGEST]}}
    return json.dumps(document).encode()


def test_configurations() -> None:
    found = parse_config(
        config(
            Env=["A=1", "B=", "C=a=b"],
            Entrypoint=["/a"],
            Cmd=None,
            WorkingDir="",
            User="1:2",
            ExposedPorts={"80/tcp": {}, "1/udp": {}},
            Volumes={"/v": {}},
            StopSignal="SIGINT",
        )
    )
    assert found.environment == (("A", "1"), ("B", ""), ("C", "a=b"))
    assert (found.entrypoint, found.command, found.working_directory) == (("/a",), (), "/")
    assert (found.user, found.ports, found.volumes, found.stop_signal) == (
        "1:2",
        ("1/udp", "80/tcp"),
        ("/v",),
        "SIGINT",
    )
    assert parse_config(b'{"architecture":"a","os":"b","config":null,"rootfs":{"diff_ids":null}}').diff_ids == ()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (config(Env=["novalue"]), "config-malformed"),
        (config(Env=["=x"]), "config-malformed"),
        (config(Cmd=[1]), "config-malformed"),
        (config(Cmd=["a\0b"]), "config-malformed"),
        (config(Cmd="sh"), "field-type"),
        (b"{}", "field-missing"),
    ],
)
def test_bad_configurations(data: bytes, code: str) -> None:
    assert code_of(lambda: parse_config(data)) == code


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "schemaVersion",
                    "mediaType",
                    "config",
                    "layers",
                    "manifests",
                    "digest",
                    "size",
                    "rootfs",
                    "diff_ids",
                    "platform",
                    "os",
                    "architecture",
                    "Env",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.binary(max_size=60))
def test_parsers_read_or_refuse_anything(value: Any, noise: bytes) -> None:
    for data in (noise, json.dumps(value).encode()):
        for parser in (parse_manifest, parse_index, parse_config):
            try:
                parser(data)
            except MalformedError:
                pass
    if isinstance(value, dict):
        for parser, good in ((parse_manifest, manifest()), (parse_config, config())):
            try:
                parser(json.dumps({**json.loads(good), **value}).encode())
            except MalformedError:
                pass


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "A" * 64, "sha256:" + "1" * 63, "1" * 64, MANIFEST_TYPE])
def test_bad_digests(text: str) -> None:
    assert code_of(lambda: check_digest(text, what="digest")) == "digest-malformed"


@pytest.mark.parametrize(
    ("text", "registry", "repository", "pointer"),
    [
        ("127.0.0.1:5000/clinic:1", "http://127.0.0.1:5000", "clinic", "1"),
        ("docker://localhost/a/b", "http://localhost", "a/b", "latest"),
        ("[::1]:5000/a", "http://[::1]:5000", "a", "latest"),
        ("ghcr.io/a/b-c_d.e:v1", "https://ghcr.io", "a/b-c_d.e", "v1"),
        (f"h.example:443/a:t@{DIGEST}", "https://h.example:443", "a", DIGEST),
    ],
)
def test_references(text: str, registry: str, repository: str, pointer: str) -> None:
    found = parse_reference(text)
    assert (found.registry, found.repository, found.pointer) == (registry, repository, pointer)
    assert parse_reference(str(found)) == found
    assert found.with_digest(DIGEST).pointer == DIGEST
    assert parse_reference(text, plain_http=True).registry.startswith("http://")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "clinic",
        "h/",
        "/a",
        "h/A",
        "h/a:",
        "h/a@sha256:1",
        "h/a b",
        "u:p@h/a",
        "h/a//b",
        "h/" + "a" * 300,
        "h/" + "a" * 2000,
    ],
)
def test_bad_references(text: str) -> None:
    assert code_of(lambda: parse_reference(text)) == "reference-malformed"


@given(st.text(max_size=60))
def test_reference_parser_reads_or_refuses(text: str) -> None:
    try:
        found = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(str(found)) == found
