"""Rendering needs a plan and nothing else: no store, no event loop."""

from dataclasses import replace
from datetime import UTC, datetime

from relay.core.convert.degrade import Dropped
from relay.core.delivery import render
from relay.core.delivery.plan import Edit, Send, Target
from relay.core.storage import Copy, Entry
from relay.domain.commands import Digest, DigestItem, EditMessage, SendMessage
from relay.domain.content import Attachment, Author, Content, Quotation
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.text import nodes as n
from relay.errors import FileRejected
from tests.support.memory_adapter import MemoryAdapter
from tests.support.platform import MemoryPlatform
from tests.support.world import lane, pair

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LANE = lane(Platform.MATRIX)
SOURCE = MessageRef(LANE.source, "1")
ANN = Author(UserRef(Platform.DISCORD, "ann"), "Ann")
PICTURE = Attachment("p", "a.png", "image", MediaRef(Platform.DISCORD, "https://cdn.example/a.png"))


async def never(_: MessageRef) -> bool:
    """Nothing is on record."""
    return False


def target(**known: object) -> Target:
    """The room of the pair; `known`: what was looked up there."""
    adapter = MemoryAdapter(MemoryPlatform(Platform.MATRIX, lambda: NOON), replays=True)
    values: dict[str, object] = {
        "entry": Entry(0xAB, LANE, SendMessage(SOURCE, ANN, Content(), NOON), NOON),
        "pair": pair(),
        "channel": LANE.destination,
        "adapter": adapter,
        "capabilities": replace(adapter.capabilities(LANE.destination), max_text_length=40, max_attachments=1),
        "own_names": frozenset({"Ann"}),
        "store_id": "store2",
        "is_on_record": never,
        **known,
    }
    return Target(**values)  # type: ignore[arg-type]


def send(words: str, *files: Attachment, parts: tuple[Content, ...] = (), **known: object) -> Send:
    """A plan to send a message."""
    content = Content(n.RichText.plain(words), files)
    return Send(target=target(**known), command=SendMessage(SOURCE, ANN, content, NOON, parts=parts), content=content)


def words(parts: render.Parts | Dropped) -> list[str]:
    """What each part says."""
    assert not isinstance(parts, Dropped)
    return [n.plain_text(part.text) for part in parts]


def test_a_long_message_is_cut_the_same_at_each_try() -> None:
    plan = send("word " * 30)
    parts = render.parts(plan)
    assert len(words(parts)) > 1
    assert render.parts(plan) == parts


def test_parts_that_were_written_down_stay_as_they_are() -> None:
    planned = (Content(n.RichText.plain("one")), Content(n.RichText.plain("two")))
    assert render.parts(send("other words by now", parts=planned)) == planned


def test_only_what_is_still_to_be_sent_is_cut_again() -> None:
    planned = (Content(n.RichText.plain("x " * 40)), Content(n.RichText.plain("y " * 40)))
    first = Copy(1, 0, MessageRef(LANE.destination, "$1"))
    parts = render.parts(send("", parts=planned, copies=(first,)))
    assert not isinstance(parts, Dropped)
    assert parts[0] == planned[0]
    assert len(parts) > 2


def test_what_is_empty_is_dropped() -> None:
    assert isinstance(render.parts(send("")), Dropped)


def test_a_file_that_cannot_cross_becomes_words() -> None:
    plan = send("look", PICTURE)
    parts = render.parts(plan)
    assert not isinstance(parts, Dropped)
    again = render.without_file(plan, parts, 0, FileRejected("p", "too large"))
    assert not again[0].attachments
    assert any("too large" in said for said in words(again))


def test_an_edit_of_a_message_in_a_digest_leaves_room_for_the_others() -> None:
    other = MessageRef(LANE.source, "2")
    content = Content(n.RichText.plain("word " * 12))
    items = tuple(DigestItem(ref, ANN, Content(n.RichText.plain("hi")), NOON) for ref in (SOURCE, other))
    command = EditMessage(SOURCE, ANN, content, NOON)
    parts = render.parts(Edit(target=target(shared=Digest(items)), command=command, content=content))
    alone = render.parts(Edit(target=target(), command=command, content=content))
    assert len(words(parts)[0]) < len(words(alone)[0])


def test_a_delivery_names_nobody_like_the_relay_and_quotes_in_its_first_part_only() -> None:
    there = target(reply_to=MessageRef(ChannelRef(Platform.MATRIX, "#help"), "$0"), last_copy=SOURCE)
    first = render.delivery(there, ANN, Content(), "s")
    second = render.delivery(there, ANN, Content(), "s", part=1, suspect=True)
    assert first.author is not None
    assert first.author.name != "Ann"
    assert (first.reply_to, second.reply_to) == (there.reply_to, None)
    assert (first.after, second.after) == (None, SOURCE)


def test_each_call_has_its_own_key() -> None:
    there = target()
    keys = [
        render.key(there, 0, "s"),
        render.key(there, 1, "s"),
        render.key(there, 0, "d"),
        render.key(there, 0, "d", SOURCE),
        render.key(there, 0, "d", replace(SOURCE, id="another")),
        render.key(there, 0, "a", SOURCE),
        render.key(there, 0, "a", replace(SOURCE, id="another")),
        render.key(there, 1, "a", SOURCE),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) <= 25 and set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789.") for key in keys)


def test_a_quotation_stands_above_the_first_part() -> None:
    plan = replace(send("an answer"), quotation=Quotation("Ben", n.RichText.plain("hi"), ""))
    assert "Ben" in words(render.parts(plan))[0]
