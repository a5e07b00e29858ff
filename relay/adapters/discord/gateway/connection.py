"""The gateway connection: discord.py's, under supervision.

discord.py brings the protocol (compression, heartbeats, IDENTIFY, RESUME) and the picture of guilds, roles and
channels. What it does badly is done here: it ends on a first connection that fails and on a dispatch that it cannot
parse, waits up to a quarter of an hour between tries, and starts a task for each event, so that they may finish out
of order.
"""

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, Protocol, cast

import aiohttp
import discord
import structlog
import yarl
from discord.gateway import DiscordWebSocket, ReconnectWebSocket

from relay.adapters.discord.api.client import Json, RestClient, Route
from relay.adapters.discord.api.errors import ApiError, Limited, Refused
from relay.adapters.discord.gateway.payload_defaults import fill_in_defaults
from relay.core.clock import Backoff
from relay.core.ports import Clock
from relay.domain.jsontext import loads
from relay.errors import FatalError

_log = structlog.get_logger(__name__)

PORTAL = "https://discord.com/developers/applications"
_CONNECT_TIMEOUT = 60.0
_CLOSE_TIMEOUT = 2.0
_RESUME_TRIES = 5
# A bot may IDENTIFY once in five seconds; one that comes too soon is answered with an invalid session, and counts.
# https://docs.discord.com/developers/events/gateway#rate-limiting (max_concurrency is 1 without shards)
_IDENTIFY_EVERY = 5.2

# Taken as they come and never shown to discord.py: it would build, and fail on, objects that nobody needs.
RAW_EVENTS = frozenset(
    {
        "MESSAGE_CREATE",
        "MESSAGE_UPDATE",
        "MESSAGE_DELETE",
        "MESSAGE_DELETE_BULK",
        "MESSAGE_REACTION_ADD",
        "TYPING_START",
        "GUILD_STICKERS_UPDATE",
        "WEBHOOKS_UPDATE",
    }
)

# https://docs.discord.com/developers/topics/opcodes-and-status-codes#gateway-gateway-close-event-codes
_FATAL_CLOSES = {
    4004: ("Discord refused the bot's token", f"make a new one ({PORTAL}, your application, Bot, Reset Token)"),
    4010: ("Discord refused the shard that was asked for", "update the relay"),
    4011: ("the bot is in too many servers for one connection", "let it leave those that it mirrors nothing of"),
    4012: ("Discord no longer speaks this version of its gateway", "update the relay"),
    4013: ("Discord does not know the intents that were asked for", "update the relay"),
    4014: (
        "the bot may not read what people write",
        f"turn on Message Content Intent ({PORTAL}, your application, Bot, Privileged Gateway Intents)",
    ),
}


def fatal(code: int) -> FatalError:
    """The end, for a close code that no reconnecting mends."""
    reason, remedy = _FATAL_CLOSES[code]
    return FatalError(f"{reason} (close code {code})", remedy)


def refused_token() -> FatalError:
    """The end, for a token that the API does not take."""
    reason, remedy = _FATAL_CLOSES[4004]
    return FatalError(reason, f"{remedy} and write it to [discord] token or RELAY_DISCORD__TOKEN")


def intents() -> discord.Intents:
    """What is needed and no more. Reactions and typing only to be counted; no members, no presences."""
    return discord.Intents(
        guilds=True,
        emojis_and_stickers=True,
        webhooks=True,
        guild_messages=True,
        message_content=True,
        guild_reactions=True,
        guild_typing=True,
    )


class Listener(Protocol):
    """Who is told what the gateway says. All calls are made in the gateway's order and must not wait."""

    def session_started(self, client: discord.Client) -> None:
        """A new session: what was said before it has not been, and will not be, dispatched."""
        ...

    def session_resumed(self) -> None:
        """The old session goes on, without a gap."""
        ...

    def something_missed(self) -> None:
        """A dispatch of this session has been lost."""
        ...

    def disconnected(self, reason: str) -> None:
        """Nothing comes in now; the gateway is being connected to again."""
        ...

    def dispatched(self, event: str, data: Mapping[str, Json]) -> None:
        """An event, after discord.py has taken it into its picture of the guilds."""
        ...


class SessionLost(Exception):
    """Discord has forgotten the session, or it cannot be resumed: a new one is needed."""


class _Parsers(dict[str, Callable[[Any], None]]):
    """What to do with each dispatch: always `parse`, with the library's own parser as an argument."""

    def __init__(
        self, library: Mapping[str, Callable[[Any], None]], parse: Callable[[str, Callable[[Any], None], Any], None]
    ) -> None:
        super().__init__({event: partial(parse, event, parser) for event, parser in library.items()})
        self._parse = parse

    def __missing__(self, event: str) -> Callable[[Any], None]:
        # Newer than the library. It counts in the sequence all the same.
        return partial(self._parse, event, _ignore)


def _ignore(_: object) -> None:
    """Nothing is to be done."""


class _Client(discord.Client):
    """One session, from IDENTIFY to where it can no longer be resumed."""

    def __init__(self, *, listener: Listener, clock: Clock, backoff: Backoff, on_identify: Callable[[], None]) -> None:
        super().__init__(
            intents=intents(),
            max_messages=None,
            member_cache_flags=discord.MemberCacheFlags.none(),
            chunk_guilds_at_startup=False,
        )
        self._listener = listener
        self._clock = clock
        self._backoff = backoff
        self._on_identify = on_identify
        self._alive = False
        # The library's table of what to do with each dispatch is the one place where events are still in order and
        # where a parser that fails can be kept from ending the connection.
        self._connection.parsers = _Parsers(self._connection.parsers, self._parse)
        self._sequence = 0

    def _parse(self, event: str, parser: Callable[[Any], None], data: Any) -> None:
        self._check_sequence(event)
        try:
            if event not in RAW_EVENTS:
                fill_in_defaults(event, data, str(self.user.id) if self.user is not None else "")
                parser(data)
            match event:
                case "READY":
                    self._became_alive()
                    self._listener.session_started(self)
                case "RESUMED":
                    self._became_alive()
                    self._listener.session_resumed()
            self._listener.dispatched(event, data)
        except Exception as error:
            if event == "READY":
                raise
            # Without the traceback, which may quote what people wrote.
            _log.error("discord dispatch not understood", dispatch=event, error=type(error).__name__)

    def _check_sequence(self, event: str) -> None:
        sequence = self.ws.sequence or 0
        if event != "READY" and sequence > self._sequence + 1:
            _log.warning("discord dispatch lost", dispatch=event, missing=sequence - self._sequence - 1)
            self._listener.something_missed()
        self._sequence = sequence if event == "READY" else max(sequence, self._sequence)

    def _became_alive(self) -> None:
        self._alive = True
        self._backoff.reset()

    async def login(self, token: str) -> None:
        """Ask who we are. The library also asks for the application, which READY names anyway."""
        await self._async_setup_hook()
        me: Any = await self.http.static_login(token.strip())
        if isinstance(me, str):
            # The library reads JSON only from what calls itself just that, without a charset.
            me = json.loads(me)
        ready = {"user": dict(me)}
        fill_in_defaults("READY", ready, str(me["id"]))
        self._connection.user = discord.ClientUser(state=self._connection, data=cast(Any, ready["user"]))

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Take note of the moment; the library would wait here, with the connection already open."""
        self._on_identify()

    async def connect(self, *, reconnect: bool = True) -> NoReturn:
        """Connect, and resume for as long as Discord knows the session.

        Raises `SessionLost`, the errors of a connection that could not be made, and `discord.ConnectionClosed`
        for the close codes that are final.
        """
        session: dict[str, Any] = {}
        failures = 0
        while True:
            reason, lost = await self._converse(session)
            self._listener.disconnected(reason)
            failures = 0 if self._alive else failures + 1
            session = self._session() or session
            if lost or not session or failures >= _RESUME_TRIES:
                raise SessionLost(reason)
            if failures:
                await self._clock.sleep(self._backoff.next())

    async def _converse(self, session: dict[str, Any]) -> tuple[str, bool]:
        """One connection, until it ends: why, and whether the session ended with it."""
        self._alive = False
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                self.ws = await DiscordWebSocket.from_client(self, initial=not session, **session)
            while True:
                await self.ws.poll_event()
        except ReconnectWebSocket as error:
            if error.resume:
                return "Discord asked to reconnect", False
            return "Discord no longer knows the session", True
        except discord.ConnectionClosed:
            raise
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            return f"the connection broke ({type(error).__name__})", False

    def _session(self) -> dict[str, Any]:
        # None until the first connection stands, whatever its annotation says.
        ws: DiscordWebSocket | None = self.ws
        if ws is None or ws.session_id is None:
            return {}
        return {"resume": True, "session": ws.session_id, "sequence": ws.sequence, "gateway": ws.gateway}


async def _shut(client: discord.Client) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await client.close()
    except TimeoutError:
        # The library waits half a minute for the other side's goodbye.
        await client.http.close()


class Gateway:
    """Keeps one session after another alive."""

    def __init__(self, *, token: str, api_url: str, rest: RestClient, clock: Clock, rng: random.Random) -> None:
        self._token = token
        self._api_url = api_url.rstrip("/")
        self._rest = rest
        self._clock = clock
        self._rng = rng
        self._backoff = Backoff(rng, first=1.0, most=30.0)
        self._may_identify_at = 0.0

    async def run(self, listener: Listener) -> NoReturn:
        """Stay connected until cancelled. Raises `FatalError`."""
        while True:
            reason = await self._once(listener)
            listener.disconnected(reason)
            wait = self._backoff.next()
            _log.warning("discord session ended", reason=reason, next_try_in=round(wait, 1))
            await self._clock.sleep(wait)

    async def _once(self, listener: Listener) -> str:
        """One session; why it ended."""
        try:
            url = await self._address(listener)
            self._point_library_at(url)
            await self._clock.sleep(max(0.0, self._may_identify_at - self._clock.monotonic()))
            client = _Client(listener=listener, clock=self._clock, backoff=self._backoff, on_identify=self._identified)
            try:
                await client.start(self._token)
            finally:
                await _shut(client)
        except SessionLost as error:
            return str(error)
        except Limited as error:
            await self._clock.sleep(error.retry_after)
            return str(error)
        except discord.LoginFailure:
            return await self._ask_again()
        except discord.ConnectionClosed as error:
            if error.code in _FATAL_CLOSES:
                raise fatal(error.code) from None
            return f"the gateway closed with code {error.code}"
        except ApiError as error:
            if isinstance(error, Refused) and error.status == 401:
                return await self._ask_again()
            return f"Discord does not answer: {error}"
        except (discord.DiscordException, aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"Discord cannot be reached ({type(error).__name__})"
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001 - the top of the supervised work
            # A bug in the library must not end the daemon; the next session starts from nothing.
            _log.exception("discord session failed")
            return f"the connection failed ({type(error).__name__})"
        return "the connection ended"

    async def _ask_again(self) -> str:
        """Discord has been known to refuse good tokens while it had troubles of its own. Raises `FatalError`."""
        try:
            await self._rest.read(Route("GET", "/users/@me", {}))
        except Refused as error:
            if error.status == 401:
                raise refused_token() from None
        return "Discord refused the token once"

    async def _address(self, listener: Listener) -> str:
        """Where the gateway is. Waits where no more sessions may be started today."""
        while True:
            answer = await self._rest.call(Route("GET", "/gateway/bot", {}))
            limit = answer.get("session_start_limit") or {}
            if limit.get("remaining", 1) > 0:
                return str(answer["url"])
            wait = max(1.0, limit.get("reset_after", 1000) / 1000)
            reason = f"no more sessions may be started for {wait:.0f} s (Discord's limit of IDENTIFYs in a day)"
            listener.disconnected(reason)
            _log.error("discord session limit", wait=round(wait))
            await self._clock.sleep(wait)

    def _identified(self) -> None:
        self._may_identify_at = self._clock.monotonic() + _IDENTIFY_EVERY

    def _point_library_at(self, gateway_url: str) -> None:
        # The library knows these only as settings of the process. One payload that its own reader cannot read would end
        # the connection, and come again with every session that is resumed.
        discord.utils._from_json = loads
        discord.http.Route.BASE = self._api_url
        DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(gateway_url)
