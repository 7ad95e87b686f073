"""Log lines: JSON, from everywhere, and without a secret of any kind whatever carries it."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import ECKey
from web_factory import make_certificate

from kokon.provisioning.web.logging import configure_logging, get_logger
from kokon.provisioning.web.redact import REDACTED, TEXT_LIMIT, redact, redact_text

CANARY = "CANARYcanaryCANARYcanaryCANARYcanaryCANARYc"
KEY = make_certificate()[2].decode()
BODY = base64.urlsafe_b64encode(b'{"alg":"ES256","typ":"JWT"}').rstrip(b"=").decode()


def _jwe() -> str:
    return jwe.encrypt_compact(
        {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}, CANARY.encode(), ECKey.generate_key("P-256")
    )


SECRETS: dict[str, tuple[str, list[str]]] = {
    "admin-token": (f"kokon_abcdefghijkl_{CANARY}", [CANARY]),
    "admin-token-in-url": (f"https://x/?t=kokon_abcdefghijkl_{CANARY}&a=b", [CANARY]),
    "jwt": (f"{BODY}.{CANARY}.{CANARY}", [CANARY, BODY]),
    "half-a-jwt": (f"{BODY}.{CANARY}", [CANARY, BODY]),
    "bearer": (f"Authorization: Bearer {CANARY}", [CANARY]),
    "bearer-lower": (f"authorization: bearer {CANARY}", [CANARY]),
    "bearer-alone": (f"said Bearer {CANARY} here", [CANARY]),
    "basic": (f"Basic {CANARY}", [CANARY]),
    "header-pair": (f"[(b'authorization', b'{CANARY}'), (b'host', b'x')]", [CANARY]),
    "cookie": (f"Cookie: kbs-session-id={CANARY}; other={CANARY}", [CANARY]),
    "cookie-alone": (f"got kbs-session-id={CANARY} from", [CANARY]),
    "set-cookie": (f"{{'set-cookie': 'kbs-session-id={CANARY}; Path=/kbs/v0'}}", [CANARY]),
    "jwe-compact": (_jwe(), []),
    "jwe-json": (json.dumps({"protected": BODY, "encrypted_key": CANARY, "ciphertext": CANARY, "tag": "x"}), [CANARY]),
    "jwe-json-escaped": (json.dumps(json.dumps({"protected": BODY, "ciphertext": CANARY})), [CANARY, BODY]),
    "jwe-repr": (repr({"protected": BODY, "ciphertext": CANARY}), [CANARY, BODY]),
    "jwk-private": (json.dumps({"kty": "EC", "crv": "P-256", "x": "public", "d": CANARY}), [CANARY]),
    "pem": (KEY, KEY.splitlines()[1:-1]),
    "pem-cut": (KEY[:120], [KEY.splitlines()[1]]),
    "pem-escaped": (json.dumps(KEY), KEY.splitlines()[1:-1]),
    "pem-encrypted": (KEY.replace("PRIVATE", "ENCRYPTED SIGSTORE PRIVATE"), KEY.splitlines()[1:-1]),
    "database-url": (f"postgresql+psycopg://kokon:{CANARY}@db.example/kokon", [CANARY]),
    "password": (f"connect host=x password={CANARY} dbname=y", [CANARY]),
}


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    yield from _configured(debug=False)


@pytest.fixture
def debug_lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    yield from _configured(debug=True)


def _configured(*, debug: bool) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    root = logging.getLogger()
    names = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "asyncio")
    kept = {name: (logging.getLogger(name).handlers, logging.getLogger(name).level) for name in names}
    before = (root.handlers, root.level, sys.excepthook, threading.excepthook, sys.unraisablehook)
    stream = io.StringIO()
    configure_logging(debug=debug, stream=stream)
    try:
        yield lambda: [json.loads(line) | {"line": line} for line in stream.getvalue().splitlines()]
    finally:
        logging.captureWarnings(False)
        root.handlers, level, sys.excepthook, threading.excepthook, sys.unraisablehook = before
        root.setLevel(level)
        for name, (handlers, level) in kept.items():
            logging.getLogger(name).handlers = handlers
            logging.getLogger(name).setLevel(level)
        structlog.reset_defaults()


def check(found: list[dict[str, Any]], name: str, parts: list[str]) -> None:
    assert found, name
    text = "".join(line["line"] for line in found)
    for part in parts:
        assert part not in text, (name, text)
    assert "redacted" in text, (name, text)


def _fail(text: str) -> None:
    try:
        raise ValueError(f"inside {text}")
    except ValueError as error:
        raise RuntimeError(f"outside {text}") from error


def by_exception(text: str) -> None:
    try:
        _fail(text)
    except RuntimeError:
        get_logger("kokon.test").exception("failed")


def by_uvicorn(text: str) -> None:
    try:
        _fail(text)
    except RuntimeError as error:
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)


def by_thread(text: str) -> None:
    thread = threading.Thread(target=_fail, args=(text,))
    thread.start()
    thread.join()


def by_hook(text: str) -> None:
    try:
        _fail(text)
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)


VEHICLES: dict[str, Callable[[str], None]] = {
    "message": lambda text: get_logger("kokon.test").info(f"saw {text} there"),
    "argument": lambda text: get_logger("kokon.test").info("saw %s there", text),
    "value": lambda text: get_logger("kokon.test").info("saw", what=text),
    "nested": lambda text: get_logger("kokon.test").info("saw", what={"a": [{"b": (text,)}]}),
    "key": lambda text: get_logger("kokon.test").info("saw", what={text: 1}),
    "object": lambda text: get_logger("kokon.test").info("saw", what=ValueError(text)),
    "bound": lambda text: get_logger("kokon.test").bind(what=text).warning("saw"),
    "stdlib": lambda text: logging.getLogger("other.library").warning("saw %s", text),
    "stdlib-extra": lambda text: logging.getLogger("other.library").warning("saw", extra={"what": text}),
    "warning": lambda text: warnings.warn(text, stacklevel=1),
    "exception": by_exception,
    "uvicorn": by_uvicorn,
    "thread": by_thread,
    "hook": by_hook,
}


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("vehicle", VEHICLES)
def test_no_secret_comes_through(lines, vehicle: str) -> None:
    for name, (text, parts) in SECRETS.items():
        before = len(lines())
        VEHICLES[vehicle](text)
        check(lines()[before:], name, parts or [text])


@pytest.mark.parametrize("vehicle", ["exception", "uvicorn", "thread", "hook"])
def test_tracebacks_are_redacted_too(debug_lines, vehicle: str) -> None:
    for name, (text, parts) in SECRETS.items():
        before = len(debug_lines())
        VEHICLES[vehicle](text)
        check(debug_lines()[before:], name, parts or [text])


@pytest.mark.parametrize(
    "key",
    ["authorization", "Cookie", "set-cookie", "admin_token", "token", "password", "passphrase", "pin", "secret", "kek",
     "api_key", "master_key", "private-key", "session", "ciphertext", "encrypted_key", "d"],
)  # fmt: skip
def test_what_stands_under_a_telling_key_is_never_logged(lines, key: str) -> None:
    get_logger("kokon.test").info("saw", **{key: "short"})
    get_logger("kokon.test").info("saw", inner={key: ["short"], "other": 1})
    for line in lines():
        assert "short" not in line["line"]
    assert lines()[1]["inner"] == {key: REDACTED, "other": 1}


def test_what_is_no_secret_stays(lines) -> None:
    get_logger("kokon.test").info(
        "resource released",
        path="clinic/secret/db-password",
        digest="sha256:00ff",
        tokens_read=3,
        ready=True,
        pin=None,
    )
    (line,) = lines()
    assert line["event"] == "resource released"
    assert (line["path"], line["digest"], line["tokens_read"]) == ("clinic/secret/db-password", "sha256:00ff", 3)
    assert (line["ready"], line["pin"], line["level"], line["logger"]) == (True, None, "info", "kokon.test")
    assert line["time"].endswith("Z")


def test_a_token_keeps_its_identity_so_that_it_can_be_revoked() -> None:
    assert redact_text(f"kokon_abcdefghijkl_{CANARY}") == f"kokon_abcdefghijkl_{REDACTED}"


def test_a_traceback_is_for_those_who_debug(lines, debug_lines) -> None:
    by_exception("x")
    (line,) = debug_lines()  # configured last
    assert "in _fail" in line["traceback"]
    assert "Traceback" in line["traceback"]


def test_without_debug_an_exception_is_named_and_placed(lines) -> None:
    by_exception("x")
    (line,) = lines()
    assert (line["error"], line["error_text"], line["error_cause"]) == (
        "RuntimeError",
        "outside x",
        "ValueError: inside x",
    )
    assert line["error_at"].endswith(" _fail")
    assert "raceback" not in line["line"]


def test_one_line_whatever_it_says(lines) -> None:
    get_logger("kokon.test").info('a\nb\r{"event": "forged"}\u2028\x1b[31m', data=b"bytes", deep=[[[[[[[[1]]]]]]]])
    (line,) = lines()
    assert line["line"].isascii()
    assert line["data"] == "[5 bytes]"
    assert "[deep]" in line["line"]


def test_lines_are_bounded(lines) -> None:
    get_logger("kokon.test").info("a" * 1_000_000, many=list(range(10_000)))
    (line,) = lines()
    assert len(line["line"]) < 3 * TEXT_LIMIT


def test_what_cannot_be_logged_says_so_without_a_word_of_it(lines, capfd) -> None:
    class Sly:
        def __str__(self) -> str:
            raise RuntimeError(CANARY)

    root = logging.getLogger()
    root.handlers = root.handlers[:1]  # without pytest's own, which fail at such a line
    arguments = (CANARY,)
    logging.getLogger("other").warning("%s %s", *arguments)
    get_logger("kokon.test").info("saw", what=Sly())
    assert [line["event"] for line in lines()] == ["unloggable", "saw"]
    assert lines()[1]["what"] == "[Sly]"
    assert CANARY not in "".join(line["line"] for line in lines()) + "".join(capfd.readouterr())


def test_access_logs_are_silent(lines) -> None:
    logging.getLogger("uvicorn.access").info('%s - "%s"', "192.0.2.1", "GET /?token=x")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").warning("hello", extra={"color_message": "\x1b"})
    assert [(line["event"], line.get("color_message")) for line in lines()] == [("hello", None)]


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.binary(max_size=5)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner), max_leaves=9)


@settings(max_examples=60)
@given(VALUES)
def test_anything_can_be_redacted_and_twice_is_once(value: Any) -> None:
    once = redact(value)
    json.dumps(once)
    assert redact(once) == once


@given(st.text(), st.sampled_from(sorted(SECRETS)), st.text())
def test_secrets_are_found_whatever_stands_around_them(before: str, name: str, after: str) -> None:
    text, parts = SECRETS[name]
    redacted = redact_text(f"{before} {text} {after}")
    for part in parts or [text]:
        assert part not in redacted


def test_hostile_texts_are_searched_in_reasonable_time() -> None:
    """Each of these takes a backtracking search squares of its length: a minute or more, where this takes no time."""
    hostile = ("a-", "a.", "-----BEGIN PRIVATE KEY", "authorization ", "\\", '"d":', "bearer ", "http://a", "eyJ.")
    for piece in (*hostile, "session"):
        redact_text(piece * 200_000)
