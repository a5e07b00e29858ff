"""Work that would block the event loop, done in threads: converting long texts, reading and writing temporary files.

Pure Python lets other threads run every few milliseconds, so the loop is never held for long, however long a text is.
Short texts, nearly all there are, are converted at once: a hop to another thread would cost more than they do.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from threading import Lock, Semaphore, Thread
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from relay.errors import NoRoom
from relay.logs import get_logger

_P = ParamSpec("_P")
_T = TypeVar("_T")

LONG = 16 * 1024
"""What counts as long, as `domain.text.rewrite.weight` counts: some 4 KiB of text in ordinary markup."""

_CHUNK = 256 * 1024  # bytes of a file, read at once
_MOST_THREADS = min(32, (os.cpu_count() or 1) + 4)  # as many as asyncio has otherwise

_log = get_logger(__name__)


class UnawaitedThreads(ThreadPoolExecutor):
    """Threads for which the end of the process does not wait, as it does for those of a `ThreadPoolExecutor`: a look-up
    at a name server that is silent takes half a minute, and cannot be broken off.
    """

    def __init__(self) -> None:
        super().__init__()  # asyncio takes nothing else; it starts none of its own
        self._started = 0
        # None ends a thread.
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = Semaphore(0)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See `Executor.submit`. For one thread only, that of the loop."""
        future: Future[_T] = Future()
        self._calls.put(partial(_carry_out, future, partial(fn, *args, **kwargs)))
        if not self._idle.acquire(blocking=False) and self._started < _MOST_THREADS:
            self._started += 1
            Thread(target=self._work, name=f"unawaited {self._started}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let each end once it has carried out what it is about. Nobody waits for that."""
        for _ in range(self._started):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            self._idle.release()


def run_unhindered(work: Coroutine[Any, Any, _T]) -> _T:
    """`asyncio.run`, after which neither it nor the process waits for threads."""

    async def unhindered() -> _T:
        asyncio.get_running_loop().set_default_executor(UnawaitedThreads())
        return await work

    return asyncio.run(unhindered())  # noqa: TID251 - it is what others use instead


def _carry_out(future: Future[_T], call: Callable[[], _T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
        future.set_exception(error)
    else:
        future.set_result(result)


class Conversions:
    """One thread for long conversions: whoever writes many long texts waits in its queue. The event loop keeps at
    least half of the CPU's time, because Python lets the two take turns.

    The daemon has one, which `composition.py` gives to everything that converts.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="conversions")

    async def run(self, size: int, convert: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The result of `convert`, which has to be pure. It runs in the thread if `size` is at least `LONG`."""
        if size < LONG:
            return convert(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(convert, *args, **kwargs))


class TemporaryFile:
    """A temporary file without a name, which nobody else can read; gone when it is closed.

    Raises `NoRoom` where the disk is full or read-only. A thread that still writes or reads when its caller was
    cancelled closes the file itself: closed under it, its number could belong to another file of ours by then.
    """

    def __init__(self) -> None:
        self.size = 0
        self._readers = 0
        self._closing = False
        # Guards the next two; never held for long.
        self._lock = Lock()
        self._in_threads = 0
        self._closed = False
        with _room():
            # Unbuffered: a full disk shows at once, not when the file is closed.
            self._file = tempfile.TemporaryFile(prefix="relay-", buffering=0)  # noqa: SIM115 - closed by `close`

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def write(self, data: bytes) -> None:
        """Put `data` at the end."""
        await asyncio.to_thread(self._append, data)
        self.size += len(data)

    async def beginning(self) -> bytes:
        """The first bytes, enough to see which kind of file it is."""
        return await self.read(0)

    async def read(self, place: int) -> bytes:
        """Some bytes from a place on; none at the end."""
        return await asyncio.to_thread(self._read, place)

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it from the start. Several readers do not disturb each other."""
        place = 0
        while chunk := await self.read(place):
            place += len(chunk)
            yield chunk

    @contextmanager
    def held(self) -> Iterator[None]:
        """It stays readable inside the block, even if somebody closes it."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if self._closing:
                self.close()

    def close(self) -> None:
        """Give the disk space back, as soon as nobody reads it."""
        self._closing = True
        if self._readers:
            return
        with self._lock:
            self._closed = True
            if not self._in_threads:
                self._file.close()

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        with self._in_use(), _room():
            while rest:
                rest = rest[self._file.write(rest) :]

    def _read(self, place: int) -> bytes:
        with self._in_use(), _room():
            return os.pread(self._file.fileno(), _CHUNK, place)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise ValueError("the file is closed")
            self._in_threads += 1
        try:
            yield
        finally:
            self._used()

    def _used(self) -> None:
        with self._lock:
            self._in_threads -= 1
            if self._closed and not self._in_threads:
                self._file.close()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Only the operator can help; also `gettempdir` fails, if it finds no folder to write to.
        _log.error("no room for a temporary file", reason=error.strerror or str(error))
        raise NoRoom(f"no room for a temporary file ({error.strerror or error})") from None
