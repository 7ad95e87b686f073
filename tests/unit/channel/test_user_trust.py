"""Whom a user trusts: the file, its parser and what is refused."""

import contextlib
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
    parse_trust,
    read_author,
    read_trust,
    write_trust,
)
from kokon.errors import HostError, KokonError, MalformedError, UsageError

PEM = public_pem(ec.generate_private_key(ec.SECP256R1()))
ROOT = "ab" * 32


def test_trust_survives_writing_and_reading(tmp_path: Path) -> None:
    trust = UserTrust().with_author(PEM).with_author(PEM).with_simulated(ROOT.upper())
    path = tmp_path / "home" / "trust.json"
    write_trust(path, trust)
    assert read_trust(path) == trust
    assert trust.authors == (PEM,)
    assert trust.fingerprints() == {key_fingerprint(PEM)}
    assert trust.trust.accepted_simulated == {ROOT}
    assert [file.name for file in path.parent.iterdir()] == ["trust.json"]


def test_nobody_is_trusted_at_first(tmp_path: Path) -> None:
    assert read_trust(tmp_path / "trust.json") == UserTrust()


def test_options_add_for_this_once(tmp_path: Path) -> None:
    (tmp_path / "author.pub").write_text(PEM)
    trust = gather_trust(tmp_path / "trust.json", [tmp_path / "author.pub"], [ROOT])
    assert trust == UserTrust().with_author(PEM).with_simulated(ROOT)
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
        (b'{"version": 1, "simulated": ["xx"]}', "hex-malformed"),
        (b'{"version": 1, "more": 1}', "field-unknown"),
        (b" " * (FILE_LIMIT + 1), "json-too-large"),
    ],
)
def test_bad_files_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_trust(data)
    assert caught.value.code == code


@given(st.binary(max_size=100))
def test_any_bytes_are_trust_or_refused(data: bytes) -> None:
    with contextlib.suppress(KokonError):
        trust = parse_trust(data)
        assert parse_trust(encode_trust(trust)) == trust


def test_files_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as usage:
        read_author(tmp_path / "missing.pub")
    assert usage.value.code == "author-unreadable"
    with pytest.raises(HostError) as unreadable:
        read_trust(tmp_path)
    assert unreadable.value.code == "trust-unreadable"
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as unwritable:
        write_trust(tmp_path / "file" / "trust.json", UserTrust())
    assert unwritable.value.code == "trust-unwritable"
