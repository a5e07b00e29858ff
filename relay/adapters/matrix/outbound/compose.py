"""What a delivery looks like as the content of an event. Pure.

Every message says explicitly whom it mentions, so that no name in it notifies anybody by accident
(https://spec.matrix.org/latest/client-server-api/#user-and-room-mentions).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from relay.adapters.matrix import identity
from relay.adapters.matrix.identifiers import matrix_to_link
from relay.adapters.matrix.markup import Rendered, Resolver, render
from relay.core.ports import Delivery
from relay.domain.content import Attachment, Author, MediaKind
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.text.nodes import RichText, Subtext, Text

Json = dict[str, Any]

_HTML = "org.matrix.custom.html"
_SPOILER = "page.codeberg.everypizza.msc4193.spoiler"
_VOICE = "org.matrix.msc3245.voice"
_AUDIO = "org.matrix.msc1767.audio"
# Our own: which attachment of the original a message carries, so that an edit can tell.
_FILE = "relay.attachment"
_FILE_KEYS = (_FILE, "filename", "url", "info", _SPOILER, _VOICE, _AUDIO)
_MSGTYPES: dict[MediaKind, str] = {
    "image": "m.image",
    # Not `m.sticker`: it has no room for the author's name, which many clients show only as a part of the text.
    "sticker": "m.image",
    "video": "m.video",
    "audio": "m.audio",
    "voice": "m.audio",
    "file": "m.file",
}
_SHOWN: tuple[MediaKind, ...] = ("image", "video", "audio")
_NO_PICTURES: Mapping[MediaRef, MediaRef] = {}

MAX_TEXT_LENGTH = 28_000
"""In bytes of both bodies as JSON. An event may have 65,536 in all, and an edit says everything twice; the rest is for
the envelope that servers put around the content."""

# With the description of a file.
_MOST_DESCRIBED = 29_000
# A description that is shorter than that fits everywhere.
_CUT_DESCRIPTION = 100


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture out of a video, as large as that, as this homeserver has it. `size` in bytes."""

    uri: str
    content_type: str
    size: int


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file as this homeserver has it: `uri` is its `mxc://` address, `size` in bytes, None where nobody knows."""

    attachment: Attachment
    uri: str
    name: str
    content_type: str
    size: int | None
    still: Thumbnail | None = None


Pictures = Mapping[MediaRef, MediaRef]
"""Where pictures of the other side stand on this homeserver."""


def compose(delivery: Delivery, uploaded: UploadedFile | None = None, pictures: Pictures = _NO_PICTURES) -> Json:
    """The content of the message that a delivery makes; `uploaded` is the file of one that has any."""
    content = _said(delivery, pictures)
    if uploaded is not None:
        content |= _file(uploaded)
        # With nobody's name in front and nothing said, the name of the file is all there is to say.
        content["body"] = content["body"] or uploaded.name
    relation = _relation(delivery)
    return content | {"m.relates_to": relation} if relation else content


def file_content(delivery: Delivery, standing: Json) -> Json | None:
    """What of a standing message's content makes the file in it, for saying something else beside it.

    Empty for a message without one; None where it is not the file that the delivery is about.
    """
    wanted = delivery.content.attachments[0].id if delivery.content.attachments else None
    if standing.get(_FILE) != wanted:
        return None
    return {} if wanted is None else {key: standing[key] for key in (*_FILE_KEYS, "msgtype") if key in standing}


def fingerprint(content: Json) -> Json:
    """By what an earlier try of the same delivery is recognised, wherever its file has been uploaded to."""
    return {key: content.get(key) for key in ("body", "formatted_body", _FILE)}


def edit_content(target: MessageRef, content: Json) -> Json:
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
    """Bytes of both bodies and of whom they mention as JSON, with what is put in front of them for the author."""
    rendered = _rendered(text, author, _MEASURED)
    mentions = sum(map(_bytes, rendered.mentions)) + 2 * len(rendered.mentions)
    return _bytes(rendered.body) + _bytes(rendered.formatted_body or "") + mentions


def _said(delivery: Delivery, pictures: Pictures) -> Json:
    author = delivery.author
    text = delivery.content.text
    for attachment in delivery.content.attachments:
        if attachment.alt:
            text = _described(text, " ".join(attachment.alt.split()), author)
    rendered = _rendered(text, author, _resolver(lambda source: _on_matrix(source, pictures)))
    content: Json = {"msgtype": _msgtype(delivery), "body": rendered.body}
    if rendered.formatted_body is not None:
        content |= {"format": _HTML, "formatted_body": rendered.formatted_body}
    if delivery.content.attachments:
        content[_FILE] = delivery.content.attachments[0].id
    if author is not None:
        content[identity.PROFILE] = identity.profile(author)
    mentioned = dict.fromkeys(rendered.mentions)
    calls = delivery.content.calls_answered
    if calls and delivery.replied_author is not None and delivery.replied_author.platform is Platform.MATRIX:
        # As clients do for a reply (https://spec.matrix.org/latest/client-server-api/#mentioning-the-replied-to-user).
        mentioned[delivery.replied_author.id] = None
    mentions: Json = {"user_ids": list(mentioned)} if mentioned else {}
    return content | {"m.mentions": mentions | ({"room": True} if rendered.room else {})}


def _described(text: RichText, words: str, author: Author | None) -> RichText:
    """`text` with the description of a file below it, cut to what is left of the event."""
    while True:
        described = RichText((*text.blocks, Subtext((Text(words),))))
        if len(words) < _CUT_DESCRIPTION or measure(described, author) <= _MOST_DESCRIBED:
            return described
        words = words[: len(words) * 3 // 4].rstrip("…") + "…"


def _file(uploaded: UploadedFile) -> Json:
    """What makes a message one with a file (https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes)."""
    attachment = uploaded.attachment
    info: Json = {"mimetype": uploaded.content_type} | ({} if uploaded.size is None else {"size": uploaded.size})
    kind = _kind(attachment.kind, uploaded.content_type)
    measures = {key: size for key, size in (("w", attachment.width), ("h", attachment.height)) if size}
    if kind in {"image", "video", "sticker"}:
        info |= measures
    if (still := uploaded.still) is not None:
        info["thumbnail_url"] = still.uri
        info["thumbnail_info"] = {"mimetype": still.content_type, "size": still.size} | measures
    if attachment.animated:
        # Stable since version 1.18 of the specification; older clients know the other.
        info |= {"is_animated": True, "org.matrix.msc4230.is_animated": True}
    milliseconds = None if attachment.duration is None else round(attachment.duration * 1000)
    if milliseconds is not None and kind in {"audio", "voice", "video"}:
        info["duration"] = milliseconds
    content: Json = {
        "msgtype": _MSGTYPES[kind],
        "filename": uploaded.name,
        "url": uploaded.uri,
        "info": info,
    }
    if attachment.spoiler:
        content[_SPOILER] = True
    if kind == "voice":
        # Amplitudes from 0 to 1024 (https://github.com/matrix-org/matrix-spec-proposals/pull/3246).
        # Rounded up, so that what is read back is the same.
        waveform = [-(-value * 1024 // 255) for value in attachment.waveform]
        content[_VOICE] = {}
        content[_AUDIO] = {"duration": milliseconds or 0} | ({"waveform": waveform} if waveform else {})
    return content


def _kind(told: MediaKind, content_type: str) -> MediaKind:
    """What a file is shown as: what it is, where its name or its sender's client said another thing."""
    if told not in {"image", "video", "audio"}:
        return told
    major = content_type.partition("/")[0]
    return next((kind for kind in _SHOWN if kind == major), "file")


def _rendered(text: RichText, author: Author | None, resolver: Resolver) -> Rendered:
    rendered = render(text, resolver=resolver)
    body, formatted = rendered.body, rendered.formatted_body
    if author is not None:
        # Where the words need no HTML, the name still does.
        body = identity.plain_fallback(author) + body
        formatted = _in_front(identity.html_fallback(author), rendered.html)
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


def _on_matrix(source: MediaRef, pictures: Pictures) -> str | None:
    found = source if source.platform is Platform.MATRIX else pictures.get(source)
    return None if found is None else found.locator


def _resolver(media: Callable[[MediaRef], str | None]) -> Resolver:
    # What is still a broadcast here is one that its author may make and that the pair allows: `core.degrade` sees to
    # it.
    return Resolver(
        user=lambda node: _ours(node.user),
        channel=lambda node: None if (room := _ours(node.channel)) is None else _room_link(room),
        message=lambda node: permalink(node.message) if node.message.platform is Platform.MATRIX else None,
        emoji=lambda node: media(node.source),
        image=lambda node: media(node.source),
        broadcast=True,
    )


# Each picture counts as one that has been uploaded: where it will stand is not known yet.
_MEASURED = _resolver(
    lambda source: source.locator if source.platform is Platform.MATRIX else "mxc://" + "x/" + "x" * 64
)


def permalink(message: MessageRef) -> str:
    """A link to a message that any client opens (https://spec.matrix.org/latest/appendices/#matrixto-navigation)."""
    return matrix_to_link(message.channel.id, message.id, via=_servers(message.channel.id))


def _room_link(room_id: str) -> str:
    return matrix_to_link(room_id, via=_servers(room_id))


def _servers(room_id: str) -> tuple[str, ...]:
    """The server that surely knows a room. IDs name none from room version 12 on; aliases find it by themselves."""
    server = room_id.partition(":")[2]
    return (server,) if server and room_id.startswith("!") else ()


def _clean(text: str) -> str:
    """Without what no homeserver stores: lone surrogates and the null character."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode())
