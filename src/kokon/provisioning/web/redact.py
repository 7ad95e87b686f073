"""Takes secrets out of what is about to be logged. Pure.

The second line of defence: code should not log secrets, and where it does, or an exception's text does, they are cut
out here by name (what stands under a key that tells) and by shape (what looks like a token). A shape is cut from its
first telling character, so half a secret is cut too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"
TEXT_LIMIT = 8192
"""Characters of one text that are kept."""
_SEARCHED = 8 * TEXT_LIMIT
"""Characters that are searched; what is behind them goes."""
_DEPTH = 6
_ITEMS = 100
_MEMBERS = "ciphertext|encrypted_key|protected|password|passphrase|secret|token|access_token|d|k|p|q|dp|dq|qi|oth"
"""Members of JWE and JWK objects (RFC 7516, RFC 7518), and others that hold secrets when JSON is logged as text."""
_SECRET_KEYS = re.compile(
    r"(?:^|[-_. ])(?:authorization|cookies?|password|passwd|passphrase|pin|secrets?|bearer|credentials?|api[-_]?key"
    r"|kek|cek|tokens?|session|jwe|jwt|master[-_]?key|private[-_]?key|plaintext)$|^(?:" + _MEMBERS + ")$",
    re.IGNORECASE,
)
"""Keys whose values are never logged, with or without something before: `admin_token`, `set-cookie`."""
_Q = r"""\\{0,8}["']"""
_ANY_CASE = re.IGNORECASE | re.ASCII
_SHAPES: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = tuple(
    (needs, re.compile(pattern, flags), replacement)
    for needs, pattern, flags, replacement in (
        # PEM (RFC 7468), also cut off, also with its line ends escaped
        (
            ("private key",),
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)",
            re.DOTALL,
            "[redacted private key]",
        ),
        # our own tokens: the identity is no secret
        (("kokon_",), r"(kokon_[A-Za-z0-9]{1,40})_[A-Za-z0-9_\-+/=%]+", 0, r"\1_" + REDACTED),
        # JWS and JWE (RFC 7515, RFC 7516): base64url of a JSON object, which begins with {"
        (("eyj",), r"eyJ[A-Za-z0-9_\-]{4,}(?:\.[A-Za-z0-9_\-]*)*", 0, REDACTED),
        (("bearer",), r"\b(bearer)(?:\s|%20){1,8}[A-Za-z0-9_\-+/=.~%,]{4,}", _ANY_CASE, r"\1 " + REDACTED),
        (("basic",), r"\b(basic)(?:\s|%20){1,8}[A-Za-z0-9+/=]{12,}", _ANY_CASE, r"\1 " + REDACTED),
        (
            ("authorization", "cookie"),
            rf"\b(authorization|cookie)((?:{_Q})?\s{{0,8}}[:=,]\s{{0,8}}(?:b?{_Q})?)[^\r\n\"'\\]+",
            _ANY_CASE,
            r"\1\2" + REDACTED,
        ),
        (("session",), r"(session[A-Za-z_\-]{0,32})=[^;\s\"'\\]+", _ANY_CASE, r"\1=" + REDACTED),
        (('"', "'"), rf"({_Q}(?:{_MEMBERS}){_Q}\s{{0,8}}:\s{{0,8}}{_Q})[^\"'\\]*", 0, r"\1" + REDACTED),
        (
            ("=",),
            r"\b(password|passphrase|passwd|pin-value|token|secret)=[^&\s;\"'\\]+",
            _ANY_CASE,
            r"\1=" + REDACTED,
        ),
        # the password in a URL, of a database for one
        (
            ("://",),
            r"\b([a-z][a-z0-9+.\-]{0,20}://[^\s/:@\"']{0,256}):[^\s/@\"']{1,512}@",
            _ANY_CASE,
            rf"\1:{REDACTED}@",
        ),
    )
)
"""Each with texts in lower case of which one must be there for it to fit: looking for those is quicker."""
_PLAIN = re.compile(r"[a-z0-9._-]{0,64}")
"""Words in which no shape fits, unless `kokon_` is there: most of what is logged."""


def redact_text(text: str) -> str:
    """`text` without what looks like a secret, cut to `TEXT_LIMIT`."""
    if _PLAIN.fullmatch(text) and "kokon_" not in text:
        return text
    text = text[:_SEARCHED]
    lower = text.lower()
    for needs, pattern, replacement in _SHAPES:
        if any(need in lower for need in needs):
            text = pattern.sub(replacement, text)
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + "[cut]"


def redact(value: Any, depth: int = _DEPTH) -> Any:
    """`value` as plain JSON values without secrets. Bytes become their length: they might be anything."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if depth == 0:
        return "[deep]"
    if isinstance(value, Mapping):
        return redact_members(value, depth - 1)
    if isinstance(value, list | tuple | set | frozenset):
        kept = [redact(item, depth - 1) for item in list(value)[:_ITEMS]]
        return kept if len(value) <= _ITEMS else [*kept, "[cut]"]
    return redact_text(_text(value))


def redact_members(members: Mapping[Any, Any], depth: int = _DEPTH) -> dict[str, Any]:
    """As `redact`, and nothing of what stands under a key that tells."""
    kept: dict[str, Any] = {}
    for name, value in list(members.items())[:_ITEMS]:
        key = redact_text(name if isinstance(name, str) else _text(name))
        is_flag = value is None or isinstance(value, bool)
        kept[key] = REDACTED if _SECRET_KEYS.search(key) and not is_flag else redact(value, depth)
    return kept


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a log line must not fail because of what it tells of
        return f"[{type(value).__name__}]"
