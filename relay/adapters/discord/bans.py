"""The bans of servers, as Discord lists them: who is banned, and who decided it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import MISSING, ApiError, Refused
from relay.adapters.discord.gateway.guild_cache import GuildCache
from relay.adapters.discord.identifiers import Shard
from relay.adapters.discord.permissions import NO_BANS
from relay.core.moderation.ports import Decision
from relay.domain.ids import PlaceRef, Platform, UserRef
from relay.domain.jsontext import Json, as_dict, as_list, as_string
from relay.errors import ActionNeeded, Transient

# https://docs.discord.com/developers/resources/audit-log#audit-log-entry-object-audit-log-events
_BAN_ADDED, _BAN_REMOVED = 22, 23
_PAGE = 1_000


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Bans:
    """Lists bans, and knows when some may have been missed."""

    rest: RestClient
    guilds: GuildCache
    # Whether Discord has refused to list some since then.
    refused: bool = field(init=False, default=False)
    # How often some may have been missed, and which time it was last: in each shard, and in all together.
    _missed: int = field(init=False, default=0)
    _missed_in: dict[int | None, int] = field(init=False, default_factory=dict)

    def may_be_missed(self, shard: Shard | None = None) -> None:
        """In the servers of a shard, or in all of them."""
        self._missed += 1
        self._missed_in[None if shard is None else shard.number] = self._missed
        self.refused = False

    def version(self, place: PlaceRef) -> int:
        """See `BanReader.bans_version`: a new session may have missed some."""
        missed = self._missed_in
        return max(missed.get(None, 0), missed.get(self.guilds.shard_of(place.id), 0))

    async def listed(self, place: PlaceRef) -> AsyncIterator[Sequence[UserRef]]:
        """See `BanReader.bans`."""
        try:
            async for page in self._banned(place.id):
                yield page
        except Refused as error:
            if error.code not in MISSING:
                raise Transient(f"Discord does not list the bans of server {place.id} ({error.message})") from None
            self.refused = True
            raise ActionNeeded(NO_BANS) from None
        except ApiError as error:
            raise Transient(f"Discord does not list the bans of server {place.id} ({error})") from None

    async def decision(self, place: PlaceRef, user: UserRef, *, lifted: bool) -> Decision | None:
        """See `BanReader.decision`: as the audit log has it."""
        try:
            entry = await self._audit_entry(place.id, _BAN_REMOVED if lifted else _BAN_ADDED, user.id)
        except Refused as error:
            kind = ActionNeeded if error.code in MISSING else Transient
            raise kind(f"Discord does not show the audit log of server {place.id} ({error.message})") from None
        except ApiError as error:
            raise Transient(f"Discord does not show the audit log of server {place.id} ({error})") from None
        return None if entry is None else Decision(as_string(entry.get("user_id")), as_string(entry.get("reason")))

    async def _banned(self, guild: str) -> AsyncIterator[Sequence[UserRef]]:
        """Who is banned from a server, a page at a time. Raises `ApiError`.

        https://docs.discord.com/developers/resources/guild#get-guild-bans
        """
        after = "0"
        while True:
            query = {"limit": str(_PAGE), "after": after}
            page = await self.rest.call(Route("GET", "/guilds/{guild}/bans", {"guild": guild}), query=query)
            found = [str((item.get("user") or {}).get("id")) for item in page]
            yield [UserRef(Platform.DISCORD, one) for one in found if one.isdecimal()]
            if len(found) < _PAGE:
                return
            after = max(found, key=int)

    async def _audit_entry(self, guild: str, action: int, user: str) -> Json | None:
        """The newest entry in a server's audit log about what was done to somebody. Raises `ApiError`.

        https://docs.discord.com/developers/resources/audit-log#get-guild-audit-log: needs View Audit Log.
        """
        query = {"action_type": str(action), "limit": "100"}
        log = await self.rest.call(Route("GET", "/guilds/{guild}/audit-logs", {"guild": guild}), query=query)
        entries = as_list(as_dict(log).get("audit_log_entries"))
        return next((one for one in map(as_dict, entries) if str(one.get("target_id")) == user), None)
