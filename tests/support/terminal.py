"""A program in a pseudo-terminal of 80 columns, and somebody who reads it and types."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.patience import PATIENCE

# The first terminal that the leader of a session opens is the one that it asks for passwords on.
_LAUNCH = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
# And the links behind words.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\]8;;[^\x1b]*\x1b\\")


class Screen:
    """What a program has written on its terminal, and what is typed."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self._master = master
        self._process = process
        self._text = ""
        self._read_to = 0
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the program has ended
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self._text += data.decode(errors="replace")
        self._changed.set()

    @property
    def text(self) -> str:
        """All of it, without colours and links."""
        return _COLOURS.sub("", self._text).replace("\r\n", "\n")

    async def until(self, words: str) -> str:
        """Wait for words behind those that were waited for last; what is between."""
        try:
            async with asyncio.timeout(PATIENCE):
                while (found := self.text.find(words, self._read_to)) < 0:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {words!r} in\n{self.text[self._read_to :]}\n--- all:\n{self.text}") from None
        between = self.text[self._read_to : found]
        self._read_to = found + len(words)
        return between

    async def answer(self, question: str, words: str) -> str:
        """Wait for a question and type a line; what was written before the question."""
        before = await self.until(question)
        os.write(self._master, f"{words}\n".encode())
        return before

    async def ended(self) -> int:
        """The exit status of the program."""
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()


@asynccontextmanager
async def terminal(*arguments: str, folder: Path) -> AsyncIterator[Screen]:
    """`relay` with these arguments, in a folder."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", _LAUNCH, "-m", "relay"),
        *arguments,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=folder,
        env=environ | {"TERM": "xterm"},
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Screen(master, process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)
