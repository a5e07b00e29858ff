"""Embeds, components and polls of a Discord message as text. Pure.

https://docs.discord.com/developers/resources/message#embed-object,
https://docs.discord.com/developers/components/reference, https://docs.discord.com/developers/resources/poll
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from relay.adapters.discord.markup import NameLookup, link, parse, parse_inline, parse_references
from relay.domain.ids import MediaRef, Platform
from relay.domain.jsontext import Json, as_dict
from relay.domain.names import visible, without_reply_arrow
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import marked

# Discord makes all others as previews of links in the text. Only the link itself crosses.
OWN_EMBEDS = frozenset({"rich", "poll_result"})
_MAX_DEPTH = 8


class _Component(IntEnum):
    """https://docs.discord.com/developers/components/reference#component-object-component-types"""

    ACTION_ROW = 1
    BUTTON = 2
    STRING_SELECT = 3
    USER_SELECT = 5
    ROLE_SELECT = 6
    MENTIONABLE_SELECT = 7
    CHANNEL_SELECT = 8
    TEXT_DISPLAY = 10
    THUMBNAIL = 11
    MEDIA_GALLERY = 12
    FILE = 13
    SEPARATOR = 14


@dataclass(frozen=True, slots=True)
class TextReader:
    """Parses the texts of one message, each as clients show it in its place.

    Titles and the names of fields have markup and emoji (https://github.com/skyra-project/discord-components/issues/400,
    https://github.com/skyra-project/discord-components/pull/168). The values of fields have everything but headings;
    authors and footers have no markup (https://github.com/Pycord-Development/pycord/issues/96).
    """

    names: NameLookup

    def blocks(self, text: object, *, headings: bool = True) -> tuple[n.Block, ...]:
        """A text with all markup."""
        return _without_arrow(parse(_string(text), names=self.names, headings=headings).blocks)

    def inline(self, text: object) -> tuple[n.Inline, ...]:
        """A title: markup, but no blocks."""
        return _without_arrow_inline(parse_inline(_string(text), names=self.names))

    def words(self, text: object) -> tuple[n.Inline, ...]:
        """Text without markup. Emoji and mentions in it are still shown by their names."""
        return _without_arrow_inline(parse_references(_string(text), names=self.names))

    def linked(self, words: tuple[n.Inline, ...], url: object) -> tuple[n.Inline, ...]:
        """`words` as a link, if `url` is one. A link to a message leads to its copy."""
        if words and isinstance(url, str) and url.startswith(("https://", "http://")):
            return (link(url, words, self.names, preview=False),)
        return words

    def emoji(self, item: object) -> tuple[n.Inline, ...]:
        """An emoji object (https://docs.discord.com/developers/resources/emoji#emoji-object)."""
        fields = as_dict(item)
        name, emoji = _string(fields.get("name")), _string(fields.get("id"))
        moves = bool(fields.get("animated"))
        if not emoji:
            return (n.Text(name),) if name else ()
        source = MediaRef(Platform.DISCORD, self.names.emoji_url(emoji, moves))
        return (n.CustomEmoji(name or "emoji", emoji, source, moves),)


# --- Embeds -------------------------------------------------------------------------------------------------


def embeds(items: list[Json], reader: TextReader) -> Iterator[n.Block]:
    """The embeds that a bot or a webhook wrote, each as a quotation."""
    for item in items:
        kind = item.get("type", "rich")
        if kind == "poll_result":
            yield from _poll_result(item, reader)
        elif kind in OWN_EMBEDS and (blocks := tuple(_embed(item, reader))):
            yield n.Quote(blocks)


def _embed(item: Json, reader: TextReader) -> Iterator[n.Block]:
    if provider := reader.words(as_dict(item.get("provider")).get("name")):
        yield n.Subtext(provider)
    author = as_dict(item.get("author"))
    if name := reader.words(author.get("name")):
        yield n.Paragraph(reader.linked(name, author.get("url")))
    if title := reader.inline(item.get("title")):
        yield n.Paragraph((n.Strong(reader.linked(title, item.get("url"))),))
    yield from reader.blocks(item.get("description"))
    for entry in item.get("fields") or ():
        field_name = reader.inline(_shown(entry.get("name")))
        yield from _field(field_name, reader.blocks(_shown(entry.get("value")), headings=False))
    shown: set[object] = set()
    for key in ("image", "video", "thumbnail"):
        picture = as_dict(item.get(key))
        if (url := picture.get("url")) and url not in shown:
            shown.add(url)
            yield n.Paragraph(
                reader.linked(reader.words(picture.get("description")) or (n.Text(key.capitalize()),), url)
            )
    yield from _footer(item, reader)


def _shown(text: object) -> str:
    """A text; "" if nothing of it can be seen: bots write so in a field, which may not be empty."""
    return _string(text) if visible(_string(text)) else ""


def _field(name: tuple[n.Inline, ...], value: tuple[n.Block, ...]) -> Iterator[n.Block]:
    match value:
        case (n.Paragraph(children), *rest) if name:
            yield n.Paragraph((n.Strong(name), n.LineBreak(), *children))
            yield from rest
        case _:
            yield from (n.Paragraph((n.Strong(name),)),) if name else ()
            yield from value


def _footer(item: Json, reader: TextReader) -> Iterator[n.Block]:
    nodes: list[n.Inline] = list(reader.words(as_dict(item.get("footer")).get("text")))
    if moment := moment_of(item.get("timestamp")):
        nodes += [n.Text(" • ")] if nodes else []
        nodes.append(n.Timestamp(moment))
    if nodes:
        yield n.Subtext(tuple(nodes))


def invitations(message: Json, reader: TextReader) -> Iterator[n.Block]:
    """What a message offers besides its text: to join an activity, to try a theme."""
    if isinstance(message.get("activity"), dict):
        name = reader.words(as_dict(message.get("application")).get("name")) or (n.Text("an activity"),)
        yield n.Paragraph((n.Emphasis((n.Text("Invites to "), *name)),))
    if isinstance(message.get("shared_client_theme"), dict):
        yield n.Paragraph((n.Emphasis((n.Text("Shares a theme for Discord's client."),)),))


# --- Polls --------------------------------------------------------------------------------------------------


def _poll_result(item: Json, reader: TextReader) -> Iterator[n.Block]:
    values = {entry.get("name"): str(entry.get("value", "")) for entry in item.get("fields") or ()}
    question = reader.words(values.get("poll_question_text"))
    yield n.Paragraph((n.Text("The poll has ended: "), n.Strong(question)))
    emoji = {key: values.get(f"victor_answer_emoji_{key}") for key in ("id", "name")}
    moves = values.get("victor_answer_emoji_animated") == "true"
    if winner := _answer(reader.emoji(emoji | {"animated": moves}), reader.words(values.get("victor_answer_text"))):
        total = values.get("total_votes", "0")
        votes = f"{values.get('victor_answer_votes', '0')} of {total} vote{'' if total == '1' else 's'}"
        yield n.Paragraph((*winner, n.Text(f" ({votes})")))
    else:
        yield n.Paragraph((n.Text("No answer won."),))


def poll(item: Json, reader: TextReader) -> Iterator[n.Block]:
    """A poll: question and answers; the votes only after it has ended."""
    yield n.Paragraph((n.Text("📊 "), n.Strong(_media_text(item.get("question"), reader) or (n.Text("Poll"),))))
    results = as_dict(item.get("results"))
    counts = {entry.get("id"): entry.get("count", 0) for entry in results.get("answer_counts") or ()}
    answers: list[n.ListItem] = []
    for answer in item.get("answers") or ():
        words = _media_text(answer.get("poll_media"), reader) or (n.Text("–"),)
        if results.get("is_finalized"):
            words = (*words, n.Text(f" ({counts.get(answer.get('answer_id'), 0)})"))
        answers.append(n.ListItem((n.Paragraph(words),)))
    if answers:
        yield n.BulletList(tuple(answers))
    if not results.get("is_finalized"):
        notes: list[n.Inline] = [n.Text("Several answers are allowed. ")] if item.get("allow_multiselect") else []
        if end := moment_of(item.get("expiry")):
            notes += [n.Text("Ends: "), n.Timestamp(end)]
        yield from (n.Subtext(tuple(notes)),) if notes else ()


def has_ended(item: object) -> bool:
    """Whether a poll has ended and its votes are counted."""
    return bool(as_dict(as_dict(item).get("results")).get("is_finalized"))


def _media_text(media: object, reader: TextReader) -> tuple[n.Inline, ...]:
    fields = as_dict(media)
    return _answer(reader.emoji(fields.get("emoji")), reader.words(fields.get("text")))


def _answer(emoji: tuple[n.Inline, ...], words: tuple[n.Inline, ...]) -> tuple[n.Inline, ...]:
    return (*emoji, n.Text(" "), *words) if emoji and words else emoji or words


# --- Components ---------------------------------------------------------------------------------------------


def components(items: list[Json], reader: TextReader, files: frozenset[str], depth: int = 0) -> Iterator[n.Block]:
    """Buttons, menus and the layout components, with which some bots write whole messages.

    `files` are the IDs of the message's attachments, which cross as files and need no link.
    """
    if depth > _MAX_DEPTH:
        return
    for item in items:
        inner = [child for child in item.get("components") or () if isinstance(child, dict)]
        match item.get("type"):
            case _Component.ACTION_ROW:
                if controls := tuple(_joined([_control(child, reader) for child in inner])):
                    yield n.Subtext(controls)
            case _Component.TEXT_DISPLAY:
                yield from reader.blocks(item.get("content"))
            case _Component.MEDIA_GALLERY:
                for entry in item.get("items") or ():
                    yield from _media(entry, "media", entry.get("description"), "Image", reader, files)
            case _Component.THUMBNAIL:
                yield from _media(item, "media", item.get("description"), "Image", reader, files)
            case _Component.FILE:
                yield from _media(item, "file", item.get("name"), "File", reader, files)
            case _Component.SEPARATOR:
                # Without a line it is a gap, as there is between paragraphs.
                yield from () if item.get("divider") is False else (n.Rule(),)
            case (
                _Component.BUTTON
                | _Component.STRING_SELECT
                | _Component.USER_SELECT
                | _Component.ROLE_SELECT
                | _Component.MENTIONABLE_SELECT
                | _Component.CHANNEL_SELECT
            ):
                yield n.Subtext(_control(item, reader))
            case _:
                blocks = components(inner, reader, files, depth + 1)
                yield from marked(tuple(blocks), n.Spoiler) if item.get("spoiler") else blocks
                if isinstance(accessory := item.get("accessory"), dict):
                    yield from components([accessory], reader, files, depth + 1)


def hidden_files(items: Iterable[Json], depth: int = 0, *, hidden: bool = False) -> Iterator[str]:
    """The IDs of the attachments that components hide as spoilers."""
    if depth > _MAX_DEPTH:
        return
    for item in items:
        is_hidden = hidden or bool(item.get("spoiler"))
        for key in ("media", "file"):
            if is_hidden and (attachment := _string(as_dict(item.get(key)).get("attachment_id"))):
                yield attachment
        for key in ("components", "items"):
            inner = [child for child in item.get(key) or () if isinstance(child, dict)]
            yield from hidden_files(inner, depth + 1, hidden=is_hidden)
        if isinstance(accessory := item.get("accessory"), dict):
            yield from hidden_files([accessory], depth + 1, hidden=is_hidden)


def _control(item: Json, reader: TextReader) -> tuple[n.Inline, ...]:
    emoji = reader.emoji(item.get("emoji"))
    words = reader.words(item.get("label")) or reader.words(item.get("placeholder"))
    shown = _answer(emoji, words) or (n.Text("button" if item.get("type") == _Component.BUTTON else "menu"),)
    return reader.linked(shown, item.get("url")) if item.get("url") else (n.Text("["), *shown, n.Text("]"))


def _joined(controls: list[tuple[n.Inline, ...]]) -> Iterator[n.Inline]:
    for number, nodes in enumerate(controls):
        if number:
            yield n.Text(" ")
        yield from nodes


def _media(
    item: Json, key: str, said: object, kind: str, reader: TextReader, files: frozenset[str]
) -> Iterator[n.Block]:
    media, words = as_dict(item.get(key)), reader.words(said)
    if _string(media.get("attachment_id")) in files:
        if words and kind != "File":
            yield n.Paragraph((n.Spoiler(words),) if item.get("spoiler") else words)
        return
    shown = reader.linked(words or (n.Text(kind),), media.get("url"))
    yield n.Paragraph((n.Spoiler(shown),) if item.get("spoiler") else shown)


# --- Parts -------------------------------------------------------------------------------------------------


def _without_arrow(blocks: tuple[n.Block, ...]) -> tuple[n.Block, ...]:
    return without_reply_arrow(n.RichText(blocks)).blocks


def _without_arrow_inline(nodes: tuple[n.Inline, ...]) -> tuple[n.Inline, ...]:
    return tuple(
        node
        for block in _without_arrow((n.Paragraph(nodes),))
        if isinstance(block, n.Paragraph)
        for node in block.children
    )


def _string(value: object) -> str:
    return "" if value is None else str(value)


def moment_of(text: object) -> datetime | None:
    """Discord's form of a timestamp; None if it is not one."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
