"""The bot itself: who it is, its application, and where its gateway is."""

from typing import Any

from aiohttp import web

from relay.sandbox.gateway.sessions import Sessions
from relay.sandbox.rest import errors
from relay.sandbox.rest.api import Api
from relay.sandbox.rest.requests import Call
from relay.sandbox.world import render


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
        start = self.sessions.start_limit(call.user.id)
        return {"url": self.sessions.gateway_url, "shards": 1, "session_start_limit": start}
