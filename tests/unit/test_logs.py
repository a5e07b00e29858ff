"""Log lines: their shape, and what never stands in one."""

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.logs import HIDDEN, ChannelNames, Format, Level, Redactor, configure, get_logger

SECRET = 'pa"ss/wörd %41'


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    names = ("nio", "discord", "sqlalchemy", "aiosqlite", "alembic", "aiohttp", "asyncio")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    logging.captureWarnings(False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def set_up(form: Format = "json", level: Level = "info", stream: io.StringIO | None = None) -> io.StringIO:
    stream = io.StringIO() if stream is None else stream
    configure(level, form, Redactor([SECRET]), stream)
    return stream


def test_json_is_one_object_a_line() -> None:
    stream = set_up("auto")
    get_logger("relay.core.delivery.dispatcher").info("crossed", pair="help", seconds=0.25)
    logging.getLogger("discord.gateway").warning("Shard ID %s has %s", None, "stopped")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith('{"timestamp": "')
    first, second = map(json.loads, lines)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "crossed",
        "level": "info",
        "logger": "relay.core.delivery.dispatcher",
        "pair": "help",
        "seconds": 0.25,
    }
    assert (second["event"], second["logger"]) == ("Shard ID None has stopped", "discord.gateway")


def test_a_terminal_gets_readable_lines() -> None:
    stream = set_up("auto", stream=Terminal())
    get_logger("relay").info("crossed", pair="help")
    (line,) = stream.getvalue().splitlines()
    assert "crossed" in line
    assert not line.startswith("{")


def test_no_value_begins_a_line_of_its_own() -> None:
    stream = set_up("console")
    get_logger("relay").info("joined", name="Eve\n12:00:00 [error] forged\x1b[2J")
    (line,) = stream.getvalue().splitlines()
    assert "\\n12:00:00" in line
    assert "\x1b" not in line


def test_configuring_again_replaces() -> None:
    first, second = set_up(), set_up()
    get_logger("relay").info("once")
    assert not first.getvalue()
    assert len(second.getvalue().splitlines()) == 1


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_libraries_say_of_messages_is_muted(level: Level) -> None:
    stream = set_up(level=level)
    for name in ("nio.events.misc", "nio.responses"):
        logging.getLogger(name).warning("Error validating event: words of a message")
        logging.getLogger(name).error("Error validating event: words of a message")
    for name in ("sqlalchemy.engine.Engine", "aiosqlite", "aiohttp.access", "discord.gateway", "discord.http"):
        logging.getLogger(name).debug("words of a message")
    logging.getLogger("discord.client").warning("PyNaCl is not installed, voice will NOT be supported")
    assert not stream.getvalue()


def test_levels() -> None:
    stream = set_up(level="warning")
    log = get_logger("relay")
    log.info("no")
    log.warning("yes")
    logging.getLogger("alembic").error("yes")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes", "yes"]


def test_python_warnings_become_log_lines() -> None:
    stream = set_up()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("deprecated", UserWarning, stacklevel=1)
    assert "deprecated" in json.loads(stream.getvalue())["event"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_hold_no_locals_and_no_secrets(form: Format) -> None:
    stream = set_up(form)
    words = "words of a message"
    try:
        raise ValueError(f"refused {SECRET}, {len(words)}")
    except ValueError:
        get_logger("relay").exception("failed")
        logging.getLogger("discord").exception("failed too")
    text = stream.getvalue()
    assert text.count("ValueError: refused") == 2
    assert words not in text
    for form_of_it in (SECRET, json.dumps(SECRET)[1:-1], repr(SECRET)):
        assert form_of_it not in text


@pytest.mark.parametrize(
    "text",
    [
        "https://discord.com/api/v10/webhooks/1234567890/{}?wait=true",
        "Authorization: Bearer {}",
        "{{'Authorization': 'Bot {}'}}",
        "https://example.org/_matrix/media/v3/download/x/y?access_token={}&z",
        "syt_{}",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    token = "aW5zdHJ1Y3Rpb24.X-y_z0123456789"
    assert Redactor([])(text.format(token)) == text.format(HIDDEN)


@given(st.text(min_size=4), st.text(), st.text())
def test_a_secret_is_hidden_wherever_it_stands(secret: str, before: str, after: str) -> None:
    hidden = Redactor([secret])(before + secret + after)
    if secret not in before + HIDDEN + after and secret not in HIDDEN:
        assert secret not in hidden.replace(HIDDEN, "\x00")


def test_a_short_secret_does_not_blank_everything() -> None:
    assert Redactor(["a", ""])("a banana") == "a banana"


def test_channels_are_called_by_their_names_with_the_id_behind() -> None:
    names = ChannelNames()
    for form, wanted in (("console", 'channel="#help (123)"'), ("json", '"channel": "123"')):
        stream = io.StringIO()
        configure("info", form, Redactor(), stream, names=names)  # type: ignore[arg-type]
        get_logger("relay").info("open", channel="123")
        names.use({"123": "#help"}.get)
        get_logger("relay").info("open", channel="123", room="!other")
        before, after = stream.getvalue().splitlines()
        assert wanted in after
        assert "!other" in after
        if form == "json":
            assert json.loads(after)["channel_name"] == "#help"
            assert "room_name" not in after
        names.use(lambda _: None)
        assert "#help" not in before


@pytest.mark.parametrize(("level", "count"), [("info", 4), ("debug", 10)])
def test_what_is_tried_again_and_again_is_logged_less_and_less(level: Level, count: int) -> None:
    stream = set_up(level=level)
    for tries in range(1, 11):
        get_logger("relay").warning("no connection", tries=tries)
    assert len(stream.getvalue().splitlines()) == count


def test_a_terminal_gets_lines_of_its_width_and_no_half_of_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    for length in range(60, 80):
        set_up("auto", stream=stream)
        get_logger("relay").warning("closed", pair="help", problem=f"{'x ' * (length // 2)}{SECRET} and so on")
    text = stream.getvalue()
    assert max(map(len, text.replace("\x1b[33m", "").replace("\x1b[0m", "").splitlines())) <= 80
    assert "%41" not in text
    assert text.count("\x1b[33mwarning\x1b[0m") == 20


def test_secrets_are_learned_while_lines_are_written() -> None:
    hide = Redactor(["tea-for-two"])
    hide.learn(["tea-for-two-and-more", "coffee!"])
    assert hide("tea-for-two-and-more, tea-for-two, coffee%21") == ", ".join([HIDDEN] * 3)


def test_lines_for_which_there_is_no_room_are_counted_and_told_of_later(capfd: pytest.CaptureFixture[str]) -> None:
    """The library wrote a traceback with all facts to standard error, before anything was hidden in it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "w", encoding="utf-8") as output, os.fdopen(reading, "rb", buffering=0) as reader:
        configure("info", "json", Redactor([SECRET]), output)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 65536)
        for number in range(50):
            get_logger("relay").info("crossed", number=number, text="y" * 100, secret=SECRET)
        assert set(reader.read(1 << 20)) == set(b"x")
        get_logger("relay").info("again")
        lines = [json.loads(line) for line in reader.read(65536).decode().splitlines()]
    assert capfd.readouterr() == ("", "")
    events = [line["event"] for line in lines]
    # A few were kept in memory.
    assert events[-2:] == ["log lines are missing: there was no room for them", "again"]
    assert {line["number"] for line in lines[:-2]} == set(range(50 - lines[-2]["lines"]))
    assert lines[-2]["lines"] > 40


def test_a_line_for_an_output_that_is_closed_is_no_error_of_who_says_it() -> None:
    output = io.StringIO()
    configure("info", "json", Redactor(), output)
    output.close()
    get_logger("relay").info("nobody hears it")
