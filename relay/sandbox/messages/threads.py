"""Threads: https://discord.com/developers/docs/topics/threads."""

from relay.sandbox import errors
from relay.sandbox.messages.drafts import Draft
from relay.sandbox.messages.events import where
from relay.sandbox.messages.messages import Messages
from relay.sandbox.world import render
from relay.sandbox.world.dispatch import Dispatch, Intent, Viewer
from relay.sandbox.world.models import Channel, Json, Message, Thread, User
from relay.sandbox.world.permissions import Permission

HAS_THREAD = 1 << 5
_PARENTS = frozenset({0, 5})
FORUMS = frozenset({15, 16})
_PRIVATE = 12
_GUILDS = Intent.GUILDS


class Threads:
    """Opens and closes threads."""

    def __init__(self, messages: Messages) -> None:
        self.state = messages.state
        self.messages = messages

    def open_on(self, channel: Channel, message: Message, user: User, name: str, archive_after: int = 4320) -> Channel:
        """A thread on a message; it has the message's ID."""
        self._check(channel, user, Permission.CREATE_PUBLIC_THREADS)
        if message.id in self.state.channels:
            raise errors.thread_exists()
        thread = self._make(channel, message.id, 11, user, name, archive_after)
        message.flags |= HAS_THREAD
        self.messages.emit("MESSAGE_UPDATE", channel, message)
        starter = {"type": 0} | where(channel, message)
        self.messages.system(thread, user, 21, reference=starter)
        return thread

    def open(self, channel: Channel, user: User, name: str, kind: int = 11, archive_after: int = 4320) -> Channel:
        """A thread without a message; Discord announces a public one in the channel."""
        private = kind == 12
        self._check(channel, user, Permission.CREATE_PRIVATE_THREADS if private else Permission.CREATE_PUBLIC_THREADS)
        thread = self._make(channel, self.state.snowflakes.next(), kind, user, name, archive_after)
        if not private:
            reference = {"type": 0, "channel_id": str(thread.id), "guild_id": str(channel.guild_id)}
            self.messages.system(channel, user, 18, content=name, reference=reference)
        return thread

    def post(self, forum: Channel, user: User, name: str, draft: Draft, archive_after: int = 4320) -> Channel:
        """A post in a forum: a thread whose first message has its ID.

        https://discord.com/developers/docs/resources/channel#start-thread-in-forum-or-media-channel
        """
        if forum.type not in FORUMS:
            raise errors.wrong_channel_type()
        self.state.require(user.id, forum, Permission.SEND_MESSAGES)
        thread = self._make(forum, self.state.snowflakes.next(), 11, user, name, archive_after)

        def first(message: Message) -> None:
            message.id = thread.id

        self.messages.post(thread, user, draft, first)
        return thread

    def join(self, thread: Channel, user: User) -> None:
        """Become a member of a thread."""
        if thread.thread is None:
            raise errors.wrong_channel_type()
        if user.id not in thread.thread.members:
            thread.thread.members.append(user.id)
            if thread.type == _PRIVATE:
                self._tell_of(thread, user.id, new=False)
            self._members_changed(thread, added=[user], removed=[])

    def leave(self, thread: Channel, user: User) -> None:
        """Stop being a member of a thread."""
        if thread.thread is None:
            raise errors.wrong_channel_type()
        if user.id in thread.thread.members:
            thread.thread.members.remove(user.id)
            self._members_changed(thread, added=[], removed=[user])

    def archive(self, thread: Channel, *, archived: bool, locked: bool | None = None) -> None:
        """Archive a thread or open it again."""
        if thread.thread is None:
            raise errors.wrong_channel_type()
        thread.thread.archived = archived
        thread.thread.archived_at = self.state.clock()
        thread.thread.locked = thread.thread.locked if locked is None else locked
        self.state.channel_changed(thread)

    def delete(self, thread: Channel) -> None:
        """Remove a thread and its messages."""
        guild = self.state.guilds[thread.guild_id]
        guild.threads.pop(thread.id, None)
        body: Json = {
            "id": str(thread.id),
            "guild_id": str(thread.guild_id),
            "parent_id": str(thread.parent_id),
            "type": thread.type,
        }
        self.state.emit_fixed("THREAD_DELETE", _GUILDS, guild.id, body, thread)
        self.state.channels.pop(thread.id, None)

    def member(self, thread: Channel, user_id: int) -> Json:
        """https://discord.com/developers/docs/resources/channel#thread-member-object."""
        joined = render.iso(thread.thread.archived_at if thread.thread else 0)
        return {"id": str(thread.id), "user_id": str(user_id), "join_timestamp": joined, "flags": 1}

    def _check(self, channel: Channel, user: User, needed: Permission) -> None:
        self.state.require(user.id, channel, Permission.VIEW_CHANNEL)
        if channel.type not in _PARENTS:
            raise errors.wrong_channel_type()
        self.state.require(user.id, channel, needed)

    def _make(self, parent: Channel, thread_id: int, kind: int, user: User, name: str, archive_after: int) -> Channel:
        now = self.state.clock()
        inner = Thread(user.id, auto_archive_duration=archive_after, archived_at=now, members=[user.id])
        thread = Channel(thread_id, parent.guild_id, name, kind, parent.id, thread=inner)
        guild = self.state.guilds[parent.guild_id]
        guild.threads[thread.id] = self.state.channels[thread.id] = thread

        self._tell_of(thread)
        self._members_changed(thread, added=[user], removed=[])
        return thread

    def _tell_of(self, thread: Channel, user_id: int | None = None, *, new: bool = True) -> None:
        """THREAD_CREATE: for everybody who sees the thread, or for one user who was added to a private one."""

        def created(viewer: Viewer) -> Json:
            body = render.channel(thread) | ({"newly_created": True} if new else {})
            if thread.thread and viewer.user_id in thread.thread.members and viewer.user_id is not None:
                body["member"] = self.member(thread, viewer.user_id)
            return body

        self.state.emit(Dispatch("THREAD_CREATE", _GUILDS, thread.guild_id, created, thread, user_id))

    def _members_changed(self, thread: Channel, *, added: list[User], removed: list[User]) -> None:
        guild = self.state.guilds[thread.guild_id]
        count = len(thread.thread.members) if thread.thread else 0

        def concerning_others(viewer: Viewer) -> Json:
            body: Json = {"id": str(thread.id), "guild_id": str(guild.id), "member_count": count}
            body["added_members"] = [self.member(thread, user.id) for user in added]
            body["removed_member_ids"] = [str(user.id) for user in removed]
            return body

        self.state.emit(Dispatch("THREAD_MEMBERS_UPDATE", Intent.GUILD_MEMBERS, guild.id, concerning_others, thread))
