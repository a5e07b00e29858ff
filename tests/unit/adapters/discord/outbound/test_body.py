"""Whom a message may notify, whatever it says."""

from hypothesis import given

from relay.adapters.discord.outbound.body import allowed_mentions, measure, webhook_body, with_own_emoji
from relay.adapters.matrix.markup import NameLookup, parse
from relay.core.convert.degrade import Dropped, degrade
from relay.domain.content import Author, Capabilities, Content
from relay.domain.ids import MediaRef, Platform, UserRef
from relay.domain.pair import PairPolicy
from relay.domain.text import nodes as n
from relay.sandbox.messages.mentions import AllowedMentions, resolve
from tests.support.markup import sources

MIA = Author(UserRef(Platform.MATRIX, "@mia:example.org"), "Mia")
ADA = n.UserMention(UserRef(Platform.DISCORD, "7"), "Ada")
EVERYTHING = AllowedMentions(frozenset({"users", "roles", "everyone"}))


class Everybody:
    """A server in which every ID is somebody's."""

    def __contains__(self, _: object) -> bool:
        return True


def content(*nodes: n.Inline) -> Content:
    return Content(n.RichText((n.Paragraph(nodes),)))


def test_people_are_notified_by_id_alone() -> None:
    said = content(ADA, n.Spoiler((ADA,)), n.UserMention(MIA.user, "Mia"))
    assert allowed_mentions(said) == {"parse": [], "replied_user": False, "users": ["7"]}
    assert webhook_body(said, MIA)["content"] == "<@7>||<@7>||@Mia"


def test_everybody_only_on_purpose() -> None:
    assert allowed_mentions(content(n.BroadcastMention("here")))["parse"] == ["everyone"]


def test_not_more_people_than_discord_takes() -> None:
    many = content(*(n.UserMention(UserRef(Platform.DISCORD, str(number)), "x") for number in range(150)))
    assert len(allowed_mentions(many)["users"]) == 100


def test_room_is_kept_for_emoji_that_the_server_may_have() -> None:
    named = n.CustomEmoji("party", "", MediaRef(Platform.MATRIX, "mxc://example.org/party"))
    own = n.CustomEmoji("party", "1" * 20, MediaRef(Platform.DISCORD, "https://cdn.discordapp.com/emojis/1.gif"), True)
    said = content(named, named)
    settled = with_own_emoji(said, {"party": own}.get)
    assert webhook_body(settled, MIA)["content"] == f"<a:party:{'1' * 20}>" * 2
    assert measure(said.text) == measure(settled.text) == 2 * len(f"<a:party:{'1' * 20}>")
    assert with_own_emoji(said, {"Party": own}.get) == said


@given(sources)
def test_nothing_that_somebody_writes_notifies_anybody(source: str) -> None:
    said = Content(parse(source, source, names=NameLookup()))
    parts = degrade(
        said,
        author=MIA,
        capabilities=Capabilities(2_000, native_replies=False),
        policy=PairPolicy(allow_broadcast=True),
        measure=lambda text: len(n.plain_text(text)),
    )
    if isinstance(parts, Dropped):
        return
    for part in parts:
        body = webhook_body(part, MIA)
        assert body["allowed_mentions"] == {"parse": [], "replied_user": False}
        # Not even if Discord were told that anybody may be.
        found = resolve(body["content"], EVERYTHING, users=Everybody(), roles=Everybody(), may_ping_everyone=True)
        assert (found.users, found.roles) == ([], [])
        # An address stays as it is, whatever is in it.
        assert "://" in source or not found.everyone
