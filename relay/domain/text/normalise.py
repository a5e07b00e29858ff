"""One form for each text: what the parsers hand out and what the renderers start from.

Two trees that read the same become the same tree: neighbouring texts merge, empty nodes go, bold inside bold is bold,
and white space at the edge of a marked-up stretch moves outside it (no dialect can mark up a lone space).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby
from operator import is_

from relay.domain.text.nodes import (
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


def normalise(text: RichText) -> RichText:
    """`text` in its one form. Idempotent; reads the same as before."""
    return RichText(normalise_blocks(text.blocks))


def normalise_blocks(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The same for a sequence of blocks.

    Empty ones go, a blank line separates paragraphs (each further one is a `LineBreak` in front of the second), small
    print in a row is one block.
    """
    blocks = tuple(blocks)
    if len(blocks) == 1 and isinstance(only := blocks[0], Paragraph) and is_lone_word(only.children):
        return blocks
    done: list[Block] = []
    small: list[Inline] = []
    for block in chain.from_iterable(map(_block, blocks)):
        if isinstance(block, Subtext):
            small += (LineBreak(), *block.children) if small else block.children
            continue
        if small:
            done.append(Subtext(tuple(small)))
            small = []
        if isinstance(block, Paragraph) and not done:
            done.append(Paragraph(without_lead(block.children)))
        else:
            done.append(block)
    return (*done, Subtext(tuple(small))) if small else tuple(done)


def _block(block: Block) -> Iterator[Block]:
    match block:
        case Paragraph():
            yield from _parted(block)
        case Heading(level, children):
            if words := words_of(children):
                yield Heading(min(max(level, 1), 6), words)
        case Subtext(children):
            if words := words_of(children):
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
    summary, blocks = words_of(details.summary), normalise_blocks(details.blocks)
    if summary or blocks:
        yield Details(summary, blocks)


def _table(table: Table) -> Iterator[Table]:
    rows = tuple(tuple(replace(cell, children=words_of(cell.children)) for cell in row) for row in table.rows if row)
    if any(cell.children for row in rows for cell in row):
        yield Table(rows, words_of(table.caption))


def _parted(block: Paragraph) -> Iterable[Block]:
    """A paragraph for each stretch without a blank line in it."""
    if is_lone_word(block.children):
        return (block,)
    return map(_paragraph, _paragraphs(trim_lines(normalise_inline(block.children))))


def _paragraph(nodes: tuple[Inline, ...]) -> Block:
    """A line that is all lowered is how small print is written where there is none."""
    match nodes:
        case (Superscript(children, True),):
            return Subtext(children)
        case _:
            return Paragraph(nodes)


def _paragraphs(nodes: tuple[Inline, ...]) -> Iterator[tuple[Inline, ...]]:
    """`nodes` cut at their blank lines."""
    if nodes and LineBreak not in map(type, nodes):
        yield nodes
        return
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


# --- Inline nodes ---------------------------------------------------------------------------------------
# Most of what people write is in that form already: each step looks for that first, and hands back what it was given.


_MERGED = (Strong, Emphasis, Underline, Strike)
_BREAKS = re.compile(r"[\t\n\r\f]+")
_Wrapper = Strong | Emphasis | Underline | Strike | Spoiler | Link | Colored | Superscript


def normalise_inline(nodes: Iterable[Inline]) -> tuple[Inline, ...]:
    """`nodes` in their one form. Line breaks inside a `Text` become `LineBreak`s."""
    return tuple(_tidy(nodes, frozenset()))


def is_lone_word(nodes: tuple[Inline, ...]) -> bool:
    """Whether `nodes` are one text on one line without white space at its edges, marked up once at most.

    That is in its one form already, wherever no markup surrounds it.
    """
    if len(nodes) == 1 and isinstance(nodes[0], _MERGED):
        nodes = nodes[0].children
    if len(nodes) != 1 or not isinstance(only := nodes[0], Text):
        return False
    text = only.text
    return bool(text) and not (text[0].isspace() or text[-1].isspace() or "\n" in text or "\r" in text)


def words_of(nodes: Iterable[Inline]) -> tuple[Inline, ...]:
    """`nodes` as all of a block that is one line of words: nothing but space is nothing."""
    return without_lead(trim_lines(normalise_inline(nodes)))


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


def trim_lines(nodes: Sequence[Inline]) -> tuple[Inline, ...]:
    """Without spaces at the ends of lines and without line breaks at the end; nothing if there is only space."""
    if all(map(_is_space, nodes)):
        return ()
    if LineBreak not in map(type, nodes) and not (isinstance(nodes[-1], Text) and nodes[-1].text[-1:].isspace()):
        return tuple(nodes)
    done: list[Inline] = []
    for index, node in enumerate(nodes):
        if isinstance(node, Text) and (index + 1 == len(nodes) or isinstance(nodes[index + 1], LineBreak)):
            if stripped := node.text.rstrip():
                done.append(node if len(stripped) == len(node.text) else Text(stripped))
        else:
            done.append(node)
    while done and isinstance(done[-1], LineBreak):
        done.pop()
    if done and isinstance(done[-1], Text) and done[-1].text != done[-1].text.rstrip():
        return trim_lines(done)
    return tuple(done)


def without_lead(nodes: tuple[Inline, ...]) -> tuple[Inline, ...]:
    """Without the line breaks and spaces in front: there is nothing that they would set the text apart from."""
    for index, node in enumerate(nodes):
        match node:
            case LineBreak():
                continue
            case Text(text):
                if stripped := text.lstrip():
                    return nodes if not index and len(stripped) == len(text) else (Text(stripped), *nodes[index + 1 :])
            case _:
                return nodes[index:]
    return ()


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
            case ChannelMention(children=children) if children:
                words = _tidy(children, inside | {Link})
                shown = () if all(map(_is_space, words)) else tuple(words)
                done.extend(_leaf(replace(node, children=shown)))
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


def _wrapper(node: _Wrapper, inside: frozenset[type]) -> Sequence[Inline]:
    kind = type(node)
    if kind in _MERGED and kind not in inside and len(node.children) == 1 and isinstance(node.children[0], Text):
        text = node.children[0].text
        if "\n" not in text and "\r" not in text:
            return _around_word(node, text)
    if isinstance(node, Link) and node.url != (url := _BREAKS.sub("", node.url).strip()):
        node = replace(node, url=url)
    flat = kind in inside and kind not in (Colored, Superscript)
    children = _tidy(node.children, inside if flat else inside | {kind})
    if isinstance(node, Link) and all(map(_is_space, children)):
        # What nobody can see, nobody can follow.
        children = [Text(node.url)]
    if flat or (isinstance(node, Colored) and node.foreground is None and node.background is None):
        return children
    if isinstance(node, Link) and not node.url:
        return children
    return _space_outside(node, children)


def _around_word(node: _Wrapper, text: str) -> Sequence[Inline]:
    """`node`, which holds nothing but `text`, with the white space at the edges of `text` outside it."""
    core = text.strip()
    if len(core) == len(text):
        return (node,) if text else ()
    if not core:
        return node.children
    start = len(text) - len(text.lstrip())
    end = start + len(core)
    edges = (text[:start], text[end:])
    before, after = ((Text(edge),) if edge else () for edge in edges)
    return (*before, _with(node, (Text(core),)), *after)


def _space_outside(node: _Wrapper, children: list[Inline]) -> Sequence[Inline]:
    """`node` around `children`, with the white space at their edges outside it."""
    first, last = 0, len(children)
    while first < last and _is_space(children[first]):
        first += 1
    while last > first and _is_space(children[last - 1]):
        last -= 1
    before, core, after = children[:first], children[first:last], children[last:]
    if not core:
        return children
    if isinstance(head := core[0], Text) and len(text := head.text.lstrip()) < len(head.text):
        core[0] = Text(text)
        before.append(Text(head.text[: -len(text)]))
    if isinstance(tail := core[-1], Text) and len(text := tail.text.rstrip()) < len(tail.text):
        core[-1] = Text(text)
        after.insert(0, Text(tail.text[len(text) :]))
    unchanged = len(core) == len(node.children) and all(
        new is old for new, old in zip(core, node.children, strict=True)
    )
    return (*before, node if unchanged else _with(node, tuple(core)), *after)


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
    kinds = list(map(type, nodes))
    if not any(map(is_, kinds, kinds[1:])):
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
