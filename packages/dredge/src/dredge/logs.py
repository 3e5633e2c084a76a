"""Structured logs: one line an event, JSON or text, to standard error.

No text of an insight, no query, no header and no token is ever given to a logger. An exception's own words can quote
what a client sent, so below the level DEBUG they are kept only where they cannot: in the package's errors and those of
the operating system.
"""

import io
import json
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeAlias

import structlog
from structlog.typing import EventDict, Processor

from dredge.config import LogSettings
from dredge.errors import DredgeError

__all__ = ["Logger", "described_exception", "make_logger", "standard_logging"]

# The classes that structlog makes for a level do not pass as its own protocol when a program is checked as it runs.
Logger: TypeAlias = Any

_FRAMES = 12
_ENCODER = json.JSONEncoder(default=repr)


def make_logger(settings: LogSettings, stream: io.TextIOBase | None = None) -> Logger:
    """A logger of its own; nothing of the process is configured.

    Args:
        settings: level and format.
        stream: where lines go; None = standard error. A line that it does not take is lost.

    Returns:
        The logger.

    >>> lines = io.StringIO()
    >>> make_logger(LogSettings(format="json"), lines).info("started", port=3001)
    >>> sorted(json.loads(lines.getvalue()))
    ['event', 'level', 'port', 'timestamp']
    """
    taken = stream or sys.stderr
    lines: Any = _Patient(taken)
    return structlog.wrap_logger(
        structlog.WriteLogger(lines),
        processors=[*_shared(), _renderer(settings, taken.isatty())],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        cache_logger_on_first_use=True,
    ).bind()


def standard_logging(settings: LogSettings) -> dict[str, Any]:
    """What `logging.config.dictConfig` takes so that libraries' lines look like ours.

    Args:
        settings: level and format.

    Returns:
        The configuration: of the root, and of granian's loggers, which do not pass theirs on.
    """
    quiet = {"handlers": ["stderr"], "level": settings.level, "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "lines": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": _shared(),
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    _without_exc_info,
                    _renderer(settings, sys.stderr.isatty()),
                ],
            }
        },
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "lines", "stream": "ext://sys.stderr"},
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        # werkzeug's lines of requests would hold queries; the service writes its own.
        "loggers": {"_granian": dict(quiet), "granian.access": dict(quiet), "werkzeug": {"level": "WARNING"}},
    }


def described_exception(error: BaseException, *, whole: bool = False) -> dict[str, Any]:
    """What a log line says of an exception.

    Args:
        error: the exception.
        whole: with its own words, whatever they quote.

    Returns:
        Its type, its last frames (file, line, function), its words where they are safe, and the same of its cause.
    """
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    said: dict[str, Any] = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "traceback": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if whole or isinstance(error, (DredgeError, OSError)):
        said["message"] = str(error)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        said["cause"] = described_exception(cause, whole=whole)
    return said


class _Patient:
    """A stream that may fail: a full disk, or a reader that has gone, is no reason to answer no request."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _shared() -> list[Processor]:
    return [structlog.processors.add_log_level, _stamp]


def _stamp(_: Any, __: str, event: EventDict) -> EventDict:
    event["timestamp"] = datetime.now(UTC).isoformat(timespec="microseconds")
    return event


def _renderer(settings: LogSettings, on_terminal: bool) -> Processor:
    if settings.format == "text" or (settings.format == "auto" and on_terminal):
        return structlog.dev.ConsoleRenderer(colors=on_terminal)
    return _json


def _json(_: Any, __: str, event: EventDict) -> str:
    return _ENCODER.encode(event)


def _without_exc_info(_: Any, __: str, event: EventDict) -> EventDict:
    error = event.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = described_exception(error)
    return event
