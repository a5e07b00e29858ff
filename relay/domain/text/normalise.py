"""The normal form of a text: what the parsers return, and what the renderers expect.

Two trees that read the same become the same tree. Neighbouring texts are merged, empty nodes are removed, bold inside
bold is bold, and white space at the edge of a marked-up text moves outside (no dialect can mark up a single space).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby
from operator import is_

from relay.domain.text import nodes as n


def normalise(text: n.RichText) -> n.RichText:
    """`text` in normal form: it reads the same as before. Idempotent."""
    return n.RichText(normalise_blocks(text.blocks))


def normalise_blocks(blocks: Iterable[n.Block]) -> tuple[n.Block, ...]:
    """A sequence of blocks in normal form.

    Empty blocks are removed. A blank line separates paragraphs, and each further one is a `LineBreak` at the start of
    the second. Several blocks of small print in a row become one.
    """
    blocks = tuple(blocks)
    if len(blocks) == 1 and isinstance(only := blocks[0], n.Paragraph) and is_lone_word(only.children):
        return blocks
    done: list[n.Block] = []
    small: list[n.Inline] = []
    for block in chain.from_iterable(map(_block, blocks)):
        if isinstance(block, n.Subtext):
            small += (n.LineBreak(), *block.children) if small else block.children
            continue
        if small:
            done.append(n.Subtext(tuple(small)))
            small = []
        if isinstance(block, n.Paragraph) and not done:
            done.append(n.Paragraph(without_lead(block.children)))
        else:
            done.append(block)
    return (*done, n.Subtext(tuple(small))) if small else tuple(done)


def _block(block: n.Block) -> Iterator[n.Block]:
    match block:
        case n.Paragraph():
            yield from _parted(block)
        case n.Heading(level, children):
            if words := words_of(children):
                yield n.Heading(min(max(level, 1), 6), words)
        case n.Subtext(children):
            if words := words_of(children):
                yield n.Subtext(words)
        case n.CodeBlock(text, language):
            if text.strip("\n"):
                yield n.CodeBlock(text.strip("\n"), language)
        case n.Quote(blocks):
            if inner := normalise_blocks(blocks):
                yield n.Quote(inner)
        case n.BulletList(items, start):
            if kept := tuple(n.ListItem(inner) for item in items if (inner := normalise_blocks(item.blocks))):
                yield n.BulletList(kept, start)
        case n.Table():
            yield from _table(block)
        case n.Details():
            yield from _details(block)
        case n.Rule():
            yield block


def _details(details: n.Details) -> Iterator[n.Details]:
    summary, blocks = words_of(details.summary), normalise_blocks(details.blocks)
    if summary or blocks:
        yield n.Details(summary, blocks)


def _table(table: n.Table) -> Iterator[n.Table]:
    rows = tuple(tuple(replace(cell, children=words_of(cell.children)) for cell in row) for row in table.rows if row)
    if any(cell.children for row in rows for cell in row):
        yield n.Table(rows, words_of(table.caption))


def _parted(block: n.Paragraph) -> Iterable[n.Block]:
    """A paragraph cut at its blank lines."""
    if is_lone_word(block.children):
        return (block,)
    return map(_paragraph, _paragraphs(trim_lines(normalise_inline(block.children))))


def _paragraph(nodes: tuple[n.Inline, ...]) -> n.Block:
    """A paragraph; small print if all of it is subscript: platforms without small print write it so."""
    match nodes:
        case (n.Superscript(children, True),):
            return n.Subtext(children)
        case _:
            return n.Paragraph(nodes)


def _paragraphs(nodes: tuple[n.Inline, ...]) -> Iterator[tuple[n.Inline, ...]]:
    """`nodes` cut at their blank lines."""
    if nodes and n.LineBreak not in map(type, nodes):
        yield nodes
        return
    current: list[n.Inline] = []
    breaks = 0
    for node in nodes:
        if isinstance(node, n.LineBreak):
            breaks += 1
            continue
        if breaks > 1 and current:
            yield tuple(current)
            current, breaks = [], breaks - 2
        current.extend(n.LineBreak() for _ in range(breaks))
        breaks = 0
        current.append(node)
    if current:
        yield tuple(current)


# --- Inline nodes ---------------------------------------------------------------------------------------
# Most of what people write is in that form already: each step looks for that first, and hands back what it was given.


_MERGED = (n.Strong, n.Emphasis, n.Underline, n.Strike)
_BREAKS = re.compile(r"[\t\n\r\f]+")
_Wrapper = n.Strong | n.Emphasis | n.Underline | n.Strike | n.Spoiler | n.Link | n.Colored | n.Superscript


def normalise_inline(nodes: Iterable[n.Inline]) -> tuple[n.Inline, ...]:
    """`nodes` in normal form. Line breaks inside a `Text` become `LineBreak`s."""
    return tuple(_tidy(nodes, frozenset()))


def is_lone_word(nodes: tuple[n.Inline, ...]) -> bool:
    """Whether `nodes` are one text on one line without white space at its edges, marked up at most once.

    That is already in normal form, unless it is inside other markup.
    """
    if len(nodes) == 1 and isinstance(nodes[0], _MERGED):
        nodes = nodes[0].children
    if len(nodes) != 1 or not isinstance(only := nodes[0], n.Text):
        return False
    text = only.text
    return bool(text) and not (text[0].isspace() or text[-1].isspace() or "\n" in text or "\r" in text)


def words_of(nodes: Iterable[n.Inline]) -> tuple[n.Inline, ...]:
    """`nodes` in normal form as the only content of a block; nothing if they are only white space."""
    return without_lead(trim_lines(normalise_inline(nodes)))


def split_lines(nodes: Iterable[n.Inline]) -> list[tuple[n.Inline, ...]]:
    """`nodes` cut at their line breaks; markup that spans several lines is closed and opened again."""
    lines: list[list[n.Inline]] = [[]]
    for node in nodes:
        match node:
            case n.LineBreak():
                lines.append([])
            case (
                n.Strong()
                | n.Emphasis()
                | n.Underline()
                | n.Strike()
                | n.Spoiler()
                | n.Colored()
                | n.Superscript()
                | n.Link()
            ):
                first, *rest = split_lines(node.children)
                lines[-1].append(_with(node, first))
                lines.extend([_with(node, line)] for line in rest)
            case _:
                lines[-1].append(node)
    return [tuple(line) for line in lines]


def trim_lines(nodes: Sequence[n.Inline]) -> tuple[n.Inline, ...]:
    """`nodes` without spaces at the ends of lines and line breaks at the end; nothing if they are only white space."""
    if all(map(_is_space, nodes)):
        return ()
    if n.LineBreak not in map(type, nodes) and not (isinstance(nodes[-1], n.Text) and nodes[-1].text[-1:].isspace()):
        return tuple(nodes)
    done: list[n.Inline] = []
    for index, node in enumerate(nodes):
        if isinstance(node, n.Text) and (index + 1 == len(nodes) or isinstance(nodes[index + 1], n.LineBreak)):
            if stripped := node.text.rstrip():
                done.append(node if len(stripped) == len(node.text) else n.Text(stripped))
        else:
            done.append(node)
    while done and isinstance(done[-1], n.LineBreak):
        done.pop()
    if done and isinstance(done[-1], n.Text) and done[-1].text != done[-1].text.rstrip():
        return trim_lines(done)
    return tuple(done)


def without_lead(nodes: tuple[n.Inline, ...]) -> tuple[n.Inline, ...]:
    """`nodes` without line breaks and spaces at the start."""
    for index, node in enumerate(nodes):
        match node:
            case n.LineBreak():
                continue
            case n.Text(text):
                if stripped := text.lstrip():
                    return (
                        nodes if not index and len(stripped) == len(text) else (n.Text(stripped), *nodes[index + 1 :])
                    )
            case _:
                return nodes[index:]
    return ()


def _tidy(nodes: Iterable[n.Inline], inside: frozenset[type]) -> list[n.Inline]:
    done: list[n.Inline] = []
    for node in nodes:
        match node:
            case n.Text(text):
                if text and "\n" not in text and "\r" not in text:
                    done.append(node)
                    continue
                for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n")):
                    if number:
                        done.append(n.LineBreak())
                    if line:
                        done.append(n.Text(line))
            case n.LineBreak() if n.Link in inside:
                # The text of a link is on one line.
                done.append(n.Text(" "))
            case (
                n.Strong()
                | n.Emphasis()
                | n.Underline()
                | n.Strike()
                | n.Spoiler()
                | n.Link()
                | n.Colored()
                | n.Superscript()
            ):
                done.extend(_wrapper(node, inside))
            case n.MessageLink(_, url, children):
                words = _tidy(children, inside | {n.Link})
                shown = () if all(map(_is_space, words)) else tuple(words)
                done.extend((replace(node, children=shown),) if url.strip() else words)
            case n.ChannelMention(children=children) if children:
                words = _tidy(children, inside | {n.Link})
                shown = () if all(map(_is_space, words)) else tuple(words)
                done.extend(_leaf(replace(node, children=shown)))
            case _:
                done.extend(_leaf(node))
    return _join(done)


def _leaf(node: n.Inline) -> Iterator[n.Inline]:
    match node:
        case n.Code(text):
            if text.strip():
                yield n.Code(_BREAKS.sub(" ", text)) if _BREAKS.search(text) else node
        case n.Math(text):
            if text.strip():
                yield node
        case n.UserMention() | n.RoleMention() | n.ChannelMention() | n.CustomEmoji():
            name = _BREAKS.sub(" ", node.name).strip()
            yield node if name == node.name else replace(node, name=name)
        case n.InlineImage(alt):
            yield replace(node, alt=_BREAKS.sub(" ", alt).strip())
        case _:
            yield node


def _wrapper(node: _Wrapper, inside: frozenset[type]) -> Sequence[n.Inline]:
    kind = type(node)
    if kind in _MERGED and kind not in inside and len(node.children) == 1 and isinstance(node.children[0], n.Text):
        text = node.children[0].text
        if "\n" not in text and "\r" not in text:
            return _around_word(node, text)
    if isinstance(node, n.Link) and node.url != (url := _BREAKS.sub("", node.url).strip()):
        node = replace(node, url=url)
    flat = kind in inside and kind not in (n.Colored, n.Superscript)
    children = _tidy(node.children, inside if flat else inside | {kind})
    if isinstance(node, n.Link) and all(map(_is_space, children)):
        # A link without text cannot be seen, so it shows its address.
        children = [n.Text(node.url)]
    if flat or (isinstance(node, n.Colored) and node.foreground is None and node.background is None):
        return children
    if isinstance(node, n.Link) and not node.url:
        return children
    return _space_outside(node, children)


def _around_word(node: _Wrapper, text: str) -> Sequence[n.Inline]:
    """`node`, which holds only `text`, with the white space at the edges of `text` moved outside."""
    core = text.strip()
    if len(core) == len(text):
        return (node,) if text else ()
    if not core:
        return node.children
    start = len(text) - len(text.lstrip())
    end = start + len(core)
    edges = (text[:start], text[end:])
    before, after = ((n.Text(edge),) if edge else () for edge in edges)
    return (*before, _with(node, (n.Text(core),)), *after)


def _space_outside(node: _Wrapper, children: list[n.Inline]) -> Sequence[n.Inline]:
    """`node` around `children`, with the white space at their edges moved outside."""
    first, last = 0, len(children)
    while first < last and _is_space(children[first]):
        first += 1
    while last > first and _is_space(children[last - 1]):
        last -= 1
    before, core, after = children[:first], children[first:last], children[last:]
    if not core:
        return children
    if isinstance(head := core[0], n.Text) and len(text := head.text.lstrip()) < len(head.text):
        core[0] = n.Text(text)
        before.append(n.Text(head.text[: -len(text)]))
    if isinstance(tail := core[-1], n.Text) and len(text := tail.text.rstrip()) < len(tail.text):
        core[-1] = n.Text(text)
        after.insert(0, n.Text(tail.text[len(text) :]))
    unchanged = len(core) == len(node.children) and all(
        new is old for new, old in zip(core, node.children, strict=True)
    )
    return (*before, node if unchanged else _with(node, tuple(core)), *after)


def _with(node: n.Inline, children: tuple[n.Inline, ...]) -> n.Inline:
    match node:
        case n.Strong() | n.Emphasis() | n.Underline() | n.Strike():
            return type(node)(children)
        case n.Spoiler() | n.Colored() | n.Superscript() | n.Link():
            return replace(node, children=children)
        case _:
            return node


def _join(nodes: list[n.Inline]) -> list[n.Inline]:
    """Merge neighbours: texts, and nodes of the same markup."""
    kinds = list(map(type, nodes))
    if not any(map(is_, kinds, kinds[1:])):
        return nodes
    done: list[n.Inline] = []
    for kind, group in groupby(nodes, type):
        members = list(group)
        if len(members) == 1:
            done.append(members[0])
        elif kind is n.Text:
            done.append(n.Text("".join(member.text for member in members if isinstance(member, n.Text))))
        elif kind in _MERGED:
            children = [child for member in members if isinstance(member, _MERGED) for child in member.children]
            done.append(kind(children=tuple(_join(children))))
        else:
            done.extend(members)
    return done


def _is_space(node: n.Inline) -> bool:
    return isinstance(node, n.LineBreak) or (isinstance(node, n.Text) and not node.text.strip())
