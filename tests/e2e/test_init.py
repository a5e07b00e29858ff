"""From nothing to a bridged message: `relay init` in a real terminal, and what else sets up accounts and pairs."""

import json
import os
import sys
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.sandbox.control.http import Control
from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from tests.support.stack import Daemon, eventually
from tests.support.store import new_store
from tests.support.terminal import terminal

pytestmark = pytest.mark.asyncio(loop_scope="session")

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True, slots=True)
class Accounts:
    """What an operator has: a bot in no server and without the intent, an account, and rooms."""

    control: Control
    guild: str
    bot: str
    token: str
    channels: dict[str, str]
    ada: str
    homeserver: Homeserver
    relay: str
    mia: Person
    rooms: dict[str, str]

    def bring_in(self) -> None:
        """What the remedies say."""
        self.control.set_intents(self.bot, message_content=True)
        self.control.invite(self.bot, self.guild)

    async def devices(self) -> set[str]:
        """The devices of the relay's account."""
        path = f"/_synapse/admin/v2/users/{quote(self.relay)}/devices"
        listed = await self.homeserver.administer("GET", path)
        return {device["device_id"] for device in listed["devices"]}

    async def crosses(self, daemon: Daemon, words: str, *, channel: str = "help", room: str = "Help") -> None:
        """A message each way."""
        self.control.say(self.channels[channel], self.ada, f"{words} from Discord")
        await self.mia.text(self.rooms[room], f"{words} from Matrix")

        async def read() -> bool:
            there = [message.body for message in await self.mia.messages(self.rooms[room])]
            here = [message["content"] for message in self.control.messages(self.channels[channel])]
            return any(f"{words} from Discord" in body for body in there) and f"{words} from Matrix" in here

        await eventually(read, bool, what=daemon.log)


@pytest_asyncio.fixture(loop_scope="session")
async def accounts(homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Accounts]:
    tag = os.urandom(4).hex()
    await homeserver.register(f"relay-{tag}", password=PASSWORD)
    await homeserver.lift_limits(f"relay-{tag}")
    mia_token = await homeserver.register(f"mia-{tag}", displayname="Mia")
    relay, mia = (f"@{name}-{tag}:{homeserver.server_name}" for name in ("relay", "mia"))
    async with (
        SandboxServer(limits=Limits(identify_every=0)) as sandbox,
        Person(homeserver.url, mia, mia_token) as host,
    ):
        control = sandbox.control
        made = control.bootstrap(channels=["help", "general-chat", "off-topic"], people=["Ada"])
        control.kick(made["guild"], made["bot"])
        control.set_intents(made["bot"], message_content=False)
        names = ("Help", "Stash General Chat", "Lounge")
        rooms = {name: await host.create_room(name, invite=[relay]) for name in names}
        monkeypatch.setenv("RELAY_DISCORD__API_URL", sandbox.api_url)
        monkeypatch.setenv("RELAY_WEB__LISTEN", "127.0.0.1:0")
        yield Accounts(
            control=control,
            guild=made["guild"],
            bot=made["bot"],
            token=made["token"],
            channels=made["channels"],
            ada=made["people"]["Ada"],
            homeserver=homeserver,
            relay=relay,
            mia=host,
            rooms=rooms,
        )


async def test_somebody_at_a_terminal_gets_from_nothing_to_a_bridged_message(
    accounts: Accounts, tmp_path: Path
) -> None:
    path = tmp_path / "relay.toml"
    for name in ("general-chat", "off-topic"):
        accounts.control.set_age_restriction(accounts.channels[name])
    async with terminal("init", folder=tmp_path) as screen:
        # Each mistake is told, and asked again.
        await screen.answer("Token: ", "0123456789abcdef0123456789abcdef")
        refused = " ".join((await screen.answer("Token: ", accounts.token)).split())
        # It is asked for again: nothing is to be written to a file.
        assert ("✗" in refused, "paste it here" in refused, "[discord] token" in refused) == (True, True, False)
        told = await screen.until("Enter looks again")
        assert "✗ Message Content Intent: it is off" in told
        assert "scope=bot&permissions=275414887488&client_id=" in told
        assert not path.exists()
        accounts.bring_in()
        await screen.answer(": ", "")
        assert "Sandbox" in await screen.answer("Account: ", "relay")
        assert "write it in full" in await screen.answer("Account: ", accounts.relay)
        await screen.answer("Address of the homeserver", f"{accounts.homeserver.url.replace('http:', 'https:')}")
        assert f"write {accounts.homeserver.url}" in await screen.answer(
            "Address of the homeserver", accounts.homeserver.url
        )
        await screen.answer("access token (t)? [p]: ", "")
        await screen.answer("Password: ", "wrong")
        assert "refuses the password" in await screen.answer("access token (t)? [p]: ", "p")
        await screen.answer("Password: ", PASSWORD)
        offered = await screen.answer("Which to pair (1 3-5, all, none) [all]: ", "")
        assert "1  #help          <->  Help\n" in offered
        assert "2  #general-chat  <->  Stash General Chat\n" in offered
        assert "1  #off-topic  text channel\n" in await screen.answer("Another pair (Enter goes on): ", "2 1")
        nowhere = f"1 #nowhere:{accounts.homeserver.server_name}"
        assert "there is no such channel" in await screen.answer("Another pair (Enter goes on): ", nowhere)
        assert "No room has the alias #nowhere" in await screen.answer("Another pair (Enter goes on): ", "1 Lounge")
        await screen.answer("Another pair (Enter goes on): ", "")
        restricted = await screen.answer("for adults, too (1 3-5, all, none) [none]: ", "3")
        assert "1  #general-chat  <->  Stash General Chat\n" in restricted
        assert "2  #off-topic     <->  Lounge\n" in restricted
        assert "Write numbers up to 2" in await screen.answer("for adults, too (1 3-5, all, none) [none]: ", "2, 1")
        assert "with 3 pairs" in await screen.answer("below secrets/? [Y/n]: ", "")
        await screen.until(f"The relay can start:\n  {sys.executable} -m relay run\n")
        assert await screen.ended() == 0
        assert PASSWORD not in screen.text
        assert accounts.token not in screen.text
        # An address or a path is not broken, so that it can be copied.
        whole = ("https://", str(tmp_path))
        wide = [line for line in screen.text.splitlines() if len(line) > 80 and not any(one in line for one in whole)]
        assert wide == []
    written = tomllib.loads(path.read_text())
    assert [(pair["name"], pair["discord_channel"], pair.get("nsfw", False)) for pair in written["pairs"]] == [
        (name, int(accounts.channels[name]), name != "help") for name in ("help", "general-chat", "off-topic")
    ]
    assert (written["discord"]["token_file"], "password" in written["matrix"]) == ("secrets/discord_token", False)
    for file in (path, *(tmp_path / "secrets").iterdir()):
        assert file.stat().st_mode & 0o777 == 0o600
    new_store(tmp_path)
    daemon = Daemon(path, tmp_path / "relay.log")
    await daemon.start()
    try:
        await accounts.crosses(daemon, "hello")
        # The file names rooms without an alias by their IDs, which nobody knows.
        await eventually(lambda: _joined(daemon), lambda it: it == {"Help", "Stash General Chat", "Lounge"})
        # A daemon writes down what rooms are called a moment after it has opened them.
        await eventually(lambda: daemon.relay("pairs", "resume", "help"), lambda it: ", Help " in it[1])
        status, out = await daemon.relay("pairs", "pause", "help")
        assert (status, out.splitlines()) == (
            0,
            [
                f"help (#help {accounts.channels['help']}, Help {accounts.rooms['Help']}): paused.",
                "The running daemon follows within a few seconds.",
            ],
        )
        found = await eventually(daemon.status, lambda it: "Paused" in str(it["pairs"][0]["note"]), what=daemon.log)
        assert found["pairs"][1]["note"] is None
        await eventually(lambda: _logged(daemon, "pair changed"), bool, what=daemon.log)
        before = len(accounts.control.messages(accounts.channels["help"]))
        await accounts.mia.text(accounts.rooms["Help"], "not this")
        await eventually(
            lambda: daemon.metric("relay_dropped_total", pair="help", feature="paused"), lambda it: it == 1
        )
        await the_same_pair_stays_paused(accounts, daemon, path)
        changes = daemon.log(1_000_000).count("pair changed")
        assert (await daemon.relay("pairs", "resume", "help"))[0] == 0
        # The status shows what the daemon does, and not what the file says.
        await eventually(lambda: paused(daemon), lambda it: it == set(), what=daemon.log)
        await eventually(lambda: _logged(daemon, "pair changed", changes + 1), bool, what=daemon.log)
        await accounts.crosses(daemon, "again")
        assert len(accounts.control.messages(accounts.channels["help"])) == before + 2
    finally:
        await daemon.kill()
    # What is there stays unless somebody wants it otherwise.
    text = path.read_text()
    async with terminal("init", folder=tmp_path) as screen:
        await screen.answer("relay.toml exists. Overwrite it at the end? [y/N]: ", "")
        assert await screen.ended() == 1
    assert path.read_text() == text
    # Old tokens, too; but what was answered until then is not lost.
    path.unlink()
    kept = (tmp_path / "secrets" / "discord_token").read_text()
    (tmp_path / "secrets" / "matrix_access_token").unlink()
    async with terminal("init", folder=tmp_path) as screen:
        await screen.answer("Token: ", accounts.token)
        await screen.answer("Account: ", accounts.relay)
        await screen.answer("Address of the homeserver", accounts.homeserver.url)
        await screen.answer("access token (t)? [p]: ", "")
        await screen.answer("Password: ", PASSWORD)
        await screen.answer("Which to pair (1 3-5, all, none) [all]: ", "1")
        await screen.answer("Another pair (Enter goes on): ", "")
        await screen.answer("below secrets/? [Y/n]: ", "")
        await screen.answer("secrets/discord_token exists. Overwrite it at the end? [y/N]: ", "")
        await screen.until("Nothing changes there: both tokens go into relay.toml itself.")
        await screen.until("The relay can start:")
        assert await screen.ended() == 0
    assert (tmp_path / "secrets" / "discord_token").read_text() == kept
    assert not (tmp_path / "secrets" / "matrix_access_token").exists()
    assert tomllib.loads(path.read_text())["discord"]["token"] == accounts.token


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"pairs": [["#nowhere", "Lounge"]]}, 2),  # while it asks
        ({"suggested": "all", "secret_files": True}, 2),  # while it writes
    ],
)
async def test_an_init_that_fails_leaves_no_device_and_no_token(
    accounts: Accounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], status: int
) -> None:
    accounts.bring_in()
    if "secret_files" in wrong:
        monkeypatch.setenv("RELAY_STORE__URL", "mysql://localhost/relay")
    answers = {
        "discord_token": accounts.token,
        "matrix_account": accounts.relay,
        "homeserver_url": accounts.homeserver.url,
        "matrix_password": PASSWORD,
        "suggested": "none",
    } | wrong
    (tmp_path / "a.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in answers.items()))
    before = await accounts.devices()
    daemon = Daemon(tmp_path / "relay.toml", tmp_path / "relay.log")
    ended, out = await daemon.relay("init", "--answers", str(tmp_path / "a.toml"))
    assert (ended, f"{accounts.relay} is logged out again" in out) == (status, True), out
    assert await accounts.devices() == before
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [tmp_path / "a.toml"]


async def test_who_leaves_with_ctrl_c_leaves_no_device(accounts: Accounts, tmp_path: Path) -> None:
    accounts.bring_in()
    before = await accounts.devices()
    async with terminal("init", folder=tmp_path) as screen:
        await screen.answer("Token: ", accounts.token)
        await screen.answer("Account: ", accounts.relay)
        await screen.answer("Address of the homeserver", accounts.homeserver.url)
        await screen.answer("access token (t)? [p]: ", "")
        await screen.answer("Password: ", PASSWORD)
        await screen.answer("Which to pair (1 3-5, all, none) [all]: ", "\x03")
        assert await screen.ended() == 1
    assert await accounts.devices() == before


async def the_same_pair_stays_paused(accounts: Accounts, daemon: Daemon, file: Path) -> None:
    """Somebody edits the file meanwhile: the pair that was meant is the one with these channels, whatever its name."""
    meant, lounge = accounts.channels["help"], accounts.channels["off-topic"]
    first, swapped = (
        file.read_text(),
        {'name = "help"': 'name = "general-chat"', 'name = "general-chat"': 'name = "help"'},
    )
    file.write_text("\n".join(swapped.get(line, line) for line in first.splitlines()) + "\n")
    await eventually(lambda: _logged(daemon, "pair renamed", 2), bool, what=daemon.log)
    assert await paused(daemon) == {meant}
    assert (await daemon.relay("pairs", "remove", lounge))[0] == 0
    await eventually(lambda: _logged(daemon, "pair removed"), bool, what=daemon.log)
    assert await paused(daemon) == {meant}
    # The name is the other pair's now.
    assert (await daemon.relay("pairs", "pause", "help"))[0] == 0
    await eventually(
        lambda: paused(daemon), lambda it: it == {meant, accounts.channels["general-chat"]}, what=daemon.log
    )
    assert (await daemon.relay("pairs", "add", lounge, accounts.rooms["Lounge"], "--name", "off-topic"))[0] == 0
    assert (await daemon.relay("pairs", "resume", accounts.channels["general-chat"]))[0] == 0
    await eventually(lambda: paused(daemon), lambda it: it == {meant}, what=daemon.log)
    file.write_text(
        file.read_text().replace('"help"', '"x"').replace('"general-chat"', '"help"').replace('"x"', '"general-chat"')
    )
    await eventually(lambda: _logged(daemon, "pair renamed", 4), bool, what=daemon.log)
    assert await paused(daemon) == {meant}


async def paused(daemon: Daemon) -> set[str]:
    """The channels of the pairs that the daemon has paused."""
    found = (await daemon.status())["pairs"]
    return {pair["channels"]["discord"]["address"] for pair in found if "Paused" in str(pair["note"])}


async def _joined(daemon: Daemon) -> set[str]:
    lines = [json.loads(line) for line in daemon.log(1_000_000).splitlines() if line.startswith("{")]
    return {line["name"] for line in lines if line["event"] == "room joined"}


async def _logged(daemon: Daemon, event: str, times: int = 1) -> bool:
    return daemon.log(1_000_000).count(event) >= times


async def test_a_file_answers_and_a_login_makes_a_token(accounts: Accounts, tmp_path: Path) -> None:
    accounts.bring_in()
    path, answers = tmp_path / "relay.toml", tmp_path / "answers.toml"
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    lines = [
        f'discord_token = "{accounts.token}"',
        f'matrix_account = "{accounts.relay}"',
        f'homeserver_url = "{accounts.homeserver.url}"',
        'matrix_password_file = "password"',
        'pairs = [["#off-topic", "Lounge"]]',
        'suggested = "1"',
        "secret_files = false",
    ]
    daemon = Daemon(path, tmp_path / "relay.log")
    answers.write_text("\n".join(lines))
    status, out = await daemon.relay("init", "--answers", str(answers))
    assert status == 0, out
    written = tomllib.loads(path.read_text())
    assert [pair["name"] for pair in written["pairs"]] == ["help", "off-topic"]
    assert written["discord"]["token"] == accounts.token
    assert not (tmp_path / "secrets").exists()
    status, out = await daemon.relay("init", "--answers", str(answers))
    assert (status, "exists" in out, tomllib.loads(path.read_text())) == (1, True, written)
    async with terminal("login", "--output", "token", folder=tmp_path) as screen:
        await screen.answer(f"Password of {accounts.relay}: ", PASSWORD)
        await screen.until(f'access_token_file = "{tmp_path / "token"}"')
        assert await screen.ended() == 0
    token = (tmp_path / "token").read_text().strip()
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert token != written["matrix"]["access_token"]
    path.write_text(path.read_text().replace(written["matrix"]["access_token"], token))
    # What is in no pair yet is offered, and seen with the new token.
    async with terminal("pairs", "add", folder=tmp_path) as screen:
        offered = await screen.answer("Which to pair (1 3-5, all, none) [all]: ", "")
        assert "1  #general-chat  <->  Stash General Chat\n" in offered
        assert "2  " not in offered
        await screen.until("general-chat: added.")
        assert await screen.ended() == 0
    assert tomllib.loads(path.read_text())["pairs"][2]["matrix_room"] == accounts.rooms["Stash General Chat"]
