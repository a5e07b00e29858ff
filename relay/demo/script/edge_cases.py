"""Lines of the script: what does not cross, and what must not do harm."""

from collections.abc import Sequence
from functools import partial

from relay.demo.script.runner import Line, Mismatch, ScriptRun, View, contains, quoted
from relay.demo.sides.base import DIRECTION, OTHER, DisplayedMessage, Kind, SideName
from relay.demo.sides.discord import BOT

_OURS: tuple[Kind, ...] = ("copy", "notice")
_SCRIPT = "<b>not bold</b> <img src=x onerror=alert(1)> <script>alert(1)</script> @room"


def edges() -> Sequence[Line]:
    """In the order in which they are played."""
    return (
        Line("a bot’s message", "to_matrix", _bot),
        Line("hostile HTML is inert", "to_matrix", _hostile_to_matrix),
        Line("hostile pings are inert", "to_discord", _hostile_to_discord),
        Line("reaction, dropped", "to_matrix", partial(_reaction, "discord", "jonas", "morning", "🎉")),
        Line("reaction, dropped", "to_discord", partial(_reaction, "matrix", "yusuf", "clear", "👍")),
        Line("thread, dropped", "to_matrix", partial(_thread, "discord", "jonas", "morning")),
        Line("thread, dropped", "to_discord", partial(_thread, "matrix", "yusuf", "clear")),
        Line("own echoes, not relayed", "both", _nothing_else),
    )


async def _bot(run: ScriptRun) -> str:
    body = "Build 214 passed in 3 min 12 s."
    run.spoken("discord", run.discord.say_as_bot(body))
    await run.across("discord", BOT, body)
    return f"as {BOT}"


async def _hostile_to_matrix(run: ScriptRun) -> str:
    await run.say("discord", "jonas", _SCRIPT)
    copy = await run.across("discord", "Jonas", _SCRIPT)
    for tag in ("<b>", "<img", "<script"):
        if tag in copy.html:
            raise Mismatch(f"{tag} got through: {quoted(copy.html)}")
    if copy.raw.get("m.mentions", {}).get("room"):
        raise Mismatch("it notifies the whole room")
    return "the same characters, no tag, nobody notified"


async def _hostile_to_discord(run: ScriptRun) -> str:
    target = next(iter(run.discord.names()["users"]))
    words = f"@everyone @here <@{target}> <@&{run.discord.guild.id}> **not bold** ||not hidden||"
    await run.say("matrix", "yusuf", words)

    def check(view: View) -> DisplayedMessage:
        copy = view.only("discord", "Yusuf")
        pinged = [key for key in ("mention_everyone", "mentions", "mention_roles") if copy.raw[key]]
        if pinged:
            raise Mismatch(f"it pings: {', '.join(pinged)}")
        contains(copy.body, "not bold", "not hidden", "everyone")
        for markup in ("**not bold**", "||not hidden||"):
            if markup in copy.body:
                raise Mismatch(f"{markup} became markup")
        return copy

    run.take("discord", await run.until(check))
    return "nobody pinged, no markup"


async def _reaction(side: SideName, who: str, target: str, key: str, run: ScriptRun) -> str:
    original, copy = run.note(target), run.note(f"{target} copy")
    before = await run.daemon.counters()
    await run.side(side).react(who, original, key)
    await run.until_dropped(DIRECTION[side], "reaction", 1, before)
    if (await run.look()).get(OTHER[side], copy).reactions:
        raise Mismatch("it stands on the other side")
    return "counted, and not there"


async def _thread(side: SideName, who: str, target: str, run: ScriptRun) -> str:
    """Two messages in one thread: both are counted, and each side is told once."""
    root, copy = run.note(target), run.note(f"{target} copy")
    before = await run.daemon.counters()
    for body in ("Let us go into this here.", "Nobody over there sees it."):
        run.known.add((side, await run.side(side).thread(who, root, body)))
    await run.until_dropped(DIRECTION[side], "thread", 2, before)

    def check(view: View) -> tuple[DisplayedMessage, list[DisplayedMessage]]:
        if view.get(OTHER[side], copy).thread:
            raise Mismatch("there is a thread on the other side")
        there = view.fresh(OTHER[side], "notice")
        inside = [reply for reply in view.get(side, root).thread or () if reply.kind == "notice"]
        here = [*inside, *view.fresh(side, "notice")]
        for place, notices in (("there", there), ("here", here)):
            if len(notices) != 1 or "thread" not in notices[0].body.casefold():
                raise Mismatch(f"{len(notices)} notices {place}")
        return there[0], here

    told, here = await run.until(check)
    run.take(OTHER[side], told)
    run.take(side, *here)
    return "two messages counted, each side told once"


async def _nothing_else(run: ScriptRun) -> str:
    """A last message each way: a lane keeps the order, so that everything before it has arrived by then."""
    goodbyes: tuple[tuple[SideName, str, str, str], ...] = (
        ("discord", "mira", "Mira", "That was all from our side."),
        ("matrix", "ines", "Ines", "And from ours. See you at high tide!"),
    )
    for side, who, name, body in goodbyes:
        await run.say(side, who, body)
        await run.across(side, name, body)
    view = await run.look()
    # What people write on the page while the script is played is ignored.
    others = sum(len(view.fresh(side, "person")) for side in view.sides)
    strangers = [seen for side in view.sides for kind in _OURS for seen in view.fresh(side, kind)]
    if len(strangers) > others:
        raise Mismatch(f"{len(strangers)} messages too many, the first: {quoted(strangers[0].body)}")
    counted = (await run.daemon.counters()).messages
    for side, expected in run.said.items() if not others else ():
        rose = counted.get(DIRECTION[side], 0) - run.before.messages.get(DIRECTION[side], 0)
        if rose != expected:
            raise Mismatch(
                f"{expected} messages were written, but {rose} are counted {DIRECTION[side].replace('_', ' ')}"
            )
    total = sum(run.said.values())
    return f"{total} messages written, {total} relayed, nothing else there"
