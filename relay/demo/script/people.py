"""Lines of the script: people look like people on the other side, and can ask the relay."""

import io
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from PIL import Image, ImageChops, ImageStat

from relay.demo.portraits import portrait
from relay.demo.script.runner import Line, Mismatch, ScriptRun, View, contains, same
from relay.demo.sides.base import DisplayedMessage, Kind, SideName
from relay.demo.sides.matrix import SECOND

_CODE = re.compile(r"!relay link \w+")
_SMALL = (16, 16)
_ALIKE = 12.0
"""How much two small pictures may differ on average, of 255: one may have been reduced and compressed on its way."""


def people() -> Sequence[Line]:
    """In the order in which they are played."""
    return (
        Line("a face", "to_matrix", _face_on_matrix),
        Line("a face", "to_discord", _face_on_discord),
        Line("command, answered privately", "to_matrix", _command_on_discord),
        Line("command, not relayed", "to_discord", _command_on_matrix),
        Line("linked accounts, called", "both", _linked),
    )


async def _face_on_matrix(run: ScriptRun) -> str:
    body = "There you are, all of you."
    await run.say("discord", "jonas", body)
    copy = await run.across("discord", "Jonas", body)
    await _same_face(run, "matrix", copy, "jonas")
    if run.ghosts and copy.author.badge:
        raise Mismatch("it is the bot’s message")
    return "his picture, as an account of his own" if run.ghosts else "his picture, in the message’s profile"


async def _face_on_discord(run: ScriptRun) -> str:
    """The relay stores a new picture at Discord while the words cross, so that the next message has it."""
    for body in ("And there you are.", "Now you see me, too."):
        await run.say("matrix", "yusuf", body)
        copy = await run.across("matrix", "Yusuf", body)
        with suppress(Mismatch):
            await _same_face(run, "discord", await run.until(partial(_with_picture, copy.id)), "yusuf")
            return "his picture, from Discord’s own store of emoji"
    raise Mismatch("there is no picture, or another one")


def _with_picture(message: str, view: View) -> DisplayedMessage:
    found = view.get("discord", message)
    if not found.author.avatar:
        raise Mismatch("there is no picture")
    return found


async def _command_on_discord(run: ScriptRun) -> str:
    contains(await _ask(run, "mira", "/relay whoami"), run.discord.id_of("mira"))
    return "only the one who asked sees it"


async def _command_on_matrix(run: ScriptRun) -> str:
    contains(await _ask_in_room(run, "ines", "!relay status"), "it works")
    return "answered in the room"


async def _linked(run: ScriptRun) -> str:
    """Somebody with an account on either side links the two: who calls one of them calls the other."""
    account, own = run.matrix.id_of(SECOND.key), run.discord.id_of("jonas")
    code = _CODE.search(await _ask(run, "jonas", f"/relay link {account}"))
    if code is None:
        raise Mismatch("there is no code")
    await _ask_in_room(run, SECOND.key, code[0])
    pill = f'<a href="https://matrix.to/#/{account}">{SECOND.name}</a>, bring the horn.'
    words = {"msgtype": "m.text", "body": f"{SECOND.name}, bring the horn.", "m.mentions": {"user_ids": [account]}}
    html = {"format": "org.matrix.custom.html", "formatted_body": pill}
    run.spoken("matrix", await run.matrix.send("ines", words | html))

    def on_discord(view: View) -> DisplayedMessage:
        copy = view.only("discord", "Ines")
        same(copy.body, f"<@{own}>, bring the horn.")
        return copy

    run.take("discord", await run.until(on_discord))
    await run.say("discord", "mira", f"And the lamp, <@{own}>.")

    def on_matrix(view: View) -> DisplayedMessage:
        copy = view.only("matrix", "Mira")
        if copy.raw.get("m.mentions", {}).get("user_ids") != [account]:
            raise Mismatch(f"his account is not called: {copy.raw.get('m.mentions')}")
        return copy

    run.take("matrix", await run.until(on_matrix))
    await _ask(run, "jonas", "/relay unlink")
    return "whichever is called, both are notified"


async def _ask(run: ScriptRun, who: str, command: str) -> str:
    """Use a command on Discord; the private answer."""
    await run.discord.say(who, command)
    return await _answer(run, "discord", "private")


async def _ask_in_room(run: ScriptRun, who: str, command: str) -> str:
    """Write a command in the room; the answer there."""
    run.known.add(("matrix", await run.matrix.say(who, command)))
    return await _answer(run, "matrix", "notice")


async def _answer(run: ScriptRun, side: SideName, kind: Kind) -> str:
    def check(view: View) -> DisplayedMessage:
        answers = view.fresh(side, kind)
        if len(answers) != 1:
            raise Mismatch(f"{len(answers)} answers")
        return answers[0]

    answer = await run.until(check)
    run.take(side, answer)
    return answer.body


async def _same_face(run: ScriptRun, side: SideName, copy: DisplayedMessage, who: str) -> None:
    """Raises `Mismatch` unless a message shows the portrait of a participant."""
    found = await run.side(side).file(copy.author.avatar) if copy.author.avatar else None
    if found is None:
        raise Mismatch("there is no picture")
    seen, expected = (_reduced(data) for data in (found[0], portrait(who)))
    differences = ImageStat.Stat(ImageChops.difference(seen, expected)).mean
    if max(differences) > _ALIKE:
        raise Mismatch("there is another picture")


def _reduced(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB").resize(_SMALL, Image.Resampling.BOX)
