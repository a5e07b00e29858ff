"""What concerns one pair stops that pair only, shows in the status, and works once it is mended."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.gate import Gate
from tests.support.stack import FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

ABSENT = "1000000000000000001"


async def until_page(place: FullStack, words: str, *, there: bool = True) -> None:
    """Wait until the status page says `words`, or says them no more."""
    await eventually(place.daemon.page, lambda text: (words in text) is there, what=place.daemon.log)


async def until_open(place: FullStack, *channels: str) -> None:
    """Wait until the log says that each channel, new in the file, is open: from then on what is said in it crosses."""

    async def opened() -> list[int]:
        lines = [line for line in place.daemon.log(10_000).splitlines() if '"channel open"' in line]
        return [sum(f'"{channel}"' in line for line in lines) for channel in channels]

    await eventually(opened, lambda seen: min(seen) >= 1, what=place.daemon.log)


async def crosses(place: FullStack, pair: str) -> None:
    """What is said in a pair from now on crosses both ways."""
    number = len(place.on_discord(pair))  # words that nobody has said there before
    place.say(pair, f"to {pair} {number}")
    await place.until_matrix(pair, lambda words: f"to {pair} {number}" in words)
    await place.tell(pair, f"from {pair} {number}")
    await place.until_discord(pair, lambda words: f"from {pair} {number}" in words)


async def test_pairs_that_cannot_work_hold_nobody_up_and_come_back_when_mended(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver, ("fine", "absent", "hidden", "closed", "secret")) as place:
        channel, room = place.channels["absent"], place.rooms["secret"]
        place.channels["absent"] = ABSENT
        place.rooms["closed"] = await place.mia.create_room("closed", public=False)
        place.rooms["secret"] = await place.mia.create_room("secret", encrypted=True, invite=[place.relay_user])
        place.control.set_channel_permissions(place.channels["hidden"], place.bot, deny=["VIEW_CHANNEL"])
        place.write_config()
        await place.daemon.start()
        await crosses(place, "fine")

        expected = {
            "absent": (f"There is no channel {ABSENT}", "correct discord_channel, or invite the bot with https:"),
            "hidden": ("The bot may not see ", "give its role View Channel there, or the bot itself"),
            "closed": (f"{place.relay_user} is not let into {place.rooms['closed']}", "invite it"),
            "secret": (place.rooms["secret"], "make another room without it"),
        }
        for words in expected.values():
            for word in words:
                await until_page(place, word)

        def told(pairs: dict[str, dict[str, Any]]) -> bool:
            problems = {name: pair["problem"] or "" for name, pair in pairs.items()}
            return not problems["fine"] and all(
                word in problems[name] for name, words in expected.items() for word in words
            )

        await place.until_status(told)
        _, printed = await place.daemon.relay("status")
        for words in expected.values():
            assert words[1] in " ".join(printed.split()), printed
        await place.daemon.until_ready()

        # Where somebody gives the relay what it lacks, it notices by itself.
        place.say("closed", "said before the room was open")
        place.control.set_channel_permissions(place.channels["hidden"], place.bot)
        await place.mia.invite(place.rooms["closed"], place.relay_user)
        for pair in ("hidden", "closed"):
            await until_page(place, expected[pair][0], there=False)
            await crosses(place, pair)
        assert (await place.matrix_words("closed"))[0] == "said before the room was open"

        # Where the declaration is wrong, a saved file is enough.
        place.channels["absent"], place.rooms["secret"] = channel, room
        place.write_config()
        for pair, opened in (("absent", channel), ("secret", room)):
            await until_page(place, expected[pair][0], there=False)
            await until_open(place, opened)
            await crosses(place, pair)
        await crosses(place, "fine")
        await place.until_status(lambda pairs: not any(pair["problem"] for pair in pairs.values()))


async def test_a_channel_and_a_room_that_are_lost_later(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, ("fine", "hidden", "kicked", "deleted")) as place:
        await place.daemon.start()
        for pair in place.channels:
            await crosses(place, pair)
        place.control.set_channel_permissions(place.channels["hidden"], place.bot, deny=["VIEW_CHANNEL"])
        await place.mia.kick(place.rooms["kicked"], place.relay_user)
        place.control.delete_channel(place.channels["deleted"])
        for words in ("give its role View Channel there", "invite it again", "correct discord_channel"):
            await until_page(place, words)
        await place.tell("hidden", "said to the hidden channel")
        place.say("hidden", "said in the hidden channel")
        place.say("kicked", "said to the closed room")
        await place.tell("kicked", "said in the closed room")
        await crosses(place, "fine")

        place.control.set_channel_permissions(place.channels["hidden"], place.bot)
        await place.mia.invite(place.rooms["kicked"], place.relay_user)
        place.channels["deleted"] = place.control.create_channel(place.guild, "made-anew")["id"]
        place.write_config()
        await place.until_discord("hidden", lambda words: "said to the hidden channel" in words)
        await place.until_matrix("hidden", lambda words: "said in the hidden channel" in words)
        await place.until_matrix("kicked", lambda words: "said to the closed room" in words)
        await until_page(place, "correct discord_channel", there=False)
        for pair in ("hidden", "kicked", "deleted"):
            await place.tell(pair, "and on it goes")
            await place.until_discord(pair, lambda words: "and on it goes" in words)


async def test_pairs_are_added_and_removed_without_a_restart(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, ("one", "two")) as place:
        place.write_config(pairs=["one"])
        await place.daemon.start()
        await crosses(place, "one")
        place.say("two", "before it was declared")

        place.write_config()
        await until_named(place, "two", there=True)
        await until_open(place, place.channels["two"], place.rooms["two"])
        await crosses(place, "two")
        assert "before it was declared" not in await place.matrix_words("two")

        place.write_config(pairs=["two"])
        await until_named(place, "one", there=False)
        place.say("one", "into the void")
        await place.tell("one", "into the void, too")
        await crosses(place, "two")

        good = place.daemon.config.read_text()
        place.daemon.config.write_text(good.replace("[[pairs]]", "[[pears]]"))
        await until_logged(place, "configuration refused; the pairs stay as they are", "did you mean [[pairs]]?")
        place.daemon.config.write_text("[[pairs")
        await until_logged(place, "configuration refused", "is not valid TOML")
        # The process that reads is killed, while it waits for a secret in a pipe that nobody writes into.
        os.mkfifo(tmp_path / "pipe")
        place.write_config(pairs=["two"], extra='token_file = "pipe"')
        os.kill(await reader_of(place.daemon.pid), signal.SIGKILL)
        await until_logged(place, "configuration refused", "reading it ended early (SIGKILL)")
        place.say("two", "still here")
        await place.until_matrix("two", lambda words: "still here" in words)
        assert "into the void" not in await place.matrix_words("one")
        assert "into the void, too" not in await place.discord_words("one")
        # Mended, it says what it said before: nobody could tell whether the daemon had seen that.
        place.write_config(pairs=["two"])
        await until_logged(place, "configuration read again", '"pairs": 1')

        # Whichever is noticed first, the signal or the file.
        place.write_config()
        place.daemon.send_signal(signal.SIGHUP)
        await until_logged(place, "configuration read again", '"pairs": 2')
        await until_named(place, "one", there=True)
        await until_open(place, place.channels["one"], place.rooms["one"])
        await place.tell("one", "back again")
        await place.until_discord("one", lambda words: "back again" in words)
        place.say("one", "back, too")
        await place.until_matrix("one", lambda words: "back, too" in words)
        assert "into the void" not in await place.matrix_words("one")
        assert "into the void, too" not in await place.discord_words("one")


async def test_two_pairs_swap_their_names_while_messages_wait(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, ("staff", "public")) as place, Gate(homeserver.url) as gate:
        place.channels = {"public": place.channels["public"], "staff": place.channels["staff"]}
        config = place.write_config()
        config.write_text(config.read_text().replace(homeserver.url, gate.url))
        await place.daemon.start()
        for pair in place.channels:
            await crosses(place, pair)
        await gate.shut()
        secrets = [f"secret {number}" for number in range(3)]
        for words in secrets:
            place.say("staff", words)
        await place.until_metric("relay_outbox_depth", 3, pair="staff", direction="to_matrix")

        swapped = config.read_text()
        for name, other in (("staff", "-"), ("public", "staff"), ("-", "public")):
            swapped = swapped.replace(f'name = "{name}"', f'name = "{other}"')
        config.write_text(swapped)
        place.daemon.send_signal(signal.SIGHUP)
        # Renamed at once: what waits for the staff is under the name that its pair has now.
        await place.until_metric("relay_outbox_depth", 3, pair="public", direction="to_matrix")
        await gate.open()
        await place.until_matrix("staff", lambda words: words[-3:] == secrets)
        place.say("public", "last")
        await place.until_matrix("public", lambda words: "last" in words)
        assert not any("secret" in words for words in await place.matrix_words("public"))
        # It is counted once it is on record, which is after it can be seen.
        await place.until_metric("relay_messages_total", 4, pair="public", direction="to_matrix")
        assert await place.daemon.metric("relay_messages_total", pair="public", direction="to_matrix") == 4


async def until_named(place: FullStack, pair: str, *, there: bool) -> None:
    """Wait until the status page shows a pair, or does not any more, and all that it shows is connected."""

    async def page() -> bool:
        _, text = await place.daemon.get("/metrics")
        return f'pair="{pair}"' in text

    await eventually(page, lambda shown: shown is there, what=place.daemon.log)
    await place.daemon.until_ready()


async def reader_of(process: int) -> int:
    """Wait until a daemon has a process that reads its configuration; the ID of that."""

    async def readers() -> list[str]:
        found = []
        for thread in Path(f"/proc/{process}/task").glob("*/children"):
            for child in thread.read_text().split():
                with suppress(FileNotFoundError, ProcessLookupError):
                    if b"relay.config.child" in Path(f"/proc/{child}/cmdline").read_bytes():
                        found.append(child)
        return found

    return int((await eventually(readers, bool))[0])


async def until_logged(place: FullStack, *words: str) -> None:
    """Wait for one log line with all these words."""

    async def lines() -> list[str]:
        return [line for line in place.daemon.log(10_000).splitlines() if all(word in line for word in words)]

    await eventually(lines, bool, what=place.daemon.log)
