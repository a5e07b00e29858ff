"""What is wrong from the start: one clear line that names the thing and the remedy, and the right exit status."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from relay.demo.homeserver import Homeserver
from tests.support import preloaded
from tests.support.stack import FullStack, stack
from tests.support.terminal import terminal

pytestmark = pytest.mark.asyncio(loop_scope="session")

COMPLETE = """
[discord]
token = "MTk4NjIyNDgz.secret-discord"
[matrix]
homeserver_url = "https://matrix.example.org"
user_id = "@relay:example.org"
access_token = "syt_secret_matrix"
[[pairs]]
name = "one"
discord_channel = 1234567890123456789
matrix_room = "#one:example.org"
"""
SECRETS = ("secret-discord", "syt_secret_matrix")


async def run(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """`relay run` to its end: exit status, and the lines that are no log."""
    status, output, errors = await preloaded.run("run", *arguments, folder=folder)
    assert output == ""
    assert "Traceback" not in errors
    assert not any(secret in errors for secret in SECRETS)
    return status, [line for line in errors.splitlines() if not line.startswith("{")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[discord\n", ("relay.toml: ", "line 1, column 9", "correct the TOML there")),
        (COMPLETE + 'colour = "red"\n', ("relay.toml:12: ", "colour", "no such key", "write one of")),
        (
            COMPLETE
            + '[[pairs]]\nname = "two"\ndiscord_channel = 1234567890123456789\nmatrix_room = "#two:example.org"\n',
            ('[[pairs]] 2 "two" discord_channel', '[[pairs]] 1 "one"', "remove one of the two"),
        ),
        (
            COMPLETE
            + '[[pairs]]\nname = "two"\ndiscord_channel = 1234567890123456780\nmatrix_room = "#one:example.org"\n',
            ('[[pairs]] 2 "two" matrix_room', '[[pairs]] 1 "one"', "remove one of the two"),
        ),
        (COMPLETE.replace("#one:example.org", "one"), ("relay.toml:11: ", "matrix_room", "; ")),
        (COMPLETE.replace('token = "MTk4NjIyNDgz.secret-discord"', "", 1), ("[discord] token", "RELAY_DISCORD__TOKEN")),
    ],
)
async def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "relay.toml").write_text(text)
    status, lines = await run(tmp_path)
    assert status == 2
    (line,) = lines
    assert line.startswith("error: ")
    assert all(word in line for word in words), line
    assert not (tmp_path / "relay.db").exists()


@pytest.mark.parametrize("kind", ["missing", "directory", "not text"])
async def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, kind: str) -> None:
    config = tmp_path / "named.toml"
    if kind == "directory":
        config.mkdir()
    elif kind == "not text":
        config.write_bytes(b"\xff\xfe\x00")
    status, lines = await run(tmp_path, "--config", str(config))
    assert status == 2
    (line,) = lines
    assert line.startswith(f"error: {config}: ")
    assert "; " in line


async def test_in_a_terminal_no_word_is_torn(tmp_path: Path) -> None:
    async with terminal("status", folder=tmp_path) as screen:
        assert await screen.ended() == 2
    assert screen.text.startswith("error: relay.toml: there is no such file; run `relay init`, which asks")
    assert all(len(line) <= 80 for line in screen.text.splitlines()), screen.text
    assert screen.text.splitlines()[1].startswith("  ")


async def test_a_file_that_is_no_store_is_one_line_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text(COMPLETE)
    (tmp_path / "relay.db").write_bytes(b"not a database, but somebody's" * 200)
    status, lines = await run(tmp_path)
    assert status == 1
    assert lines[0].startswith(f"error: store {tmp_path}/relay.db: it is not a store")
    assert lines[0].endswith("set another file in [store] url, or move this one away")
    assert (tmp_path / "relay.db").read_bytes().startswith(b"not a database")


async def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text(COMPLETE)
    assert (await preloaded.run("db", "upgrade", folder=tmp_path))[0] == 0
    with closing(sqlite3.connect(tmp_path / "relay.db")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '9999'")
    status, (line,) = await run(tmp_path)
    assert status == 1
    assert line.startswith(f"error: store {tmp_path}/relay.db: it was made by a newer relay (revision 9999, ")
    assert "install that version again" in line


@pytest_asyncio.fixture(loop_scope="session")
async def place(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[FullStack]:
    async with stack(tmp_path, homeserver) as made:
        yield made


async def refused(place: FullStack, *words: str) -> None:
    """The daemon ends by itself, and its last line says why and what to do."""
    await place.daemon.start(ready=False)
    assert await place.daemon.exit_status() == 4
    line = place.daemon.log(1)
    assert line.startswith("error: ")
    assert all(word in line for word in words), line
    assert "Traceback" not in place.daemon.log(1000)


async def test_a_discord_token_that_is_refused(place: FullStack) -> None:
    place.daemon.rewrite(place.bot_token, f"{place.bot_token}x")
    await refused(place, "Discord refused the bot's token", "Reset Token", "[discord] token")


async def test_what_is_refused_is_told_with_the_file_that_it_is_in(place: FullStack) -> None:
    file, text = place.folder / "secret", place.daemon.config.read_text()
    file.write_text("MTk4NjIyNDgz.Cl2FMQ.wrong")
    discord, matrix = f'token = "{place.bot_token}"', f'access_token = "{place.relay_token}"'
    for old, key, words in (
        (discord, "token_file", f"write it where the old one is (the file {file})"),
        (matrix, "access_token_file", f"put it where the old one is (the file {file})"),
        (matrix, "password_file", f"(the password is from the file {file})"),
    ):
        place.daemon.config.write_text(text)
        place.daemon.rewrite(old, f'{key} = "secret"')
        await refused(place, words)
        assert "Cl2FMQ" not in place.daemon.log(1000)


async def test_an_intent_that_is_off(place: FullStack) -> None:
    place.control.set_intents(place.bot, message_content=False)
    await refused(place, "4014", "Message Content Intent")


async def test_a_matrix_token_that_is_refused(place: FullStack) -> None:
    place.daemon.rewrite(place.relay_token, "syt_wrong")
    await refused(place, "the homeserver refuses [matrix] access_token", "make a new one with `relay login`")


async def test_a_matrix_token_of_somebody_else(place: FullStack) -> None:
    place.daemon.rewrite(place.relay_user, "@somebody-else:localhost")
    await refused(place, "belongs to", "correct [matrix] user_id")


async def test_a_matrix_password_that_is_refused(place: FullStack) -> None:
    place.daemon.rewrite(f'access_token = "{place.relay_token}"', 'password = "hunter2-wrong"')
    await refused(place, "refuses the password", "correct [matrix] user_id and password")
    assert "hunter2" not in place.daemon.log(1000)


async def test_a_discord_token_that_is_refused_later(place: FullStack) -> None:
    await place.daemon.start()
    place.control.reset_token(place.bot)
    assert await place.daemon.exit_status() == 4
    assert "Discord refused the bot's token (close code 4004); " in place.daemon.log(1)


async def test_an_intent_that_is_taken_away_later(place: FullStack) -> None:
    await place.daemon.start()
    place.control.set_intents(place.bot, message_content=False)
    place.control.invalidate_sessions()
    assert await place.daemon.exit_status() == 4
    assert "Message Content Intent" in place.daemon.log(1)


async def test_a_matrix_token_that_is_refused_later(place: FullStack) -> None:
    await place.daemon.start()
    await place.homeserver.administer("POST", f"/_synapse/admin/v1/deactivate/{place.relay_user}", {"erase": False})
    assert await place.daemon.exit_status() == 4
    assert "the homeserver refuses [matrix] access_token" in place.daemon.log(1)


async def test_another_final_close_code_ends_the_daemon_with_a_remedy(place: FullStack) -> None:
    # Each of the codes: tests/contract/test_discord_gateway.py.
    await place.daemon.start()
    place.control.close_gateway(4013)
    assert await place.daemon.exit_status() == 4
    assert "(close code 4013); update the relay" in place.daemon.log(1)
