"""A commit whose answer is lost: a transaction that returns was committed, and one that raises was not."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay.core.ports import Cursor
from relay.core.storage import Store
from relay.domain.commands import SendMessage
from relay.domain.ids import Platform
from relay.errors import StoreUnavailable
from relay.store.migrate import upgrade
from relay.store.unit_of_work import open_store
from tests.support.cut_line import CutLine, cut_line
from tests.support.postgresql import SHORT, Server, start, stop
from tests.support.store_contract import ANN, LANE, NOON, sending, there, waiting


@dataclass(slots=True)
class Cut:
    """A store behind a line, and the line."""

    store: Store
    line: CutLine


@pytest.fixture
async def cut(running: Server, either: str) -> AsyncIterator[Cut]:
    with tempfile.TemporaryDirectory(prefix="relay-line-", dir=SHORT) as folder:
        async with cut_line(running.folder, Path(folder)) as line:
            store = await open_store(either.replace(str(running.folder), folder))
            yield Cut(store, line)
            await store.close()


async def queue(store: Store, number: int) -> None:
    """One transaction, as for a message."""
    async with store.write() as unit:
        await unit.messages.add(there(number), ANN, NOON, None)
        await unit.outbox.append(LANE, sending(number), NOON)
        await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", str(number)))


async def queued(store: Store) -> list[int]:
    """The numbers of the messages that wait."""
    commands = [entry.command for entry in await waiting(store)]
    return [int(command.source.id) for command in commands if isinstance(command, SendMessage)]


async def test_what_was_committed_is_not_done_again(cut: Cut) -> None:
    cut.line.answers_lost = 1
    await queue(cut.store, 1)
    assert cut.line.cut == 1
    await queue(cut.store, 2)
    assert await queued(cut.store) == [1, 2]


async def test_what_never_arrived_is_an_error_and_is_not_there(cut: Cut) -> None:
    cut.line.commits_lost = 1
    with pytest.raises(StoreUnavailable, match="the connection was lost"):
        await queue(cut.store, 1)
    assert await queued(cut.store) == []
    await queue(cut.store, 1)
    assert await queued(cut.store) == [1]


async def test_it_waits_for_the_server_to_know(cut: Cut) -> None:
    cut.line.answers_lost = 1
    writing = asyncio.create_task(queue(cut.store, 1))
    while not cut.line.cut:
        cut.line.refuses = cut.line.answers_lost == 0
        await asyncio.sleep(0)
    _, running = await asyncio.wait((writing,), timeout=1.0)
    assert running, "nobody could know yet"
    cut.line.refuses = False
    await writing
    assert await queued(cut.store) == [1]


async def test_a_key_is_claimed_once_and_by_who_heard_of_it(cut: Cut) -> None:
    async def claim() -> bool:
        async with cut.store.write() as unit:
            return await unit.once_keys.claim(LANE.destination, "thread 1")

    cut.line.answers_lost = 1
    assert await claim()
    assert not await claim()


async def test_many_of_both(cut: Cut) -> None:
    done = []
    for number in range(30):
        cut.line.answers_lost, cut.line.commits_lost = int(number % 3 == 0), int(number % 5 == 0)
        try:
            await queue(cut.store, number)
        except StoreUnavailable:
            continue
        done.append(number)
    cut.line.answers_lost = cut.line.commits_lost = 0
    assert cut.line.cut >= 10
    assert await queued(cut.store) == done


async def test_what_a_crash_took_along_is_not_done_though_another_transaction_has_its_number() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-crash-", dir=SHORT)))
        front = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-line-", dir=SHORT)))
        # What nobody waits for is not written before the crash.
        options = ("-c", "wal_writer_delay=10s", "-c", "autovacuum=off")
        process = start(folder, os.getpid(), *options)
        own = Server(folder)
        try:
            await asyncio.to_thread(upgrade, own.url("postgres"))
            async with cut_line(folder, front) as line:
                store = await open_store(Server(front).url("postgres"))
                await queue(store, 1)
                line.commits_lost = 1
                writing = asyncio.create_task(queue(store, 2))
                while not line.cut:
                    line.refuses = line.commits_lost == 0
                    await asyncio.sleep(0)
                stop(process, signal.SIGQUIT)
                process = start(folder, os.getpid(), *options)
                for name in ("first", "second", "third"):
                    own.run(f"CREATE TABLE {name} ()")
                line.refuses = False
                with pytest.raises(StoreUnavailable, match="the connection was lost"):
                    await writing
                assert await queued(store) == [1]
                await store.close()
        finally:
            stop(process, signal.SIGINT)
