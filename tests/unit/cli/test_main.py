"""The commands, in this process: what they print, and how they exit."""

import asyncio
import gc
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import relay.cli
import relay.config.settings
from relay.cli import main, without_option
from relay.cli.common import printable
from relay.core.status.report import STATUS_KEY
from relay.domain.commands import Command, DeleteMessage, PostNotice, SendMessage
from relay.domain.content import Attachment, Author, Content
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.store.unit_of_work import open_store
from tests.support.store import new_store

TOKEN = "MTk4NjIyNDgzNDcxOTI1MjQ4.secret-discord-token"
CONFIG = f"""
[discord]
token = "{TOKEN}"
[matrix]
homeserver_url = "http://127.0.0.1:1"
user_id = "@relay:example.org"
access_token = "syt_secret_matrix_token"
[[pairs]]
name = "help"
discord_channel = 1234567890123456789
matrix_room = "#help:example.org"
"""
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CHANNEL = ChannelRef(Platform.DISCORD, "1234567890123456789")
LANE = LaneKey(CHANNEL, ChannelRef(Platform.MATRIX, "#help:example.org"))
SOURCE = MessageRef(CHANNEL, "42")
AUTHOR = Author(UserRef(Platform.DISCORD, "7"), "Ann\x1b[31m\x9b0m\u202e")
MEDIA = MediaRef(Platform.DISCORD, "https://cdn/x")
WORDS = Content(RichText.plain("first line\nsecond \x1b[2J"), (Attachment("1", "cat.png", "image", MEDIA),))

Outcome = tuple[int, str, str]
Relay = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Relay:
    (tmp_path / "relay.toml").write_text(CONFIG)

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        return int(exit_.value.code or 0), out, err

    return call


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with dead letters 1, 2 and 3."""
    url = new_store(tmp_path)

    async def fill() -> None:
        store = await open_store(url)
        commands: tuple[Command, ...] = (
            SendMessage(SOURCE, AUTHOR, WORDS, NOW),
            DeleteMessage(SOURCE),
            PostNotice(RichText.plain("threads do not cross")),
        )
        async with store.write() as unit:
            for command in commands:
                entry = await unit.outbox.append(LANE, command, NOW)
                await unit.outbox.dead_letter(entry.id, "forbidden: no permission", NOW)
            await unit.outbox.name(LANE, "help")
        await store.close()

    asyncio.run(fill())
    return url


def in_store(url: str, act: Callable[[Any], Any]) -> Any:
    async def look() -> Any:
        store = await open_store(url)
        async with store.write() as unit:
            result = await act(unit)
        await store.close()
        return result

    return asyncio.run(look())


def test_version(cli: Relay) -> None:
    assert cli("--version") == (0, f"relay {relay.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("run", "--bogus"),
        ("dead", "retry"),
        ("dead", "discard", "1", "--all"),
        ("dead", "show", "x"),
        ("dead", "retry", "9" * 30),
    ],
)
def test_misuse_exits_2(cli: Relay, arguments: tuple[str, ...]) -> None:
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert "Usage: relay" in err
    assert "unable to parse" not in err


COMMANDS = [
    ("run",),
    ("status",),
    ("db", "upgrade"),
    ("db", "downgrade"),
    ("db", "check"),
    ("dead", "list"),
    ("dead", "show", "1"),
    ("dead", "retry", "1"),
    ("dead", "discard", "1"),
    ("outbox", "discard", "--pair", "help"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_config_and_says_all_mistakes(cli: Relay, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "bad.toml").write_text(CONFIG.replace("token =", "tokn =", 1) + '[web]\nlisten = "x"\n')
    before = cli("--config", "bad.toml", *command)
    status, out, err = cli(*command, "--config", "bad.toml")
    assert (status, out, err) == before
    assert (status, out) == (2, "")
    assert [line.partition("; ")[0] for line in err.splitlines()] == [
        "error: bad.toml:2: [discord] token: is missing",
        "error: bad.toml:3: [discord] tokn: there is no such key",
        "error: bad.toml:13: [web] listen: is not an address to listen on",
    ]


def test_relay_config_names_the_file(cli: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_CONFIG", "elsewhere.toml")
    status, _, err = cli("db", "check")
    assert status == 2
    assert err.startswith("error: elsewhere.toml: there is no such file; ")


def test_what_the_daemon_imports_is_not_looked_through_for_garbage(cli: Relay, url: str) -> None:
    assert url
    at_once = CONFIG + '[store]\nurl = "sqlite:////nowhere/relay.db"\n'
    Path("relay.toml").write_text(at_once)
    gc.unfreeze()
    status, _, _ = cli("run")
    assert status != 0
    assert gc.get_freeze_count() > 50_000


def test_a_bug_is_a_traceback_without_locals_or_secrets(cli: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: relay.config.settings.Settings) -> None:
        secret = self.discord.token.get_secret_value()
        raise ValueError(f"refused {secret}")

    monkeypatch.setattr(relay.config.settings.Settings, "declared_pairs", broken)
    status, out, err = cli("status")
    assert (status, out) == (70, "")
    assert "ValueError: refused [hidden]" in err
    assert "this is a bug in relay" in err.splitlines()[-1]


# --- db ---------------------------------------------------------------------------------------------------


def test_db(cli: Relay, tmp_path: Path) -> None:
    store = f"store {tmp_path}/relay.db"
    status, out, _ = cli("db", "check")
    assert (status, out.partition(";")[0]) == (1, f"{store}: it does not exist yet")
    assert not (tmp_path / "relay.db").exists()
    status, out, _ = cli("db", "upgrade")
    assert (status, out.startswith(f"{store}: at revision ")) == (0, True)
    status, out, _ = cli("db", "check")
    assert (status, "it is up to date" in out) == (0, True)
    status, out, _ = cli("db", "downgrade", "base")
    assert (status, out) == (0, f"{store}: at revision base (no tables)\n")
    status, out, _ = cli("db", "check")
    assert (status, "it has no tables yet" in out) == (1, True)
    for nonsense in ("nonsense", "0000", "--", "-1x"):
        status, _, err = cli("db", "downgrade", "--", nonsense)
        assert (status, len(err.splitlines()), "there is no such revision; write one of base, 0001, " in err) == (
            2,
            1,
            True,
        )
    # How far back the store can go is a matter of the store.
    assert cli("db", "downgrade", "--", "-99")[0] == 1


def test_db_downgrade_is_one_step_by_default(cli: Relay, url: str) -> None:
    assert url
    assert cli("db", "downgrade")[0] == 0
    assert cli("db", "check")[0] == 1


# --- status -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "other.toml", "db", "check"),
        ("db", "--config=other.toml", "check"),
        ("db", "check", "--config", "other.toml"),
    ],
)
def test_the_configuration_may_be_named_anywhere(cli: Relay, tmp_path: Path, arguments: Sequence[str]) -> None:
    (tmp_path / "relay.toml").rename(tmp_path / "other.toml")
    status, out, _ = cli(*arguments)
    assert status == 1
    assert "it does not exist yet" in out
    assert cli("db", "check")[0] == 2


def test_a_config_without_a_path_and_words_behind_two_dashes() -> None:
    assert without_option("--config", ["status", "--config"]) == (["status", "--config"], None)
    assert without_option("--config", ["explain", "--", "--config", "x"]) == (["explain", "--", "--config", "x"], None)
    assert without_option("--config", ["--config", "a", "run", "--config=b"]) == (["run"], "b")


def test_an_empty_path_is_no_configuration(cli: Relay) -> None:
    """It was the folder, which the remedy told to remove."""
    wrong = (2, "", "error: --config: is empty; write the path of the file, or leave it out\n")
    assert cli("status", "--config", "") == cli("--config=", "run") == wrong


def test_the_status_of_tenants(cli: Relay, tmp_path: Path) -> None:
    """Two mistakes stood on one line, with an escaped line break between; and a pair was not looked for."""
    (tmp_path / "tenants.d").mkdir()
    (tmp_path / "tenants.d" / "one.toml").write_text(CONFIG.replace("access_token", "acces_token"))
    (tmp_path / "relay.toml").write_text('tenants = "tenants.d"\n')
    status, out, _ = cli("status")
    assert status == 1
    assert [line.partition(":")[0] for line in out.splitlines()] == ["one", "one"]
    assert "did you mean access_token?" in out
    for asked in (("help",), ("--problems", "help")):
        status, out, err = cli("status", *asked)
        assert (status, out, "name one with --tenant: one" in err) == (2, "", True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backfill", "help", "--since", "2026-13-01"), "2026-13-01 is no day: write it like"),
        (("backfill", "help", "--before", "x"), "x is no day: write it like"),
        (("directory", "--format", "pdf"), "pdf is none of markdown, html, json"),
    ],
)
def test_a_wrong_value_is_told_in_words_of_ours(cli: Relay, arguments: tuple[str, ...], words: str) -> None:
    status, _, err = cli(*arguments)
    assert (status, words in err, "Value error" in err) == (2, True, False)


def test_status_before_the_first_run(cli: Relay, tmp_path: Path) -> None:
    status, out, err = cli("status")
    assert (status, err) == (1, "")
    assert out.startswith("The daemon has never run here.\n")
    assert "help" in out
    status, out, _ = cli("status", "--json")
    assert status == 1
    assert json.loads(out)["pairs"][0]["to_matrix"]["last_message_at"] is None
    assert not (tmp_path / "relay.db").exists()
    # It is the command line that is wrong then, whatever is asked besides. No reason to look again.
    for more in ((), ("--watch",), ("--json",), ("help",)):
        assert cli("status", "hlep", *more) == (2, "", "error: PAIR: there is no pair hlep; did you mean help?\n")


def test_status_of_a_stopped_daemon(cli: Relay, url: str) -> None:
    saved = {
        "daemon": {"running": True, "pid": 1, "host": "h", "since": NOW.isoformat(), "updated_at": NOW.isoformat()},
        "pairs": [{"name": "help", "problem": "No permission \x1b[2J.", "to_matrix": {"messages": 4, "retries": 2}}],
        "discord": {"connected": True, "state": "ready", "problem": None},
        "matrix": {"connected": True, "state": "ready", "problem": None},
    }
    in_store(url, lambda unit: unit.key_values.put(STATUS_KEY, json.dumps(saved)))
    status, out, _ = cli("status")
    assert status == 1
    assert "The daemon is not running; it was last seen " in out
    assert "\nhelp ✗ " in out
    assert "\n  No permission \\x1b[2J.\n" in out
    status, out, _ = cli("status", "--json")
    report = json.loads(out)
    assert status == 1
    assert report["pairs"][0]["to_matrix"]["retries"] == 2
    assert report["pairs"][0]["to_matrix"]["dead_letters"] == 3
    assert report["matrix"]["problem"] == "The daemon is not running."


def test_status_of_an_empty_store(cli: Relay, tmp_path: Path) -> None:
    (tmp_path / "relay.db").write_bytes(b"")
    status, out, err = cli("status")
    assert (status, out) == (1, "")
    assert "start the daemon once with `relay run`" in err


def test_a_file_that_is_no_store(cli: Relay, tmp_path: Path) -> None:
    (tmp_path / "relay.db").write_text("not a database, but long enough to be taken for one" * 20)
    for command in (("status",), ("dead", "list"), ("db", "check"), ("db", "upgrade")):
        status, out, err = cli(*command)
        assert (status, out, len(err.splitlines())) == (1, "", 1)
        assert "it is not a store" in err


def test_a_store_that_cannot_be_opened(cli: Relay, tmp_path: Path) -> None:
    assert "it does not exist yet" in cli("db", "downgrade")[2]
    (tmp_path / "relay.db").mkdir()
    status, _, err = cli("db", "check")
    assert (status, "it is a directory" in err, "name a file in it" in err) == (1, True, True)


@pytest.mark.parametrize("command", [("status",), ("dead", "list"), ("db", "check"), ("db", "backup", "here.db")])
def test_a_store_of_which_nothing_can_be_seen(cli: Relay, tmp_path: Path, command: tuple[str, ...]) -> None:
    """As in a directory that may not be entered: that was told as a bug. (A name of this length is easier to make.)"""
    name = f"{'x' * 300}.db"
    (tmp_path / "relay.toml").write_text(f'{CONFIG}\n[store]\nurl = "sqlite:///{name}"\n')
    status, _, err = cli(*command)
    assert status == 1
    assert err.startswith(f"error: store {tmp_path / name}: File name too long; ")


@pytest.mark.parametrize("command", ["status", "check"])
def test_a_file_that_cannot_be_read_is_told_and_not_what_the_default_store_lacks(
    cli: Relay, tmp_path: Path, command: str
) -> None:
    (tmp_path / "relay.toml").unlink()
    (tmp_path / "relay.toml").symlink_to(tmp_path / "relay.toml")
    (tmp_path / "relay.db").write_text("of something else")
    status, out, err = cli(command)
    assert (status, out) == (2, "")
    assert err == "error: relay.toml: cannot be read: too many levels of symbolic links; let the relay's user read it\n"


def test_status_tells_of_the_file_also_where_the_store_cannot_be_opened(cli: Relay, tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text('[store]\nurl = "sqlite:///relay.db"\n')
    (tmp_path / "relay.db").mkdir()
    _, _, err = cli("status")
    assert "[discord] token: is missing" in err
    assert "it is a directory" in err


# --- dead -------------------------------------------------------------------------------------------------


def test_dead_without_a_store(cli: Relay) -> None:
    status, _, err = cli("dead", "list")
    assert (status, "it does not exist yet" in err) == (1, True)


def test_dead_list(cli: Relay, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert url
    monkeypatch.setenv("COLUMNS", "60")
    status, out, _ = cli("dead", "list")
    assert status == 0
    for words in ("help", "to Matrix", "a message", "Ann\\x1b[31m\\x9b", "forbidden: no permission"):
        assert words in out
    assert "first line" not in out
    assert "\x1b" not in out
    # One line each where no terminal limits it: there were three, and a search found a part of each.
    (line,) = (line for line in out.splitlines() if line.lstrip().startswith("1 "))
    assert "a message" in line
    assert "forbidden: no permission" in line
    first, second, third = json.loads(cli("dead", "list", "--json")[1])
    assert first == {
        "id": 1,
        "pair": "help",
        "direction": "to_matrix",
        "kind": "send",
        "author": AUTHOR.name,
        "source": {"channel": "1234567890123456789", "id": "42"},
        "queued_at": NOW.isoformat(),
        "died_at": NOW.isoformat(),
        "reason": "forbidden: no permission",
    }
    assert (second["kind"], second["author"]) == ("delete", None)
    assert (third["kind"], third["source"]) == ("notice", None)


def test_a_dead_letter_that_cannot_be_read_is_listed_raw(cli: Relay, url: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("UPDATE outbox SET command = ? WHERE id = 1", (b'{"kind":"hologram","\x1b[2J\xff',))
    first, second, _ = json.loads(cli("dead", "list", "--json")[1])
    assert (first["kind"], first["source"]["id"], second["kind"]) == ("unreadable", "42", "delete")
    status, out, _ = cli("dead", "show", "1")
    assert status == 0
    assert 'text         {"kind":"hologram","\\x1b[2J\ufffd' in out.splitlines()
    assert "what         something that cannot be read" in out.splitlines()
    assert cli("dead", "retry", "1")[:2] == (0, "1: queued again\n")


def test_dead_show(cli: Relay, url: str) -> None:
    assert url
    status, out, _ = cli("dead", "show", "1")
    assert status == 0
    lines = out.splitlines()
    assert "text         first line" in lines
    assert "             second \\x1b[2J" in lines
    assert "             [cat.png]" in lines
    # In words, as in the list, and not as a program writes it.
    assert lines[2:4] == ["way          to Matrix", "what         a message"]
    assert lines[5:7] == ["message      42", "in           1234567890123456789"]
    assert json.loads(cli("dead", "show", "3", "--json")[1])["text"] == "threads do not cross"
    for arguments in (("list",), ("show", "1")):
        assert not {"\x1b", "\x9b", "\u202e"} & set(cli("dead", *arguments, "--json")[1])
    status, out, err = cli("dead", "show", "9")
    assert (status, out) == (1, "")
    assert "there is no dead letter 9" in err


def test_dead_retry(cli: Relay, url: str) -> None:
    status, out, err = cli("dead", "retry", "2", "9", "2")
    assert (status, out) == (1, "2: queued again\n")
    assert "there is no dead letter 9" in err
    waiting = in_store(url, lambda unit: unit.outbox.waiting(LANE, 10))
    assert [entry.id for entry in waiting] == [2]
    assert cli("dead", "retry", "--all")[:2] == (0, "1: queued again\n3: queued again\n")
    assert cli("dead", "retry", "--all")[:2] == (0, "There are no dead letters.\n")
    assert cli("dead", "list")[:2] == (0, "There are no dead letters.\n")


def test_dead_discard(cli: Relay, url: str) -> None:
    assert cli("dead", "discard", "1", "3")[:2] == (0, "1: discarded\n3: discarded\n")
    assert [letter.entry.id for letter in in_store(url, lambda unit: unit.outbox.dead())] == [2]
    assert cli("dead", "discard", "--all")[:2] == (0, "2: discarded\n")


def test_printable() -> None:
    assert printable("a\nb\x1b\u202e ünï") == "a\\nb\\x1b\\u202e ünï"


# --- outbox -----------------------------------------------------------------------------------------------


def test_what_waits_for_an_undeclared_pair_is_shown_and_discarded(cli: Relay, url: str) -> None:
    gone = LaneKey(ChannelRef(Platform.DISCORD, "77"), ChannelRef(Platform.MATRIX, "!gone\x9b:b"))

    async def fill(unit: Any) -> None:
        for lane in (gone, gone, gone.back, LANE):
            await unit.outbox.append(lane, DeleteMessage(SOURCE), NOW)
        await unit.outbox.name(gone, "staff")

    in_store(url, fill)
    (back, there) = sorted(json.loads(cli("status", "--json")[1])["undeclared"], key=lambda lane: lane["backlog"])
    assert there["name"] == "staff"
    assert (there["direction"], there["source"], there["backlog"]) == ("to_matrix", "77", 2)
    assert (back["name"], back["backlog"]) == (None, 1)
    out = cli("status")[1]
    assert "staff is not declared (77 → !gone\\x9b:b): 2 waiting" in out
    assert "`relay outbox discard --pair staff` forgets what waits" in out
    assert "`relay outbox discard --channels '!gone\\x9b:b' 77` forgets what waits" in out
    assert cli("outbox", "discard", "--pair", "help")[0] == 1
    assert (
        "nothing waits for an undeclared pair like that; did you mean staff?"
        in cli("outbox", "discard", "--pair", "Staff")[2]
    )
    assert cli("outbox", "discard")[0] == 2
    assert cli("outbox", "discard", "--pair", "staff")[:2] == (0, "77 -> !gone\\x9b:b: 2 discarded\n")
    assert cli("outbox", "discard", "--pair", "staff")[0] == 1
    assert cli("outbox", "discard", "--channels", gone.destination.id, "77")[1].endswith("-> 77: 1 discarded\n")
    assert json.loads(cli("status", "--json")[1])["undeclared"] == []
    assert len(in_store(url, lambda unit: unit.outbox.waiting(LANE, 9))) == 1
