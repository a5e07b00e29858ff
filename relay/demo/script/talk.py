"""Lines of the script: what crosses when people talk."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from relay.demo.script.runner import Line, Mismatch, ScriptRun, View, contains, same
from relay.demo.sides.base import OTHER, DisplayedMessage, SideName

_NAMES = {"mira": "Mira", "jonas": "Jonas", "ines": "Ines", "yusuf": "Yusuf"}
_DISCORD_LIMIT = 2000

_MARKDOWN = "**Bold**, *italic*, __underlined__, ~~struck~~, ||hidden|| and `code`"
_HTML = (
    "<strong>Bold</strong>, <em>italic</em>, <u>underlined</u>, <del>struck</del>, "
    "<span data-mx-spoiler>hidden</span> and <code>code</code>"
)
_BLOCKS = "> High water at six.\nThe script is [in the wiki](https://wiki.example/tides):\n```python\nprint('ebb')\n```"
_BLOCKS_HTML = (
    "<blockquote><p>High water at six.</p></blockquote>"
    '<p>The script is <a href="https://wiki.example/tides">in the wiki</a>:</p>'
    "<pre><code class=\"language-python\">print('ebb')\n</code></pre>"
)
_BLOCKS_PLAIN = "> High water at six.\n\nThe script is in the wiki:\n\n```python\nprint('ebb')\n```"


def talk() -> Sequence[Line]:
    """In the order in which they are played."""
    return (
        _text("discord", "mira", "Good morning! Can everybody read this?", "morning"),
        _text("matrix", "ines", "Loud and clear, over here on Matrix.", "clear"),
        Line("inline formatting", "to_matrix", partial(_formatted, "discord", "jonas", _MARKDOWN, "", _HTML)),
        Line("inline formatting", "to_discord", partial(_formatted, "matrix", "yusuf", _MARKDOWN, _HTML, _MARKDOWN)),
        Line("quote, link, code block", "to_matrix", _blocks_to_matrix),
        Line("quote, link, code block", "to_discord", _blocks_to_discord),
        Line("reply", "to_matrix", _reply_to_matrix),
        Line("reply", "to_discord", _reply_to_discord),
        _both("edit", _edit),
        _both("edit", _edit, "matrix"),
        _both("deletion", _deletion),
        _both("deletion", _deletion, "matrix"),
        Line("bulk deletion of three", "to_matrix", _bulk_deletion),
        Line("long message, in one piece", "to_matrix", _long_to_matrix),
        Line("long message, split in order", "to_discord", _long_to_discord),
        Line("its edit takes the parts back", "to_discord", _long_edit),
    )


def _text(side: SideName, who: str, body: str, note: str) -> Line:
    async def act(run: ScriptRun) -> str:
        original = await run.say(side, who, body)
        copy = await run.across(side, _NAMES[who], body)
        run.notes |= {note: original, f"{note} copy": copy.id}
        return ""

    return Line("text", "to_matrix" if side == "discord" else "to_discord", act)


def _both(title: str, act: Callable[[SideName, str, ScriptRun], Awaitable[str]], side: SideName = "discord") -> Line:
    """A line that is the same on both sides, played by the second participant."""
    who = "jonas" if side == "discord" else "yusuf"
    return Line(title, "to_matrix" if side == "discord" else "to_discord", partial(act, side, who))


async def _formatted(side: SideName, who: str, body: str, html: str, expected: str, run: ScriptRun) -> str:
    await run.say(side, who, body, html)

    def check(view: View) -> DisplayedMessage:
        copy = view.only(OTHER[side], _NAMES[who])
        shown = copy.html.replace('data-mx-spoiler=""', "data-mx-spoiler") if copy.html else copy.body
        # There are several ways to write the same: `*` or `_` for italics, `<del>` or `<s>`.
        for word in expected.replace(" and ", ", ").split(", "):
            alternatives = (word, word.replace("*italic*", "_italic_"), word.replace("del>", "s>"))
            if not any(alternative in shown for alternative in alternatives):
                raise Mismatch(f"no {word} in {shown}")
        return copy

    run.take(OTHER[side], await run.until(check))
    return ""


async def _blocks_to_matrix(run: ScriptRun) -> str:
    await run.say("discord", "mira", _BLOCKS)

    def check(view: View) -> DisplayedMessage:
        copy = view.only("matrix", "Mira")
        contains(
            copy.html, "<blockquote>", "High water at six.", 'href="https://wiki.example/tides"', ">in the wiki</a>"
        )
        contains(copy.html, "<pre><code", "language-python", "ebb")
        return copy

    run.take("matrix", await run.until(check))
    return ""


async def _blocks_to_discord(run: ScriptRun) -> str:
    await run.say("matrix", "ines", _BLOCKS_PLAIN, _BLOCKS_HTML)

    def check(view: View) -> DisplayedMessage:
        copy = view.only("discord", "Ines")
        contains(copy.body, "> High water at six.", "[in the wiki](", "https://wiki.example/tides")
        contains(copy.body, "```python\nprint('ebb')\n```")
        return copy

    run.take("discord", await run.until(check))
    return ""


async def _reply_to_matrix(run: ScriptRun) -> str:
    target, answered = run.note("clear copy"), run.note("clear")
    body = "Same here. The tide table is up to date."
    await run.say("discord", "jonas", body, reply_to=target)
    copy = await run.across("discord", "Jonas", body)
    if copy.reply is None or copy.reply.id != answered:
        raise Mismatch("it arrived, but not as a reply to Ines")
    return "a native reply"


async def _reply_to_discord(run: ScriptRun) -> str:
    target, answered = run.note("morning copy"), run.note("morning")
    body = "Yes, every word."
    await run.say("matrix", "yusuf", body, reply_to=target)
    link = f"https://discord.com/channels/{run.discord.guild.id}/{run.discord.channel.id}/{answered}"

    def check(view: View) -> DisplayedMessage:
        copy = view.only("discord", "Yusuf")
        quote, _, words = copy.body.partition("\n")
        contains(quote, "> ", link, "Mira", "Good morning!")
        same(words.strip(), body)
        return copy

    run.take("discord", await run.until(check))
    return "a quoted line with a jump link"


async def _edit(side: SideName, who: str, run: ScriptRun) -> str:
    before, after = "The meeting is at fife.", "The meeting is at five."
    original = await run.say(side, who, before)
    copy = await run.across(side, _NAMES[who], before)
    run.act()
    await run.side(side).edit(who, original, after)

    def check(view: View) -> None:
        edited = view.get(OTHER[side], copy.id)
        same(edited.body, after)
        if edited.edited_at is None:
            raise Mismatch("it is not marked as edited")

    await run.until(check)
    return ""


async def _deletion(side: SideName, who: str, run: ScriptRun) -> str:
    body = "Wrong window, sorry."
    original = await run.say(side, who, body)
    copy = await run.across(side, _NAMES[who], body)
    run.act()
    await run.side(side).delete(who, original)
    await run.until(lambda view: view.absent(OTHER[side], [copy.id]))
    return ""


async def _bulk_deletion(run: ScriptRun) -> str:
    bodies = ["Buy now!", "Cheap anchors!", "Last chance!"]
    originals = [await run.say("discord", "jonas", body) for body in bodies]

    def arrived(view: View) -> list[DisplayedMessage]:
        copies = view.fresh("matrix", "copy", "Jonas")
        if [copy.body for copy in copies] != bodies:
            raise Mismatch(f"{len(copies)} of 3 have arrived")
        return copies

    copies = await run.until(arrived)
    run.take("matrix", *copies)
    run.act()
    run.discord.bulk_delete(originals)
    await run.until(lambda view: view.absent("matrix", [copy.id for copy in copies]))
    return ""


def _essay(length: int) -> str:
    """Numbered sentences: none can be missing or in another place without being noticed."""
    sentences: list[str] = []
    while sum(map(len, sentences)) + len(sentences) < length:
        sentences.append(f"Wave number {len(sentences) + 1} comes in and goes out again.")
    return " ".join(sentences)[:length].rstrip()


async def _long_to_matrix(run: ScriptRun) -> str:
    essay = _essay(_DISCORD_LIMIT)
    await run.say("discord", "mira", essay)
    await run.across("discord", "Mira", essay)
    return f"{len(essay):,} characters"


async def _long_to_discord(run: ScriptRun) -> str:
    essay = _essay(4_500)
    original = await run.say("matrix", "ines", essay)

    def check(view: View) -> list[DisplayedMessage]:
        parts = view.fresh("discord", "copy", "Ines")
        if " ".join(part.body.strip() for part in parts) != essay:
            raise Mismatch(f"{len(parts)} parts that are not the text")
        return parts

    parts = await run.until(check)
    run.take("discord", *parts)
    run.notes |= {"essay": original} | {f"part {number}": part.id for number, part in enumerate(parts)}
    return f"{len(essay):,} characters in {len(parts)} parts"


async def _long_edit(run: ScriptRun) -> str:
    original = run.note("essay")
    parts = [value for name, value in run.notes.items() if name.startswith("part ")]
    body = "In short: waves come in and go out again."
    await run.matrix.edit("ines", original, body)

    def check(view: View) -> None:
        same(view.get("discord", parts[0]).body, body)
        view.absent("discord", parts[1:])

    await run.until(check)
    return f"{len(parts)} parts became one"
