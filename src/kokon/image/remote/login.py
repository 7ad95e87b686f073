"""Logins for registries, from where people keep them already: Docker's config.json, Podman's auth.json, helpers.

Formats: docker/cli `config.json` (auths, credHelpers, credsStore); containers-auth.json(5), which adds keys that name a
part of a registry (`host/namespace`). Nothing is read before a registry asks for a login. A login never shows its
secret: not in repr, not in an error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError, UsageError
from kokon.image.remote.helper import ask_helper
from kokon.wire import parse_json, unb64

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_LIMIT = 1 << 20
# Docker keeps the login of its own registry under this name, whatever the registry is called (docker/cli).
_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
_TOKEN_USER = "<token>"  # noqa: S105 -- what docker-credential-helpers puts as the user's name of an identity token


@dataclass(frozen=True, slots=True)
class Login:
    """A user's name and password, or an identity token (an OAuth2 refresh token), for one registry."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity: str = field(default="", repr=False)


def find_login(host: str, repository: str, environment: Mapping[str, str] | None = None) -> Login | None:
    """The login for `repository` at `host` (with port), or None. The first file that has one wins.

    Order: `$REGISTRY_AUTH_FILE` alone if it is set; else `$XDG_RUNTIME_DIR/containers/auth.json`,
    `~/.config/containers/auth.json`, `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    Raises `UsageError` (`login-unreadable`), `MalformedError` (`login-malformed`), and what `ask_helper` raises.
    """
    env = os.environ if environment is None else environment
    for path in _files(env):
        document = _read(path, must="REGISTRY_AUTH_FILE" in env)
        if document is not None and (login := login_in(document, host, repository)):
            return login
    return None


def login_in(document: Mapping[str, Any], host: str, repository: str) -> Login | None:
    """The login that one configuration has for `repository` at `host`. Raises as `find_login` does."""
    names = _names(host, repository)
    helpers = _table(document, "credHelpers")
    for name in names:
        if isinstance(helper := helpers.get(name), str) and helper and (login := _from_helper(helper, name)):
            return login
    auths = {_normal(key): value for key, value in _table(document, "auths").items()}
    store = document.get("credsStore")
    if isinstance(store, str) and store:
        # Docker asks the store by the key of `auths`, which may have a scheme and a path.
        asked = [key for key in _table(document, "auths") if _normal(key) in names] or [_docker_key(host)]
        for key in asked:
            if login := _from_helper(store, key):
                return login
    for name in names:
        if name in auths and (login := _from_entry(auths[name])):
            return login
    return None


def _files(env: Mapping[str, str]) -> list[Path]:
    if chosen := env.get("REGISTRY_AUTH_FILE"):
        return [Path(chosen)]
    home = Path(env.get("HOME") or Path.home())
    files = [Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json"]
    if runtime := env.get("XDG_RUNTIME_DIR"):
        files.insert(0, Path(runtime) / "containers" / "auth.json")
    return [*files, Path(env.get("DOCKER_CONFIG") or home / ".docker") / "config.json"]


def _read(path: Path, *, must: bool) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except FileNotFoundError as error:
        if must:
            raise UsageError("login-unreadable", f"{path} is not there", hint="check REGISTRY_AUTH_FILE") from error
        return None
    except OSError as error:
        raise UsageError("login-unreadable", f"cannot read {path}", found=error.strerror) from error
    document = parse_json(data, limit=FILE_LIMIT, what=str(path))
    if not isinstance(document, dict):
        raise MalformedError("login-malformed", f"{path} is no JSON object")
    return document


def _names(host: str, repository: str) -> list[str]:
    """The keys that may hold the login, the longest first: parts of the repository, then the host."""
    parts = repository.split("/") if repository else []
    hosts = _HUB if host in _HUB else (host,)
    return [
        "/".join([name, *parts[:count]])
        for count in range(len(parts), -1, -1)
        for name in dict.fromkeys((host, *hosts))
    ]


def _normal(key: str) -> str:
    """A key without scheme, and without the version that old Docker put behind the host."""
    name = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    return name.removesuffix("/v1").removesuffix("/v2")


def _docker_key(host: str) -> str:
    return "https://index.docker.io/v1/" if host in _HUB else host


def _table(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name) or {}
    if not isinstance(value, dict):
        raise MalformedError("login-malformed", f"{name!r} of the logins is no JSON object")
    return value


def _from_entry(entry: Any) -> Login | None:
    """An entry of `auths`; empty ones are left behind by helpers."""
    if not isinstance(entry, dict):
        raise MalformedError("login-malformed", "an entry of 'auths' is no JSON object")
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return Login(identity=token)
    if not isinstance(auth := entry.get("auth"), str) or not auth:
        return None
    try:
        user, colon, password = unb64(auth, what="login").decode().partition(":")
    except (MalformedError, UnicodeDecodeError):
        # Without its cause: that might quote a part of the secret.
        raise MalformedError("login-malformed", "an 'auth' is not base64 of USER:PASSWORD") from None
    if not colon:
        raise MalformedError("login-malformed", "an 'auth' is not base64 of USER:PASSWORD")
    return Login(user, password.rstrip("\0"))


def _from_helper(helper: str, server: str) -> Login | None:
    found = ask_helper(helper, server)
    if found is None:
        return None
    user, secret = found
    return Login(identity=secret) if user == _TOKEN_USER else Login(user, secret)
