"""Messages on a real homeserver reach the core, and what the core sends appears in the room."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relay.core.ports import Delivery
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.domain.content import Author, Content
from relay.domain.events import MessageCreated
from relay.domain.ids import MediaRef, MessageRef, Platform, ThreadRef, UserRef
from relay.domain.text import nodes as n
from relay.errors import ActionNeeded, CopyNotEditable, Permanent, RateLimited, TargetGone
from tests.support.homeserver import ForkedHomeserver
from tests.support.matrix import BOB, SavedState, Side, matrix_side, numbers, person, room, words


@dataclass
class Meeting:
    """Ann in a room, and the relay with her."""

    ann: Person
    bot: Person
    token: str
    room: str
    side: Side
    saved: SavedState

    def delivery(self, key: str, text: str = "hi", **changes: object) -> Delivery:
        known: dict[str, object] = {"author": BOB, "content": words(text)}
        return Delivery(room(self.room), key, **(known | changes))  # type: ignore[arg-type]


@pytest.fixture
async def meeting(homeserver: Homeserver) -> AsyncIterator[Meeting]:
    number = next(numbers)
    async with person(homeserver, f"ann{number}") as ann:
        token = await homeserver.register(f"bot{number}")
        bot_id = f"@bot{number}:{homeserver.server_name}"
        place = await ann.create_room(alias=f"room{number}")
        await ann.text(place, "said before the relay came")
        saved = SavedState()
        async with (
            Person(homeserver.url, bot_id, token) as bot,
            matrix_side(homeserver, bot_id, [f"#room{number}:localhost"], token=token, saved=saved) as side,
        ):
            yield Meeting(ann, bot, token, place, side, saved)


# --- What people say ----------------------------------------------------------------------------------------


async def test_messages_edits_and_deletions_arrive_in_order(meeting: Meeting) -> None:
    ann, place = meeting.ann, meeting.room
    first = await ann.html(place, "hello", "<b>hello</b>")
    await ann.reply(place, first, "yes")
    await ann.edit(place, first, "hello again")
    await ann.redact(place, first)
    await ann.text(place, "waves", msgtype="m.emote")
    await ann.text(place, "beep", msgtype="m.notice")
    await meeting.side.until_said("hello", "yes", "edit: hello again", "deletion", "waves", "beep")

    messages = [event for event in meeting.saved.events if isinstance(event, MessageCreated)]
    assert messages[0].ref == MessageRef(room(place), first)
    assert messages[0].author.user == UserRef(Platform.MATRIX, ann.user_id)
    assert messages[0].author.name == ann.user_id[1:].split(":")[0].title()
    assert messages[0].author.may_broadcast  # the creator of a version 12 room, who is in no list of levels
    assert messages[0].content.text == n.RichText((n.Paragraph((n.Strong((n.Text("hello"),)),)),))
    assert messages[1].reply_to == messages[0].ref
    assert [message.content.style for message in messages[2:]] == ["emote", "notice"]


async def test_what_does_not_cross_is_named(meeting: Meeting) -> None:
    ann, place = meeting.ann, meeting.room
    first = await ann.text(place, "root")
    await ann.react(place, first)
    await ann.typing(place)
    await ann.read(place, first)
    await ann.send(place, {"anything": "else"}, "com.example.unheard")
    await ann.thread(place, first, "in the thread")
    await meeting.side.until_said("root", "in the thread")
    await meeting.side.until(lambda: len(meeting.side.features) >= 4)
    assert sorted(meeting.side.features) == ["reaction", "receipt", "typing", "unknown"]
    inside = meeting.saved.events[-1] if isinstance(meeting.saved.events[-1], MessageCreated) else None
    threads = [event.thread for event in meeting.saved.events if isinstance(event, MessageCreated)]
    assert threads == [None, ThreadRef(room(place), first)]
    assert inside is None or inside.reply_to is None


async def test_files_arrive_with_everything_that_is_known_of_them(meeting: Meeting) -> None:
    uri = await meeting.ann.upload(b"\x89PNG", "image/png", "cat.png")
    info = {"mimetype": "image/png", "size": 4, "w": 2, "h": 3}
    content = {"msgtype": "m.image", "body": "my cat", "filename": "cat.png", "url": uri, "info": info}
    await meeting.ann.send(meeting.room, content)
    await meeting.side.until_said("my cat")
    [event] = [event for event in meeting.saved.events if isinstance(event, MessageCreated)]
    [file] = event.content.attachments
    assert (file.name, file.kind, file.source) == ("cat.png", "image", MediaRef(Platform.MATRIX, uri))
    assert (file.content_type, file.size, file.width, file.height) == ("image/png", 4, 2, 3)


# --- What the relay says ------------------------------------------------------------------------------------


async def test_a_message_carries_its_author_and_can_be_edited_and_deleted(meeting: Meeting) -> None:
    ref = await meeting.side.adapter.send(meeting.delivery("k1", "one & <two>"))
    [*_, shown] = await meeting.ann.messages(meeting.room)
    assert (shown.event_id, shown.name, shown.body) == (ref.id, "Bob", "Bob: one & <two>")
    assert shown.formatted_body == "<strong data-mx-profile-fallback>Bob: </strong>one &amp; &lt;two&gt;"
    assert shown.content["m.mentions"] == {}
    assert shown.content["com.beeper.per_message_profile"]["has_fallback"] is True

    await meeting.side.adapter.edit(ref, meeting.delivery("k2", "three"))
    [*_, shown] = await meeting.ann.messages(meeting.room)
    assert (shown.event_id, shown.name, shown.body, shown.edits) == (ref.id, "Bob", "Bob: three", 1)

    await meeting.side.adapter.delete(ref, "k3")
    [*_, shown] = await meeting.ann.messages(meeting.room)
    assert (shown.event_id, shown.redacted) == (ref.id, True)
    with pytest.raises(TargetGone):
        await meeting.side.adapter.edit(ref, meeting.delivery("k4", "four"))
    await meeting.side.adapter.delete(ref, "k5")  # can be repeated
    assert set(meeting.side.said) <= {"deletion"}  # our own messages are not reported as new


async def test_replies_threads_mentions_and_notices(meeting: Meeting) -> None:
    adapter, ann = meeting.side.adapter, meeting.ann
    first = await ann.text(meeting.room, "?")
    target = MessageRef(room(meeting.room), first)
    text = n.RichText((n.Paragraph((n.UserMention(UserRef(Platform.MATRIX, ann.user_id), "Ann"),)),))
    await adapter.send(meeting.delivery("r1", content=Content(text), reply_to=target))
    await adapter.send(meeting.delivery("r2", "psst", author=None, thread=ThreadRef(room(meeting.room), first)))
    await adapter.send(meeting.delivery("r3", "beep", author=Author(BOB.user, "Bot", is_bot=True)))
    reply, notice, bot = (await ann.messages(meeting.room))[-3:]
    assert (reply.reply_to, reply.content["m.mentions"]) == (first, {"user_ids": [ann.user_id]})
    assert (notice.thread, notice.msgtype, notice.body, notice.name) == (first, "m.notice", "psst", "")
    assert bot.msgtype == "m.notice"


async def test_what_somebody_writes_with_the_relay_s_own_account_is_told(meeting: Meeting) -> None:
    adapter = meeting.side.adapter
    await adapter.send(meeting.delivery("h1", "a copy"))
    await adapter.send(meeting.delivery("h2", "a notice", author=None))
    await meeting.ann.text(meeting.room, "and an answer")
    await meeting.side.until(lambda: meeting.side.said == ["and an answer"])
    assert adapter.notes(room(meeting.room)) == []
    await meeting.bot.text(meeting.room, "does this cross?")
    await meeting.side.until(lambda: adapter.notes(room(meeting.room)) != [])
    [note] = adapter.notes(room(meeting.room))
    assert note.startswith(f"Somebody wrote there as {meeting.bot.user_id}, the relay's own account, and nothing of ")
    assert note.endswith(": write with another account.")


async def test_the_same_key_is_the_same_message_after_every_restart(meeting: Meeting, homeserver: Homeserver) -> None:
    ref = await meeting.side.adapter.send(meeting.delivery("once.0s"))
    assert await meeting.side.adapter.send(meeting.delivery("once.0s")) == ref
    await homeserver.kill()
    await homeserver.start()
    await meeting.side.until_ready()
    assert await meeting.side.adapter.send(meeting.delivery("once.0s", suspect=True)) == ref
    again = matrix_side(homeserver, meeting.bot.user_id, [meeting.room], token=meeting.token)
    async with again as other:
        assert await other.adapter.send(meeting.delivery("once.0s", suspect=True)) == ref
    assert len([line for line in await meeting.ann.messages(meeting.room) if line.name]) == 1


async def test_an_earlier_attempt_is_found_after_the_homeserver_forgot_its_transaction(meeting: Meeting) -> None:
    adapter = meeting.side.adapter
    before = await adapter.send(meeting.delivery("a", "hi"))
    made = await adapter.send(meeting.delivery("b", "hi"))
    await meeting.ann.text(meeting.room, "Bob: hi")
    long_ago = datetime.now(UTC) - timedelta(hours=30)
    for queued_at in (long_ago, datetime.now(UTC) + timedelta(hours=30)):  # the clock was set back since
        again = meeting.delivery(f"b{queued_at.day}", "hi", suspect=True, after=before, queued_at=queued_at)
        assert await adapter.send(again) == made
    # After the last message on record there is none of ours: this one was never posted.
    new = await adapter.send(meeting.delivery("c", "hi", suspect=True, after=made, queued_at=long_ago))
    assert new not in {before, made}


async def test_what_cannot_be_sent_says_why(meeting: Meeting) -> None:
    adapter, here = meeting.side.adapter, room(meeting.room)
    with pytest.raises(Permanent):
        await adapter.send(meeting.delivery("big", "x" * 70_000))
    with pytest.raises(TargetGone):
        await adapter.delete(MessageRef(here, "$never"), "k")
    with pytest.raises(TargetGone):
        await adapter.edit(MessageRef(here, "$never"), meeting.delivery("k"))
    with pytest.raises(TargetGone):
        await adapter.send(meeting.delivery("t", thread=ThreadRef(here, "$never")))
    with pytest.raises(ActionNeeded):
        await adapter.send(Delivery(room("!elsewhere:localhost"), "k", BOB, words("hi")))
    assert (await adapter.send(meeting.delivery("r", reply_to=MessageRef(here, "$never")))).id.startswith("$")


async def test_the_longest_text_fits_and_can_be_edited(meeting: Meeting) -> None:
    adapter = meeting.side.adapter
    limit = adapter.capabilities(room(meeting.room)).max_text_length
    text = '<"&' * (limit // 20)
    while adapter.measure(n.RichText.plain(text + "<&"), BOB) <= limit:
        text += "<&"
    ref = await adapter.send(meeting.delivery("long", text))
    await adapter.edit(ref, meeting.delivery("long2", text[:-1] + '"'))
    [*_, shown] = await meeting.ann.messages(meeting.room)
    assert shown.body == f'Bob: {text[:-1]}"'


async def test_what_an_earlier_account_of_the_relay_posted_cannot_be_edited(meeting: Meeting) -> None:
    target = MessageRef(room(meeting.room), await meeting.ann.text(meeting.room, "posted by another account"))
    with pytest.raises(CopyNotEditable):
        await meeting.side.adapter.edit(target, meeting.delivery("k"))


async def test_an_author_sees_that_a_message_was_not_copied(meeting: Meeting) -> None:
    target = MessageRef(room(meeting.room), await meeting.ann.text(meeting.room, "too much"))
    assert await meeting.side.adapter.mark(target, done=False)
    await meeting.side.adapter.mark(target, done=False)
    assert await meeting.side.adapter.mark(target, done=True)
    reactions = [event for event in await meeting.ann.events(meeting.room) if event["type"] == "m.reaction"]
    relations = [event["content"]["m.relates_to"] for event in reactions]
    assert [(relation["event_id"], relation["key"]) for relation in relations] == [(target.id, "❌"), (target.id, "✅")]


async def test_a_message_can_be_quoted(meeting: Meeting) -> None:
    target = MessageRef(room(meeting.room), await meeting.ann.text(meeting.room, "wise words"))
    await meeting.side.until_said("wise words")
    quotation = await meeting.side.adapter.quote(target)
    assert quotation is not None
    assert n.plain_text(quotation.text) == "wise words"
    assert quotation.url == f"https://matrix.to/#/{meeting.room}/{target.id}"
    edit = await meeting.ann.edit(meeting.room, target.id, "wiser words")
    quotation = await meeting.side.adapter.quote(target)
    assert quotation is not None
    assert n.plain_text(quotation.text) == "wiser words"
    await meeting.ann.redact(meeting.room, edit)
    latest = await meeting.side.adapter.latest(target)
    assert latest is not None
    assert n.plain_text(latest.content.text) == "wise words"
    await meeting.ann.redact(meeting.room, target.id)
    assert await meeting.side.adapter.quote(target) is None
    assert await meeting.side.adapter.latest(target) is None


async def test_a_message_hidden_from_the_relay_is_quoted_by_its_link(meeting: Meeting) -> None:
    """A homeserver answers the same for what is hidden and what does not exist."""
    place = await meeting.ann.create_room(public=True)
    visibility = {"history_visibility": "joined"}
    await meeting.ann.call("PUT", f"client/v3/rooms/{place}/state/m.room.history_visibility", visibility)
    hidden = MessageRef(room(place), await meeting.ann.text(place, "said before the relay came"))
    await meeting.bot.call("POST", f"client/v3/join/{place}", {})
    quotation = await meeting.side.adapter.quote(hidden)
    assert quotation is not None
    assert (quotation.author, quotation.text) == ("a message", n.RichText())
    assert quotation.url == f"https://matrix.to/#/{place}/{hidden.id}"
    assert await meeting.side.adapter.latest(hidden) is None


async def test_a_file_is_quoted_by_its_name(meeting: Meeting) -> None:
    content = {"msgtype": "m.image", "body": "cat.png", "filename": "cat.png", "url": "mxc://localhost/cat"}
    quotation = await meeting.side.adapter.quote(
        MessageRef(room(meeting.room), await meeting.ann.send(meeting.room, content))
    )
    assert quotation is not None
    assert n.plain_text(quotation.text) == "[image] cat.png"


async def test_rate_limits_say_how_long_to_wait(tmp_path: Path) -> None:
    async with (
        ForkedHomeserver(tmp_path, default_limits=True) as strict,
        person(strict, "ann") as ann,
    ):
        await strict.lift_limits("ann")
        place = await ann.create_room(alias="room")
        token = await strict.register("bot")
        async with matrix_side(strict, "@bot:localhost", ["#room:localhost"], token=token) as side:

            async def talk() -> None:
                for number in range(20):
                    await side.adapter.send(Delivery(room(place), f"k{number}", BOB, words(str(number))))

            with pytest.raises(RateLimited) as limited:
                await talk()
            assert limited.value.retry_after is not None
            assert 0 < limited.value.retry_after <= 6
            assert not limited.value.ambiguous


async def test_copies_that_a_restored_store_does_not_know_are_found_one_by_one(meeting: Meeting) -> None:
    adapter, since = meeting.side.adapter, datetime.now(UTC) - timedelta(minutes=1)
    known = await adapter.send(meeting.delivery("a", "hi"))
    first, second = [await adapter.send(meeting.delivery(key, "hi")) for key in "bc"]
    edited = await adapter.send(meeting.delivery("d", "words"))
    await adapter.edit(edited, meeting.delivery("e", "other words"))
    await meeting.ann.text(meeting.room, "Bob: new")

    async def on_record(ref: MessageRef) -> bool:
        return ref == known

    def again(key: str, text: str) -> Delivery:
        return meeting.delivery(key, text, suspect=True, alone=False, restored_since=since, on_record=on_record)

    assert [await adapter.send(again(f"r{number}", "hi")) for number in range(2)] == [first, second]
    assert await adapter.send(again("r2", "other words")) == edited
    new = [await adapter.send(again(f"n{number}", text)) for number, text in enumerate(("hi", "new"))]
    assert not {known, first, second, edited} & {*new}
