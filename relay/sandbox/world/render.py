"""State -> the JSON objects of Discord's documentation, version 10 of the API. Messages: `messages/render.py`."""

from datetime import UTC, datetime

from relay.sandbox.world.models import (
    Application,
    AuditEntry,
    Channel,
    Emoji,
    Guild,
    Json,
    Member,
    Role,
    Sticker,
    User,
    Webhook,
)


def iso(seconds: float) -> str:
    """A timestamp as Discord writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def iso_or_none(seconds: float | None) -> str | None:
    """A timestamp, or null."""
    return None if seconds is None else iso(seconds)


def user(subject: User) -> Json:
    """https://discord.com/developers/docs/resources/user#user-object."""
    body: Json = {
        "id": str(subject.id),
        "username": subject.username,
        "discriminator": subject.discriminator,
        "global_name": subject.global_name,
        "avatar": subject.avatar,
        "public_flags": 0,
        "flags": 0,
        "avatar_decoration_data": None,
        "banner": None,
        "accent_color": None,
        "clan": None,
        "primary_guild": None,
    }
    if subject.bot:
        body["bot"] = True
    return body


def own_user(app: Application) -> Json:
    """`GET /users/@me` of a bot."""
    return user(app.user) | {
        "verified": True,
        "mfa_enabled": True,
        "locale": "en-US",
        "premium_type": 0,
        "email": None,
        "bio": "",
    }


def application_flags(app: Application) -> int:
    """The limited privileged intents, as they show in an application's flags."""
    return (app.presences << 13) | (app.members << 15) | (app.message_content << 19)


def application(app: Application, owner: User) -> Json:
    """https://discord.com/developers/docs/resources/application#application-object."""
    return {
        "id": str(app.id),
        "name": app.name,
        "icon": None,
        "description": "",
        "summary": "",
        "type": None,
        "bot_public": False,
        "bot_require_code_grant": False,
        "verify_key": "0" * 64,
        "flags": application_flags(app),
        "hook": True,
        "owner": user(owner),
        "team": None,
        "bot": user(app.user),
        "approximate_guild_count": 1,
        "redirect_uris": [],
        "interactions_endpoint_url": None,
        "role_connections_verification_url": None,
    }


def role(subject: Role) -> Json:
    """https://discord.com/developers/docs/topics/permissions#role-object."""
    body: Json = {
        "id": str(subject.id),
        "name": subject.name,
        "description": None,
        "color": subject.colour,
        "colors": {"primary_color": subject.colour, "secondary_color": None, "tertiary_color": None},
        "hoist": False,
        "icon": None,
        "unicode_emoji": None,
        "position": subject.position,
        "permissions": str(int(subject.permissions)),
        "managed": subject.managed_by is not None,
        "mentionable": subject.mentionable,
        "flags": 0,
    }
    if subject.managed_by is not None:
        body["tags"] = {"bot_id": str(subject.managed_by)}
    return body


def member(subject: Member, *, with_user: bool = True) -> Json:
    """https://discord.com/developers/docs/resources/guild#guild-member-object."""
    body: Json = {
        "nick": subject.nick,
        "avatar": None,
        "banner": None,
        "roles": [str(role_id) for role_id in subject.roles],
        "joined_at": iso(subject.joined_at),
        "premium_since": None,
        "deaf": False,
        "mute": False,
        "flags": 0,
        "pending": False,
        "communication_disabled_until": iso(subject.timed_out_until) if subject.timed_out_until else None,
    }
    if with_user:
        body["user"] = user(subject.user)
    return body


def emoji(subject: Emoji) -> Json:
    """https://discord.com/developers/docs/resources/emoji#emoji-object."""
    body: Json = {
        "id": str(subject.id),
        "name": subject.name,
        "roles": [],
        "require_colons": True,
        "managed": False,
        "animated": subject.animated,
        "available": True,
    }
    if subject.uploader is not None:
        body["user"] = user(subject.uploader)
    return body


def sticker(subject: Sticker) -> Json:
    """https://discord.com/developers/docs/resources/sticker#sticker-object."""
    body: Json = sticker_item(subject) | {
        "description": subject.description,
        "tags": subject.tags,
        "type": 1 if subject.guild_id is None else 2,
        "available": True,
    }
    if subject.guild_id is not None:
        body["guild_id"] = str(subject.guild_id)
    return body


def sticker_item(subject: Sticker) -> Json:
    """A sticker as a message shows it."""
    return {"id": str(subject.id), "name": subject.name, "format_type": subject.format}


def webhook(subject: Webhook, creator: User | None, *, token: bool = True) -> Json:
    """https://discord.com/developers/docs/resources/webhook#webhook-object; `creator` is not shown to a token."""
    body: Json = {
        "id": str(subject.id),
        "type": 1,
        "guild_id": str(subject.guild_id),
        "channel_id": str(subject.channel_id),
        "name": subject.name,
        "avatar": subject.avatar,
        "application_id": str(subject.application_id) if subject.application_id is not None else None,
    }
    if creator is not None:
        body["user"] = user(creator)
    if token:
        body["token"] = subject.token
    return body


def hidden_channel(subject: Channel) -> Json:
    """A channel as the gateway tells of it to who may not view it.

    https://docs.discord.com/developers/change-log#channel-obfuscation-for-users-and-bots, since 16 November 2026.
    """
    denied = {"id": str(subject.guild_id), "type": 0, "allow": "0", "deny": str(1 << 10)}
    return channel(subject) | {
        "name": "___hidden___",
        "topic": None,
        "nsfw": False,
        "last_message_id": None,
        "last_pin_timestamp": None,
        "rate_limit_per_user": 0,
        "flags": 1 << 17,
        "permission_overwrites": [denied],
    }


def channel(subject: Channel) -> Json:
    """https://discord.com/developers/docs/resources/channel#channel-object."""
    body: Json = {
        "id": str(subject.id),
        "type": subject.type,
        "guild_id": str(subject.guild_id),
        "name": subject.name,
        "parent_id": str(subject.parent_id) if subject.parent_id is not None else None,
        "last_message_id": str(subject.last_message_id) if subject.last_message_id is not None else None,
        "rate_limit_per_user": subject.slowmode,
        "last_pin_timestamp": iso_or_none(subject.last_pin_at),
        "flags": 0,
    }
    if subject.thread is None:
        body |= {
            "topic": subject.topic,
            "nsfw": subject.nsfw,
            "position": subject.position,
            "default_auto_archive_duration": 4320,
            "permission_overwrites": [
                {"id": str(o.id), "type": o.type, "allow": str(int(o.allow)), "deny": str(int(o.deny))}
                for o in subject.overwrites.values()
            ],
        }
        return body
    thread = subject.thread
    return body | {
        "owner_id": str(thread.owner_id),
        "message_count": len(subject.order),
        "total_message_sent": thread.total_sent,
        "member_count": min(len(thread.members), 50),
        "thread_metadata": {
            "archived": thread.archived,
            "auto_archive_duration": thread.auto_archive_duration,
            "archive_timestamp": iso(thread.archived_at),
            "locked": thread.locked,
            "create_timestamp": iso(thread.archived_at),
            **({"invitable": True} if subject.type == 12 else {}),
        },
    }


def guild(subject: Guild) -> Json:
    """https://discord.com/developers/docs/resources/guild#guild-object."""
    return {
        "id": str(subject.id),
        "name": subject.name,
        "icon": None,
        "splash": None,
        "discovery_splash": None,
        "owner_id": str(subject.owner_id),
        "region": "deprecated",
        "afk_channel_id": None,
        "afk_timeout": 300,
        "verification_level": 0,
        "default_message_notifications": 0,
        "explicit_content_filter": 0,
        "roles": [role(item) for item in subject.roles.values()],
        "emojis": [emoji(item) for item in subject.emojis.values()],
        "stickers": [sticker(item) for item in subject.stickers.values()],
        "features": [],
        "mfa_level": 0,
        "application_id": None,
        "system_channel_id": None,
        "system_channel_flags": 0,
        "rules_channel_id": None,
        "max_presences": None,
        "max_members": 500000,
        "vanity_url_code": None,
        "description": None,
        "banner": None,
        "premium_tier": subject.boost_tier,
        "premium_subscription_count": (0, 2, 7, 14)[subject.boost_tier],
        "preferred_locale": "en-US",
        "public_updates_channel_id": None,
        "safety_alerts_channel_id": None,
        "max_video_channel_users": 25,
        "max_stage_video_channel_users": 50,
        "nsfw_level": 3 if subject.nsfw else 0,
        "nsfw": subject.nsfw,
        "premium_progress_bar_enabled": False,
        "incidents_data": None,
        "widget_enabled": False,
        "widget_channel_id": None,
    }


def audit_entry(subject: AuditEntry) -> Json:
    """An entry of an audit log; `reason` is only there if one was given."""
    body: Json = {
        "id": str(subject.id),
        "action_type": subject.action,
        "user_id": str(subject.user_id),
        "target_id": str(subject.target_id),
        "changes": [],
    }
    return body if subject.reason is None else body | {"reason": subject.reason}
