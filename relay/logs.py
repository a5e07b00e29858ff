"""Logging: one line per event, readable on a terminal, JSON elsewhere. The command line sets it up once.

The lines go through the standard library's `logging`, as the libraries' do. Code that has message texts and secrets
does not log them; the redaction here is the last line of defence.
"""

import json
import logging
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO
from urllib.parse import quote

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

HIDDEN = "[hidden]"

TENANT: ContextVar[str] = ContextVar("tenant", default="")
"""Which tenant a task works for, where there are several: each of its lines says so."""

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


@dataclass(frozen=True, slots=True)
class Line:
    """The message of one of our log records."""

    # What happened, always in the same words.
    event: str
    facts: Mapping[str, object]

    def __str__(self) -> str:
        return " ".join([self.event, *(f"{name}={value!r}" for name, value in self.facts.items())])


class Logger:
    """Logs what happened, and the facts: `_log.info("pair added", pair="help")`."""

    __slots__ = ("_facts", "_target")

    def __init__(self, name: str, facts: Mapping[str, object] | None = None) -> None:
        self._target = logging.getLogger(name)
        self._facts = facts or {}

    def bind(self, **facts: object) -> "Logger":
        """A logger whose lines have these facts, too."""
        return Logger(self._target.name, {**self._facts, **facts})

    def debug(self, event: str, /, **facts: object) -> None:
        """For who looks for a fault."""
        self._log(logging.DEBUG, event, facts)

    def info(self, event: str, /, **facts: object) -> None:
        """What an operator may want to know."""
        self._log(logging.INFO, event, facts)

    def warning(self, event: str, /, **facts: object) -> None:
        """What an operator should look at."""
        self._log(logging.WARNING, event, facts)

    def error(self, event: str, /, **facts: object) -> None:
        """What is broken."""
        self._log(logging.ERROR, event, facts)

    def exception(self, event: str, error: BaseException | None = None, /, **facts: object) -> None:
        """What is broken, with the traceback of `error`, or else of the error that is being handled."""
        self._log(logging.ERROR, event, facts, error or sys.exception())

    def _log(self, level: int, event: str, facts: Mapping[str, object], error: BaseException | None = None) -> None:
        if self._target.isEnabledFor(level):
            self._target.log(level, Line(event, {**self._facts, **facts}), exc_info=error)


def get_logger(name: str) -> Logger:
    """The logger of a module."""
    return Logger(name)


class ChannelNames:
    """What the IDs of channels and rooms are called; nothing has a name before somebody knows them."""

    def __init__(self) -> None:
        self._tell: dict[str, Callable[[str], str | None]] = {}

    def use(self, name_of: Callable[[str], str | None], tenant: str = "") -> None:
        """From now on `name_of` tells, for the lines of this tenant."""
        self._tell[tenant] = name_of

    def name_of(self, channel: str) -> str | None:
        """What it is called, for the lines of the tenant that logs."""
        tell = self._tell.get(TENANT.get())
        return None if tell is None else tell(channel)


def configure(
    level: Level,
    form: Format,
    hide: Callable[[str], str],
    stream: TextIO | None = None,
    names: ChannelNames | None = None,
) -> None:
    """Send every log line of this process to `stream` (standard error by default). May be called again.

    `hide` takes out of each what must not be in it.
    """
    target = sys.stderr if stream is None else stream
    known = names or ChannelNames()
    formatter: logging.Formatter
    if form == "console" or (form == "auto" and target.isatty()):
        formatter = _Readable(known, hide, debug=level == "debug", wrap=target.isatty())
    else:
        formatter = _Json(known, hide)
    handler = _Output(target)
    handler.setFormatter(formatter)
    handler.addFilter(_is_no_noise)
    if level != "debug":
        handler.addFilter(_is_new)
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one.formatter, _Readable | _Json)]:
        root.removeHandler(old)
    root.addHandler(handler)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(threshold)
    for name, (usual, debugging) in _LIBRARIES.items():
        logging.getLogger(name).setLevel(max(threshold, debugging if level == "debug" else usual))
    logging.captureWarnings(True)


class _Output(logging.StreamHandler[TextIO]):
    """Lines that cannot be written are counted, and told of once they can: a full disk is no matter of the bridge.

    The standard library's handler writes a traceback instead, with the facts as they were before anything was hidden.
    """

    _missing = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, after how many are missing before it."""
        if self._missing:
            facts = Line("log lines are missing: there was no room for them", {"lines": self._missing})
            told = logging.LogRecord(__name__, logging.WARNING, __file__, 0, facts, None, None)
            if self._write(told):
                self._missing = 0
        if self._missing or not self._write(record):
            self._missing += 1

    def _write(self, record: logging.LogRecord) -> bool:
        try:
            # What is kept back goes first, or more and more would be.
            self.flush()
        except (OSError, ValueError):  # the latter of an output that is closed
            return False
        try:
            self.stream.write(f"{self.format(record)}{self.terminator}")
            self.flush()
        except OSError:
            pass  # it is kept back, and comes with the next line
        except Exception:  # noqa: BLE001 - a bug: a fact that cannot be put in words
            self.handleError(record)
        return True


def is_for_programs() -> bool:
    """Whether the lines are JSON."""
    return any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers)


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not (isinstance(record.msg, str) and _NOISE.search(record.msg))


def _is_new(record: logging.LogRecord) -> bool:
    """Of what is tried again and again, the 1st, 2nd, 4th, 8th … try is logged: else an outage fills the log."""
    tries = record.msg.facts.get("tries") if isinstance(record.msg, Line) else None
    return not (isinstance(tries, int) and tries & (tries - 1))


class Redactor:
    """Hides in a text the secrets that it knows, however they are escaped, and whatever looks like a secret."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: one may be a part of another. A regular expression of them all would be compiled anew for
        # each tenant, and tries all of them at each letter of each line.
        self._forms: list[str] = []
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Hide these, too."""
        forms = set(self._forms)
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                forms |= {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe=""), quote(secret)}
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        return _SHAPES.sub(lambda match: match["before"] + HIDDEN, text)


# The fields that hold the ID of a channel, a room or a thread.
_CHANNELS = ("channel", "room", "thread", "moved_to", "old", "new")


def _parts(record: logging.LogRecord) -> tuple[str, dict[str, object], str | None]:
    """What happened, the facts, and a traceback: never with local variables, which hold messages and tokens."""
    message: object = record.msg
    event, facts = (message.event, dict(message.facts)) if isinstance(message, Line) else (record.getMessage(), {})
    if tenant := TENANT.get():
        facts["tenant"] = tenant
    error = record.exc_info[1] if record.exc_info else None
    return event, facts, None if error is None else "".join(traceback.format_exception(error)).rstrip("\n")


def readable_json(value: object, **options: Any) -> str:
    """JSON with the letters of all scripts as they are; what cannot be printed (control characters, say) is escaped."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return "".join(it if it.isprintable() or it == "\n" else json.dumps(it)[1:-1] for it in text)


class _Json(logging.Formatter):
    """For programs: an object a line. The fields that every line has come first."""

    def __init__(self, names: ChannelNames, hide: Callable[[str], str]) -> None:
        super().__init__()
        self._names = names
        self._hide = hide

    def format(self, record: logging.LogRecord) -> str:
        event, facts, trace = _parts(record)
        time = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        values = {"timestamp": time, "level": record.levelname.lower(), "logger": record.name, "event": event, **facts}
        if trace is not None:
            values["exception"] = trace
        for key in _CHANNELS:
            # Beside the ID, as `"channel_name": "#help on A server"`: programs look for the ID.
            if isinstance(value := facts.get(key), str) and (name := self._names.name_of(value)) is not None:
                values[f"{key}_name"] = name
        return self._hide(readable_json(values, default=str))


# What is read last, because it is a sentence.
_SENTENCES = ("problem", "reason", "mistake", "remedy")
_COLORS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_PLAIN = "\x1b[0m"
_INDENT = " " * len("12:34:56 ")


class _Readable(logging.Formatter):
    """For people: time, level, what happened, and the facts. Only a traceback has several lines."""

    def __init__(self, names: ChannelNames, hide: Callable[[str], str], *, debug: bool, wrap: bool) -> None:
        super().__init__()
        self._names = names
        self._hide = hide
        self._debug = debug
        self._wrap = wrap

    def format(self, record: logging.LogRecord) -> str:
        event, facts, trace = _parts(record)
        for key in _CHANNELS:
            # `#help on A server (1234567890123456789)` instead of the ID.
            if isinstance(value := facts.get(key), str) and (name := self._names.name_of(value)) is not None:
                facts[key] = f"{name} ({value})"
        time = datetime.fromtimestamp(record.created).astimezone()
        words = [f"{time:%H:%M:%S} {record.levelname.lower():<7} {_escaped(event)}"]
        words += [
            f"{key}={_quoted(_escaped(value))}"
            for key, value in sorted(facts.items(), key=lambda fact: fact[0] in _SENTENCES)
        ]
        if self._debug or not record.name.startswith("relay"):
            words.append(f"[{record.name}]")
        line = self._hide(" ".join(words))
        # Wrapped last: a secret with a space in it must not be on two lines when it is looked for.
        return "\n".join([_wrapped(line) if self._wrap else line, *([] if trace is None else [self._hide(trace)])])


def _escaped(value: object) -> str:
    """No value may start a new line or steer the terminal."""
    text = str(value)
    return text if text.isprintable() else repr(text)[1:-1]


def _wrapped(line: str) -> str:
    """For a terminal: broken between words, with an indent, and with the level in its colour."""
    width = shutil.get_terminal_size().columns
    line = textwrap.fill(line, width, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False)
    level = line[len(_INDENT) :].partition(" ")[0]
    if level in _COLORS:
        line = line.replace(f" {level}", f" {_COLORS[level]}{level}{_PLAIN}", 1)
    return line


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text or not text else text
