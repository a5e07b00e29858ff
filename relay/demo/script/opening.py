"""The first words: said before the page opens, so that nobody meets two empty rooms."""

from functools import partial

from relay.demo.script.runner import Mismatch, ScriptRun, View
from relay.demo.sides.base import OTHER, DisplayedMessage, SideName

_SIDES: tuple[SideName, ...] = ("discord", "matrix")


async def introduce(run: ScriptRun) -> None:
    """Everybody says a word and takes it back. Raises `Mismatch`.

    A message does not wait for its author's picture: the first one crosses while that is on its way to Discord. And a
    ghost is made when it first has something to say.
    """
    await run.begin()
    said = [
        (run.side(side), one.key, await run.say(side, one.key, "Hello!"))
        for side in _SIDES
        for one in run.side(side).participants
    ]

    def arrived(view: View) -> dict[SideName, list[DisplayedMessage]]:
        copies = {side: view.fresh(side, "copy") for side in _SIDES}
        there = sum(map(len, copies.values()))
        pictures = len(run.discord.app.emojis)
        if there < len(said) or pictures < len(run.matrix.participants):
            raise Mismatch(f"{there} copies and {pictures} pictures are there")
        return copies

    copies = await run.until(arrived)
    for side, who, message in said:
        await side.delete(who, message)
    for name, gone in copies.items():
        await run.until(partial(View.absent, side=name, messages=[copy.id for copy in gone]))


async def opening(run: ScriptRun) -> None:
    """Three messages that people write and the daemon carries across, like all others. Raises `Mismatch`."""
    await run.begin()
    asked = await _across(run, "discord", "mira", "High tide is at six. Who is coming along?")
    await _across(run, "matrix", "ines", "I am! You are on Discord and I am on Matrix, by the way.", asked)
    await _across(run, "discord", "jonas", "Same room, two apps. **Write something below, on either side.**")


async def _across(run: ScriptRun, side: SideName, who: str, body: str, reply_to: str | None = None) -> str:
    """Say something and wait for its copy; the copy's ID."""
    await run.say(side, who, body, reply_to=reply_to)
    name = next(one.name for one in run.side(side).participants if one.key == who)

    def check(view: View) -> DisplayedMessage:
        return view.only(OTHER[side], name)

    copy = await run.until(check)
    run.take(OTHER[side], copy)
    return copy.id
