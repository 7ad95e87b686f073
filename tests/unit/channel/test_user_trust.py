"""Whom a user trusts: the file, its parser and what is refused."""

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from channel_world import public_pem
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from kokon.channel.trust import (
    FILE_LIMIT,
    UserTrust,
    encode_trust,
    gather_trust,
    key_fingerprint,
    owner_fingerprint,
    parse_trust,
    read_author,
    read_owner,
    read_trust,
    write_trust,
)
from kokon.errors import HostError, KokonError, MalformedError, UsageError
from kokon.provisioning.tls import make_certificate

PEM = public_pem(ec.generate_private_key(ec.SECP256R1()))
ROOT = "ab" * 32
SERVER_KEY = ec.generate_private_key(ec.SECP256R1())
CERTIFICATE = make_certificate(SERVER_KEY, ["127.0.0.1"], datetime.now(UTC)).decode()


def test_trust_survives_writing_and_reading(tmp_path: Path) -> None:
    trust = UserTrust().with_author(PEM).with_author(PEM).with_simulated(ROOT.upper()).with_owner(ROOT.upper())
    path = tmp_path / "home" / "trust.json"
    write_trust(path, trust)
    assert read_trust(path) == trust
    assert trust.authors == (PEM,)
    assert trust.fingerprints() == {key_fingerprint(PEM)}
    assert trust.endorsements.accepted_simulated == {ROOT}
    assert trust.owners == {ROOT}
    assert [file.name for file in path.parent.iterdir()] == ["trust.json"]


def test_nobody_is_trusted_at_first(tmp_path: Path) -> None:
    assert read_trust(tmp_path / "trust.json") == UserTrust()


def test_options_add_for_this_once(tmp_path: Path) -> None:
    (tmp_path / "author.pub").write_text(PEM)
    (tmp_path / "tls.pem").write_text(CERTIFICATE)
    trust = gather_trust(tmp_path / "trust.json", [tmp_path / "author.pub"], [ROOT], [tmp_path / "tls.pem"])
    assert trust == UserTrust().with_author(PEM).with_simulated(ROOT).with_owner(owner_fingerprint(CERTIFICATE))
    assert not (tmp_path / "trust.json").exists()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "json-malformed"),
        (b"[]", "field-type"),
        (b"{}", "field-missing"),
        (b'{"version": 2}', "field-range"),
        (b'{"version": 1, "authors": [1]}', "trust-malformed"),
        (b'{"version": 1, "authors": ["x"]}', "key-malformed"),
        (b'{"version": 1, "simulated": ["abcd"]}', "size-mismatch"),
        (b'{"version": 1, "owners": ["abcd"]}', "size-mismatch"),
        (b'{"version": 1, "owners": [1]}', "trust-malformed"),
        (b'{"version": 1, "simulated": ["xx"]}', "hex-malformed"),
        (b'{"version": 1, "more": 1}', "field-unknown"),
        (b" " * (FILE_LIMIT + 1), "json-too-large"),
    ],
)
def test_bad_files_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_trust(data)
    assert caught.value.code == code


def test_an_owner_is_the_key_of_the_certificate() -> None:
    renewed = make_certificate(SERVER_KEY, ["127.0.0.1", "more.example"], datetime.now(UTC)).decode()
    assert owner_fingerprint(CERTIFICATE) == owner_fingerprint(renewed) == key_fingerprint(public_pem(SERVER_KEY))


@given(st.binary(max_size=100))
def test_any_bytes_are_trust_or_refused(data: bytes) -> None:
    with contextlib.suppress(KokonError):
        trust = parse_trust(data)
        assert parse_trust(encode_trust(trust)) == trust


def test_files_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as usage:
        read_author(tmp_path / "missing.pub")
    assert usage.value.code == "author-unreadable"
    for file, kind, code in (
        ("missing.pem", UsageError, "owner-certificate-unreadable"),
        ("bytes.pem", UsageError, "owner-certificate-unreadable"),
        ("key.pem", MalformedError, "owner-certificate-malformed"),
    ):
        (tmp_path / "bytes.pem").write_bytes(b"\xff")
        (tmp_path / "key.pem").write_text(PEM)
        with pytest.raises(kind) as owner:
            read_owner(tmp_path / file)
        assert owner.value.code == code
    with pytest.raises(HostError) as unreadable:
        read_trust(tmp_path)
    assert unreadable.value.code == "trust-unreadable"
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as unwritable:
        write_trust(tmp_path / "file" / "trust.json", UserTrust())
    assert unwritable.value.code == "trust-unwritable"
