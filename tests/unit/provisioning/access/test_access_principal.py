"""What principals may do, and what they may give."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from access_kit import CREDENTIAL, EXPIRIES, NOW, PLACES, PRINCIPALS, SCOPES, principal
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import DeniedError, KokonError, MalformedError, UntrustedError
from kokon.provisioning.access import principal as access_principal
from kokon.provisioning.access.bearer import make_token, parse_token
from kokon.provisioning.access.principal import (
    Credential,
    Principal,
    authenticate_certificate,
    authenticate_token,
    check,
    check_beyond,
    check_somewhere,
)
from kokon.provisioning.access.project import SERVER
from kokon.provisioning.access.roles import Action, Reach, Role, allowed, contains, reach
from kokon.provisioning.access.scope import EVERYTHING, Grant

A = Action
EVERY_ROLE = {A.SECRET_LIST, A.WORKLOAD_LIST, A.STATUS_READ}
TABLE = {
    Role.OPERATOR: EVERY_ROLE | {A.SECRET_WRITE, A.SECRET_ROTATE, A.SECRET_DELETE, A.STATEMENT_ADD},
    Role.AUDITOR: EVERY_ROLE | {A.POLICY_READ, A.REFERENCE_READ, A.LOG_READ, A.DENIAL_READ, A.CHECKPOINT_COSIGN},
    Role.OWNER: set(Action),
}
WIDE = Grant("bank", "*")
NARROW = Grant("bank", "clinic/*/*")


def code_of(call: Any, *arguments: Any, **options: Any) -> str | None:
    try:
        call(*arguments, **options)
    except DeniedError as error:
        return error.code
    return None


def test_the_table_of_roles() -> None:
    assert {role: set(allowed(role)) for role in Role} == TABLE
    assert {action.value for action in Action} == {
        *("secret-write", "secret-list", "secret-rotate", "secret-delete"),
        *("workload-admit", "workload-withdraw", "workload-list", "statement-add"),
        *("policy-set", "policy-read", "reference-set", "reference-read"),
        *("principal-manage", "project-manage", "log-read", "denial-read", "status-read", "checkpoint-cosign"),
    }
    assert all(isinstance(reach(action), Reach) for action in Action)
    assert contains(Role.OWNER, Role.AUDITOR)
    assert not contains(Role.OPERATOR, Role.AUDITOR)
    assert not contains(Role.AUDITOR, Role.OPERATOR)


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("role", Role)
def test_roles(role: Role, action: Action) -> None:
    expected = None if action in TABLE[role] else "role-insufficient"
    assert code_of(check, principal(role), action, "bank", "clinic/secret/db", NOW) == expected
    assert code_of(check_somewhere, principal(role), action, "bank", NOW) == expected


def test_nobody_reads_values() -> None:
    assert not [action for action in Action if "secret" in action and "read" in action]


@pytest.mark.parametrize(
    ("action", "scope", "project", "path", "code"),
    [
        (A.SECRET_WRITE, NARROW, "bank", "clinic/secret/db", None),
        (A.SECRET_WRITE, NARROW, "bank", "other/secret/db", "scope-exceeded"),
        (A.SECRET_WRITE, NARROW, "shop", "clinic/secret/db", "scope-exceeded"),
        (A.SECRET_WRITE, NARROW, "bank", "clinic/../db", "scope-exceeded"),
        (A.SECRET_WRITE, NARROW, "bank", None, "scope-exceeded"),
        (A.SECRET_LIST, NARROW, "bank", None, "scope-exceeded"),
        (A.SECRET_LIST, WIDE, "bank", None, None),
        (A.POLICY_SET, NARROW, "bank", "clinic/secret/db", "scope-exceeded"),
        (A.POLICY_SET, NARROW, "bank", None, "scope-exceeded"),
        (A.POLICY_SET, WIDE, "bank", "clinic", None),
        (A.POLICY_SET, WIDE, "bank", None, None),
        (A.LOG_READ, NARROW, "bank", "clinic/secret/db", "scope-exceeded"),
        (A.LOG_READ, WIDE, "bank", None, None),
        (A.LOG_READ, WIDE, SERVER, None, "scope-exceeded"),
        (A.LOG_READ, EVERYTHING, SERVER, None, None),
        (A.PRINCIPAL_MANAGE, NARROW, "bank", None, None),
        (A.PRINCIPAL_MANAGE, NARROW, "shop", None, "scope-exceeded"),
        (A.STATUS_READ, NARROW, "bank", None, None),
        (A.STATUS_READ, NARROW, SERVER, None, "scope-exceeded"),
        (A.PROJECT_MANAGE, WIDE, "bank", None, "scope-exceeded"),
        (A.PROJECT_MANAGE, Grant("*", "clinic/*/*"), "bank", None, "scope-exceeded"),
        (A.PROJECT_MANAGE, EVERYTHING, "bank", None, None),
        (A.PROJECT_MANAGE, EVERYTHING, SERVER, None, None),
    ],
)
def test_places(action: Action, scope: Grant, project: str, path: str | None, code: str | None) -> None:
    assert code_of(check, principal(Role.OWNER, scope), action, project, path, NOW) == code


@pytest.mark.parametrize(
    ("action", "project", "code"),
    [
        (A.SECRET_LIST, "bank", None),
        (A.SECRET_LIST, "shop", "scope-exceeded"),
        (A.SECRET_LIST, SERVER, "scope-exceeded"),
        (A.WORKLOAD_LIST, "bank", None),
        (A.DENIAL_READ, "bank", None),
        (A.LOG_READ, "bank", "scope-exceeded"),
        (A.PROJECT_MANAGE, "bank", "scope-exceeded"),
    ],
)
def test_somewhere(action: Action, project: str, code: str | None) -> None:
    """Lists are for whoever sees a part of them."""
    somebody = principal(Role.OWNER, NARROW)
    assert code_of(check_somewhere, somebody, action, project, NOW) == code
    assert not somebody.covers("bank", "other/secret/db")


def test_expiry() -> None:
    somebody = principal(expires=NOW + timedelta(days=1))
    end = somebody.expires
    assert end is not None
    for moment, code in ((NOW, None), (end - timedelta(microseconds=1), None), (end, "principal-expired")):
        assert code_of(check, somebody, A.LOG_READ, "bank", None, moment) == code
        assert code_of(check_somewhere, somebody, A.SECRET_LIST, "bank", moment) == code
    assert code_of(check, principal(), A.LOG_READ, "bank", None, NOW + timedelta(days=36500)) is None


def test_refusals_say_why() -> None:
    with pytest.raises(DeniedError) as caught:
        check(principal(Role.OPERATOR), A.POLICY_SET, "bank", None, NOW)
    assert (caught.value.expected, caught.value.found) == ("owner", "operator")
    with pytest.raises(DeniedError) as caught:
        check(principal(Role.OPERATOR, NARROW), A.SECRET_WRITE, "bank", "other/secret/db", NOW)
    assert (caught.value.expected, caught.value.found) == ("bank:clinic/*/*", "bank:other/secret/db")
    with pytest.raises(DeniedError) as caught:
        check(principal(Role.AUDITOR, WIDE), A.LOG_READ, SERVER, None, NOW)
    assert caught.value.found == "the server:*"


@given(PRINCIPALS, st.sampled_from(Action), PLACES, SCOPES)
def test_a_wider_scope_never_adds_an_action(
    somebody: Principal, action: Action, place: tuple[str, str | None], more: tuple[Grant, ...]
) -> None:
    wider = replace(somebody, scopes=tuple(sorted({*somebody.scopes, *more, EVERYTHING})))
    if action not in TABLE[somebody.role]:
        assert code_of(check, wider, action, *place, NOW) == "role-insufficient"
    if code_of(check, somebody, action, *place, NOW) is None:
        assert code_of(check, wider, action, *place, NOW) is None


@given(PRINCIPALS, st.sampled_from(Action), PLACES)
def test_nothing_outside_the_scope(somebody: Principal, action: Action, place: tuple[str, str | None]) -> None:
    """Whatever the role: what is done is done where a grant is."""
    project, path = place
    if code_of(check, somebody, action, project, path, NOW) is None:
        assert action in TABLE[somebody.role]
        assert any(grant.project in ("*", project) for grant in somebody.scopes)
        assert reach(action) is not Reach.PATH or somebody.covers(project, path)
        assert reach(action) is not Reach.PROJECT or somebody.covers(project, None)
        assert reach(action) is not Reach.SERVER or EVERYTHING in somebody.scopes
        assert code_of(check_somewhere, somebody, action, project, NOW) is None


@given(PRINCIPALS, PRINCIPALS, st.sampled_from(Action), PLACES, st.integers(0, 6))
def test_who_is_not_beyond_can_do_no_more(
    actor: Principal, other: Principal, action: Action, place: tuple[str, str | None], days: int
) -> None:
    now = NOW + timedelta(days=days)
    if code_of(check_beyond, actor, other) is None and code_of(check, other, action, *place, now) is None:
        assert code_of(check, actor, action, *place, now) is None


@given(PRINCIPALS, EXPIRIES, SCOPES)
def test_owners_may_give_what_they_have(actor: Principal, expires: datetime | None, scopes: tuple[Grant, ...]) -> None:
    owner = replace(actor, role=Role.OWNER, expires=None)
    for role in Role:
        assert code_of(check_beyond, owner, replace(owner, role=role, expires=expires)) is None
    inside = all(any(own.contains(grant) for own in owner.scopes) for grant in scopes)
    assert (code_of(check_beyond, owner, replace(owner, scopes=scopes)) is None) is inside


@pytest.mark.parametrize(
    ("actor", "other", "ok"),
    [
        (principal(Role.OWNER, WIDE), principal(Role.OWNER, WIDE), True),
        (principal(Role.OWNER, WIDE), principal(Role.AUDITOR, NARROW), True),
        (principal(Role.OWNER, NARROW), principal(Role.OPERATOR, WIDE), False),
        (principal(Role.OWNER, NARROW), principal(Role.OPERATOR, NARROW, Grant("bank", "shop")), False),
        (principal(Role.OWNER, WIDE), principal(Role.OPERATOR, Grant("*", "clinic/*/*")), False),
        (principal(Role.OWNER, WIDE), principal(Role.OPERATOR, Grant("shop", "*")), False),
        (principal(Role.OPERATOR, WIDE), principal(Role.OWNER, WIDE), False),
        (principal(Role.OPERATOR, WIDE), principal(Role.AUDITOR, WIDE), False),
        (principal(Role.OWNER, WIDE, expires=NOW + timedelta(days=1)), principal(Role.OWNER, WIDE), False),
    ],
)
def test_beyond(actor: Principal, other: Principal, ok: bool) -> None:
    assert code_of(check_beyond, actor, other) == (None if ok else "principal-beyond")


@pytest.mark.parametrize(("days", "ok"), [(1, True), (2, True), (3, False)])
def test_nobody_gives_for_longer(days: int, ok: bool) -> None:
    actor = principal(Role.OWNER, WIDE, expires=NOW + timedelta(days=2))
    other = principal(Role.OPERATOR, NARROW, expires=NOW + timedelta(days=days))
    assert code_of(check_beyond, actor, other) == (None if ok else "principal-beyond")


def test_removal_does_not_ask_how_long() -> None:
    actor = principal(Role.OWNER, WIDE, expires=NOW + timedelta(days=1))
    assert code_of(check_beyond, actor, principal(Role.OWNER, WIDE), removal=True) is None
    assert code_of(check_beyond, actor, principal(Role.OWNER), removal=True) == "principal-beyond"


def unknown(call: Any, *arguments: Any) -> dict[str, Any]:
    with pytest.raises(UntrustedError) as caught:
        call(*arguments)
    assert caught.value.code == "principal-unknown"
    return caught.value.as_dict()


def test_tokens() -> None:
    token, other = make_token(b"a" * 40), make_token(b"b" * 40)
    owner = principal(id=token.id, credential=Credential("token", token.digest))
    assert authenticate_token(owner, parse_token(token.text)) is owner
    same_id = make_token(b"a" * 39 + b"b")
    assert same_id.id == token.id
    stranger = principal(id=other.id, credential=Credential("token", token.digest))
    certified = principal(id=token.id, credential=Credential("certificate", token.digest))
    answers = [
        unknown(authenticate_token, None, token),
        unknown(authenticate_token, owner, same_id),
        unknown(authenticate_token, owner, other),
        unknown(authenticate_token, stranger, token),
        unknown(authenticate_token, certified, token),
    ]
    assert all(answer == answers[0] for answer in answers), "nobody learns which of it was wrong"
    assert token.text not in repr(owner)
    assert repr(token.digest) not in repr(owner)


def test_the_digest_is_not_all_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown ids are compared with a digest too, so that they take as long; being equal to it is no way in."""
    monkeypatch.setattr(access_principal, "same_digest", lambda _first, _second: True)
    token = make_token(b"a" * 40)
    unknown(authenticate_token, None, token)
    unknown(authenticate_token, principal(), token)
    unknown(authenticate_token, principal(id=token.id, credential=Credential("certificate", b"f" * 32)), token)


def test_certificates() -> None:
    owner = principal(credential=Credential("certificate", b"f" * 32))
    assert authenticate_certificate(owner, b"f" * 32) is owner
    unknown(authenticate_certificate, owner, b"g" * 32)
    unknown(authenticate_certificate, owner, b"")
    unknown(authenticate_certificate, None, b"f" * 32)
    unknown(authenticate_certificate, principal(credential=Credential("token", b"f" * 32)), b"f" * 32)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"id": ""}, "principal-malformed"),
        ({"id": "ABCDEFGH2345"}, "principal-malformed"),
        ({"id": "abcdefgh234"}, "principal-malformed"),
        ({"id": "abcdefgh2345\n"}, "principal-malformed"),
        ({"name": ""}, "principal-malformed"),
        ({"name": "a\nb"}, "principal-malformed"),
        ({"name": " a"}, "principal-malformed"),
        ({"name": "x" * 65}, "principal-malformed"),
        ({"credential": Credential("token", b"short")}, "principal-malformed"),
        ({"expires": NOW}, "principal-malformed"),
        ({"expires": NOW + timedelta(milliseconds=1)}, "principal-malformed"),
        ({"created": NOW.replace(tzinfo=None)}, "principal-malformed"),
        ({"created": NOW.astimezone(timezone(timedelta(hours=1)))}, "principal-malformed"),
    ],
)
def test_malformed_principals(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        principal(**changes)
    assert caught.value.code == code


def test_names() -> None:
    for name in ("A", "Ada Lovelace", "ci@bank.example", "x" * 64):
        assert principal(name=name).name == name
    assert principal(created=NOW + timedelta(milliseconds=1)).created == NOW
    assert issubclass(DeniedError, KokonError)
    assert CREDENTIAL.digest.hex() not in repr(CREDENTIAL)
