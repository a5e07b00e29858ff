"""What memory the daemon takes on top while a large file crosses, each way.

    python -m tests.benchmarks.media_memory            # 100 MiB: some 20 seconds; the bar: at most 8 MiB

The real daemon between the sandbox (a server boosted to 100 MiB) and a real homeserver. A small file crosses first each
way, so that what is loaded once is not counted. "Peak" is the kernel's own high-water mark (VmHWM), set back before.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from relay.demo.homeserver import Homeserver
from tests.support.patience import PATIENCE
from tests.support.stack import FullStack, stack

MIB = 1024 * 1024
BAR = 8.0


def memory(pid: int, line: str) -> float:
    """A line of `/proc/<pid>/status`, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(row.split()[1]) for row in status.splitlines() if row.startswith(f"{line}:")) / 1024


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what takes longer than a test has patience for."""
    async with asyncio.timeout(10 * PATIENCE):
        while True:
            if await look():
                return
            await asyncio.sleep(0.05)


async def to_matrix(place: FullStack, size: int) -> None:
    """A file of `size` bytes crosses from Discord."""
    before = len(await place.on_matrix("help"))
    place.say("help", "", attachments=[{"filename": "large.bin", "zeros": size}])

    async def arrived() -> bool:
        return len(await place.on_matrix("help")) > before

    await until(arrived)
    content = (await place.on_matrix("help"))[-1].content
    if content.get("info", {}).get("size") != size:
        raise AssertionError(f"it did not cross: {content}")


async def to_discord(place: FullStack, size: int) -> None:
    """A file of `size` bytes crosses from Matrix."""
    before = len(place.on_discord("help"))
    uri = await place.mia.upload(bytes(size), "application/octet-stream", "large.bin")
    await place.mia.send(place.rooms["help"], {"msgtype": "m.file", "body": "large.bin", "url": uri, "info": {}})

    async def arrived() -> bool:
        return len(place.on_discord("help")) > before

    await until(arrived)
    files = place.on_discord("help")[-1]["attachments"]
    if [file["size"] for file in files] != [size]:
        raise AssertionError(f"it did not cross: {files}")


async def measure(size: int) -> bool:
    """Print what both directions take; whether both are within the bar."""
    homeserver = Homeserver(settings={"max_upload_size": f"{2 * size}"})
    within = True
    with tempfile.TemporaryDirectory() as folder:
        async with homeserver, stack(Path(folder), homeserver) as place:
            place.control.set_boost_tier(place.guild, 3)
            await place.daemon.start()
            pid = place.daemon.pid
            for name, cross in (("Discord to Matrix", to_matrix), ("Matrix to Discord", to_discord)):
                await cross(place, 3 * MIB)
                Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
                before, start = memory(pid, "VmRSS"), time.perf_counter()
                await cross(place, size)
                seconds = time.perf_counter() - start
                more = memory(pid, "VmHWM") - before
                within = within and more <= BAR
                print(
                    f"{name}: {size / MIB:.0f} MiB in {seconds:.1f} s; {before:.1f} MiB before, {more:.1f} MiB more at"
                    f" the peak (bar {BAR:.0f}), {memory(pid, 'VmRSS') - before:+.1f} MiB afterwards"
                )
    return within


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=100, help="the file's size")
    return 0 if asyncio.run(measure(parser.parse_args().mib * MIB)) else 1


if __name__ == "__main__":
    sys.exit(main())
