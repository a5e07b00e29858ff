"""The first words: said before the page opens, so that nobody meets two empty rooms."""

from collections.abc import Sequence

from relay.demo.script.runner import Mismatch, ScriptRun, View
from relay.demo.sides.base import OTHER, DisplayedMessage, SideName


async def introduce(run: ScriptRun) -> None:
    """Everybody on Matrix says a word and takes it back. Raises `Mismatch`.

    A message does not wait for its author's picture: the first one crosses while that is on its way to Discord.
    """
    await run.begin()
    said = [(one.key, await run.say("matrix", one.key, "Hello!")) for one in run.matrix.participants]

    def arrived(view: View) -> Sequence[DisplayedMessage]:
        copies = view.fresh("discord", "copy")
        if len(copies) < len(said) or len(run.discord.app.emojis) < len(said):
            raise Mismatch(f"{len(copies)} copies and {len(run.discord.app.emojis)} pictures are there")
        return copies

    copies = await run.until(arrived)
    for who, message in said:
        await run.matrix.delete(who, message)
    await run.until(lambda view: view.absent("discord", [copy.id for copy in copies]))


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
