"""What was written where only adults read: it waits, or crosses as words, and never as a picture."""

from dataclasses import replace
from pathlib import Path

import pytest

from relay.core.moderation.age_marks import mismatch
from relay.core.people.directory import PeopleDirectory, Person
from relay.core.storage import UnitOfWork
from relay.domain.content import Attachment, Content
from relay.domain.ids import ChannelRef, MediaRef, Platform, UserRef
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import walk
from relay.errors import Transient
from tests.support.memory_adapter import MemoryAdapter
from tests.support.platform import MemoryPlatform
from tests.support.slow_files import SlowFiles
from tests.support.world import World, lane, pair, redeclare, until, world

PICTURE = Attachment(
    "1", "a.png", "image", MediaRef(Platform.DISCORD, "https://cdn.example/a.png"), url="https://cdn.example/a.png"
)
EMOJI = n.CustomEmoji("blob", "7", MediaRef(Platform.DISCORD, "https://cdn.example/blob.png"))
PERMISSIVE = pair(nsfw_may_differ=True)


def takes_files(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
    discord.max_attachments = matrix.max_attachments = 1


def seen(platform: MemoryPlatform, channel: ChannelRef) -> list[Attachment | n.Inline]:
    """Whatever a reader of a channel sees that is no word."""
    found: list[Attachment | n.Inline] = []
    for message in platform.shown(channel):
        found += message.content.attachments
        found += [node for node in walk(message.content.text.blocks) if isinstance(node, n.CustomEmoji | n.InlineImage)]
    return found


def picture(words: str = "look") -> Content:
    return Content(n.RichText((n.Paragraph((n.Text(f"{words} "), EMOJI)),)), (PICTURE,))


async def until_marked(bridge: World, channel: ChannelRef, restricted: bool) -> None:
    """Wait until a channel's mark is on record."""

    async def written() -> str | None:
        async with bridge.store.read() as uow:
            return await uow.key_values.get(f"age mark {channel.platform} {channel.id}")

    state = "restricted" if restricted else "open"
    while not (await written() or "").startswith(state):
        await until(lambda: True)


async def test_a_pair_whose_marks_differ_waits_both_ways_and_loses_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as bridge:
        here, there = bridge.channels()
        async with bridge.relay() as core:
            gone = bridge.discord.say(here, "ann", "gone")
            await bridge.shows(there, "gone")
            bridge.discord.restrict(here)
            await until_marked(bridge, here, restricted=True)
            [problem] = core.status.problems(pair())
            assert "help is age-restricted" in problem
            assert "write nsfw = true in this pair" in problem
            # What is taken back is gone, however the marks stand.
            bridge.discord.delete(gone)
            await bridge.shows(there)
            bridge.discord.say(here, "ann", "from Discord")
            bridge.matrix.say(there, "ben", "from Matrix")
            await until(lambda: all(core.status.lane(lane(side)).problem for side in Platform))
            assert core.status.problems(pair()) == (problem,)  # said once, and not for each way again
            assert bridge.words(here) == ["from Discord"]
            assert bridge.words(there) == ["from Matrix"]
            bridge.discord.restrict(here, restricted=False)
            await bridge.shows(here, "from Discord", "from Matrix")
            await bridge.shows(there, "from Matrix", "from Discord")
            await until(lambda: core.status.problems(pair()) == ())


async def test_files_of_the_time_when_a_channel_was_restricted_stay_words(tmp_path: Path) -> None:
    async with world(tmp_path) as bridge:
        here, there = bridge.channels()
        bridge.discord.restrict(here)
        async with bridge.relay(takes_files) as core:
            said = bridge.discord.say(here, "ann", picture())
            bridge.discord.restrict(here, restricted=False)
            await bridge.shows(there, "look :blob:\nimage: a.png · message")
            assert seen(bridge.matrix, there) == []
            assert [
                node.url for node in walk(bridge.shown(there)[0].content.text.blocks) if isinstance(node, n.Link)
            ] == [f"https://platform.example/{said.id}"]
            # An edit brings its files again.
            bridge.discord.edit(said, picture("see"))
            await bridge.shows(there, "see :blob:\nimage: a.png · message")
            assert seen(bridge.matrix, there) == []
            bridge.discord.say(here, "ann", picture("later"))
            await until(lambda: len(bridge.words(there)) == 2)
            assert seen(bridge.matrix, there) == [PICTURE, EMOJI]
            # By name: the picture and the emoji, once when they were said and once when they were edited.
            assert core.status.lane(lane(Platform.MATRIX)).dropped == {"nsfw": 4}


async def test_what_becomes_words_is_counted_once_however_often_it_is_tried(tmp_path: Path) -> None:
    tries = 0

    async def before(call: str) -> None:
        nonlocal tries
        if call == "send":
            tries += 1
            if tries in (1, 3):  # before anything stands, and in the middle
                raise Transient("away", retry_after=0.01)

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        takes_files(discord, matrix)
        matrix.before = before

    async with world(tmp_path, PERMISSIVE) as bridge:
        here, there = bridge.channels()
        bridge.discord.restrict(here)
        async with bridge.relay(prepare) as core:
            bridge.discord.say(here, "ann", picture("word " * 60))
            await until(lambda: len(bridge.words(there)) == 2)
            await bridge.quiet()
            await until(lambda: core.status.lane(lane(Platform.MATRIX)).messages == 1)
            assert core.status.lane(lane(Platform.MATRIX)).dropped == {"nsfw": 2}
            assert tries == 4
            assert seen(bridge.matrix, there) == []


async def test_what_an_edit_posted_anew_is_found_also_where_its_channel_was_marked_since(tmp_path: Path) -> None:
    waits = False

    async def before(call: str) -> None:
        if call == "edit" and waits:
            raise Transient("away", retry_after=0.01)

    async def after(call: str) -> None:
        nonlocal waits
        if call == "send" and bridge.matrix.orphaned:
            bridge.matrix.orphaned.clear()  # whoever posted it is back
            bridge.discord.restrict(here)
            waits = True
            raise Transient("no answer", retry_after=0.01, ambiguous=True)

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        takes_files(discord, matrix)
        matrix.before, matrix.after = before, after

    async with world(tmp_path, PERMISSIVE) as bridge:
        here, there = bridge.channels()
        async with bridge.relay(prepare):
            said = bridge.discord.say(here, "ann", "one")
            await bridge.shows(there, "one")
            bridge.matrix.orphaned.add(bridge.shown(there)[0].ref)
            bridge.discord.edit(said, "two")
            await until_marked(bridge, here, restricted=True)
            waits = False
            await bridge.shows(there, "two")
            await bridge.quiet()
            await bridge.shows(there, "two")


async def test_a_late_file_that_stays_words_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = SlowFiles(monkeypatch)
    async with world(tmp_path, PERMISSIVE) as bridge:
        here, there = bridge.channels()
        bridge.files = files
        async with bridge.relay(takes_files) as core:
            bridge.discord.say(here, "ann", Content(n.RichText.plain("look"), (PICTURE,)))
            words = "look\nimage: a.png (out of reach so far)"
            await bridge.shows(there, words)
            assert core.status.lane(lane(Platform.MATRIX)).dropped == {}
            bridge.discord.restrict(here)
            await until_marked(bridge, here, restricted=True)
            files.state = True
            await until(lambda: core.status.lane(lane(Platform.MATRIX)).dropped == {"nsfw": 1})
            await bridge.quiet()
            await bridge.shows(there, words)


async def test_the_mark_is_known_from_an_earlier_life(tmp_path: Path) -> None:
    async with world(tmp_path) as bridge:
        here, there = bridge.channels()
        bridge.discord.restrict(here)
        async with bridge.relay(takes_files):
            bridge.discord.say(here, "ann", picture())
            await until_marked(bridge, here, restricted=True)
        bridge.discord.restrict(here, restricted=False)
        async with bridge.relay(takes_files):
            bridge.discord.say(here, "ann", "the end")
            await bridge.shows(there, "look :blob:\nimage: a.png · message", "the end")
        assert seen(bridge.matrix, there) == []


async def test_a_pair_that_is_taken_out_in_the_middle_lets_nothing_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = PeopleDirectory.of
    taken_out = False

    async def of(self: PeopleDirectory, user: UserRef, uow: UnitOfWork | None = None) -> Person:
        nonlocal taken_out
        if uow is None and not taken_out:  # its channel is known, and it has not been asked yet what may come there
            taken_out = True
            core.inbox.declare(())
        return await asked(self, user, uow)

    async with world(tmp_path, PERMISSIVE) as bridge:
        here, there = bridge.channels()
        bridge.discord.restrict(here)
        async with bridge.relay(takes_files) as core:
            await until_marked(bridge, here, restricted=True)
            monkeypatch.setattr(PeopleDirectory, "of", of)
            bridge.discord.say(here, "ann", picture())
            await until(lambda: taken_out)
            await redeclare(core, PERMISSIVE)
            for side, channel in zip(PERMISSIVE.sides, (here, there), strict=True):
                await core.inbox.opened(side, channel)
            await bridge.shows(there, "look :blob:\nimage: a.png · message")


async def test_where_the_operator_wants_it_words_cross_and_files_are_named(tmp_path: Path) -> None:
    async with world(tmp_path, PERMISSIVE) as bridge:
        here, there = bridge.channels()
        bridge.discord.restrict(here)
        async with bridge.relay(takes_files) as core:
            bridge.discord.say(here, "ann", picture())
            bridge.matrix.say(there, "ben", Content(n.RichText.plain("mine"), (replace(PICTURE, name="b.png"),)))
            await bridge.shows(there, "mine", "look :blob:\nimage: a.png · message")
            await until(lambda: len(bridge.words(here)) == 2)
            assert len(seen(bridge.discord, here)) == 3  # from a room for everybody all may come
            note = "Of what is said in channel help, only words cross, because that is for adults."
            assert note in core.moderation.notes(PERMISSIVE)
            assert core.status.problems(PERMISSIVE) == ()


async def test_the_operators_word_is_the_mark_of_a_room(tmp_path: Path) -> None:
    adult = pair(nsfw=True)
    async with world(tmp_path, adult) as bridge:
        here, there = bridge.channels()
        bridge.discord.restrict(here)
        async with bridge.relay(takes_files) as core:
            bridge.discord.say(here, "ann", picture())
            await until(lambda: len(bridge.words(there)) == 1)
            assert seen(bridge.matrix, there) == [PICTURE, EMOJI]
            bridge.discord.restrict(here, restricted=False)
            await until_marked(bridge, here, restricted=False)
            [problem] = core.status.problems(adult)
            assert "#help is for adults (nsfw = true)" in problem
            bridge.matrix.say(there, "ben", picture("from adults"))
            bridge.discord.say(here, "ann", "hello")
            await until(lambda: all(core.status.lane(lane(side)).problem for side in Platform))
            both = pair(nsfw=True, nsfw_may_differ=True)
            await redeclare(core, both)
            await until(lambda: len(bridge.words(here)) == 3)
            assert bridge.words(here)[2] == "from adults :blob:\nimage: a.png · message"


async def test_nothing_crosses_before_the_mark_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of an earlier version: what waits there may have been written where only adults read."""
    monkeypatch.setattr("tests.support.memory_adapter.MarkingAdapter.age_restricted", lambda *_: None)
    async with world(tmp_path) as bridge:
        here, there = bridge.channels()
        async with bridge.relay(takes_files) as core:
            bridge.discord.say(here, "ann", picture())
            await until(lambda: bool(core.status.problems(pair())))
            assert bridge.words(there) == []
        monkeypatch.undo()
        bridge.discord.restrict(here)
        bridge.pairs = (PERMISSIVE,)
        async with bridge.relay(takes_files):
            await bridge.shows(there, "look :blob:\nimage: a.png · message")


@pytest.mark.parametrize(
    ("restricted", "nsfw", "to", "refused"),
    [
        (True, False, set(Platform), True),
        (False, True, set(Platform), True),
        (True, True, set(Platform), False),
        (False, False, set(Platform), False),
        # To those who may read what is for adults, everything may come.
        (True, False, {Platform.DISCORD}, False),
        (True, False, {Platform.MATRIX}, True),
        (False, True, {Platform.MATRIX}, False),
        (False, True, {Platform.DISCORD}, True),
        (True, False, set(), False),
    ],
)
def test_a_pair_is_refused_where_it_leads_down(restricted: bool, nsfw: bool, to: set[Platform], refused: bool) -> None:
    declared = replace(pair(nsfw=nsfw), destinations=frozenset(to))
    assert (mismatch(declared, {Platform.DISCORD: restricted}) is not None) is refused
    lenient = replace(declared, policy=replace(declared.policy, nsfw_may_differ=True))
    assert mismatch(lenient, {Platform.DISCORD: restricted}) is None
