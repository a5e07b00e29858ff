"""What the tests of `core.storage.Store` share: each implementation, and messages to store."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from relay.core.storage import Copy, Entry, Store
from relay.domain.commands import SendMessage
from relay.domain.content import Author, Content
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.store.unit_of_work import open_store
from tests.support.postgresql import server
from tests.support.store import new_store


class Closable(Store, Protocol):
    """A store that a test closes and opens again."""

    async def close(self) -> None:
        """Close it."""
        ...


Opener = Callable[[], Awaitable[Closable]]


@contextmanager
def sqlite(directory: Path) -> Iterator[Opener]:
    """Opens the store on one SQLite file, also again."""
    url = new_store(directory)
    yield lambda: open_store(url)


@contextmanager
def postgresql(directory: Path) -> Iterator[Opener]:
    """Opens the store on a database of PostgreSQL, also again."""
    with server().database() as url:
        yield lambda: open_store(url)


@contextmanager
def tenant(directory: Path) -> Iterator[Opener]:
    """The same where it shares its connections with others of this process."""
    with server().database() as url:
        yield lambda: open_store(f"{url}&search_path=public")


STORES: tuple[Callable[[Path], AbstractContextManager[Opener]], ...] = (sqlite, postgresql, tenant)
DISCORD = ChannelRef(Platform.DISCORD, "1")
ROOM = ChannelRef(Platform.MATRIX, "!room")
ANN = UserRef(Platform.DISCORD, "7")
LANE = LaneKey(DISCORD, ROOM)
ELSEWHERE = LaneKey(DISCORD, ChannelRef(Platform.MATRIX, "!elsewhere"))
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def there(number: int | str) -> MessageRef:
    """A message on Discord."""
    return MessageRef(DISCORD, str(number))


def here(number: int | str) -> MessageRef:
    """An event in the room."""
    return MessageRef(ROOM, f"${number}")


def sending(number: int) -> SendMessage:
    """The command that copies that message."""
    return SendMessage(there(number), Author(ANN, "Ann"), Content(RichText.plain(f"message {number}")), NOON)


async def add(store: Store, number: int, created_at: datetime = NOON) -> int:
    """An original in the map."""
    async with store.write() as unit:
        message_id = await unit.messages.add(there(number), ANN, created_at, None)
    assert message_id is not None
    return message_id


async def copy(store: Store, message_id: int, ref: MessageRef, part: int = 0) -> None:
    """A copy in the map."""
    async with store.write() as unit:
        await unit.messages.record_copy(Copy(message_id, part, ref))


async def queue(store: Store, *numbers: int, lane: LaneKey = LANE) -> list[Entry]:
    """Commands in the outbox."""
    async with store.write() as unit:
        return [await unit.outbox.append(lane, sending(number), NOON) for number in numbers]


async def waiting(store: Store, lane: LaneKey = LANE, limit: int = 100) -> list[Entry]:
    """What waits in a lane."""
    async with store.read() as unit:
        return list(await unit.outbox.waiting(lane, limit))
