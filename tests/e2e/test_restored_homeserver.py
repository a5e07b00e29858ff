"""A homeserver that is restored from a backup counts its events anew: the relay notices, and no message is skipped."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from relay.demo.homeserver import Homeserver
from relay.sandbox.rate_limits import Limits
from tests.support.homeserver import ForkedHomeserver
from tests.support.stack import FullStack, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


def back_up(homeserver: Homeserver, backup: Path) -> None:
    """Copy its database, as an operator would: while it runs."""
    source, copy = sqlite3.connect(homeserver.directory / "homeserver.db"), sqlite3.connect(backup)
    source.backup(copy)
    source.close()
    copy.close()


async def restore(homeserver: Homeserver, backup: Path) -> None:
    """Put the copy in the place of its database."""
    await homeserver.kill()
    for path in homeserver.directory.glob("homeserver.db*"):
        path.unlink()
    shutil.copy(backup, homeserver.directory / "homeserver.db")
    await homeserver.start()


async def told_of_restores(place: FullStack) -> int:
    """How often the daemon has said in its log that the homeserver was restored."""
    return place.daemon.log(1_000_000).count("it was restored from a backup")


async def test_nothing_is_skipped_or_doubled_and_lost_copies_block_nothing(tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    limits = Limits(factor=0)
    async with (
        ForkedHomeserver(tmp_path / "homeserver") as homeserver,
        stack(tmp_path, homeserver, limits=limits) as place,
    ):
        await place.daemon.start()
        place.say("help", "kept")
        await place.until_matrix("help", lambda words: words == ["kept"])
        await place.tell("help", "known")
        await place.until_discord("help", lambda words: words == ["kept", "known"])
        back_up(homeserver, backup)
        edited, deleted, answered = (place.say("help", word) for word in ("edited", "deleted", "answered"))
        await place.until_matrix("help", lambda words: words[2:] == ["edited", "deleted", "answered"])
        lost = [f"lost {number}" for number in range(5)]
        for word in lost:
            await place.tell("help", word)
        await place.until_discord("help", lambda words: words[-1] == lost[-1])

        # The daemon lives on, and people go on with what the homeserver has lost.
        await restore(homeserver, backup)
        live = [f"live {number}" for number in range(3)]
        for word in live:
            await place.tell("help", word)
        place.control.edit(place.channels["help"], edited, "changed")
        place.control.delete(place.channels["help"], deleted)
        await place.until_discord("help", lambda words: words[-1] == live[-1])
        place.say("help", "an answer", reply_to=answered)
        before = ["kept", "known", "changed", "answered", *lost, *live, "an answer"]
        await place.until_matrix("help", lambda words: words == ["kept", "known", *live, "an answer"])
        assert await place.discord_words("help") == before
        assert await told_of_restores(place) == 1
        await place.until_status(lambda pairs: "was restored from a backup" in str(pairs["help"]["note"]))
        assert await place.daemon.stop() == 0

        # Restored while it is stopped, and then more is said than was lost: the homeserver's count is beyond the token.
        await restore(homeserver, backup)
        missed = [f"missed {number}" for number in range(30)]
        for word in missed:
            await place.tell("help", word)
        await place.daemon.start()
        await place.until_discord("help", lambda words: words[-1] == missed[-1])
        place.say("help", "behind it")
        await place.until_matrix("help", lambda words: words == ["kept", "known", *missed, "behind it"])
        assert await place.discord_words("help") == [*before, *missed, "behind it"]
        assert await told_of_restores(place) == 2

        # A start like any other is none.
        assert await place.daemon.stop() == 0
        await place.tell("help", "while it was away")
        await place.daemon.start()
        await place.until_discord("help", lambda words: words[-1] == "while it was away")
        assert await told_of_restores(place) == 2
