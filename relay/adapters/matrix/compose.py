"""What a delivery looks like as the content of an event. Pure.

Every message says explicitly whom it mentions, so that no name in it notifies anybody by accident
(https://spec.matrix.org/latest/client-server-api/#user-and-room-mentions).
"""

import html
import json
from dataclasses import replace
from typing import Any

from relay.adapters.matrix import identity
from relay.adapters.matrix.markup import Look, Rendered, render
from relay.adapters.matrix.markup_links import write_link
from relay.core.ports import Delivery
from relay.domain.content import Author
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.richtext import RichText

Json = dict[str, Any]

_HTML = "org.matrix.custom.html"

MAX_TEXT_LENGTH = 28_000
"""In bytes of both bodies as JSON. An event may have 65,536 in all, and an edit says everything twice; the rest is for
the envelope that servers put around the content."""


def compose(delivery: Delivery) -> Json:
    """The content of the message that a delivery makes."""
    content = _said(delivery)
    relation = _relation(delivery)
    return content | {"m.relates_to": relation} if relation else content


def replacement(target: MessageRef, content: Json) -> Json:
    """The content of the event that makes `target` say `content`; its relations stay as they were."""
    new = {key: value for key, value in content.items() if key != "m.relates_to"}
    fallback = {"body": f"* {new['body']}"}
    if "formatted_body" in new:
        fallback["formatted_body"] = f"* {new['formatted_body']}"
    # Who was mentioned before is not to be notified again.
    return (
        new
        | fallback
        | {
            "m.new_content": new,
            "m.mentions": {},
            "m.relates_to": {"rel_type": "m.replace", "event_id": target.id},
        }
    )


def measure(text: RichText, author: Author | None) -> int:
    """Bytes of both bodies as JSON, with what is put in front of them for the author."""
    rendered = _rendered(text, author)
    return _bytes(rendered.body) + _bytes(rendered.formatted_body or "")


def _said(delivery: Delivery) -> Json:
    author = delivery.author
    rendered = _rendered(delivery.content.text, author)
    content: Json = {"msgtype": _msgtype(delivery), "body": rendered.body}
    if rendered.formatted_body is not None:
        content |= {"format": _HTML, "formatted_body": rendered.formatted_body}
    if author is not None:
        content[identity.PROFILE] = identity.profile(author)
    mentioned = dict.fromkeys(rendered.mentions)
    if delivery.replied_author is not None and delivery.replied_author.platform is Platform.MATRIX:
        # As clients do for a reply (https://spec.matrix.org/latest/client-server-api/#mentioning-the-replied-to-user).
        mentioned[delivery.replied_author.id] = None
    mentions: Json = {"user_ids": list(mentioned)} if mentioned else {}
    return content | {"m.mentions": mentions | ({"room": True} if rendered.room else {})}


def _rendered(text: RichText, author: Author | None) -> Rendered:
    rendered = render(text, look=_LOOK)
    body, formatted = rendered.body, rendered.formatted_body
    if author is not None:
        # Where the words need no HTML, the name still does.
        formatted = html.escape(body).replace("\n", "<br>") if formatted is None else formatted
        body = identity.plain_fallback(author) + body
        formatted = _in_front(identity.html_fallback(author), formatted)
    return replace(rendered, body=_clean(body), formatted_body=None if formatted is None else _clean(formatted))


def _in_front(fallback: str, formatted: str) -> str:
    """The name in the first paragraph's line, where there is one, rather than above it."""
    return f"<p>{fallback}{formatted[3:]}" if formatted.startswith("<p>") else fallback + formatted


def _msgtype(delivery: Delivery) -> str:
    # Bots do not answer notices (https://spec.matrix.org/latest/client-server-api/#mnotice): what the relay says
    # itself, and what bots of the other side say, must not start a conversation between machines.
    author = delivery.author
    if author is None or author.is_bot or delivery.content.style == "notice":
        return "m.notice"
    return "m.emote" if delivery.content.style == "emote" else "m.text"


def _relation(delivery: Delivery) -> Json:
    if delivery.thread is not None:
        root = delivery.thread.id
        answered = delivery.reply_to.id if delivery.reply_to is not None else root
        return {
            "rel_type": "m.thread",
            "event_id": root,
            "is_falling_back": delivery.reply_to is None,
            "m.in_reply_to": {"event_id": answered},
        }
    if delivery.reply_to is not None:
        return {"m.in_reply_to": {"event_id": delivery.reply_to.id}}
    return {}


def _ours(ref: ChannelRef | UserRef) -> str | None:
    return ref.id if ref.platform is Platform.MATRIX else None


def _media(source: MediaRef) -> str | None:
    return source.locator if source.platform is Platform.MATRIX else None


# What is still a broadcast here is one that its author may make and that the pair allows: `core.degrade` sees to it.
_LOOK = Look(
    user=lambda node: _ours(node.user),
    channel=lambda node: _ours(node.channel),
    message=lambda node: permalink(node.message) if node.message.platform is Platform.MATRIX else None,
    emoji=lambda node: _media(node.source),
    image=lambda node: _media(node.source),
    broadcast=True,
)


def permalink(message: MessageRef) -> str:
    """A link to a message that any client opens (https://spec.matrix.org/latest/appendices/#matrixto-navigation)."""
    server = message.channel.id.partition(":")[2]
    return write_link(message.channel.id, message.id, via=(server,) if server else ())


def _clean(text: str) -> str:
    """Without what no homeserver stores: lone surrogates and the null character."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode())
