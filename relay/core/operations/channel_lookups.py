"""What people know channels by that are listed in the directory of rooms and not mirrored.

Of channels that are mirrored, `core.status` knows that. Here the adapters ask for it now and then, and it is kept for
when no daemon runs.
"""

import asyncio
import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from relay.core.clock import wait_at_most
from relay.core.pairs import PairDirectory
from relay.core.ports import ChannelInfo, ChannelLookup, Clock
from relay.core.status.reading import read_channels, read_info
from relay.core.status.report import CHANNELS_KEY
from relay.core.storage import Store
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.jsontext import as_list
from relay.errors import StoreUnavailable, Transient
from relay.logs import get_logger

_log = get_logger(__name__)

# Of the store's key-value table.
_KEY = "channel lookups"
# Seconds between two looks at whether there is something to ask for; until a channel is asked for again; and until then
# where nobody could be asked.
_PAUSE, _AGAIN, _AGAIN_AFTER_FAILURE = 5.0, 3600.0, 30.0


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class ChannelLookups:
    """Looks channels up for as long as it runs."""

    store: Store
    clock: Clock
    adapters: Mapping[Platform, ChannelLookup]
    # The channels that are to be looked up now.
    wanted: Callable[[], Iterable[ChannelAddress]]
    # Set when those are others.
    changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # The latest of each channel.
    known: dict[ChannelAddress, ChannelInfo] = field(init=False, default_factory=dict)
    # When a channel is asked for again, on the monotonic clock.
    _again_at: dict[ChannelAddress, float] = field(init=False, default_factory=dict)

    async def run(self) -> None:
        """Work until cancelled. Writes to the store only what has changed."""
        saved: Mapping[ChannelAddress, ChannelInfo] | None = None
        while True:
            pause = _PAUSE
            self.changed.clear()
            try:
                if saved is None:
                    async with self.store.look() as uow:
                        saved = _read(await uow.key_values.get(_KEY))
                    self.known = {**saved, **self.known}
                await self.look()
                if self.known != saved:
                    async with self.store.write() as uow:
                        await uow.key_values.put(_KEY, _as_text(self.known))
                    saved = dict(self.known)
                pause = max(_PAUSE, min(self._again_at.values(), default=math.inf) - self.clock.monotonic())
            except StoreUnavailable as error:
                _log.warning("what is known of the rooms was not saved", reason=error.reason)
            except Exception:  # noqa: BLE001 - the top of a worker: it is logged, and the daemon goes on
                _log.exception("the directory of rooms stays as it is for now")
            await wait_at_most(self.changed, min(pause, _AGAIN))

    async def look(self) -> None:
        """Ask for what has not been asked for lately, and forget what is not wanted any more."""
        wanted = frozenset(address for address in self.wanted() if address.platform in self.adapters)
        self.known = {address: info for address, info in self.known.items() if address in wanted}
        self._again_at = {address: at for address, at in self._again_at.items() if address in wanted}
        for address in sorted(wanted):
            if self.clock.monotonic() < self._again_at.get(address, 0.0):
                continue
            pause = _AGAIN
            try:
                if (info := await self.adapters[address.platform].look_up(address)) is not None:
                    self.known[address] = info
            except Transient as error:
                pause = _AGAIN_AFTER_FAILURE
                _log.debug("a room could not be looked up", room=address.value, reason=str(error))
            self._again_at[address] = self.clock.monotonic() + pause


def known_channels(
    pairs: PairDirectory,
    mirrored: Mapping[ChannelRef, ChannelInfo],
    looked_up: Mapping[ChannelAddress, ChannelInfo],
) -> dict[ChannelAddress, ChannelInfo]:
    """What every declared address is known by."""
    sides = (side for pair in pairs.pairs for side in pair.sides)
    seen = {side: mirrored[channel] for side in sides if (channel := pairs.channel(side)) in mirrored}
    return {**looked_up, **seen}


async def read_known_channels(store: Store, pairs: PairDirectory) -> dict[ChannelAddress, ChannelInfo]:
    """As `known_channels`, from what the daemon saved last. Raises `StoreUnavailable`."""
    async with store.read() as uow:
        mirrored = read_channels(await uow.key_values.get(CHANNELS_KEY))
        looked_up = _read(await uow.key_values.get(_KEY))
        pairs.remember(await uow.channels.known())
    return known_channels(pairs, mirrored, looked_up)


def _read(text: str | None) -> dict[ChannelAddress, ChannelInfo]:
    """What cannot be read is left out: it is looked up again."""
    try:
        rows = json.loads(text or "[]")
    except (ValueError, RecursionError):
        rows = []
    found = {}
    for row in as_list(rows):
        with suppress(TypeError, ValueError, KeyError):
            found[ChannelAddress(Platform(row["platform"]), str(row["address"]))] = read_info(row)
    return found


def _as_text(known: Mapping[ChannelAddress, ChannelInfo]) -> str:
    rows = [
        {"platform": address.platform, "address": address.value, **asdict(info)}
        for address, info in sorted(known.items(), key=lambda item: item[0])
    ]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
