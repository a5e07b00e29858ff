"""Messages -> JSON, as one viewer gets them."""

from typing import TYPE_CHECKING

from relay.sandbox.world import render
from relay.sandbox.world.dispatch import OMNISCIENT, Viewer
from relay.sandbox.world.models import Attachment, Json, Message, Reaction

if TYPE_CHECKING:
    from relay.sandbox.world.state import State


def attachment(state: "State", subject: Attachment) -> Json:
    """https://discord.com/developers/docs/resources/message#attachment-object; the URLs are signed now."""
    body: Json = {
        "id": str(subject.id),
        "filename": subject.filename,
        "size": subject.file.size,
        "url": state.signer.url(subject),
        "proxy_url": state.signer.proxy_url(subject),
        "content_scan_version": 0,
    }
    optional: Json = {
        "title": subject.title,
        "description": subject.description,
        "content_type": subject.content_type,
        "width": subject.width,
        "height": subject.height,
        "duration_secs": subject.duration_secs,
        "waveform": subject.waveform,
        "flags": subject.flags or None,
    }
    return body | {key: value for key, value in optional.items() if value is not None}


def reaction_emoji(subject: Reaction) -> Json:
    """The emoji of a reaction."""
    body: Json = {"id": str(subject.emoji_id) if subject.emoji_id is not None else None, "name": subject.name}
    return body | {"animated": True} if subject.animated else body


def _reaction(subject: Reaction, viewer: Viewer) -> Json:
    return {
        "emoji": reaction_emoji(subject),
        "count": len(subject.users),
        "count_details": {"burst": 0, "normal": len(subject.users)},
        "burst_colors": [],
        "me_burst": False,
        "burst_me": False,
        "me": viewer.user_id in subject.users,
        "burst_count": 0,
    }


def message(state: "State", subject: Message, viewer: Viewer = OMNISCIENT, *, nested: bool = False) -> Json:
    """https://discord.com/developers/docs/resources/message#message-object as `viewer` gets it.

    `nested`: it stands in another message, and shows none inside itself.
    """
    author = subject.webhook_author or render.user(state.user(subject.author_id))
    body: Json = {
        "id": str(subject.id),
        "channel_id": str(subject.channel_id),
        "author": author,
        "type": subject.type,
        "content": subject.content,
        "timestamp": render.iso(subject.created_at),
        "edited_timestamp": render.iso_or_none(subject.edited_at),
        "tts": subject.tts,
        "mention_everyone": subject.pinged.everyone,
        "mentions": [render.user(state.user(user_id)) for user_id in subject.pinged.users],
        "mention_roles": [str(role_id) for role_id in subject.pinged.roles],
        "attachments": [attachment(state, item) for item in subject.attachments],
        "embeds": subject.embeds,
        "components": subject.components,
        "pinned": subject.pinned_at is not None,
        "flags": subject.flags,
    }
    if subject.webhook_id is not None:
        body["webhook_id"] = str(subject.webhook_id)
    if subject.application_id is not None:
        body["application_id"] = str(subject.application_id)
    if subject.sticker_ids:
        body["sticker_items"] = [render.sticker_item(state.sticker(item)) for item in subject.sticker_ids]
    if subject.reactions:
        body["reactions"] = [_reaction(item, viewer) for item in subject.reactions]
    if subject.poll is not None:
        body["poll"] = _poll(subject, subject.poll, viewer)
    if subject.snapshots:
        files = [attachment(state, item) for item in subject.snapshot_attachments]
        body["message_snapshots"] = [{"message": snapshot | {"attachments": files}} for snapshot in subject.snapshots]
    if subject.reference is not None:
        body["message_reference"] = subject.reference
        if not nested and subject.type in {19, 21}:
            target = state.find_message(subject.reference)
            body["referenced_message"] = None if target is None else message(state, target, viewer, nested=True)
    thread = state.channels.get(subject.id)
    if thread is not None and not nested:
        body["thread"] = render.channel(thread)
    body |= subject.extra
    return body if _may_read(subject, viewer) else blank(body)


def _may_read(subject: Message, viewer: Viewer) -> bool:
    return viewer.content or viewer.user_id == subject.author_id or viewer.user_id in subject.pinged.users


def blank(body: Json) -> Json:
    """What is left of a message without the message content intent.

    https://discord.com/developers/docs/events/gateway#message-content-intent
    """
    body = body | {"content": "", "embeds": [], "attachments": [], "components": []}
    body.pop("poll", None)
    body.pop("message_snapshots", None)
    return body


def _poll(subject: Message, poll: Json, viewer: Viewer) -> Json:
    counts = [
        {"id": answer_id, "count": len(users), "me_voted": viewer.user_id in users}
        for answer_id, users in subject.poll_votes.items()
        if users
    ]
    return poll | {"results": {"is_finalized": subject.poll_over, "answer_counts": counts}}
