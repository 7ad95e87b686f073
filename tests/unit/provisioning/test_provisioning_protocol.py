from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import DeniedError, KokonError, MalformedError
from kokon.jose.jwe import public_jwk
from kokon.provisioning.protocol import (
    SESSION_LIFETIME,
    TEES,
    VERSIONS,
    Hello,
    Sessions,
    check_path,
    parse_attestation,
    parse_request,
    resource_path,
    runtime_digest,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY = ec.derive_private_key(int.from_bytes(bytes(range(1, 33)), "big"), ec.SECP256R1())
REQUEST = {"version": "0.4.0", "tee": "snp", "extra-params": {"supported-hash-algorithms": ["sha384"]}}
ATTESTATION: dict[str, Any] = {
    "init-data": None,
    "runtime-data": {"nonce": "abc", "tee-pubkey": public_jwk(KEY)},
    "tee-evidence": {"primary_evidence": {"x": 1}, "additional_evidence": ""},
}


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def test_runtime_digest_vector() -> None:
    # kbs.md a.5, checked there.
    nonce = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    assert runtime_digest(public_jwk(KEY), nonce, "").hex() == (
        "c97fc717bffcdca39b3485d4019c1de4133fc9622ba484e947b417b83ffbae1abbf11747fdebdecaaabc5b407be66821"
    )


def test_request() -> None:
    assert parse_request(encoded(REQUEST)) == Hello("0.4.0", "snp")
    for version in VERSIONS:
        for tee in TEES:
            old = {"version": version, "tee": tee, "extra-params": ""}
            assert parse_request(encoded(old)) == Hello(version, tee)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({**REQUEST, "version": "0.5.0"}, "protocol-version"),
        ({**REQUEST, "version": "0.1.0"}, "protocol-version"),
        ({**REQUEST, "tee": "sample"}, "tee-unsupported"),
        ({**REQUEST, "more": 1}, "field-unknown"),
        ({"version": "0.4.0", "tee": "snp"}, "field-missing"),
        ([], "field-type"),
    ],
)
def test_refused_requests(value: object, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_request(encoded(value))
    assert caught.value.code == code


def test_attestation() -> None:
    parsed = parse_attestation(encoded(ATTESTATION))
    assert parsed.jwk == public_jwk(KEY)
    assert parsed.init_data is None
    without = {name: value for name, value in ATTESTATION.items() if name != "init-data"}
    assert parse_attestation(encoded(without)).nonce == "abc"
    given = {**ATTESTATION, "init-data": {"format": "toml", "body": "a = 1"}}
    assert parse_attestation(encoded(given)).init_data == b"a = 1"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({**ATTESTATION, "init-data": {"format": "json", "body": "{}"}}, "init-data-format"),
        ({**ATTESTATION, "runtime-data": {"nonce": "\ud800", "tee-pubkey": public_jwk(KEY)}}, "json-malformed"),
        ({**ATTESTATION, "runtime-data": {"nonce": "a", "tee-pubkey": {"kty": "oct"}}}, "key-unsupported"),
        ({**ATTESTATION, "tee-evidence": {"quote": ""}}, "field-missing"),
    ],
)
def test_refused_attestations(value: object, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_attestation(encoded(value))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "uri", ["kbs:///a/b", "kbs:///a/b/c/d", "kbs:///a/../c", "kbs:///a/.b/c", "kbs://h/a/b/c", "a/b/c", "kbs:///a/b/\n"]
)
def test_refused_resource_uris(uri: str) -> None:
    with pytest.raises(MalformedError) as caught:
        resource_path(uri)
    assert caught.value.code == "resource-path"


def test_paths() -> None:
    assert resource_path("kbs:///default/kek/1.2") == "default/kek/1.2"
    assert check_path("a/b/c") == "a/b/c"


def test_a_session_admits_one_attestation() -> None:
    sessions = Sessions(os.urandom)
    session = sessions.open(Hello("0.4.0", "snp"), NOW)
    assert sessions.open(Hello("0.4.0", "snp"), NOW).nonce != session.nonce
    assert sessions.token(session.identity, NOW) is None
    assert sessions.spend(session.identity, NOW) is session
    with pytest.raises(DeniedError) as caught:
        sessions.spend(session.identity, NOW)
    assert caught.value.code == "nonce-used"
    sessions.grant(session, "token")
    assert sessions.token(session.identity, NOW) == "token"
    assert sessions.token(session.identity, NOW + SESSION_LIFETIME) is None
    for identity, now in ((None, NOW), ("nobody", NOW), (session.identity, NOW + SESSION_LIFETIME)):
        with pytest.raises(DeniedError) as caught:
            sessions.spend(identity, now)
        assert caught.value.code == "session-unknown"


def test_sessions_are_bounded_in_number_and_age() -> None:
    sessions = Sessions(os.urandom, limit=3)
    first = sessions.open(Hello("0.4.0", "snp"), NOW)
    for _ in range(3):
        sessions.open(Hello("0.4.0", "snp"), NOW + timedelta(seconds=1))
    assert len(sessions) == 3
    with pytest.raises(DeniedError):
        sessions.spend(first.identity, NOW)
    sessions.open(Hello("0.4.0", "snp"), NOW + SESSION_LIFETIME + timedelta(seconds=1))
    assert len(sessions) == 1


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
def test_property_hostile_messages(data: bytes, value: object) -> None:
    for name in ATTESTATION:
        for message in (data, encoded({**ATTESTATION, name: value}), encoded(value)):
            for parse in (parse_request, parse_attestation):
                try:
                    parse(message)
                except KokonError:
                    pass


def test_what_opens_secrets_shows_in_no_repr() -> None:
    sessions = Sessions(os.urandom)
    session = sessions.open(Hello("0.4.0", "snp"), NOW)
    sessions.grant(session, "the-token")
    assert session.identity not in repr(session)
    assert "the-token" not in repr(session)
