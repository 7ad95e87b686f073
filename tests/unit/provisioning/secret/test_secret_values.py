"""Secrets as they are stored, made, derived and asked for."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError
from kokon.provisioning.secret.derive import SCOPES, derive, encode_info, make_base
from kokon.provisioning.secret.generate import generate, parse_recipe
from kokon.provisioning.secret.request import parse_put, parse_rotate
from kokon.provisioning.secret.value import Secret, decode_secret, encode_secret
from kokon.provisioning.secret.versions import choose, surplus
from kokon.wire import b64

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def counting(size: int) -> bytes:
    return bytes(number % 256 for number in range(size))


@given(st.binary(min_size=1, max_size=200), st.sampled_from(["given", "generated", "derived"]), st.text(max_size=20))
def test_a_record_keeps_everything(value: bytes, kind: str, recipe: str) -> None:
    secret = Secret(kind, value, recipe)
    assert decode_secret(encode_secret(secret)) == secret


def test_a_value_is_in_no_repr() -> None:
    assert "geheim" not in repr(Secret("given", b"geheim"))
    body = json.dumps({"value": b64(b"geheim")}).encode()
    assert "geheim" not in repr(parse_put(body, NOW))


@given(st.binary(max_size=300))
def test_any_record_is_read_or_refused(data: bytes) -> None:
    try:
        decode_secret(data)
    except KokonError as error:
        assert error.code


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (b"", "secret-record"),
        (b"{}", "secret-record"),
        (b"{}\nx", "field-missing"),
        (b'{"kind":"other","public":"","recipe":"","version":1}\nx', "secret-record"),
        (b'{"kind":"given","public":"","recipe":"","version":1}\n', "resource-size"),
        (b'{"kind":"given","more":1,"public":"","recipe":"","version":1}\nx', "field-unknown"),
        (b'{"kind":"given","public":"","recipe":"","version":2}\nx', "field-range"),
    ],
)
def test_bad_records(record: bytes, code: str) -> None:
    with pytest.raises(KokonError) as caught:
        decode_secret(record)
    assert caught.value.code == code


def test_plain_recipes() -> None:
    assert generate(parse_recipe("bytes:32"), counting).value == bytes(range(32))
    assert generate(parse_recipe("hex:16"), counting).value == bytes(range(16)).hex().encode()
    assert generate(parse_recipe("base64:16"), counting).value == b64(bytes(range(16))).encode()
    made = generate(parse_recipe("password:20"), counting)
    assert made.value.isalnum()
    assert len(made.value) == 20
    assert (made.kind, made.recipe, made.public) == ("generated", "password:20", "")


def test_passwords_favour_no_letter() -> None:
    """Bytes from 248 on would make the first letters likelier: they are not used."""
    made = generate(parse_recipe("password:16"), lambda size: (bytes([255, 250, 248, 61]) * size)[:size])
    assert set(made.value) == {ord("9")}


@pytest.mark.parametrize("recipe", ["ed25519", "x25519", "p256", "p384", "rsa3072"])
def test_key_pairs(recipe: str) -> None:
    made = generate(parse_recipe(recipe), counting)
    public = load_pem_private_key(made.value, None).public_key()
    assert public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() == made.public
    assert generate(parse_recipe(recipe), counting).value != made.value


@pytest.mark.parametrize("recipe", ["", "bytes", "bytes:15", "bytes:1025", "bytes:016", "hex:-1", "dsa", "rsa1024"])
def test_bad_recipes(recipe: str) -> None:
    with pytest.raises(KokonError) as caught:
        parse_recipe(recipe)
    assert caught.value.code == "secret-recipe"


WHO = {"project": "p", "path": "a/b/c", "version": 1, "workload": "w", "platform": "ab" * 64, "activation": "t"}


def test_derivation_is_hkdf() -> None:
    base = make_base("workload", counting).value
    parts = ["kokon derived secret 1", "workload", "p", "a/b/c", "1", "w"]
    extracted = hmac.digest(bytes(32), base, "sha256")
    expected = hmac.digest(extracted, encode_info(parts) + b"\x01", "sha256")
    assert derive(base, scope="workload", **WHO) == expected


@pytest.mark.parametrize("scope", SCOPES)
def test_what_a_derived_secret_depends_on(scope: str) -> None:
    base = make_base(scope, counting).value
    matters = {"project", "path", "version", "workload", *({"platform", "activation"} & {scope})}
    known = derive(base, scope=scope, **WHO)
    for name, value in WHO.items():
        other = value + 1 if isinstance(value, int) else value + "00"
        assert (derive(base, scope=scope, **{**WHO, name: other}) != known) == (name in matters), name
    assert derive(hashlib.sha256(base).digest(), scope=scope, **WHO) != known


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_no_two_lists_are_encoded_alike(one: list[str], other: list[str]) -> None:
    assert (encode_info(one) == encode_info(other)) == (one == other)


def test_no_chip_no_secret_of_a_chip() -> None:
    for platform in ("", "00" * 64):
        with pytest.raises(KokonError) as caught:
            derive(bytes(32), scope="platform", **{**WHO, "platform": platform})
        assert caught.value.code == "secret-platform-unknown"
    with pytest.raises(KokonError) as caught:
        make_base("person", counting)
    assert caught.value.code == "secret-scope"


def test_requests() -> None:
    body = json.dumps({"generate": "hex:16", "expires": "2026-12-01T00:00:00+00:00", "previous": 0, "keep": 3})
    request = parse_put(body.encode(), NOW)
    assert str(request.recipe) == "hex:16"
    assert (request.terms.previous, request.terms.keep) == (0, 3)
    assert request.terms.expires == datetime(2026, 12, 1, tzinfo=UTC)
    assert parse_rotate(b"", NOW).keep is None


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({}, "secret-request"),
        ({"value": "eA==", "generate": "hex:16"}, "secret-request"),
        ({"value": "eA==", "expires": "2026-11-27T11:00:00Z"}, "secret-request"),
        ({"value": "eA==", "expires": "2027-11-27T11:00:00"}, "secret-request"),
        ({"value": "eA==", "expires": "soon"}, "secret-request"),
        ({"derive": "person"}, "secret-scope"),
        ({"value": "!"}, "base64-malformed"),
        ({"value": "eA==", "more": 1}, "field-unknown"),
    ],
)
def test_bad_requests(members: dict[str, object], code: str) -> None:
    with pytest.raises(KokonError) as caught:
        parse_put(json.dumps(members).encode(), NOW)
    assert caught.value.code == code


@given(st.binary(max_size=200))
def test_any_request_is_read_or_refused(data: bytes) -> None:
    for parse in (parse_put, parse_rotate):
        try:
            parse(data, NOW)
        except KokonError as error:
            assert error.code


@dataclass(frozen=True)
class Kept:
    version: int
    expires: datetime | None = None


def test_which_version_is_released() -> None:
    over, later = NOW, NOW + timedelta(seconds=1)
    kept = [Kept(1), Kept(2, later), Kept(3, over)]
    assert choose(kept, None, NOW, "a/b/c") == 2
    assert choose(kept, 1, NOW, "a/b/c") == 1
    for wanted, of, code in ((3, kept, "secret-expired"), (None, kept[2:], "secret-expired")):
        with pytest.raises(KokonError) as caught:
            choose(of, wanted, NOW, "a/b/c")
        assert caught.value.code == code
    for wanted, of in ((4, kept), (None, [])):
        with pytest.raises(KokonError) as caught:
            choose(of, wanted, NOW, "a/b/c")
        assert caught.value.code == "resource-unknown"


def test_which_versions_go() -> None:
    kept = [Kept(1), Kept(3), Kept(4)]
    assert surplus(kept, None) == ()
    assert surplus(kept, 1) == (1, 3, 4)
    assert surplus(kept, 3) == (1,)
    assert surplus(kept, 9) == ()
