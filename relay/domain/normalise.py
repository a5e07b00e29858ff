"""One form for each text: what the parsers hand out and what the renderers start from.

Two trees that read the same become the same tree: neighbouring texts merge, empty nodes go, bold inside bold is bold,
and white space at the edge of a marked-up stretch moves outside it (no dialect can mark up a lone space).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from relay.domain.richtext import (
    Block,
    BulletList,
    Code,
    CodeBlock,
    Colored,
    Details,
    Emphasis,
    Heading,
    Inline,
    LineBreak,
    Link,
    ListItem,
    Math,
    MessageLink,
    Paragraph,
    Quote,
    RichText,
    Rule,
    Spoiler,
    Strike,
    Strong,
    Subtext,
    Superscript,
    Table,
    TableCell,
    Text,
    Underline,
)

_MERGED = (Strong, Emphasis, Underline, Strike)
_WRAPPERS = (*_MERGED, Spoiler, Colored, Superscript, Link)
_URL = re.compile(r"https?://[^\s<>\u200b]++", re.IGNORECASE)
_URL_TAIL = frozenset(".,:;!?\"'[]")


def normalise(text: RichText) -> RichText:
    """`text` in its one form. Idempotent; reads the same as before."""
    return RichText(normalise_blocks(text.blocks))


def normalise_blocks(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The same for a sequence of blocks: empty ones go, small print in a row becomes one block."""
    tidy = [block for block in map(_block, blocks) if block is not None]
    done: list[Block] = []
    for block in tidy:
        last = done[-1] if done else None
        if isinstance(block, Subtext) and isinstance(last, Subtext):
            done[-1] = Subtext((*last.children, LineBreak(), *block.children))
        else:
            done.append(block)
    if done and isinstance(done[0], Paragraph):
        done[0] = Paragraph(_without_breaks(done[0].children))
    return tuple(done)


def normalise_inline(nodes: Iterable[Inline]) -> tuple[Inline, ...]:
    """The same for inline nodes. Line breaks inside a `Text` become `LineBreak`s."""
    return tuple(_tidy(nodes, frozenset()))


def link_bare_urls(text: str) -> Iterator[Inline]:
    """`text` with each http(s) URL in it as a bare link, as both platforms' clients show it.

    Closing punctuation is not part of a URL, nor is a closing bracket that was not opened inside it.
    """
    start = 0
    for match in _URL.finditer(text):
        url = trim_url(match.group())
        if len(url) <= len("https://"):
            continue
        if match.start() > start:
            yield Text(text[start : match.start()])
        yield Link(url, (Text(url),))
        start = match.start() + len(url)
    if start < len(text):
        yield Text(text[start:])


def trim_url(url: str) -> str:
    """`url` without the punctuation and the unopened closing brackets at its end."""
    surplus = url.count(")") - url.count("(")
    end = len(url)
    while end and (url[end - 1] in _URL_TAIL or (surplus > 0 and url[end - 1] == ")")):
        end -= 1
        surplus -= url[end] == ")"
    return url[:end]


def is_bare(link: Link) -> bool:
    """Whether the words of `link` are its URL."""
    return link.children == (Text(link.url),)


def _block(block: Block) -> Block | None:
    match block:
        case Paragraph(children):
            kept = _trim_lines(_tidy(children, frozenset()))
            return Paragraph(kept) if kept else None
        case Heading(level, children):
            kept = _without_breaks(_trim_lines(_tidy(children, frozenset())))
            return Heading(min(max(level, 1), 6), kept) if kept else None
        case Subtext(children):
            kept = _without_breaks(_trim_lines(_tidy(children, frozenset())))
            return Subtext(kept) if kept else None
        case CodeBlock(text, language):
            return CodeBlock(text.rstrip("\n"), language) if text.strip("\n") else None
        case Quote(blocks):
            inner = normalise_blocks(blocks)
            return Quote(inner) if inner else None
        case BulletList(items, start):
            kept_items = tuple(ListItem(inner) for item in items if (inner := normalise_blocks(item.blocks)))
            return BulletList(kept_items, start) if kept_items else None
        case Table(rows, caption):
            tidy_rows = tuple(tuple(map(_cell, row)) for row in rows if row)
            return Table(tidy_rows, _trim_lines(_tidy(caption, frozenset()))) if tidy_rows else None
        case Details(summary, blocks):
            inner = normalise_blocks(blocks)
            words = _without_breaks(_trim_lines(_tidy(summary, frozenset())))
            return Details(words, inner) if inner or words else None
        case Rule():
            return block


def _cell(cell: TableCell) -> TableCell:
    return replace(cell, children=_without_breaks(_trim_lines(_tidy(cell.children, frozenset()))))


def _tidy(nodes: Iterable[Inline], inside: frozenset[type]) -> list[Inline]:
    done: list[Inline] = []
    for node in nodes:
        match node:
            case Text(text):
                for number, line in enumerate(text.split("\n")):
                    if number:
                        done.append(LineBreak())
                    if line:
                        done.append(Text(line))
            case Code(text) | Math(text):
                if text.strip():
                    done.append(node)
            case Strong() | Emphasis() | Underline() | Strike() | Spoiler() | Link() | Colored() | Superscript():
                done.extend(_wrapper(node, inside))
            case MessageLink(_, _, children):
                done.append(replace(node, children=tuple(_tidy(children, inside | {Link}))))
            case _:
                done.append(node)
    return _join(done)


def _wrapper(
    node: Strong | Emphasis | Underline | Strike | Spoiler | Link | Colored | Superscript, inside: frozenset[type]
) -> Iterable[Inline]:
    kind = type(node)
    flat = kind in inside and kind not in (Colored, Superscript)
    children = _tidy(node.children, inside if flat else inside | {kind})
    if flat or (isinstance(node, Colored) and node.foreground is None and node.background is None):
        return children
    if isinstance(node, Link):
        # A link that nobody can see is shown as its URL.
        words = tuple(children) if any(not _is_space(child) for child in children) else (Text(node.url),)
        return (replace(node, children=words),) if node.url else children
    first = next((index for index, child in enumerate(children) if not _is_space(child)), None)
    if first is None:
        return children
    last = next(index for index in range(len(children) - 1, -1, -1) if not _is_space(children[index]))
    before, after = children[:first], children[last + 1 :]
    core = children[first : last + 1]
    if isinstance(head := core[0], Text) and (stripped := head.text.lstrip()) != head.text:
        before.append(Text(head.text[: len(head.text) - len(stripped)]))
        core[0] = Text(stripped)
    if isinstance(tail := core[-1], Text) and (stripped := tail.text.rstrip()) != tail.text:
        after.insert(0, Text(tail.text[len(stripped) :]))
        core[-1] = Text(stripped)
    return [*before, replace(node, children=tuple(core)), *after]


def _join(nodes: Sequence[Inline]) -> list[Inline]:
    """Merge neighbours: texts, and stretches marked up in the same way."""
    done: list[Inline] = []
    for kind, group in groupby(nodes, type):
        members = list(group)
        if kind is Text and len(members) > 1:
            done.append(Text("".join(member.text for member in members if isinstance(member, Text))))
        elif kind in _MERGED and len(members) > 1:
            children = [child for member in members if isinstance(member, _MERGED) for child in member.children]
            done.append(kind(children=tuple(_join(children))))
        else:
            done.extend(members)
    return done


def _is_space(node: Inline) -> bool:
    return isinstance(node, LineBreak) or (isinstance(node, Text) and not node.text.strip())


def _trim_lines(nodes: Sequence[Inline]) -> tuple[Inline, ...]:
    """Without spaces at the ends of lines and without line breaks at the end; nothing if there is only space."""
    if all(map(_is_space, nodes)):
        return ()
    done: list[Inline] = []
    for index, node in enumerate(nodes):
        if isinstance(node, Text) and (index + 1 == len(nodes) or isinstance(nodes[index + 1], LineBreak)):
            if stripped := node.text.rstrip():
                done.append(Text(stripped))
        else:
            done.append(node)
    while done and isinstance(done[-1], LineBreak):
        done.pop()
    if done and isinstance(done[-1], Text) and done[-1].text != done[-1].text.rstrip():
        return _trim_lines(done)
    return tuple(done)


def _without_breaks(nodes: tuple[Inline, ...]) -> tuple[Inline, ...]:
    """Without the line breaks in front: above the first line there is nothing to be set apart from."""
    start = 0
    while start < len(nodes) and isinstance(nodes[start], LineBreak):
        start += 1
    return nodes[start:]
