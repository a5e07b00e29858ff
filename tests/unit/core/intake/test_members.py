"""Somebody leaves: the account that stands for them on the other side goes behind what they said last."""

from pathlib import Path

from relay.core.ports import EventBatch
from relay.domain.events import MemberLeft
from relay.domain.ids import Platform, UserRef
from tests.support.world import pair, world

ANN = UserRef(Platform.DISCORD, "ann")


async def test_it_goes_behind_what_was_said_last_and_only_where_it_is(tmp_path: Path) -> None:
    async with world(tmp_path, pair("help"), pair("other"), pair("quiet")) as made:
        channels = [made.discord.channel(name) for name in ("help", "other", "quiet")]
        rooms = [made.matrix.channel(name) for name in ("help", "other", "quiet")]
        made.matrix.members |= {(rooms[0], ANN), (rooms[1], ANN), (rooms[0], UserRef(Platform.DISCORD, "ben"))}
        done: list[str] = []

        async def note(call: str) -> None:
            done.append(call)

        async with made.relay(lambda _, matrix: setattr(matrix, "after", note)) as core:
            made.discord.say(channels[0], "ann", "my last words")
            await made.shows(rooms[0], "my last words")
            made.discord.say(channels[1], "ann", "and here")
            await core.inbox.receive(EventBatch((MemberLeft(tuple(channels), ANN),)))
            await made.quiet()
        assert made.words(rooms[0]) == ["my last words"]
        assert made.matrix.members == {(rooms[0], UserRef(Platform.DISCORD, "ben"))}
        assert [call for call in done if call in {"send", "remove_member"}].count("remove_member") == 2
        assert done.index("send") < done.index("remove_member")


async def test_nothing_is_queued_for_channels_that_are_not_mirrored(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        elsewhere = made.discord.channel("elsewhere")
        made.matrix.members.add((made.matrix.channel("elsewhere"), ANN))
        async with made.relay() as core:
            await core.inbox.receive(EventBatch((MemberLeft((elsewhere,), ANN),)))
            await made.quiet()
        assert made.matrix.members
