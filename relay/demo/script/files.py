"""Lines of the script: files, stickers and custom emoji."""

import base64
import re
from collections.abc import Sequence
from functools import partial

import aiohttp

from relay.demo import sample_files
from relay.demo.sample_files import SampleFile, sample_file
from relay.demo.script.runner import Line, Mismatch, ScriptRun, View, contains
from relay.demo.sides.base import OTHER, DisplayedMessage, File, OutgoingFile, SideName
from relay.domain.content import MediaKind
from relay.domain.jsontext import Json

_MAP_SHOWS = "A map: from the old pier along a dashed line out to sea"
_TIDES = SampleFile("tide-table.txt", b"06:12  4.1 m\n12:25  0.9 m\n18:37  4.3 m\n")
_LOUDEST = 1024
_TOO_MANY = 11 << 12  # 11 MiB in pieces of 256 bytes; Discord takes 10
_LINK = re.compile(r"http://127\.0\.0\.1:\d+/media/[^\s<>()]+")


def files() -> Sequence[Line]:
    """In the order in which they are played."""
    return (
        Line("picture, caption, description", "to_matrix", _picture),
        Line("hidden picture", "to_discord", _hidden_picture),
        Line("three files in one message", "to_matrix", _three_files),
        Line("film", "to_discord", _film),
        Line("voice message", "to_matrix", _voice_to_matrix),
        Line("voice message", "to_discord", _voice_to_discord),
        Line("any other file", "to_discord", _any_file),
        Line("a file too large for Discord", "to_discord", _too_large),
        Line("custom emoji, moving too", "to_matrix", _emoji_to_matrix),
        Line("custom emoji", "to_discord", _emoji_to_discord),
        Line("sticker that moves", "to_matrix", partial(_sticker, "discord", "Jonas")),
        Line("sticker", "to_discord", partial(_sticker, "matrix", "Yusuf")),
    )


async def _arrive(
    run: ScriptRun, side: SideName, name: str, *expected: tuple[MediaKind, SampleFile]
) -> list[DisplayedMessage]:
    """Wait for copies under a name with exactly these files, byte for byte."""

    def check(view: View) -> list[DisplayedMessage]:
        copies = view.fresh(side, "copy", name)
        there = [file.kind for copy in copies for file in copy.files]
        if there != [kind for kind, _ in expected]:
            raise Mismatch(f"there are {', '.join(there) or 'no files'}" if copies else "nothing has arrived")
        return copies

    copies = await run.until(check)
    run.take(side, *copies)
    for file, (_, sent) in zip(_files(copies), expected, strict=True):
        found = await run.side(side).file(file.source)
        if found is None or found[0] != sent.data:
            raise Mismatch(f"{file.name} is not the same file")
    return copies


def _files(copies: Sequence[DisplayedMessage]) -> list[File]:
    return [file for copy in copies for file in copy.files]


async def _picture(run: ScriptRun) -> str:
    chart, caption = sample_file("harbour-map.png"), "The way out, for **Saturday**."
    run.spoken("discord", run.discord.show("jonas", caption, attachments=[chart.upload(description=_MAP_SHOWS)]))
    (copy,) = await _arrive(run, "matrix", "Jonas", ("image", chart))
    contains(copy.html, "<strong>Saturday</strong>", _MAP_SHOWS)
    (file,) = copy.files
    if (file.width, file.height) != (640, 400):
        raise Mismatch(f"it measures {file.width} × {file.height}")
    return f"{file.name}, {file.width} × {file.height}"


async def _hidden_picture(run: ScriptRun) -> str:
    sunset = sample_file("sunset.jpg")
    content = await _content(run, "ines", sunset, "m.image", {"w": 640, "h": 400}, "How last Saturday ended.")
    spoiler = {"page.codeberg.everypizza.msc4193.spoiler": True}
    run.spoken("matrix", await run.matrix.send("ines", content | spoiler))
    (copy,) = await _arrive(run, "discord", "Ines", ("image", sunset))
    if not copy.files[0].spoiler:
        raise Mismatch("it is not hidden")
    contains(copy.body, "How last Saturday ended.")
    return copy.files[0].name


async def _three_files(run: ScriptRun) -> str:
    sent = (sample_file("sunset.jpg", "SPOILER_last-time.jpg"), sample_file("waves.webm"), _TIDES)
    width, height = sample_files.FILM_SIZE
    film = sent[1].upload(width=width, height=height, duration_secs=sample_files.FILM_SECONDS)
    attachments = [sent[0].upload(), film, sent[2].upload()]
    message = run.discord.show("mira", "What you need to know about the sea:", attachments=attachments)
    run.spoken("discord", message)
    copies = await _arrive(run, "matrix", "Mira", ("image", sent[0]), ("video", sent[1]), ("file", sent[2]))
    hidden, moving, _ = _files(copies)
    if not hidden.spoiler or moving.duration != sample_files.FILM_SECONDS:
        raise Mismatch("the first is not hidden" if not hidden.spoiler else f"the film lasts {moving.duration} s")
    contains(copies[0].body, "What you need to know about the sea:")
    return "three messages in a row, the first one hidden"


async def _film(run: ScriptRun) -> str:
    film = sample_file("waves.webm", "out-there.webm")
    width, height = sample_files.FILM_SIZE
    info = {"w": width, "h": height, "duration": round(sample_files.FILM_SECONDS * 1000)}
    content = await _content(run, "yusuf", film, "m.video", info, "Out there right now:")
    run.spoken("matrix", await run.matrix.send("yusuf", content))
    (copy,) = await _arrive(run, "discord", "Yusuf", ("video", film))
    contains(copy.body, "Out there right now:")
    return copy.files[0].name


async def _voice_to_matrix(run: ScriptRun) -> str:
    voice = sample_file("voice.ogg", "voice-message.ogg")
    waveform = base64.b64encode(sample_files.WAVEFORM).decode()
    upload = voice.upload(duration_secs=sample_files.VOICE_SECONDS, waveform=waveform)
    run.spoken("discord", run.discord.show("mira", attachments=[upload], raw={"flags": 1 << 13}))
    (copy,) = await _arrive(run, "matrix", "Mira", ("voice", voice))
    (file,) = copy.files
    if (file.duration, len(file.waveform)) != (sample_files.VOICE_SECONDS, len(sample_files.WAVEFORM)):
        raise Mismatch(f"it lasts {file.duration} s and has {len(file.waveform)} moments")
    return f"a voice message of {file.duration} s with its waveform"


async def _voice_to_discord(run: ScriptRun) -> str:
    voice = sample_file("voice.ogg", "Voice message.ogg")
    duration = round(sample_files.VOICE_SECONDS * 1000)
    waveform = [byte * _LOUDEST // 255 for byte in sample_files.WAVEFORM]
    content = await _content(run, "yusuf", voice, "m.audio", {"duration": duration})
    sound = {"org.matrix.msc3245.voice": {}, "org.matrix.msc1767.audio": {"duration": duration, "waveform": waveform}}
    run.spoken("matrix", await run.matrix.send("yusuf", content | sound))
    (copy,) = await _arrive(run, "discord", "Yusuf", ("audio", voice))
    return f"{copy.files[0].name}, to be played there"


async def _any_file(run: ScriptRun) -> str:
    run.spoken("matrix", await run.matrix.attach("ines", [OutgoingFile(_TIDES.name, _TIDES.data, _TIDES.content_type)]))
    (copy,) = await _arrive(run, "discord", "Ines", ("file", _TIDES))
    return copy.files[0].name


async def _too_large(run: ScriptRun) -> str:
    logbook = OutgoingFile("logbook.bin", bytes(range(256)) * _TOO_MANY, "application/octet-stream")
    run.spoken("matrix", await run.matrix.attach("yusuf", [logbook], "All of our soundings:"))

    def check(view: View) -> tuple[DisplayedMessage, str]:
        copy = view.only("discord", "Yusuf")
        contains(copy.body, "All of our soundings:", "logbook.bin")
        link = _LINK.search(copy.body)
        if copy.files or link is None:
            raise Mismatch(f"no link, but {copy.body}")
        return copy, link[0]

    copy, link = await run.until(check)
    run.take("discord", copy)
    async with aiohttp.ClientSession() as anybody, anybody.get(link) as answer:
        if await answer.read() != logbook.data:
            raise Mismatch(f"the link leads to something else ({answer.status})")
    return "a link that anybody can open"


async def _emoji_to_matrix(run: ScriptRun) -> str:
    still, moving = (run.discord.emoji[name].id for name in ("crab", "crabdance"))
    await run.say("discord", "mira", f"Crab cakes for everybody <:crab:{still}> <a:crabdance:{moving}>")

    def check(view: View) -> DisplayedMessage:
        copy = view.only("matrix", "Mira")
        contains(copy.html, "data-mx-emoticon", 'alt=":crab:"', 'alt=":crabdance:"', 'src="mxc://')
        return copy

    run.take("matrix", await run.until(check))
    return "inline images"


async def _emoji_to_discord(run: ScriptRun) -> str:
    crab = sample_file("crab.png")
    uri = await run.matrix.upload("yusuf", crab.data, crab.content_type)
    image = f'<img data-mx-emoticon src="{uri}" alt=":crab:" title=":crab:" height="32">'
    await run.say("matrix", "yusuf", ":crab: count me in", f"{image} count me in")

    def check(view: View) -> DisplayedMessage:
        copy = view.only("discord", "Yusuf")
        contains(copy.body, ":crab:", "count me in")
        return copy

    copy = await run.until(check)
    run.take("discord", copy)
    own = f":crab:{run.discord.emoji['crab'].id}>" in copy.body
    return "the server’s own emoji of that name" if own else "by its name"


async def _sticker(side: SideName, name: str, run: ScriptRun) -> str:
    if side == "discord":
        sticker = sample_file("rocking.png")
        run.spoken(side, run.discord.show("jonas", stickers=[run.discord.sticker]))
        (copy,) = await _arrive(run, OTHER[side], name, ("image", sticker))
        return copy.files[0].name
    sticker = sample_file("ahoy.png")
    uri = await run.matrix.upload("yusuf", sticker.data, sticker.content_type)
    info = {"mimetype": sticker.content_type, "size": len(sticker.data), "w": 320, "h": 320}
    content = {"body": "Ahoy!", "url": uri, "info": info}
    run.spoken(side, await run.matrix.send("yusuf", content, "m.sticker"))
    (copy,) = await _arrive(run, OTHER[side], name, ("image", sticker))
    return copy.files[0].name


async def _content(run: ScriptRun, who: str, sent: SampleFile, msgtype: str, info: Json, caption: str = "") -> Json:
    """What a Matrix client sends for a file."""
    uri = await run.matrix.upload(who, sent.data, sent.content_type)
    info = {"mimetype": sent.content_type, "size": len(sent.data)} | info
    words = caption or sent.name
    return {"msgtype": msgtype, "body": words, "filename": sent.name, "url": uri, "info": info, "m.mentions": {}}
