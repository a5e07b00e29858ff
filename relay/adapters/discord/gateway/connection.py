"""The connection to Discord's gateway: discord.py's, under supervision.

discord.py implements the protocol (compression, heartbeats, IDENTIFY, RESUME) and keeps guilds, roles and channels.
Five things are done here instead, because it does them badly: it gives up when the first connection fails, it ends the
connection on a dispatch that it cannot parse, it waits up to a quarter of an hour between tries, it starts a task for
each event, so that they may finish out of order, and it may measure an answer to a heartbeat from the one before.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, Protocol, cast

import aiohttp
import discord
import yarl
from discord.gateway import DiscordWebSocket, ReconnectWebSocket

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import ApiError, Limited, Refused
from relay.adapters.discord.gateway.defaults import fill_in_defaults
from relay.adapters.discord.identifiers import Shard
from relay.core.clock import Backoff
from relay.core.ports import Clock
from relay.domain.jsontext import Json, loads
from relay.errors import FatalError, cause_of, ungrouped
from relay.logs import get_logger

_log = get_logger(__name__)

PORTAL = "https://discord.com/developers/applications"
_CONNECT_TIMEOUT = 60.0
_READY_TIMEOUT = 60.0  # from IDENTIFY or RESUME to READY or RESUMED
_CLOSE_TIMEOUT = 2.0
_RESUME_TRIES = 5
# Seconds. After two connections that were no longer than that, there is a pause, though each was resumed.
_BRIEF = 5.0
# A bot may IDENTIFY once in five seconds, or as many of its shards at a time as `max_concurrency` says. Too early, it
# gets an invalid session, and it counts against the day's limit.
# https://docs.discord.com/developers/events/gateway#rate-limiting
_IDENTIFY_EVERY = 5.2

# Never given to discord.py: it would build objects that nobody needs, and might fail on them.
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
        "GUILD_BAN_ADD",
        "GUILD_BAN_REMOVE",
        "INTERACTION_CREATE",
    }
)

# https://docs.discord.com/developers/topics/opcodes-and-status-codes#gateway-gateway-close-event-codes
TOKEN_REFUSED = 4004
_MORE_SHARDS = 4011
_FATAL_CLOSES = {
    TOKEN_REFUSED: (
        "Discord refused the bot's token",
        f"make a new one ({PORTAL}, your application, Bot, Reset Token)",
    ),
    4010: ("Discord refused the shard that was asked for", "update the relay"),
    _MORE_SHARDS: (
        "the bot is in too many servers for as many connections as Discord recommends",
        "let it leave those that it mirrors nothing of",
    ),
    4012: ("Discord no longer speaks this version of its gateway", "update the relay"),
    4013: ("Discord does not know the intents that were asked for", "update the relay"),
    4014: (
        "the bot may not read what people write",
        (
            f"turn on Message Content Intent ({PORTAL}, your application, Bot, Privileged Gateway Intents), "
            "and with [discord] members_intent also Server Members Intent"
        ),
    ),
}

# What people take for the bot's token: https://docs.discord.com/developers/resources/application#application-object
_OTHER_SECRETS = (
    (re.compile(r"[A-Za-z0-9_-]{32}"), "the application's client secret"),
    (re.compile(r"[0-9a-f]{64}"), "the application's public key"),
    (re.compile(r"[0-9]{15,20}"), "the application's ID"),
    (re.compile(r"(?:syt|mct|mat)_\S+"), "an access token of Matrix"),
)

_ANYWHERE = "[discord] token, the file that token_file names, or RELAY_DISCORD__TOKEN"


def fatal_close(code: int, rest: RestClient) -> FatalError:
    """The error for a close code after which reconnecting is no use."""
    if code == TOKEN_REFUSED:
        refused = token_refused(rest)
        return FatalError(f"{refused.reason} (close code {code})", refused.remedy)
    reason, remedy = _FATAL_CLOSES[code]
    return (_MoreShards if code == _MORE_SHARDS else FatalError)(f"{reason} (close code {code})", remedy)


def token_refused(rest: RestClient, then: str = "") -> FatalError:
    """The error for a token that Discord refuses: what it looks like, where to get one, and what to do `then`."""
    reason, remedy = _FATAL_CLOSES[TOKEN_REFUSED]
    where = f"{remedy} and {then or f'write it where the old one is ({rest.token_source or _ANYWHERE})'}"
    looks = next((what for form, what in _OTHER_SECRETS if form.fullmatch(rest.token.strip())), None)
    return FatalError(reason if looks is None else f"{reason}: it looks like {looks}, which is another thing", where)


async def check_token(rest: RestClient) -> None:
    """Ask once more whether the token is valid: Discord sometimes refuses valid ones during an outage.

    Raises `FatalError` if it is refused again.
    """
    try:
        await rest.read(Route("GET", "/users/@me", {}))
    except Refused as error:
        if error.status == 401:
            raise token_refused(rest) from None


def intents(*, members: bool = False) -> discord.Intents:
    """The intents that are needed. Reactions and typing are only counted; bans are told; no presences.

    `members`: also who leaves. Of what else that one tells nothing is kept.
    """
    return discord.Intents(
        members=members,
        guilds=True,
        moderation=True,
        emojis_and_stickers=True,
        webhooks=True,
        guild_messages=True,
        message_content=True,
        guild_reactions=True,
        guild_typing=True,
    )


def identify_pause(limit: Json) -> float:
    """Seconds from one IDENTIFY to the next, so that those which are left last until Discord counts anew.

    A bot that has used them all up gets no session for the rest of the day, and its token is reset. In an outage of
    Discord, with a new session each few seconds, that would take two hours. `limit`: the `session_start_limit`.
    """
    left, total, reset_after = (limit.get(name) for name in ("remaining", "total", "reset_after"))
    if not left or not total or not reset_after or 2 * left >= total:
        return _IDENTIFY_EVERY
    return max(_IDENTIFY_EVERY, float(reset_after) / 1000 / float(left))


class Listener(Protocol):
    """Receives what the gateway says, in the gateway's order. The methods must not wait."""

    def divided(self, shards: int) -> None:
        """The bot's servers are in so many shards from now on. None of them is connected."""
        ...

    def session_started(self, client: discord.Client, shard: Shard) -> None:
        """A new session has begun. What was said in the shard before it will not be dispatched."""
        ...

    def session_resumed(self, shard: Shard) -> None:
        """The old session continues, and nothing was missed."""
        ...

    def dispatch_lost(self, shard: Shard) -> None:
        """A dispatch of this session did not arrive."""
        ...

    def disconnected(self, shard: Shard, reason: str) -> None:
        """There is no connection for a shard now; the gateway is connecting."""
        ...

    def dispatched(self, event: str, data: Json) -> None:
        """A dispatch, after discord.py has updated its cache of guilds with it."""
        ...


class SessionLost(Exception):
    """The session cannot be resumed, or none could be started: a new one is needed."""


class _MoreShards(FatalError):
    """The bot is in more servers than this number of shards may have. Fatal if Discord recommends no more."""


class _Parsers(dict[str, Callable[[Any], None]]):
    """discord.py's table of parsers by event. Calls `parse` for each, with the library's own parser as an argument."""

    def __init__(
        self, library: Mapping[str, Callable[[Any], None]], parse: Callable[[str, Callable[[Any], None], Any], None]
    ) -> None:
        super().__init__({event: partial(parse, event, parser) for event, parser in library.items()})
        self._parse = parse

    def __missing__(self, event: str) -> Callable[[Any], None]:
        # An event that is newer than the library. It counts in the sequence as well.
        return partial(self._parse, event, _ignore)


def _ignore(_: object) -> None:
    """Do nothing."""


class _WebSocket(DiscordWebSocket):
    """One connection."""

    async def send_heartbeat(self, data: Any) -> None:
        """Note the time, and send it.

        The library notes it afterwards, in another thread. An answer that comes before that thread runs was measured
        from the last heartbeat: "Can't keep up, shard ID None websocket is 41.3s behind", where all is well.
        """
        if self._keep_alive is not None:
            self._keep_alive.beat()
        await super().send_heartbeat(data)


class _Client(discord.Client):
    """One session, from IDENTIFY until it can no longer be resumed."""

    def __init__(
        self,
        *,
        shard: Shard,
        listener: Listener,
        clock: Clock,
        backoff: Backoff,
        on_identify: Callable[[], None],
        members_intent: bool,
    ) -> None:
        super().__init__(
            # Without shards as it always was: other servers that speak Discord's protocol may not know them.
            shard_id=shard.number if shard.total > 1 else None,
            shard_count=shard.total if shard.total > 1 else None,
            intents=intents(members=members_intent),
            max_messages=None,
            member_cache_flags=discord.MemberCacheFlags.none(),
            chunk_guilds_at_startup=False,
        )
        self._shard = shard
        self._listener = listener
        self._clock = clock
        self._backoff = backoff
        self._on_identify = on_identify
        self._connected = False
        # The library's table of parsers is the one place where events are still in order, and where the failure of a
        # parser can be kept from ending the connection.
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
                    self._became_connected()
                    self._listener.session_started(self, self._shard)
                case "RESUMED":
                    self._became_connected()
                    self._listener.session_resumed(self._shard)
            self._listener.dispatched(event, data)
        except Exception as error:
            if event == "READY":
                raise
            # Without the traceback, which may quote what people wrote.
            _log.error("discord dispatch not understood", dispatch=event, error=type(error).__name__)

    def _check_sequence(self, event: str) -> None:
        sequence = self.ws.sequence or 0
        if event != "READY" and sequence > self._sequence + 1:
            missing = sequence - self._sequence - 1
            _log.warning("discord dispatch lost", **self._shard.label(), dispatch=event, missing=missing)
            self._listener.dispatch_lost(self._shard)
        self._sequence = sequence if event == "READY" else max(sequence, self._sequence)

    def _became_connected(self) -> None:
        self._connected = True
        self._backoff.reset()

    async def login(self, token: str) -> None:
        """Ask for the bot's user. The library would also ask for the application, which READY tells anyway."""
        await self._async_setup_hook()
        me: Any = await self.http.static_login(token.strip())
        if isinstance(me, str):
            # Where the Content-Type has a charset, the library returns the JSON as text.
            me = json.loads(me)
        ready = {"user": dict(me)}
        fill_in_defaults("READY", ready, str(me["id"]))
        self._connection.user = discord.ClientUser(state=self._connection, data=cast(Any, ready["user"]))

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Only note the time. The library would wait here, with the connection already open."""
        self._on_identify()

    async def connect(self, *, reconnect: bool = True) -> NoReturn:
        """Connect, and resume for as long as Discord knows the session.

        Raises `SessionLost`, and `discord.ConnectionClosed` for the close codes that are final.
        """
        session: dict[str, Any] = {}
        failures = brief = 0
        while True:
            began = self._clock.monotonic()
            reason, lost = await self._run_connection(session)
            self._listener.disconnected(self._shard, reason)
            failures = 0 if self._connected else failures + 1
            brief = brief + 1 if self._clock.monotonic() - began < _BRIEF else 0
            session = self._resume_data() or session
            if lost or not session or failures >= _RESUME_TRIES:
                raise SessionLost(reason)
            if failures or brief > 1:
                await self._clock.sleep(self._backoff.next())

    async def _run_connection(self, session: dict[str, Any]) -> tuple[str, bool]:
        """Run one connection until it ends. Returns why it ended, and whether the session ended with it."""
        self._connected = False
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                self.ws = await _WebSocket.from_client(self, initial=not session, shard_id=self.shard_id, **session)
            if not await self._becomes_ready():
                return "Discord did not confirm the session", False
            while True:
                await self.ws.poll_event()
        except ReconnectWebSocket as error:
            if error.resume:
                return "Discord asked to reconnect", False
            return "Discord no longer knows the session", True
        except discord.ConnectionClosed:
            raise
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            return f"the connection broke ({cause_of(error)})", False

    async def _becomes_ready(self) -> bool:
        """Read until READY or RESUMED. Where it was lost, nothing would ever start: close the connection, say False."""
        waiting = asyncio.timeout(_READY_TIMEOUT)
        try:
            async with waiting:
                while not self._connected:
                    await self.ws.poll_event()
        except TimeoutError:
            if not waiting.expired():
                raise
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self.ws.close()
            return False
        return True

    def _resume_data(self) -> dict[str, Any]:
        # None until the first connection is open, although it is annotated otherwise.
        ws: DiscordWebSocket | None = self.ws
        if ws is None or ws.session_id is None:
            return {}
        return {"resume": True, "session": ws.session_id, "sequence": ws.sequence, "gateway": ws.gateway}


async def _close(client: discord.Client) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await client.close()
    except TimeoutError:
        # The library would wait half a minute for the server to close the connection.
        await client.http.close()


@dataclass(slots=True, eq=False)
class _Turn:
    """Taken by one shard after the other, to IDENTIFY. Each `max_concurrency`th has the same one."""

    free: asyncio.Lock = field(default_factory=asyncio.Lock)
    # On the monotonic clock.
    may_identify_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Advice:
    """What Discord says about connecting."""

    url: str
    shards: int
    # How many of them may IDENTIFY at a time.
    at_once: int


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Gateway:
    """Keeps a session running for each shard: starts a new one whenever the last has ended.

    There are as many shards as Discord recommends at the start. When it refuses one for having too many servers, all
    begin anew, with as many as it recommends then.
    """

    token: str = field(repr=False)
    api_url: str
    # Whether Discord is asked to tell who leaves.
    members_intent: bool = False
    rest: RestClient
    clock: Clock
    rng: random.Random
    _turns: dict[int, _Turn] = field(init=False, default_factory=dict)
    _identify_pause: float = field(init=False, default=_IDENTIFY_EVERY)
    # What Discord said just now, until a session begins with it.
    _advice: _Advice | None = field(init=False, default=None)

    async def run(self, listener: Listener) -> NoReturn:
        """Stay connected until cancelled. Raises `FatalError`."""
        refused: _MoreShards | None = None
        total = 0
        while True:
            self._advice = advice = await self._first_advice(listener)
            if refused is not None and advice.shards <= total:
                raise refused
            total = advice.shards
            if total > 1:
                _log.info("discord connects in shards", shards=total)
            listener.divided(total)
            try:
                with ungrouped(FatalError):
                    async with asyncio.TaskGroup() as group:
                        for number in range(total):
                            shard = Shard(number, total)
                            group.create_task(self._run_shard(listener, shard, advice.at_once), name=f"discord {shard}")
            except _MoreShards as error:
                refused = error

    async def _first_advice(self, listener: Listener) -> _Advice:
        backoff = self._new_backoff()
        while True:
            try:
                async with self._explained():
                    return await self._ask(listener, Shard())
            except SessionLost as error:
                await self._pause(listener, Shard(), backoff, str(error))

    async def _run_shard(self, listener: Listener, shard: Shard, at_once: int) -> NoReturn:
        backoff = self._new_backoff()
        turn = self._turns.setdefault(shard.number % at_once, _Turn())
        while True:
            try:
                async with self._explained():
                    await self._run_session(listener, shard, turn, backoff)
                reason = "the connection ended"
            except SessionLost as error:
                reason = str(error)
            await self._pause(listener, shard, backoff, reason)

    def _new_backoff(self) -> Backoff:
        return Backoff(self.rng, first=1.0, longest=30.0)

    async def _pause(self, listener: Listener, shard: Shard, backoff: Backoff, reason: str) -> None:
        listener.disconnected(shard, reason)
        wait, tries = backoff.next(), backoff.tries
        _log.warning("discord session ended", **shard.label(), reason=reason, next_try_in=round(wait, 1), tries=tries)
        await self.clock.sleep(wait)

    async def _run_session(self, listener: Listener, shard: Shard, turn: _Turn, backoff: Backoff) -> None:
        """Run one session until it ends. May raise anything."""
        async with self._turn_taken(turn) as identified:
            advice, self._advice = self._advice or await self._ask(listener, shard), None
            self._point_library_at(advice.url)
            client = _Client(
                shard=shard,
                listener=listener,
                clock=self.clock,
                backoff=backoff,
                on_identify=identified,
                members_intent=self.members_intent,
            )
            try:
                await client.start(self.token)
            finally:
                await _close(client)

    @asynccontextmanager
    async def _turn_taken(self, turn: _Turn) -> AsyncIterator[Callable[[], None]]:
        """Wait for the turn. It is the next one's when what is yielded is called, after IDENTIFY, or when this ends."""
        await turn.free.acquire()
        is_ours = True

        def give_back() -> None:
            nonlocal is_ours
            if is_ours:
                is_ours = False
                turn.free.release()

        def identified() -> None:
            turn.may_identify_at = self.clock.monotonic() + self._identify_pause
            give_back()

        try:
            await self.clock.sleep(max(0.0, turn.may_identify_at - self.clock.monotonic()))
            yield identified
        finally:
            give_back()

    @asynccontextmanager
    async def _explained(self) -> AsyncIterator[None]:
        """Whatever goes wrong becomes a `SessionLost` that says what it was, or a `FatalError`."""
        try:
            yield
        except (SessionLost, FatalError):
            raise
        except Limited as error:
            await self.clock.sleep(error.retry_after)
            raise SessionLost(str(error)) from None
        except discord.LoginFailure:
            raise await self._token_refused() from None
        except discord.ConnectionClosed as error:
            if error.code in _FATAL_CLOSES:
                raise fatal_close(error.code, self.rest) from None
            raise SessionLost(f"the gateway closed with code {error.code}") from None
        except ApiError as error:
            if isinstance(error, Refused) and error.status == 401:
                raise await self._token_refused() from None
            raise SessionLost(f"Discord answered {error}" if isinstance(error, Refused) else str(error)) from None
        except (discord.DiscordException, aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SessionLost(f"Discord cannot be reached ({cause_of(error)})") from None
        except Exception as error:  # noqa: BLE001 - the top of the supervised work
            # A bug in the library must not end the daemon. The next session starts afresh.
            _log.exception("discord session failed", error)
            raise SessionLost(f"the connection failed ({type(error).__name__})") from None

    async def _token_refused(self) -> SessionLost:
        await check_token(self.rest)
        return SessionLost("Discord refused the token once")

    async def _ask(self, listener: Listener, shard: Shard) -> _Advice:
        """Ask where to connect, and in how many shards. Waits while no more sessions may be started today."""
        while True:
            answer = await self.rest.call(Route("GET", "/gateway/bot", {}))
            limit = answer.get("session_start_limit") or {}
            self._identify_pause = identify_pause(limit)
            if limit.get("remaining", 1) > 0:
                # Other servers that speak Discord's protocol may leave these out.
                shards, at_once = answer.get("shards") or 1, limit.get("max_concurrency") or 1
                return _Advice(str(answer["url"]), max(1, int(shards)), max(1, int(at_once)))
            wait = max(1.0, limit.get("reset_after", 1000) / 1000)
            reason = f"no more sessions may be started for {wait:.0f} s (Discord's limit of IDENTIFYs in a day)"
            listener.disconnected(shard, reason)
            _log.error("discord session limit", **shard.label(), wait=round(wait))
            await self.clock.sleep(wait)

    def _point_library_at(self, gateway_url: str) -> None:
        # The library has these only as globals. Its own JSON parser fails on some payloads, which would end the
        # connection, and again with every RESUME, so ours is used.
        discord.utils._from_json = loads
        discord.http.Route.BASE = self.api_url.rstrip("/")
        DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(gateway_url)
