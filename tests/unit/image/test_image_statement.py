"""Signatures, envelopes and statements: pure parts, with every refusal."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import KokonError, MalformedError, UntrustedError
from kokon.image.dsse import (
    ENVELOPE_LIMIT,
    IN_TOTO_TYPE,
    Envelope,
    envelope_from,
    parse_envelope,
    pre_authentication,
    sign_envelope,
    verify_envelope,
)
from kokon.image.ecdsa import key_id, load_public_key, public_pem, sign
from kokon.image.signature import parse_payload, signature_tag, verify_signature
from kokon.image.signing.forms import simple_payload
from kokon.image.statement import (
    GuestReference,
    Kek,
    ReferenceEntry,
    Statement,
    check_kid,
    encode_statement,
    format_time,
    parse_statement,
    parse_time,
    read_statement,
)
from kokon.jose.jwe import encrypt_to
from support.sealed import AUTHOR, NOW, OWNER

DIGEST = "sha256:" + "a" * 64
PEM = public_pem(AUTHOR.public_key())
STRANGER = ec.generate_private_key(ec.SECP384R1())
STATEMENT = Statement(
    subject=DIGEST,
    name="127.0.0.1:5000/clinic",
    author="Ada Löwe",
    created=NOW,
    not_after=NOW + timedelta(days=1),
    layers=(DIGEST,),
    config="sha256:" + "b" * 64,
    kek=Kek("kbs:///default/kek/1", encrypt_to(OWNER.public_key(), bytes(32))),
    entrypoint=("/bin/app",),
    args=("--port", "8080"),
    args_may_vary=True,
    env=("LANG",),
    ports=("8080/tcp",),
    volumes=("/data",),
    secrets=("db",),
    guest=GuestReference("c" * 64, "6.12"),
    reference=(ReferenceEntry("simulated", 2, "max", bytes(48)),),
)


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(KokonError) as caught:
        action()
    return caught.value.code


def test_statement_round_trip() -> None:
    envelope = sign_envelope(encode_statement(STATEMENT), AUTHOR)
    data = json.dumps(envelope.as_dict()).encode()
    for form in (envelope, data, json.loads(data)):
        assert read_statement(form, PEM, subject=DIGEST, now=NOW) == STATEMENT
    bare = replace(STATEMENT, guest=None, reference=())
    assert parse_statement(encode_statement(bare)) == bare


def test_a_statement_without_a_version_keeps_its_bytes() -> None:
    """What was signed before there were versions is read, and written as it was."""
    assert b"version" not in encode_statement(STATEMENT)
    for version in ("1.4.2", "1.4", "1.5.0-rc.1+x"):
        said = replace(STATEMENT, version=version)
        assert json.loads(encode_statement(said))["predicate"]["version"] == version
        assert parse_statement(encode_statement(said)) == said
    assert code_of(lambda: encode_statement(replace(STATEMENT, version="v1"))) == "version-malformed"


def test_arguments_are_fixed_where_a_statement_does_not_say() -> None:
    document = json.loads(encode_statement(STATEMENT))
    del document["predicate"]["argsMayVary"]
    assert not parse_statement(json.dumps(document).encode()).args_may_vary


def test_statement_refusals() -> None:
    envelope = sign_envelope(encode_statement(STATEMENT), AUTHOR)
    pem = public_pem(STRANGER.public_key())
    assert code_of(lambda: read_statement(envelope, pem, subject=None, now=NOW)) == "statement-author-unknown"
    other = "sha256:" + "0" * 64
    assert code_of(lambda: read_statement(envelope, PEM, subject=other, now=NOW)) == "statement-subject-mismatch"
    late = NOW + timedelta(days=1)
    assert code_of(lambda: read_statement(envelope, PEM, subject=None, now=late)) == "statement-expired"
    just = NOW + timedelta(days=1, seconds=-1)
    assert read_statement(envelope, PEM, subject=None, now=just)


def changed(path: str, value: Any) -> bytes:
    document = json.loads(encode_statement(STATEMENT))
    target = document
    *parents, last = path.split(".")
    for parent in parents:
        target = target[int(parent) if parent.isdigit() else parent]
    target[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("_type", "https://in-toto.io/Statement/v0.1", "statement-malformed"),
        ("predicateType", "https://slsa.dev/provenance/v1", "statement-malformed"),
        ("subject", [], "statement-malformed"),
        ("subject.0.digest", {"sha512": "x"}, "field-missing"),
        ("subject.0.digest.sha256", "A" * 64, "digest-malformed"),
        ("predicate.layers", ["sha256:1"], "digest-malformed"),
        ("predicate.config", "md5:1", "digest-malformed"),
        ("predicate.created", "2026-11-23 12:00:00", "time-malformed"),
        ("predicate.notAfter", "2026-02-30T00:00:00Z", "time-malformed"),
        ("predicate.env", [1], "statement-malformed"),
        ("predicate.argsMayVary", 1, "field-type"),
        ("predicate.kek.kid", "https://x/a/b/c", "kid-malformed"),
        ("predicate.kek.more", 1, "field-unknown"),
        ("predicate.guest.digest", 5, "field-type"),
        ("predicate.reference.0.measurement", "00", "size-mismatch"),
        ("predicate.reference.0.vcpus", 0, "field-range"),
        ("predicate.version", "v1.4.2", "version-malformed"),
        ("predicate.version", "", "version-malformed"),
        ("predicate.version", "1" * 129, "field-too-long"),
        ("predicate.version", 1, "field-type"),
        ("predicate.version", None, "field-type"),
        ("predicate.more", 1, "field-unknown"),
        ("more", 1, "field-unknown"),
    ],
)
def test_malformed_statements(path: str, value: Any, code: str) -> None:
    data = changed(path, value)
    assert code_of(lambda: parse_statement(data)) == code


@settings(max_examples=80)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_statement_parser_reads_or_refuses(noise: bytes, position: int, value: int) -> None:
    damaged = bytearray(encode_statement(STATEMENT))
    damaged[position % len(damaged)] = value
    for data in (noise, bytes(damaged)):
        try:
            parse_statement(data)
        except MalformedError:
            pass


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_envelope_is_believed(position: int, flip: int) -> None:
    envelope = sign_envelope(b"payload", AUTHOR)
    signature = bytearray(envelope.signatures[0][1])
    signature[position % len(signature)] ^= flip
    payload = bytearray(envelope.payload)
    payload[position % len(payload)] ^= flip
    for forged in (
        Envelope(envelope.payload_type, envelope.payload, (("", bytes(signature)),)),
        Envelope(envelope.payload_type, bytes(payload), envelope.signatures),
    ):
        with pytest.raises(UntrustedError):
            verify_envelope(forged, PEM)


def test_envelopes() -> None:
    assert pre_authentication("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    envelope = sign_envelope(b"payload", AUTHOR)
    assert envelope.signatures[0][0] == key_id(AUTHOR.public_key())
    assert envelope_from(envelope.as_dict()) == envelope
    assert verify_envelope(envelope, PEM) == b"payload"
    both = replace(envelope, signatures=(("x", b"garbage"), *envelope.signatures))
    assert verify_envelope(both, PEM.encode()) == b"payload"
    assert code_of(lambda: verify_envelope(envelope, PEM, "text/plain")) == "dsse-payload-type"
    members = envelope.as_dict()
    assert code_of(lambda: envelope_from({**members, "signatures": []})) == "dsse-unsigned"
    assert code_of(lambda: envelope_from({**members, "more": 1})) == "field-unknown"
    assert code_of(lambda: envelope_from({**members, "signatures": [{"sig": "?"}]})) == "base64-malformed"
    assert code_of(lambda: envelope_from({**members, "signatures": [{"sig": "", "x": 1}]})) == "field-unknown"
    assert code_of(lambda: parse_envelope(b" " * (ENVELOPE_LIMIT + 1))) == "json-too-large"
    assert code_of(lambda: envelope_from([])) == "field-type"
    assert members["payloadType"] == IN_TOTO_TYPE


@given(st.binary(max_size=300))
def test_envelope_parser_reads_or_refuses(data: bytes) -> None:
    try:
        parse_envelope(data)
    except MalformedError:
        pass


def test_keys() -> None:
    assert load_public_key(public_pem(STRANGER.public_key())).curve.name == "secp384r1"
    wrong_kind = (
        rsa.generate_private_key(65537, 2048)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    wrong_curve = public_pem(ec.generate_private_key(ec.SECP256K1()).public_key())
    for bad in (
        b"",
        b"x" * 20_000,
        wrong_kind,
        wrong_curve,
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    ):
        assert code_of(lambda bad=bad: load_public_key(bad)) == "key-malformed"  # type: ignore[misc]


def test_cosign_signatures() -> None:
    payload = simple_payload("127.0.0.1:5000/clinic", DIGEST)
    assert payload == (
        b'{"critical":{"identity":{"docker-reference":"127.0.0.1:5000/clinic"},"image":{"docker-manifest-digest":"'
        + DIGEST.encode()
        + b'"},"type":"cosign container image signature"},"optional":null}'
    )
    signature = sign(AUTHOR, payload)
    verify_signature(DIGEST, payload, signature, PEM)
    assert code_of(lambda: verify_signature(DIGEST, payload + b" ", signature, PEM)) == "image-author-unknown"
    assert code_of(lambda: verify_signature(DIGEST, payload, b"", PEM)) == "image-author-unknown"
    other = "sha256:" + "0" * 64
    assert code_of(lambda: verify_signature(other, payload, signature, PEM)) == "signature-image-mismatch"
    assert signature_tag(DIGEST) == "sha256-" + "a" * 64 + ".sig"
    wrong = json.loads(payload)
    wrong["critical"]["type"] = "atomic container signature"
    assert code_of(lambda: parse_payload(json.dumps(wrong).encode())) == "signature-payload"
    assert code_of(lambda: parse_payload(b'{"critical":{}}')) == "field-missing"


@given(st.binary(max_size=300))
def test_payload_parser_reads_or_refuses(data: bytes) -> None:
    try:
        parse_payload(data)
    except MalformedError:
        pass


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9998, 1, 1)))  # noqa: DTZ001
def test_times(when: datetime) -> None:
    when = when.replace(tzinfo=UTC, microsecond=0)
    assert parse_time(format_time(when)) == when


@given(st.text(max_size=30))
def test_other_times_are_refused(text: str) -> None:
    try:
        when = parse_time(text)
    except MalformedError:
        return
    assert format_time(when) == text


@pytest.mark.parametrize(
    "kid", ["kbs:///a/b", "kbs:///a/b/c/d", "kbs:///a/b/../c", "kbs://h/a/b/c", "kbs:///.a/b/c", ""]
)
def test_bad_key_addresses(kid: str) -> None:
    assert code_of(lambda: check_kid(kid)) == "kid-malformed"


def test_independent_dsse_verifier_agrees() -> None:
    """The envelope checked with nothing of ours: as any DSSE tool would."""
    members = sign_envelope(b"payload", AUTHOR).as_dict()
    payload = base64.b64decode(members["payload"])
    message = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    from cryptography.hazmat.primitives import hashes

    signature = base64.b64decode(members["signatures"][0]["sig"])
    AUTHOR.public_key().verify(signature, message, ec.ECDSA(hashes.SHA256()))
