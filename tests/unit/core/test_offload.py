"""Long texts are converted beside the event loop, short ones at once."""

import asyncio
import threading

from relay.core.offload import LONG, Conversions


async def test_short_texts_are_converted_where_they_are() -> None:
    assert await Conversions().run(LONG - 1, threading.get_ident) == threading.get_ident()


async def test_the_loop_goes_on_while_a_long_text_is_converted() -> None:
    seen = threading.Event()

    def convert(words: str, *, times: int) -> str:
        assert seen.wait(10)
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
