"""What the admin interface may be told of secrets, and that no refusal repeats a value."""

from __future__ import annotations

import base64
import json
import traceback
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError
from kokon.provisioning.secret.derive import SCOPES
from kokon.provisioning.secret.generate import parse_recipe
from kokon.provisioning.secret.request import BODY_LIMIT, KEEP_LIMIT, Terms, parse_put, parse_rotate
from kokon.provisioning.secret.value import VALUE_LIMIT

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
RECIPES = ["bytes:32", "hex:16", "base64:1024", "password:256", "uuid", "ed25519", "rsa4096"]


def refused(members: Any) -> KokonError:
    body = members if isinstance(members, bytes) else json.dumps(members).encode()
    with pytest.raises(KokonError) as caught:
        parse_put(body, NOW)
    return caught.value


MOMENTS = st.datetimes(
    datetime(2026, 11, 29),  # noqa: DTZ001
    datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
TERMS = st.fixed_dictionaries(
    {},
    optional={"expires": MOMENTS, "previous": st.integers(0, 2**53), "keep": st.integers(1, KEEP_LIMIT)},
)
HOW = st.one_of(
    st.tuples(st.just("value"), st.binary(min_size=1, max_size=100)),
    st.tuples(st.just("generate"), st.sampled_from(RECIPES)),
    st.tuples(st.just("derive"), st.sampled_from(SCOPES)),
)


@given(HOW, TERMS)
def test_every_good_request_is_understood(how: tuple[str, Any], terms: dict[str, Any]) -> None:
    name, given_ = how
    written = {**terms, "expires": terms["expires"].isoformat()} if "expires" in terms else terms
    text = base64.b64encode(given_).decode() if name == "value" else given_
    request = parse_put(json.dumps({name: text, **written}).encode(), NOW)
    recipe = None if request.recipe is None else str(request.recipe)
    assert {"value": request.value, "generate": recipe, "derive": request.scope} == {
        "value": None,
        "generate": None,
        "derive": None,
        name: given_,
    }
    assert request.terms == parse_rotate(json.dumps(written).encode(), NOW) == Terms(**terms)
    if request.terms.expires is not None:
        assert request.terms.expires.tzinfo is UTC


MEMBERS = st.dictionaries(
    st.sampled_from(["value", "generate", "derive", "expires", "previous", "keep", "other"]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=12),
        st.sampled_from(["eA==", "bytes:32", "workload", "2027-01-01T00:00:00Z"]),
        st.lists(st.integers(), max_size=2),
        st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    ),
    max_size=5,
)


@given(MEMBERS)
def test_any_object_is_understood_or_refused(members: dict[str, Any]) -> None:
    """What is let through holds what `PutRequest` promises."""
    try:
        request = parse_put(json.dumps(members).encode(), NOW)
    except KokonError:
        return
    assert [request.value, request.recipe, request.scope].count(None) == 2
    assert request.value is None or 0 < len(request.value) <= VALUE_LIMIT
    assert request.scope is None or request.scope in SCOPES
    assert request.recipe is None or parse_recipe(str(request.recipe)) == request.recipe
    terms = request.terms
    assert terms.expires is None or terms.expires > NOW
    assert terms.previous is None or (type(terms.previous) is int and terms.previous >= 0)
    assert terms.keep is None or (type(terms.keep) is int and 1 <= terms.keep <= KEEP_LIMIT)
    assert set(members) <= {"value", "generate", "derive", "expires", "previous", "keep"}


@pytest.mark.parametrize(
    "names",
    [(), ("value", "generate"), ("value", "derive"), ("generate", "derive"), ("value", "generate", "derive")],
)
def test_exactly_one_of_given_generated_derived(names: tuple[str, ...]) -> None:
    good = {"value": "eA==", "generate": "uuid", "derive": "workload"}
    assert refused({name: good[name] for name in names}).code == "secret-request"


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-27T12:00:00Z",
        "2026-11-27T13:00:00+01:00",
        "2027-01-01",
        "2027-01-01T00:00:00",
        "2027-01-01 00:00:00Z",
        "20270101T000000Z",
        "2027-W01-1T00:00:00Z",
        "2027-01-01T00Z",
        "2027-01-01T00:00:00,5Z",
        "2027-01-01T00:00:00+00:00:30",
        "2027-01-01T24:00:00Z",
        "2027-02-29T00:00:00Z",
        "2027-01-01T00:00:00Z\n",
        "\u0662027-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "never",
        "",
    ],
)
def test_bad_ends(text: str) -> None:
    """No RFC 3339, not after now, or beyond what a time in UTC can be."""
    assert refused({"value": "eA==", "expires": text}).code == "secret-request"
    with pytest.raises(KokonError) as caught:
        parse_rotate(json.dumps({"expires": text}).encode(), NOW)
    assert caught.value.code == "secret-request"


def test_the_first_and_the_last_end() -> None:
    for text, expected in (
        ("2026-11-27T12:00:00.000001Z", NOW + timedelta(microseconds=1)),
        ("2026-11-27T11:30:00-01:00", NOW + timedelta(minutes=30)),
        ("2027-01-01T00:00:00.123456789Z", datetime(2027, 1, 1, microsecond=123456, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ):
        assert parse_rotate(json.dumps({"expires": text}).encode(), NOW).expires == expected


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"keep": 0}, "field-range"),
        ({"keep": KEEP_LIMIT + 1}, "field-range"),
        ({"keep": True}, "field-type"),
        ({"keep": None}, "field-type"),
        ({"keep": 1.0}, "field-type"),
        ({"previous": -1}, "field-range"),
        ({"previous": None}, "field-type"),
        ({"previous": "1"}, "field-type"),
        ({"expires": None}, "field-type"),
        ({"expires": 1}, "field-type"),
        ({"other": 1}, "field-unknown"),
    ],
)
def test_bad_terms(members: dict[str, Any], code: str) -> None:
    assert refused({"value": "eA==", **members}).code == code
    with pytest.raises(KokonError) as caught:
        parse_rotate(json.dumps(members).encode(), NOW)
    assert caught.value.code == code


@pytest.mark.parametrize("members", [{"value": "eA=="}, {"generate": "uuid"}, {"derive": "workload"}])
def test_a_rotation_does_not_say_how(members: dict[str, str]) -> None:
    with pytest.raises(KokonError) as caught:
        parse_rotate(json.dumps(members).encode(), NOW)
    assert caught.value.code == "field-unknown"


def test_a_rotation_may_be_empty() -> None:
    assert parse_rotate(b"", NOW) == parse_rotate(b"{}", NOW) == Terms()


def test_sizes() -> None:
    largest = base64.b64encode(bytes(VALUE_LIMIT)).decode()
    assert parse_put(json.dumps({"value": largest}).encode(), NOW).value == bytes(VALUE_LIMIT)
    for size in (0, VALUE_LIMIT + 1, VALUE_LIMIT + 100):
        assert refused({"value": base64.b64encode(bytes(size)).decode()}).code == "resource-size"
    assert refused(b" " * (BODY_LIMIT + 1)).code == "json-too-large"
    assert refused({"generate": "g" * 65}).code == refused({"derive": "d" * 65}).code == "field-too-long"


@pytest.mark.parametrize("generate", ["", "bytes:8", "password:257", "rsa1024"])
def test_bad_recipes_of_a_request(generate: str) -> None:
    assert refused({"generate": generate}).code == "secret-recipe"


@pytest.mark.parametrize("derive", ["", "enclave", "Workload"])
def test_bad_scopes_of_a_request(derive: str) -> None:
    assert refused({"derive": derive}).code == "secret-scope"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"value": "Žš"}'.encode(), "base64-malformed"),
        (b'{"value": "\\u017d\\u0161"}', "base64-malformed"),
        (b'{"value": "\xdd\xde"}', "json-malformed"),
        (b'{"value": "eA==", "value": "eQ=="}', "json-malformed"),
        (b"{", "json-malformed"),
        (b"[1]", "field-type"),
    ],
)
def test_a_refusal_repeats_nothing_of_the_body(body: bytes, code: str) -> None:
    """What is no base64, or no JSON, may be a value that somebody forgot to encode."""
    error = refused(body)
    told = "".join(traceback.format_exception(error)) + json.dumps(error.as_dict())
    assert error.code == code
    for part in ("Ž", "š", r"\x", r"\u", "0xdd", "eA==", "eQ=="):
        assert part not in told


@pytest.mark.parametrize("value", [b"correct horse", b"\x00\xff" * 20])
def test_no_text_of_a_request_shows_its_value(value: bytes) -> None:
    text = base64.b64encode(value).decode()
    shown = repr(parse_put(json.dumps({"value": text, "keep": 7}).encode(), NOW))
    assert "keep=7" in shown
    for form in (repr(value)[2:-1], text, value.hex()):
        assert form not in shown
