"""Long texts are converted beside the event loop, short ones at once; temporary files are written in threads."""

import asyncio
import os
import threading

import pytest

from relay.core.offload import LONG, Conversions, TemporaryFile
from tests.support.patience import PATIENCE


async def test_short_texts_are_converted_where_they_are() -> None:
    assert await Conversions().run(LONG - 1, threading.get_ident) == threading.get_ident()


async def test_the_loop_goes_on_while_a_long_text_is_converted() -> None:
    seen = threading.Event()

    def convert(words: str, *, times: int) -> str:
        assert seen.wait(PATIENCE)
        return words * times

    conversions = Conversions()
    running = asyncio.create_task(conversions.run(LONG, convert, "ab", times=2))
    # Would never be set if the loop waited for the conversion.
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(seen.set))
    assert await running == "abab"


async def test_there_is_one_thread_however_much_is_long() -> None:
    conversions = Conversions()
    threads = await asyncio.gather(*(conversions.run(LONG, threading.get_ident) for _ in range(20)))
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


async def test_a_temporary_file_is_not_closed_under_a_thread_that_still_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    file = TemporaryFile()
    pread = os.pread

    def slow(number: int, size: int, place: int) -> bytes:
        begun.set()
        assert go_on.wait(PATIENCE)
        try:
            return pread(number, size, place)
        finally:
            ended.set()

    await file.write(b"words")
    monkeypatch.setattr(os, "pread", slow)
    reading = asyncio.create_task(file.read(0))
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    # Whoever wanted to read is gone, and so is the file for all others.
    reading.cancel()
    await asyncio.wait([reading])
    file.close()
    assert not is_closed(file)
    with pytest.raises(ValueError, match="closed"):
        await file.write(b"more")
    go_on.set()
    assert await asyncio.to_thread(ended.wait, PATIENCE)
    async with asyncio.timeout(PATIENCE):
        while not is_closed(file):  # noqa: ASYNC110 - the thread has no event to offer
            await asyncio.sleep(0.001)
    file.close()


def is_closed(file: TemporaryFile) -> bool:
    return bool(file._file.closed)
