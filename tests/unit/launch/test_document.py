"""The launch document survives writing and reading, and refuses everything else."""

import hashlib
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.launch.document import (
    DOCUMENT_LIMIT,
    ImageRef,
    LaunchDocument,
    Provisioning,
    SecretUse,
    VolumeUse,
    build_document,
    document_digest,
    parse_document,
    read_disk,
    write_disk,
)

AUTHOR = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
SERVER = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

DOCUMENT = LaunchDocument(
    workload="clinic",
    image=ImageRef("http://127.0.0.1:5000", "demo/clinic", "sha256:" + "a" * 64, AUTHOR),
    provisioning=Provisioning("https://127.0.0.1:8443", SERVER),
    port=8080,
    log_key="kbs:///clinic/log/token",
    args=("serve", "it's", 'a "quoted" \\ one\n'),
    env=(("MODE", "prod"), ("EMPTY", "")),
    secrets=(
        SecretUse("db", "kbs:///clinic/secret/db", file="/run/secrets/db"),
        SecretUse("key", "kbs:///clinic/secret/key", env="API_KEY"),
    ),
    volumes=(VolumeUse("data", "/data", "kbs:///clinic/volume/data"),),
)


def test_document_survives_writing_and_reading() -> None:
    data = build_document(DOCUMENT)
    assert parse_document(data) == DOCUMENT
    assert build_document(DOCUMENT) == data
    assert document_digest(data) == hashlib.sha256(data).digest()
    assert DOCUMENT.resources() == (
        "kbs:///clinic/log/token",
        "kbs:///clinic/secret/db",
        "kbs:///clinic/secret/key",
        "kbs:///clinic/volume/data",
    )


def test_command_may_be_left_to_the_image() -> None:
    document = replace(DOCUMENT, args=None, env=(), secrets=(), volumes=())
    assert parse_document(build_document(document)) == document


def test_the_longest_volume_name_fits_a_virtio_serial_number() -> None:
    document = replace(DOCUMENT, volumes=(VolumeUse("a-name-of-16-cha", "/data", "kbs:///a/b/c"),))
    assert parse_document(build_document(document)) == document


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40), max_size=5))
def test_any_argument_survives(args: list[str]) -> None:
    document = replace(DOCUMENT, args=tuple(args))
    assert parse_document(build_document(document)).args == tuple(args)


@pytest.mark.parametrize(
    "document",
    [
        replace(DOCUMENT, workload="Clinic!"),
        replace(DOCUMENT, log_key="kbs:///../x/y"),
        replace(DOCUMENT, image=replace(DOCUMENT.image, digest="sha256:short")),
        replace(DOCUMENT, image=replace(DOCUMENT.image, registry="ftp://h")),
        replace(DOCUMENT, image=replace(DOCUMENT.image, registry="http://h:99999")),
        replace(DOCUMENT, image=replace(DOCUMENT.image, registry="http://user@h")),
        replace(DOCUMENT, image=replace(DOCUMENT.image, registry="http://:pw@h")),
        replace(DOCUMENT, image=replace(DOCUMENT.image, registry="http://h\n.other")),
        replace(DOCUMENT, image=replace(DOCUMENT.image, author="no pem")),
        replace(DOCUMENT, image=replace(DOCUMENT.image, author=AUTHOR + AUTHOR)),
        replace(DOCUMENT, provisioning=replace(DOCUMENT.provisioning, url="http://127.0.0.1:1")),
        replace(DOCUMENT, args=("nul\0",)),
        replace(DOCUMENT, env=(("1BAD", "x"),)),
        replace(DOCUMENT, secrets=(SecretUse("both", "kbs:///a/b/c", file="/x", env="X"),)),
        replace(DOCUMENT, secrets=(SecretUse("none", "kbs:///a/b/c"),)),
        replace(DOCUMENT, secrets=(SecretUse("dots", "kbs:///a/b/c", file="/run/../etc/passwd"),)),
        replace(DOCUMENT, volumes=(DOCUMENT.volumes[0], DOCUMENT.volumes[0])),
        replace(DOCUMENT, volumes=(VolumeUse("a-name-of-17-char", "/data", "kbs:///a/b/c"),)),
        replace(DOCUMENT, volumes=(*DOCUMENT.volumes, VolumeUse("more", "/data", "kbs:///a/b/c"))),
        replace(DOCUMENT, volumes=(VolumeUse("db", "/run/secrets/db", "kbs:///a/b/c"),)),
        replace(DOCUMENT, env=(("API_KEY", "x"),)),
        replace(DOCUMENT, secrets=(*DOCUMENT.secrets, SecretUse("two", "kbs:///a/b/c", env="API_KEY"))),
        replace(DOCUMENT, secrets=(*DOCUMENT.secrets, SecretUse("two", "kbs:///a/b/c", file="/run/secrets/db"))),
    ],
)
def test_bad_values_are_refused(document: LaunchDocument) -> None:
    with pytest.raises(MalformedError) as caught:
        build_document(document)
    assert caught.value.code == "document-malformed"


@pytest.mark.parametrize(
    "text", [b"a." * 60000 + b"b = 1", b"[a" + b" . a" * 60000 + b"]", b"a = {b" + b".'b'" * 60000 + b" = 1}"]
)
def test_keys_of_many_parts_cost_no_minutes(text: bytes) -> None:
    begin = time.monotonic()
    with pytest.raises(MalformedError) as caught:
        parse_document(text)
    assert caught.value.code == "document-malformed"
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"0.1.0", b"0.2.0", "document-malformed"),
        (b'sha256"\n\n[data]', b'sha512"\n\n[data]', "document-malformed"),
        (b"version = 1", b"version = 2", "document-malformed"),
        (b"port = 8080", b"port = 0", "field-range"),
        (b"port = 8080", b'port = "x"', "field-type"),
        (b"port = 8080", b"port = 8080\nextra = 1", "field-unknown"),
        (b"port = 8080\n", b"", "field-missing"),
        (b"[data]", b"[data", "document-malformed"),
        (b"port = 8080", b"port = 8080\nport = 8081", "document-malformed"),
    ],
)
def test_changed_documents_are_refused(old: bytes, new: bytes, code: str) -> None:
    data = build_document(DOCUMENT)
    assert old in data
    with pytest.raises(MalformedError) as caught:
        parse_document(data.replace(old, new, 1))
    assert caught.value.code == code


def test_size_is_bounded_before_parsing() -> None:
    with pytest.raises(MalformedError) as caught:
        parse_document(b"#" * (DOCUMENT_LIMIT + 1))
    assert caught.value.code == "document-malformed"


@given(st.binary(max_size=300))
def test_noise_is_refused_with_a_code(noise: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_document(noise)


@given(st.binary(max_size=2000))
def test_disk_survives(data: bytes) -> None:
    raw = write_disk(data)
    assert len(raw) % 512 == 0
    assert read_disk(raw) == data
    assert read_disk(raw + bytes(4096)) == data


def test_initdata_of_confidential_containers_has_the_published_digest() -> None:
    text = b"version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"a.txt\" = '''hi'''\n"
    assert document_digest(text).hex() == "fd03e8704ab12bd9f7a4525a1f6fcc5ba96969454d7a0855117493a4033df660"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"initdatX" + bytes(8),
        write_disk(b"x")[:20],
        b"initdata" + (2**60).to_bytes(8, "little"),
        b"initdata" + (4).to_bytes(8, "little") + b"oops",
        write_disk(bytes(DOCUMENT_LIMIT + 1)),
        b"initdata" + (22).to_bytes(8, "little") + write_disk(b"")[16:],
    ],
)
def test_bad_disks_are_refused(raw: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        read_disk(raw)
    assert caught.value.code == "document-disk-malformed"
