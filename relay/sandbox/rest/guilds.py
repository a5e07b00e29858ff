"""The bot itself, and the guilds it is in: their channels, members, roles, emoji and stickers. Reading only."""

from typing import Any

from aiohttp import web

from relay.sandbox import errors
from relay.sandbox.gateway.sessions import Sessions
from relay.sandbox.messages.forms import Form
from relay.sandbox.rest.api import Api
from relay.sandbox.rest.requests import Call
from relay.sandbox.world import render
from relay.sandbox.world.models import Emoji, Guild, Json
from relay.sandbox.world.permissions import Permission

# Parts of an audit log that nothing here is about.
_OTHER_AUDIT_PARTS = (
    "application_commands",
    "auto_moderation_rules",
    "guild_scheduled_events",
    "integrations",
    "threads",
    "webhooks",
)


class GuildRoutes:
    """`/guilds/{id}…` and `/stickers/{id}`: https://discord.com/developers/docs/resources/guild."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.state = api.state

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        add = self.api.add
        add(router, "GET", "/guilds/{guild_id}", self.get)
        add(router, "GET", "/guilds/{guild_id}/channels", self.channels)
        add(router, "GET", "/guilds/{guild_id}/members", self.members)
        add(router, "GET", "/guilds/{guild_id}/members/search", self.search)
        add(router, "GET", "/guilds/{guild_id}/members/{user_id}", self.member)
        add(router, "GET", "/guilds/{guild_id}/bans", self.bans)
        add(router, "GET", "/guilds/{guild_id}/bans/{user_id}", self.ban)
        add(router, "GET", "/guilds/{guild_id}/audit-logs", self.audit_log)
        add(router, "GET", "/guilds/{guild_id}/roles", self.roles)
        add(router, "GET", "/guilds/{guild_id}/roles/{role_id}", self.role)
        add(router, "GET", "/guilds/{guild_id}/emojis", self.emojis)
        add(router, "GET", "/guilds/{guild_id}/emojis/{emoji_id}", self.emoji)
        add(router, "GET", "/guilds/{guild_id}/stickers", self.stickers)
        add(router, "GET", "/guilds/{guild_id}/stickers/{sticker_id}", self.sticker)
        add(router, "GET", "/stickers/{sticker_id}", self.sticker)

    async def get(self, call: Call) -> Any:
        """The guild; with its size if `with_counts` is true."""
        guild = call.guild()
        body = render.guild(guild)
        if call.switch("with_counts"):
            body |= {"approximate_member_count": len(guild.members), "approximate_presence_count": len(guild.members)}
        return body

    async def channels(self, call: Call) -> Any:
        """All channels that the bot may view, but no threads."""
        seen = [self.state.shown(channel, call.user.id) for channel in call.guild().channels.values()]
        return [channel for channel in seen if not channel["flags"]]

    async def members(self, call: Call) -> Any:
        """A page of members by ID; only with the members intent in the developer portal."""
        guild = call.guild()
        if call.app is None or not call.app.members:
            raise errors.missing_access()
        query = Form(dict(call.request.query))
        limit, after = query.integer("limit", least=1, most=1000, default=1), query.snowflake("after") or 0
        query.check()
        ids = sorted(user_id for user_id in guild.members if user_id > after)[:limit]
        return [render.member(guild.members[user_id]) for user_id in ids]

    async def search(self, call: Call) -> Any:
        """Members whose name or nickname starts with the query."""
        guild = call.guild()
        query = Form(dict(call.request.query))
        text = query.text("query", most=100, least=1, required=True) or ""
        limit = query.integer("limit", least=1, most=1000, default=1)
        query.check()
        wanted = text.lower()
        found = [
            member
            for member in guild.members.values()
            if any(name and name.lower().startswith(wanted) for name in (member.user.username, member.nick))
        ]
        return [render.member(member) for member in found[:limit]]

    async def member(self, call: Call) -> Any:
        """One member."""
        guild = call.guild()
        user_id = call.id("user_id")
        self.state.user(user_id)
        if user_id not in guild.members:
            raise errors.unknown("Member")
        return render.member(guild.members[user_id])

    async def bans(self, call: Call) -> Any:
        """A page of bans by user ID, at most 1,000; only for bots that may ban."""
        guild = self._may_ban(call)
        query = Form(dict(call.request.query))
        limit = query.integer("limit", least=1, most=1000, default=1000)
        after, before = query.snowflake("after") or 0, query.snowflake("before")
        query.check()
        ids = sorted(user_id for user_id in guild.bans if user_id > after and (before is None or user_id < before))
        # `before` gives the last of them, and both together only `after`'s.
        found = ids[-limit:] if before is not None and not after else ids[:limit]
        return [self._ban(guild, user_id) for user_id in found]

    async def ban(self, call: Call) -> Any:
        """One ban."""
        guild, user_id = self._may_ban(call), call.id("user_id")
        if user_id not in guild.bans:
            raise errors.unknown("Ban")
        return self._ban(guild, user_id)

    def _may_ban(self, call: Call) -> Guild:
        guild = call.guild()
        if not self.state.guild_permissions(guild, call.user.id) & Permission.BAN_MEMBERS:
            raise errors.missing_permissions()
        return guild

    def _ban(self, guild: Guild, user_id: int) -> Json:
        return {"reason": guild.bans[user_id], "user": render.user(self.state.user(user_id))}

    async def audit_log(self, call: Call) -> Any:
        """What was done to a guild, the newest first; only for bots that may view it.

        https://discord.com/developers/docs/resources/audit-log#get-guild-audit-log
        """
        guild = call.guild()
        if not self.state.guild_permissions(guild, call.user.id) & Permission.VIEW_AUDIT_LOG:
            raise errors.missing_permissions()
        query = Form(dict(call.request.query))
        limit, action = query.integer("limit", least=1, most=100, default=50), query.integer("action_type", most=1000)
        user, before, after = (query.snowflake(name) for name in ("user_id", "before", "after"))
        query.check()
        found = [
            entry
            for entry in guild.audit_log
            if action in (0, entry.action)
            and user in (None, entry.user_id)
            and (before is None or entry.id < before)
            and (after is None or entry.id > after)
        ]
        # With `after`, the oldest come first.
        page = found[:limit] if after is not None else found[::-1][:limit]
        people = {one for entry in page for one in (entry.user_id, entry.target_id) if one in self.state.users}
        return {
            "audit_log_entries": [render.audit_entry(entry) for entry in page],
            "users": [render.user(self.state.user(one)) for one in sorted(people)],
            **{key: [] for key in _OTHER_AUDIT_PARTS},
        }

    async def roles(self, call: Call) -> Any:
        """All roles."""
        return [render.role(role) for role in call.guild().roles.values()]

    async def role(self, call: Call) -> Any:
        """One role."""
        roles = call.guild().roles
        role_id = call.id("role_id")
        if role_id not in roles:
            raise errors.unknown("Role")
        return render.role(roles[role_id])

    async def emojis(self, call: Call) -> Any:
        """The guild's own emoji."""
        return [render.emoji(emoji) for emoji in call.guild().emojis.values()]

    async def emoji(self, call: Call) -> Any:
        """One emoji of the guild."""
        emojis: dict[int, Emoji] = call.guild().emojis
        emoji_id = call.id("emoji_id")
        if emoji_id not in emojis:
            raise errors.unknown("Emoji")
        return render.emoji(emojis[emoji_id])

    async def stickers(self, call: Call) -> Any:
        """The guild's own stickers."""
        return [render.sticker(sticker) for sticker in call.guild().stickers.values()]

    async def sticker(self, call: Call) -> Any:
        """One sticker."""
        return render.sticker(self.state.sticker(call.id("sticker_id")))


class BotRoutes:
    """`/users`, `/applications`, `/gateway`."""

    def __init__(self, api: Api, sessions: Sessions) -> None:
        self.api = api
        self.sessions = sessions

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        self.api.add(router, "GET", "/users/@me", self.me)
        self.api.add(router, "GET", "/users/@me/guilds", self.my_guilds)
        self.api.add(router, "GET", "/users/{user_id}", self.user)
        self.api.add(router, "GET", "/applications/@me", self.application)
        self.api.add(router, "GET", "/oauth2/applications/@me", self.application)
        self.api.add(router, "GET", "/gateway", self.gateway, bot=False)
        self.api.add(router, "GET", "/gateway/bot", self.gateway_bot)

    async def me(self, call: Call) -> Any:
        """https://discord.com/developers/docs/resources/user#get-current-user."""
        if call.app is None:
            raise errors.unauthorised()
        return render.own_user(call.app)

    async def my_guilds(self, call: Call) -> Any:
        """https://discord.com/developers/docs/resources/user#get-current-user-guilds."""
        return [
            {
                "id": str(guild.id),
                "name": guild.name,
                "icon": None,
                "banner": None,
                "owner": guild.owner_id == call.user.id,
                "permissions": str(int(self.api.state.guild_permissions(guild, call.user.id))),
                "features": [],
            }
            for guild in self.api.state.guilds.values()
            if call.user.id in guild.members
        ]

    async def user(self, call: Call) -> Any:
        """https://discord.com/developers/docs/resources/user#get-user."""
        return render.user(self.api.state.user(call.id("user_id")))

    async def application(self, call: Call) -> Any:
        """https://discord.com/developers/docs/resources/application#get-current-application."""
        if call.app is None:
            raise errors.unauthorised()
        return render.application(call.app, self.api.state.owner_of(call.app))

    async def gateway(self, call: Call) -> Any:
        """https://discord.com/developers/docs/events/gateway#get-gateway."""
        return {"url": self.sessions.gateway_url}

    async def gateway_bot(self, call: Call) -> Any:
        """https://discord.com/developers/docs/events/gateway#get-gateway-bot."""
        shards, start = self.sessions.recommended_shards(call.user.id), self.sessions.start_limit(call.user.id)
        return {"url": self.sessions.gateway_url, "shards": shards, "session_start_limit": start}
