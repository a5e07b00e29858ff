"""Every node of a text is looked at in reading order, and what is heavier in memory weighs more."""

import json
import sys
import tracemalloc

import pytest

from relay.adapters.matrix.markup import NameLookup, parse
from relay.domain.content import Content
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import walk, weight


def test_dense_trees_weigh_more_than_plain_ones() -> None:
    plain = Content(n.RichText.plain("a" * 1_000))
    dense = Content(n.RichText((n.Paragraph(tuple(n.Strong((n.Text("a"),)) for _ in range(1_000))),)))
    assert weight(dense) > 50 * weight(plain)
    assert weight(json.loads('{"a": ["b", 1, null, {"c": 2.5}]}')) > 0
    assert weight("ö" * 10) > weight("o" * 10)


@pytest.mark.parametrize("piece", ["<b>a</b> ", "<p>ab</p>", "<ul><li>a</li></ul>", "<table><tr><td>a</table>"])
def test_it_is_about_what_python_takes(piece: str) -> None:
    parse("", piece, names=NameLookup())
    tracemalloc.start()
    tree = parse("", piece * 100, names=NameLookup())
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / 4 < weight(tree) < taken * 4
    assert sys.getrefcount(tree)


def _word(text: str) -> tuple[n.Text]:
    return (n.Text(text),)


def test_nodes_come_in_reading_order_each_before_its_children() -> None:
    bold, link = n.Strong(_word("b")), n.Link("https://example.org", _word("c"))
    blocks = (
        n.Paragraph((*_word("a"), bold, link)),
        n.Quote((n.BulletList((n.ListItem((n.Paragraph(_word("d")),)), n.ListItem((n.Heading(1, _word("e")),)))),)),
        n.Details(_word("f"), (n.CodeBlock("none"), n.Subtext(_word("g")), n.Rule())),
        n.Table(((n.TableCell(_word("i")), n.TableCell(_word("j"))), (n.TableCell(_word("k")),)), caption=_word("h")),
    )
    seen = list(walk(blocks))
    assert "".join(node.text for node in seen if isinstance(node, n.Text)) == "abcdefghijk"
    assert seen.index(bold) < seen.index(n.Text("b")) < seen.index(link) < seen.index(n.Text("c"))
    assert n.Text("c") not in list(walk(blocks, closed=(n.Link,)))
    assert list(walk((bold,))) == [bold, n.Text("b")]
