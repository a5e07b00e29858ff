"""Nobody's files hold up a channel for long, or keep those of others from being fetched: in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from relay.core.files import MediaStream, Sender
from relay.core.storage import Store
from relay.domain.content import Attachment
from relay.domain.ids import ChannelRef, MediaRef, Platform, UserRef
from relay.errors import DeliveryError, FileRejected, FileUnavailable, TargetGone
from relay.media.deadlines import Deadline, WaitBudgets
from relay.media.library import Library
from tests.support.clocks import LoopClock

pytestmark = pytest.mark.virtual_time

BUDGET, AGAIN, AGAIN_IN_ALL = 30.0, 1.0, 5.0
"""Seconds, as the library has them."""

HALL, ATTIC = ChannelRef(Platform.DISCORD, "1"), ChannelRef(Platform.DISCORD, "2")
MALLORY, ANN, BEN = (UserRef(Platform.MATRIX, name) for name in ("@mallory:a", "@ann:a", "@ben:a"))
GOOD = b"good"


class Servers:
    """Files on many servers. All of them are silent, but `good` and those in `answers`."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[float, DeliveryError]] = {}
        self.open: list[str] = []
        self.opened: list[str] = []

    @asynccontextmanager
    async def open_media(self, media: MediaRef) -> AsyncIterator[MediaStream]:
        server = media.locator.split("/")[2]
        self.open.append(server)
        self.opened.append(server)
        try:
            if server in self.answers:
                seconds, error = self.answers[server]
                await asyncio.sleep(seconds)
                raise error
            if server != "good":
                await asyncio.Event().wait()
            yield MediaStream(len(GOOD), "", _chunks())
        finally:
            self.open.remove(server)


async def _chunks() -> AsyncIterator[bytes]:
    yield GOOD


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
async def library(servers: Servers) -> AsyncIterator[Library]:
    library = Library(store=cast(Store, None), clock=LoopClock())  # no picture is asked for here
    library.serve(Platform.MATRIX, servers)
    yield library
    await library.close()


def file(server: str, name: str = "a") -> Attachment:
    return Attachment(f"{server}/{name}", "a.bin", "file", MediaRef(Platform.MATRIX, f"mxc://{server}/{name}"))


async def post(
    library: Library, *files: Attachment, author: UserRef = MALLORY, channel: ChannelRef = HALL
) -> tuple[float, list[str]]:
    """What becomes of a message as a lane tries it: for how long it holds the lane, and which files it brings."""
    now = asyncio.get_running_loop().time
    begun, left = now(), list(files)
    while left:
        try:
            async with library.open(left, max_bytes=1000, sender=Sender(channel, author)) as opened:
                for one in opened:
                    assert [chunk async for chunk in one.chunks] == [GOOD]
            break
        except FileRejected as error:
            left = [one for one in left if one.id != error.attachment]
        except FileUnavailable:
            await asyncio.sleep(AGAIN / 5)
    return now() - begun, [one.id for one in left]


async def test_ten_files_of_one_message_are_waited_for_together(library: Library) -> None:
    seconds, came = await post(library, *(file(f"dead{number}") for number in range(9)), file("good"))
    assert came == ["good/a"]
    assert seconds == pytest.approx(BUDGET), "one after the other would be nine times as long"


async def test_other_servers_bring_no_more_time(library: Library, servers: Servers) -> None:
    seconds = [(await post(library, file(f"dead{number}")))[0] for number in range(40)]
    assert seconds == pytest.approx([BUDGET, *[AGAIN] * 5, *[0.0] * 34])
    assert len(servers.opened) == 6, "in the end nobody is asked"
    assert (await post(library, file("good"), author=ANN))[1] == ["good/a"]


async def test_time_comes_back(library: Library) -> None:
    for number in range(10):
        await post(library, file(f"dead{number}"))
    assert (await post(library, file("good")))[1] == []
    await asyncio.sleep(300)
    assert (await post(library, file("good")))[1] == ["good/a"]


async def test_every_room_and_author_has_time_of_their_own(library: Library) -> None:
    for channel, author in ((HALL, MALLORY), (HALL, ANN), (ATTIC, MALLORY)):
        seconds, _ = await post(library, file(f"dead{author.id}{channel.id}"), author=author, channel=channel)
        assert seconds == pytest.approx(BUDGET)


@pytest.mark.parametrize("error", [TargetGone("404"), FileRejected("x", "odd")])
async def test_a_slow_no_costs_time_as_well(library: Library, servers: Servers, error: DeliveryError) -> None:
    taken = 0.0
    for number in range(10):
        servers.answers[f"slow{number}"] = (BUDGET * 0.9, error)
        taken += (await post(library, file(f"slow{number}")))[0]
    assert taken == pytest.approx(BUDGET + AGAIN_IN_ALL), "each waited for would be nine times the budget"


async def test_a_server_is_slow_once_two_authors_found_it_so(library: Library) -> None:
    assert (await post(library, file("dead", "a")))[0] == pytest.approx(BUDGET)
    assert (await post(library, file("dead", "b"), author=ANN))[0] == pytest.approx(BUDGET)
    assert (await post(library, file("dead", "c"), author=BEN))[0] == pytest.approx(AGAIN)
    assert (await post(library, file("dead", "d"), author=BEN, channel=ATTIC))[0] == pytest.approx(BUDGET)


async def test_what_is_the_file_s_own_fault_makes_no_server_slow(library: Library, servers: Servers) -> None:
    servers.answers["home"] = (0.0, FileUnavailable("not yet uploaded", about_server=False, retry_after=60))
    for author in (MALLORY, ANN):
        assert (await post(library, file("home"), author=author))[0] == 0, "asking again helps nobody"
    del servers.answers["home"]
    assert (await post(library, file("home"), author=BEN))[0] == pytest.approx(BUDGET)


async def test_a_full_disk_holds_up_nobody(library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(Servers, "open_media", _without_size)
    with pytest.raises(FileRejected, match="held back until the relay has room for it") as caught:
        async with library.open([file("good")], max_bytes=1000, sender=Sender(HALL, ANN)):
            pass
    assert caught.value.late
    assert await library.fetch(file("good"), channel=HALL, max_bytes=1000, wait=0.01) is None
    monkeypatch.undo()
    assert await library.fetch(file("good"), channel=HALL, max_bytes=1000, wait=5)


@asynccontextmanager
async def _without_size(self: Servers, media: MediaRef) -> AsyncIterator[MediaStream]:
    yield MediaStream(None, "", _chunks())


# --- Late files -----------------------------------------------------------------------------------------------


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what is waited for happens in the library
            await asyncio.sleep(0.01)


async def fetch(library: Library, files: Sequence[Attachment], channel: ChannelRef = HALL) -> list[bool | None]:
    return [await library.fetch(one, channel=channel, max_bytes=1000, wait=0) for one in files]


async def test_a_room_full_of_dead_files_keeps_no_other_room_waiting(library: Library, servers: Servers) -> None:
    await fetch(library, [file(f"dead{number}") for number in range(50)])
    await until(lambda: len(servers.open) == 8)
    assert await library.fetch(file("good"), channel=ATTIC, max_bytes=1000, wait=61)
    assert len(servers.open) <= 8


async def test_a_pause_takes_nobody_s_turn(library: Library, servers: Servers) -> None:
    for number in range(20):
        servers.answers[f"dead{number}"] = (0.0, FileUnavailable("502"))
    await fetch(library, [file(f"dead{number}") for number in range(20)])
    await until(lambda: set(servers.opened) == set(servers.answers))


async def test_what_is_given_up_is_not_fetched_any_longer(library: Library, servers: Servers) -> None:
    await fetch(library, [file("dead")])
    await until(lambda: servers.open == ["dead"])
    library.forget(file("dead"))
    await until(lambda: not servers.open)


async def test_a_late_file_is_read_by_two_rooms_at_once(library: Library) -> None:
    assert await library.fetch(file("good"), channel=HALL, max_bytes=1000, wait=2)
    async with library.open([file("good")], max_bytes=1000, sender=Sender(HALL, ANN)) as [one]:
        async with library.open([file("good")], max_bytes=1000, sender=Sender(ATTIC, ANN)) as [other]:
            assert [chunk async for chunk in other.chunks] == [GOOD]
        assert [chunk async for chunk in one.chunks] == [GOOD]


async def test_of_those_who_found_a_server_slow_only_as_many_are_kept_as_count() -> None:
    budgets, picture = WaitBudgets(LoopClock()), MediaRef(Platform.MATRIX, "mxc://slow/1")
    errors = {picture: FileUnavailable("it takes too long to arrive", about_server=True)}
    for number in range(100):
        budgets.late(Sender(HALL, UserRef(Platform.MATRIX, f"@{number}:a")), errors, Deadline(1.0))
        assert budgets._is_slow(HALL, picture) is (number > 0)
    assert [len(authors) for authors in budgets._slow.values()] == [2]
