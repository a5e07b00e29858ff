"""Channels and threads: https://discord.com/developers/docs/resources/channel."""

from typing import Any

from aiohttp import web

from relay.sandbox import errors
from relay.sandbox.messages.forms import Form
from relay.sandbox.messages.threads import Threads
from relay.sandbox.rest.api import Api, Reply
from relay.sandbox.rest.requests import Call
from relay.sandbox.world import render
from relay.sandbox.world.models import Channel
from relay.sandbox.world.permissions import Permission

_PUBLIC = frozenset({10, 11})
_ARCHIVE_AFTER = frozenset({60, 1440, 4320, 10080})


class ChannelRoutes:
    """`/channels/{id}` and everything about threads."""

    def __init__(self, api: Api, threads: Threads) -> None:
        self.api = api
        self.state = api.state
        self.threads = threads

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        add = self.api.add
        add(router, "GET", "/channels/{channel_id}", self.get)
        add(router, "PATCH", "/channels/{channel_id}", self.modify)
        add(router, "DELETE", "/channels/{channel_id}", self.delete)
        add(router, "POST", "/channels/{channel_id}/messages/{message_id}/threads", self.open_on)
        add(router, "POST", "/channels/{channel_id}/threads", self.open)
        add(router, "GET", "/channels/{channel_id}/threads/archived/public", self.archived)
        add(router, "GET", "/channels/{channel_id}/thread-members", self.members)
        add(router, "PUT", "/channels/{channel_id}/thread-members/@me", self.join)
        add(router, "DELETE", "/channels/{channel_id}/thread-members/@me", self.leave)
        add(router, "GET", "/guilds/{guild_id}/threads/active", self.active)

    async def get(self, call: Call) -> Any:
        """One channel."""
        return render.channel(call.channel())

    async def modify(self, call: Call) -> Any:
        """Another name or topic; of a thread, whether it is archived."""
        channel = call.channel()
        form = Form(await call.json())
        name = form.text("name", most=100, least=1)
        topic = form.text("topic", most=1024)
        archived, locked = form.flag("archived"), form.flag("locked")
        form.check()
        if channel.thread is not None:
            own = channel.thread.owner_id == call.user.id
            # https://discord.com/developers/docs/resources/channel#modify-channel-json-params-thread: whoever may
            # write in a thread may open it again, unless it is locked.
            opens = "archived" in form and not archived and name is None and not channel.thread.locked
            if opens and "locked" not in form:
                call.need(channel, Permission.SEND_MESSAGES_IN_THREADS)
            elif not own or "locked" in form:
                call.need(channel, Permission.MANAGE_THREADS)
            if channel.thread.archived and not ("archived" in form and not archived):
                raise errors.thread_archived()
            channel.name = name or channel.name
            is_archived = archived if "archived" in form else channel.thread.archived
            self.threads.archive(channel, archived=is_archived, locked=locked if "locked" in form else None)
            return render.channel(channel)
        call.need(channel, Permission.MANAGE_CHANNELS)
        channel.name = name or channel.name
        channel.topic = topic if "topic" in form else channel.topic
        self.state.channel_changed(channel)
        return render.channel(channel)

    async def delete(self, call: Call) -> Any:
        """Remove a channel or a thread."""
        channel = call.channel()
        if channel.thread is not None:
            call.need(channel, Permission.MANAGE_THREADS)
            self.threads.delete(channel)
        else:
            call.need(channel, Permission.MANAGE_CHANNELS)
            self.state.delete_channel(channel)
        return render.channel(channel)

    # --- Threads ------------------------------------------------------------------------------------------

    async def open_on(self, call: Call) -> Any:
        """A thread on a message."""
        channel = call.channel(Permission.VIEW_CHANNEL | Permission.READ_MESSAGE_HISTORY)
        message = self.state.message(channel, call.id("message_id"))
        name, archive_after, _ = await self._asked(call)
        thread = self.threads.open_on(channel, message, call.user, name, archive_after)
        return Reply(self._shown(call, thread), 201)

    async def open(self, call: Call) -> Any:
        """A thread without a message; private unless the type says otherwise."""
        channel = call.channel()
        name, archive_after, kind = await self._asked(call)
        thread = self.threads.open(channel, call.user, name, kind, archive_after)
        return Reply(self._shown(call, thread), 201)

    async def active(self, call: Call) -> Any:
        """The threads of a guild that are not archived."""
        guild = call.guild()
        threads = [t for t in guild.threads.values() if t.thread and not t.thread.archived]
        threads = [t for t in threads if self.state.can_view(call.user.id, t)]
        mine = [t for t in threads if t.thread and call.user.id in t.thread.members]
        return {
            "threads": [render.channel(t) for t in threads],
            "members": [self.threads.member(t, call.user.id) for t in mine],
        }

    async def archived(self, call: Call) -> Any:
        """The archived public threads of a channel, a page at a time: what was archived last comes first.

        https://discord.com/developers/docs/resources/channel#list-public-archived-threads
        """
        channel = call.channel(Permission.VIEW_CHANNEL | Permission.READ_MESSAGE_HISTORY)
        query = Form(dict(call.request.query))
        limit = query.integer("limit", least=2, most=100, default=50)
        before = query.moment("before")
        query.check()
        own = self.state.guilds[channel.guild_id].threads.values()
        found = [(t.thread.archived_at, t) for t in own if t.parent_id == channel.id and t.type in _PUBLIC and t.thread]
        listed = [(at, t) for at, t in found if t.thread and t.thread.archived and (before is None or at < before)]
        listed.sort(key=lambda one: one[0], reverse=True)
        threads = [render.channel(t) for _, t in listed[:limit]]
        return {"threads": threads, "members": [], "has_more": len(listed) > limit}

    async def members(self, call: Call) -> Any:
        """Who is in a thread."""
        thread = self._thread(call)
        return [self.threads.member(thread, user_id) for user_id in thread.thread.members] if thread.thread else []

    async def join(self, call: Call) -> Any:
        """The bot joins a thread."""
        thread = self._thread(call)
        if thread.thread is not None and thread.thread.archived:
            raise errors.thread_archived()
        self.threads.join(thread, call.user)

    async def leave(self, call: Call) -> Any:
        """The bot leaves a thread."""
        self.threads.leave(self._thread(call), call.user)

    async def _asked(self, call: Call) -> tuple[str, int, int]:
        form = Form(await call.json())
        name = form.text("name", most=100, least=1, required=True) or ""
        archive_after = form.integer("auto_archive_duration", most=10080, default=4320)
        kind = form.integer("type", least=10, most=12, default=12)
        if archive_after not in _ARCHIVE_AFTER:
            values = "(60, 1440, 4320, 10080)"
            form.mistake("auto_archive_duration", "BASE_TYPE_CHOICES", f"Value must be one of {values}.")
        form.check()
        return name, archive_after, kind

    def _thread(self, call: Call) -> Channel:
        channel = call.channel()
        if channel.thread is None:
            raise errors.wrong_channel_type()
        return channel

    def _shown(self, call: Call, thread: Channel) -> Any:
        return render.channel(thread) | {"member": self.threads.member(thread, call.user.id)}
