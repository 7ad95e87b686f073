"""Look for secrets in an image: every layer as it is, so also what a later one removes; and the configuration.

Constant memory: a file is searched in windows that overlap by more than any rule looks around.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kokon.image.manifest import CONFIG_LIMIT
from kokon.image.scan.rules import REACH, RULES
from kokon.image.scan.words import assigned, is_placeholder, names_secret, secret_url
from kokon.image.source import plain_layer
from kokon.image.tarstream import read_entries
from kokon.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kokon.image.scan.rules import Rule
    from kokon.image.source import Source

WINDOW = 1 << 20
"""Bytes of a file that are searched at a time."""
FINDINGS_LIMIT = 1000
"""After so many the scan ends: there is no use in more."""
_QUIET = ("usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/doc-base/")
"""Manuals of distributions: what they print as examples is public."""
_QUIET_NAMES = (".dist-info/METADATA", ".egg-info/PKG-INFO")
"""The manual of a Python package stands in its metadata."""
_SELF_TESTS = re.compile(r"(?:usr/)?lib(?:64)?/(?:[^/]+/)?libgnutls\.(?:so[.0-9]*|a)")
"""Libraries of distributions that hold the keys of their own self-tests in clear, which are public: GnuTLS."""
_ENV_FILE = re.compile(r"(?:^|/)\.env(?:\.(?!example|sample|template|dist)[\w-]+)?$")
_ENV_LINE = re.compile(r"^(?:export )?([A-Za-z_]\w{0,99})=(.{0,4096})$", re.MULTILINE)
_NAMED = re.compile(rb"([A-Za-z_-]{1,40})[\"']?\s{0,4}[=:]\s{0,4}[\"']?$")


@dataclass(frozen=True, slots=True)
class Finding:
    """A secret in an image: the rule's name, where it is, and an excerpt without the secret.

    `layer` counts from 0, lowest first; None is the configuration, whose `path` is then one of `env/NAME`,
    `label/NAME`, `entrypoint`, `command`, `history/NUMBER`. A file's `path` begins with a slash. `line` counts from 1;
    None in binary files.
    """

    rule: str
    layer: int | None
    path: str
    line: int | None
    excerpt: str

    @property
    def name(self) -> str:
        """RULE:PATH, as one allows it."""
        return f"{self.rule}:{self.path}"

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return {
            "rule": self.rule,
            "layer": self.layer,
            "path": self.path,
            "line": self.line,
            "excerpt": self.excerpt,
            "name": self.name,
        }

    def __str__(self) -> str:
        place = "configuration" if self.layer is None else f"layer {self.layer}"
        line = "" if self.line is None else f":{self.line}"
        return f"{self.rule}: {place}, {self.path}{line}: {self.excerpt}"


def scan_image(source: Source, progress: Callable[[int, int | None], None] | None = None) -> tuple[Finding, ...]:
    """All secrets that are found in `source`, in the order of layers; at most 1000.

    `progress` counts bytes of layers as stored. Raises what reading raises: `UntrustedError` (`blob-digest-mismatch`,
    `layer-diff-id-mismatch`), `MalformedError` (`layer-gzip-malformed`, `layer-tar-malformed`, ...).
    """
    found = list(dict.fromkeys(scan_config(source.config_bytes)))
    total, done = sum(layer.size for layer in source.layers), 0
    for number, (layer, diff_id) in enumerate(zip(source.layers, source.config.diff_ids, strict=True)):
        for finding in scan_layer(number, plain_layer(layer, diff_id)):
            found.append(finding)
            if len(found) >= FINDINGS_LIMIT:
                return tuple(found)
        done += layer.size
        if progress is not None:
            progress(done, total)
    return tuple(found)


def scan_layer(number: int, chunks: Iterable[bytes]) -> Iterator[Finding]:
    """The secrets in the files of one uncompressed layer."""
    for entry, content in read_entries(chunks):
        name = entry.name.removeprefix(b"./").lstrip(b"/").decode("utf-8", "backslashreplace")
        if entry.size and not name.startswith(_QUIET) and not name.endswith(_QUIET_NAMES):
            yield from scan_file(number, name, content)


def scan_file(number: int, name: str, content: Iterable[bytes | memoryview]) -> Iterator[Finding]:
    """The secrets in one file of layer `number`; `name` is its path without a leading slash."""
    lines, fresh, first = 1, 0, True
    raw = name.encode("utf-8", "surrogateescape")
    known = "private-key" if _SELF_TESTS.fullmatch(name) else ""
    rules = [rule for rule in RULES if rule.name != known and (rule.files is None or rule.files.search(raw))]
    for window, last in _windows(content):
        until = len(window) if last else len(window) - REACH
        for rule, match in _matches(rules, window, first=first):
            start = match.start()
            if fresh <= start < until:
                line = None if b"\0" in window else lines + window.count(b"\n", 0, start)
                yield Finding(rule.name, number, f"/{name}", line, _excerpt(match))
        if first and _ENV_FILE.search(name):
            yield from _env_file(number, name, window.decode("utf-8", "replace"))
        kept = max(0, until - REACH)
        lines += window.count(b"\n", 0, kept)
        fresh, first = until - kept, False


def scan_config(data: bytes) -> Iterator[Finding]:
    """The secrets in an image's configuration: environment, labels, command, history."""
    document = parse_json(data, limit=CONFIG_LIMIT, what="image configuration")
    run = _table(document.get("config"))
    for text in _list(run.get("Env")):
        name, _, value = str(text).partition("=")
        yield from _named(f"env/{name}", name, value)
    for name, value in _table(run.get("Labels")).items():
        yield from _named(f"label/{name}", str(name), str(value))
    for path, member in (("entrypoint", "Entrypoint"), ("command", "Cmd")):
        yield from _text(path, " ".join(str(word) for word in _list(run.get(member))))
    for number, step in enumerate(_list(document.get("history"))):
        for member in ("created_by", "comment", "author"):
            yield from _text(f"history/{number}", str(_table(step).get(member) or ""))


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _named(path: str, name: str, value: str) -> Iterator[Finding]:
    if names_secret(name) and not is_placeholder(value):
        yield Finding("password", None, path, None, f"{name}={_redacted(len(value))}")
        return
    yield from _text(path, value)


def _text(path: str, text: str) -> Iterator[Finding]:
    for name, value in assigned(text):
        yield Finding("password", None, path, None, f"{name}={_redacted(len(value))}")
    if (password := secret_url(text)) is not None:
        yield Finding("password-in-url", None, path, None, f"//...:{_redacted(len(password))}@")
    data = text.encode("utf-8", "surrogateescape")
    for rule, match in _matches([rule for rule in RULES if rule.files is None and not rule.at_start], data, first=True):
        yield Finding(rule.name, None, path, None, _excerpt(match))


def _env_file(number: int, name: str, text: str) -> Iterator[Finding]:
    for match in _ENV_LINE.finditer(text):
        if names_secret(match[1]) and not is_placeholder(match[2]):
            line = 1 + text.count("\n", 0, match.start())
            excerpt = f"{match[1]}={_redacted(len(match[2]))}"
            yield Finding("password", number, f"/{name}", line, excerpt)


def _windows(content: Iterable[bytes | memoryview]) -> Iterator[tuple[bytes, bool]]:
    """The content in windows, and whether it is the last. Each next one repeats the last 2 * REACH bytes."""
    data = bytearray()
    for piece in content:
        data += piece
        if len(data) >= WINDOW + 2 * REACH:
            yield bytes(data), False
            del data[: len(data) - 2 * REACH]
    yield bytes(data), True


def _matches(rules: Iterable[Rule], window: bytes, *, first: bool) -> Iterator[tuple[Rule, re.Match[bytes]]]:
    for rule in rules:
        if first or not rule.at_start:
            for match in rule.matches(window):
                yield rule, match


def _excerpt(match: re.Match[bytes]) -> str:
    """What the secret is called, if that is plain, and how long it is; nothing of it. Key files show their first line,
    which is the same for all."""
    if match[0].startswith((b"-----BEGIN", b"PuTTY-")):
        return match[0].partition(b"\\n")[0].splitlines()[0].decode("ascii", "replace").strip()[:60]
    value = match.start(1) if match.re.groups else match.start()
    length = match.end(1) - value if match.re.groups else len(match[0])
    named = _NAMED.search(match.string[max(0, value - 60) : value])
    name = named[1].decode() if named else ""
    return (f"{name}=" if name and names_secret(name) else "") + _redacted(length)


def _redacted(length: int) -> str:
    return f"[{length} bytes not shown]"
