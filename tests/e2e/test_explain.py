"""`relay explain` beside a running daemon: a message of either side, by its link or its ID, or that of its copy."""

import json
from typing import Any

import pytest

from tests.support.stack import FullStack, eventually
from tests.support.terminal import terminal

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_life_of_a_message_from_either_side(help_stack: FullStack) -> None:
    daemon, channel = help_stack.daemon, help_stack.channels["help"]

    async def explained(message: str) -> list[dict[str, Any]]:
        status, output = await daemon.relay("explain", message, "--json")
        assert status == 0, output
        found: list[dict[str, Any]] = json.loads(output)["messages"]
        return found

    def has_crossed(messages: list[dict[str, Any]]) -> bool:
        return [one["summary"] for one in messages] == ["It has crossed."]

    original = help_stack.say("help", "hello from Discord")
    await help_stack.until_matrix("help", lambda words: words == ["hello from Discord"])
    copy = (await help_stack.on_matrix("help"))[0].event_id
    link = f"https://discord.com/channels/{help_stack.guild}/{channel}/{original}"
    # Its copy can be seen before it is on record, and so can the channel's link.
    by_id = await eventually(
        lambda: explained(original), lambda found: has_crossed(found) and found[0]["link"] is not None, what=daemon.log
    )
    (found,) = by_id
    assert by_id == await explained(link) == await explained(copy)
    assert by_id == await explained(f"https://matrix.to/#/{help_stack.rooms['help']}/{copy}")
    assert (found["link"], found["pair"]) == (link, "help")
    assert [step["what"] for step in found["steps"]] == [
        "was written on Discord",
        "was received and queued",
        "was sent to Matrix",
    ]
    assert found["steps"][2]["copy"]["id"] == copy
    assert found["steps"][1]["at"] <= found["steps"][2]["at"]

    event = await help_stack.tell("help", "hello from Matrix")
    words = await help_stack.until_discord("help", lambda words: len(words) == 2)
    await eventually(lambda: explained(event), has_crossed, what=daemon.log)
    status, output = await daemon.relay("explain", event)
    assert status == 0, output
    assert f"was sent to Discord as {help_stack.on_discord('help')[1]['id']}" in output
    assert words[1] not in output


async def test_what_a_terminal_shows_fits_and_says_who_wrote_it(help_stack: FullStack) -> None:
    """It called authors by their IDs, and its links were wider than the terminal."""
    original = help_stack.say("help", "hello from Discord")
    event = await help_stack.tell("help", "hello from Matrix")
    await help_stack.until_matrix("help", lambda words: "hello from Discord" in words)
    await help_stack.until_discord("help", lambda words: "hello from Matrix" in words)
    config = str(help_stack.daemon.config)
    for message, author in ((original, "Ada"), (event, "Mia")):
        async with terminal("explain", message, "--config", config, folder=help_stack.folder) as screen:
            await screen.ended()
            told = screen.text
        assert f"by {author} (" in " ".join(told.split()), told
        assert max(map(len, told.split("\n"))) <= 80, told
    # Whole where it is no terminal.
    assert (
        f"https://matrix.to/#/{help_stack.rooms['help']}/{event}"
        in (await help_stack.daemon.relay("explain", event))[1]
    )


async def test_what_waits_while_a_pair_is_paused_says_so(help_stack: FullStack) -> None:
    """It said only that it waited as the next one."""
    daemon, channel = help_stack.daemon, help_stack.channels["help"]
    original = help_stack.say("help", "hello")
    await help_stack.until_matrix("help", lambda words: words == ["hello"])
    status, output = await daemon.relay("pairs", "pause", "help")
    assert status == 0, output
    await help_stack.until_status(lambda pairs: "Paused" in str(pairs["help"]["note"]))
    help_stack.control.edit(channel, original, content="hello again")

    async def explained() -> str:
        return (await daemon.relay("explain", original))[1]

    wanted = "for its copies to be edited, as the next one. Paused: nothing crosses until `relay pairs resume`."
    await eventually(explained, lambda said: wanted in said, what=daemon.log)
