"""Who posts what somebody said: their ghost, made and brought into the room when it first has to speak; or the bot.

Where a ghost cannot be used (the homeserver does not know the registration, the room lets nobody in), the relay's own
account speaks, under the author's name, and the pair's status says why. Only what a moderator decided about a ghost
counts as said about its person: the message of one that is banned does not cross.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from relay.adapters.matrix.api.client import Api, Identity, Refused, Unreachable
from relay.adapters.matrix.api.session import make_known
from relay.adapters.matrix.identifiers import OwnAccounts
from relay.adapters.matrix.outbound.compose import display_name
from relay.adapters.matrix.outbound.ghost_accounts import REMEMBERED, GhostAccounts, profile_digest
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.core.people.storage import Ghost
from relay.core.ports import Clock
from relay.core.recent import keep
from relay.domain.content import Author
from relay.domain.ids import ChannelAddress, ChannelRef, UserRef
from relay.domain.jsontext import Json
from relay.errors import Permanent, Transient, Unsupported
from relay.logs import get_logger

_log = get_logger(__name__)

_TROUBLES_REMEMBERED = 500
_TRY_AGAIN = 60.0
"""Seconds until a ghost that could not be used is tried again."""
_FAILURES = 3
"""Failures of the homeserver in a row after which a message does not wait for its ghost any longer."""
# A ghost's join counts against the limit for people who join that room (`rc_joins_per_room`: one a second, ten at
# once), although ghosts are not limited themselves. So a raid over there must not keep people out of the room here.
_JOINS_AT_ONCE = 5
_SECONDS_A_JOIN = 1.0
# A webhook has another name for each message. Each change of a ghost's name is an event that all members get.
_SECONDS_A_PROFILE = 60.0
# A moderator, or an administrator of the homeserver, has decided that this account is to be silent.
_SILENCED = frozenset({"M_USER_DEACTIVATED", "M_USER_LOCKED", "M_USER_SUSPENDED"})


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who posts a message."""

    # None: the relay's own account.
    identity: Identity | None = None
    # Whether the message itself has to say who wrote it.
    named: bool = True


BOT = Speaker()


class _Unusable(Exception):
    """A ghost cannot be used now; `str()` says why. `everywhere`: it is about the registration itself."""

    def __init__(self, why: str, *, room: str = "", everywhere: bool = False) -> None:
        super().__init__(why)
        self.room = room
        self.everywhere = everywhere


@dataclass(slots=True)
class _Pace:
    """How many joins a room takes now; refilled with time."""

    left: float
    at: float


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Ghosts:
    """Makes ghosts, and acts as them."""

    api: Api
    accounts: OwnAccounts
    rooms: DeclaredRooms
    clock: Clock
    # None: the relay's own account says everything, and only what ghosts wrote before is known as ours.
    made: GhostAccounts | None
    # Whether people have ghosts in a declared room; asked anew each time.
    wanted: Callable[[ChannelAddress], bool]
    # Called when ghosts can be used again, after the homeserver did not know the registration.
    returned: Callable[[], None] = lambda: None
    # When a profile was changed last.
    _changed: OrderedDict[tuple[str, str], float] = field(init=False, default_factory=OrderedDict)
    # What cannot be used, by account and room ("" for all of them): until when, and why.
    _troubles: OrderedDict[tuple[str, str], tuple[float, str]] = field(init=False, default_factory=OrderedDict)
    # Who is banned where, and when to look whether that has ended.
    _banned: OrderedDict[tuple[str, str], float] = field(init=False, default_factory=OrderedDict)
    _failures: OrderedDict[str, int] = field(init=False, default_factory=OrderedDict)
    _paces: OrderedDict[str, _Pace] = field(init=False, default_factory=OrderedDict)

    @property
    def _made(self) -> GhostAccounts:
        if self.made is None:
            raise RuntimeError("there are no ghosts")
        return self.made

    # --- Who speaks ---------------------------------------------------------------------------------------

    async def speaker(self, room_id: str, author: Author, *, has_spoken: bool, picture_late: bool) -> Speaker:
        """Who posts what `author` said, whose picture is on this homeserver. Makes the ghost ready for that.

        `has_spoken`: the author wrote it, and it is not only said about them. `picture_late`: there is a picture, but
        it is not here yet. Raises `Unsupported` if the ghost is to be silent, `Transient`, `StoreUnavailable`.
        """
        account = self._account_for(room_id, author)
        if account is None or self._is_troubled(account, room_id):
            return BOT
        if not self.rooms.state(room_id).may_send(account):
            self._trouble(account, _Unusable("the power levels do not let ghosts write there", room=room_id))
            return BOT
        await self._check_banned(account, room_id)
        try:
            speaker = await self._ready(account, room_id, author, has_spoken=has_spoken, picture_late=picture_late)
        except _Unusable as error:
            self._trouble(account, error)
            return BOT
        except Refused as refused:
            self._refused(account, refused)
            return BOT
        except Unreachable as error:
            if error.sent:
                self._failed(account, str(error))  # else nobody reaches the homeserver, the bot neither
            raise Transient(str(error), failed=error.answered) from error
        self._failures.pop(account, None)
        if speaker.identity is not None:
            were_away = ("", "") in self._troubles
            for key in ((account, room_id), ("", room_id), (account, ""), ("", "")):
                self._troubles.pop(key, None)
            if were_away:
                _log.info("ghosts can be used again")
                self.returned()
        return speaker

    def _account_for(self, room_id: str, author: Author) -> str | None:
        room = self.rooms.find(room_id)
        if self.made is None or room is None or not self.wanted(room.address):
            return None
        if author.is_group:
            return None
        return self.accounts.ghost_of(author.user)

    async def _ready(
        self, account: str, room_id: str, author: Author, *, has_spoken: bool, picture_late: bool
    ) -> Speaker:
        there = await self._made.profile(account, room_id)
        ghost = await self._made.ghost(account)
        avatar = "" if author.avatar is None else author.avatar.locator
        if picture_late and ghost is not None:
            avatar = ghost.avatar
        profile: Json = {"displayname": display_name(author)} | ({"avatar_url": avatar} if avatar else {})
        digest = profile_digest(profile)
        if ghost is not None and there == digest:
            return Speaker(self._made.identity(ghost), named=False)
        if there is None and not (has_spoken and self._may_join(room_id)):
            return BOT
        if ghost is None:
            ghost = await self._made.register(account, profile)
        elif there is not None and not self._may_change(account, room_id):
            return Speaker(self._made.identity(ghost))
        ghost = replace(await self._join(ghost, room_id, profile), avatar=avatar)
        if there is None:
            self._pace(room_id).left -= 1
        await self._made.record(ghost, room_id, digest)
        return Speaker(self._made.identity(ghost), named=False)

    def wants_everybody(self, room_id: str) -> bool:
        """Whether all ghosts are to be in a room before they speak."""
        room = self.rooms.find(room_id)
        is_set = self.made is not None and self.made.settings.ghost_membership == "all"
        return is_set and room is not None and self.wanted(room.address)

    async def is_member(self, room_id: str, author: Author) -> bool:
        """Whether somebody's ghost is in a room, as far as is known."""
        account = self._account_for(room_id, author)
        return account is not None and await self._made.profile(account, room_id) is not None

    async def add(self, room_id: str, author: Author) -> bool:
        """Bring a ghost into a room before it speaks, after all that have something to say. Whether it came.

        Raises `Transient`, `StoreUnavailable`.
        """
        account = self._account_for(room_id, author)
        if account is None or self._is_troubled(account, room_id) or (account, room_id) in self._banned:
            return False
        while self._pace(room_id).left < _JOINS_AT_ONCE:
            await self.clock.sleep(_SECONDS_A_JOIN)
        try:
            speaker = await self.speaker(room_id, author, has_spoken=True, picture_late=False)
        except Unsupported:
            return False
        return speaker.identity is not None

    # --- An account that posted something before ----------------------------------------------------------

    async def identity(self, account: str) -> Identity | None:
        """To act as a ghost that has posted something, whatever the pair's setting says now; None if we may not."""
        if self.made is None or not self.accounts.is_current(account) or self._is_troubled(account, ""):
            return None
        return self.made.identity(await self.made.ghost(account) or Ghost(account))

    def is_away(self, account: str) -> bool:
        """Whether we may not act as a ghost for now, because the homeserver does not know the registration."""
        if self.made is None or not self.accounts.is_current(account):
            return False
        until, _ = self._troubles.get(("", ""), (0.0, ""))
        return self.clock.monotonic() < until

    @property
    def why_away(self) -> str:
        """What is said of that."""
        return f"the homeserver does not know the registration of ghosts ({make_known(self._made.settings)})"

    async def recover(self, identity: Identity, room_id: str, refused: Refused, *, rejoin: bool) -> bool:
        """What a ghost wanted to do was refused: mend that. Whether to try again; if not, it cannot be used there.

        `rejoin`: bring it back into the room at once; else `speaker` does that. Raises `Unsupported` if it is to be
        silent, `Permanent` if only this event is forbidden, `Transient`.
        """
        account = identity.user_id
        try:
            return await self._recover(account, room_id, refused, rejoin=rejoin)
        except _Unusable as error:
            self._trouble(account, error)
        except Refused as again:
            self._refused(account, again)
        except Unreachable as error:
            raise Transient(str(error), failed=error.answered) from error
        return False

    async def _recover(self, account: str, room_id: str, refused: Refused, *, rejoin: bool) -> bool:
        if refused.status == 401 or refused.code in _SILENCED:
            raise refused
        if refused.code == "M_UNKNOWN_DEVICE":
            await self._made.renew_device(account)
            return True
        membership = await self._membership(account, room_id)
        if membership == "join":
            if self.rooms.find(room_id) is not None and not await self._has_power(account, room_id):
                raise _Unusable("the power levels do not let ghosts write there", room=room_id)
            # Perhaps the homeserver does not let us act as it; that shows here.
            await self.api.call("GET", "account", "whoami", identity=self._made.identity(Ghost(account)))
            raise Permanent(f"the homeserver forbids it ({refused.reason or refused.code})")
        self._made.remember(account, room_id, None)
        if rejoin:
            # The homeserver adds the profile that it had first.
            await self._join(await self._made.ghost(account) or Ghost(account), room_id, {})
        return True

    async def leave(self, account: str, room_id: str) -> None:
        """Take a ghost out of a room in which it is, as far as is known.

        Raises `Transient`, `StoreUnavailable`, and `Permanent` while we may not act as it: then it counts as there.
        """
        if self.made is None or await self.made.profile(account, room_id) is None:
            return
        if (why := await self._why_unusable(account)) is not None:
            raise Permanent(why)
        await self._leave(account, room_id)

    async def _leave(self, account: str, room_id: str) -> None:
        if (identity := await self.identity(account)) is not None:
            await self.leave_at_once(identity, room_id)
        await self._made.left(account, room_id)

    async def leave_at_once(self, identity: Identity, room_id: str) -> None:
        """Take a ghost out of a room, whatever is on record. Raises `Transient`."""
        await self._made.act(identity, "POST", "rooms", room_id, "leave", body={})

    async def channels_of(self, user: UserRef) -> frozenset[ChannelRef]:
        """See `MemberMirror.channels_of`."""
        account = self.accounts.ghost_of(user)
        return frozenset() if account is None or self.made is None else await self.made.channels(account)

    async def members_of(self, channel: ChannelRef) -> frozenset[UserRef]:
        """See `MemberMirror.members_of`."""
        if self.made is None:
            return frozenset()
        people = {self.accounts.person(account) for account in await self.made.inside(channel)}
        return frozenset(person for person in people if person is not None)

    async def forget(self, user: UserRef) -> None:
        """Take somebody's ghost out of all rooms and empty its profile. Raises `Transient`, `StoreUnavailable`."""
        account = self.accounts.ghost_of(user)
        if account is None or self.made is None or await self.made.ghost(account) is None:
            return
        if (why := await self._why_unusable(account)) is not None:
            raise Transient(why)  # it would stay where it is for good
        for channel in await self.made.channels(account):
            await self._leave(account, channel.id)
        if (identity := await self.identity(account)) is not None:
            for key in ("displayname", "avatar_url"):
                await self.made.act(identity, "PUT", "profile", account, key, body={key: ""})
        await self.made.forget(account)

    async def _why_unusable(self, account: str) -> str | None:
        """Why the homeserver does not let us act as a ghost now; None if it does. Raises `Transient`."""
        why = f"the homeserver does not let the relay act as {account} now"
        if (identity := await self.identity(account)) is None:
            return self.why_away if self.is_away(account) else why
        try:
            await self.api.call("GET", "account", "whoami", identity=identity)
        except Unreachable as error:
            raise Transient(str(error), failed=error.answered) from error
        except Refused as refused:
            if refused.status == 401:
                return why if refused.code in _SILENCED else self.why_away
        return None

    def saw_member(self, room_id: str, event: Json) -> None:
        """Sync has told of a membership: somebody may have removed or banned a ghost."""
        account = event.get("state_key")
        content = event.get("content")
        if not isinstance(account, str) or not isinstance(content, dict) or not self.accounts.is_ghost(account):
            return
        if self.made is None:
            return
        membership = content.get("membership")
        self._banned.pop((account, room_id), None)
        if membership == "ban":
            self._is_banned(account, room_id)
        if membership in {"ban", "leave"}:
            self._made.remember(account, room_id, None)

    # --- What is said of it -------------------------------------------------------------------------------

    def notes(self, room_id: str) -> Sequence[str]:
        """Why people have no ghosts in a room, or are not heard there: sentences for the operator. No I/O."""
        now, notes = self.clock.monotonic(), []
        if banned := sorted(account for account, room in self._banned if room == room_id):
            notes.append(f"Banned there, so that what they write does not cross: {_listed(banned)}.")
        reasons: dict[str, list[str]] = {}
        for (account, room), (until, why) in self._troubles.items():
            if room in {room_id, ""} and now < until + _TRY_AGAIN:
                reasons.setdefault(why, []).append(account)
        for why, accounts in reasons.items():
            who = "Everybody" if "" in accounts else _listed(sorted(accounts))
            notes.append(f"{who} appears under {self.accounts.me} there: {why}.")
        return notes

    def _is_troubled(self, account: str, room_id: str) -> bool:
        now = self.clock.monotonic()
        keys = {(account, room_id), ("", room_id), (account, ""), ("", "")}
        return any(now < self._troubles[key][0] for key in keys if key in self._troubles)

    def _trouble(self, account: str, error: _Unusable) -> None:
        key = ("" if error.everywhere else account, error.room)
        if key not in self._troubles:
            _log.warning("ghost not used, the bot speaks", ghost=account, room=error.room or None, reason=str(error))
        keep(self._troubles, key, (self.clock.monotonic() + _TRY_AGAIN, str(error)), _TROUBLES_REMEMBERED)

    def _refused(self, account: str, refused: Refused) -> None:
        """The homeserver refused something on the way. Raises `Unsupported` or `Transient` if the bot may not speak."""
        if refused.code in _SILENCED:
            _log.warning("ghost was silenced on the homeserver", ghost=account, code=refused.code)
            raise Unsupported("moderation")
        if refused.status == 401:
            self._trouble(account, _Unusable(self.why_away, everywhere=True))
        elif refused.status >= 500:
            self._failed(account, str(refused))
            raise Transient(str(refused), retry_after=refused.retry_after, failed=True)
        elif refused.status != 429:
            self._trouble(account, _Unusable(f"the homeserver refuses its ghost ({refused.reason or refused.code})"))

    def _failed(self, account: str, why: str) -> None:
        """Count a failure of the homeserver: not every message waits for a ghost that cannot be made."""
        failures = self._failures.get(account, 0) + 1
        keep(self._failures, account, failures, _TROUBLES_REMEMBERED)
        if failures >= _FAILURES:
            del self._failures[account]
            self._trouble(account, _Unusable(why))

    # --- Bans ---------------------------------------------------------------------------------------------

    async def _check_banned(self, account: str, room_id: str) -> None:
        """Raise `Unsupported` if a ghost is banned. That a ban has ended may not have been told by sync."""
        look_at = self._banned.get((account, room_id))
        if look_at is None:
            return
        if self.clock.monotonic() >= look_at:
            try:
                if await self._membership(account, room_id) != "ban":
                    return
            except (Refused, Unreachable) as error:
                raise Transient(str(error)) from error
        raise Unsupported("moderation")

    async def _membership(self, account: str, room_id: str) -> str:
        """How a ghost is in a room, as the relay's own account sees it. Raises `Unsupported` if it is banned."""
        try:
            answer = await self.api.call("GET", "rooms", room_id, "state", "m.room.member", account)
        except Refused as refused:
            if refused.status != 404:
                raise
            answer = {}
        membership = str(answer.get("membership", "leave"))
        self._banned.pop((account, room_id), None)
        if membership == "ban":
            self._is_banned(account, room_id)
            raise Unsupported("moderation")
        return membership

    def _is_banned(self, account: str, room_id: str) -> None:
        _log.info("ghost is banned", ghost=account, room=room_id)
        keep(self._banned, (account, room_id), self.clock.monotonic() + _TRY_AGAIN, _TROUBLES_REMEMBERED)

    async def _has_power(self, account: str, room_id: str) -> bool:
        """Whether the power levels, which may be a moment newer than what sync has told, let a ghost write."""
        state = self.rooms.state(room_id)
        answer = await self.api.call("GET", "rooms", room_id, "state", "m.room.power_levels", "")
        state.apply({"type": "m.room.power_levels", "state_key": "", "content": answer})
        return state.may_send(account)

    # --- Making one ---------------------------------------------------------------------------------------

    async def _join(self, ghost: Ghost, room_id: str, profile: Json) -> Ghost:
        """Bring a ghost into a room, or change its profile there: one event. The bot invites it if need be."""
        try:
            await self._made.put_member(ghost, room_id, profile)
        except Refused as refused:
            if refused.code == "M_UNKNOWN_DEVICE":
                ghost = await self._made.with_device(ghost)
            elif refused.code not in _SILENCED and (refused.status == 403 or refused.code == "M_BAD_STATE"):
                await self._membership(ghost.account, room_id)
                # Perhaps the homeserver has forgotten it.
                ghost = await self._made.register(ghost.account, profile)
                await self._made.invite(ghost.account, room_id)
            else:
                raise
            try:
                await self._made.put_member(ghost, room_id, profile)
            except Refused as again:
                if again.status != 403:
                    raise
                why = (
                    f"the room does not let its ghost in ({again.reason or again.code}): "
                    f"give {self.accounts.me} the power to invite, or open the room"
                )
                raise _Unusable(why, room=room_id) from again
        keep(self._changed, (ghost.account, room_id), self.clock.monotonic(), REMEMBERED)
        return ghost

    def _may_join(self, room_id: str) -> bool:
        """Whether one more ghost may join a room now."""
        return self._pace(room_id).left >= 1

    def _pace(self, room_id: str) -> _Pace:
        now = self.clock.monotonic()
        pace = self._paces.setdefault(room_id, _Pace(_JOINS_AT_ONCE, now))
        pace.left = min(_JOINS_AT_ONCE, pace.left + (now - pace.at) / _SECONDS_A_JOIN)
        pace.at = now
        return pace

    def _may_change(self, account: str, room_id: str) -> bool:
        """Whether a ghost may get another name or picture now; else its messages say themselves who wrote them."""
        changed = self._changed.get((account, room_id))
        return changed is None or self.clock.monotonic() - changed >= _SECONDS_A_PROFILE


def _listed(accounts: list[str], most: int = 3) -> str:
    more = f" and {len(accounts) - most} more" if len(accounts) > most else ""
    return ", ".join(accounts[:most]) + more
