"""The neutral text tree -> a Matrix event's `body`: what bots, notifications and clients without HTML read.

It looks like markdown to the eye and is not meant to be parsed. What a spoiler hides is not in it:
https://spec.matrix.org/latest/client-server-api/#spoiler-messages
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from relay.domain.text.links import is_bare
from relay.domain.text.nodes import (
    Block,
    BroadcastMention,
    BulletList,
    ChannelMention,
    Code,
    CodeBlock,
    Colored,
    CustomEmoji,
    Details,
    Emphasis,
    Heading,
    Inline,
    InlineImage,
    LineBreak,
    Link,
    Math,
    MessageLink,
    Paragraph,
    Quote,
    RichText,
    RoleMention,
    Rule,
    Spoiler,
    Strike,
    Strong,
    Subtext,
    Superscript,
    Table,
    Text,
    Timestamp,
    Underline,
    UserMention,
)

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True)
class Words:
    """How references are called."""

    user: Callable[[UserMention], str]
    channel: Callable[[ChannelMention], str]
    broadcast: Callable[[BroadcastMention], str]
    message: Callable[[MessageLink], str]


def write_body(text: RichText, words: Words) -> str:
    """`text` as plain text."""
    return _Body(words).blocks(text.blocks)


def moment(node: Timestamp) -> str:
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

    def blocks(self, blocks: tuple[Block, ...]) -> str:
        """Blocks one below the other, paragraphs set apart."""
        done: list[str] = []
        for index, block in enumerate(blocks):
            above = blocks[index - 1] if index else None
            if above is not None:
                apart = type(above) is type(block) and isinstance(block, Paragraph | Quote | BulletList)
                done.append("\n\n" if apart else "\n")
            done.append(self._block(block))
        return "".join(done)

    def _block(self, block: Block) -> str:
        match block:
            case Paragraph(children) | Subtext(children):
                return self._inline(children)
            case Heading(level, children):
                return f"{'#' * level} {self._inline(children)}"
            case CodeBlock(text, language):
                return f"```{language}\n{text}\n```"
            case Quote(blocks):
                return "\n".join(f"> {line}" for line in self.blocks(blocks).split("\n"))
            case BulletList(items, start):
                marks = ("- " if start is None else f"{start + index}. " for index in range(len(items)))
                return "\n".join(
                    mark + self.blocks(item.blocks).replace("\n", "\n" + " " * len(mark))
                    for mark, item in zip(marks, items, strict=True)
                )
            case Table(rows, caption):
                lines = [self._inline(caption)] if caption else []
                lines += (" | ".join(self._inline(cell.children) for cell in row) for row in rows)
                return "\n".join(lines)
            case Details(summary, blocks):
                return "\n".join(part for part in (self._inline(summary), self.blocks(blocks)) if part)
            case Rule():
                return "---"

    def _inline(self, nodes: tuple[Inline, ...]) -> str:
        return "".join(self._nodes(nodes))

    def _nodes(self, nodes: tuple[Inline, ...]) -> Iterator[str]:
        for node in nodes:
            match node:
                case Text(text):
                    yield text
                case LineBreak():
                    yield "\n"
                case Strong(children):
                    yield f"**{self._inline(children)}**"
                case Emphasis(children):
                    yield f"*{self._inline(children)}*"
                case Strike(children):
                    yield f"~~{self._inline(children)}~~"
                case Underline(children) | Colored(children):
                    yield self._inline(children)
                case Superscript(children, lowered):
                    yield f"{'_' if lowered else '^'}({self._inline(children)})"
                case Spoiler(_, reason):
                    yield f"[Spoiler for {reason}]" if reason else "[Spoiler]"
                case Link(url, children):
                    yield url if is_bare(node) else f"[{self._inline(children)}]({url})"
                case _:
                    yield self._leaf(node)

    def _leaf(self, node: Inline) -> str:
        match node:
            case Code(text):
                return f"`{text}`"
            case Math(tex):
                return f"${tex}$"
            case UserMention():
                return self.words.user(node)
            case RoleMention(name):
                return f"@{name}"
            case ChannelMention(children=children):
                return self._inline(children) if children else self.words.channel(node)
            case BroadcastMention():
                return self.words.broadcast(node)
            case MessageLink(_, _, children):
                url = self.words.message(node)
                return f"[{self._inline(children)}]({url})" if children else url
            case CustomEmoji(name):
                return f":{name}:"
            case InlineImage(alt):
                return alt or "image"
            case Timestamp():
                return moment(node)
            case _:
                return ""
