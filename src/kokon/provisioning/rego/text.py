"""Rego text before the engine sees it: bounded, and its literals in the one spelling that the engine compares. Pure.

Only what can hide the rest is understood: comments, strings, raw strings, brackets, names. The engine keeps strings as
they are spelt, so that `"\\u0041"` and `"A"` are different to it (regopy 1.5.2); here every string gets JSON's
shortest spelling, which means the same in Rego, and what policies read is spelt so too (`spell`).
(Rego: openpolicyagent.org, "Policy Reference", grammar.)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from kokon.errors import MalformedError
from kokon.wire import JSON_DEPTH

POLICY_LIMIT: Final = 64 << 10
DEPTH_LIMIT: Final = 64

BUILT_HERE: Final = frozenset(("query_reference_value", "print"))
"""Functions that policies may call and the engine does not list."""

_TOKEN: Final = re.compile(
    r"(?P<comment>\#[^\n]*+)"
    r"|(?P<raw>`[^`]*+`)"
    r'|(?P<string>"(?:[^"\\\n]|\\.)*+")'
    r"|(?P<open>[\[({])"
    r"|(?P<close>[\])}])"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*+(?:\.[A-Za-z_][A-Za-z0-9_]*+)*+)"
    r"|(?P<other>[^\#`\"\[({\])}A-Za-z_]++)"
    r"|(?P<open_end>.)",
    re.DOTALL,
)
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufeff]")
_PAIRS: Final[Mapping[str, str]] = {"(": ")", "[": "]", "{": "}"}
_WORDS: Final = frozenset(
    ("as", "default", "else", "every", "if", "import", "in", "not", "package", "some", "with", "contains")
)


@dataclass(frozen=True, slots=True)
class PolicyText:
    """A policy that may be shown to the engine. `digest` is SHA-256 of what its author wrote; `names` are all names
    in its code, `functions` those that it defines, `calls` those that it calls and can only be the engine's."""

    text: str
    digest: bytes
    package: str
    names: frozenset[str]
    functions: frozenset[str]
    calls: tuple[str, ...]

    def speaks_of(self, rule: str) -> bool:
        """Whether `rule` is the name of a rule in it, or begins one. Never false if there is such a rule."""
        return any(name == rule or name.startswith(f"{rule}.") for name in self.names)


def read_policy(text: str, *, limit: int = POLICY_LIMIT, depth: int = DEPTH_LIMIT) -> PolicyText:
    """`text` if it is not too large and nested no deeper than `depth` brackets.

    Raises `MalformedError` (`policy-too-large`, `policy-too-deep`, `policy-malformed`).
    """
    raw = _encoded(text, limit)
    scan = _Scan(text, depth)
    written = "".join(scan)
    if scan.open:
        _malformed("a bracket is not closed", text, scan.open[-1])
    return PolicyText(
        text=written,
        digest=hashlib.sha256(raw).digest(),
        package=scan.package,
        names=frozenset(scan.names),
        functions=frozenset(scan.functions),
        calls=tuple(sorted(name for name in scan.calls - scan.outside if scan.is_builtin(name))),
    )


def spell(value: Any) -> str:
    """JSON values as the engine must read them. Raises `ValueError` and `TypeError` for what has no JSON form or is too
    deep."""
    _check_depth(value, JSON_DEPTH)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    text.encode()
    return text


def _plain(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _check_depth(value: Any, left: int) -> None:
    if left == 0:
        raise ValueError(f"nested deeper than {JSON_DEPTH}")
    if isinstance(value, Mapping):
        for name, member in value.items():
            if not isinstance(name, str):
                raise ValueError("a name is no text")
            _check_depth(member, left - 1)
    elif isinstance(value, list | tuple):
        for member in value:
            _check_depth(member, left - 1)


def _encoded(text: str, limit: int) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise MalformedError("policy-malformed", "the policy is not Unicode text", found=error) from error
    if len(raw) > limit:
        raise MalformedError(
            "policy-too-large", "the policy is too large", expected=f"<= {limit} bytes", found=len(raw)
        )
    strange = _FORBIDDEN.search(text)
    if strange is not None:
        _malformed(f"the character {strange[0]!r} must not be there", text, strange.start())
    return raw


class _Scan:
    """Goes over a policy once, giving its parts as they shall be written."""

    def __init__(self, text: str, depth: int) -> None:
        self.names: set[str] = set()
        self.calls: set[str] = set()
        self.outside: set[str] = set()
        self.functions: set[str] = set()
        self.open: list[int] = []
        self.package = ""
        self._imported: set[str] = set()
        self._text, self._depth = text, depth
        self._before = ""

    def __iter__(self) -> Iterator[str]:
        for token in _TOKEN.finditer(self._text):
            kind, part = str(token.lastgroup), token[0]
            if kind == "string":
                part = self._string(token)
            elif kind == "open_end":
                _malformed("a string is not closed", self._text, token.start())
            elif kind in ("open", "close"):
                self._bracket(token)
            elif kind == "name":
                self._name(part, token.start(), token.end())
            elif kind == "other" and part.endswith("$"):
                self._template(token)
            yield part

    def is_builtin(self, name: str) -> bool:
        """Whether a function of this name can only be the engine's own."""
        first = name.partition(".")[0]
        return name not in BUILT_HERE and first not in ("data", "input") and first not in self._imported

    def _string(self, token: re.Match[str]) -> str:
        try:
            text = json.dumps(json.loads(token[0]), ensure_ascii=False)
            text.encode()
        except ValueError:
            _malformed("a string has an unknown escape", self._text, token.start())
        return text

    def _template(self, token: re.Match[str]) -> None:
        if self._text[token.end() : token.end() + 1] in ('"', "`"):
            _malformed("string templates are not supported", self._text, token.end())

    def _bracket(self, token: re.Match[str]) -> None:
        if token.lastgroup == "open":
            self.open.append(token.start())
            if len(self.open) > self._depth:
                raise MalformedError(
                    "policy-too-deep",
                    "the policy is nested too deeply",
                    expected=f"<= {self._depth} brackets within each other",
                    found=f"more in line {_line(self._text, token.start())}",
                )
        elif not self.open or _PAIRS[self._text[self.open.pop()]] != token[0]:
            _malformed("a bracket closes nothing", self._text, token.start())

    def _name(self, name: str, start: int, end: int) -> None:
        if self._before == "package" and not self.package:
            self.package = name
        elif self._before in ("import", "as"):
            self._imported.add(name.rpartition(".")[2])
        self._before = name
        self.names.add(name)
        if self._text[end : end + 1] != "(" or name in _WORDS:
            return
        if self.open:
            self.calls.add(name)
            return
        self.outside.add(name)  # either its head, or a call whose failure any evaluation shows
        if self._text[self._text.rfind("\n", 0, start) + 1 : start].strip() in ("", "default"):
            self.functions.add(name)


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _malformed(what: str, text: str, place: int) -> NoReturn:
    raise MalformedError("policy-malformed", f"the policy is no Rego: {what}", found=f"line {_line(text, place)}")
