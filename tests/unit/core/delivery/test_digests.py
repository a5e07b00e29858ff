"""Messages that cross together: planned once, sent once, and each still its author's to edit and delete."""

from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from relay.core.delivery.digests import requoted
from relay.core.ports import Delivery
from relay.core.storage import UnitOfWork
from relay.domain.commands import Digest, DigestItem
from relay.domain.content import Author, Content, Quotation
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText, plain_text
from relay.errors import CopyNotEditable, Permanent, RateLimited, StoreUnavailable, Transient
from relay.store.unit_of_work import SqlStore
from tests.support.logs import captured_logs
from tests.support.memory_adapter import MemoryAdapter, slow_at_first
from tests.support.platform import MemoryPlatform
from tests.support.world import World, pair, until, world


async def three_together(bridge: World) -> list[MessageRef]:
    """Three messages of Ann's and Ben's on Discord, which stand in one copy on Matrix."""
    here, there = bridge.channels()
    refs = [bridge.discord.say(here, who, text) for who, text in (("ann", "one"), ("ben", "two"), ("ann", "three"))]
    await until(lambda: bridge.words(there) == ["ann: one\nben: two\nann: three"])
    await bridge.quiet()
    return refs


def slow_matrix(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
    matrix.before = slow_at_first()


async def test_what_waits_crosses_together_and_is_edited_and_deleted_one_by_one(tmp_path: Path) -> None:
    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        here, there = bridge.channels()
        async with bridge.relay(slow_matrix):
            one, two, three = await three_together(bridge)
            bridge.discord.edit(two, "deux")
            await bridge.shows(there, "ann: one\nben: deux\nann: three")
            bridge.discord.delete(one)
            await bridge.shows(there, "ben: deux\nann: three")
            bridge.discord.say(here, "ben", "answer", reply_to=three)
            await until(lambda: len(bridge.words(there)) == 2)
            assert bridge.shown(there)[1].reply_to == bridge.shown(there)[0].ref
            bridge.discord.delete(two)
            await bridge.shows(there, "ann: three", "answer")
            bridge.discord.delete(three)
            await bridge.shows(there, "answer")


async def test_a_reply_to_one_of_several_messages_in_a_copy_quotes_that_one(tmp_path: Path) -> None:
    def slow_discord(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        discord.before = slow_at_first()

    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        there, here = bridge.channels()
        async with bridge.relay(slow_discord):
            bridge.matrix.say(here, "ann", "one")
            two = bridge.matrix.say(here, "ben", "two")
            await until(lambda: bridge.words(there) == ["ann: one\nben: two"])
            await bridge.quiet()
            bridge.matrix.say(here, "ann", "answer", reply_to=two)
            await until(lambda: len(bridge.words(there)) == 2)
            assert bridge.words(there)[1] == "↪ ben: two\nanswer"


async def test_what_several_messages_of_a_copy_answer_is_followed_once(tmp_path: Path) -> None:
    edits = 0
    slow = slow_at_first()

    async def before(call: str) -> None:
        nonlocal edits
        edits += call == "edit"
        await slow(call)

    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        there, here = bridge.channels()
        async with bridge.relay(lambda discord, _: setattr(discord, "before", before)):
            old = bridge.matrix.say(here, "carol", "tea?")
            for number in range(3):
                bridge.matrix.say(here, "ann", f"answer {number}", reply_to=old)
            await until(lambda: " ".join(bridge.words(there)).count("↪ carol: tea?") == 3)
            await bridge.quiet()
            copies, edits = len(bridge.words(there)), 0
            bridge.matrix.edit(old, "coffee?")
            await until(lambda: " ".join(bridge.words(there)).count("↪ carol: coffee?") == 3)
            await bridge.quiet()
    assert copies == 1
    assert edits == 2, "the words themselves, and what quotes them"


@pytest.mark.parametrize("refused", [Transient("500", ambiguous=True), RateLimited("slow down", retry_after=0.01)])
async def test_the_old_copy_goes_too_where_a_quoted_line_had_it_posted_anew(tmp_path: Path, refused: Exception) -> None:
    edits, slow = 0, slow_at_first()
    refusals = [refused]

    async def before(call: str) -> None:
        nonlocal edits
        await slow(call)
        edits += call == "edit"
        if call == "edit" and edits == 2:  # the first changes the words themselves
            raise CopyNotEditable("its webhook is gone")
        if call == "delete" and refusals:
            raise refusals.pop()

    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        there, here = bridge.channels()
        async with bridge.relay(lambda discord, _: setattr(discord, "before", before)) as core:
            old = bridge.matrix.say(here, "carol", "tea?")
            bridge.matrix.say(here, "ann", "please", reply_to=old)
            await bridge.shows(there, "carol: tea?\n↪ carol: tea?\nann: please")
            await bridge.quiet()
            bridge.matrix.edit(old, "coffee?")
            await until(lambda: not refusals)
            core.dispatcher.retry_now()
            await bridge.quiet()
            assert bridge.words(there) == ["carol: coffee?\n↪ carol: coffee?\nann: please"]


def test_what_is_quoted_in_a_batch_follows_its_source() -> None:
    channel = ChannelRef(Platform.MATRIX, "!a")
    author = Author(UserRef(Platform.MATRIX, "@d"), "dave")
    first, second = (
        DigestItem(MessageRef(channel, ref), author, Content(RichText.plain(ref)), datetime(2026, 11, 20, tzinfo=UTC))
        for ref in ("$1", "$2")
    )
    batch = Digest((first, second))
    changed = requoted(batch, MessageRef(channel, "$2"), Quotation("carol", RichText.plain("corrected"), ""))
    assert changed.items[0] == first
    assert plain_text(changed.items[1].above) == "↪ carol: corrected"
    assert changed.items[1].content == second.content


async def test_an_edit_that_no_longer_fits_goes_on_in_a_message_of_its_own(tmp_path: Path) -> None:
    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        _, there = bridge.channels()
        async with bridge.relay(slow_matrix):
            _, two, _ = await three_together(bridge)
            words = " ".join(f"w{number}" for number in range(90))
            bridge.discord.edit(two, words)
            await until(lambda: len(bridge.words(there)) >= 2 and bridge.words(there)[-1].endswith("w89"))
            first, *rest = bridge.words(there)
            assert first.startswith("ann: one\nben: w0")
            assert first.endswith("ann: three")
            assert " ".join([first.split("\n")[1].removeprefix("ben: "), *rest]) == words
            bridge.discord.edit(two, "short again")
            await bridge.shows(there, "ann: one\nben: short again\nann: three")


async def test_a_message_whose_first_part_stands_already_crosses_by_itself(tmp_path: Path) -> None:
    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        here, there = bridge.channels()
        sends = 0

        async def before(call: str) -> None:
            nonlocal sends
            sends += call == "send"
            if call == "send" and sends == 2:
                bridge.discord.edit(long, "short")
                last = bridge.discord.say(here, "ben", "next")
                await until_routed(bridge, last)
                raise RateLimited("slow down", retry_after=0.2)

        def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
            matrix.before = before

        async with bridge.relay(prepare):
            long = bridge.discord.say(here, "ann", " ".join(f"w{number}" for number in range(90)))
            await bridge.shows(there, "short", "next")


async def until_routed(bridge: World, ref: MessageRef) -> None:
    """Wait until a message stands in the outbox."""
    while True:
        async with bridge.store.read() as uow:
            if await uow.messages.find(ref) is not None:
                return


async def test_a_deletion_that_is_interrupted_takes_nobody_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        _, there = bridge.channels()
        async with bridge.relay(slow_matrix) as core:
            _, two, _ = await three_together(bridge)
            write = SqlStore.write
            failures = 1

            def full(self: SqlStore) -> AbstractAsyncContextManager[UnitOfWork]:
                nonlocal failures
                if failures and bridge.words(there) == ["ann: one\nann: three"]:
                    failures -= 1
                    raise StoreUnavailable("relay.db", "the disk is full", "make room")
                return write(self)

            monkeypatch.setattr(SqlStore, "write", full)
            bridge.discord.delete(two)
            await until(lambda: not failures)
            core.dispatcher.retry_now()
            await bridge.quiet()
        assert bridge.words(there) == ["ann: one\nann: three"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Permanent("rejected as spam"), "rejected as spam"), (KeyError("two"), "internal error (KeyError)")],
)
async def test_a_batch_that_is_refused_crosses_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    post = MemoryPlatform.post

    def picky(self: MemoryPlatform, delivery: Delivery) -> MessageRef:
        if "two" in plain_text(delivery.content.text):
            raise error
        return post(self, delivery)

    monkeypatch.setattr(MemoryPlatform, "post", picky)
    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        here, there = bridge.channels()
        # A traceback drawn in full takes seconds.
        with captured_logs():
            async with bridge.relay(slow_matrix) as core:
                refs = [bridge.discord.say(here, "ann", text) for text in ("one", "two", "three", "four")]

                def crossed() -> bool:
                    core.dispatcher.retry_now()  # no waiting for the next try
                    return bridge.words(there) == ["one", "three", "four"]

                await until(crossed)
                await until(lambda: bridge.discord.reactions == [(refs[1], "⚠️")])
                async with bridge.store.read() as uow:
                    (letter,) = await uow.outbox.dead()
    assert letter.reason == reason


async def test_a_shared_copy_that_nobody_can_edit_any_more_is_posted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        _, there = bridge.channels()
        async with bridge.relay(slow_matrix):
            _, two, three = await three_together(bridge)
            orphan = bridge.shown(there)[0].ref

            change = MemoryPlatform.change

            def gone(self: MemoryPlatform, target: MessageRef, content: Content) -> None:
                if target == orphan:
                    raise CopyNotEditable("its webhook is gone")
                change(self, target, content)

            monkeypatch.setattr(MemoryPlatform, "change", gone)
            bridge.discord.edit(two, "deux")
            await bridge.shows(there, "ann: one\nben: deux\nann: three")
            assert bridge.shown(there)[0].ref != orphan
            bridge.discord.delete(three)
            await bridge.shows(there, "ann: one\nben: deux")


def _orphan(monkeypatch: pytest.MonkeyPatch, *copies: MessageRef) -> None:
    """Nobody can edit these copies any more: their webhook is gone."""
    change = MemoryPlatform.change

    def gone(self: MemoryPlatform, target: MessageRef, content: Content) -> None:
        if target in copies:
            raise CopyNotEditable("its webhook is gone")
        change(self, target, content)

    monkeypatch.setattr(MemoryPlatform, "change", gone)


@pytest.mark.parametrize("what", ["stays orphaned", "can be edited again", "is removed"])
async def test_a_shared_copy_is_posted_anew_once_although_the_answer_to_that_was_lost(
    tmp_path: Path, what: str
) -> None:
    lost: list[Exception] = []
    slow = slow_at_first()

    async def after(call: str) -> None:
        if call == "send" and lost:
            if what == "can be edited again":
                bridge.discord.orphaned.clear()
            if what == "is removed":
                bridge.discord.delete(shared)
            raise lost.pop()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        discord.before, discord.after = slow, after

    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        there, here = bridge.channels()
        async with bridge.relay(prepare) as core:
            bridge.matrix.say(here, "ann", "one")
            two = bridge.matrix.say(here, "ben", "two")
            three = bridge.matrix.say(here, "ann", "three", reply_to=two)
            await bridge.shows(there, "ann: one\nben: two\n↪ ben: two\nann: three")
            await bridge.quiet()
            for deleted, rest in ((two, "ann: one\n↪ a message that is not here\nann: three"), (three, "ann: one")):
                shared = bridge.shown(there)[0].ref
                bridge.discord.orphaned.add(shared)
                lost.append(Transient("no answer", ambiguous=True))
                bridge.matrix.delete(deleted)
                await until(lambda: not lost)
                core.dispatcher.retry_now()
                shows = [] if what == "is removed" else [rest]
                await bridge.shows(there, *shows)
                await bridge.quiet()
                assert bridge.words(there) == shows
                if what == "is removed":
                    break


async def test_a_deletion_that_is_interrupted_behind_a_new_copy_takes_nobody_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        _, there = bridge.channels()
        async with bridge.relay(slow_matrix) as core:
            _, two, _ = await three_together(bridge)
            _orphan(monkeypatch, bridge.shown(there)[0].ref)
            write = SqlStore.write
            writes: list[int] = []

            def full(self: SqlStore) -> AbstractAsyncContextManager[UnitOfWork]:
                if len(bridge.words(there)) == 2:
                    writes.append(len(writes))
                    if len(writes) == 2:  # what is new is on record
                        raise StoreUnavailable("relay.db", "the disk is full", "make room")
                return write(self)

            monkeypatch.setattr(SqlStore, "write", full)
            bridge.discord.delete(two)
            await until(lambda: len(writes) >= 2)
            core.dispatcher.retry_now()
            await bridge.quiet()
        assert bridge.words(there) == ["ann: one\nann: three"]


async def test_a_shared_copy_that_nobody_can_edit_stays_where_its_channel_is_not_mirrored_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        here, there = bridge.channels()
        other_room = bridge.matrix.channel("another")
        async with bridge.relay(slow_matrix) as core:
            one, _, _ = await three_together(bridge)
            await core.inbox.opened(ChannelAddress(Platform.MATRIX, "#help"), other_room)

            def gone(self: MemoryPlatform, target: MessageRef, content: Content) -> None:
                raise CopyNotEditable("its webhook is gone")

            monkeypatch.setattr(MemoryPlatform, "change", gone)
            bridge.discord.delete(one)
            bridge.discord.say(here, "ann", "next")
            await bridge.shows(other_room, "next")
            await bridge.quiet()
            assert bridge.words(there) == ["ann: one\nben: two\nann: three"]
            assert core.status.lane(LaneKey(here, other_room)).dropped == {"former": 1}


@pytest.mark.parametrize("changed", ["edited", "deleted"])
async def test_a_shared_copy_that_may_not_be_removed_yet_goes_once_the_channel_opens_again(
    tmp_path: Path, changed: str
) -> None:
    orphaned = [CopyNotEditable("its webhook is gone")]
    forbidden = True
    slow = slow_at_first()

    async def before(call: str) -> None:
        await slow(call)
        if call == "edit" and orphaned:
            raise orphaned.pop()
        if call == "delete" and forbidden:
            raise Permanent("the bot may not delete that")

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        matrix.before = before

    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        _, there = bridge.channels()
        async with bridge.relay(prepare):
            _, two, _ = await three_together(bridge)
            if changed == "edited":
                bridge.discord.edit(two, "deux")
                anew = "ann: one\nben: deux\nann: three"
            else:
                bridge.discord.delete(two)
                anew = "ann: one\nann: three"
            await bridge.shows(there, "ann: one\nben: two\nann: three", anew)
            await bridge.quiet()
        forbidden = False
        async with bridge.relay(prepare):
            await bridge.shows(there, anew)


async def test_an_old_edit_that_is_retried_does_not_bring_back_old_words(tmp_path: Path) -> None:
    async with world(tmp_path) as bridge:
        here, there = bridge.channels()
        refuse = True

        async def censor(call: str) -> None:
            if call == "edit" and refuse:
                raise Permanent("rejected as spam")

        def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
            matrix.before = censor

        async with bridge.relay(prepare) as core:
            ref = bridge.discord.say(here, "ann", "first")
            await bridge.shows(there, "first")
            bridge.discord.edit(ref, "second")
            await until(lambda: bool(bridge.discord.reactions))
            refuse = False
            bridge.discord.edit(ref, "third")
            await bridge.shows(there, "third")
            async with bridge.store.write() as uow:
                (letter,) = await uow.outbox.dead()
                assert await uow.outbox.retry(letter.entry.id)
            core.dispatcher.wake(letter.entry.lane)
            await bridge.quiet()
        assert bridge.words(there) == ["third"]
