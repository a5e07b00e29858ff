"""Brings everybody who may read a channel into the one that it is paired with, where their accounts are to be there.

Slowly, and beside everything else. Nothing is written down of how far it is: who is there already is known to the
adapter, so that a restart, or the next round, goes through the list again and passes them by.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from relay.core.pairs import PairDirectory
from relay.core.people.directory import PeopleDirectory
from relay.core.ports import Clock, MemberLister, MemberMirror
from relay.domain.ids import ChannelRef, Platform
from relay.domain.pair import LaneKey
from relay.errors import DeliveryError, StoreUnavailable

_log = structlog.get_logger(__name__)

_LOOK_EVERY = 5.0
"""Seconds after which it is looked whether there are other pairs."""

_AGAIN_AFTER = 6 * 3600.0
_AFTER_TROUBLE = 300.0


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Memberships:
    """One task for each lane whose people are to be on its other side."""

    pairs: PairDirectory
    people: PeopleDirectory
    clock: Clock
    listers: Mapping[Platform, MemberLister]
    mirrors: Mapping[Platform, MemberMirror]

    async def run(self) -> None:
        """Work until cancelled."""
        tasks: dict[LaneKey, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                wanted = self._wanted()
                for gone in tasks.keys() - wanted:
                    tasks.pop(gone).cancel()
                for lane in wanted - tasks.keys():
                    tasks[lane] = group.create_task(self._keep(lane), name=f"members of {lane.source.id}")
                await self.clock.sleep(_LOOK_EVERY)

    def _wanted(self) -> set[LaneKey]:
        lanes = {lane for pair in self.pairs.pairs for lane in self.pairs.lanes(pair) if lane.crosses}
        return {
            lane
            for lane in lanes
            if self.pairs.carries(lane)
            and lane.source.platform in self.listers
            and (mirror := self.mirrors.get(lane.destination.platform)) is not None
            and mirror.wants_everybody(lane.destination)
            and self.pairs.is_open(lane)
            and self.pairs.is_open(lane.back)
        }

    async def _keep(self, lane: LaneKey) -> None:
        while True:
            try:
                added = await self._round(lane.source, lane.destination)
            except (DeliveryError, StoreUnavailable) as error:
                _log.warning("not everybody is on the other side yet", channel=lane.destination.id, reason=str(error))
                await self.clock.sleep(_AFTER_TROUBLE)
                continue
            except Exception:  # noqa: BLE001 - the top of this worker
                _log.exception("bug while bringing people to the other side", channel=lane.destination.id)
                await self.clock.sleep(_AFTER_TROUBLE)
                continue
            _log.info("everybody is on the other side", channel=lane.destination.id, came=added)
            await self.clock.sleep(_AGAIN_AFTER)

    async def _round(self, source: ChannelRef, destination: ChannelRef) -> int:
        mirror, added = self.mirrors[destination.platform], 0
        async for page in self.listers[source.platform].members(source):
            for author in page:
                if author.is_self or author.is_bot or (await self.people.of(author.user)).has_opted_out:
                    continue
                added += await mirror.add_member(destination, author)
        return added
