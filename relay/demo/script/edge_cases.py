"""Lines of the script: what does not cross, and what must not do harm."""

from collections.abc import Sequence
from functools import partial

from relay.demo.script.runner import Line, Scene, Unmet, View, contains, quoted
from relay.demo.sides.base import DIRECTION, OTHER, Kind, Seen, SideName
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


async def _bot(scene: Scene) -> str:
    body = "Build 214 passed in 3 min 12 s."
    scene.spoken("discord", scene.discord.say_as_bot(body))
    await scene.across("discord", BOT, body)
    return f"as {BOT}"


async def _hostile_to_matrix(scene: Scene) -> str:
    await scene.say("discord", "jonas", _SCRIPT)
    copy = await scene.across("discord", "Jonas", _SCRIPT)
    for tag in ("<b>", "<img", "<script"):
        if tag in copy.html:
            raise Unmet(f"{tag} got through: {quoted(copy.html)}")
    if copy.raw.get("m.mentions", {}).get("room"):
        raise Unmet("it notifies the whole room")
    return "the same characters, no tag, nobody notified"


async def _hostile_to_discord(scene: Scene) -> str:
    target = next(iter(scene.discord.names()["users"]))
    words = f"@everyone @here <@{target}> <@&{scene.discord.guild.id}> **not bold** ||not hidden||"
    await scene.say("matrix", "yusuf", words)

    def check(view: View) -> Seen:
        copy = view.only("discord", "Yusuf")
        pinged = [key for key in ("mention_everyone", "mentions", "mention_roles") if copy.raw[key]]
        if pinged:
            raise Unmet(f"it pings: {', '.join(pinged)}")
        contains(copy.body, "not bold", "not hidden", "everyone")
        for markup in ("**not bold**", "||not hidden||"):
            if markup in copy.body:
                raise Unmet(f"{markup} became markup")
        return copy

    scene.take("discord", await scene.until(check))
    return "nobody pinged, no markup"


async def _reaction(side: SideName, who: str, target: str, key: str, scene: Scene) -> str:
    original, copy = scene.note(target), scene.note(f"{target} copy")
    before = await scene.daemon.counters()
    await scene.side(side).react(who, original, key)
    await scene.until_dropped(DIRECTION[side], "reaction", 1, before)
    if (await scene.look()).get(OTHER[side], copy).reactions:
        raise Unmet("it stands on the other side")
    return "counted, and not there"


async def _thread(side: SideName, who: str, target: str, scene: Scene) -> str:
    """Two messages in one thread: both are counted, and each side is told once."""
    root, copy = scene.note(target), scene.note(f"{target} copy")
    before = await scene.daemon.counters()
    for body in ("Let us go into this here.", "Nobody over there sees it."):
        scene.known.add((side, await scene.side(side).thread(who, root, body)))
    await scene.until_dropped(DIRECTION[side], "thread", 2, before)

    def check(view: View) -> tuple[Seen, list[Seen]]:
        if view.get(OTHER[side], copy).thread:
            raise Unmet("there is a thread on the other side")
        there = view.fresh(OTHER[side], "notice")
        inside = [reply for reply in view.get(side, root).thread or () if reply.kind == "notice"]
        here = [*inside, *view.fresh(side, "notice")]
        for place, notices in (("there", there), ("here", here)):
            if len(notices) != 1 or "thread" not in notices[0].body.casefold():
                raise Unmet(f"{len(notices)} notices {place}")
        return there[0], here

    told, here = await scene.until(check)
    scene.take(OTHER[side], told)
    scene.take(side, *here)
    return "two messages counted, each side told once"


async def _nothing_else(scene: Scene) -> str:
    """A last message each way: each lane is in order, so whatever came before it has arrived by then."""
    goodbyes: tuple[tuple[SideName, str, str, str], ...] = (
        ("discord", "mira", "Mira", "That was all from our side."),
        ("matrix", "ines", "Ines", "And from ours. See you at high tide!"),
    )
    for side, who, name, body in goodbyes:
        await scene.say(side, who, body)
        await scene.across(side, name, body)
    view = await scene.look()
    # Whoever writes on the page while the script is played is none of its business.
    others = sum(len(view.fresh(side, "person")) for side in view.sides)
    strangers = [seen for side in view.sides for kind in _OURS for seen in view.fresh(side, kind)]
    if len(strangers) > others:
        raise Unmet(f"{len(strangers)} messages too many, the first: {quoted(strangers[0].body)}")
    counted = (await scene.daemon.counters()).messages
    for side, expected in scene.said.items() if not others else ():
        rose = counted.get(DIRECTION[side], 0) - scene.before.messages.get(DIRECTION[side], 0)
        if rose != expected:
            raise Unmet(f"{expected} messages were written, but {rose} are counted {DIRECTION[side].replace('_', ' ')}")
    total = sum(scene.said.values())
    return f"{total} messages written, {total} relayed, nothing else there"
