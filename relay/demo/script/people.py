"""Lines of the script: people look like people on the other side, and can ask the relay."""

import io
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageStat

from relay.demo.portraits import portrait
from relay.demo.script.runner import Line, Mismatch, ScriptRun, View, contains
from relay.demo.sides.base import DisplayedMessage, SideName

_SMALL = (16, 16)
_ALIKE = 12.0
"""How much two small pictures may differ on average, of 255: one may have been reduced and compressed on its way."""


def people() -> Sequence[Line]:
    """In the order in which they are played."""
    return (
        Line("a face", "to_matrix", _face_on_matrix),
        Line("command, answered privately", "to_matrix", _command_on_discord),
    )


async def _face_on_matrix(run: ScriptRun) -> str:
    body = "There you are, all of you."
    await run.say("discord", "jonas", body)
    copy = await run.across("discord", "Jonas", body)
    await _same_face(run, "matrix", copy, "jonas")
    return "his picture, in the message’s profile"


async def _command_on_discord(run: ScriptRun) -> str:
    await run.discord.say("mira", "/relay whoami")

    def check(view: View) -> DisplayedMessage:
        answers = view.fresh("discord", "private")
        if len(answers) != 1:
            raise Mismatch(f"{len(answers)} answers")
        contains(answers[0].body, run.discord.id_of("mira"))
        return answers[0]

    run.take("discord", await run.until(check))
    return "only the one who asked sees it"


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
