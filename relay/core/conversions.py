"""Conversions of long texts run in a thread of their own, so that the event loop goes on meanwhile.

Pure Python lets other threads run every few milliseconds, so the loop is never held for long, however long the text
is. Short texts, nearly all there are, are converted at once: a hop to another thread would cost more than they do.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

LONG = 16 * 1024
"""What counts as long, as `domain.weight` counts: some 4 KiB of text in ordinary markup."""


class Conversions:
    """One thread, so that whoever writes many long texts takes at most half of the time, and waits in a queue.

    One for the whole daemon: `app.py` hands it to everybody.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="conversions")

    async def run(self, size: int, convert: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The result of `convert`, which has to be pure; in the thread if `size` is long."""
        if size < LONG:
            return convert(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(convert, *args, **kwargs))
