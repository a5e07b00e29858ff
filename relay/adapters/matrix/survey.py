"""What an account on a homeserver can see and do: for `relay check`, and to choose rooms from."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

from relay.adapters.matrix.allowance import RATE_LIMIT, ROOM_TYPE, measure, rate_finding
from relay.adapters.matrix.api.address import correction, discovery_finding, is_private, look
from relay.adapters.matrix.api.client import Api, Identity, Refused, Unreachable
from relay.adapters.matrix.api.session import (
    DEVICE_NAME,
    LoadSession,
    MatrixSession,
    SaveSession,
    make_known,
    make_token,
)
from relay.adapters.matrix.inbound.events import timestamp
from relay.adapters.matrix.register import AccountRegister
from relay.adapters.matrix.rooms.access_list import denied_by_others
from relay.adapters.matrix.rooms.declared import (
    acl_problem,
    encrypted_problem,
    power_problem,
    removal_reason,
    space_problem,
)
from relay.adapters.matrix.rooms.joins import join_problem, lookup_problem
from relay.adapters.matrix.rooms.state import SPACE
from relay.adapters.matrix.survey_room import Room, events_in, other_bridges, room_of, state_filter
from relay.adapters.matrix.sync.response import learn_creators
from relay.config.settings import MatrixSettings
from relay.core.claims.board import claims_in
from relay.core.claims.register import Claim, NoRegister
from relay.core.clock import SystemClock
from relay.core.operations.findings import Finding, VisibleChannel
from relay.core.ports import Clock
from relay.domain.ids import Platform
from relay.domain.jsontext import Json, as_dict, as_list, as_string
from relay.domain.names import shortened
from relay.domain.pair import Pair, PairPolicy
from relay.errors import FatalError, Transient

_SYNC_TIMEOUT = 120.0
_DIFFERENT = 1000  # milliseconds; without a token of an earlier sync nobody waits for them
_AT_ONCE = 6
# Discord's limit of a file where nobody pays for more: what is above it crosses as a link in any case.
_USUAL_FILE = 10 * 1024 * 1024
# How lately a device was used that somebody still uses.
_OF_LATE = timedelta(days=14)
_DEVICES_NAMED, _LONGEST_DEVICE = 3, 40


class _Declared(NamedTuple):
    """A room as it is declared, and its ID, or why it has none."""

    name: str
    room_id: str
    problem: str


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class MatrixSurvey:
    """Implements `core.operations.findings.Survey`.

    With a password, `load` and `save` keep the session that a login makes, as for the adapter; without `save` it is
    ended with the survey.
    """

    settings: MatrixSettings
    load: LoadSession
    save: SaveSession | None
    clock: Clock = field(default_factory=SystemClock)
    # What to do with another token where the homeserver refuses this one, which is in no file yet.
    with_new_token: str = ""
    # By how many seconds our clock is ahead of the homeserver's; None before the first answer.
    clock_skew: float | None = field(init=False, default=None)
    _api: Api = field(init=False)
    _established: bool = field(init=False, default=False)
    # The session was made here, and nobody keeps it.
    _made: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._api = Api(self.settings.homeserver_url, self.settings.user_id)

    async def close(self) -> None:
        """See `Survey.close`."""
        if self._made:
            with suppress(Refused, Unreachable):
                await self._api.call("POST", "logout", body={})
        await self._api.close()

    @property
    def usable(self) -> bool:
        """See `Survey.usable`."""
        return self._established

    async def author_name(self, room_id: str, user: str) -> str:
        """What people call somebody in a room. Raises `Refused`, `Unreachable`."""
        await self._establish()
        try:
            member = await self._api.call("GET", "rooms", room_id, "state", "m.room.member", user)
        except Refused:  # we are not in it any more
            member = await self._api.call("GET", "profile", user)
        return as_string(member.get("displayname"))

    # --- The account --------------------------------------------------------------------------------------

    async def account(self) -> Sequence[Finding]:
        """See `Survey.account`."""
        url, user = self.settings.homeserver_url, self.settings.user_id
        answer, discovery = await asyncio.gather(look(url), self._discovery(url, user.partition(":")[2]))
        if not answer.versions:
            words, _, remedy = (await correction(url, user, answer) or f"{url} does not answer; try again").partition(
                "; "
            )
            return [Finding("the homeserver", "wrong", words, remedy)]
        if answer.date is not None:
            self.clock_skew = (self.clock.now() - answer.date).total_seconds()
        newest = answer.versions[-1]
        found = [Finding("the homeserver", "ok", f"{url} speaks Matrix up to {newest}")]
        if not any(version.startswith("v1.") for version in answer.versions):
            found = [
                Finding("the homeserver", "wrong", f"it speaks Matrix up to {newest} only", "update it: v1.1 is needed")
            ]
        if discovery is not None:
            found.append(discovery)
        try:
            await self._establish()
            found += await self._device()
            found += await self._ghosts()
            found += await self._uploads()
        except FatalError as error:
            words, remedy = error.reason, error.remedy
            if self.with_new_token:
                words, remedy = words.replace("[matrix] access_token", "that token"), self.with_new_token
            found.append(Finding("the Matrix account", "wrong", words, remedy))
        except (Refused, Unreachable) as error:
            found.append(Finding("the Matrix account", "wrong", str(error), "try again in a moment"))
        return found

    async def _discovery(self, url: str, server: str) -> Finding | None:
        """None where nobody elsewhere can know that name."""
        is_local = is_private(urlsplit(f"//{server}").hostname or "")
        return None if is_local else await discovery_finding(url, server)

    async def _establish(self) -> None:
        if not self._established:
            save = self.save or self._keep_until_closed
            await MatrixSession(api=self._api, settings=self.settings, load=self.load, save=save).establish()
            self._established = True

    async def _keep_until_closed(self, _: str) -> None:
        self._made = True

    async def _device(self) -> list[Finding]:
        device = as_string((await self._api.call("GET", "account", "whoami")).get("device_id"))
        subject, user = "the Matrix account", self._api.user_id
        if device:
            return [Finding(subject, "ok", f"{user}, device {device}"), *await self._people_on_it(device)]
        # https://spec.matrix.org/latest/client-server-api/#transaction-identifiers
        words = f"the token of {user} belongs to no device, so that a message may cross twice after a crash"
        return [Finding(subject, "note", words, make_token(self.settings))]

    async def _people_on_it(self, own: str) -> list[Finding]:
        """Whether a person uses the account, too: other clients than ours of late. Programs leave devices unnamed."""
        try:
            answer = await self._api.call("GET", "devices")
        except Refused:
            return []
        now, used = self.clock.now(), []
        for device in map(as_dict, as_list(answer.get("devices"))):
            name, seen = as_string(device.get("display_name")), device.get("last_seen_ts")
            lately = isinstance(seen, int) and now - timestamp(seen) < _OF_LATE
            if lately and name not in ("", DEVICE_NAME) and device.get("device_id") != own:
                used.append(shortened(name, max_length=_LONGEST_DEVICE, max_bytes=4 * _LONGEST_DEVICE))
        if not used:
            return []
        named = ", ".join(
            [*used[:_DEVICES_NAMED], *([f"{len(used) - _DEVICES_NAMED} more"] * (len(used) > _DEVICES_NAMED))]
        )
        words = f"{self._api.user_id} is logged in elsewhere, too ({named}): what somebody writes there never crosses"
        remedy = "make an account for the relay alone, or log this one out there"
        return [Finding("who uses the Matrix account", "note", words, remedy)]

    async def _ghosts(self) -> list[Finding]:
        """Whether the homeserver knows the registration that `[matrix.appservice]` is about."""
        if self.settings.appservice is None:
            return []
        service = Identity("", self.settings.appservice.as_token.get_secret_value())
        try:
            await self._api.call("GET", "account", "whoami", identity=service)
        except Refused as refused:
            if refused.status == 401:
                words = (
                    "the homeserver does not know [matrix.appservice] as_token, so that the bot speaks for everybody"
                )
                return [Finding("ghosts", "wrong", words, make_known(self.settings.appservice))]
            return [Finding("ghosts", "note", f"it is not known how they are: {refused}", "try again in a moment")]
        return [Finding("ghosts", "ok", "the homeserver knows the registration")]

    async def _uploads(self) -> list[Finding]:
        try:
            answer = await self._api.call("GET", "media", "config", root="/_matrix/client/v1/")
        except Refused:
            return []
        limit = answer.get("m.upload.size")
        if not isinstance(limit, int):
            return []
        size = f"files of up to {limit / 1024 / 1024:.0f} MiB"
        if limit >= _USUAL_FILE:
            return [Finding("uploads to the homeserver", "ok", size)]
        words = f"it takes {size} only: what is larger is named, and not shown, in the rooms"
        return [
            Finding("uploads to the homeserver", "note", words, "ask its admin for more (Synapse: max_upload_size)")
        ]

    async def allowance(self) -> Finding:
        """How many messages the account may send: measured, which takes some seconds and uses them up for a minute."""
        try:
            allowed = await measure(self._api, self.clock)
        except (Refused, Unreachable) as error:
            return Finding(RATE_LIMIT, "note", f"it could not be measured ({error})", "the relay finds out as it goes")
        if not allowed.seconds:
            return Finding(RATE_LIMIT, "ok", f"{allowed.taken} messages in a row were taken")
        return rate_finding(self._api.user_id, allowed.seconds)

    async def claims(self) -> list[Claim] | None:
        """What relays on the account have claimed; None if that cannot be read. Call `account` first."""
        try:
            return claims_in(await AccountRegister(api=self._api, clock=self.clock).read())
        except (Transient, NoRegister):
            return None

    # --- Its rooms ----------------------------------------------------------------------------------------

    async def channels(self) -> Sequence[VisibleChannel]:
        """See `Survey.channels`: the rooms that the account is in, and those that it is invited into, by name.

        Nobody talks in spaces.
        """
        rooms = [
            self._visible(room)
            for room in (await self.rooms()).values()
            if not room.state.upgraded and room.content("m.room.create").get("type") not in (ROOM_TYPE, SPACE)
        ]
        return sorted(rooms, key=lambda room: (room.name.casefold(), room.address))

    async def rooms(self, only: Collection[str] | None = None) -> Mapping[str, Room]:
        """The rooms that the account is in or invited into, by their IDs. Raises `Transient`."""
        try:
            await self._establish()
            answer = await self._api.call("POST", "user", self._api.user_id, "filter", body=state_filter(only))
            query: dict[str, str | list[str]] = {
                "filter": str(answer.get("filter_id", "")),
                # Synapse answers the same question for two minutes as it did before: what was mended would not show.
                "timeout": str(secrets.randbelow(_DIFFERENT)),
                "set_presence": "offline",
            }
            response = await self._api.call("GET", "sync", query=query, timeout=_SYNC_TIMEOUT)
        except (Refused, Unreachable) as error:
            raise Transient(str(error)) from error
        found = as_dict(response.get("rooms"))
        joined = {
            room_id: room_of(room_id, events_in(room, "state") + events_in(room, "timeline"), self._server)
            for room_id, room in as_dict(found.get("join")).items()
        }
        invited = {
            room_id: room_of(room_id, events_in(room, "invite_state"), self._server, invited=True)
            for room_id, room in as_dict(found.get("invite")).items()
        }
        left = {
            room_id: self._left(room_id, events_in(room, "state") + events_in(room, "timeline"))
            for room_id, room in as_dict(found.get("leave")).items()
        }
        await learn_creators(self._api, [room.state for room in joined.values()])
        return left | joined | invited

    def _left(self, room_id: str, events: Sequence[Json]) -> Room:
        room = room_of(room_id, events, self._server)
        membership = room.events.get(("m.room.member", self._api.user_id))
        room.removed = f"{self._api.user_id} is not in {room.name} any more: invite it again."
        if membership is not None:
            room.removed = removal_reason(membership, self._api.user_id, room.name)
        return room

    def _visible(self, room: Room) -> VisibleChannel:
        listed = room.state.aliases | {room.state.room_id}
        return VisibleChannel(
            address=room.alias or room.state.room_id,
            name=room.name,
            kind="room, invited" if room.invited else "room",
            topic=as_string(room.content("m.room.topic").get("topic")),
            problem=self._blocked(room),
            also=listed - {room.alias},
        )

    @property
    def _server(self) -> str:
        return self._api.user_id.partition(":")[2]

    def _blocked(self, room: Room) -> str | None:
        """Why a room cannot be mirrored as it is, with the remedy; None if it can. Of an invitation little is known."""
        if room.state.encrypted:
            return encrypted_problem(room.name)
        if room.invited:
            return None
        me = self._api.user_id
        return power_problem(room.name, room.state, me) or acl_problem(room.name, room.state, me)

    async def alias_problem(self, alias: str) -> str | None:
        """Why an alias names no room, without the remedy; None if it does. Raises `Transient`."""
        try:
            await self._establish()
        except (Refused, Unreachable) as error:
            raise Transient(str(error)) from error
        (one,) = await self._resolved([alias])
        return split(one.problem)[0] if one.problem else None

    # --- The pairs' rooms ---------------------------------------------------------------------------------

    async def pairs(self, pairs: Sequence[Pair]) -> AsyncIterator[Finding]:
        """See `Survey.pairs`."""
        sides = [(pair, side.value) for pair in pairs for side in pair.sides if side.platform is Platform.MATRIX]
        declared = await self._resolved([name for _, name in sides])
        rooms: Mapping[str, Room] = {}
        try:
            rooms = await self.rooms({room.room_id for room in declared if room.room_id})
        except (Transient, FatalError) as error:
            yield Finding("the rooms", "wrong", str(error), "try again in a moment")
            return
        first: dict[str, str] = {}
        for (pair, _), one in zip(sides, declared, strict=True):
            other = first.setdefault(one.room_id, one.name) if one.room_id else one.name
            if other == one.name:
                found = await self._room(one, rooms.get(one.room_id), pair.policy)
            else:
                words = f"it names the same room as {other}, which is in a pair already"
                room = rooms.get(one.room_id)
                name = _subject(one, "" if room is None else room.name)
                found = [Finding(name, "wrong", words, "declare the room in one pair only")]
            for finding in found:
                yield replace(finding, pair=pair.name)
        # What is about a list is told once, whatever the pairs that follow it.
        for name in dict.fromkeys(one.value for pair in pairs for one in pair.policy.policy_lists):
            yield await self._list(name)

    async def operators(self, address: str) -> Finding:
        """See `Survey.operators`."""
        (one,) = await self._resolved([address])
        try:
            rooms = await self.rooms({one.room_id}) if one.room_id else {}
        except (Transient, FatalError) as error:
            return Finding(f"[operators] {address}", "wrong", str(error), "try again in a moment")
        # Of a room that was replaced, what is true of the new one.
        *_, last = await self._room(one, rooms.get(one.room_id), None)
        return replace(last, subject=f"[operators] {last.subject}")

    async def _room(self, one: _Declared, room: Room | None, policy: PairPolicy | None) -> list[Finding]:
        """How a room is; `policy`: of the pair that it is in, None for one in which the relay only writes."""
        if one.problem:
            return [Finding(one.name, "wrong", *split(one.problem))]
        if room is None or room.invited or room.removed is not None:
            return await self._outside(one, room)
        found, seen = list[Finding](), {one.room_id}
        while (after := await self._replacement(room, seen)) is not None:
            room_id = after.state.room_id
            words = f"it has been replaced by {room_id}, and the relay goes on there"
            found.append(Finding(_subject(one, room.name), "note", words, "let the file name the new room"))
            seen.add(room_id)
            one, room = _Declared(room_id, room_id, ""), after
        if room.state.list_in_doubt:
            with suppress(Refused, Unreachable):
                room.state.settle_list(denies=await denied_by_others(self._api, room.state.room_id))
        if room.state.upgraded:
            return [*found, *await self._not_followed(one, room)]
        return [*found, *self._inside(one, room, policy)]

    async def _not_followed(self, one: _Declared, room: Room) -> list[Finding]:
        """The room was replaced, and the account is not in the new one: what keeps it out, if anything does."""
        me, successor = self._api.user_id, room.state.successor
        words = (
            f"it has been replaced by {successor or 'another room'}, which the relay follows if {me} is let in there"
        )
        remedy = f"declare the new room, and invite {me} unless it is public"
        found = [Finding(_subject(one, room.name), "note", words, remedy)]
        if successor is not None:
            with suppress(Transient):
                invited = (await self.rooms({successor})).get(successor)
                outside = await self._outside(_Declared(successor, successor, ""), invited)
                found += [finding for finding in outside if finding.state == "wrong"]
        return found

    async def _replacement(self, room: Room, seen: Collection[str]) -> Room | None:
        """The room that replaces this one, if both say so and the account is in it; then the daemon goes on there."""
        successor = room.state.successor if room.state.upgraded else None
        if successor is None or successor in seen:
            return None
        try:
            # Asked for by itself: a filter by room hides that event of a room of version 12 from sync.
            created = await self._api.call("GET", "rooms", successor, "state", "m.room.create")
            after = (await self.rooms({successor})).get(successor)
        except (Refused, Unreachable, Transient):
            return None
        is_successor = as_dict(created.get("predecessor")).get("room_id") == room.state.room_id
        is_inside = after is not None and not after.invited and after.removed is None
        return after if is_successor and is_inside else None

    async def _list(self, name: str) -> Finding:
        """Whether the account can read a policy list."""
        subject, room_id = f"policy list {name}", name
        try:
            if name.startswith("#"):
                answer = await self._api.call("GET", "directory", "room", name)
                room_id = as_string(answer.get("room_id"))
            joined = as_list((await self._api.call("GET", "joined_rooms")).get("joined_rooms"))
        except (Refused, Unreachable) as error:
            is_gone = isinstance(error, Refused) and error.status == 404
            words = "there is no such room" if is_gone else str(error)
            return Finding(
                subject, "wrong", words, "correct moderation.policy_lists" if is_gone else "try again in a moment"
            )
        if room_id in joined:
            return Finding(subject, "ok", "it can be read")
        words = "the account is not in its room yet: `relay run` joins it where it is let in"
        return Finding(subject, "note", words, f"where it is not public, invite {self._api.user_id}")

    async def _resolved(self, names: Sequence[str]) -> list[_Declared]:
        """Rooms as they are declared: each alias is looked up."""
        turn = asyncio.Semaphore(_AT_ONCE)

        async def resolve(name: str) -> _Declared:
            if not name.startswith("#"):
                return _Declared(name, name, "")
            try:
                async with turn:
                    answer = await self._api.call("GET", "directory", "room", name)
            except Refused as refused:
                return _Declared(name, "", lookup_problem(name, refused))
            except Unreachable as error:
                return _Declared(name, "", f"The alias {name} could not be looked up ({error}): try again.")
            return _Declared(name, str(answer.get("room_id")), "")

        return list(await asyncio.gather(*map(resolve, names)))

    async def _outside(self, one: _Declared, room: Room | None) -> list[Finding]:
        """The account is not in the room. The daemon joins it by itself, where it is let in."""
        me, name = self._api.user_id, _subject(one, "" if room is None else room.name)
        if room is not None and room.invited and room.state.encrypted:
            return [Finding(name, "wrong", *split(encrypted_problem(room.name)))]
        if room is not None and room.invited and room.state.is_space:
            return [Finding(name, "wrong", *split(space_problem(room.name)))]
        if room is not None and room.invited:
            return [Finding(name, "ok", f"{me} is invited: the relay joins when it starts")]
        if room is not None and room.removed is not None and "banned" in room.removed:
            return [Finding(name, "wrong", *split(room.removed))]
        try:
            summary = await self._summary(one.name)
        except Refused as refused:
            if room is not None and room.removed is not None:
                return [Finding(name, "wrong", *split(room.removed))]
            if refused.code == "M_UNRECOGNIZED":
                words = f"{me} is not in it, and the homeserver does not tell whether anybody may join"
                return [Finding(one.name, "note", words, f"invite {me}, unless the room is public")]
            return [Finding(one.name, "wrong", *split(join_problem(one.name, refused, me)))]
        except Unreachable as error:
            return [Finding(one.name, "wrong", str(error), "try again in a moment")]
        called = as_string(summary.get("name"))
        name = _subject(one, called) if called else name
        if summary.get("encryption") or summary.get("im.nheko.summary.encryption"):
            return [Finding(name, "wrong", *split(encrypted_problem(called or one.name)))]
        if summary.get("room_type") == SPACE:
            return [Finding(name, "wrong", *split(space_problem(called or one.name)))]
        if summary.get("join_rule", "public") == "public" and room is not None and room.removed is not None:
            return [Finding(name, "note", *split(room.removed))]
        if summary.get("join_rule", "public") == "public":
            return [Finding(name, "ok", "the room is public: the relay joins when it starts")]
        return [Finding(name, "wrong", f"{me} is not in it, and only who is invited may join", f"invite {me}")]

    async def _summary(self, room: str) -> Json:
        """What a homeserver tells of a room to who is not in it: in the specification since version 1.15."""
        via: dict[str, str | list[str]] = {"via": server} if (server := room.partition(":")[2]) else {}
        try:
            return await self._api.call("GET", "room_summary", room, query=via, root="/_matrix/client/v1/")
        except Refused as refused:
            if refused.code != "M_UNRECOGNIZED":
                raise
            root = "/_matrix/client/unstable/im.nheko.summary/"
            return await self._api.call("GET", "summary", room, query=via, root=root)

    def _inside(self, one: _Declared, room: Room, policy: PairPolicy | None) -> Iterator[Finding]:
        me, state = self._api.user_id, room.state
        name = _subject(one, room.name)
        if state.encrypted:
            yield Finding(name, "wrong", *split(encrypted_problem(room.name)))
            return
        if state.is_space:
            yield Finding(name, "wrong", *split(space_problem(room.name)))
            return
        if (problem := power_problem(room.name, state, me) or acl_problem(room.name, state, me)) is not None:
            yield Finding(name, "wrong", *split(problem))
            return
        if policy is None:
            yield Finding(name, "ok", f"{me} may write there")
            return
        history = as_string(room.content("m.room.history_visibility").get("history_visibility")) or "shared"
        power = "all" if (level := state.level(me)) > 100 else str(level)
        yield Finding(name, "ok", f"joined, version {state.version}, not encrypted, power {power}, history {history}")
        lacking = []
        if policy.moderate_deletions and not state.may_redact(me):
            lacking.append((state.level_to_redact, "remove what people wrote whose copy a moderator has removed"))
        if policy.allow_broadcast and not state.may_broadcast(me):
            lacking.append((state.level_to_broadcast, "notify the whole room (@room)"))
        if not state.may_send(me, "m.reaction"):
            lacking.append((state.level_to_send("m.reaction"), "mark messages that did not cross"))
        for needed, what in lacking:
            yield Finding(name, "note", f"{me} may not {what}", f"give it the power level {needed} there")
        if history in {"joined", "invited"}:
            words = "what is said while the relay is not in the room can never cross: only members of then may read it"
            remedy = 'set who can read the history to "Members only (since the point in time of selecting this option)"'
            yield Finding(name, "note", words, remedy)
        yield from other_bridges(name, room)


def _subject(one: _Declared, called: str) -> str:
    """A room by its name, with what is declared behind."""
    return f"{called} ({one.name})" if called not in ("", one.name, one.room_id) else one.name


def split(problem: str) -> tuple[str, str]:
    """A problem of a room as what is wrong, and the remedy."""
    words, _, remedy = problem.rstrip(".").rpartition(": ")
    if not words:
        words, _, remedy = problem.rstrip(".").partition(". ")
    return words, remedy
