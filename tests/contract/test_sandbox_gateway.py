"""The sandbox's gateway in plain WebSocket frames: close codes, sessions, intents, compression."""

import json
import zlib
from collections.abc import AsyncIterator
from typing import Any, Self

import aiohttp
import pytest
import zstandard

from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from relay.sandbox.world.dispatch import Intent
from tests.support.patience import PATIENCE

ALL_MESSAGES = int(Intent.GUILDS | Intent.GUILD_MESSAGES | Intent.MESSAGE_CONTENT)
PROPERTIES = {"os": "linux", "browser": "test", "device": "test"}


class Socket:
    """One connection; an async context manager."""

    def __init__(self, sandbox: SandboxServer, token: str, query: str = "v=10&encoding=json") -> None:
        self.sandbox, self.token, self.query = sandbox, token, query
        self._http = aiohttp.ClientSession()

    async def __aenter__(self) -> Self:
        try:
            self.ws = await self._http.ws_connect(f"{self.sandbox.sessions.gateway_url}/?{self.query}")
        except BaseException:
            await self._http.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ws.close()
        await self._http.close()

    async def send(self, op: Any, data: Any = None) -> None:
        await self.ws.send_str(json.dumps({"op": op, "d": data}))

    async def get(self) -> dict[str, Any]:
        """The next payload."""
        return dict(json.loads((await self.ws.receive(5)).data))

    async def until(self, event: str) -> list[dict[str, Any]]:
        """The payloads up to an event."""
        found = [await self.get()]
        while found[-1]["t"] != event:
            found.append(await self.get())
        return found

    async def close_code(self) -> int | None:
        """Read to the end."""
        while not self.ws.closed:
            message = await self.ws.receive(5)
            if message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING}:
                break
        return self.ws.close_code

    async def identify(self, intents: int = ALL_MESSAGES, **changes: Any) -> None:
        body = {"token": self.token, "intents": intents, "properties": PROPERTIES} | changes
        await self.send(2, body)

    async def ready(self, intents: int = ALL_MESSAGES) -> str:
        """HELLO, IDENTIFY, READY; the session's ID."""
        assert (await self.get())["op"] == 10
        await self.identify(intents)
        found = await self.until("GUILD_CREATE" if intents & Intent.GUILDS else "READY")
        return str(found[0]["d"]["session_id"])


class Place:
    """A sandbox with a guild, a channel, two people and a bot."""

    def __init__(self, sandbox: SandboxServer) -> None:
        self.sandbox, self.control = sandbox, sandbox.control
        made = self.control.bootstrap()
        self.guild, self.bot, self.token = made["guild"], made["bot"], made["token"]
        self.channel, people = made["channels"]["general"], made["people"]
        self.ada, self.ben = people["Ada"], people["Ben"]

    def socket(self, query: str = "v=10&encoding=json", token: str | None = None) -> Socket:
        return Socket(self.sandbox, token or self.token, query)

    async def nobody_connected(self) -> None:
        """Until the server has noticed that its clients are gone."""
        journal = self.sandbox.journal
        while self.sandbox.gateway.connections:
            assert await journal.wait(journal.last, PATIENCE, event="SANDBOX_GATEWAY")

    def say(self, text: str) -> None:
        self.control.say(self.channel, self.ada, text)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with SandboxServer(limits=Limits(identify_every=0.0)) as sandbox:
        yield Place(sandbox)


async def test_hello_ready_guild_create_and_heartbeats(place: Place) -> None:
    async with place.socket() as socket:
        hello = await socket.get()
        assert (hello["op"], hello["d"]["heartbeat_interval"]) == (10, 41250)
        await socket.send(1, None)
        assert (await socket.get())["op"] == 11
        await socket.identify()
        ready, guild = await socket.until("GUILD_CREATE")
        assert (ready["t"], ready["s"], ready["d"]["user"]["id"]) == ("READY", 1, place.bot)
        assert ready["d"]["guilds"] == [{"id": place.guild, "unavailable": True}]
        assert ready["d"]["resume_gateway_url"] == place.sandbox.sessions.gateway_url
        assert [item["id"] for item in guild["d"]["channels"]] == [place.channel]
        assert [item["user"]["id"] for item in guild["d"]["members"]] == [place.bot]
        place.say("hello")
        message = (await socket.until("MESSAGE_CREATE"))[-1]
        assert (message["s"], message["d"]["guild_id"]) == (3, place.guild)
        assert message["d"]["member"]["joined_at"]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ("{", 4002),
        ("[]", 4002),
        ('{"op": "2"}', 4002),
        ('{"op": 1, "d": "' + "x" * 4096 + '"}', 4002),
        ('{"op": 99}', 4001),
        ('{"op": 8, "d": {}}', 4003),
        ('{"op": 2, "d": {"token": "x"}}', 4002),
        ('{"op": 2, "d": {"token": "x", "intents": 1, "properties": {}}}', 4004),
        ('{"op": 6, "d": {"token": "x", "session_id": "s", "seq": 1}}', 4004),
    ],
)
async def test_what_is_sent_before_identifying_closes_with_a_code(place: Place, payload: str, code: int) -> None:
    async with place.socket() as socket:
        await socket.get()
        await socket.ws.send_str(payload)
        assert await socket.close_code() == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"shard": [1, 1]}, 4010),
        ({"shard": "0"}, 4010),
        ({"intents": 1 << 40}, 4013),
        ({"intents": -1}, 4013),
        ({"intents": "all"}, 4013),
        ({"intents": int(Intent.GUILD_PRESENCES)}, 4014),
    ],
)
async def test_an_identify_that_is_not_in_order(place: Place, changes: dict[str, Any], code: int) -> None:
    async with place.socket() as socket:
        await socket.get()
        await socket.identify(**changes)
        assert await socket.close_code() == code


@pytest.mark.parametrize(
    ("query", "code"), [("v=6&encoding=json", 4012), ("encoding=json", 4012), ("v=10&encoding=etf", 4002)]
)
async def test_a_version_and_an_encoding_that_do_not_exist(place: Place, query: str, code: int) -> None:
    async with place.socket(query) as socket:
        assert await socket.close_code() == code


async def test_identifying_twice_and_sending_too_much(place: Place) -> None:
    async with place.socket() as socket:
        await socket.ready()
        await socket.identify()
        assert await socket.close_code() == 4005
    async with place.socket() as socket:
        await socket.ready()
        for _ in range(120):
            await socket.send(1, None)
        assert await socket.close_code() == 4008


async def test_silence_times_the_session_out() -> None:
    async with SandboxServer(heartbeat_interval=0.1) as sandbox:
        place = Place(sandbox)
        async with place.socket() as socket:
            session = await socket.ready()
            assert await socket.close_code() == 4009
        async with place.socket() as socket:
            await socket.get()
            await socket.send(6, {"token": place.token, "session_id": session, "seq": 2})
            assert (await socket.get())["op"] == 9


async def test_a_session_is_resumed_where_it_was(place: Place) -> None:
    async with place.socket() as socket:
        session = await socket.ready()
        place.control.abort_gateway()
    place.say("one")
    place.say("two")
    async with place.socket() as socket:
        await socket.get()
        await socket.send(6, {"token": place.token, "session_id": session, "seq": 3})
        found = await socket.until("RESUMED")
        assert [(item["t"], item["s"]) for item in found] == [("MESSAGE_CREATE", 4), ("RESUMED", 5)]
        assert found[0]["d"]["content"] == "two"


@pytest.mark.parametrize(
    "how", ["goodbye", "too far ahead", "unknown", "another token", "fatal", "expired", "overflow"]
)
async def test_a_session_that_cannot_be_resumed(how: str) -> None:
    now = [1_700_000_000.0]
    limits = Limits(identify_every=0.0)
    async with SandboxServer(limits=limits, clock=lambda: now[0], resume_window=60, event_buffer=5) as sandbox:
        place = Place(sandbox)
        async with place.socket() as socket:
            session = await socket.ready()
            if how == "goodbye":
                await socket.ws.close(code=1000)
            elif how == "fatal":
                place.control.close_gateway(4007)
                await socket.close_code()
            else:
                place.control.abort_gateway()
        await place.nobody_connected()
        if how == "expired":
            now[0] += 61
        if how == "overflow":
            for number in range(6):
                place.say(str(number))
        token = place.control.create_bot("other")["token"] if how == "another token" else place.token
        async with place.socket() as socket:
            await socket.get()
            sequence = 99 if how == "too far ahead" else 2
            wanted = "0" * 32 if how == "unknown" else session
            await socket.send(6, {"token": token, "session_id": wanted, "seq": sequence})
            if how == "too far ahead":
                assert await socket.close_code() == 4007
            else:
                assert await socket.get() == {"op": 9, "d": False, "s": None, "t": None}


async def test_identifying_too_soon_is_an_invalid_session_and_costs_a_start(place: Place) -> None:
    place.control.set_limits(identify_every=60.0)
    async with place.socket() as first, place.socket() as second:
        await first.ready()
        await second.get()
        await second.identify()
        assert await second.get() == {"op": 9, "d": False, "s": None, "t": None}
    assert place.sandbox.sessions.start_limit(int(place.bot))["remaining"] == 998


async def test_using_all_starts_of_a_day_up_costs_the_token(place: Place) -> None:
    place.control.set_limits(identifies_per_day=1)
    async with place.socket() as first, place.socket() as second:
        await first.ready()
        await second.get()
        await second.identify()
        assert await second.close_code() == 4004
    async with place.socket() as third:
        await third.get()
        await third.identify()
        assert await third.close_code() == 4004


async def test_events_come_only_with_their_intents(place: Place) -> None:
    async with place.socket() as deaf, place.socket() as keen:
        await deaf.ready(int(Intent.GUILD_MESSAGE_TYPING))
        await keen.ready(int(Intent.GUILD_MESSAGES | Intent.GUILD_MESSAGE_REACTIONS | Intent.GUILD_WEBHOOKS))
        message = place.control.say(place.channel, place.ada, "hello")
        place.control.react(place.channel, message["id"], place.ada, "👍")
        place.control.create_webhook(place.channel, "hook", place.ada)
        place.control.create_channel(place.guild, "other")
        place.control.typing(place.channel, place.ada)
        place.control.delete(place.channel, message["id"])
        found = await keen.until("MESSAGE_DELETE")
        assert [item["t"] for item in found] == [
            "MESSAGE_CREATE",
            "MESSAGE_REACTION_ADD",
            "WEBHOOKS_UPDATE",
            "MESSAGE_DELETE",
        ]
        assert found[0]["d"]["content"] == ""
        assert (await deaf.get())["t"] == "TYPING_START"


async def test_members_on_request_and_as_events(place: Place) -> None:
    async with place.socket() as socket:
        await socket.ready(ALL_MESSAGES | int(Intent.GUILD_MEMBERS))
        await socket.send(8, {"guild_id": place.guild, "query": "a", "limit": 0, "nonce": "n"})
        chunk = (await socket.until("GUILD_MEMBERS_CHUNK"))[-1]["d"]
        assert ([item["user"]["username"] for item in chunk["members"]], chunk["nonce"]) == (["ada"], "n")
        await socket.send(8, {"guild_id": place.guild, "user_ids": [place.ada, "1"]})
        chunk = (await socket.until("GUILD_MEMBERS_CHUNK"))[-1]["d"]
        assert (len(chunk["members"]), chunk["not_found"]) == (1, ["1"])
        cleo = place.control.create_person("cleo")["id"]
        place.control.join(place.guild, cleo)
        place.control.rename(cleo, place.guild, nick="C")
        place.control.kick(place.guild, cleo)
        found = await socket.until("GUILD_MEMBER_REMOVE")
        assert [item["t"] for item in found] == ["GUILD_MEMBER_ADD", "GUILD_MEMBER_UPDATE", "GUILD_MEMBER_REMOVE"]


async def test_a_guild_goes_and_comes_back_and_a_bot_is_thrown_out(place: Place) -> None:
    async with place.socket() as socket:
        await socket.ready()
        place.control.guild_outage(place.guild)
        assert (await socket.until("GUILD_DELETE"))[-1]["d"] == {"id": place.guild, "unavailable": True}
        place.control.guild_outage(place.guild, down=False)
        assert (await socket.until("GUILD_CREATE"))[-1]["d"]["id"] == place.guild
        place.control.kick(place.guild, place.bot)
        assert (await socket.until("GUILD_DELETE"))[-1]["d"] == {"id": place.guild}
        place.say("unheard")
        place.control.invite(place.bot, place.guild)
        assert (await socket.get())["t"] == "GUILD_CREATE"


async def test_a_webhook_that_moves_is_told_of_in_both_channels(place: Place) -> None:
    staff = place.control.create_channel(place.guild, "staff")["id"]
    hook = place.control.create_webhook(place.channel, "relay", place.ada)["id"]
    async with place.socket() as socket:
        await socket.ready(int(Intent.GUILD_WEBHOOKS))
        place.control.move_webhook(hook, staff)
        told = [await socket.get() for _ in range(2)]
    assert [(event["t"], event["d"]["channel_id"]) for event in told] == [
        ("WEBHOOKS_UPDATE", place.channel),
        ("WEBHOOKS_UPDATE", staff),
    ]


async def test_private_threads_are_for_their_members(place: Place) -> None:
    place.control.set_bot_permissions(place.bot, place.guild, ["MANAGE_WEBHOOKS"])
    async with place.socket() as socket:
        await socket.ready()
        thread = place.control.open_thread(place.channel, place.ada, "quiet", private=True)["id"]
        place.control.say(thread, place.ada, "unheard")
        place.control.join_thread(thread, place.bot)
        place.control.say(thread, place.ada, "heard")
        # Whoever comes into a private thread learns that there is one.
        told = await socket.get()
        assert (told["t"], told["d"]["id"], "newly_created" in told["d"]) == ("THREAD_CREATE", thread, False)
        assert (await socket.get())["d"]["content"] == "heard"


async def test_both_compressions_are_one_stream_a_connection(place: Place) -> None:
    inflate = zlib.decompressobj()
    async with place.socket("v=10&encoding=json&compress=zlib-stream") as socket:
        first = (await socket.ws.receive(5)).data
        assert first.endswith(b"\x00\x00\xff\xff")
        assert json.loads(inflate.decompress(first))["op"] == 10
        await socket.send(1, None)
        assert json.loads(inflate.decompress((await socket.ws.receive(5)).data))["op"] == 11
    unzstd = zstandard.ZstdDecompressor().decompressobj()
    async with place.socket("v=10&encoding=json&compress=zstd-stream") as socket:
        assert json.loads(unzstd.decompress((await socket.ws.receive(5)).data))["op"] == 10
        await socket.send(1, None)
        assert json.loads(unzstd.decompress((await socket.ws.receive(5)).data))["op"] == 11
    async with place.socket("v=10&encoding=json&compress=brotli") as socket:
        assert await socket.close_code() == 4002


async def test_connections_that_are_refused(place: Place) -> None:
    place.control.refuse_gateway(1)
    with pytest.raises(aiohttp.WSServerHandshakeError):
        async with place.socket():
            pass
    async with place.socket() as socket:
        assert (await socket.get())["op"] == 10


async def test_the_control_interface_remembers_what_the_gateway_did(place: Place) -> None:
    async with place.socket() as socket:
        session = await socket.ready()
        assert place.control.connected(place.bot)
    await place.nobody_connected()
    history = place.control.statistics()["gateway"]["history"]
    assert [(item["what"], item.get("session")) for item in history] == [("identified", session), ("closed", session)]
    assert not place.control.connected(place.bot)


@pytest.mark.parametrize(
    ("permissions", "intents", "told"),
    [
        (["BAN_MEMBERS"], Intent.GUILD_MODERATION, True),
        (["VIEW_AUDIT_LOG"], Intent.GUILD_MODERATION, True),
        (["ADMINISTRATOR"], Intent.GUILD_MODERATION, True),
        (["MANAGE_MESSAGES"], Intent.GUILD_MODERATION, False),
        (["BAN_MEMBERS"], Intent.GUILD_MESSAGES, False),
    ],
)
async def test_bans_are_told_to_bots_that_may_know_and_ask_for_them(
    place: Place, permissions: list[str], intents: Intent, told: bool
) -> None:
    place.control.set_bot_permissions(place.bot, place.guild, [*permissions, "VIEW_CHANNEL", "READ_MESSAGE_HISTORY"])
    async with Socket(place.sandbox, place.token) as socket:
        await socket.ready(int(Intent.GUILDS | Intent.GUILD_MESSAGES | intents))
        said = place.control.say(place.channel, place.ben, "spam")["id"]
        await socket.until("MESSAGE_CREATE")
        place.control.ban(place.guild, place.ben, delete_seconds=3600)
        place.control.unban(place.guild, place.ben)
        place.control.say(place.channel, place.ada, "hello")
        found = await socket.until("MESSAGE_CREATE")
    kinds = [payload["t"] for payload in found]
    assert [kind for kind in kinds if kind.startswith("GUILD_BAN")] == (
        ["GUILD_BAN_ADD", "GUILD_BAN_REMOVE"] if told else []
    )
    assert "MESSAGE_DELETE" in kinds or "MESSAGE_DELETE_BULK" in kinds
    assert said in str(found)


@pytest.mark.parametrize(
    ("permission", "intents", "told"),
    [
        ("VIEW_AUDIT_LOG", Intent.GUILD_MODERATION, True),
        ("BAN_MEMBERS", Intent.GUILD_MODERATION, False),
        ("VIEW_AUDIT_LOG", Intent.GUILD_MESSAGES, False),
    ],
)
async def test_the_audit_log_is_told_to_bots_that_may_view_it_and_ask_for_it(
    place: Place, permission: str, intents: Intent, told: bool
) -> None:
    place.control.set_bot_permissions(place.bot, place.guild, [permission, "VIEW_CHANNEL", "READ_MESSAGE_HISTORY"])
    async with Socket(place.sandbox, place.token) as socket:
        await socket.ready(int(Intent.GUILDS | Intent.GUILD_MESSAGES | intents))
        place.control.ban(place.guild, place.ben, reason="spam", by=place.ada)
        place.control.say(place.channel, place.ada, "hello")
        found = await socket.until("MESSAGE_CREATE")
    entries = [payload["d"] for payload in found if payload["t"] == "GUILD_AUDIT_LOG_ENTRY_CREATE"]
    assert [(one["action_type"], one["user_id"], one["target_id"], one["reason"]) for one in entries] == (
        [(22, place.ada, place.ben, "spam")] if told else []
    )


async def test_of_a_channel_that_may_not_be_viewed_only_its_place_is_told(place: Place) -> None:
    """https://docs.discord.com/developers/change-log#channel-obfuscation-for-users-and-bots."""
    secret = place.control.create_channel(place.guild, "secret", topic="hush")
    place.control.set_channel_permissions(secret["id"], place.bot, deny=["VIEW_CHANNEL"])
    async with Socket(place.sandbox, place.token) as socket:
        assert (await socket.get())["op"] == 10
        await socket.identify(int(Intent.GUILDS))
        guild = (await socket.until("GUILD_CREATE"))[-1]["d"]
        [told] = [one for one in guild["channels"] if one["id"] == secret["id"]]
        denied = [{"id": place.guild, "type": 0, "allow": "0", "deny": "1024"}]
        assert told == secret | {
            "name": "___hidden___",
            "topic": None,
            "flags": 1 << 17,
            "permission_overwrites": denied,
        }
        place.control.set_channel_permissions(secret["id"], place.bot)
        update = (await socket.until("CHANNEL_UPDATE"))[-1]["d"]
        assert (update["name"], update["flags"]) == ("secret", 0)


def shard_of(guild: str, total: int) -> int:
    return (int(guild) >> 22) % total


async def test_a_shard_is_told_of_its_own_guilds_only(place: Place) -> None:
    """https://docs.discord.com/developers/events/gateway#sharding-sharding-formula."""
    place.control.set_limits(shards=2)
    assert place.sandbox.sessions.recommended_shards(int(place.bot)) == 2
    mine = shard_of(place.guild, 2)
    async with place.socket() as own, place.socket() as other:
        for number, socket in ((mine, own), (1 - mine, other)):
            await socket.get()
            await socket.identify(shard=[number, 2])
            ready = await socket.get()
            assert ready["d"]["shard"] == [number, 2]
            assert [guild["id"] for guild in ready["d"]["guilds"]] == ([place.guild] if number == mine else [])
        place.say("hello")
        assert (await own.until("MESSAGE_CREATE"))[-1]["d"]["content"] == "hello"
        place.control.close_gateway(4000, shard=mine)
        assert await own.close_code() == 4000
        await other.send(1, None)
        assert (await other.get())["op"] == 11, "it was told of nothing, and its connection stands"


async def test_too_many_guilds_for_a_shard(place: Place) -> None:
    place.control.set_limits(guilds_per_shard=0)
    async with place.socket() as socket:
        await socket.get()
        await socket.identify()
        assert await socket.close_code() == 4011


async def test_so_many_shards_identify_at_a_time_as_the_bot_may(place: Place) -> None:
    place.control.set_limits(identify_every=60.0, max_concurrency=2)
    for number, op in ((0, 0), (1, 0), (2, 9)):
        async with place.socket() as socket:
            await socket.get()
            await socket.identify(shard=[number, 3])
            assert (await socket.get())["op"] == op
