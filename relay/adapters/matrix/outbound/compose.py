"""The content of the event that a delivery makes. Pure.

An author of the other side appears by a per-message profile, and by their name in front of the text as its fallback
(https://github.com/matrix-org/matrix-spec-proposals/pull/4144, under the name that its first implementation gave it).
Clients that know such profiles show the profile and hide the fallback.

Every message says explicitly whom it mentions, so that a name in the text notifies nobody by accident
(https://spec.matrix.org/latest/client-server-api/#user-and-room-mentions).
"""

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from relay.adapters.matrix.identifiers import permalink, room_link
from relay.adapters.matrix.markup import Rendered, Resolver, render
from relay.core.convert.split import ends_of_characters
from relay.core.ports import Delivery
from relay.domain.content import Attachment, Author, MediaKind
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.jsontext import Json, as_dict
from relay.domain.names import visible
from relay.domain.text.nodes import RichText, Spoiler, Subtext, Text

_HTML = "org.matrix.custom.html"
_SPOILER = "page.codeberg.everypizza.msc4193.spoiler"
_VOICE = "org.matrix.msc3245.voice"
_AUDIO = "org.matrix.msc1767.audio"
_PROFILE = "com.beeper.per_message_profile"
# Each message needs its author's name several times, and the same people write again and again.
_NAMES_KEPT = 1_000
_LONGEST_NAME = 255  # Of a profile, in bytes, as the proposal says.
# Our own key: the ID of the original's attachment. An edit compares it with the attachment that it has.
_FILE = "relay.attachment"
_FILE_KEYS = (_FILE, "filename", "url", "info", _SPOILER, _VOICE, _AUDIO)
_MSGTYPES: dict[MediaKind, str] = {
    "image": "m.image",
    # Not `m.sticker`: that has no place for the author's name, which many clients show only as a part of the text.
    "sticker": "m.image",
    "video": "m.video",
    "audio": "m.audio",
    "voice": "m.audio",
    "file": "m.file",
}
_BY_CONTENT_TYPE: tuple[MediaKind, ...] = ("image", "video", "audio")

MAX_TEXT_LENGTH = 28_000
"""In bytes of both bodies as JSON. An event may have 65,536 bytes, and an edit holds both bodies twice. The rest is for
what servers add to the content."""

_MAX_WITH_DESCRIPTION = 29_000  # For the text and a file's description together.
_SHORT_DESCRIPTION = 100  # In characters: a shorter description always fits.


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image for a video, as large as the video, on this homeserver."""

    # An `mxc://` URI.
    uri: str
    content_type: str
    # In bytes.
    size: int


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file on this homeserver."""

    attachment: Attachment
    # An `mxc://` URI.
    uri: str
    name: str
    content_type: str
    # In bytes; None: unknown.
    size: int | None
    thumbnail: Thumbnail | None = None


ImageCopies = Mapping[MediaRef, MediaRef]
"""Where images of the other side are on this homeserver."""

_NO_IMAGES: ImageCopies = {}


def compose(
    delivery: Delivery, uploaded: UploadedFile | None = None, images: ImageCopies = _NO_IMAGES, *, named: bool = True
) -> Json:
    """The content of the message that a delivery makes; `uploaded` is its file, if it has one.

    `named`: with its author's name and picture. Where the account that posts it has both, they are left out.
    """
    content = _text_content(delivery, images, named=named)
    if uploaded is not None:
        content |= _file(uploaded)
        # Without an author and a text, the body is the name of the file.
        content["body"] = content["body"] or uploaded.name
    relation = _relation(delivery)
    return content | {"m.relates_to": relation} if relation else content


def file_content(delivery: Delivery, current: Json) -> Json | None:
    """The part of a message's `current` content that is about its file, which an edit of the text keeps.

    Empty for a message without a file; None if its file is not the one of the delivery.
    """
    wanted = delivery.content.attachments[0].id if delivery.content.attachments else None
    if current.get(_FILE) != wanted:
        return None
    return {} if wanted is None else {key: current[key] for key in (*_FILE_KEYS, "msgtype") if key in current}


def fingerprint(content: Json) -> Json:
    """What is the same in every attempt of a delivery. Not the address of the file: it may be uploaded again."""
    return {key: content.get(key) for key in ("body", "formatted_body", _FILE)}


def is_named(content: Json, author: Author | None = None) -> bool:
    """Whether a message of ours says by itself who wrote it; with `author`, that they did."""
    if author is None:
        return _PROFILE in content
    return bool(as_dict(content.get(_PROFILE)).get("id") == _profile(author)["id"])


def with_author(content: Json, author: Author) -> Json:
    """The content of a message that does not say by itself who wrote it, with that."""
    body = str(content.get("body", ""))
    formatted = str(content.get("formatted_body") or html.escape(body).replace("\n", "<br>"))
    return content | {
        "body": _plain_fallback(author) + body,
        "format": _HTML,
        "formatted_body": _with_prefix(_html_fallback(author), formatted),
        _PROFILE: _profile(author),
    }


def edit_content(target: MessageRef, content: Json) -> Json:
    """The content of the event that changes `target` to `content`; the relations of `target` stay as they are."""
    new = {key: value for key, value in content.items() if key != "m.relates_to"}
    fallback = {"body": f"* {new['body']}"}
    if "formatted_body" in new:
        fallback["formatted_body"] = f"* {new['formatted_body']}"
    # Without mentions: the original has notified people already.
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
    """Bytes of both bodies and of the mentions as JSON, with the author's name in front."""
    rendered = _rendered(text, author, _MEASURED)
    mentions = sum(map(_bytes, rendered.mentions)) + 2 * len(rendered.mentions)
    return _bytes(rendered.body) + _bytes(rendered.formatted_body or "") + mentions


def _text_content(delivery: Delivery, images: ImageCopies, *, named: bool) -> Json:
    author = delivery.author if named else None
    text = delivery.content.text
    for attachment in delivery.content.attachments:
        if attachment.alt:
            text = _described(text, " ".join(attachment.alt.split()), author, hidden=attachment.spoiler)
    rendered = _rendered(text, author, _resolver(lambda source: _on_matrix(source, images)))
    content: Json = {"msgtype": _msgtype(delivery), "body": rendered.body}
    if rendered.formatted_body is not None:
        content |= {"format": _HTML, "formatted_body": rendered.formatted_body}
    if delivery.content.attachments:
        content[_FILE] = delivery.content.attachments[0].id
    if author is not None:
        content[_PROFILE] = _profile(author)
    if delivery.content.silent:
        return content | {"m.mentions": {}}
    mentioned = dict.fromkeys(rendered.mentions)
    calls = delivery.content.calls_answered
    if calls and delivery.replied_author is not None and delivery.replied_author.platform is Platform.MATRIX:
        # As clients do for a reply (https://spec.matrix.org/latest/client-server-api/#mentioning-the-replied-to-user).
        mentioned[delivery.replied_author.id] = None
    mentions: Json = {"user_ids": list(mentioned)} if mentioned else {}
    return content | {"m.mentions": mentions | ({"room": True} if rendered.room else {})}


def _described(text: RichText, description: str, author: Author | None, *, hidden: bool) -> RichText:
    """`text` with the description of a file below it, cut to what fits into the event; `hidden`: as a spoiler."""
    while True:
        words = Text(description)
        described = RichText((*text.blocks, Subtext((Spoiler((words,)) if hidden else words,))))
        if len(description) < _SHORT_DESCRIPTION or measure(described, author) <= _MAX_WITH_DESCRIPTION:
            return described
        description = description[: len(description) * 3 // 4].rstrip("…") + "…"


def _file(uploaded: UploadedFile) -> Json:
    """The part of the content that is about the file (https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes)."""
    attachment = uploaded.attachment
    info: Json = {"mimetype": uploaded.content_type} | ({} if uploaded.size is None else {"size": uploaded.size})
    kind = _kind(attachment.kind, uploaded.content_type)
    dimensions = {key: size for key, size in (("w", attachment.width), ("h", attachment.height)) if size}
    if kind in {"image", "video", "sticker"}:
        info |= dimensions
    if (thumbnail := uploaded.thumbnail) is not None:
        info["thumbnail_url"] = thumbnail.uri
        info["thumbnail_info"] = {"mimetype": thumbnail.content_type, "size": thumbnail.size} | dimensions
    if attachment.animated:
        # The first is stable since version 1.18 of the specification; older clients know only the second.
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


def _kind(announced: MediaKind, content_type: str) -> MediaKind:
    """How to show a file: by its real type, even if its name or the sender's client announced another one."""
    if announced not in {"image", "video", "audio"}:
        return announced
    major = content_type.partition("/")[0]
    return next((kind for kind in _BY_CONTENT_TYPE if kind == major), "file")


def _rendered(text: RichText, author: Author | None, resolver: Resolver) -> Rendered:
    rendered = render(text, resolver=resolver)
    body, formatted = rendered.body, rendered.formatted_body
    if author is not None:
        # Even if the text needs no HTML, the name does.
        body = _plain_fallback(author) + body
        formatted = _with_prefix(_html_fallback(author), rendered.html)
    return replace(rendered, body=_clean(body), formatted_body=None if formatted is None else _clean(formatted))


def _with_prefix(fallback: str, formatted: str) -> str:
    """`formatted` with the name in front; if it begins with a paragraph, inside that, so that both are on one line."""
    return f"<p>{fallback}{formatted[3:]}" if formatted.startswith("<p>") else fallback + formatted


def _msgtype(delivery: Delivery) -> str:
    # Bots do not answer notices (https://spec.matrix.org/latest/client-server-api/#mnotice). So a message of the relay
    # itself, or of a bot of the other side, starts no endless conversation between bots. And they notify nobody, also
    # where somebody wants to hear of each message (https://spec.matrix.org/latest/client-server-api/#default-override-rules).
    author, content = delivery.author, delivery.content
    if author is None or author.is_bot or content.style == "notice" or (content.silent and content.style == "text"):
        return "m.notice"
    return "m.emote" if content.style == "emote" else "m.text"


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


def _matrix_id(ref: ChannelRef | UserRef) -> str | None:
    return ref.id if ref.platform is Platform.MATRIX else None


def _on_matrix(source: MediaRef, images: ImageCopies) -> str | None:
    found = source if source.platform is Platform.MATRIX else images.get(source)
    return None if found is None else found.locator


def _resolver(media: Callable[[MediaRef], str | None]) -> Resolver:
    # Only broadcasts that the author may make and that the pair allows get here: `core/convert` turns others into text.
    return Resolver(
        user=lambda node: _matrix_id(node.user),
        channel=lambda node: None if (room := _matrix_id(node.channel)) is None else room_link(room),
        message=lambda node: permalink(node.message) if node.message.platform is Platform.MATRIX else None,
        emoji=lambda node: media(node.source),
        image=lambda node: media(node.source),
        broadcast=True,
    )


# To measure, every image counts as uploaded: where it will be is not known yet.
_MEASURED = _resolver(
    lambda source: source.locator if source.platform is Platform.MATRIX else "mxc://" + "x/" + "x" * 64
)


def _clean(text: str) -> str:
    """`text` without what no homeserver stores: lone surrogates and the null character."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode())


# --- The author ---------------------------------------------------------------------------------------------


def display_name(author: Author) -> str:
    """The author's name in one line, without hidden characters. Never empty or blank."""
    return _display_name(author.name, author.handle, author.user.id)


@lru_cache(_NAMES_KEPT)
def _display_name(name: str, handle: str, user_id: str) -> str:
    return _cut(visible(name) or visible(handle) or user_id).strip()


def _cut(name: str) -> str:
    """As much of `name` as a profile may hold, cut between two characters as the reader sees them."""
    encoded = name.encode("utf-8", "replace")
    if len(encoded) <= _LONGEST_NAME:
        return name
    fitting = 0
    for end in ends_of_characters(name):
        if len(name[:end].encode("utf-8", "replace")) > _LONGEST_NAME:
            break
        fitting = end
    # If the first one alone is too long, nobody sees it as one character: cut inside.
    return name[:fitting] or encoded[:_LONGEST_NAME].decode("utf-8", "ignore")


def _profile(author: Author) -> Json:
    """The profile of one message. The avatar has to be on the homeserver already: clients load no other.

    Without one, `avatar_url` is empty: if it were missing, clients would show the bot's avatar beside this name.
    """
    avatar = author.avatar
    return {
        "id": f"{author.user.platform}_{author.user.id}",
        "displayname": display_name(author),
        "avatar_url": avatar.locator if avatar is not None and avatar.platform is Platform.MATRIX else "",
        "has_fallback": True,
    }


def _plain_fallback(author: Author) -> str:
    """The author's name, for the start of the plain text."""
    return f"{display_name(author)}: "


def _html_fallback(author: Author) -> str:
    """The author's name, for the start of the formatted text."""
    return f"<strong data-mx-profile-fallback>{html.escape(display_name(author))}: </strong>"
