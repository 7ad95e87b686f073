"""What secrets look like: a rule is a name, literals that a match holds, and a pattern. Pure.

Forms: RFC 7468 and OpenSSH's PROTOCOL.key (PEM), RFC 7292 (PKCS#12), RFC 7517 (JWK), RFC 7519 (JWT), age and PuTTY as
their manuals say, and the prefixes that services publish for their tokens so that scanners find them. A window of
bytes is searched for the literals first, which is fast; only where one stands is the pattern tried.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REACH = 8192
"""How far before and behind its beginning, in bytes, a rule may look. No match is longer."""
_LINE_END = rb"(?:\r?\n|\\r\\n|\\n)"
_PEM = re.compile(
    rb"-----BEGIN ((?:[A-Z0-9]{1,12} ){0,3})PRIVATE KEY(?: BLOCK)?-----[ \t]*" + _LINE_END + rb"([\s\S]{0,400})"
)
_BODY = re.compile(rb"(?:^|\n|\\n)[ \t]*[A-Za-z0-9+/]{40}")
_OPENSSH_OPEN = b"b3BlbnNzaC1rZXktdjEAAAAABG5vbmU"
"""Base64 of "openssh-key-v1", a zero byte and the cipher name "none" (PROTOCOL.key)."""
_AZURITE = b"Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq"
"""The key of Azure's storage emulator, which is public."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of secret. Group 1 of `pattern`, or else all of it, is the secret. `check` may say no to a match.
    `at_start`: it matches at the beginning of a file only. `files`: names of files that it is limited to."""

    name: str
    literals: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    check: Callable[[re.Match[bytes]], bool] | None = None
    at_start: bool = False
    files: re.Pattern[bytes] | None = None

    def matches(self, window: bytes) -> Iterator[re.Match[bytes]]:
        """The matches in `window`, which may be a file or a part of one."""
        if self.at_start and not self.pattern.match(window):
            return
        if self.literals and not any(literal in window for literal in self.literals):
            return
        found = self.pattern.finditer(window) if not self.at_start else filter(None, [self.pattern.match(window)])
        for match in found:
            if self.check is None or self.check(match):
                yield match


def _around(match: re.Match[bytes]) -> bytes:
    return match.string[max(0, match.start() - REACH) : match.start() + REACH]


def _object(match: re.Match[bytes]) -> bytes:
    """The innermost JSON object without objects of its own that the match stands in."""
    before = match.string[max(0, match.start() - REACH) : match.start()]
    behind = match.string[match.start() : match.start() + REACH]
    return before[before.rfind(b"{") + 1 :] + behind.partition(b"}")[0]


def _encrypted(match: re.Match[bytes]) -> bool:
    body = match[2].replace(b"\\n", b"\n").lstrip()
    if b"ENCRYPTED" in match[1] or b"ENCRYPTED" in body[:120]:
        return True
    return b"OPENSSH" in match[1] and not body.startswith(_OPENSSH_OPEN)


def _is_key(match: re.Match[bytes]) -> bool:
    """Real content follows: programs that read keys hold the bare lines."""
    return _BODY.search(match[2]) is not None


def _base64_key(match: re.Match[bytes]) -> bool:
    text = match[0][: len(match[0]) // 4 * 4]
    try:
        return b"PRIVATE KEY-----" in base64.b64decode(text)[:60]
    except binascii.Error:
        return False


def _private_jwk(match: re.Match[bytes]) -> bool:
    member = rb'"k"' if match[1] == b"oct" else rb'"d"'
    return re.search(member + rb'\s*:\s*"[A-Za-z0-9_-]{16,}"', _object(match)) is not None


def _jwt(match: re.Match[bytes]) -> bool:
    head = match[0].partition(b".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


def _jks_holds_key(match: re.Match[bytes]) -> bool:
    """Whether the Java key store has an entry with a private key (tag 1): most stores of authorities have none."""
    data, position = match.string, 12
    for _ in range(min(int.from_bytes(data[8:12], "big"), 4096)):
        tag = int.from_bytes(data[position : position + 4], "big")
        if tag != 2:
            return tag in (1, 3)
        position += 4
        position += 2 + int.from_bytes(data[position : position + 2], "big") + 8
        position += 2 + int.from_bytes(data[position : position + 2], "big")
        position += 4 + int.from_bytes(data[position : position + 4], "big")
    return False


def _varied(match: re.Match[bytes]) -> bool:
    """Random, as tokens are; `ghp_xxxxxxxx` of a manual is not."""
    value = match[1] if match.re.groups else match[0]
    return len(set(value)) >= 10 and b"EXAMPLE" not in value.upper()


def _plain(name: str, literals: str, pattern: bytes, check: Callable[[re.Match[bytes]], bool] | None = _varied) -> Rule:
    return Rule(name, tuple(literals.encode().split()), re.compile(pattern), check)


def _file(name: str, files: bytes, pattern: bytes) -> Rule:
    return Rule(name, (), re.compile(pattern, re.MULTILINE), files=re.compile(files))


RULES: tuple[Rule, ...] = (
    Rule("private-key", (b"PRIVATE KEY",), _PEM, lambda match: _is_key(match) and not _encrypted(match)),
    Rule("private-key-encrypted", (b"PRIVATE KEY",), _PEM, lambda match: _is_key(match) and _encrypted(match)),
    Rule(
        "private-key-base64",
        (b"LS0tLS1CRUdJTi",),
        re.compile(rb"LS0tLS1CRUdJTi[A-Za-z0-9+/=]{80,400}"),
        _base64_key,
    ),
    Rule(
        "private-key-der",
        (),
        re.compile(
            rb"\A0(?:\x82..|\x81.|[\x20-\x7f])\x02\x01"
            rb"(?:\x000[\x05-\x20]\x06[\x03-\x09][\x2a\x2b]|\x00\x02\x82|\x00\x02\x81|\x01\x04[\x20\x30\x42])",
            re.DOTALL,
        ),
        at_start=True,
    ),
    Rule(
        "key-store",
        (b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x01", b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x02"),
        re.compile(rb"\A0[\x80-\x84].{0,4}\x02\x01\x030", re.DOTALL),
        at_start=True,
    ),
    Rule(
        "java-key-store",
        (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce"),
        re.compile(rb"\A(?:\xfe\xed\xfe\xed|\xce\xce\xce\xce)\0\0\0[\x01\x02]"),
        _jks_holds_key,
        at_start=True,
    ),
    _plain("putty-key", "PuTTY-User-Key-File-", rb"PuTTY-User-Key-File-[123]: \S+\s+Encryption: \S+", None),
    _plain("age-key", "AGE-SECRET-KEY-1", rb"AGE-SECRET-KEY-1([02-9AC-HJ-NP-Z]{58})"),
    _plain("jwk-private", '"kty"', rb'"kty"\s*:\s*"(RSA|EC|OKP|oct)"', _private_jwk),
    _plain("aws-access-key", "AKIA ASIA", rb"(?<![A-Za-z0-9+/])((?:AKIA|ASIA)[A-Z2-7]{16})(?![A-Za-z0-9+/])"),
    _plain(
        "aws-secret-key",
        "secret_access_key SECRET_ACCESS_KEY SecretAccessKey secretAccessKey",
        rb"(?i:secret_?access_?key)[\"']?\s{0,8}[=:]\s{0,8}[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])",
    ),
    _plain(
        "gcp-service-account",
        '"service_account"',
        rb'"type"\s{0,8}:\s{0,8}"service_account"',
        lambda match: b"PRIVATE KEY-----" in _around(match),
    ),
    _plain("gcp-api-key", "AIza", rb"(?<![A-Za-z0-9_-])(AIza[0-9A-Za-z_-]{35})(?![A-Za-z0-9_-])"),
    _plain(
        "azure-key",
        "AccountKey= SharedAccessKey=",
        rb"(?:AccountKey|SharedAccessKey)=([A-Za-z0-9+/]{42,88}={1,2})",
        lambda match: _varied(match) and not match[1].startswith(_AZURITE),
    ),
    _plain(
        "azure-sas",
        "sig=",
        rb"[?&]sig=([A-Za-z0-9%]{40,80}%3[dD])",
        lambda match: _varied(match) and b"sv=" in _around(match),
    ),
    _plain("github-token", "ghp_ gho_ ghu_ ghs_ ghr_", rb"(?<![A-Za-z0-9])(gh[pousr]_[A-Za-z0-9]{36,255})"),
    _plain("github-token", "github_pat_", rb"(github_pat_[A-Za-z0-9_]{60,255})"),
    _plain(
        "gitlab-token",
        "glpat- glptt- glrt- gldt-",
        rb"(?<![A-Za-z0-9])(gl(?:pat|ptt|rt|dt)-[A-Za-z0-9_.-]{20,64})",
    ),
    _plain("npm-token", "npm_", rb"(?<![A-Za-z0-9_])(npm_[A-Za-z0-9]{36})(?![A-Za-z0-9])"),
    _plain("npm-token", "_authToken=", rb"_authToken=([A-Za-z0-9_+/=-]{20,512})"),
    _plain("pypi-token", "pypi-AgE", rb"(pypi-AgE[A-Za-z0-9_-]{50,512})"),
    _plain(
        "slack-token",
        "xox xapp-",
        rb"(?<![A-Za-z0-9])(x(?:ox[bapres]|app)-[0-9][0-9A-Za-z-]{14,255})",
    ),
    _plain(
        "slack-token",
        "hooks.slack.com/services/",
        rb"hooks\.slack\.com/services/(T[A-Z0-9]{6,20}/B[A-Z0-9]{6,20}/[A-Za-z0-9]{20,64})",
    ),
    _plain("stripe-key", "k_live_", rb"(?<![A-Za-z0-9])([sr]k_live_[0-9a-zA-Z]{20,255})"),
    _plain("vault-token", "hvs. hvb.", rb"(?<![A-Za-z0-9_.])(hv[sb]\.[A-Za-z0-9_-]{24,512})"),
    _plain("docker-token", "dckr_", rb"(dckr_[po]at_[A-Za-z0-9_-]{20,64})"),
    _plain("api-token", "sk-ant- sk-proj-", rb"(?<![A-Za-z0-9])(sk-(?:ant|proj)-[A-Za-z0-9_-]{32,255})"),
    _plain("api-token", "dop_v1_", rb"(dop_v1_[0-9a-f]{64})"),
    _plain("api-token", "SG.", rb"(?<![A-Za-z0-9])(SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43})(?![A-Za-z0-9_-])"),
    _plain(
        "jwt",
        "eyJ",
        rb"(?<![A-Za-z0-9_-])(eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{20,1000})",
        _jwt,
    ),
    _plain(
        "docker-login",
        '"auths"',
        rb'"auths"\s{0,8}:\s{0,8}\{[\s\S]{0,4096}?"(?:auth|identitytoken|password)"\s{0,8}:\s{0,8}"([A-Za-z0-9+/=_.-]{8,2048})"',
        None,
    ),
    _plain(
        "kubeconfig",
        "client-key-data:",
        rb"client-key-data:\s{0,8}\"?([A-Za-z0-9+/=]{40,4096})",
    ),
    _file(
        "kubeconfig",
        rb"(?:^|/)(?:\.kube/config|kubeconfig|admin\.conf)$",
        rb"^\s{0,64}(?:token|password):\s{1,8}(\S{8,4000})",
    ),
    _file("netrc", rb"(?:^|/)[._]netrc$", rb"\bpassword\s{1,64}(\S{1,512})"),
    _file("pgpass", rb"(?:^|/)\.pgpass$", rb"^[^#:\n]{1,255}:[^:\n]{1,9}:[^:\n]{1,255}:[^:\n]{1,255}:([^\n]{1,512})$"),
    _file(
        "git-credentials",
        rb"(?:^|/)\.git-credentials$|(?:^|/)git/credentials$",
        rb"^[a-z]{3,5}://[^:\s/@]{0,255}:([^@\s/]{1,512})@",
    ),
    _file(
        "git-credentials", rb"(?:^|/)\.git/config$|(?:^|/)pip\.conf$", rb"https?://[^:\s/@]{1,255}:([^@\s/]{1,512})@"
    ),
    _file(
        "login-file",
        rb"(?:^|/)(?:\.pypirc|\.my\.cnf|\.npmrc|\.s3cfg)$",
        rb"^\s{0,8}_?(?:password|secret_key)\s{0,8}[=:]\s{0,8}(\S{1,512})",
    ),
    _file("password-hash", rb"(?:^|/)etc/g?shadow-?$", rb"^[^:\n]{1,64}:(\$[^:\n]{1,255}):"),
)
"""All rules for bytes. Several may share a name: who allows a name allows all of them."""
