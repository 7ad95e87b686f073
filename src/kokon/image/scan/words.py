"""Secrets by the name that they go under: variables, labels, arguments, what a build step said. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ALONE = _words("PASSWORD PASSWD PASSPHRASE PASS PWD SECRET SECRETS TOKEN CREDENTIAL CREDENTIALS APIKEY")
_BEFORE_KEY = _words("API ACCESS SECRET PRIVATE ENCRYPTION SIGNING AUTH MASTER ACCOUNT DEPLOY LICENSE")
_ENDINGS = ("PASSWORD", "PASSWD", "SECRET", "APIKEY", "TOKEN")
_NOT_LAST = _words(
    "FILE FILES PATH DIR DIRECTORY URL URI TTL ID NAME TYPE LENGTH SIZE LIMIT HEADER HOST PORT USER USERNAME EXPIRY "
    "EXPIRES TIMEOUT SECONDS MINUTES HOURS ENABLED DISABLED REQUIRED POLICY ALGORITHM ISSUER AUDIENCE VERSION COUNT "
    "ENDPOINT PREFIX PROVIDER STORE REGION HELPER"
)
_PLACEHOLDER = re.compile(
    r"(?:\s*|none|null|nil|true|false|yes|no|on|off|unset|empty|undefined|redacted|placeholder|example|changeme|"
    r"change[-_]me|replace[-_]?me|to[-_]?do|your[-_ ].*|[x*.?-]+|<.*>|\[.*\]|\{\{.*\}\}|%[A-Za-z_]+%|\$.*|"
    r"kbs:///.*|/[\w./-]*|[0-9]{1,4})",
    re.IGNORECASE | re.DOTALL,
)
_ASSIGNMENT = re.compile(
    r"""(?<![\w-])(-{0,2}[A-Za-z_][\w.-]{0,99})=("[^"]{0,4096}"|'[^']{0,4096}'|[^\s;&|"']{1,4096})"""
)
_ENV_STEP = re.compile(r"\b(?:ENV|LABEL)\s{1,8}([A-Za-z_][\w.-]{0,99})\s{1,8}(\S[^\n]{0,4096})")
_OPTION = re.compile(
    r"""(?<!\S)--([A-Za-z][\w-]{0,60})[ ]{1,4}("[^"]{0,4096}"|'[^']{0,4096}'|[^\s;&|"'-][^\s;&|]{0,4096})"""
)
_URL = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s:/@]{0,255}:([^\s:/@]{1,512})@")


def names_secret(name: str) -> bool:
    """Whether what is called so is a secret: DB_PASSWORD is, DB_PASSWORD_FILE is not."""
    parts = [part.upper() for part in _PARTS.findall(name)]
    while parts and parts[-1].isdigit():
        parts.pop()
    if not parts or parts[-1] in _NOT_LAST or name.upper() in ("PWD", "OLDPWD"):
        return False
    if _ALONE.intersection(parts) or parts[-1].endswith(_ENDINGS):
        return True
    return parts[-1] in ("KEY", "KEYS") and len(parts) > 1 and parts[-2] in _BEFORE_KEY


def is_placeholder(value: str) -> bool:
    """Whether the value only says that something has to stand there: nothing, a reference, a path, a short number."""
    return _PLACEHOLDER.fullmatch(value.strip("\"' ")) is not None


def secret_url(text: str) -> str | None:
    """The password in the first URL that has one."""
    for match in _URL.finditer(text):
        if not is_placeholder(match[1]):
            return match[1]
    return None


def assigned(text: str) -> Iterator[tuple[str, str]]:
    """Names of secrets and their values in a command or build step: NAME=value, --name value, ENV name value."""
    for pattern in (_ASSIGNMENT, _ENV_STEP, _OPTION):
        for match in pattern.finditer(text):
            name = match[1].lstrip("-")
            if names_secret(name) and not is_placeholder(match[2]):
                yield name, match[2]
