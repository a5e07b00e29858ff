"""What a text refers to, and what becomes of it once it was found."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.convert.references import Found, Wanted, folded, named, resolved, unnamed, wanted
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.text import nodes as n

THERE, HERE = ChannelRef(Platform.DISCORD, "1"), ChannelRef(Platform.MATRIX, "!r:example.org")
MIA = UserRef(Platform.MATRIX, "@mia:example.org")
LEE = UserRef(Platform.MATRIX, "@lee:example.org")
PEOPLE = Found(people={"mia": MIA, "mia lee": LEE})


def text(*nodes: n.Inline) -> n.RichText:
    return n.RichText((n.Paragraph(nodes),))


def said(words: str) -> tuple[n.Inline, ...]:
    block = resolved(text(n.Text(words)), PEOPLE).blocks[0]
    assert isinstance(block, n.Paragraph)
    return block.children


def test_somebody_called_by_name() -> None:
    assert said("hello @Mia, how are you?") == (
        n.Text("hello "),
        n.UserMention(MIA, "Mia"),
        n.Text(", how are you?"),
    )


def test_the_longest_name_wins() -> None:
    assert said("@mia lee: hi") == (n.UserMention(LEE, "mia lee"), n.Text(": hi"))
    assert said("@mia leeds")[0] == n.UserMention(MIA, "mia")


def test_an_address_of_something_else_calls_nobody() -> None:
    for words in ("mail mia@mia", "@@mia", "https://example.org/@mia", "@miah"):
        assert said(words) == (n.Text(words),)


def test_names_are_looked_up_as_they_may_be_meant() -> None:
    assert wanted(text(n.Text("@Mia Lee, hi"))).names == {"Mia Lee, hi", "Mia Lee,", "Mia Lee", "Mia"}
    assert wanted(text(n.Text("@everyone @here @room"))).names & {"everyone", "here", "room"} == set()


def test_code_and_links_call_nobody() -> None:
    assert wanted(text(n.Code("@Mia"), n.Link("https://example.org", (n.Text("@Mia"),)))) == Wanted()


def test_what_bots_quote_calls_nobody() -> None:
    quoted = text(n.Text("thanks @Mia"))
    assert wanted(quoted, typed=False) == Wanted()
    assert resolved(quoted, PEOPLE, typed=False) == quoted


def test_not_more_names_than_can_be_looked_up() -> None:
    assert len(wanted(text(n.Text("@a " * 1000), n.Strong((n.Text("@b"),)))).names) < 50


def test_channels_and_messages() -> None:
    message, copy = MessageRef(THERE, "5"), MessageRef(HERE, "$5")
    before = text(n.ChannelMention(THERE, "help"), n.MessageLink(message, "https://old"))
    assert wanted(before) == Wanted(channels=frozenset({THERE}), messages=frozenset({message}))
    found = Found(channels={THERE: HERE}, messages={message: (copy, "https://new")})
    assert resolved(before, found) == text(n.ChannelMention(HERE, "help"), n.MessageLink(copy, "https://new"))
    assert resolved(before, Found()) == before


@given(st.text(alphabet="@mia lee.,:_/", max_size=60))
def test_nothing_is_lost_or_made_up(words: str) -> None:
    assert n.plain_text(n.RichText((n.Paragraph(said(words)),))) == words
    assert all(folded(node.name) in PEOPLE.people for node in said(words) if isinstance(node, n.UserMention))


def test_names_that_a_text_does_not_tell() -> None:
    nora = UserRef(Platform.DISCORD, "2")
    before = text(n.UserMention(nora, "?", known=False), n.Strong((n.ChannelMention(THERE, "?", known=False),)))
    assert unnamed(before) == (nora, THERE)
    after = named(before, {nora: "Nora", THERE: "tea"})
    assert after == text(n.UserMention(nora, "Nora"), n.Strong((n.ChannelMention(THERE, "tea"),)))
    assert unnamed(after) == ()
    assert named(before, {}) == before
    assert wanted(before).names == set()


def test_a_channel_without_a_counterpart_keeps_its_link() -> None:
    link = n.ChannelMention(THERE, "tea", "https://example.org", (n.Text("the tea room"),))
    assert resolved(text(link), Found()) == text(n.Link("https://example.org", (n.Text("the tea room"),)))
    bare = n.ChannelMention(THERE, "tea", "https://example.org")
    assert resolved(text(bare), Found()) == text(n.Link("https://example.org", (n.Text("https://example.org"),)))


def test_a_name_of_many_words() -> None:
    lady = Found(people={"the right honourable lady ada": MIA})
    assert resolved(text(n.Text("@The Right Honourable Lady Ada!")), lady) == text(
        n.UserMention(MIA, "The Right Honourable Lady Ada"), n.Text("!")
    )
