"""The neutral text tree -> the content of a Matrix event: HTML, and a plain body.

The body is for bots, notifications and clients without HTML. It looks like markdown, but is not meant to be parsed.
The content of spoilers is not in it: https://spec.matrix.org/latest/client-server-api/#spoiler-messages
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape

from relay.adapters.matrix.identifiers import is_alias, is_room_id, is_user_id, matrix_to_link, parse_mxc
from relay.domain.text import nodes as n
from relay.domain.text.normalise import normalise
from relay.domain.text.rewrite import is_bare

_SCHEME = re.compile(r"(?:https?|ftp|mailto|magnet):", re.IGNORECASE)
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_LANGUAGE = re.compile(r"[\w+#.-]+")
_SPACES = re.compile(r"  +")
_EDGE_SPACES = re.compile(r"^ +")
_TAGS: dict[type, str] = {n.Strong: "strong", n.Emphasis: "em", n.Underline: "u", n.Strike: "del"}
# Tags may be nested a hundred deep. A list item takes two levels, and its content a few more.
_DEEPEST = 40
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True)
class Resolver:
    """What references become on Matrix. Each returns None for what is to be shown as plain text."""

    # The user ID to mention.
    user: Callable[[n.UserMention], str | None] = lambda _: None
    # The room ID or alias to link to, or a whole matrix.to link.
    channel: Callable[[n.ChannelMention], str | None] = lambda _: None
    # The link to the message's copy.
    message: Callable[[n.MessageLink], str | None] = lambda _: None
    # The `mxc://` URI of the image.
    emoji: Callable[[n.CustomEmoji], str | None] = lambda _: None
    image: Callable[[n.InlineImage], str | None] = lambda _: None
    # Whether @everyone and @here become a real @room.
    broadcast: bool = False


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of an event."""

    body: str
    # HTML; None if the text needs none.
    formatted_body: str | None
    # For `m.mentions`: the user IDs, and whether the whole room is mentioned. Every event has that key, even if it is
    # empty: without it homeservers look for names and `@room` in the body.
    mentions: tuple[str, ...] = ()
    room: bool = False
    # The HTML in any case, also where `formatted_body` is None.
    html: str = field(default="", compare=False)


def render(text: n.RichText, *, resolver: Resolver) -> Rendered:
    """Content that makes a client show `text`, with permitted tags, links and mentions only."""
    normal = normalise(text)
    html = _HtmlWriter(resolver)
    formatted = html.document(normal.blocks)
    return Rendered(
        _write_body(normal, html.reference_names()),
        formatted if html.rich else None,
        tuple(dict.fromkeys(html.mentions)),
        html.room,
        formatted,
    )


@dataclass(frozen=True, slots=True)
class _ReferenceNames:
    """How the plain body names what is referred to."""

    user: Callable[[n.UserMention], str]
    channel: Callable[[n.ChannelMention], str]
    broadcast: Callable[[n.BroadcastMention], str]
    message: Callable[[n.MessageLink], str]


class _HtmlWriter:
    """Writes HTML. Collects the mentions, and whether any markup was needed."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self.mentions: list[str] = []
        self.room = False
        self.rich = False

    def reference_names(self) -> _ReferenceNames:
        """The names for the plain body."""
        return _ReferenceNames(self._user_name, self._channel_name, self._broadcast_name, self._message_url)

    def document(self, blocks: tuple[n.Block, ...]) -> str:
        """The whole text. A single paragraph needs no tag."""
        if len(blocks) == 1 and isinstance(only := blocks[0], n.Paragraph) and not _is_display(only):
            return self._inline(only.children)
        self.rich = not all(isinstance(block, n.Paragraph) for block in blocks)
        return self._blocks(blocks, 0)

    def _blocks(self, blocks: tuple[n.Block, ...], depth: int, *, compact: bool = False) -> str:
        """`compact`: the first paragraph has no tag, unless another paragraph follows it."""
        done: list[str] = []
        for index, block in enumerate(blocks):
            alone = index == 0 and (len(blocks) == 1 or not isinstance(blocks[1], n.Paragraph))
            if compact and alone and isinstance(block, n.Paragraph):
                done.append(self._inline(block.children))
            else:
                done.append(self._block(block, depth))
        return "".join(done)

    def _block(self, block: n.Block, depth: int) -> str:
        match block:
            case n.Paragraph((n.Math(tex, display=True),)):
                return self._math(tex, "div")
            case n.Paragraph(children):
                return f"<p>{self._inline(children)}</p>"
            case n.Heading(level, children):
                return f"<h{level}>{self._inline(children)}</h{level}>"
            case n.Subtext(children):
                return f"<p><sub>{self._inline(children)}</sub></p>"
            case n.CodeBlock(text, language):
                known = f' class="language-{language}"' if _LANGUAGE.fullmatch(language) else ""
                return f"<pre><code{known}>{escape(text, quote=False)}\n</code></pre>"
            case n.Quote(blocks):
                inner = self._blocks(blocks, depth + 1, compact=True)
                return f"<blockquote>{inner}</blockquote>" if depth < _DEEPEST else inner
            case n.BulletList(items, start):
                if depth >= _DEEPEST:
                    return "".join(self._blocks(item.blocks, depth) for item in items)
                inner = "".join(f"<li>{self._blocks(item.blocks, depth + 1, compact=True)}</li>" for item in items)
                if start is None:
                    return f"<ul>{inner}</ul>"
                return f"<ol>{inner}</ol>" if start == 1 else f'<ol start="{start}">{inner}</ol>'
            case n.Table():
                return self._table(block)
            case n.Details(summary, blocks):
                inner = self._blocks(blocks, depth + 1)
                if depth >= _DEEPEST:
                    return f"<p>{self._inline(summary)}</p>{inner}"
                return f"<details><summary>{self._inline(summary)}</summary>{inner}</details>"
            case n.Rule():
                return "<hr>"

    def _table(self, table: n.Table) -> str:
        caption = f"<caption>{self._inline(table.caption)}</caption>" if table.caption else ""
        header = table.rows[0] if all(cell.header for cell in table.rows[0]) else None
        head = f"<thead>{self._row(header)}</thead>" if header else ""
        body = "".join(map(self._row, table.rows[1:] if header else table.rows))
        return f"<table>{caption}{head}{f'<tbody>{body}</tbody>' if body else ''}</table>"

    def _row(self, row: tuple[n.TableCell, ...]) -> str:
        cells = (("th" if cell.header else "td", self._inline(cell.children)) for cell in row)
        return "<tr>" + "".join(f"<{tag}>{inner}</{tag}>" for tag, inner in cells) + "</tr>"

    def _inline(self, nodes: tuple[n.Inline, ...]) -> str:
        done: list[str] = []
        for index, node in enumerate(nodes):
            if isinstance(node, n.Text):
                edge = index == 0 or isinstance(nodes[index - 1], n.LineBreak)
                done.append(self._text(node.text, edge=edge))
            else:
                done.append(self._node(node))
        return "".join(done)

    def _text(self, text: str, *, edge: bool) -> str:
        """Text, with non-breaking spaces where HTML would drop spaces."""
        text = text.replace("\t", "    ")
        if edge:
            text = _EDGE_SPACES.sub(lambda found: "\u00a0" * len(found.group()), text)
        return escape(_SPACES.sub(lambda found: "\u00a0" * (len(found.group()) - 1) + " ", text), quote=False)

    def _node(self, node: n.Inline) -> str:
        match node:
            case n.LineBreak():
                return "<br>"
            case (
                n.UserMention()
                | n.ChannelMention()
                | n.BroadcastMention()
                | n.MessageLink()
                | n.CustomEmoji()
                | n.InlineImage()
            ):
                return self._reference(node)
            case n.RoleMention(name, _, users):
                self.mentions += [user.id for user in users if is_user_id(user.id)]
                return escape(f"@{name}", quote=False)
            case n.Timestamp():
                return _format_timestamp(node)
            case n.Link(_, children):
                return self._link(node, self._inline(children))
        self.rich = True
        match node:
            case n.Strong(children) | n.Emphasis(children) | n.Underline(children) | n.Strike(children):
                tag = _TAGS[type(node)]
                return f"<{tag}>{self._inline(children)}</{tag}>"
            case n.Spoiler(children, reason):
                attribute = f'="{escape(reason)}"' if reason else ""
                return f"<span data-mx-spoiler{attribute}>{self._inline(children)}</span>"
            case n.Code(text):
                return f"<code>{escape(text, quote=False)}</code>"
            case n.Math(tex):
                return self._math(tex, "span")
            case n.Colored(children, foreground, background):
                return f"<span{_color('', foreground)}{_color('bg-', background)}>{self._inline(children)}</span>"
            case n.Superscript(children, lowered):
                tag = "sub" if lowered else "sup"
                return f"<{tag}>{self._inline(children)}</{tag}>"
            case _:
                return ""

    def _math(self, tex: str, tag: str) -> str:
        self.rich = True
        return f'<{tag} data-mx-maths="{escape(tex)}"><code>{escape(tex, quote=False)}</code></{tag}>'

    def _link(self, link: n.Link, words: str) -> str:
        url = link.url.strip()
        if is_bare(link) and re.match(r"https?:", url, re.IGNORECASE):
            # Clients make a link of a bare URL themselves, so it needs no HTML.
            return _anchor(url, words)
        if _SCHEME.match(url):
            self.rich = True
            return _anchor(url, words)
        return words if link.children == (n.Text(link.url),) else f"{words} ({escape(url, quote=False)})"

    def _reference(
        self,
        node: n.UserMention | n.ChannelMention | n.BroadcastMention | n.MessageLink | n.CustomEmoji | n.InlineImage,
    ) -> str:
        match node:
            case n.UserMention():
                name = escape(self._user_name(node), quote=False)
                if (user := self._resolver.user(node)) and is_user_id(user):
                    self.rich = True
                    self.mentions.append(user)
                    return _anchor(matrix_to_link(user), name)
                return name
            case n.ChannelMention(children=children):
                name = self._inline(children) if children else escape(self._channel_name(node), quote=False)
                room = self._resolver.channel(node)
                if room and room.startswith("https://matrix.to/#/"):
                    self.rich = True
                    return _anchor(room, name)
                if room and (is_room_id(room) or is_alias(room)):
                    self.rich = True
                    return _anchor(matrix_to_link(room), name)
                return name
            case n.BroadcastMention():
                self.room = self.room or self._resolver.broadcast
                return self._broadcast_name(node)
            case n.MessageLink(_, _, children):
                url = self._message_url(node)
                return self._link(n.Link(url, children or (n.Text(url),)), self._inline(children or (n.Text(url),)))
            case n.CustomEmoji(name):
                words = escape(f":{name}:")
                image = f'<img data-mx-emoticon alt="{words}" title="{words}" height="32" src="{{}}">'
                return self._image(self._resolver.emoji(node), image, escape(f":{name}:", quote=False))
            case n.InlineImage(alt):
                image = f'<img alt="{escape(alt)}" title="{escape(alt)}" src="{{}}">'
                return self._image(self._resolver.image(node), image, escape(alt or "image", quote=False))

    def _image(self, source: str | None, image: str, words: str) -> str:
        if not source or parse_mxc(source) is None:
            return words
        self.rich = True
        head, _, tail = image.rpartition("{}")
        return head + escape(source) + tail

    def _user_name(self, node: n.UserMention) -> str:
        linked = self._resolver.user(node)
        return node.name if linked and is_user_id(linked) else f"@{node.name}"

    def _channel_name(self, node: n.ChannelMention) -> str:
        return f"#{node.name}"

    def _broadcast_name(self, node: n.BroadcastMention) -> str:
        return "@room" if self._resolver.broadcast else f"@{node.scope}"

    def _message_url(self, node: n.MessageLink) -> str:
        return self._resolver.message(node) or node.url


def _is_display(block: n.Paragraph) -> bool:
    return len(block.children) == 1 and isinstance(only := block.children[0], n.Math) and only.display


def _anchor(url: str, words: str) -> str:
    return f'<a href="{escape(url)}">{words}</a>'


def _color(which: str, value: str | None) -> str:
    return f' data-mx-{which}color="{value}"' if value and _COLOR.fullmatch(value) else ""


def _write_body(text: n.RichText, names: _ReferenceNames) -> str:
    """`text` as plain text."""
    return _PlainWriter(names).blocks(text.blocks)


def _format_timestamp(node: n.Timestamp) -> str:
    """A moment in words, in UTC: Matrix cannot show it in the reader's own time, so "in an hour" would be wrong."""
    at = node.at
    time = f"{at:%H:%M:%S} UTC" if node.style in "TS" else f"{at:%H:%M} UTC"
    day = f"{at.day} {_MONTHS[at.month - 1]} {at.year}"
    match node.style:
        case "t" | "T":
            return time
        case "d" | "D":
            return day
        case "F":
            return f"{_DAYS[at.weekday()]}, {day} {time}"
        case _:
            return f"{day} {time}"


@dataclass(frozen=True, slots=True)
class _PlainWriter:
    names: _ReferenceNames

    def blocks(self, blocks: tuple[n.Block, ...]) -> str:
        """Blocks one below the other, with an empty line between paragraphs."""
        done: list[str] = []
        for index, block in enumerate(blocks):
            above = blocks[index - 1] if index else None
            if above is not None:
                apart = type(above) is type(block) and isinstance(block, n.Paragraph | n.Quote | n.BulletList)
                done.append("\n\n" if apart else "\n")
            done.append(self._block(block))
        return "".join(done)

    def _block(self, block: n.Block) -> str:
        match block:
            case n.Paragraph(children) | n.Subtext(children):
                return self._inline(children)
            case n.Heading(level, children):
                return f"{'#' * level} {self._inline(children)}"
            case n.CodeBlock(text, language):
                return f"```{language}\n{text}\n```"
            case n.Quote(blocks):
                return "\n".join(f"> {line}" for line in self.blocks(blocks).split("\n"))
            case n.BulletList(items, start):
                marks = ("- " if start is None else f"{start + index}. " for index in range(len(items)))
                return "\n".join(
                    mark + self.blocks(item.blocks).replace("\n", "\n" + " " * len(mark))
                    for mark, item in zip(marks, items, strict=True)
                )
            case n.Table(rows, caption):
                lines = [self._inline(caption)] if caption else []
                lines += (" | ".join(self._inline(cell.children) for cell in row) for row in rows)
                return "\n".join(lines)
            case n.Details(summary, blocks):
                return "\n".join(part for part in (self._inline(summary), self.blocks(blocks)) if part)
            case n.Rule():
                return "---"

    def _inline(self, nodes: tuple[n.Inline, ...]) -> str:
        return "".join(self._nodes(nodes))

    def _nodes(self, nodes: tuple[n.Inline, ...]) -> Iterator[str]:
        for node in nodes:
            match node:
                case n.Text(text):
                    yield text
                case n.LineBreak():
                    yield "\n"
                case n.Strong(children):
                    yield f"**{self._inline(children)}**"
                case n.Emphasis(children):
                    yield f"*{self._inline(children)}*"
                case n.Strike(children):
                    yield f"~~{self._inline(children)}~~"
                case n.Underline(children) | n.Colored(children):
                    yield self._inline(children)
                case n.Superscript(children, lowered):
                    yield f"{'_' if lowered else '^'}({self._inline(children)})"
                case n.Spoiler(_, reason):
                    yield f"[Spoiler for {reason}]" if reason else "[Spoiler]"
                case n.Link(url, children):
                    words = self._inline(children)
                    yield words if words in (url, url.removeprefix("mailto:")) else f"[{words}]({url})"
                case _:
                    yield self._leaf(node)

    def _leaf(self, node: n.Inline) -> str:
        match node:
            case n.Code(text):
                return f"`{text}`"
            case n.Math(tex):
                return f"${tex}$"
            case n.UserMention():
                return self.names.user(node)
            case n.RoleMention(name):
                return f"@{name}"
            case n.ChannelMention(children=children):
                return self._inline(children) if children else self.names.channel(node)
            case n.BroadcastMention():
                return self.names.broadcast(node)
            case n.MessageLink(_, _, children):
                url = self.names.message(node)
                return f"[{self._inline(children)}]({url})" if children else url
            case n.CustomEmoji(name):
                return f":{name}:"
            case n.InlineImage(alt):
                return alt or "image"
            case n.Timestamp():
                return _format_timestamp(node)
            case _:
                return ""
