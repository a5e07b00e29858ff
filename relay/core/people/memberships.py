"""Brings everybody who may read a channel into the one that it is paired with, where their accounts are to be there;
and takes those out who left while nobody told of it, because the relay was away.

Slowly, and beside everything else. Nothing is written down of how far it is: who is there already is known to the
adapter, so that a restart, or the next round, goes through the list again and passes them by.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from relay.core.pairs import PairDirectory
from relay.core.people.directory import PeopleDirectory
from relay.core.people.ports import DepartureFinder, MemberLister, MemberMirror
from relay.core.ports import Clock, EventBatch
from relay.domain.events import MemberLeft
from relay.domain.ids import ChannelRef, Platform
from relay.domain.pair import LaneKey
from relay.errors import DeliveryError, StoreUnavailable
from relay.logs import get_logger

_log = get_logger(__name__)

_PAUSE, _LOOK_EVERY = 5.0, 60.0
"""Seconds after which it is looked whether others are to be kept in step: if a pair has changed, and if none has."""

_AGAIN_AFTER = 6 * 3600.0
_AFTER_TROUBLE = 300.0


# What is kept in step for a lane.
_Task = tuple[LaneKey, Literal["those who come", "those who leave"]]


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Memberships:
    """One task for each lane whose people have, or are to have, accounts on its other side."""

    pairs: PairDirectory
    people: PeopleDirectory
    clock: Clock
    listers: Mapping[Platform, MemberLister]
    mirrors: Mapping[Platform, MemberMirror]
    departures: Mapping[Platform, DepartureFinder]
    # Takes what somebody else would have told of: accounts leave behind what their people said last.
    receive: Callable[[EventBatch], Awaitable[None]]

    async def run(self) -> None:
        """Work until cancelled."""
        tasks: dict[_Task, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                seen, wanted = self.pairs.changes, self._wanted()
                for gone in tasks.keys() - wanted:
                    tasks.pop(gone).cancel()
                for task in wanted - tasks.keys():
                    tasks[task] = group.create_task(self._keep(*task), name=f"{task[1]} of {task[0].source.id}")
                await self.clock.sleep(_PAUSE)
                if self.pairs.changes == seen:
                    await self.pairs.changed.wait(self.clock, _LOOK_EVERY)

    def _wanted(self) -> set[_Task]:
        wanted: set[_Task] = set()
        lanes = {lane for pair in self.pairs.pairs for lane in self.pairs.lanes(pair) if lane.crosses}
        for lane in lanes:
            mirror, source = self.mirrors.get(lane.destination.platform), lane.source.platform
            is_open = self.pairs.is_open(lane) and self.pairs.is_open(lane.back)
            if mirror is None or not is_open or not self.pairs.carries(lane):
                continue
            if source in self.listers and mirror.wants_everybody(lane.destination):
                wanted.add((lane, "those who come"))
            if source in self.departures:
                wanted.add((lane, "those who leave"))
        return wanted

    async def _keep(self, lane: LaneKey, who: Literal["those who come", "those who leave"]) -> None:
        channel, tries = lane.destination.id, 0
        while True:
            tries += 1
            try:
                if who == "those who come":
                    await self._round(lane.source, lane.destination)
                else:
                    await self._remove_departed(lane.source, lane.destination)
            except (DeliveryError, StoreUnavailable) as error:
                reason = str(error)
                _log.warning("not everybody is where they should be yet", channel=channel, reason=reason, tries=tries)
                await self.clock.sleep(_AFTER_TROUBLE)
                continue
            except Exception:  # noqa: BLE001 - the top of this worker
                _log.exception("bug while keeping people in step", channel=channel, tries=tries)
                await self.clock.sleep(_AFTER_TROUBLE)
                continue
            tries = 0
            await self.clock.sleep(_AGAIN_AFTER)

    async def _remove_departed(self, source: ChannelRef, destination: ChannelRef) -> None:
        people = await self.mirrors[destination.platform].members_of(destination)
        people = frozenset(one for one in people if one.platform is source.platform)
        departed = await self.departures[source.platform].departed(source, people)
        if departed:
            _log.info("people have left meanwhile", channel=source.id, people=len(departed))
            await self.receive(EventBatch(tuple(MemberLeft((source,), one) for one in sorted(departed))))

    async def _round(self, source: ChannelRef, destination: ChannelRef) -> None:
        mirror, added = self.mirrors[destination.platform], 0
        async for page in self.listers[source.platform].members(source):
            for author in page:
                if author.is_self or author.is_bot or (await self.people.of(author.user)).has_opted_out:
                    continue
                added += await mirror.add_member(destination, author)
        _log.info("everybody is on the other side", channel=destination.id, came=added)
