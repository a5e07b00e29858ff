"""A backup restored onto a new machine: nothing doubled, nothing lost, and edits still reach the copies."""

import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.stack import Daemon, FullStack, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def new_machine(place: FullStack, backup: Path) -> Daemon:
    """Another folder with the same settings and the restored store."""
    folder = place.folder / "new"
    folder.mkdir()
    config = folder / "relay.toml"
    config.write_text(place.daemon.config.read_text().replace(f"{place.folder}/relay.db", f"{folder}/relay.db"))
    daemon = Daemon(config, folder / "relay.log")
    status, output = await daemon.relay("db", "restore", str(backup))
    assert status == 0, output
    return daemon


async def test_a_backup_on_a_new_machine_doubles_nothing(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        await place.daemon.start()
        await place.talk("one")
        await place.crossed("one")
        # The daemon goes on meanwhile.
        status, output = await place.daemon.relay("db", "backup", str(tmp_path / "backup.db"))
        assert (status, output.strip()) == (0, str(tmp_path / "backup.db"))
        # What the backup does not know: the same words twice, an edited message, one in several parts.
        await place.talk("two", "two", "three")
        await place.crossed("one", "two", "two", "three")
        first = await place.tell("help", "m fore")
        answer = place.say("help", "d fore")
        await place.crossed("one", "two", "two", "three", "fore")
        await place.mia.edit(place.rooms["help"], first, "m four")
        place.control.edit(place.channels["help"], answer, "d four")
        await place.crossed("one", "two", "two", "three", "four")
        long = " ".join(f"word-{number}" for number in range(700))
        await place.tell("help", f"m {long}")
        await place.talk("five")
        await place.until_matrix("help", lambda seen: "d five" in seen)
        await place.until_discord("help", lambda seen: "m five" in seen)
        before = await place.matrix_words("help"), await place.discord_words("help")
        assert await place.daemon.stop() == 0
        shutil.move(tmp_path / "relay.db", tmp_path / "lost.db")
        # Nobody was there.
        await place.talk("six")
        place.daemon = await new_machine(place, tmp_path / "backup.db")
        await place.daemon.start()
        await place.talk("seven")
        await place.until_matrix("help", lambda seen: "d seven" in seen)
        await place.until_discord("help", lambda seen: "m seven" in seen)
        after = await place.matrix_words("help"), await place.discord_words("help")
        assert sorted(after[0]) == sorted([*before[0], "d six", "m six", "d seven", "m seven"])
        assert sorted(after[1]) == sorted([*before[1], "d six", "m six", "d seven", "m seven"])
        # The copies that were found are on record.
        await place.mia.edit(place.rooms["help"], first, "m four, again")
        place.control.edit(place.channels["help"], answer, "d four, again")
        await place.until_discord("help", lambda seen: "m four, again" in seen)
        await place.until_matrix("help", lambda seen: "d four, again" in seen)
        await place.until_status(lambda pairs: pairs["help"]["problem"] is None)


async def test_a_backup_sends_nothing_again_at_its_later_starts(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        old = place.daemon
        await old.start()
        await place.talk("one")
        await place.crossed("one")
        assert await old.stop() == 0
        status, output = await old.relay("db", "backup", str(tmp_path / "backup.db"))
        assert status == 0, output
        new = await new_machine(place, tmp_path / "backup.db")
        await new.start()
        await place.talk("two")
        await place.crossed("one", "two")
        assert await new.stop() == 0
        # The old machine has the pair for a while, and leaves word of how far it has read.
        await old.start()
        await place.talk("three")
        await place.crossed("one", "two", "three")
        assert await old.stop() == 0
        # The first start is hours ago: what is said now is not looked for any more before it is sent.
        with closing(sqlite3.connect(tmp_path / "new" / "relay.db", isolation_level=None)) as store:
            earlier = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
            store.execute("UPDATE notebook SET value = ? WHERE name = 'restored gap'", (f"{earlier} {earlier}",))
        place.daemon = new
        await new.start()
        await place.talk("four")
        await place.crossed("one", "two", "three", "four")
