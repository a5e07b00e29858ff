"""Logging, set up once by the command line: one line per event, readable on a terminal, JSON elsewhere.

The libraries' log lines go the same way. Code that has message texts and secrets does not log them; the redaction here
is the last line of defence.
"""

import json
import logging
import re
import shutil
import sys
import textwrap
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


class ChannelNames:
    """What the IDs of channels and rooms are called; nothing has a name before somebody knows them."""

    def __init__(self) -> None:
        self.name_of: Callable[[str], str | None] = lambda _: None

    def use(self, name_of: Callable[[str], str | None]) -> None:
        """From now on `name_of` tells."""
        self.name_of = name_of


def configure(
    level: Level,
    form: Format,
    secrets: Iterable[str],
    stream: TextIO | None = None,
    names: ChannelNames | None = None,
) -> None:
    """Send every log line of this process to `stream` (standard error by default). May be called again."""
    target = sys.stderr if stream is None else stream
    readable = form == "console" or (form == "auto" and target.isatty())
    known = names or ChannelNames()
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
            *(
                [_names_in_front(known), _on_one_line, _console(debug=level == "debug")]
                if readable
                else [_names_beside(known), _in_order, _json]
            ),
            _redact(secrets),
            # Last: a secret with a space in it must not be on two lines when it is looked for.
            *([_wrapped] if readable and target.isatty() else []),
        ],
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatter)
    handler.addFilter(lambda record: not _NOISE.search(str(record.msg)))
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one.formatter, structlog.stdlib.ProcessorFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(threshold)
    for name, (usual, debugging) in _LIBRARIES.items():
        logging.getLogger(name).setLevel(max(threshold, debugging if level == "debug" else usual))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            *([] if level == "debug" else [_fewer_tries]),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _fewer_tries(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Of what is tried again and again, the 1st, 2nd, 4th, 8th … try is logged: else an outage fills the log."""
    tries = event.get("tries")
    if isinstance(tries, int) and tries & (tries - 1):
        raise structlog.DropEvent
    return event


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


# The fields that hold the ID of a channel, a room or a thread.
_CHANNELS = ("channel", "room", "thread", "moved_to", "old", "new")


def _names_in_front(names: ChannelNames) -> Processor:
    """`#help on A server (1234567890123456789)` instead of the ID."""

    def process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        for key in _CHANNELS:
            if isinstance(value := event.get(key), str) and (name := names.name_of(value)) is not None:
                event[key] = f"{name} ({value})"
        return event

    return process


def _names_beside(names: ChannelNames) -> Processor:
    """`"channel_name": "#help on A server"` beside the ID: programs look for that."""

    def process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        for key in _CHANNELS:
            if isinstance(value := event.get(key), str) and (name := names.name_of(value)) is not None:
                event[f"{key}_name"] = name
        return event

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


# What is read last, because it is a sentence.
_SENTENCES = ("problem", "reason", "mistake", "remedy")
_COLORS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_PLAIN = "\x1b[0m"
_INDENT = " " * len("12:34:56 ")


def _console(*, debug: bool) -> Processor:
    """Time, level, what happened, and the facts."""

    def render(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
        time, level = event.pop("timestamp", ""), str(event.pop("level", "info"))
        source, text = str(event.pop("logger", "")), str(event.pop("event", ""))
        traceback = event.pop("exception", None)
        facts = sorted(event.items(), key=lambda fact: fact[0] in _SENTENCES)
        words = [f"{time} {level:<7} {text}", *(f"{key}={_quoted(value)}" for key, value in facts)]
        if debug or not source.startswith("relay"):
            words.append(f"[{source}]")
        line = " ".join(words)
        return line if traceback is None else f"{line}\n{traceback}"

    return render


def _wrapped(_logger: WrappedLogger, _method: str, rendered: EventDict) -> str:
    """For a terminal: broken between words, with an indent, and with the level in its colour."""
    line, *traceback = str(rendered).split("\n", 1)
    width = shutil.get_terminal_size().columns
    line = textwrap.fill(line, width, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False)
    level = line[len(_INDENT) :].partition(" ")[0]
    if level in _COLORS:
        line = line.replace(f" {level}", f" {_COLORS[level]}{level}{_PLAIN}", 1)
    return "\n".join([line, *traceback])


def _quoted(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text or not text else text
