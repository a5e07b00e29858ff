"""The mistakes that operators make most, and what the daemon tells them: the thing that is wrong, and what to do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from relay import app
from relay.adapters.matrix.api.address import correction
from relay.config.loading import load
from relay.config.settings import stamp
from relay.demo.homeserver import Homeserver
from relay.errors import ConfigurationError, RelayError
from tests.support.mistakes import CHANNELS, ROOMS, declare_channel, do, name_room, new_room, right_channel, website
from tests.support.patience import PATIENCE
from tests.support.stack import FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

# --- In the file ------------------------------------------------------------------------------------------

FILE = """\
[discord]
token = "MTk4NjIyNDgz.secret.discord"
[matrix]
homeserver_url = "https://matrix.example.org"
user_id = "@relay:example.org"
access_token = "syt_secret_matrix"
[[pairs]]
name = "help"
discord_channel = 1234567890123456789
matrix_room = "#help:example.org"
"""
SECOND = """\
[[pairs]]
name = "{name}"
discord_channel = {channel}
matrix_room = "{room}"
"""


def instead(old: str, new: str) -> str:
    assert old in FILE
    return FILE.replace(old, new)


def second(name: str = "two", channel: str = "1234567890123456780", room: str = "#two:example.org") -> str:
    return FILE + SECOND.format(name=name, channel=channel, room=room)


IN_THE_FILE: dict[str, tuple[str, tuple[str, ...]]] = {
    "the example as it is": (instead("MTk4NjIyNDgz.secret.discord", "…"), ("relay.toml:2", "token", "copy the token")),
    "Bot in front of the token": (
        instead('"MTk4', '"Bot MTk4'),
        ("begins with “Bot ”", "leave that out"),
    ),
    "an empty token": (instead("MTk4NjIyNDgz.secret.discord", ""), ("relay.toml:2", "is empty", "write the token")),
    "token and token_file": (instead("[matrix]", 'token_file = "t"\n[matrix]'), ("token_file", "keep only one of")),
    "no token": (instead('token = "MTk4NjIyNDgz.secret.discord"', ""), ("[discord] token", "RELAY_DISCORD__TOKEN")),
    "user_id without @": (
        instead("@relay:", "relay:"),
        ("relay.toml:5", "not a Matrix user ID", '"@relay:example.org"'),
    ),
    "user_id without a server": (instead("@relay:example.org", "@relay"), ("relay.toml:5", "write it in full")),
    "homeserver without a scheme": (instead("https://matrix", "matrix"), ("relay.toml:4", "with its scheme")),
    "/_matrix in the address": (
        instead("matrix.example.org", "matrix.example.org/_matrix/client"),
        ("relay.toml:4", "a path in it that the relay adds by itself", 'write "https://matrix.example.org"'),
    ),
    "#help for a channel": (
        instead("1234567890123456789", '"#help"'),
        ("relay.toml:9", "is not a channel ID", "Copy Channel ID"),
    ),
    "an alias without a server": (
        instead("#help:example.org", "#help"),
        ("relay.toml:10", "names no server", "#help:example.org"),
    ),
    "a matrix.to link": (
        instead("#help:example.org", "https://matrix.to/#/#help:example.org"),
        ("relay.toml:10", "is a link", 'write "#help:example.org"'),
    ),
    "a link of the matrix: kind": (
        instead("#help:example.org", "matrix:r/help:example.org?action=join"),
        ("relay.toml:10", "is a link", 'write "#help:example.org"'),
    ),
    "an account for a room": (
        instead("#help:example.org", "@help:example.org"),
        ("relay.toml:10", "is an account, and no room", "write the room"),
    ),
    "a direct message": (
        instead("1234567890123456789", '"https://discord.com/channels/@me/1234567890123456789"'),
        ("relay.toml:9", "is a direct message, which cannot be mirrored", "name a channel of a server"),
    ),
    "a channel's mention": (
        instead("1234567890123456789", '"<#1234567890123456789>"'),
        ("relay.toml:9", "is a mention of a channel", "write the number in it: 1234567890123456789"),
    ),
    "days without a unit": (
        FILE + "[store]\nretention = 90\n",
        ("relay.toml:12", "retention", "has no unit", '"90d"'),
    ),
    "a channel twice": (second(channel="1234567890123456789"), ("relay.toml:13", "already in", "line 9", "remove one")),
    "a room twice": (second(room="#help:example.org"), ("relay.toml:14", "already in", "line 10", "remove one")),
    "a name twice": (second(name="help"), ("relay.toml:12", "already in", "line 8", "a name of its own")),
    "an unknown key": (FILE + 'colour = "red"\n', ("relay.toml:11", "colour", "no such key", "write one of")),
    "a misspelt key": (instead("homeserver_url", "homeserver_ulr"), ("relay.toml:4", "homeserver_url")),
    "an unknown section": (FILE + "[matrixx]\n", ("matrixx", "no such section", "[matrix]")),
    "no TOML": ("[discord\n", ("line 1, column 9", "correct the TOML there")),
    "curly quotes": (
        instead('"MTk4NjIyNDgz.secret.discord"', "“MTk4NjIyNDgz.secret.discord”"),
        ("at line 2, column 9", 'in line 2 write straight quotes (")', "and not “"),
    ),
    "curly quotes within straight ones": (
        instead("MTk4NjIyNDgz.secret.discord", "“MTk4NjIyNDgz.secret.discord”"),
        ("relay.toml:2", "quotes too many", "write one pair of straight ones"),
    ),
    "[pairs] and then [[pairs]]": (
        second().replace("[[pairs]]", "[pairs]", 1),
        ("in line 7 write [[pairs]], in double brackets",),
    ),
    "[pairs] alone": (instead("[[pairs]]", "[pairs]"), ("relay.toml:7", "start each of them with [[pairs]]")),
    "a channel's link": (
        instead("1234567890123456789", '"https://discord.com/channels/1/1234567890123456789"'),
        ("relay.toml:9", "is not a channel ID", "of a channel's link it is the last number"),
    ),
    "a key below the pairs": (
        FILE + 'retention = "30d"\n',
        ("relay.toml:11", "no such key here", "move it into [store]"),
    ),
    "a folder for the store": (
        FILE + '[store]\nurl = "sqlite:////srv/relay/"\n',
        ("relay.toml:12", "neither an SQLite file"),
    ),
    "another encoding": (FILE.encode("utf-16").decode("latin-1"), ("is not UTF-8 text", "save it as UTF-8")),
    "a token without quotes": (
        instead('"MTk4NjIyNDgz.secret.discord"', "MTk4NjIyNDgz.secret.discord"),
        ("relay.toml: is not valid TOML", 'in line 2 put the value in quotes (")'),
    ),
    "an alias without quotes": (
        instead('"#help:example.org"', "#help:example.org"),
        ("relay.toml: is not valid TOML", 'in line 10 put the value in quotes (")'),
    ),
    "a quote that is not closed": (
        instead('"syt_secret_matrix"', '"syt_secret_matrix'),
        ("relay.toml: is not valid TOML", "in line 6 close the quotes"),
    ),
    "a semicolon behind a value": (
        instead('"syt_secret_matrix"', '"syt_secret_matrix";'),
        ("relay.toml: is not valid TOML", "in line 6 leave nothing behind the closing quote"),
    ),
    "a path of Windows": (
        instead("[matrix]", '[matrix]\npassword_file = "C:\\Users\\x"'),
        ("relay.toml: is not valid TOML", "in line 4 write single quotes (')"),
    ),
    "no value": (instead('"#help:example.org"', ""), ("in line 10 write a value behind the =",)),
    "True": (FILE + "nsfw = True\n", ("in line 11 write true or false, in small letters",)),
    "YAML": (instead("user_id = ", "user_id: "), ("in line 5 write = and not :",)),
    "a comment of another language": (FILE + "// ours\n", ("in line 11 write # before a comment",)),
    "a key twice": (
        instead("[matrix]", 'token = "MTk4NjIyNDgz.secret.discord"\n[matrix]'),
        ("line 3 gives the key of line 2 again", "remove one of the two"),
    ),
    "a section twice": (FILE + "[matrix]\n", ("line 11 begins the section of line 3 again", "move what is below it")),
    "mysql for the store": (
        FILE + '[store]\nurl = "mysql://x/y"\n',
        ("relay.toml:12", "PostgreSQL", "sqlite:///relay.db"),
    ),
}


def lines(config: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(config, {})
    return [str(mistake) for mistake in caught.value.mistakes]


@pytest.mark.parametrize("mistake", IN_THE_FILE)
async def test_in_the_file(mistake: str, tmp_path: Path) -> None:
    text, words = IN_THE_FILE[mistake]
    (tmp_path / "relay.toml").write_bytes(text.encode("latin-1" if mistake == "another encoding" else "utf-8"))
    found = lines(tmp_path / "relay.toml")
    assert any(all(word in line for word in words) and "; " in line for line in found), found
    assert not any(secret in line for line in found for secret in ("secret.discord", "syt_secret"))


async def test_no_file_and_none_that_can_be_read(tmp_path: Path) -> None:
    (line,) = lines(tmp_path / "relay.toml")
    assert "there is no such file; run `relay init`" in line
    (tmp_path / "directory").mkdir()
    (line,) = lines(tmp_path / "directory")
    assert "is a directory; remove the directory (rmdir), and run `relay init`" in line
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (line,) = lines(tmp_path / "binary")
    assert "is not UTF-8 text; save it as UTF-8" in line


# --- Accounts, the store and the port: the daemon ends at once ---------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(homeserver: Homeserver, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FullStack]:
    """A stack; its daemon is not started."""
    async with stack(tmp_path_factory.mktemp("mistakes"), homeserver) as made:
        yield made


async def ends(config: Path) -> RelayError:
    """What the daemon ends with, in this process."""
    saved, settings = stamp(config), load(config, {})
    reload = partial(load, config, {})
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(RelayError) as caught:
            await app.run(partial(app.Daemon, settings=settings, config=config, reload=reload, saved=saved))
    return caught.value


def token(value: str) -> Callable[[FullStack, str], str]:
    return lambda place, text: text.replace(place.bot_token, value)


def access_token(line: str) -> Callable[[FullStack, str], str]:
    return lambda place, text: text.replace(f'access_token = "{place.relay_token}"', line)


def account(user: str) -> Callable[[FullStack, str], str]:
    return lambda place, text: text.replace(f'"{place.relay_user}"', f'"{user}"')


def busy_port(place: FullStack, text: str) -> str:
    return text.replace("127.0.0.1:0", place.sandbox.api_url.split("/")[2])


def store(path: str) -> Callable[[FullStack, str], str]:
    return lambda place, text: text.replace(str(place.folder / "relay.db"), str(place.folder / path))


AT_THE_START: dict[str, tuple[Callable[[FullStack, str], str], tuple[str, ...], int]] = {
    "a wrong token": (token("MTk4NjIyNDgz.Cl2FMQ.wrong"), ("Discord refused", "Reset Token", "[discord] token"), 4),
    "a client secret": (token("x" * 32), ("it looks like the application's client secret", "Reset Token"), 4),
    "a wrong access token": (
        access_token('access_token = "syt_x"'),
        ("refuses [matrix] access_token", "`relay login`"),
        4,
    ),
    "a wrong password": (access_token('password = "x"'), ("refuses the password of", "correct [matrix] user_id"), 4),
    "somebody else's token": (account("@else:localhost"), ("belongs to @relay-", "correct [matrix] user_id"), 4),
    "a wrong server in user_id": (account("@relay:example.org"), ("belongs to @relay-", "correct [matrix] user_id"), 4),
    "a port that is taken": (busy_port, ("another program listens on", "[web] listen"), 4),
    "no folder for the store": (store("none/relay.db"), ("store ", "; "), 1),
    "a store that is none": (store("text.db"), ("it is not a store", "[store] url"), 1),
}


@pytest.mark.parametrize("mistake", AT_THE_START)
async def test_at_the_start(mistake: str, place: FullStack) -> None:
    change, words, status = AT_THE_START[mistake]
    (place.folder / "text.db").write_bytes(b"not a database, but somebody's" * 200)
    text = place.write_config().read_text()
    config = place.folder / "changed.toml"
    config.write_text(change(place, text))
    assert config.read_text() != text
    error = await ends(config)
    assert all(word in str(error) for word in words), str(error)
    assert error.exit_status == status


async def test_the_intent_is_off(place: FullStack) -> None:
    place.control.set_intents(place.bot, message_content=False)
    try:
        error = await ends(place.write_config())
    finally:
        place.control.set_intents(place.bot, message_content=True)
    assert "the bot may not read what people write (close code 4014); turn on Message Content Intent" in str(error)


async def test_addresses_without_a_homeserver(place: FullStack) -> None:
    url, user = place.homeserver.url, place.relay_user
    async with website(url) as named, website(None) as other, website(None, status=502) as proxy:
        for address, what, remedy in (
            (named, "is a website and no homeserver", f'write homeserver_url = "{url}"'),
            (other, "is a website and no homeserver", "correct [matrix] homeserver_url"),
            (proxy, "answers 502, as where that does not run", "start it, or correct [matrix] homeserver_url"),
            (url.replace("http:", "https:"), "answers without TLS there", f'write homeserver_url = "{url}"'),
            ("http://127.0.0.1:9", "nothing answers at", "correct [matrix] homeserver_url"),
            ("http://homeserver.invalid", "there is no server called homeserver.invalid", "correct [matrix]"),
        ):
            said = await correction(address, user) or ""
            assert what in said, said
            assert remedy in said, said
        # The daemon says that, and goes on trying.
        place.write_config(homeserver_url=named)
        await place.daemon.start(ready=False)
        try:
            await eventually(
                lambda: matrix_problem(place),
                lambda said: f'write homeserver_url = "{url}"; trying again' in said,
                what=place.daemon.log,
            )
        finally:
            assert await place.daemon.stop() == 0


async def matrix_problem(place: FullStack) -> str:
    return str((await place.daemon.status())["matrix"]["problem"])


# --- Pairs: the daemon runs, and its status tells ----------------------------------------------------------


def short_id(place: FullStack, pair: str) -> None:
    declare_channel(place, pair, "12345")


def alias_of_no_server(place: FullStack, pair: str) -> None:
    name_room(place, pair, "#help:homeserver.invalid")


IN_PAIRS: dict[str, tuple[Callable[[FullStack, str], Any], tuple[str, ...]]] = {
    "a wrong channel ID": (
        CHANNELS["no such channel"].make,
        ("there is no channel", "correct discord_channel", "&client_id="),
    ),
    "a short channel ID": (short_id, ("there is no channel 12345", "correct discord_channel", "&client_id=")),
    "the server's ID": (CHANNELS["the server's ID"].make, ("is the ID of the server Sandbox", "Copy Channel ID")),
    "no View Channel": (CHANNELS["a private channel"].make, ("may not see", "give its role View Channel there")),
    "no Manage Webhooks": (
        CHANNELS["without Manage Webhooks"].make,
        ("names cross as text", "allow the bot itself Manage Webhooks"),
    ),
    "15 webhooks": (
        CHANNELS["15 webhooks"].make,
        ("as many webhooks as Discord allows", "delete one that nobody uses"),
    ),
    "a category": (CHANNELS["a category"].make, ("is a category, which cannot be mirrored", "name a text channel")),
    "a forum": (CHANNELS["a forum"].make, ("is a forum, which cannot be mirrored", "one of its posts")),
    "a misspelt alias": (ROOMS["an alias without a room"].make, ("No room has the alias", "correct matrix_room")),
    "an alias of no server": (alias_of_no_server, ("The alias #help:homeserver.invalid", "correct matrix_room")),
    "a private room": (ROOMS["not invited"].make, ("is not let into", "invite it")),
    "a space": (ROOMS["a space"].make, ("is a space, which lists rooms", "declare one of its rooms")),
    "an encrypted room": (ROOMS["encrypted"].make, ("cannot be switched off again", "make another room without it")),
    "a ban": (ROOMS["banned"].make, ("is banned from", "lift the ban")),
    "a kick": (ROOMS["kicked"].make, ("is not let into", "invite it")),
    "too little power": (ROOMS["not enough power"].make, ("may not write in", "give it the power level 10 there")),
}


async def test_in_pairs(place: FullStack) -> None:
    for pair, (make, _) in IN_PAIRS.items():
        right_channel(place, pair)
        await new_room(place, pair)
        await do(make, place, pair)
    place.write_config()
    await place.daemon.start()
    try:
        await place.tell("15 webhooks", "is there room for one?")
        await place.until_discord("15 webhooks", lambda said: any("is there room" in one for one in said))
        await eventually(lambda: untold(place), lambda left: not left, what=place.daemon.log)
        page = await place.daemon.relay("status")
        assert "give its role View Channel there" in " ".join(page[1].split())
        # Another daemon on the same store.
        status, output = await place.daemon.relay("run")
        assert status == 3
        assert f"process {place.daemon.pid}" in output
        # The bot is thrown out of its only server.
        place.control.kick(place.guild, place.bot)
        await eventually(
            lambda: said_of(place, "help"),
            lambda said: "he bot is in no server: invite it with https://discord.com/oauth2/" in said,
            what=place.daemon.log,
        )
        place.control.invite(place.bot, place.guild)
        # No pairs at all.
        place.write_config(pairs=[])
        await eventually(lambda: asyncio.to_thread(place.daemon.log, 400), lambda log: "no pairs are declared" in log)
    finally:
        await place.daemon.stop()
        for pair in IN_PAIRS:
            place.channels.pop(pair)
        place.write_config()


async def said_of(place: FullStack, name: str) -> str:
    """The problem and the notes of a pair."""
    return (await told(place))[name]


async def told(place: FullStack) -> dict[str, str]:
    """The problem and the notes of each pair."""
    return {pair["name"]: f"{pair['problem']} {pair['note']}" for pair in (await place.daemon.status())["pairs"]}


async def untold(place: FullStack) -> dict[str, str]:
    """Mistakes that are not told with thing and remedy."""
    found = await told(place)
    return {
        pair: found[pair]
        for pair, (_, words) in IN_PAIRS.items()
        if not all(word.lower() in found[pair].lower() for word in words)
    }


# --- All of them ------------------------------------------------------------------------------------------

HELD: dict[str, str] = {
    # What operators do wrong, and which test sees that they are told the thing and the remedy.
    "no relay.toml": "test_no_file_and_none_that_can_be_read",
    "relay.toml is a directory": "test_no_file_and_none_that_can_be_read",
    "relay.toml cannot be read": "test_store_trouble.py test_a_store_that_may_not_be_written",
    "a homeserver's name that is misspelt": "test_addresses_without_a_homeserver",
    "nobody at the homeserver's address": "test_addresses_without_a_homeserver",
    "a website for the homeserver": "test_addresses_without_a_homeserver",
    "the server's name for the homeserver": "test_addresses_without_a_homeserver",
    "https for http": "test_addresses_without_a_homeserver",
    "the bot is in no server": "test_in_pairs",
    "no pairs": "test_in_pairs",
    "two daemons on one store": "test_in_pairs",
    "Message Content off": "test_the_intent_is_off",
    "two daemons on two stores": "test_two_relays.py test_the_second_relay_waits_and_takes_over_without_loss",
    "an upgraded room": "test_check.py test_a_mistake_in_a_pair",
    "a room by its alias and by its ID": "test_check.py test_a_mistake_in_a_pair",
    "a folder that may not be written": "test_store_trouble.py test_a_store_that_may_not_be_written",
}
MORE = {
    "no token",
    "a misspelt key",
    "curly quotes",
    "curly quotes within straight ones",
    "[pairs] and then [[pairs]]",
    "[pairs] alone",
    "a channel's link",
    "a key below the pairs",
    "a folder for the store",
    "another encoding",
    "a token without quotes",
    "an alias without quotes",
    "a quote that is not closed",
    "a semicolon behind a value",
    "a path of Windows",
    "no value",
    "True",
    "YAML",
    "a comment of another language",
    "a key twice",
    "a section twice",
    "a link of the matrix: kind",
    "an account for a room",
    "a direct message",
    "a channel's mention",
    "days without a unit",
    "a space",
}
"""What was not in the list."""


async def test_all_of_them_are_told() -> None:
    """The list has 36 rows with 58 mistakes; counted by kinds there were 44, of which 31 were told well."""
    tables = {mistake for table in (IN_THE_FILE, AT_THE_START, IN_PAIRS) for mistake in table}
    assert not tables & HELD.keys()
    for mistake, held in HELD.items():
        file, _, test = held.rpartition(" ")
        text = (Path(__file__).parent / (file or Path(__file__).name)).read_text(encoding="utf-8")
        assert f"def {test}(" in text, mistake
    assert {"upgraded", "the same room twice"} <= ROOMS.keys()
    told = len((tables | HELD.keys()) - MORE)
    print(f"{told} of 58 mistakes are told with the thing and the remedy")
    assert told == 58
