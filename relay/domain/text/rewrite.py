"""Going through a text tree: looking at every node, replacing some, weighing the whole."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from operator import attrgetter
from typing import Any

from relay.domain.text import nodes as n
from relay.domain.text.nodes import Inline, Link, Text

Rewrite = Callable[[n.Inline], n.Inline]
Expand = Callable[[n.Inline], tuple[n.Inline, ...] | None]
_Nodes = Callable[[tuple[n.Inline, ...]], tuple[n.Inline, ...]]


def walk(nodes: Sequence[n.Block | n.Inline], *, closed: tuple[type, ...] = ()) -> Iterator[n.Inline]:
    """Every inline node in blocks or inline nodes, in reading order, each before its children.

    The children of `closed` types are left out.
    """
    waiting: list[n.Block | n.Inline] = list(reversed(nodes))
    while waiting:
        node = waiting.pop()
        match node:
            case n.Paragraph(children) | n.Heading(_, children) | n.Subtext(children):
                waiting += reversed(children)
            case n.Quote(blocks):
                waiting += reversed(blocks)
            case n.BulletList(items):
                waiting += (block for item in reversed(items) for block in reversed(item.blocks))
            case n.Details(summary, blocks):
                waiting += (*reversed(blocks), *reversed(summary))
            case n.Table(rows, caption):
                cells = [cell for row in rows for cell in row]
                waiting += (child for cell in reversed(cells) for child in reversed(cell.children))
                waiting += reversed(caption)
            case n.CodeBlock() | n.Rule():
                pass
            case _:
                yield node
                if isinstance(node, n.Container) and not isinstance(node, closed):
                    waiting += reversed(node.children)


def map_inline(text: n.RichText, rewrite: Rewrite) -> n.RichText:
    """`text` with `rewrite` applied to every inline node, children before their parents."""
    return n.RichText(tuple(_map_block(block, lambda nodes: _map_nodes(nodes, rewrite)) for block in text.blocks))


def expand_inline(text: n.RichText, expand: Expand) -> n.RichText:
    """`text` with inline nodes replaced by what `expand` returns for them, outer ones first.

    Where it returns None, the node stays, and `expand` is asked about its children.
    """
    return n.RichText(tuple(_map_block(block, lambda nodes: _expand_nodes(nodes, expand)) for block in text.blocks))


def map_blocks(text: n.RichText, rewrite: Callable[[n.Block], tuple[n.Block, ...]]) -> n.RichText:
    """`text` with `rewrite` applied to every block, inner ones first. A block may become several, or none."""
    return n.RichText(_rewritten(text.blocks, rewrite))


def marked(blocks: tuple[n.Block, ...], mark: Callable[[tuple[n.Inline, ...]], n.Inline]) -> tuple[n.Block, ...]:
    """`blocks` with markup around all words in them. A code block cannot be a spoiler, but lines of code can."""

    def rewrite(block: n.Block) -> tuple[n.Block, ...]:
        match block:
            case n.Paragraph(children) | n.Heading(_, children) | n.Subtext(children):
                return (replace(block, children=(mark(children),)),)
            case n.CodeBlock(text) if mark is n.Spoiler:
                lines = (node for line in text.split("\n") for node in (n.Code(line), n.LineBreak()))
                return (n.Paragraph((mark(tuple(lines)),)),)
            case _:
                return (block,)

    return _rewritten(blocks, rewrite)


def _rewritten(blocks: tuple[n.Block, ...], rewrite: Callable[[n.Block], tuple[n.Block, ...]]) -> tuple[n.Block, ...]:
    return tuple(new for block in blocks for new in rewrite(_with_inner(block, rewrite)))


def _with_inner(block: n.Block, rewrite: Callable[[n.Block], tuple[n.Block, ...]]) -> n.Block:
    match block:
        case n.Quote() | n.Details():
            return replace(block, blocks=_rewritten(block.blocks, rewrite))
        case n.BulletList():
            return replace(block, items=tuple(n.ListItem(_rewritten(item.blocks, rewrite)) for item in block.items))
        case _:
            return block


def _map_block(block: n.Block, change: _Nodes) -> n.Block:
    match block:
        case n.Paragraph() | n.Heading() | n.Subtext():
            return replace(block, children=change(block.children))
        case n.Quote():
            return replace(block, blocks=tuple(_map_block(inner, change) for inner in block.blocks))
        case n.BulletList():
            items = (n.ListItem(tuple(_map_block(inner, change) for inner in item.blocks)) for item in block.items)
            return replace(block, items=tuple(items))
        case n.Details():
            return replace(
                block,
                summary=change(block.summary),
                blocks=tuple(_map_block(inner, change) for inner in block.blocks),
            )
        case n.Table():
            rows = (tuple(replace(cell, children=change(cell.children)) for cell in row) for row in block.rows)
            return replace(block, rows=tuple(rows), caption=change(block.caption))
        case n.CodeBlock() | n.Rule():
            return block


def _map_nodes(nodes: tuple[n.Inline, ...], rewrite: Rewrite) -> tuple[n.Inline, ...]:
    return tuple(
        rewrite(replace(node, children=_map_nodes(node.children, rewrite)) if isinstance(node, n.Container) else node)
        for node in nodes
    )


def _expand_nodes(nodes: tuple[n.Inline, ...], expand: Expand) -> tuple[n.Inline, ...]:
    return tuple(new for node in nodes for new in _expanded(node, expand))


def _expanded(node: n.Inline, expand: Expand) -> tuple[n.Inline, ...]:
    found = expand(node)
    if found is not None:
        return found
    return (replace(node, children=_expand_nodes(node.children, expand)) if isinstance(node, n.Container) else node,)


_OBJECT = 48
_POINTER = 8


def weight(value: Any) -> int:
    """Roughly the bytes of memory that a value takes: dataclasses, tuples, lists, dictionaries and strings. Linear.

    It bounds caches, and tells long texts from short ones.
    """
    total = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        total += _OBJECT
        kind: type = type(item)
        if kind is str:
            # Without looking at each character: outside of ASCII they take two or four bytes.
            total += len(item) if item.isascii() else 4 * len(item)
        elif kind is tuple or kind is list:
            total += _POINTER * len(item)
            waiting.extend(item)
        elif kind is dict:
            total += 4 * _POINTER * len(item)
            waiting.extend(item)
            waiting.extend(item.values())
        elif (held := _held(kind)) is not None:
            values = held(item)
            total += _POINTER * len(values)
            waiting.extend(values)
    return total


@cache
def _held(kind: type) -> Callable[[Any], tuple[Any, ...]] | None:
    """What reads the fields of a dataclass, except its constant `kind`."""
    if not dataclasses.is_dataclass(kind):
        return None
    names = [field.name for field in dataclasses.fields(kind) if field.name != "kind"]
    if len(names) > 1:
        return attrgetter(*names)
    return (lambda item: (getattr(item, names[0]),)) if names else None


_URL = re.compile(r"https?://[^\s<>\\`\u200b]++", re.IGNORECASE)
_URL_TAIL = frozenset(".,:;!?\"'[]")


def link_bare_urls(text: str) -> Iterator[Inline]:
    """`text` with each http(s) URL as a bare link, as the clients of both platforms show it.

    Punctuation at the end is not part of a URL, nor is a closing bracket that was not opened inside it.
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
    """`url` without the punctuation and the unopened closing brackets at its end. Linear."""
    surplus = url.count(")") - url.count("(")
    end = len(url)
    while end and (url[end - 1] in _URL_TAIL or (surplus > 0 and url[end - 1] == ")")):
        end -= 1
        surplus -= url[end] == ")"
    return url[:end]


def is_bare(link: Link) -> bool:
    """Whether `link` shows only its URL."""
    return link.children == (Text(link.url),)
