"""Rewriting a text tree: the same shape with some inline nodes replaced."""

from collections.abc import Callable
from dataclasses import replace

from relay.domain.text.nodes import (
    Block,
    BulletList,
    ChannelMention,
    CodeBlock,
    Colored,
    Details,
    Emphasis,
    Heading,
    Inline,
    Link,
    ListItem,
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
    Underline,
)

Container = (
    Strong | Emphasis | Underline | Strike | Spoiler | Link | Colored | Superscript | MessageLink | ChannelMention
)
"""Inline nodes that hold others."""

Rewrite = Callable[[Inline], Inline]
Expand = Callable[[Inline], tuple[Inline, ...] | None]
_Nodes = Callable[[tuple[Inline, ...]], tuple[Inline, ...]]


def map_inline(text: RichText, rewrite: Rewrite) -> RichText:
    """`text` with `rewrite` applied to every inline node, children first."""
    return RichText(tuple(_map_block(block, lambda nodes: _map_nodes(nodes, rewrite)) for block in text.blocks))


def expand_inline(text: RichText, expand: Expand) -> RichText:
    """`text` with inline nodes replaced by what `expand` gives for them, outer ones first.

    Where it gives None the node stays, and its children are gone through.
    """
    return RichText(tuple(_map_block(block, lambda nodes: _expand_nodes(nodes, expand)) for block in text.blocks))


def map_blocks(text: RichText, rewrite: Callable[[Block], tuple[Block, ...]]) -> RichText:
    """`text` with `rewrite` applied to every block, inner ones first; a block may become several, or none."""
    return RichText(_rewritten(text.blocks, rewrite))


def _rewritten(blocks: tuple[Block, ...], rewrite: Callable[[Block], tuple[Block, ...]]) -> tuple[Block, ...]:
    return tuple(new for block in blocks for new in rewrite(_with_inner(block, rewrite)))


def _with_inner(block: Block, rewrite: Callable[[Block], tuple[Block, ...]]) -> Block:
    match block:
        case Quote() | Details():
            return replace(block, blocks=_rewritten(block.blocks, rewrite))
        case BulletList():
            return replace(block, items=tuple(ListItem(_rewritten(item.blocks, rewrite)) for item in block.items))
        case _:
            return block


def _map_block(block: Block, change: _Nodes) -> Block:
    match block:
        case Paragraph() | Heading() | Subtext():
            return replace(block, children=change(block.children))
        case Quote():
            return replace(block, blocks=tuple(_map_block(inner, change) for inner in block.blocks))
        case BulletList():
            items = (ListItem(tuple(_map_block(inner, change) for inner in item.blocks)) for item in block.items)
            return replace(block, items=tuple(items))
        case Details():
            return replace(
                block,
                summary=change(block.summary),
                blocks=tuple(_map_block(inner, change) for inner in block.blocks),
            )
        case Table():
            rows = (tuple(replace(cell, children=change(cell.children)) for cell in row) for row in block.rows)
            return replace(block, rows=tuple(rows), caption=change(block.caption))
        case CodeBlock() | Rule():
            return block


def _map_nodes(nodes: tuple[Inline, ...], rewrite: Rewrite) -> tuple[Inline, ...]:
    return tuple(
        rewrite(replace(node, children=_map_nodes(node.children, rewrite)) if isinstance(node, Container) else node)
        for node in nodes
    )


def _expand_nodes(nodes: tuple[Inline, ...], expand: Expand) -> tuple[Inline, ...]:
    return tuple(new for node in nodes for new in _expanded(node, expand))


def _expanded(node: Inline, expand: Expand) -> tuple[Inline, ...]:
    found = expand(node)
    if found is not None:
        return found
    return (replace(node, children=_expand_nodes(node.children, expand)) if isinstance(node, Container) else node,)
