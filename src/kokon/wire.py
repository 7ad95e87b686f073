"""Strict readers and writers for what crosses a boundary: JSON, base64, hex.

Sizes are bounded before parsing; duplicate keys, unknown members, NaN and trailing bytes are refused. Standard library
only, since the guest uses it too.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from kokon.errors import MalformedError

JSON_DEPTH = 32
_INFINITE = float("inf")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check(value: Any, left: int = JSON_DEPTH) -> None:
    """Refuse deep nesting, lone surrogates, which have no UTF-8 form, and numbers too large for a float."""
    if left == 0:
        raise ValueError(f"nested deeper than {JSON_DEPTH}")
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for name, member in value.items():
            name.encode()
            _check(member, left - 1)
    elif isinstance(value, list):
        for member in value:
            _check(member, left - 1)
    elif value in (_INFINITE, -_INFINITE):
        raise ValueError("a number is too large")


_decode_json = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant).decode


def parse_json(data: bytes, *, limit: int, what: str) -> Any:
    """JSON (RFC 8259) of at most `limit` bytes as plain values; `what` names it in errors.

    Raises `MalformedError` (`json-too-large`, `json-malformed`).
    """
    if len(data) > limit:
        raise MalformedError("json-too-large", f"{what} is too large", expected=f"<= {limit} bytes", found=len(data))
    try:
        value = _decode_json(data.decode("utf-8"))
        _check(value)
    except (ValueError, RecursionError) as error:
        raise MalformedError("json-malformed", f"{what} is not strict JSON", found=error) from error
    return value


def canonical_json(value: Any) -> bytes:
    """RFC 8785 form of `value`, for values made of objects with ASCII keys, arrays, texts, integers and booleans.

    In that subset sorted keys and Python's escaping coincide with RFC 8785; anything else raises `MalformedError`
    (`json-not-canonical`), so that a difference can never go unnoticed.
    """
    _canonical_subset(value)
    return _canonical(value).encode()


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _canonical_subset(value: Any) -> None:
    """Plain texts are passed over before the call: most values are."""
    if isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise MalformedError("json-not-canonical", "object keys must be ASCII text", found=repr(key))
            if type(member) is not str:
                _canonical_subset(member)
    elif isinstance(value, list | tuple):
        for member in value:
            if type(member) is not str:
                _canonical_subset(member)
    elif isinstance(value, int):
        if abs(value) >= 2**53:
            raise MalformedError("json-not-canonical", "integer too large for canonical JSON", found=value)
    elif not (value is None or isinstance(value, str)):
        raise MalformedError("json-not-canonical", "value has no canonical JSON form", found=type(value).__name__)


_FROM_URL = bytes.maketrans(b"-_+/=", b"+/!!!")
"""From the URL-safe alphabet to the standard one, and what is only in that one, or padding, to what is in none."""
_TO_URL = bytes.maketrans(b"+/", b"-_")


def b64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 section 4)."""
    return binascii.b2a_base64(data, newline=False).decode()


def b64url(data: bytes) -> str:
    """URL-safe base64 without padding (RFC 4648 section 5)."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=").decode()


def unb64(text: str, *, what: str, size: int | None = None, limit: int = 1 << 20) -> bytes:
    """Bytes of standard base64; exactly `size` bytes if given, never more than `limit`.

    Raises `MalformedError` (`base64-malformed`, `size-mismatch`).
    """
    return _decode(text, what, size, limit, url=False)


def unb64url(text: str, *, what: str, size: int | None = None, limit: int = 1 << 20) -> bytes:
    """Bytes of URL-safe base64 without padding. Raises as `unb64` does."""
    return _decode(text, what, size, limit, url=True)


def _decode(text: str, what: str, size: int | None, limit: int, *, url: bool) -> bytes:
    if len(text) > limit * 4 // 3 + 4:
        raise MalformedError("base64-malformed", f"{what} is too large", expected=f"<= {limit} bytes")
    try:
        raw = text.encode("ascii")
        if url:
            raw = raw.translate(_FROM_URL) + b"=" * (-len(raw) % 4)
        data = binascii.a2b_base64(raw, strict_mode=True)
    except (ValueError, binascii.Error) as error:
        raise MalformedError("base64-malformed", f"{what} is not base64", found=error) from error
    if binascii.b2a_base64(data, newline=False) != raw:
        raise MalformedError("base64-malformed", f"{what} is not canonical base64")
    check_size(data, size, what)
    return data


def unhex(text: str, *, what: str, size: int | None = None) -> bytes:
    """Bytes of lower- or upper-case hexadecimal without separators. Raises `MalformedError` (`hex-malformed`)."""
    if len(text) > 1 << 20 or not text.isascii() or not text.isalnum() or len(text) % 2:
        raise MalformedError("hex-malformed", f"{what} is not hexadecimal")
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise MalformedError("hex-malformed", f"{what} is not hexadecimal") from error
    check_size(data, size, what)
    return data


def check_size(data: bytes, size: int | None, what: str) -> None:
    """Raise `MalformedError` (`size-mismatch`) unless `data` is `size` bytes long (None: any size)."""
    if size is not None and len(data) != size:
        raise MalformedError("size-mismatch", f"{what} has a wrong size", expected=f"{size} bytes", found=len(data))


_REQUIRED: Any = object()
"""Stands for a default that was not given, and for a member that is not there."""


class Fields:
    """Typed access to the members of one JSON or TOML object; `finish` refuses members nobody asked for.

    >>> fields = Fields({"name": "a", "size": 3}, "entry")
    >>> fields.text("name"), fields.integer("size")
    ('a', 3)
    >>> fields.finish()
    """

    def __init__(self, value: Any, what: str) -> None:
        if type(value) is not dict and not isinstance(value, Mapping):
            raise MalformedError("field-type", f"{what} must be an object", found=type(value).__name__)
        self._members = dict(value)
        self._what = what

    def _take(self, name: str, kind: type, default: Any) -> Any:
        value = self._members.pop(name, _REQUIRED)
        if value is _REQUIRED:
            if default is _REQUIRED:
                raise MalformedError("field-missing", f"{self._what} lacks {name!r}", expected=name, found="nothing")
            return default
        if type(value) is kind:
            return value
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise MalformedError(
                "field-type",
                f"{name!r} of {self._what} has a wrong type",
                expected=kind.__name__,
                found=type(value).__name__,
            )
        return value

    def text(self, name: str, *, default: Any = _REQUIRED, limit: int = 4096) -> str:
        """A text of at most `limit` characters."""
        value = self._take(name, str, default)
        if isinstance(value, str) and len(value) > limit:
            raise MalformedError(
                "field-too-long",
                f"{name!r} of {self._what} is too long",
                expected=f"<= {limit} characters",
                found=len(value),
            )
        return value  # type: ignore[no-any-return]

    def optional_text(self, name: str, *, limit: int = 4096) -> str | None:
        """A text, or None where the member is absent."""
        return self.text(name, limit=limit) if name in self._members else None

    def optional_array(self, name: str, *, limit: int = 256) -> list[Any] | None:
        """An array, or None where the member is absent."""
        return self.array(name, limit=limit) if name in self._members else None

    def integer(self, name: str, *, default: Any = _REQUIRED, low: int = 0, high: int = 2**63 - 1) -> int:
        """An integer from `low` to `high`."""
        value = self._take(name, int, default)
        if isinstance(value, int) and not low <= value <= high:
            raise MalformedError(
                "field-range",
                f"{name!r} of {self._what} is out of range",
                expected=f"{low}..{high}",
                found=value,
            )
        return value  # type: ignore[no-any-return]

    def flag(self, name: str, *, default: Any = _REQUIRED) -> bool:
        """A boolean."""
        return self._take(name, bool, default)  # type: ignore[no-any-return]

    def array(self, name: str, *, default: Any = _REQUIRED, limit: int = 256) -> list[Any]:
        """An array of at most `limit` members."""
        value = self._take(name, list, default)
        if isinstance(value, list) and len(value) > limit:
            raise MalformedError("field-too-long", f"{name!r} of {self._what} has too many members", found=len(value))
        return value  # type: ignore[no-any-return]

    def table(self, name: str, *, default: Any = _REQUIRED) -> dict[str, Any]:
        """An object, as a plain dict."""
        return self._take(name, dict, default)  # type: ignore[no-any-return]

    def value(self, name: str, *, default: Any = _REQUIRED) -> Any:
        """A member of any type."""
        return self._take(name, object, default)

    def finish(self) -> None:
        """Refuse members that were not asked for: `MalformedError` (`field-unknown`)."""
        if self._members:
            names = ", ".join(sorted(map(repr, self._members)))[:200]
            raise MalformedError("field-unknown", f"{self._what} has unknown members", found=names)
