"""Projects' names and scopes."""

from __future__ import annotations

import fnmatch

import pytest
from access_kit import GRANTS, PATHS, PLACES
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.provisioning.access.project import DEFAULT, SERVER, check_project, is_project
from kokon.provisioning.access.scope import (
    EVERYTHING,
    GRANTS_LIMIT,
    Grant,
    check_scopes,
    is_path,
    parse_grant,
)


@pytest.mark.parametrize("name", ["a", "0", "default", "my-bank-2", "x" * 40, "a--b"])
def test_names_of_projects(name: str) -> None:
    assert check_project(name) == name
    assert is_project(DEFAULT)


@pytest.mark.parametrize(
    "name", [SERVER, "*", "-a", "a-", "A", "a_b", "a.b", "a/b", "x" * 41, "a\n", "\na", "ä", "a b", "..", "a\0"]
)
def test_what_is_no_name_of_a_project(name: str) -> None:
    with pytest.raises(MalformedError) as caught:
        check_project(name)
    assert caught.value.code == "project-name"


@pytest.mark.parametrize(
    ("pattern", "path", "granted"),
    [
        ("*", "clinic", True),
        ("*", "clinic/secret/db", True),
        ("*", None, True),
        ("clinic", "clinic", True),
        ("clinic", "clinic/secret/db", False),
        ("clinic", None, False),
        ("clinic/*/*", "clinic/secret/db", True),
        ("clinic/*/*", "clinic/secret", False),
        ("clinic/*/*", "clinic/secret/db/more", False),
        ("clinic/*/*", "clinic2/secret/db", False),
        ("clinic/*/*", "Clinic/secret/db", False),
        ("clinic/*/*", None, False),
        ("*/*/*", "clinic/secret/db", True),
        ("*/*/*", "clinic", False),
        ("*/*/*", None, False),
        ("*/secret/db", "clinic/secret/db", True),
        ("*/secret/db", "clinic/kek/db", False),
    ],
)
def test_patterns(pattern: str, path: str | None, granted: bool) -> None:
    assert Grant("bank", pattern).covers("bank", path) is granted
    assert Grant("*", pattern).covers("bank", path) is granted
    assert Grant("*", pattern).covers(SERVER, path) is granted
    assert not Grant("bank", pattern).covers("other", path)
    assert not Grant("bank", pattern).covers(SERVER, path)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/.b", "*", "a/*/c", "a\n", "a b", "ä", "a%2fb", "a\\b"),
        *("a\0", "x" * 129, "/".join("a" * 9)),
    ],
)
def test_what_is_no_path_is_never_granted(path: str) -> None:
    assert not is_path(path)
    for grant in (EVERYTHING, Grant("bank", "*"), Grant("bank", "*/*"), Grant("bank", "*/*/*")):
        assert not grant.covers("bank", path)


@pytest.mark.parametrize("project", ["*", "Bank", "bank/", "a\n", "x" * 41])
def test_what_is_no_project_is_never_granted(project: str) -> None:
    assert not EVERYTHING.covers(project, "a")
    assert not EVERYTHING.covers(project, None)
    assert not EVERYTHING.enters(project)


@pytest.mark.parametrize(
    ("project", "pattern"),
    [
        ("", "*"),
        ("Bank", "*"),
        ("**", "*"),
        ("bank", ""),
        ("bank", "**"),
        ("bank", "a*"),
        ("bank", "a/b*/c"),
        ("bank", "a//c"),
        ("bank", "/a"),
        ("bank", "a/"),
        ("bank", "../a"),
        ("bank", "a/?"),
        ("bank", "a\n"),
        ("bank", "/".join("a" * 9)),
        ("bank", "x" * 129),
    ],
)
def test_malformed_grants(project: str, pattern: str) -> None:
    for make in (lambda: Grant(project, pattern), lambda: parse_grant(f"{project}:{pattern}")):
        with pytest.raises(MalformedError) as caught:
            make()
        assert caught.value.code == "scope-malformed"


def test_grants_as_text() -> None:
    assert str(Grant("bank", "clinic/*/*")) == "bank:clinic/*/*"
    with pytest.raises(MalformedError):
        parse_grant("bank")


@given(GRANTS)
def test_text_round_trip(grant: Grant) -> None:
    assert parse_grant(str(grant)) == grant


@given(GRANTS, PLACES)
def test_a_grant_is_for_its_project_and_pattern_only(grant: Grant, place: tuple[str, str | None]) -> None:
    """Against another matcher: the standard library's, segment by segment."""
    project, path = place
    there = grant.project in ("*", project)
    if path is None:
        expected = there and grant.pattern == "*"
    else:
        wanted, found = grant.pattern.split("/"), path.split("/")
        same = len(wanted) == len(found) and all(map(fnmatch.fnmatchcase, found, wanted))
        expected = there and (grant.pattern == "*" or same)
    assert grant.covers(project, path) is expected
    assert not grant.covers(project, path) or grant.enters(project)


@given(GRANTS, GRANTS, PLACES)
def test_what_is_contained_never_grants_more(outer: Grant, inner: Grant, place: tuple[str, str | None]) -> None:
    if outer.contains(inner) and inner.covers(*place):
        assert outer.covers(*place)


@given(GRANTS, GRANTS)
def test_what_is_not_contained_does_grant_more(outer: Grant, inner: Grant) -> None:
    """Containment is exact: for what is refused there is a place that only the inner one grants."""
    if outer.contains(inner):
        return
    project = "elsewhere" if inner.project == "*" else inner.project
    path = inner.pattern.replace("*", "elsewhere")
    places = [(project, path), (project, None), (project, f"{path}/more")]
    assert any(inner.covers(*place) and not outer.covers(*place) for place in places)


@given(GRANTS, GRANTS, GRANTS)
def test_containment_is_an_order(a: Grant, b: Grant, c: Grant) -> None:
    assert a.contains(a)
    assert EVERYTHING.contains(a)
    assert not (a.contains(b) and b.contains(a)) or a == b
    assert not (a.contains(b) and b.contains(c)) or a.contains(c)


@given(st.text(max_size=30), PATHS)
def test_any_text_as_a_pattern(text: str, path: str) -> None:
    """It is refused, or grants exactly itself or what its stars stand for."""
    try:
        grant = Grant("bank", text)
    except MalformedError:
        return
    assert "*" in text or grant.covers("bank", path) is (text == path)


def test_scopes() -> None:
    a, b = Grant("a", "*"), Grant("b", "*")
    assert check_scopes((b, a)) == (a, b)
    many = tuple(Grant("a", f"p{number}") for number in range(GRANTS_LIMIT + 1))
    assert len(check_scopes(many[1:])) == GRANTS_LIMIT
    for scopes in ((), (a, a), many):
        with pytest.raises(MalformedError) as caught:
            check_scopes(scopes)
        assert caught.value.code == "scope-malformed"
