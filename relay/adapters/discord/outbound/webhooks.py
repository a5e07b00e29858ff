"""The one webhook of each channel that the relay posts through: found, made, and made again."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from relay.adapters.discord.api.client import Json, Method, RestClient, Route
from relay.adapters.discord.api.errors import ApiError, ErrorCode, Refused, Unanswered
from relay.adapters.discord.api.rate_limits import POSTING_MAX_WAIT
from relay.adapters.discord.identifiers import is_snowflake, is_token
from relay.errors import StoreUnavailable

_log = structlog.get_logger(__name__)

WEBHOOK_NAME = "relay"
# Of how many webhooks it is remembered for which channel they were made.
_REMEMBERED_IN_A_CHANNEL = 5


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook that we may post through. `token` is its credential."""

    id: str
    token: str

    def __repr__(self) -> str:
        return f"Webhook(id={self.id!r})"

    def route(self, thread: str | None = None) -> Route:
        """Where to post; `thread`: in a thread of the webhook's channel."""
        ids = {"webhook": self.id, "token": self.token}
        path = "/webhooks/{webhook}/{token}"
        return Route("POST", path, ids, token=False, max_wait=POSTING_MAX_WAIT, query=_in_thread(thread))

    def message_route(self, method: Method, message: str, thread: str | None = None) -> Route:
        """Where to change or delete what it posted."""
        ids = {"webhook": self.id, "token": self.token, "message": message}
        path = "/webhooks/{webhook}/{token}/messages/{message}"
        return Route(method, path, ids, token=False, query=_in_thread(thread))


def _in_thread(thread: str | None) -> dict[str, str]:
    return {} if thread is None else {"thread_id": thread}


class Webhooks:
    """The webhooks of our application: one for each channel, found again after a restart by who owns it.

    A moderator may move a webhook to another channel at any time
    (https://docs.discord.com/developers/resources/webhook#modify-webhook). It keeps its token, so what is posted
    through it would go there without an error. So what is known of a channel is looked up again after each
    WEBHOOKS_UPDATE, and the home of each webhook, the channel that it was first used for, is remembered in the store
    through `keep`: one that is away from home is never used.

    `ids` holds every webhook known to be ours: what they post is an echo.
    """

    def __init__(self, rest: RestClient, keep: Callable[[str, tuple[str, ...]], Awaitable[None]]) -> None:
        self._rest = rest
        self._keep_homes = keep
        self._application = ""
        self._user = ""
        self._tokenless: set[str] = set()
        self._by_channel: dict[str, tuple[Webhook, ...]] = {}
        self._tokens: dict[str, str] = {}
        self._homes: dict[str, tuple[str, ...]] = {}
        self._changed: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self.ids: set[str] = set()

    def belong_to(self, application: str, user: str) -> None:
        """Our application's and our user's ID, by which ours are told from those of others with the same name."""
        self._application = application
        self._user = user

    def remembers(self, channel: str) -> bool:
        """Whether `remember` has been called for a channel."""
        return channel in self._homes

    def remember(self, channel: str, webhooks: tuple[str, ...]) -> None:
        """These webhooks were used for a channel in an earlier life."""
        self._homes.setdefault(channel, webhooks)
        self.ids.update(webhooks)

    def changed(self, channel: str) -> None:
        """A webhook of the channel was made, deleted or moved, by whomever."""
        self._changed.add(channel)

    def something_missed(self) -> None:
        """There may have been changes everywhere."""
        self._changed.update(self._by_channel)

    async def survey(self, guild: str) -> None:
        """Look at all webhooks of a guild in one request. The bot needs Manage Webhooks in the whole guild."""
        listed = await self._rest.call(Route("GET", "/guilds/{guild}/webhooks", {"guild": guild}))
        if not isinstance(listed, list):
            return
        channels = {item["channel_id"] for item in listed if item.get("channel_id")}
        for channel in channels:
            self._changed.discard(channel)
            self._learn(channel, [item for item in listed if item.get("channel_id") == channel])

    async def of(self, channel: str) -> Webhook:
        """The channel's webhook, made if there is none. Raises an `ApiError`."""
        async with self._lock(channel):
            if not self._by_channel.get(channel) or channel in self._changed:
                await self._look(channel)
            if not self._by_channel.get(channel):
                self._keep(channel, [await self._make(channel)])
            hook = self._by_channel[channel][0]
            await self._settle(channel, hook)
            return hook

    def used_in(self, channel: str) -> tuple[str, ...]:
        """The webhooks that were used for a channel lately, wherever they are now."""
        return self._homes.get(channel, ())

    async def whereabouts(self, webhook: str) -> str | None:
        """The channel that one of our webhooks posts into now; None where that cannot be said. Raises an `ApiError`."""
        token = self._tokens.get(webhook)
        route = Route("GET", "/webhooks/{webhook}", {"webhook": webhook})
        if token is not None:
            ids = {"webhook": webhook, "token": token}
            route = Route("GET", "/webhooks/{webhook}/{token}", ids, token=False)
        try:
            found = await self._rest.call(route)
        except Refused as error:
            # Deleted, or moved to where the bot may not manage webhooks.
            _log.info("webhook not looked up", webhook=webhook, status=error.status, code=error.code)
            return None
        where = found.get("channel_id") if isinstance(found, dict) else None
        return str(where) if is_snowflake(where) else None

    async def owner(self, channel: str, webhook: str) -> Webhook | None:
        """The webhook of that ID, if it is ours and still there. Raises an `ApiError`."""
        async with self._lock(channel):
            known = None if channel in self._changed else self._known(channel, webhook)
            if known is None:
                await self._look(channel)
                known = self._known(channel, webhook)
            return known

    def gone(self, channel: str, webhook: Webhook) -> None:
        """Somebody has deleted it, or given it another token. Discord asks not to use it again."""
        _log.warning("webhook deleted by somebody", channel=channel, webhook=webhook.id)
        self._forget(channel, webhook)

    def moved(self, channel: str, webhook: Webhook, where: str) -> None:
        """Somebody has moved it to the channel `where`."""
        _log.warning("webhook moved by somebody", channel=channel, webhook=webhook.id, moved_to=where)
        self._forget(channel, webhook)

    def _forget(self, channel: str, webhook: Webhook) -> None:
        self._by_channel[channel] = tuple(one for one in self._by_channel.get(channel, ()) if one.id != webhook.id)

    async def _settle(self, channel: str, hook: Webhook) -> None:
        """Have it on disk that the webhook is at home here, before anything is posted through it."""
        known = self._homes.get(channel, ())
        if hook.id in known:
            return
        homes = (*known, hook.id)[-_REMEMBERED_IN_A_CHANNEL:]
        try:
            await self._keep_homes(channel, homes)
        except StoreUnavailable as error:
            raise Unanswered(f"the webhook's channel cannot be remembered ({error.reason})", sent=False) from error
        self._homes[channel] = homes

    def _known(self, channel: str, webhook: str) -> Webhook | None:
        return next((one for one in self._by_channel.get(channel, ()) if one.id == webhook), None)

    async def _look(self, channel: str) -> None:
        # Cleared before the question, so that a change meanwhile is not lost.
        self._changed.discard(channel)
        try:
            listed = await self._rest.call(Route("GET", "/channels/{channel}/webhooks", {"channel": channel}))
        except Refused as error:
            if not error.unexplained:
                self._changed.add(channel)
                raise
            return  # what was made here is known all the same
        except ApiError:
            self._changed.add(channel)
            raise
        self._learn(channel, listed if isinstance(listed, list) else [])

    async def _make(self, channel: str) -> Webhook:
        if channel in self._tokenless:
            raise Refused(403, ErrorCode.TOO_MANY_WEBHOOKS, "webhooks come without a token here")
        made = await self._rest.call(
            Route("POST", "/channels/{channel}/webhooks", {"channel": channel}),
            body={"name": WEBHOOK_NAME},
            reason="Mirrors messages of the paired Matrix room",
        )
        if not isinstance(made, dict) or not is_snowflake(made.get("id")):
            raise Unanswered("an answer from Discord without the webhook's ID", sent=True, answered=True)
        if not is_token(made.get("token")):
            # The next one would be no better.
            self._tokenless.add(channel)
            raise Refused(403, ErrorCode.TOO_MANY_WEBHOOKS, "a webhook came without a token")
        _log.info("webhook made", channel=channel, webhook=made["id"])
        return Webhook(str(made["id"]), str(made["token"]))

    def _learn(self, channel: str, listed: list[dict[str, Json]]) -> None:
        # The oldest first: two daemons that each made one end up using the same.
        away = {one for home, used in self._homes.items() if home != channel for one in used}
        ours = [item for item in sorted(listed, key=_age) if self._is_ours(item) and str(item["id"]) not in away]
        self._keep(channel, [Webhook(str(item["id"]), str(item["token"])) for item in ours])

    def _keep(self, channel: str, ours: list[Webhook]) -> None:
        self._by_channel[channel] = tuple(ours)
        self.ids.update(webhook.id for webhook in ours)
        self._tokens.update((webhook.id, webhook.token) for webhook in ours)

    def _is_ours(self, item: dict[str, Json]) -> bool:
        # Webhooks that follow a channel, and those of other applications, come without a token.
        if not (is_token(item.get("token")) and is_snowflake(item.get("id"))):
            return False
        user = item.get("user")
        made_by = str(user.get("id", "")) if isinstance(user, dict) else ""
        return str(item.get("application_id") or "-") == self._application or (made_by != "" and made_by == self._user)

    def _lock(self, channel: str) -> asyncio.Lock:
        return self._locks.setdefault(channel, asyncio.Lock())


def _age(item: dict[str, Json]) -> int:
    return int(item["id"])


def is_gone(error: Refused) -> bool:
    """Whether the answer says that the webhook itself is not there (any more), or that its token is not valid."""
    gone = error.code in {ErrorCode.UNKNOWN_WEBHOOK, ErrorCode.INVALID_WEBHOOK_TOKEN, ErrorCode.THREAD_NEEDED}
    return gone or (error.status == 401 and error.code == 0) or error.unexplained
