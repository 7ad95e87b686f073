"""Log lines: one JSON object each, to stderr, without secrets, whoever logs.

structlog for our own lines; those of uvicorn, asyncio and the rest, warnings and exceptions that nobody caught go the
same way. An exception is logged as its type, its text and where it happened; its traceback only with `debug`. A line's
`event` is the message, `level`, `logger` and `time` say what they say, and everything is redacted last of all.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from typing import IO, TYPE_CHECKING, Any

import structlog

from kokon.provisioning.web.redact import redact_members, redact_text

if TYPE_CHECKING:
    from types import TracebackType

_QUIET = {
    "uvicorn.access": logging.CRITICAL,
    "uvicorn.error": logging.WARNING,
    "alembic": logging.WARNING,
    "asyncio": logging.WARNING,
}
_Event = MutableMapping[str, Any]


def configure_logging(*, debug: bool = False, stream: IO[str] | None = None, level: int = logging.INFO) -> None:
    """Send every log line of this process to `stream` (stderr). Call it once, before anything else.

    uvicorn must be given `log_config=None`, or it brings handlers of its own.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _Exceptions(debug=debug), _render],
        )
    )
    _take_over(handler, level)


def get_logger(name: str) -> Any:
    """A logger: `get_logger("kokon.server").info("ready", url=url)`."""
    return structlog.stdlib.get_logger(name)


def _take_over(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


class _Handler(logging.StreamHandler[IO[str]]):
    """Does not tell, on stderr and unredacted, why a line could not be written, as the base class does."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - of the base class
        try:
            self.stream.write(json.dumps({"event": "unloggable", "logger": record.name}) + "\n")
        except (OSError, ValueError):
            return


class _Exceptions:
    """Puts an event's exception into words."""

    def __init__(self, *, debug: bool) -> None:
        self._debug = debug

    def __call__(self, _logger: Any, _method: str, event: _Event) -> _Event:
        info = event.pop("exc_info", None)
        event.pop("stack_info", None)
        if info is True:
            info = sys.exc_info()
        error = info[1] if isinstance(info, tuple) else info
        if isinstance(error, BaseException):
            event.update(_describe(error))
            if self._debug:
                event["traceback"] = "".join(traceback.format_exception(error))
        return event


def _describe(error: BaseException) -> dict[str, Any]:
    members: dict[str, Any] = {"error": type(error).__name__, "error_text": _said(error)}
    where = traceback.extract_tb(error.__traceback__)
    if where:
        last = where[-1]
        members["error_at"] = f"{last.filename.rpartition('site-packages/')[2]}:{last.lineno} {last.name}"
    if error.__cause__ is not None:
        members["error_cause"] = f"{type(error.__cause__).__name__}: {_said(error.__cause__)}"
    return members


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a log line must not fail because of what it tells of
        return "[no text]"


def _render(_logger: Any, _method: str, event: _Event) -> str:
    """One line of ASCII: redacted member by member, and once more as a whole, for what only shows side by side."""
    members = redact_members({name: value for name, value in event.items() if name != "color_message"})
    first = {name: members.pop(name) for name in ("time", "level", "logger") if name in members}
    line = json.dumps({**first, "event": members.pop("event", ""), **members}, default=str)
    again = redact_text(line)
    return line if again == line else json.dumps({**first, "event": again})


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("kokon").critical("uncaught", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    if args.exc_value is not None:
        logging.getLogger("kokon").error(
            "unraisable", exc_info=(type(args.exc_value), args.exc_value, args.exc_traceback)
        )
