"""The neutral text tree -> a Matrix event's `body`: what bots, notifications and clients without HTML read.

It looks like markdown to the eye and is not meant to be parsed. What a spoiler hides is not in it:
https://spec.matrix.org/latest/client-server-api/#spoiler-messages
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from relay.domain.text import nodes as n
from relay.domain.text.links import is_bare

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True)
class Words:
    """How references are called."""

    user: Callable[[n.UserMention], str]
    channel: Callable[[n.ChannelMention], str]
    broadcast: Callable[[n.BroadcastMention], str]
    message: Callable[[n.MessageLink], str]


def write_body(text: n.RichText, words: Words) -> str:
    """`text` as plain text."""
    return _Body(words).blocks(text.blocks)


def moment(node: n.Timestamp) -> str:
    """A moment in words. Matrix has no time of the reader's own, so it is said in UTC, and never as "in an hour"."""
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
class _Body:
    words: Words

    def blocks(self, blocks: tuple[n.Block, ...]) -> str:
        """Blocks one below the other, paragraphs set apart."""
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
                    yield url if is_bare(node) else f"[{self._inline(children)}]({url})"
                case _:
                    yield self._leaf(node)

    def _leaf(self, node: n.Inline) -> str:
        match node:
            case n.Code(text):
                return f"`{text}`"
            case n.Math(tex):
                return f"${tex}$"
            case n.UserMention():
                return self.words.user(node)
            case n.RoleMention(name):
                return f"@{name}"
            case n.ChannelMention(children=children):
                return self._inline(children) if children else self.words.channel(node)
            case n.BroadcastMention():
                return self.words.broadcast(node)
            case n.MessageLink(_, _, children):
                url = self.words.message(node)
                return f"[{self._inline(children)}]({url})" if children else url
            case n.CustomEmoji(name):
                return f":{name}:"
            case n.InlineImage(alt):
                return alt or "image"
            case n.Timestamp():
                return moment(node)
            case _:
                return ""
