"""What goes wrong while people write, by seed. Every trouble ends by itself and puts right what it did."""

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

from relay.demo.matrix_client import MatrixError
from relay.sandbox.gateway.handshake import FATAL
from tests.chaos.operator import Operator
from tests.chaos.proxy import Fault, Proxy
from tests.chaos.sides import insist
from tests.support.stack import FullStack, eventually

# Discord's close codes after which a client may come back, and those of WebSockets themselves:
# https://discord.com/developers/docs/topics/opcodes-and-status-codes#gateway-gateway-close-event-codes
CLOSE_CODES = (1000, 1001, 1006, 1011, 1012, 4000, 4001, 4002, 4003, 4005, 4006, 4007, 4008, 4009)
_SENDS = "/(send|redact)/"
_PERMISSIONS = ("VIEW_CHANNEL", "SEND_MESSAGES", "MANAGE_WEBHOOKS", "READ_MESSAGE_HISTORY", "MANAGE_MESSAGES")
_CONNECTING = 8.0
_TIMEOUT = 33.0  # longer than the daemon waits for any answer
_WRITES = r"^/(webhooks|channels)/.*"


class Trouble:
    """All kinds of trouble. `counts` says how often each struck.

    `freeze` stops the daemon's process for some seconds; `webhook_deleted` is told in which pair that happened;
    `operator` changes the pairs in the file.
    """

    def __init__(
        self,
        *,
        stack: FullStack,
        proxy: Proxy,
        rng: random.Random,
        trace: Callable[[str], None],
        freeze: Callable[[float], Awaitable[None]],
        webhook_deleted: Callable[[str], None],
        operator: Operator,
    ) -> None:
        self._stack = stack
        self._control = stack.control
        self._proxy = proxy
        self._homeserver = stack.homeserver
        self._rng = rng
        self._trace = trace
        self._freeze = freeze
        self._codes = itertools.cycle(rng.sample(CLOSE_CODES, len(CLOSE_CODES)))
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.counts: Counter[str] = Counter()
        self._webhook_deleted = webhook_deleted
        self._operator = operator

    async def run(self, names: tuple[str, ...], over: asyncio.Event, slower: float = 1.0) -> None:
        """One trouble after the other, often several at once, until `over`; ends when the last has been put right.

        `slower`: how many times more rarely than by default.
        """
        async with asyncio.TaskGroup() as group:
            for name in self._deck(names):
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), slower * self._rng.uniform(0.5, 3.0))
                if over.is_set():
                    return
                self._trace(f"TROUBLE {name}")
                group.create_task(_BY_NAME[name](self), name=f"trouble {name}")

    async def end(self) -> None:
        """All is well again, whatever was."""
        self._control.clear_faults()
        self._proxy.clear()
        await self._homeserver.start()
        for pair in self._stack.channels:
            self._control.set_channel_permissions(self._stack.channels[pair], self._stack.bot)
        counted = {name.replace("_", " "): count for name, count in self._control.faults()["fired"].items() if count}
        self.counts.update(counted)
        self.counts.update(self._proxy.fired)

    def _deck(self, names: tuple[str, ...]) -> Iterator[str]:
        """All kinds, shuffled, again and again: none is left out for long."""
        while names:
            yield from self._rng.sample(names, len(names))

    def _pair(self) -> str:
        return self._rng.choice(tuple(self._stack.channels))

    async def _a_while(self, most: float = 4.0) -> None:
        await asyncio.sleep(self._rng.uniform(0.3, most))

    # --- Discord ------------------------------------------------------------------------------------------

    def _arm(self, kind: str, **options: object) -> None:
        path = self._rng.choice((_WRITES, _WRITES, _WRITES, ""))
        self._control.add_fault(kind, path=path, skip=self._rng.choice((0, 0, 1, 3)), **options)

    async def discord_errors(self) -> None:
        when = self._rng.choice(("before", "after", "after"))
        status = self._rng.choice((500, 502, 503))
        self._arm("status", status=status, when=when, count=self._rng.choice((1, 1, 2, 5)))

    async def discord_limits(self) -> None:
        scope = self._rng.choice(("user", "global", "shared"))
        self._arm("rate_limit", scope=scope, seconds=self._rng.uniform(0.2, 3), count=self._rng.choice((1, 1, 3)))

    async def discord_hangs(self) -> None:
        seconds = self._rng.choice((0.5, 1.0, 2.0))
        self._arm("hang", seconds=seconds, when=self._rng.choice(("before", "after")))

    async def discord_timeouts(self) -> None:
        # One lane waits as long as it ever does; the others have to go on.
        self._control.add_fault("hang", path=_WRITES, seconds=_TIMEOUT, when=self._rng.choice(("before", "after")))

    async def discord_garbage(self) -> None:
        self._arm(self._rng.choice(("malformed", "delay")), seconds=self._rng.uniform(0.2, 2))

    async def discord_files(self) -> None:
        kind = self._rng.choice(("status", "reset", "hang"))
        self._control.add_fault(kind, path="^/attachments/", status=503, seconds=1.0, count=self._rng.choice((1, 2)))

    async def discord_resets(self) -> None:
        self._arm("reset", when=self._rng.choice(("before", "after", "after")), count=self._rng.choice((1, 2)))

    async def discord_offline(self) -> None:
        self._control.go_offline()
        await self._a_while()
        self._control.go_offline(False)

    async def guild_outage(self) -> None:
        async with self._locks["guild"]:
            self._control.guild_outage(self._stack.guild)
            self.counts["guild outage"] += 1
            await self._a_while(2.5)
            self._control.guild_outage(self._stack.guild, down=False)

    async def gateway_close(self) -> None:
        if not await self._connected():
            return
        code = next(self._codes)
        assert code not in FATAL - {4006, 4007, 4009}
        if code == 1006:  # the code for a stream that just ends: it is never sent
            self._control.abort_gateway()
        else:
            self._control.close_gateway(code)

    async def _connected(self) -> bool:
        """Wait a while for the daemon to be on the gateway; whether it is."""

        async def look() -> bool:
            return self._control.connected(self._stack.bot)

        with suppress(TimeoutError):
            async with asyncio.timeout(_CONNECTING):
                return await eventually(look, bool)
        return False

    async def gateway_reconnect(self) -> None:
        await self._connected()
        self._control.ask_reconnect()
        if self._rng.random() < 0.5:
            self._control.refuse_gateway(self._rng.randint(1, 3))

    async def gateway_sessions(self) -> None:
        await self._connected()
        resumable = self._rng.random() < 0.4
        self.counts[f"op 9, {'resumable' if resumable else 'final'}"] += self._control.invalidate_sessions(resumable)

    async def gateway_dispatches(self) -> None:
        kind = self._rng.choice(("delay", "duplicate", "drop", "reorder"))
        event = self._rng.choice(("MESSAGE_CREATE", "MESSAGE_CREATE", "MESSAGE_UPDATE", "MESSAGE_DELETE", ""))
        self._control.add_gateway_fault(kind, event=event, count=self._rng.randint(1, 3))

    async def gateway_unparseable(self) -> None:
        self._control.send_unparseable(self._rng.choice(("MESSAGE_CREATE", "GUILD_CREATE", "CHANNEL_UPDATE")))

    async def gateway_silent(self) -> None:
        self._control.acknowledge_heartbeats(False)
        self.counts["heartbeats unanswered"] += 1
        await asyncio.sleep(self._stack.sandbox.gateway.heartbeat_interval * 2.5)
        self._control.acknowledge_heartbeats(True)

    async def webhook_deleted(self) -> None:
        pair = self._pair()
        for hook in self._control.webhooks(self._stack.channels[pair]):
            self._control.delete_webhook(hook["id"])
            self._webhook_deleted(pair)
            self.counts["webhook deleted"] += 1

    async def discord_permissions(self) -> None:
        pair = self._pair()
        async with self._locks[f"channel {pair}"]:
            taken = self._rng.choice(_PERMISSIONS)
            self.counts[f"{taken} taken away"] += 1
            self._control.set_channel_permissions(self._stack.channels[pair], self._stack.bot, deny=[taken])
            await self._a_while()
            self._control.set_channel_permissions(self._stack.channels[pair], self._stack.bot)

    async def discord_kick(self) -> None:
        async with self._locks["guild"]:
            self._control.kick(self._stack.guild, self._stack.bot)
            self.counts["bot thrown out"] += 1
            await self._a_while(2.5)
            self._control.invite(self._stack.bot, self._stack.guild)

    # --- Matrix -------------------------------------------------------------------------------------------

    def _arm_proxy(self, failure: str, *, after: bool = False, count: int = 1, **options: object) -> None:
        path = self._rng.choice((_SENDS, _SENDS, _SENDS, "/sync", ""))
        self._proxy.arm(Fault(failure, path, after, count, **options))  # type: ignore[arg-type]

    async def matrix_errors(self) -> None:
        after = self._rng.random() < 0.6
        status = self._rng.choice((500, 502, 503))
        self._arm_proxy("status", after=after, count=self._rng.choice((1, 1, 2, 5)), status=status)

    async def matrix_limits(self) -> None:
        self._arm_proxy("rate_limit", count=self._rng.choice((1, 1, 3)), seconds=self._rng.uniform(0.2, 3))

    async def matrix_hangs(self) -> None:
        self._arm_proxy("hang", after=self._rng.random() < 0.5, seconds=self._rng.choice((0.5, 1.0, 2.0)))

    async def matrix_timeouts(self) -> None:
        self._proxy.arm(Fault("hang", _SENDS, after=self._rng.random() < 0.5, count=1, seconds=_TIMEOUT))

    async def matrix_files(self) -> None:
        failure, after = self._rng.choice(("status", "reset", "hang", "rate_limit")), self._rng.random() < 0.5
        self._proxy.arm(Fault(failure, "/media/", after, self._rng.choice((1, 2))))  # type: ignore[arg-type]

    async def matrix_resets(self) -> None:
        self._arm_proxy("reset", after=self._rng.random() < 0.6, count=self._rng.choice((1, 2)))

    async def matrix_power(self) -> None:
        pair = self._pair()
        async with self._locks[f"room {pair}"]:
            self.counts["power taken away"] += 1
            await insist(lambda: self._stack.mia.set_power(self._stack.rooms[pair], events_default=50))
            await self._a_while()
            await insist(lambda: self._stack.mia.set_power(self._stack.rooms[pair], events_default=0))

    async def matrix_kick(self) -> None:
        pair = self._pair()
        async with self._locks[f"room {pair}"]:
            self.counts["kicked from a room"] += 1
            await self._out(pair)
            await self._a_while()
            await self.let_in(pair)

    async def matrix_ban(self) -> None:
        pair = self._pair()
        room, relay = self._stack.rooms[pair], self._stack.relay_user
        async with self._locks[f"room {pair}"]:
            self.counts["banned from a room"] += 1
            await insist(lambda: self._stack.mia.ban(room, relay))
            await self._a_while()
            with suppress(MatrixError):  # it was carried out at once, and the answer was lost
                await insist(lambda: self._stack.mia.unban(room, relay))
            await self.let_in(pair)

    async def _out(self, pair: str) -> None:
        room, relay = self._stack.rooms[pair], self._stack.relay_user
        with suppress(MatrixError):  # it is out already
            await insist(lambda: self._stack.mia.kick(room, relay))

    async def let_in(self, pair: str) -> None:
        """Invite the relay; it may have come back by itself."""
        room, relay = self._stack.rooms[pair], self._stack.relay_user
        with suppress(MatrixError):  # it is in already
            await insist(lambda: self._stack.mia.invite(room, relay))

    async def homeserver_stop(self) -> None:
        await self._without_homeserver(self._homeserver.stop, "homeserver stopped")

    async def homeserver_kill(self) -> None:
        await self._without_homeserver(self._homeserver.kill, "homeserver killed")

    async def _without_homeserver(self, end: Callable[[], Awaitable[None]], what: str) -> None:
        # One that is still coming back is left alone, and then for as long as that took: where it comes back slowly, it
        # would be there for nobody.
        if self._locks["homeserver"].locked():
            return
        async with self._locks["homeserver"]:
            self.counts[what] += 1
            await end()
            await self._a_while(3.0)
            began = asyncio.get_running_loop().time()
            await self._homeserver.start()
            await asyncio.sleep(asyncio.get_running_loop().time() - began)

    # --- The daemon itself --------------------------------------------------------------------------------

    async def frozen(self) -> None:
        async with self._locks["daemon"]:
            self.counts["daemon frozen"] += 1
            await self._freeze(self._rng.uniform(0.5, 3.0))

    # --- The operator -------------------------------------------------------------------------------------

    async def pair_names(self) -> None:
        async with self._locks["file"]:
            self._operator.swap_names(self._rng)
            self.counts["pair names swapped"] += 1

    async def pair_rooms(self) -> None:
        if not self._locks["file"].locked():
            async with self._locks["file"]:
                self.counts["pair rooms swapped"] += await self._operator.swap_rooms(self._rng)

    async def pair_gone(self) -> None:
        if not self._locks["file"].locked():
            async with self._locks["file"]:
                self.counts["pair taken out"] += await self._operator.take_out(self._rng, self._a_while)


_BY_NAME: dict[str, Callable[[Trouble], Coroutine[Any, Any, None]]] = {
    "discord-errors": Trouble.discord_errors,
    "discord-limits": Trouble.discord_limits,
    "discord-hangs": Trouble.discord_hangs,
    "discord-timeouts": Trouble.discord_timeouts,
    "discord-resets": Trouble.discord_resets,
    "discord-garbage": Trouble.discord_garbage,
    "discord-files": Trouble.discord_files,
    "discord-offline": Trouble.discord_offline,
    "guild-outage": Trouble.guild_outage,
    "gateway-close": Trouble.gateway_close,
    "gateway-reconnect": Trouble.gateway_reconnect,
    "gateway-sessions": Trouble.gateway_sessions,
    "gateway-dispatches": Trouble.gateway_dispatches,
    "gateway-unparseable": Trouble.gateway_unparseable,
    "gateway-silent": Trouble.gateway_silent,
    "webhooks": Trouble.webhook_deleted,
    "discord-permissions": Trouble.discord_permissions,
    "discord-kick": Trouble.discord_kick,
    "matrix-errors": Trouble.matrix_errors,
    "matrix-limits": Trouble.matrix_limits,
    "matrix-hangs": Trouble.matrix_hangs,
    "matrix-timeouts": Trouble.matrix_timeouts,
    "matrix-resets": Trouble.matrix_resets,
    "matrix-files": Trouble.matrix_files,
    "matrix-power": Trouble.matrix_power,
    "matrix-kick": Trouble.matrix_kick,
    "matrix-ban": Trouble.matrix_ban,
    "homeserver-stop": Trouble.homeserver_stop,
    "homeserver-kill": Trouble.homeserver_kill,
    "freeze": Trouble.frozen,
    "pair-names": Trouble.pair_names,
    "pair-rooms": Trouble.pair_rooms,
    "pair-gone": Trouble.pair_gone,
}
KINDS = tuple(_BY_NAME)
"""What `--faults` knows."""
SLOW = frozenset({"discord-timeouts", "matrix-timeouts"})
"""What takes half a minute, and so is left out of short runs."""
