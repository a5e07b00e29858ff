"""One form for each text: what the parsers hand out and what the renderers start from.

Two trees that read the same become the same tree: neighbouring texts merge, empty nodes go, bold inside bold is bold,
and white space at the edge of a marked-up stretch moves outside it (no dialect can mark up a lone space).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, pairwise

from relay.domain.richtext import (
    Block,
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
    ListItem,
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
    Underline,
    UserMention,
)

_MERGED = (Strong, Emphasis, Underline, Strike)
_URL = re.compile(r"https?://[^\s<>\\`\u200b]++", re.IGNORECASE)
_BREAKS = re.compile(r"[\t\n\r\f]+")
_URL_TAIL = frozenset(".,:;!?\"'[]")


def normalise(text: RichText) -> RichText:
    """`text` in its one form. Idempotent; reads the same as before."""
    return RichText(normalise_blocks(text.blocks))


def normalise_blocks(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The same for a sequence of blocks.

    Empty ones go, a blank line separates paragraphs (each further one is a `LineBreak` in front of the second), small
    print in a row is one block.
    """
    done: list[Block] = []
    for block in chain.from_iterable(map(_block, blocks)):
        last = done[-1] if done else None
        if isinstance(block, Subtext) and isinstance(last, Subtext):
            done[-1] = Subtext((*last.children, LineBreak(), *block.children))
        elif isinstance(block, Paragraph) and not done:
            done.append(Paragraph(_without_lead(block.children)))
        else:
            done.append(block)
    return tuple(done)


def normalise_inline(nodes: Iterable[Inline]) -> tuple[Inline, ...]:
    """The same for inline nodes. Line breaks inside a `Text` become `LineBreak`s."""
    return tuple(_tidy(nodes, frozenset()))


def split_lines(nodes: Iterable[Inline]) -> list[tuple[Inline, ...]]:
    """`nodes` cut at their line breaks; markup that spans several lines is closed and opened again."""
    lines: list[list[Inline]] = [[]]
    for node in nodes:
        match node:
            case LineBreak():
                lines.append([])
            case Strong() | Emphasis() | Underline() | Strike() | Spoiler() | Colored() | Superscript() | Link():
                first, *rest = split_lines(node.children)
                lines[-1].append(_with(node, first))
                lines.extend([_with(node, line)] for line in rest)
            case _:
                lines[-1].append(node)
    return [tuple(line) for line in lines]


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


def _block(block: Block) -> Iterator[Block]:
    match block:
        case Paragraph(children):
            yield from map(_paragraph, _paragraphs(_trim_lines(_tidy(children, frozenset()))))
        case Heading(level, children):
            if words := _words(children):
                yield Heading(min(max(level, 1), 6), words)
        case Subtext(children):
            if words := _words(children):
                yield Subtext(words)
        case CodeBlock(text, language):
            if text.strip("\n"):
                yield CodeBlock(text.strip("\n"), language)
        case Quote(blocks):
            if inner := normalise_blocks(blocks):
                yield Quote(inner)
        case BulletList(items, start):
            if kept := tuple(ListItem(inner) for item in items if (inner := normalise_blocks(item.blocks))):
                yield BulletList(kept, start)
        case Table():
            yield from _table(block)
        case Details():
            yield from _details(block)
        case Rule():
            yield block


def _details(details: Details) -> Iterator[Details]:
    summary, blocks = _words(details.summary), normalise_blocks(details.blocks)
    if summary or blocks:
        yield Details(summary, blocks)


def _table(table: Table) -> Iterator[Table]:
    rows = tuple(tuple(replace(cell, children=_words(cell.children)) for cell in row) for row in table.rows if row)
    if any(cell.children for row in rows for cell in row):
        yield Table(rows, _words(table.caption))


def _paragraph(nodes: tuple[Inline, ...]) -> Block:
    """A line that is all lowered is how small print is written where there is none."""
    match nodes:
        case (Superscript(children, True),):
            return Subtext(children)
        case _:
            return Paragraph(nodes)


def _paragraphs(nodes: tuple[Inline, ...]) -> Iterator[tuple[Inline, ...]]:
    """`nodes` cut at their blank lines."""
    current: list[Inline] = []
    breaks = 0
    for node in nodes:
        if isinstance(node, LineBreak):
            breaks += 1
            continue
        if breaks > 1 and current:
            yield tuple(current)
            current, breaks = [], breaks - 2
        current.extend(LineBreak() for _ in range(breaks))
        breaks = 0
        current.append(node)
    if current:
        yield tuple(current)


def _words(nodes: tuple[Inline, ...]) -> tuple[Inline, ...]:
    return _without_lead(_trim_lines(_tidy(nodes, frozenset())))


def _tidy(nodes: Iterable[Inline], inside: frozenset[type]) -> list[Inline]:
    done: list[Inline] = []
    for node in nodes:
        match node:
            case Text(text):
                if text and "\n" not in text and "\r" not in text:
                    done.append(node)
                    continue
                for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n")):
                    if number:
                        done.append(LineBreak())
                    if line:
                        done.append(Text(line))
            case LineBreak() if Link in inside:
                # The words of a link stay on one line.
                done.append(Text(" "))
            case Strong() | Emphasis() | Underline() | Strike() | Spoiler() | Link() | Colored() | Superscript():
                done.extend(_wrapper(node, inside))
            case MessageLink(_, url, children):
                words = _tidy(children, inside | {Link})
                shown = () if all(map(_is_space, words)) else tuple(words)
                done.extend((replace(node, children=shown),) if url.strip() else words)
            case _:
                done.extend(_leaf(node))
    return _join(done)


def _leaf(node: Inline) -> Iterator[Inline]:
    match node:
        case Code(text):
            if text.strip():
                yield Code(_BREAKS.sub(" ", text)) if _BREAKS.search(text) else node
        case Math(text):
            if text.strip():
                yield node
        case UserMention() | RoleMention() | ChannelMention() | CustomEmoji():
            name = _BREAKS.sub(" ", node.name).strip()
            yield node if name == node.name else replace(node, name=name)
        case InlineImage(alt):
            yield replace(node, alt=_BREAKS.sub(" ", alt).strip())
        case _:
            yield node


def _wrapper(
    node: Strong | Emphasis | Underline | Strike | Spoiler | Link | Colored | Superscript, inside: frozenset[type]
) -> Sequence[Inline]:
    if isinstance(node, Link) and node.url != (url := _BREAKS.sub("", node.url).strip()):
        node = replace(node, url=url)
    kind = type(node)
    flat = kind in inside and kind not in (Colored, Superscript)
    children = _tidy(node.children, inside if flat else inside | {kind})
    if isinstance(node, Link) and all(map(_is_space, children)):
        # What nobody can see, nobody can follow.
        children = [Text(node.url)]
    if flat or (isinstance(node, Colored) and node.foreground is None and node.background is None):
        return children
    if isinstance(node, Link) and not node.url:
        return children
    first, last = 0, len(children)
    while first < last and _is_space(children[first]):
        first += 1
    while last > first and _is_space(children[last - 1]):
        last -= 1
    before, core, after = children[:first], children[first:last], children[last:]
    if not core:
        return children
    if isinstance(head := core[0], Text) and (text := head.text.lstrip()) != head.text:
        core[0] = Text(text)
        before.append(Text(head.text[: -len(text)]))
    if isinstance(tail := core[-1], Text) and (text := tail.text.rstrip()) != tail.text:
        core[-1] = Text(text)
        after.insert(0, Text(tail.text[len(text) :]))
    wrapped = node if len(core) == len(node.children) and tuple(core) == node.children else _with(node, tuple(core))
    return (*before, wrapped, *after)


def _with(node: Inline, children: tuple[Inline, ...]) -> Inline:
    match node:
        case Strong() | Emphasis() | Underline() | Strike():
            return type(node)(children)
        case Spoiler() | Colored() | Superscript() | Link():
            return replace(node, children=children)
        case _:
            return node


def _join(nodes: list[Inline]) -> list[Inline]:
    """Merge neighbours: texts, and stretches marked up in the same way."""
    if not any(type(left) is type(right) for left, right in pairwise(nodes)):
        return nodes
    done: list[Inline] = []
    for kind, group in groupby(nodes, type):
        members = list(group)
        if len(members) == 1:
            done.append(members[0])
        elif kind is Text:
            done.append(Text("".join(member.text for member in members if isinstance(member, Text))))
        elif kind in _MERGED:
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


def _without_lead(nodes: tuple[Inline, ...]) -> tuple[Inline, ...]:
    """Without the line breaks and spaces in front: there is nothing that they would set the text apart from."""
    for index, node in enumerate(nodes):
        match node:
            case LineBreak():
                continue
            case Text(text):
                if stripped := text.lstrip():
                    return (Text(stripped), *nodes[index + 1 :])
            case _:
                return nodes[index:]
    return ()
