"""Logging, set up once by the command line: one line per event, readable on a terminal, JSON elsewhere.

The libraries' log lines go the same way. Code that has message texts and secrets does not log them; the redaction here
is the last line of defence.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, TextIO
from urllib.parse import quote

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

HIDDEN = "[hidden]"

# The lowest level at which a library logs: (usually, when we log at debug). nio logs the content of an event that it
# cannot parse; SQLAlchemy, aiosqlite and discord.py log what they send and receive at lower levels, with message texts.
_LIBRARIES = {
    "nio": (logging.CRITICAL, logging.CRITICAL),
    "discord": (logging.WARNING, logging.INFO),
    "sqlalchemy": (logging.WARNING, logging.WARNING),
    "aiosqlite": (logging.WARNING, logging.WARNING),
    "alembic": (logging.WARNING, logging.WARNING),
    "aiohttp": (logging.WARNING, logging.WARNING),
    "asyncio": (logging.WARNING, logging.WARNING),
}
# discord.py warns at each start that voice will not work, which we do not use.
_NOISE = re.compile(r"voice will NOT be supported")

# Secrets that are in no setting: a webhook's token in its URL, a token from a login.
_SHAPES = re.compile(
    r"(?P<before>/webhooks/\d+/|access_token=|\b(?:Bearer|Bot) |\bsyt_)(?P<secret>[\w.~+/=-]{16,})", re.ASCII
)
_SHORTEST_SECRET = 4


def configure(level: Level, form: Format, secrets: Iterable[str], stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (standard error by default). May be called again."""
    target = sys.stderr if stream is None else stream
    readable = form == "console" or (form == "auto" and target.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if readable else "iso", utc=not readable),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            # Never a traceback with local variables, which hold messages and tokens.
            structlog.processors.format_exc_info,
            *([_on_one_line, _console(target)] if readable else [_in_order, _json]),
            _redact(secrets),
        ],
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatter)
    handler.addFilter(lambda record: not _NOISE.search(str(record.msg)))
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known.formatter, structlog.stdlib.ProcessorFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(threshold)
    for name, (usual, debugging) in _LIBRARIES.items():
        logging.getLogger(name).setLevel(max(threshold, debugging if level == "debug" else usual))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that hides `secrets` in a text, however they are escaped, and whatever looks like a secret."""
    forms: set[str] = set()
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            forms |= {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe=""), quote(secret)}
    known = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))) if forms else None

    def redact(text: str) -> str:
        if known is not None:
            text = known.sub(HIDDEN, text)
        return _SHAPES.sub(lambda match: match["before"] + HIDDEN, text)

    return redact


def _redact(secrets: Iterable[str]) -> Processor:
    hide = redactor(secrets)

    def process(_logger: WrappedLogger, _method: str, rendered: EventDict) -> str:
        return hide(str(rendered))

    return process


def _on_one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """No value may start a new line or steer the terminal. Only a traceback has several lines."""
    return {key: value if key == "exception" else _escaped(value) for key, value in event.items()}


def _escaped(value: object) -> object:
    text = value if isinstance(value, str) else str(value)
    return value if text.isprintable() else repr(text)[1:-1]


def _in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The fields that every line has come first."""
    return {key: event.pop(key) for key in ("timestamp", "level", "logger", "event") if key in event} | dict(event)


def readable_json(value: object, **options: Any) -> str:
    """JSON with the letters of all scripts as they are; what cannot be printed (control characters, say) is escaped."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return "".join(it if it.isprintable() or it == "\n" else json.dumps(it)[1:-1] for it in text)


_json = structlog.processors.JSONRenderer(serializer=readable_json, default=str)


def _console(target: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer(colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback)
