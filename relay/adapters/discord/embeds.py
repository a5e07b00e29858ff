"""What stands in a Discord message besides its text and files, as text: embeds, components, polls. Pure.

https://docs.discord.com/developers/resources/message#embed-object,
https://docs.discord.com/developers/components/reference, https://docs.discord.com/developers/resources/poll
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from relay.domain.richtext import (
    Block,
    BulletList,
    Inline,
    LineBreak,
    Link,
    ListItem,
    Paragraph,
    Quote,
    RichText,
    Rule,
    Strong,
    Subtext,
    Text,
    Timestamp,
)

Json = Mapping[str, Any]
# Discord's dialect -> the tree, with the message's own names filled in.
Parse = Callable[[str], RichText]

# Everything else is a preview that Discord made of a link in the text: the link itself crosses.
OWN_EMBEDS = frozenset({"rich", "poll_result"})
_DEPTH = 8


def embeds(items: list[Json], parse: Parse) -> Iterator[Block]:
    """The embeds that a bot or a webhook wrote, each as a quotation."""
    for item in items:
        kind = item.get("type", "rich")
        if kind == "poll_result":
            yield from _poll_result(item)
        elif kind in OWN_EMBEDS and (blocks := tuple(_embed(item, parse))):
            yield Quote(blocks)


def _embed(item: Json, parse: Parse) -> Iterator[Block]:
    provider, author = _name(item.get("provider")), _mapping(item.get("author"))
    if provider:
        yield Subtext((Text(provider),))
    if name := _name(author):
        yield Paragraph(_linked(name, author.get("url")))
    if title := _line(item.get("title")):
        yield Paragraph((Strong(_linked(title, item.get("url"))),))
    yield from parse(str(item.get("description") or "")).blocks
    for entry in item.get("fields") or ():
        yield from _field(_line(entry.get("name")), parse(str(entry.get("value") or "")).blocks)
    for key in ("image", "video", "thumbnail"):
        if url := _mapping(item.get(key)).get("url"):
            yield Paragraph(_linked(key.capitalize(), url))
            break
    yield from _footer(item)


def _field(name: str, value: tuple[Block, ...]) -> Iterator[Block]:
    heading = Strong((Text(name),))
    match value:
        case (Paragraph(children), *rest) if name:
            yield Paragraph((heading, LineBreak(), *children))
            yield from rest
        case _:
            yield from (Paragraph((heading,)),) if name else ()
            yield from value


def _footer(item: Json) -> Iterator[Block]:
    nodes: list[Inline] = []
    if text := _line(_mapping(item.get("footer")).get("text")):
        nodes.append(Text(text))
    if moment := moment_of(item.get("timestamp")):
        nodes += [Text(" • ")] if nodes else []
        nodes.append(Timestamp(moment))
    if nodes:
        yield Subtext(tuple(nodes))


def _poll_result(item: Json) -> Iterator[Block]:
    values = {entry.get("name"): str(entry.get("value", "")) for entry in item.get("fields") or ()}
    yield Paragraph((Text("The poll has ended: "), Strong((Text(_line(values.get("poll_question_text"))),))))
    if winner := _line(values.get("victor_answer_text")):
        votes = f"{values.get('victor_answer_votes', '0')} of {values.get('total_votes', '0')} votes"
        yield Paragraph((Text(f"{winner} ({votes})"),))
    else:
        yield Paragraph((Text("No answer won."),))


def poll(item: Json) -> Iterator[Block]:
    """A poll: its question and its answers, with the votes once it has ended."""
    yield Paragraph((Text("📊 "), Strong((Text(_media_text(item.get("question")) or "Poll"),))))
    results = _mapping(item.get("results"))
    counts = {entry.get("id"): entry.get("count", 0) for entry in results.get("answer_counts") or ()}
    answers: list[ListItem] = []
    for answer in item.get("answers") or ():
        words = _media_text(answer.get("poll_media"))
        if results.get("is_finalized"):
            words = f"{words} ({counts.get(answer.get('answer_id'), 0)})"
        answers.append(ListItem((Paragraph((Text(words or "–"),)),)))
    if answers:
        yield BulletList(tuple(answers))


def has_ended(item: object) -> bool:
    """Whether a poll's votes are counted."""
    return bool(_mapping(_mapping(item).get("results")).get("is_finalized"))


def _media_text(media: object) -> str:
    fields = _mapping(media)
    emoji = _mapping(fields.get("emoji"))
    picture = "" if not emoji.get("name") else f":{emoji['name']}: " if emoji.get("id") else f"{emoji['name']} "
    return f"{picture}{_line(fields.get('text'))}".strip()


def components(items: list[Json], parse: Parse, depth: int = 0) -> Iterator[Block]:
    """Buttons, menus and the layout components that some bots write whole messages with."""
    if depth > _DEPTH:
        return
    for item in items:
        inner = [child for child in item.get("components") or () if isinstance(child, Mapping)]
        match item.get("type"):
            case 1:
                if controls := tuple(_joined([node for child in inner for node in _control(child)])):
                    yield Subtext(controls)
            case 10:
                yield from parse(str(item.get("content") or "")).blocks
            case 12:
                for entry in item.get("items") or ():
                    yield from _media(entry.get("media"), _line(entry.get("description")) or "Image")
            case 11:
                yield from _media(item.get("media"), _line(item.get("description")) or "Image")
            case 13:
                yield from _media(item.get("file"), _line(item.get("name")) or "File")
            case 14:
                yield Rule()
            case 2 | 3 | 5 | 6 | 7 | 8:
                yield Subtext(tuple(_control(item)))
            case _:
                yield from components(inner, parse, depth + 1)
                if isinstance(accessory := item.get("accessory"), Mapping):
                    yield from components([accessory], parse, depth + 1)


def _control(item: Json) -> list[Inline]:
    emoji = _mapping(item.get("emoji"))
    words = _line(item.get("label")) or _line(item.get("placeholder"))
    words = words or (_line(emoji.get("name")) or ("button" if item.get("type") == 2 else "menu"))
    return list(_linked(words, item.get("url"))) if item.get("url") else [Text(f"[{words}]")]


def _joined(nodes: list[Inline]) -> Iterator[Inline]:
    for number, node in enumerate(nodes):
        if number:
            yield Text(" ")
        yield node


def _media(media: object, words: str) -> Iterator[Block]:
    url = _mapping(media).get("url")
    yield Paragraph(_linked(words, url) if url else (Text(words),))


def _linked(words: str, url: object) -> tuple[Inline, ...]:
    if isinstance(url, str) and url.startswith(("https://", "http://")):
        return (Link(url, (Text(words),), preview=False),)
    return (Text(words),)


def _line(words: object) -> str:
    """One line: nodes hold no line breaks."""
    return " ".join(str(words).split()) if words is not None else ""


def _name(item: object) -> str:
    return _line(_mapping(item).get("name"))


def _mapping(item: object) -> Json:
    return item if isinstance(item, Mapping) else {}


def moment_of(text: object) -> datetime | None:
    """A timestamp as Discord writes it; None where there is none."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
