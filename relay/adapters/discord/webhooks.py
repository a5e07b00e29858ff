"""The one webhook of each channel that the relay posts through: found, made, and made again."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from relay.adapters.discord.api.client import Method, RestClient, Route
from relay.adapters.discord.api.errors import MISSING, ApiError, ErrorCode, Refused, Unanswered
from relay.adapters.discord.api.rate_limits import POSTING_MAX_WAIT
from relay.adapters.discord.identifiers import is_snowflake, is_token
from relay.domain.jsontext import Json, as_list
from relay.errors import StoreUnavailable
from relay.logs import get_logger

_log = get_logger(__name__)

WEBHOOK_NAME = "relay"
# How many webhooks are remembered for a channel.
_MAX_HOMES = 5


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook that we may post through."""

    id: str
    # Its credential.
    token: str

    def __repr__(self) -> str:
        return f"Webhook(id={self.id!r})"

    def route(self, thread: str | None = None) -> Route:
        """Where to post: in the webhook's channel, or in a thread there."""
        ids = {"webhook": self.id, "token": self.token}
        path = "/webhooks/{webhook}/{token}"
        return Route("POST", path, ids, token=False, max_wait=POSTING_MAX_WAIT, query=_in_thread(thread))

    def message_route(self, method: Method, message: str, thread: str | None = None) -> Route:
        """Where to change or delete a message that it posted."""
        ids = {"webhook": self.id, "token": self.token, "message": message}
        path = "/webhooks/{webhook}/{token}/messages/{message}"
        return Route(method, path, ids, token=False, query=_in_thread(thread))


def _in_thread(thread: str | None) -> dict[str, str]:
    return {} if thread is None else {"thread_id": thread}


@dataclass(slots=True)
class Webhooks:
    """The webhooks of our application: one for each channel, found again after a restart by their owner.

    A moderator may move a webhook to another channel at any time, and it keeps its token
    (https://docs.discord.com/developers/resources/webhook#modify-webhook). What is posted through it would then appear
    there, without an error. So the webhooks of a channel are listed again after each WEBHOOKS_UPDATE. And the *home* of
    each webhook, the channel that it was first used for, is kept in the store: a webhook that is not at home is never
    used.
    """

    rest: RestClient
    # Writes the homes to the store: a channel, and the webhooks that were used for it.
    keep_homes: Callable[[str, tuple[str, ...]], Awaitable[None]]
    # Every webhook known to be ours. What they post is an echo.
    ids: set[str] = field(init=False, default_factory=set)
    _application: str = field(init=False, default="")
    _user: str = field(init=False, default="")
    # The channels in which webhooks come without a token.
    _tokenless: set[str] = field(init=False, default_factory=set)
    _by_channel: dict[str, tuple[Webhook, ...]] = field(init=False, default_factory=dict)
    _tokens: dict[str, str] = field(init=False, default_factory=dict)
    # The webhooks that were used for a channel, the latest last.
    _homes: dict[str, tuple[str, ...]] = field(init=False, default_factory=dict)
    # The channels whose webhooks have to be listed again.
    _changed: set[str] = field(init=False, default_factory=set)
    _locks: dict[str, asyncio.Lock] = field(init=False, default_factory=dict)

    def set_owner(self, application: str, user: str) -> None:
        """Set the IDs of our application and our user, by which our webhooks are recognised."""
        self._application = application
        self._user = user

    def is_restored(self, channel: str) -> bool:
        """Whether `restore` has been called for a channel."""
        return channel in self._homes

    def restore(self, channel: str, webhooks: tuple[str, ...]) -> None:
        """Set the webhooks that were used for a channel before the restart."""
        self._homes.setdefault(channel, webhooks)
        self.ids.update(webhooks)

    def changed(self, channel: str) -> None:
        """A webhook of the channel was made, deleted or moved: list them again before the next use."""
        self._changed.add(channel)

    def may_have_changed(self, is_concerned: Callable[[str], bool]) -> None:
        """The same for each channel in which events may have been missed."""
        self._changed.update(filter(is_concerned, self._by_channel))

    async def list_guild(self, guild: str) -> None:
        """List all webhooks of a guild in one request. The bot needs Manage Webhooks in the whole guild."""
        listed = await self.rest.call(Route("GET", "/guilds/{guild}/webhooks", {"guild": guild}))
        if not isinstance(listed, list):
            return
        channels = {item["channel_id"] for item in listed if item.get("channel_id")}
        for channel in channels:
            self._changed.discard(channel)
            self._learn(channel, [item for item in listed if item.get("channel_id") == channel])

    async def get_or_make(self, channel: str) -> Webhook:
        """The channel's webhook, made if there is none. Raises `ApiError`."""
        async with self._lock(channel):
            if not self._by_channel.get(channel) or channel in self._changed:
                await self._list_channel(channel)
            if not self._by_channel.get(channel):
                self._keep(channel, [await self._make(channel)])
            webhook = self._by_channel[channel][0]
            await self._record_home(channel, webhook)
            return webhook

    def used_for(self, channel: str) -> tuple[str, ...]:
        """The webhooks that were used for a channel lately, wherever they are now."""
        return self._homes.get(channel, ())

    async def current_channel(self, webhook_id: str) -> str | None:
        """The channel that one of our webhooks posts into now; None if that is not known. Raises `ApiError`."""
        token = self._tokens.get(webhook_id)
        route = Route("GET", "/webhooks/{webhook}", {"webhook": webhook_id})
        if token is not None:
            ids = {"webhook": webhook_id, "token": token}
            route = Route("GET", "/webhooks/{webhook}/{token}", ids, token=False)
        try:
            found = await self.rest.call(route)
        except Refused as error:
            # It was deleted, or moved to a channel where the bot may not manage webhooks.
            _log.info("webhook not looked up", webhook=webhook_id, status=error.status, code=error.code)
            return None
        where = found.get("channel_id") if isinstance(found, dict) else None
        return str(where) if is_snowflake(where) else None

    async def find(self, channel: str, webhook_id: str, *, may_list: bool = True) -> Webhook | None:
        """The webhook of that ID, if it is ours and still in the channel. Raises `ApiError`.

        `may_list`: whether the bot may list the webhooks there. Where it may not, only what is known already is found,
        and it may have been moved: for want of that permission, nothing that can do without must wait.
        """
        async with self._lock(channel):
            known = None if channel in self._changed and may_list else self._known(channel, webhook_id)
            if known is None and may_list:
                try:
                    await self._list_channel(channel)
                except Refused as error:
                    if error.code not in MISSING:
                        raise
                known = self._known(channel, webhook_id)
            return known

    def gone(self, channel: str, webhook: Webhook) -> None:
        """Somebody has deleted it, or changed its token. Discord demands that it is not used again."""
        _log.warning("webhook deleted by somebody", channel=channel, webhook=webhook.id)
        self._forget(channel, webhook)

    def moved(self, channel: str, webhook: Webhook, where: str) -> None:
        """Somebody has moved it to the channel `where`."""
        _log.warning("webhook moved by somebody", channel=channel, webhook=webhook.id, moved_to=where)
        self._forget(channel, webhook)

    def _forget(self, channel: str, webhook: Webhook) -> None:
        self._by_channel[channel] = tuple(one for one in self._by_channel.get(channel, ()) if one.id != webhook.id)

    async def _record_home(self, channel: str, webhook: Webhook) -> None:
        """Write to the store that this channel is the webhook's home, before anything is posted through it."""
        known = self._homes.get(channel, ())
        if webhook.id in known:
            return
        homes = (*known, webhook.id)[-_MAX_HOMES:]
        try:
            await self.keep_homes(channel, homes)
        except StoreUnavailable as error:
            raise Unanswered(f"the webhook's channel cannot be remembered ({error.reason})", sent=False) from error
        self._homes[channel] = homes

    def _known(self, channel: str, webhook_id: str) -> Webhook | None:
        return next((one for one in self._by_channel.get(channel, ()) if one.id == webhook_id), None)

    async def _list_channel(self, channel: str) -> None:
        # Cleared before the request, so that a change during it is not lost.
        self._changed.discard(channel)
        try:
            listed = await self.rest.call(Route("GET", "/channels/{channel}/webhooks", {"channel": channel}))
        except Refused as error:
            if not error.unexplained:
                self._changed.add(channel)
                raise
            return  # a server without this route: the webhooks that we made are known
        except ApiError:
            self._changed.add(channel)
            raise
        self._learn(channel, as_list(listed))

    async def _make(self, channel: str) -> Webhook:
        if channel in self._tokenless:
            raise Refused(403, ErrorCode.TOO_MANY_WEBHOOKS, "webhooks come without a token here")
        made = await self.rest.call(
            Route("POST", "/channels/{channel}/webhooks", {"channel": channel}),
            body={"name": WEBHOOK_NAME},
            reason="Mirrors messages of the paired Matrix room",
        )
        if not isinstance(made, dict) or not is_snowflake(made.get("id")):
            raise Unanswered("Discord's answer does not contain the webhook's ID", sent=True, answered=True)
        if not is_token(made.get("token")):
            # The next webhook would have no token either.
            self._tokenless.add(channel)
            raise Refused(403, ErrorCode.TOO_MANY_WEBHOOKS, "a webhook came without a token")
        _log.info("webhook made", channel=channel, webhook=made["id"])
        return Webhook(str(made["id"]), str(made["token"]))

    def _learn(self, channel: str, listed: list[Json]) -> None:
        # The oldest first, so that two daemons that each made one end up using the same.
        away = {one for home, used in self._homes.items() if home != channel for one in used}
        ours = [item for item in sorted(listed, key=_age) if self.is_ours(item) and str(item["id"]) not in away]
        self._keep(channel, [Webhook(str(item["id"]), str(item["token"])) for item in ours])

    def _keep(self, channel: str, ours: list[Webhook]) -> None:
        self._by_channel[channel] = tuple(ours)
        self.ids.update(webhook.id for webhook in ours)
        self._tokens.update((webhook.id, webhook.token) for webhook in ours)

    def is_ours(self, item: Json) -> bool:
        """Whether a webhook was made by our application, or by our user, and can be used."""
        # Webhooks that follow an announcement channel, and those of other applications, come without a token.
        if not (is_token(item.get("token")) and is_snowflake(item.get("id"))):
            return False
        user = item.get("user")
        made_by = str(user.get("id", "")) if isinstance(user, dict) else ""
        return str(item.get("application_id") or "-") == self._application or (made_by != "" and made_by == self._user)

    def _lock(self, channel: str) -> asyncio.Lock:
        return self._locks.setdefault(channel, asyncio.Lock())


def _age(item: Json) -> int:
    return int(item["id"])


def is_gone(error: Refused) -> bool:
    """Whether the answer tells that the webhook does not exist any more, or that its token is invalid."""
    gone = error.code in {ErrorCode.UNKNOWN_WEBHOOK, ErrorCode.INVALID_WEBHOOK_TOKEN, ErrorCode.THREAD_NEEDED}
    return gone or (error.status == 401 and error.code == 0) or error.unexplained
