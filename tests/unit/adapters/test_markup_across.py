"""A text that crosses both ways still says the same."""

from hypothesis import assume, given

from relay.adapters.discord import markup as discord
from relay.adapters.matrix import markup as matrix
from relay.domain.text.nodes import RichText
from tests.support.markup import common_texts, often, reading, sources


def across(tree: RichText) -> RichText:
    """`tree` as it comes back from Matrix."""
    rendered = matrix.render(tree, resolver=matrix.Resolver())
    return matrix.parse(rendered.body, rendered.formatted_body, names=matrix.NameLookup())


@often
@given(common_texts)
def test_a_tree_reads_the_same_after_both_sides(tree: RichText) -> None:
    # These characters are a mention on Matrix, and a mention's name differs between the sides.
    assume("@room" not in repr(tree))
    content = discord.render(across(tree), codes=discord.ReferenceCodes())
    assert reading(discord.parse(content, names=discord.NameLookup())) == reading(tree), content


@often
@given(sources.filter(lambda source: "<" not in source and "@" not in source))
def test_what_somebody_writes_on_discord_reads_the_same_on_matrix(source: str) -> None:
    tree = discord.parse(source, names=discord.NameLookup())
    assert reading(across(tree)) == reading(tree)
