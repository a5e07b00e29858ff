"""The first words: said before the page opens, so that nobody meets two empty rooms."""

from relay.demo.script.runner import ScriptRun, View
from relay.demo.sides.base import OTHER, DisplayedMessage, SideName


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
