"""The sandbox as the real discord.py meets it."""

import asyncio
import io
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import discord
import pytest

from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from tests.support.discord import until
from tests.support.discord_bot import Bot, logged_in, pointed_at, running


class Place:
    """A sandbox with a guild, a channel, two people and a bot."""

    def __init__(self, sandbox: SandboxServer) -> None:
        self.sandbox = sandbox
        self.control = sandbox.control
        made = self.control.bootstrap(["general"], ["Ada", "Ben"])
        self.guild, self.bot, self.token = int(made["guild"]), int(made["bot"]), made["token"]
        self.channel = int(made["channels"]["general"])
        self.ada, self.ben = int(made["people"]["Ada"]), int(made["people"]["Ben"])

    def text_channel(self, bot: Bot) -> discord.TextChannel:
        found = bot.get_channel(self.channel)
        assert isinstance(found, discord.TextChannel)
        return found

    def said(self) -> list[str]:
        return [message["content"] for message in self.control.messages(self.channel)]


class Waits:
    """In the place of `asyncio` in a module of discord.py: writes down for how long that waits. `now` is after it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._now = time.time()

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.seconds.append(seconds)
        self._now += seconds


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    limits = Limits(identify_every=0.0)
    async with SandboxServer(limits=limits, heartbeat_interval=0.5) as sandbox:
        yield Place(sandbox)


async def test_messages_arrive_in_order_with_their_authors(place: Place) -> None:
    async with running(place.sandbox, place.token) as bot:
        for number in range(20):
            place.control.say(place.channel, (place.ada, place.ben)[number % 2], f"message {number}")
        await bot.next("message", 20)
    assert bot.texts() == [f"message {number}" for number in range(20)]
    first = next(payload for event, payload in bot.happened if event == "message")
    assert (first.author.id, first.author.display_name, first.guild.id) == (place.ada, "Ada", place.guild)
    assert isinstance(first.author, discord.Member)


async def test_replies_forwards_threads_stickers_polls_and_system_messages_parse(place: Place) -> None:
    control = place.control
    data = {"filename": "x.png", "data": "iVBORw0KGgo="}
    sticker = control.create_sticker(place.guild, "wave", 1, data)
    async with running(place.sandbox, place.token) as bot:
        first = control.say(place.channel, place.ada, "first")
        control.say(place.channel, place.ben, "second", reply_to=first["id"])
        control.say(place.channel, place.ben, forward={"channel": place.channel, "message": first["id"]})
        control.say(place.channel, place.ada, stickers=[sticker["id"]])
        answers = [{"poll_media": {"text": "yes"}}, {"poll_media": {"text": "no"}}]
        poll = control.say(place.channel, place.ada, poll={"question": {"text": "tea?"}, "answers": answers})
        thread = control.open_thread(place.channel, place.ada, "aside", first["id"])
        control.say(thread["id"], place.ben, "in the thread")
        control.pin(place.channel, first["id"], place.ada)
        control.vote(place.channel, poll["id"], place.ben, 1)
        control.end_poll(place.channel, poll["id"])
        control.join(place.guild, control.create_person("cleo")["id"], announce_in=place.channel)
        await bot.next("message", 10)
        messages = [payload for event, payload in bot.happened if event == "message"]
    kinds = [message.type.name for message in messages]
    starter = "thread_starter_message"
    assert kinds[:6] == ["default", "reply", "default", "default", "default", starter]
    assert kinds[6:] == ["default", "pins_add", "poll_result", "new_member"]
    assert messages[1].reference.resolved.content == "first"
    assert messages[2].message_snapshots[0].content == "first"
    assert messages[3].stickers[0].name == "wave"
    assert [answer.text for answer in messages[4].poll.answers] == ["yes", "no"]
    assert isinstance(messages[6].channel, discord.Thread)
    assert messages[6].channel.parent_id == place.channel
    assert (bot.count("thread_create"), bot.count("raw_poll_vote_add")) == (1, 1)


async def test_edits_deletions_reactions_and_typing_are_told_of(place: Place) -> None:
    control = place.control
    ids = [control.say(place.channel, place.ada, f"m{number}")["id"] for number in range(4)]
    async with running(place.sandbox, place.token) as bot:
        control.edit(place.channel, ids[0], "changed")
        control.unfurl(place.channel, ids[0], [{"type": "link", "url": "https://example.org", "title": "t"}])
        control.delete(place.channel, ids[1])
        control.bulk_delete(place.channel, ids[2:])
        control.react(place.channel, ids[0], place.ben, "👍")
        control.react(place.channel, ids[0], place.ben, "👍", on=False)
        control.typing(place.channel, place.ada)
        await bot.until(lambda: bot.count("raw_typing") == 1)
        edited = await bot.next("raw_message_edit")
        unfurled = await bot.next("raw_message_edit", 2)
        deleted = await bot.next("raw_message_delete")
        bulk = await bot.next("raw_bulk_message_delete")
    assert (edited.data["content"], deleted.message_id) == ("changed", int(ids[1]))
    assert unfurled.data["embeds"][0]["title"] == "t"
    assert unfurled.data["edited_timestamp"] == edited.data["edited_timestamp"] is not None
    assert bulk.message_ids == {int(item) for item in ids[2:]}
    assert (bot.count("raw_reaction_add"), bot.count("raw_reaction_remove")) == (1, 1)


async def test_a_webhook_posts_edits_and_deletes_under_a_name_of_its_choice(place: Place) -> None:
    async with running(place.sandbox, place.token) as bot:
        hook = await place.text_channel(bot).create_webhook(name="relay")
        message = await hook.send("hello", username="Eve", avatar_url="https://example.org/e.png", wait=True)
        heard = await bot.next("message")
        assert (heard.webhook_id, heard.author.id, heard.author.name) == (hook.id, hook.id, "Eve")
        assert heard.author.bot
        await hook.edit_message(message.id, content="hello again")
        assert place.said() == ["hello again"]
        assert (await hook.fetch_message(message.id)).edited_at is not None
        await hook.delete_message(message.id)
        with pytest.raises(discord.NotFound) as gone:
            await hook.edit_message(message.id, content="too late")
        assert gone.value.code == 10008
        place.control.delete_webhook(hook.id)
        with pytest.raises(discord.NotFound) as no_hook:
            await hook.send("nobody")
        assert no_hook.value.code == 10015
    assert place.said() == []
    assert place.control.messages(place.channel) == []


async def test_history_pages_forwards_and_backwards(place: Place) -> None:
    ids = place.control.say_many(place.channel, place.ada, [f"m{number}" for number in range(250)])
    place.control.set_limits(factor=0)
    async with logged_in(place.sandbox, place.token) as bot:
        channel = await bot.fetch_channel(place.channel)
        assert isinstance(channel, discord.TextChannel)
        after = discord.Object(int(ids[9]))
        newer = [m.content async for m in channel.history(after=after, limit=None, oldest_first=True)]
        newest = [m.content async for m in channel.history(limit=120)]
        around = [m.content async for m in channel.history(around=discord.Object(int(ids[100])), limit=3)]
    assert newer == [f"m{number}" for number in range(10, 250)]
    assert newest == [f"m{number}" for number in range(249, 129, -1)]
    assert sorted(around) == ["m100", "m101", "m99"]


async def test_files_cross_both_ways_and_their_urls_expire(place: Place) -> None:
    png = bytes.fromhex("89504e470d0a1a0a0000000d49484452") + (3).to_bytes(4, "big") + (4).to_bytes(4, "big")
    async with logged_in(place.sandbox, place.token) as bot:
        channel = await bot.fetch_channel(place.channel)
        assert isinstance(channel, discord.TextChannel)
        files = [
            discord.File(io.BytesIO(png), "my cat.png", spoiler=True, description="a cat"),
            discord.File(io.BytesIO(b"text"), "ü.txt"),
        ]
        sent = await channel.send("look", files=files)
        picture, text = sent.attachments
        assert (picture.filename, picture.width, picture.height) == ("SPOILER_my_cat.png", 3, 4)
        assert (picture.content_type, picture.description, picture.is_spoiler()) == ("image/png", "a cat", True)
        assert (text.content_type, await text.read()) == ("text/plain; charset=utf-8", b"text")
        assert await picture.read() == await picture.read(use_cached=True) == png
        place.control.expire_attachments()
        with pytest.raises(discord.NotFound):
            await picture.read()
        again = await channel.fetch_message(sent.id)
        assert await again.attachments[0].read() == png
        edited = await again.edit(attachments=[again.attachments[1]])
        assert [item.filename for item in edited.attachments] == [text.filename]


async def test_a_nonce_is_enforced_and_mentions_reflect_who_was_notified(place: Place) -> None:
    async with running(place.sandbox, place.token) as bot:
        channel = place.text_channel(bot)
        first = await channel.send("once", nonce="a-key")
        second = await channel.send("once", nonce="a-key")
        assert first.id == second.id
        assert (await bot.next("message")).nonce == "a-key"
        everyone = await channel.send(f"@everyone <@{place.ada}>")
        assert (everyone.mention_everyone, [user.id for user in everyone.mentions]) == (False, [place.ada])
        nobody = discord.AllowedMentions.none()
        quiet = await channel.send(f"@everyone <@{place.ada}>", allowed_mentions=nobody)
        assert quiet.mentions == []
        hook = await channel.create_webhook(name="relay")
        loud = await hook.send("@everyone hi", allowed_mentions=discord.AllowedMentions.all(), wait=True)
        assert loud.mention_everyone
        assert not (await hook.send("@everyone hi", wait=True)).mention_everyone
    assert place.said().count("once") == 1


async def test_what_discord_refuses_is_refused(place: Place) -> None:
    async with running(place.sandbox, place.token) as bot:
        channel = place.text_channel(bot)
        with pytest.raises(discord.HTTPException) as long:
            await channel.send("x" * 2001)
        assert (long.value.status, long.value.code) == (400, 50035)
        assert "Must be 2000 or fewer in length." in long.value.text
        with pytest.raises(discord.HTTPException) as empty:
            await channel.send("   ")
        assert empty.value.code == 50006
        with pytest.raises(discord.HTTPException) as named:
            await channel.create_webhook(name="My Discord hook")
        assert named.value.code == 50035
        with pytest.raises(discord.HTTPException) as large:
            await channel.send(file=discord.File(io.BytesIO(bytes(10 * 1024 * 1024 + 1)), "big.bin"))
        assert (large.value.status, large.value.code) == (413, 40005)
        foreign = place.control.say(place.channel, place.ada, "mine")
        with pytest.raises(discord.Forbidden) as edit:
            await channel.get_partial_message(int(foreign["id"])).edit(content="yours")
        assert edit.value.code == 50005
        place.control.set_channel_permissions(place.channel, place.bot, deny=["SEND_MESSAGES"])
        with pytest.raises(discord.Forbidden) as mute:
            await channel.send("psst")
        assert mute.value.code == 50013
        place.control.set_channel_permissions(place.channel, place.bot, deny=["VIEW_CHANNEL"])
        with pytest.raises(discord.Forbidden) as blind:
            await channel.fetch_message(int(foreign["id"]))
        assert blind.value.code == 50001
        with pytest.raises(discord.NotFound) as unknown:
            await bot.fetch_channel(1)
        assert unknown.value.code == 10003


async def test_without_the_message_content_intent_the_text_is_blank(place: Place) -> None:
    async with running(place.sandbox, place.token, discord.Intents.default()) as bot:
        place.control.say(place.channel, place.ada, "secret", embeds=[{"title": "also secret"}])
        place.control.say(place.channel, place.ada, f"for you <@{place.bot}>")
        await place.text_channel(bot).send("my own")
        await bot.next("message", 3)
        blank = await bot.next("message")
        assert (blank.content, blank.embeds) == ("", [])
    assert bot.texts() == ["", f"for you <@{place.bot}>", "my own"]


async def test_a_channel_that_the_bot_cannot_see_is_silent(place: Place) -> None:
    async with running(place.sandbox, place.token) as bot:
        place.control.set_channel_permissions(place.channel, place.bot, deny=["VIEW_CHANNEL"])
        place.control.say(place.channel, place.ada, "unheard")
        place.control.set_channel_permissions(place.channel, place.bot)
        place.control.say(place.channel, place.ada, "heard")
        await bot.next("message")
    assert bot.texts() == ["heard"]


# --- The gateway's troubles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["abort", "4000", "4008", "reconnect", "resumable"])
async def test_a_lost_connection_is_resumed_and_what_was_missed_replayed(place: Place, trouble: str) -> None:
    control = place.control
    async with running(place.sandbox, place.token) as bot:
        control.say(place.channel, place.ada, "before")
        await bot.next("message")
        match trouble:
            case "abort":
                control.abort_gateway()
            case "reconnect":
                control.ask_reconnect()
            case "resumable":
                control.invalidate_sessions(resumable=True)
            case code:
                control.close_gateway(int(code))
        control.say(place.channel, place.ada, "meanwhile 1")
        control.say(place.channel, place.ada, "meanwhile 2")
        await bot.next("resumed")
        control.say(place.channel, place.ada, "after")
        await bot.next("message", 4)
    assert bot.texts() == ["before", "meanwhile 1", "meanwhile 2", "after"]
    assert bot.count("ready") == 1


async def test_through_many_lost_connections_each_message_is_heard_once_and_in_order(place: Place) -> None:
    rng = random.Random(7)
    troubles: list[Callable[[], int]] = [
        place.control.abort_gateway,
        place.control.close_gateway,
        place.control.ask_reconnect,
        lambda: place.control.invalidate_sessions(resumable=True),
    ]
    async with running(place.sandbox, place.token) as bot:
        for number in range(300):
            place.control.say(place.channel, place.ada, str(number))
            if number % 20 == 19:
                # Sometimes the connection is lost again before it is back.
                heard = bot.count("resumed") + 1
                rng.choice(troubles)()
                if rng.random() < 0.7:
                    await bot.next("resumed", heard)
            elif rng.random() < 0.2:
                await asyncio.sleep(0)
        await bot.next("message", 300)
    assert bot.texts() == [str(number) for number in range(300)]
    assert bot.count("ready") == 1


async def test_an_invalidated_session_starts_anew_and_what_was_missed_is_gone(place: Place) -> None:
    async with running(place.sandbox, place.token) as bot:
        place.control.invalidate_sessions()
        place.control.say(place.channel, place.ada, "lost")
        await bot.next("ready", 2)
        place.control.say(place.channel, place.ada, "heard")
        await bot.next("message")
    assert bot.texts() == ["heard"]


async def test_withheld_acknowledgements_leave_latency_unknown_and_nothing_breaks(place: Place) -> None:
    async with running(place.sandbox, place.token) as bot:
        place.control.acknowledge_heartbeats(False)
        events, sandbox = place.sandbox.faults.actions, place.sandbox
        await until(lambda: events.get("gateway_ack_withheld"))
        assert sandbox.gateway.connections
        assert not bot.is_closed()


async def test_a_refused_token_at_login_and_a_reset_one_later(place: Place) -> None:
    with pytest.raises(discord.LoginFailure):
        async with logged_in(place.sandbox, "nonsense"):
            pass
    async with pointed_at(place.sandbox):
        bot = Bot()
        running_client = asyncio.create_task(bot.start(place.token))
        await bot.next("ready")
        place.control.reset_token(place.bot)
        with pytest.raises(discord.ConnectionClosed) as closed:
            await running_client
        assert closed.value.code == 4004


async def test_an_intent_that_is_not_enabled_closes_with_4014(place: Place) -> None:
    place.control.set_intents(place.bot, message_content=False)
    with pytest.raises(discord.PrivilegedIntentsRequired):
        async with running(place.sandbox, place.token):
            pass


async def test_an_unparseable_dispatch_ends_the_client(place: Place) -> None:
    async with pointed_at(place.sandbox):
        bot = Bot()
        task = asyncio.create_task(bot.start(place.token))
        await bot.next("ready")
        place.control.send_unparseable()
        with pytest.raises(Exception, match=r"content|author|channel_id|invalid literal"):
            await task
        await bot.close()


# --- Rate limits and faults -----------------------------------------------------------------------------------


async def test_the_sixth_webhook_message_waits_for_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits()
    monkeypatch.setattr("discord.webhook.async_.asyncio", waits)
    async with SandboxServer(limits=Limits(identify_every=0.0), clock=waits.now) as sandbox:
        place = Place(sandbox)
        async with running(sandbox, place.token) as bot:
            hook = await place.text_channel(bot).create_webhook(name="relay")
            for number in range(5):
                await hook.send(f"m{number}", wait=True)
            (seconds,) = waits.seconds
            assert 0 < seconds <= 2
            await hook.send("m5", wait=True)
        assert sandbox.api.statistics.statuses.get(429, 0) == 0
        assert len(place.said()) == 6


@pytest.mark.parametrize("scope", ["user", "shared", "global"])
async def test_a_429_is_waited_for(place: Place, scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits()
    monkeypatch.setattr("discord.http.asyncio", waits)
    async with running(place.sandbox, place.token) as bot:
        place.control.add_fault("rate_limit", method="POST", path=r"/messages$", scope=scope, seconds=0.3)
        await place.text_channel(bot).send("patience")
    assert waits.seconds == [pytest.approx(0.3, abs=0.01)]
    counted = place.sandbox.api.invalid.recent(time.time())
    assert counted == (0 if scope == "shared" else 1)
    assert place.control.faults()["fired"] == {"rate_limit": 1}


async def test_a_5xx_after_the_commit_doubles_what_a_webhook_posts(place: Place) -> None:
    async with running(place.sandbox, place.token) as bot:
        hook = await place.text_channel(bot).create_webhook(name="relay")
        place.control.add_fault("status", method="POST", path="/webhooks/", when="before", status=502)
        await hook.send("once", wait=True)
        assert place.said() == ["once"]
        place.control.add_fault("status", method="POST", path="/webhooks/", when="after", status=500)
        await hook.send("twice", wait=True)
    assert place.said() == ["once", "twice", "twice"]
    assert place.control.faults()["fired"] == {"status_before": 1, "status_after": 1}


async def test_a_5xx_after_the_commit_does_not_double_what_has_a_nonce(place: Place) -> None:
    async with running(place.sandbox, place.token) as bot:
        place.control.add_fault("status", method="POST", path=r"/messages$", when="after", status=500)
        message = await place.text_channel(bot).send("once")
    assert [message.id] == [int(item["id"]) for item in place.control.messages(place.channel)]


@pytest.mark.parametrize(("when", "expected"), [("before", []), ("after", ["cut"])])
async def test_a_reset_before_and_after_the_commit(place: Place, when: str, expected: list[str]) -> None:
    async with running(place.sandbox, place.token) as bot:
        place.control.add_fault("reset", method="POST", path=r"/messages$", when=when)
        with pytest.raises((aiohttp.ClientError, OSError)):
            await place.text_channel(bot).send("cut")
    assert place.said() == expected


async def test_a_hang_a_delay_and_a_malformed_body(place: Place) -> None:
    async with running(place.sandbox, place.token) as bot:
        channel = place.text_channel(bot)
        place.control.add_fault("hang", method="POST", path=r"/messages$", when="after", seconds=600.0)
        hanging = asyncio.create_task(channel.send("hung"))
        await until(lambda: place.said() == ["hung"])
        assert not hanging.done()
        hanging.cancel()
        await asyncio.wait((hanging,))
        place.control.add_fault("delay", method="POST", path=r"/messages$", seconds=0.2)
        await channel.send("slow")
        assert place.control.faults()["fired"]["delay"] == 1
        place.control.add_fault("malformed", method="POST", path=r"/messages$")
        with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
            await channel.send("garbled")
    assert place.said() == ["hung", "slow", "garbled"]


@pytest.mark.parametrize(
    ("kind", "heard"),
    [
        ("duplicate", ["a", "a", "b"]),
        ("reorder", ["b", "a"]),
        ("drop", ["b"]),
        ("delay", ["a", "b"]),
    ],
)
async def test_dispatches_that_come_twice_late_or_in_the_wrong_order(place: Place, kind: str, heard: list[str]) -> None:
    async with running(place.sandbox, place.token) as bot:
        place.control.add_gateway_fault(kind, event="MESSAGE_CREATE", seconds=0.1)
        place.control.say(place.channel, place.ada, "a")
        place.control.say(place.channel, place.ada, "b")
        await bot.next("message", len(heard))
    assert bot.texts() == heard
    assert place.control.faults()["fired"] == {f"gateway_{kind}": 1}


async def test_an_outage_ends_and_the_session_is_resumed(place: Place) -> None:
    async with running(place.sandbox, place.token) as bot:
        place.control.go_offline()
        place.control.say(place.channel, place.ada, "meanwhile")
        await bot.next("disconnect")
        with pytest.raises((aiohttp.ClientError, OSError)):
            await bot.fetch_channel(place.channel)
        place.control.go_offline(False)
        await bot.next("resumed")
        await bot.next("message")
    assert bot.texts() == ["meanwhile"]


_ZLIB_CLIENT = """
import sys
sys.modules["zstandard"] = sys.modules["compression.zstd"] = None  # as where neither is there
import asyncio, discord, discord.utils, yarl
from discord.gateway import DiscordWebSocket

api, gateway, token = sys.argv[1:]
assert discord.utils._ActiveDecompressionContext.COMPRESSION_TYPE == "zlib-stream"
discord.http.Route.BASE = api
DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(gateway)
intents = discord.Intents.default()
intents.message_content = True
client = discord.Client(intents=intents, guild_ready_timeout=0.05)

@client.event
async def on_ready():
    print("ready", flush=True)

@client.event
async def on_message(message):
    print(message.content, flush=True)
    await client.close()

client.run(token, log_handler=None)
"""


async def test_a_client_without_zstandard_is_served_zlib(place: Place) -> None:
    arguments: tuple[Any, ...] = (place.sandbox.api_url, place.sandbox.sessions.gateway_url, place.token)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-c", _ZLIB_CLIENT, *arguments, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).strip() == b"ready"
    place.control.say(place.channel, place.ada, "squeezed")
    output, _ = await process.communicate()
    assert (output.strip(), process.returncode) == (b"squeezed", 0)
