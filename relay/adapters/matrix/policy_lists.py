"""Moderation policy lists: rooms whose state holds rules about accounts and servers.

https://spec.matrix.org/latest/client-server-api/#moderation-policy-lists. They are read by a sync of their own, so that
no list, however large or hostile, holds up the rooms that are mirrored. A list is only read: nobody is banned because
of it, and an upgrade of its room is not followed, since another room may have other owners.
"""

import asyncio
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.adapters.matrix.rooms.state import TOMBSTONE
from relay.core.clock import Backoff, wait_at_most
from relay.core.ports import Clock, EventBatch
from relay.domain.events import PolicyListRead, PolicyRule
from relay.domain.ids import ChannelAddress
from relay.domain.jsontext import Json, as_dict, as_list, as_string
from relay.errors import StoreError
from relay.logs import get_logger

_log = get_logger(__name__)

_USER_RULES = ("m.policy.rule.user", "m.room.rule.user", "org.matrix.mjolnir.rule.user")
_SERVER_RULES = ("m.policy.rule.server", "m.room.rule.server", "org.matrix.mjolnir.rule.server")
"""The first of each is the specification's; Mjolnir and Draupnir wrote the others before, and old lists have them."""

_BANS = frozenset({"m.ban", "org.matrix.mjolnir.ban"})
"""What a rule may recommend. All else (`m.takedown`, `org.matrix.mjolnir.allow`) asks for what we do not do."""

_TYPES = (*_USER_RULES, *_SERVER_RULES, TOMBSTONE)
_PORT = re.compile(r":[0-9]{1,5}$")
_LONGEST_ENTITY, _LONGEST_REASON = 512, 100
_MOST_RULES = 20_000  # of one list
_LONG_POLL = 30.0
_GRACE = 15.0
_FIRST_TIMEOUT = 300.0
_JOIN_TIMEOUT = 180.0
_TRY_AGAIN = 300.0  # seconds until a list that could not be read is tried again
# Seconds between two changes of one list that are handed over, after the first; and for each of its rules.
_CHANGES_EVERY, _CHANGES_EVERY_PER_RULE = 10.0, 0.005
_STEP = 500  # events, after which whatever else is due comes


@dataclass(slots=True, eq=False)
class _List:
    """One list that is followed."""

    address: ChannelAddress
    # None: not joined yet, or not any more.
    room_id: str | None = None
    # By type and state key.
    rules: dict[tuple[str, str], PolicyRule] = field(default_factory=dict)
    # Why it cannot be read, a sentence.
    problem: str | None = None
    # When it is tried again, and from when on changes are handed over.
    try_at: float = 0.0
    hand_over_at: float = 0.0
    # All of it has been read since it was declared, so that what changes is enough.
    read: bool = False
    # It says something else than what was handed over.
    changed: bool = False
    replaced: bool = False

    def apply(self, event: Json) -> None:
        """Take in an event of the room."""
        kind, key = as_string(event.get("type")), event.get("state_key")
        if not isinstance(key, str):
            return
        if kind == TOMBSTONE:
            self.replaced = bool(as_dict(event.get("content")))
            return
        place, rule = (kind, key), rule_of(event)
        if rule == self.rules.get(place):
            return
        if rule is None:
            del self.rules[place]
        elif place in self.rules or len(self.rules) < _MOST_RULES:
            self.rules[place] = rule
        self.changed = True


def rule_of(event: Json) -> PolicyRule | None:
    """What a state event of a list says; None for one that was taken back, is none of ours, or makes no sense."""
    kind, content = event.get("type"), as_dict(event.get("content"))
    entity, advice = as_string(content.get("entity")), content.get("recommendation")
    if not entity or len(entity) > _LONGEST_ENTITY or not isinstance(advice, str) or advice not in _BANS:
        return None
    reason = "".join(it for it in as_string(content.get("reason"))[:_LONGEST_REASON] if it.isprintable())
    if kind in _USER_RULES:
        return PolicyRule("account", entity, reason)
    if kind in _SERVER_RULES:
        # As in a room's access list: ports do not count, and a name may be written in capitals.
        return PolicyRule("home", _PORT.sub("", entity).lower(), reason)
    return None


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class PolicyListFollower:
    """Joins the rooms of the lists, and tells the core what is in them."""

    api: Api
    clock: Clock
    rng: random.Random
    # Set once every list was read, or could not be.
    read_once: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _lists: dict[ChannelAddress, _List] = field(init=False, default_factory=dict)
    _redeclared: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # Of the sync, and the rooms that it covers.
    _since: str | None = field(init=False, default=None)
    _synced: frozenset[str] = field(init=False, default=frozenset())
    _filter: str = field(init=False, default="")

    @property
    def follows(self) -> bool:
        """Whether any lists are declared."""
        return bool(self._lists)

    def declare(self, addresses: frozenset[ChannelAddress]) -> None:
        """From now on these are the lists."""
        if addresses == self._lists.keys():
            return
        self._lists = {address: self._lists.get(address) or _List(address) for address in sorted(addresses)}
        self._redeclared.set()

    def problem(self, address: ChannelAddress) -> str | None:
        """Why a list cannot be read now, as a sentence with the remedy; None if it can."""
        found = self._lists.get(address)
        if found is None:
            return None
        if found.problem is None and found.replaced:
            return f"The policy list {address.value} has moved to another room: declare that one, if you trust it."
        return found.problem

    async def run(self, inbox: RetryingInbox) -> None:
        """Work until cancelled."""
        backoff = Backoff(self.rng, first=2.0, longest=60.0)
        while True:
            self._redeclared.clear()  # before looking, so that nothing that comes meanwhile is lost
            if not self._lists:
                await self._redeclared.wait()
                continue
            try:
                await self._step(inbox)
                backoff.reset()
                continue
            except StoreError:
                raise
            except (Refused, Unreachable) as error:
                if isinstance(error, Refused) and error.status == 400:
                    self._since, self._synced = None, frozenset()  # a position or a filter that it does not know
                _log.info("policy lists not read", reason=str(error), tries=backoff.tries + 1)
            except Exception:  # noqa: BLE001 - the top of this worker
                _log.exception("bug while reading policy lists", tries=backoff.tries + 1)
                self._since, self._synced = None, frozenset()
            self.read_once.set()
            await wait_at_most(self._redeclared, backoff.next())

    async def _step(self, inbox: RetryingInbox) -> None:
        """Join what is not joined yet, then one sync."""
        lists = tuple(self._lists.values())
        for one in lists:
            if one.room_id is None and one.try_at <= self.clock.monotonic():
                await self._join(one)
        rooms = frozenset(one.room_id for one in lists if one.room_id is not None)
        if rooms:
            await self._sync(rooms, lists)
        for one in lists:
            await self._hand_over(one, inbox)
        self.read_once.set()
        if not rooms:
            await wait_at_most(self._redeclared, _TRY_AGAIN)

    async def _join(self, one: _List) -> None:
        name = one.address.value
        servers = [name.partition(":")[2]] if ":" in name else []
        query: dict[str, str | list[str]] = {"via": servers, "server_name": servers} if servers else {}
        try:
            answer = await self.api.call("POST", "join", name, query=query, body={}, timeout=_JOIN_TIMEOUT)
        except Unreachable as error:
            one.problem = f"The policy list {name} could not be read yet: {error}."
            one.try_at = self.clock.monotonic() + _TRY_AGAIN
            return
        except Refused as refused:
            problem = join_problem(name, refused, self.api.user_id)
            if problem != one.problem:
                _log.warning("policy list cannot be read", list=name, reason=problem)
            one.problem = problem
            one.try_at = self.clock.monotonic() + max(_TRY_AGAIN, refused.retry_after or 0.0)
            return
        one.room_id, one.problem = as_string(answer.get("room_id")) or None, None

    async def _sync(self, rooms: frozenset[str], lists: Iterable[_List]) -> None:
        if rooms != self._synced:
            answer = await self.api.call("POST", "user", self.api.user_id, "filter", body=_filter(rooms))
            self._filter, self._since, self._synced = as_string(answer.get("filter_id")), None, rooms
        if not all(one.read for one in lists if one.room_id is not None):
            self._since = None  # also where the rooms are the same: a list that was taken out, and is followed again
        response = await self._ask(lists)
        if response is None:
            return
        found = as_dict(response.get("rooms"))
        joined, left = as_dict(found.get("join")), as_dict(found.get("leave"))
        for one in lists:
            if one.room_id in left:
                await self._left(one)
            elif one.room_id in joined or self._since is None:
                await self._read(one, as_dict(joined.get(one.room_id or "")), anew=self._since is None)
        self._since = as_string(response.get("next_batch")) or None

    async def _ask(self, lists: Iterable[_List]) -> Json | None:
        """One request; None if other lists were declared before it was answered."""
        now = self.clock.monotonic()
        due = [max(0.0, one.hand_over_at - now) for one in lists if one.changed]
        due += [max(0.0, one.try_at - now) for one in lists if one.room_id is None]
        wait = 0.0 if self._since is None else min([_LONG_POLL, *due])
        query: dict[str, str | list[str]] = {
            "filter": self._filter,
            "set_presence": "offline",
            "timeout": str(int(wait * 1000)),
        }
        query |= {"since": self._since} if self._since else {}
        timeout = _FIRST_TIMEOUT if self._since is None else wait + _GRACE
        asked = asyncio.create_task(
            self.api.call("GET", "sync", query=query, timeout=timeout), name="matrix policy lists"
        )
        changed = asyncio.create_task(self._redeclared.wait(), name="matrix policy lists changed")
        try:
            await asyncio.wait({asked, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            asked.cancel()
            await asyncio.wait({asked})
        return None if asked.cancelled() else asked.result()

    async def _left(self, one: _List) -> None:
        one.room_id = None
        one.problem = (
            f"{self.api.user_id} is not in the room of the policy list {one.address.value} any more: invite it again."
        )
        one.try_at = self.clock.monotonic() + _TRY_AGAIN
        _log.warning("policy list cannot be read", list=one.address.value, reason=one.problem)

    async def _read(self, one: _List, section: Json, *, anew: bool) -> None:
        """Take in what a response says of a room. `anew`: all of its state; what is not there does not exist."""
        before = one.rules
        if anew:
            # It is handed over also where nothing changes: perhaps the core knows something older.
            one.rules, one.changed, one.read = {}, True, True
        for number, event in enumerate(_events(section)):
            one.apply(event)
            if number % _STEP == _STEP - 1:
                await asyncio.sleep(0)
        if anew and before and before == one.rules:
            one.changed = False

    async def _hand_over(self, one: _List, inbox: RetryingInbox) -> None:
        now = self.clock.monotonic()
        if not one.changed or now < one.hand_over_at or one.address not in self._lists:
            return
        wait = max(_CHANGES_EVERY, _CHANGES_EVERY_PER_RULE * len(one.rules))
        one.changed, one.hand_over_at = False, now + wait
        await inbox.receive(EventBatch((PolicyListRead(one.address, tuple(one.rules.values())),)))


def join_problem(name: str, refused: Refused, me: str) -> str:
    """Why a list cannot be read, as a sentence with the remedy."""
    if refused.status == 403:
        return f"{me} is not let into the policy list {name} ({refused.reason or refused.code}): invite it there."
    if refused.status == 404:
        return f"There is no policy list {name}: correct moderation.policy_lists."
    return f"The policy list {name} cannot be joined ({refused.reason or refused.status}): invite {me} into its room."


def _events(section: Json) -> Iterator[Json]:
    for part in ("state", "timeline"):
        for event in as_list(as_dict(section.get(part)).get("events")):
            if isinstance(event, dict):
                yield event


def _filter(rooms: frozenset[str]) -> Json:
    """What sync sends: rules, and nothing else."""
    nothing = {"not_types": ["*"]}
    room = {
        "rooms": sorted(rooms),
        # Without memberships sync would not say that we were removed.
        "timeline": {"limit": 100, "types": [*_TYPES, "m.room.member"]},
        "state": {"types": list(_TYPES)},
        "ephemeral": nothing,
        "account_data": nothing,
    }
    return {"room": room, "presence": nothing, "account_data": nothing}
