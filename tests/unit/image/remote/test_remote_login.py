"""Logins out of Docker's and Podman's files and out of credential helpers, which run as processes here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kokon.errors import HostError, KokonError, MalformedError, UsageError
from kokon.image.remote.challenge import Challenge, parse_challenges
from kokon.image.remote.helper import ask_helper
from kokon.image.remote.login import Login, find_login, login_in
from kokon.wire import b64

HOST = "reg.example:5000"


def refused(kind: type[KokonError], code: str, action: Callable[[], object]) -> KokonError:
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.code == code
    return caught.value


def entry(user: str, password: str) -> dict[str, str]:
    return {"auth": b64(f"{user}:{password}".encode())}


@pytest.mark.parametrize(
    "key", [HOST, f"https://{HOST}", f"http://{HOST}/", f"https://{HOST}/v1/", f"{HOST}/team", f"{HOST}/team/app"]
)
def test_an_entry_is_found_however_it_is_written(key: str) -> None:
    document = {"auths": {key: entry("a", "b:c"), "other": entry("x", "y")}}
    assert login_in(document, HOST, "team/app") == Login("a", "b:c")
    assert login_in(document, "reg.example", "team/app") is None


def test_the_longest_name_wins() -> None:
    document = {"auths": {HOST: entry("host", "1"), f"{HOST}/team": entry("team", "2")}}
    assert login_in(document, HOST, "team/app") == Login("team", "2")
    assert login_in(document, HOST, "teams/app") == Login("host", "1")
    assert login_in(document, HOST, "") == Login("host", "1")


def test_dockers_own_registry_has_many_names() -> None:
    document = {"auths": {"https://index.docker.io/v1/": entry("a", "b")}}
    for host in ("docker.io", "registry-1.docker.io", "index.docker.io"):
        assert login_in(document, host, "library/x") == Login("a", "b")


def test_identity_tokens_and_empty_entries() -> None:
    assert login_in({"auths": {HOST: {"identitytoken": "t"}}}, HOST, "") == Login(identity="t")
    assert login_in({"auths": {HOST: {}}}, HOST, "") is None
    assert login_in({}, HOST, "") is None


@pytest.mark.parametrize(
    "document",
    [
        {"auths": [1]},
        {"auths": {HOST: 1}},
        {"auths": {HOST: {"auth": "sesame!"}}},
        {"auths": {HOST: {"auth": b64(b"sesame")}}},
        {"auths": {HOST: {"auth": b64(b"\xff:sesame")}}},
        {"credHelpers": 1},
    ],
)
def test_bad_documents(document: dict[str, Any]) -> None:
    error = refused(MalformedError, "login-malformed", lambda: login_in(document, HOST, ""))
    assert "sesame" not in str(error.as_dict())


def test_a_login_shows_no_secret() -> None:
    assert "sesame" not in repr(Login("a", "sesame", "sesame"))


def write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def test_files_and_their_order(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "DOCKER_CONFIG": str(tmp_path / "docker")}
    assert find_login(HOST, "a", env) is None
    places = {
        "docker": tmp_path / "docker/config.json",
        "config": tmp_path / ".config/containers/auth.json",
        "runtime": tmp_path / "run/containers/auth.json",
    }
    for name, path in places.items():
        write(path, {"auths": {HOST: entry(name, "p")}})
        found = find_login(HOST, "a", env)
        assert found is not None
        assert found.user == name
    write(tmp_path / "mine.json", {"auths": {}})
    assert find_login(HOST, "a", {**env, "REGISTRY_AUTH_FILE": str(tmp_path / "mine.json")}) is None
    write(tmp_path / ".docker/config.json", {"auths": {HOST: entry("home", "p")}})
    assert find_login(HOST, "a", {"HOME": str(tmp_path / "run")}) is None


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    chosen = {"REGISTRY_AUTH_FILE": str(tmp_path / "none")}
    refused(UsageError, "login-unreadable", lambda: find_login(HOST, "a", chosen))
    refused(UsageError, "login-unreadable", lambda: find_login(HOST, "a", {"REGISTRY_AUTH_FILE": str(tmp_path)}))
    write(tmp_path / "none", [])
    refused(MalformedError, "login-malformed", lambda: find_login(HOST, "a", chosen))
    (tmp_path / "none").write_text('{"auths":{},"auths":{}}')
    refused(MalformedError, "json-malformed", lambda: find_login(HOST, "a", chosen))


# Helpers


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    def install(name: str, script: str) -> None:
        path = tmp_path / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return install


GIVES = (
    r"""read server; test "$1" = get && printf '{"ServerURL":"%s","Username":"%s","Secret":"s"}' "$server" "$server" """
)


def test_helpers_are_asked_over_a_pipe(helper: Callable[[str, str], None]) -> None:
    helper("mine", GIVES)
    assert ask_helper("mine", HOST) == (HOST, "s")
    assert login_in({"credHelpers": {HOST: "mine"}}, HOST, "a") == Login(HOST, "s")
    assert login_in({"credHelpers": {"other": "mine"}}, HOST, "a") is None
    assert login_in({"credsStore": "mine"}, HOST, "a") == Login(HOST, "s")
    assert login_in({"credsStore": "mine", "auths": {f"https://{HOST}": {}}}, HOST, "a") == Login(
        f"https://{HOST}", "s"
    )
    assert login_in({"credsStore": "mine"}, "docker.io", "a") == Login("https://index.docker.io/v1/", "s")
    helper("token", 'echo \'{"ServerURL":"x","Username":"<token>","Secret":"s"}\'')
    assert login_in({"credsStore": "token"}, HOST, "a") == Login(identity="s")


def test_a_helper_that_has_nothing(helper: Callable[[str, str], None]) -> None:
    helper("empty", "echo credentials not found in native keychain; exit 1")
    assert ask_helper("empty", HOST) is None
    document = {"credsStore": "empty", "auths": {HOST: entry("a", "b")}}
    assert login_in(document, HOST, "") == Login("a", "b")


@pytest.mark.parametrize("script", ["exit 3", "echo sesame; exit 1", "kill -9 $$", "exec sleep 60", "cat /dev/zero"])
def test_helpers_that_fail(helper: Callable[[str, str], None], script: str) -> None:
    helper("bad", script)
    error = refused(HostError, "credential-helper-failed", lambda: ask_helper("bad", HOST, 2.0))
    assert "sesame" not in str(error.as_dict())


@pytest.mark.parametrize("answer", ["sesame", "[]", '{"Username":"sesame"}', '{"Username":1,"Secret":"sesame"}'])
def test_helpers_that_answer_nonsense(helper: Callable[[str, str], None], answer: str) -> None:
    helper("bad", f"echo '{answer}'")
    error = refused(MalformedError, "login-malformed", lambda: ask_helper("bad", HOST))
    assert "sesame" not in str(error.as_dict())


@pytest.mark.parametrize("name", ["absent", "../x", "a/b", "", "-x", "a b"])
def test_helpers_that_are_not_there(name: str) -> None:
    refused(HostError, "credential-helper-missing", lambda: ask_helper(name, HOST))


# Challenges


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], ()),
        (["Basic"], (Challenge("basic"),)),
        (['Basic realm="a \\"b\\""'], (Challenge("basic", {"realm": 'a "b"'}),)),
        (
            ['Bearer realm="https://t/x",service=s, scope="r:a:pull,push r:b:pull"'],
            (Challenge("bearer", {"realm": "https://t/x", "service": "s", "scope": "r:a:pull,push r:b:pull"}),),
        ),
        (
            ['Negotiate, Bearer realm="r", Basic realm=x', "Digest a=b"],
            (
                Challenge("negotiate"),
                Challenge("bearer", {"realm": "r"}),
                Challenge("basic", {"realm": "x"}),
                Challenge("digest", {"a": "b"}),
            ),
        ),
        (['="x"', "\x00", 'Bearer realm="cut'], (Challenge("bearer"),)),
        (["Basic " + " " * 9000], ()),
        (["Basic " + ", " * 4000 + "="], (Challenge("basic"),)),
    ],
)
def test_challenges(headers: list[str], expected: tuple[Challenge, ...]) -> None:
    assert parse_challenges(headers) == expected
