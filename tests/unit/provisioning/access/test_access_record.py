"""Principals as bytes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from access_kit import NOW, PRINCIPALS, principal
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.provisioning.access.principal import Credential, Principal
from kokon.provisioning.access.record import RECORD_LIMIT, decode_principal, describe, encode_principal, read_time
from kokon.provisioning.access.roles import Role
from kokon.provisioning.access.scope import GRANTS_LIMIT, Grant

ADA = principal(Role.OPERATOR, Grant("bank", "clinic/*/*"), expires=NOW + timedelta(days=1))
RECORD = encode_principal(ADA)


def changed(**members: Any) -> bytes:
    return json.dumps({**json.loads(RECORD), **members}).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in json.loads(RECORD).items() if key != name}).encode()


def test_the_form() -> None:
    assert json.loads(RECORD) == {
        "version": 1,
        "id": "abcdefgh2345",
        "name": "Ada",
        "role": "operator",
        "scopes": [{"project": "bank", "path": "clinic/*/*"}],
        "created": "2026-11-27T09:00:00Z",
        "expires": "2026-11-28T09:00:00Z",
        "credential": {"kind": "token", "sha256": "64" * 32},
    }
    shown = describe(ADA)
    assert shown == {**{name: shown[name] for name in json.loads(RECORD) if name != "version"}, "credential": "token"}
    assert "64" * 32 not in json.dumps(shown)
    assert "expires" not in describe(principal())


@given(PRINCIPALS, st.sampled_from(["token", "certificate"]), st.binary(min_size=32, max_size=32))
def test_round_trip(somebody: Principal, kind: Any, digest: bytes) -> None:
    whole = principal(somebody.role, *somebody.scopes, expires=somebody.expires, credential=Credential(kind, digest))
    assert decode_principal(encode_principal(whole)) == whole


@given(st.datetimes(timezones=st.just(UTC)))
def test_times(moment: datetime) -> None:
    """Also those of years with fewer than four digits."""
    whole = principal(created=moment)
    assert decode_principal(encode_principal(whole)).created == moment.replace(microsecond=0)


def test_the_longest_record_fits() -> None:
    scopes = [Grant("p" * 40, "/".join(["x" * 126 + f"{number:02}"] * 8)) for number in range(GRANTS_LIMIT)]
    record = encode_principal(principal(Role.OWNER, *scopes, name="x" * 64, expires=NOW + timedelta(days=1)))
    assert len(record) < RECORD_LIMIT
    assert decode_principal(record).scopes == tuple(scopes)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "json-malformed"),
        (b"[]", "field-type"),
        (RECORD + b"{}", "json-malformed"),
        (RECORD[:-1] + b',"role":"owner"}', "json-malformed"),
        (RECORD + b" " * RECORD_LIMIT, "json-too-large"),
        (changed(version=2), "principal-malformed"),
        (changed(role="admin"), "principal-malformed"),
        (changed(role="OWNER"), "principal-malformed"),
        (changed(role=["owner"]), "field-type"),
        (changed(scopes=[]), "scope-malformed"),
        (changed(scopes=json.loads(RECORD)["scopes"] * 2), "scope-malformed"),
        (changed(scopes=json.loads(RECORD)["scopes"] * 65), "field-too-long"),
        (changed(scopes=[{"project": "*"}]), "field-missing"),
        (changed(scopes=[{"project": "*", "path": "*", "role": "owner"}]), "field-unknown"),
        (changed(scopes=[{"project": "", "path": "*"}]), "scope-malformed"),
        (changed(scopes=["*"]), "field-type"),
        (changed(expires=None), "field-type"),
        (changed(expires="2026-11-27T09:00:00Z"), "principal-malformed"),
        (changed(expires="2026-11-28T09:00:00+00:00"), "principal-malformed"),
        (changed(expires="2026-11-28"), "principal-malformed"),
        (changed(expires="2026-02-30T09:00:00Z"), "principal-malformed"),
        (changed(expires="٢٠٢٦-11-28T09:00:00Z"), "principal-malformed"),
        (changed(created="2026-11-27T09:00:00Z\n"), "principal-malformed"),
        (changed(created=0), "field-type"),
        (changed(id="x"), "principal-malformed"),
        (changed(name="a\nb"), "principal-malformed"),
        (changed(more=1), "field-unknown"),
        (changed(credential={"kind": "password", "sha256": "64" * 32}), "principal-malformed"),
        (changed(credential={"kind": "token", "sha256": "64" * 31}), "size-mismatch"),
        (changed(credential={"kind": "token", "sha256": "zz" * 32}), "hex-malformed"),
        (changed(credential={"kind": "token"}), "field-missing"),
        (changed(credential={"kind": "token", "sha256": "64" * 32, "x": 1}), "field-unknown"),
        (changed(credential="token"), "field-type"),
        *((without(name), "field-missing") for name in json.loads(RECORD) if name != "expires"),
    ],
)
def test_malformed_records(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_principal(data)
    assert caught.value.code == code


def test_without_an_end() -> None:
    assert decode_principal(without("expires")).expires is None


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_principal(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(json.loads(RECORD))), JSON, min_size=1))
def test_any_change_is_refused_or_read_back_as_it_is(members: dict[str, Any]) -> None:
    try:
        found = decode_principal(changed(**members))
    except MalformedError:
        return
    assert decode_principal(encode_principal(found)) == found


@given(st.text(max_size=30))
def test_any_text_as_a_time(text: str) -> None:
    with pytest.raises(MalformedError):
        read_time(text)
