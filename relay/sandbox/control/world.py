"""Control: who and what there is. Every method is also `POST /_sandbox/<name>`; IDs may be numbers or strings."""

from relay.sandbox import errors
from relay.sandbox.control.base import ControlBase, Id
from relay.sandbox.rest.avatars import avatar_view
from relay.sandbox.world import permissions, render
from relay.sandbox.world.dispatch import Dispatch, Intent
from relay.sandbox.world.models import DISCORD_EPOCH_MS, Guild, Json, Overwrite, User
from relay.sandbox.world.permissions import Permission
from relay.sandbox.world.pictures import read_picture
from relay.sandbox.world.state import new_token

# https://discord.com/developers/docs/resources/audit-log#audit-log-entry-object-audit-log-events
_BAN_ADDED, _BAN_REMOVED = 22, 23


class WorldControl(ControlBase):
    """Guilds, channels, people, bots, roles, webhooks."""

    def create_person(self, name: str, display_name: str | None = None, avatar: Json | None = None) -> Json:
        """A person; `avatar` a file (see `say`). Returns the user."""
        user = self._state.add_user(name, display_name=display_name)
        if avatar is not None:
            user.avatar = self._state.remember_avatar(self._file(avatar))
        return render.user(user)

    def create_guild(self, name: str, owner: Id | None = None, boost_tier: int = 0) -> Json:
        """A guild without channels; its owner is made if not given. Returns the guild."""
        person = self._user(owner) if owner is not None else self._state.add_user(f"owner-of-{name.lower()}")
        guild = self._state.add_guild(name, person)
        guild.boost_tier = boost_tier
        return render.guild(guild)

    def create_channel(self, guild: Id, name: str, type: int = 0, topic: str | None = None) -> Json:  # noqa: A002
        """A channel; `type` as Discord numbers them. Returns the channel."""
        return render.channel(self._state.add_channel(self._guild(guild), name, kind=type, topic=topic))

    def create_bot(
        self,
        name: str,
        guild: Id | None = None,
        permissions: list[str] | None = None,
        message_content: bool = True,
        members: bool = True,
        presences: bool = False,
    ) -> Json:
        """An application with its bot, invited to `guild` with `permissions` (names; default: what a relay is given).

        Returns `{"id", "token"}`.
        """
        app = self._state.add_application(name)
        app.message_content, app.members, app.presences = message_content, members, presences
        if guild is not None:
            self.invite(app.id, guild, permissions)
        return {"id": str(app.id), "token": app.token}

    def invite(self, bot: Id, guild: Id, permissions: list[str] | None = None) -> Json:
        """Add a bot to a guild. Returns its member."""
        app = self._state.applications[int(bot)]
        return render.member(self._state.add_bot(self._guild(guild), app, _bits(permissions)))

    def bootstrap(
        self,
        channels: list[str] | None = None,
        people: list[str] | None = None,
        guild: str = "Sandbox",
        bot: str = "relay",
    ) -> Json:
        """A guild with channels, people and a bot at once.

        Returns `{"guild", "bot", "token", "channels": {name: id}, "people": {name: id}}`.
        """
        made = self._state.add_guild(guild, self._state.add_user("owner"))
        app = self.create_bot(bot, made.id)
        found_channels = {name: self.create_channel(made.id, name)["id"] for name in channels or ["general"]}
        found_people = {}
        for name in people or ["Ada", "Ben"]:
            found_people[name] = self.create_person(name.lower(), name)["id"]
            self.join(made.id, found_people[name])
        return {
            "guild": str(made.id),
            "bot": app["id"],
            "token": app["token"],
            "channels": found_channels,
            "people": found_people,
        }

    def join(self, guild: Id, user: Id, nick: str | None = None, announce_in: Id | None = None) -> Json:
        """A person joins a guild; Discord welcomes them in the channel `announce_in`. Returns the member."""
        if self._user(user).id in self._guild(guild).bans:
            raise errors.banned()
        member = self._state.add_member(self._guild(guild), self._user(user), nick=nick)
        if announce_in is not None:
            self._parts.messages.system(self._channel(announce_in), member.user, 7)
        return render.member(member)

    def kick(self, guild: Id, user: Id) -> None:
        """A member, also a bot, is thrown out."""
        where, gone = self._guild(guild), self._user(user)
        if gone.bot:
            body: Json = {"id": str(where.id)}
            self._state.emit(Dispatch("GUILD_DELETE", Intent.GUILDS, where.id, lambda _: body, None, gone.id))
        where.members.pop(gone.id)
        for role in [item for item in where.roles.values() if item.managed_by == gone.id]:
            del where.roles[role.id]
            gone_role = {"guild_id": str(where.id), "role_id": str(role.id)}
            self._state.emit_fixed("GUILD_ROLE_DELETE", Intent.GUILDS, where.id, gone_role)
        body_left: Json = {"guild_id": str(where.id), "user": render.user(gone)}
        self._state.emit_fixed("GUILD_MEMBER_REMOVE", Intent.GUILD_MEMBERS, where.id, body_left)

    def ban(
        self, guild: Id, user: Id, reason: str | None = None, delete_seconds: int = 0, by: Id | None = None
    ) -> None:
        """A moderator (the owner, if not given) bans somebody, member or not, and deletes what they wrote last."""
        where, gone = self._guild(guild), self._user(user)
        if gone.id in where.members:
            self.kick(guild, user)
        where.bans[gone.id] = reason
        self._tell_of_ban("GUILD_BAN_ADD", where, gone)
        self._state.audit(where, _BAN_ADDED, where.owner_id if by is None else int(by), gone.id, reason)
        since = self._state.clock() - delete_seconds
        for channel in [*where.channels.values(), *where.threads.values()] if delete_seconds else []:
            theirs = (one.id for one in channel.messages.values() if one.author_id == gone.id)
            if written := [one for one in theirs if _sent(one) >= since]:
                self._parts.messages.remove(channel, written)

    def unban(self, guild: Id, user: Id) -> None:
        """The ban is lifted. Whoever it was may join again."""
        where, freed = self._guild(guild), self._user(user)
        if freed.id not in where.bans:
            raise errors.unknown("Ban")
        del where.bans[freed.id]
        self._tell_of_ban("GUILD_BAN_REMOVE", where, freed)
        self._state.audit(where, _BAN_REMOVED, where.owner_id, freed.id, None)

    def _tell_of_ban(self, event: str, guild: Guild, user: User) -> None:
        """Only bots hear of it that may ban, or read the audit log.

        https://discord.com/developers/docs/events/gateway-events#guild-ban-add
        """
        body: Json = {"guild_id": str(guild.id), "user": render.user(user)}
        for member in guild.members.values():
            may = self._state.guild_permissions(guild, member.user.id)
            if member.user.bot and may & (Permission.BAN_MEMBERS | Permission.VIEW_AUDIT_LOG):
                told = member.user.id
                self._state.emit(Dispatch(event, Intent.GUILD_MODERATION, guild.id, lambda _: dict(body), None, told))

    def rename(
        self, user: Id, guild: Id | None = None, nick: str | None = None, display_name: str | None = None
    ) -> None:
        """Another nickname in `guild`, another display name, or both."""
        person = self._user(user)
        person.global_name = display_name or person.global_name
        for where in self._state.guilds.values():
            member = where.members.get(person.id)
            if member is not None:
                if guild is not None and where.id == int(guild):
                    member.nick = nick
                self._state.tell_member("GUILD_MEMBER_UPDATE", where, member)

    def create_role(
        self, guild: Id, name: str, permissions: list[str] | None = None, mentionable: bool = False
    ) -> Json:
        """A role that nobody has yet. Returns it."""
        return render.role(
            self._state.add_role(self._guild(guild), name, _bits(permissions or []), mentionable=mentionable)
        )

    def set_role(self, guild: Id, user: Id, role: Id, held: bool = True) -> None:
        """Give a member a role, or take it away."""
        where = self._guild(guild)
        member = where.members[int(user)]
        member.roles = [item for item in member.roles if item != int(role)] + ([int(role)] if held else [])
        self._state.tell_member("GUILD_MEMBER_UPDATE", where, member)

    def set_channel_permissions(
        self, channel: Id, target: Id, allow: list[str] | None = None, deny: list[str] | None = None
    ) -> None:
        """What a role or a user (a bot too) may do in one channel; neither list: back to the guild's rules."""
        where = self._channel(channel)
        kind = 0 if int(target) in self._state.guilds[where.guild_id].roles else 1
        if not allow and not deny:
            self._state.clear_overwrite(where, int(target))
            return
        overwrite = Overwrite(int(target), kind, _bits(allow or []), _bits(deny or []))
        self._state.set_overwrite(where, overwrite)

    def set_bot_permissions(self, bot: Id, guild: Id, permissions: list[str] | None = None) -> None:
        """What the bot's own role gives it; None: what a relay is given. @everyone's rights stay."""
        where = self._guild(guild)
        role = next(role for role in where.roles.values() if role.managed_by == int(bot))
        role.permissions = _bits(permissions)
        self._state.role_changed(where, role)

    def set_intents(
        self,
        bot: Id,
        message_content: bool | None = None,
        members: bool | None = None,
        presences: bool | None = None,
    ) -> None:
        """The switches of the developer portal. Sessions that are connected keep what they have, as on Discord."""
        app = self._state.applications[int(bot)]
        app.message_content = app.message_content if message_content is None else message_content
        app.members = app.members if members is None else members
        app.presences = app.presences if presences is None else presences

    def reset_token(self, bot: Id) -> Json:
        """A new token; sessions with the old one end with 4004. Returns `{"token"}`."""
        app = self._state.applications[int(bot)]
        app.token = new_token(app.id)
        for connection in tuple(self._parts.gateway.connections):
            if connection.session is not None and connection.session.app is app:
                connection.close(4004)
        return {"token": app.token}

    def set_age_restriction(self, channel: Id, restricted: bool = True) -> None:
        """Mark a channel as for adults only, or take the mark away."""
        where = self._channel(channel)
        where.nsfw = restricted
        self._state.channel_changed(where)

    def time_out(self, guild: Id, user: Id, seconds: float = 600.0) -> None:
        """A moderator times a member out, also a bot: it may only read meanwhile. 0 seconds: no longer."""
        where = self._guild(guild)
        member = where.members[int(user)]
        member.timed_out_until = self._state.clock() + seconds if seconds else 0.0
        self._state.tell_member("GUILD_MEMBER_UPDATE", where, member)

    def delete_channel(self, channel: Id) -> None:
        """Remove a channel or a thread."""
        where = self._channel(channel)
        if where.thread is not None:
            self._parts.threads.delete(where)
        else:
            self._state.delete_channel(where)

    def set_boost_tier(self, guild: Id, tier: int) -> None:
        """0 to 3: files of 10, 10, 50 or 100 MiB."""
        where = self._guild(guild)
        where.boost_tier = tier
        self._state.emit_fixed("GUILD_UPDATE", Intent.GUILDS, where.id, render.guild(where))

    def set_guild_age_restriction(self, guild: Id, restricted: bool = True) -> None:
        """The owner says that a whole server is for adults: its channels keep the marks that they have."""
        where = self._guild(guild)
        where.nsfw = restricted
        self._state.emit_fixed("GUILD_UPDATE", Intent.GUILDS, where.id, render.guild(where))

    def guild_outage(self, guild: Id, down: bool = True) -> None:
        """The guild becomes unavailable to all bots, or comes back."""
        where = self._guild(guild)
        where.available = not down
        for app in self._state.applications.values():
            if app.user.id in where.members:
                self._state.tell_availability(where, app.user.id)

    def create_emoji(self, guild: Id, name: str, file: Json, animated: bool = False) -> Json:
        """An emoji of the guild; `file` as in `say`. Returns it."""
        return render.emoji(self._state.add_emoji(self._guild(guild), name, self._file(file), animated=animated))

    def create_application_emoji(self, bot: Id, name: str, file: Json) -> Json:
        """The operator uploads an emoji in the developer portal; `file` as in `say`. Returns it."""
        app, stored = self._state.applications[int(bot)], self._file(file)
        picture = read_picture(stored.path.read_bytes())
        animated = picture is not None and picture.animated
        return render.emoji(
            self._state.add_application_emoji(app, name, stored, self._state.owner_of(app), animated=animated)
        )

    def application_emojis(self, bot: Id) -> list[Json]:
        """The emoji of a bot's application, oldest first; `user` is who uploaded it."""
        return [render.emoji(emoji) for emoji in self._state.applications[int(bot)].emojis.values()]

    def delete_application_emoji(self, bot: Id, emoji: Id) -> None:
        """The operator deletes an emoji in the developer portal."""
        app = self._state.applications[int(bot)]
        self._state.remove_application_emoji(app, app.emojis[int(emoji)])

    def avatars(self) -> list[Json]:
        """What Discord got at each `avatar_url` that a webhook named: `error` is null where it is a picture.

        The journal tells of each as `SANDBOX_AVATAR`.
        """
        return [avatar_view(found) for found in self._state.fetched_avatars.values()]

    def create_sticker(self, guild: Id, name: str, format: int, file: Json, description: str = "") -> Json:  # noqa: A002
        """A sticker of the guild; `format` 1 PNG, 2 APNG, 3 Lottie, 4 GIF. Returns it."""
        where, stored = self._guild(guild), self._file(file)
        return render.sticker(self._state.add_sticker(where, name, format, stored, description=description))

    def create_webhook(self, channel: Id, name: str, creator: Id) -> Json:
        """A webhook that `creator` made. Returns it with its token."""
        user = self._user(creator)
        return render.webhook(self._parts.webhooks.create(self._channel(channel), name, user), user)

    def delete_webhook(self, webhook: Id) -> None:
        """Somebody deletes a webhook."""
        self._parts.webhooks.delete(self._state.webhook(int(webhook)))

    def move_webhook(self, webhook: Id, channel: Id) -> None:
        """Somebody moves a webhook to another channel."""
        hook, where = self._state.webhook(int(webhook)), self._channel(channel)
        self._parts.webhooks.move(hook, where)
        self._parts.webhooks.changed(where)

    def webhooks(self, channel: Id) -> list[Json]:
        """The webhooks of a channel, with their tokens."""
        hooks = self._parts.webhooks.of_channel(self._channel(channel))
        return [render.webhook(hook, self._state.users.get(hook.creator_id)) for hook in hooks]

    def channels(self, guild: Id | None = None) -> list[Json]:
        """All channels and threads, or those of one guild."""
        return [
            render.channel(channel)
            for channel in self._state.channels.values()
            if guild is None or channel.guild_id == int(guild)
        ]

    def members(self, guild: Id) -> list[Json]:
        """All members of a guild."""
        return [render.member(member) for member in self._guild(guild).members.values()]


def _bits(names: list[str] | None) -> permissions.Permission:
    if names is None:
        return permissions.BOT
    try:
        return permissions.parse(names)
    except KeyError as error:
        raise errors.ApiError(400, 0, f"no such permission: {error.args[0]}") from None


def _sent(message: int) -> float:
    """When a message was sent, in seconds since 1970."""
    return ((message >> 22) + DISCORD_EPOCH_MS) / 1000
