"""Lines of the script: long and structured text, who is called, feeds, polls, and the rest of the table."""

from collections.abc import Sequence

from relay.demo.script.runner import Line, Mismatch, ScriptRun, View, contains, same
from relay.demo.sides.base import DisplayedMessage
from relay.demo.sides.discord import FEED

_PLAN = """## Saturday’s crossing
1. Meet at the **old pier** at <t:1781330400:t>
2. Participant off with the tide
   - wet gear for everybody
   - no heroics past the third buoy
3. Home for chowder
-# The harbour master’s watch is never wrong."""
_PLAN_HTML = ("<h2>Saturday’s crossing</h2>", "<ol>", "<strong>old pier</strong>", "<ul>", "UTC", "<sub>")

_TIDES_HTML = """<p>Tides at the pier:</p>
<table><thead><tr><th>Time</th><th>Height</th></tr></thead>
<tbody><tr><td>06:12</td><td>4.1 m</td></tr><tr><td>12:25</td><td>0.9 m</td></tr></tbody></table>
<p>Below the keel: <span data-mx-maths="h - 2.4"><code>h - 2.4</code></span> m.</p>
<details><summary>Why?</summary><p>The sill lies at 2.4 m.</p></details>"""
_TIDES_PLAIN = "Tides at the pier: 06:12 4.1 m, 12:25 0.9 m. Below the keel: h - 2.4 m. Why? The sill lies at 2.4 m."
_TIDES_MARKDOWN = (
    "```\nTime  | Height\n------+-------\n06:12 | 4.1 m\n12:25 | 0.9 m\n```",
    "Below the keel: `h - 2.4` m.",
    "**Why?**",
    "The sill lies at 2.4 m.",
)
_PUSH = {
    "author": {"name": "mira", "url": "https://github.com/mira"},
    "title": "[tidewater/almanac:main] 2 new commits",
    "url": "https://github.com/tidewater/almanac/compare/9e1f...c07a",
    "color": 0x4078C0,
    "description": (
        "[`9e1f27c`](https://github.com/tidewater/almanac/commit/9e1f27c) Correct the spring tides\n"
        "[`c07ab31`](https://github.com/tidewater/almanac/commit/c07ab31) Add the **third buoy**"
    ),
}
_ANSWERS = ("Clams", "Corn", "Whatever bites")


def more() -> Sequence[Line]:
    """In the order in which they are played."""
    return (
        Line("heading, lists, small print", "to_matrix", _plan),
        Line("table, formula, details", "to_discord", _tides),
        Line("calling somebody", "to_matrix", _call_to_matrix),
        Line("calling somebody", "to_discord", _call_to_discord),
        Line("link to a message", "to_matrix", _link),
        Line("what somebody does", "to_discord", _emote),
        Line("place", "to_discord", _place),
        Line("a feed’s embed", "to_matrix", _feed),
        Line("poll and its result", "to_matrix", _poll_to_matrix),
        Line("poll and its end", "to_discord", _poll_to_discord),
        Line("forwarded message", "to_matrix", _forward),
        Line("somebody joins", "to_matrix", _welcome),
    )


async def _plan(run: ScriptRun) -> str:
    run.notes["plan"] = await run.say("discord", "mira", _PLAN)

    def check(view: View) -> DisplayedMessage:
        copy = view.only("matrix", "Mira")
        contains(copy.html, *_PLAN_HTML)
        return copy

    copy = await run.until(check)
    run.take("matrix", copy)
    run.notes["plan copy"] = copy.id
    return "with its time in UTC"


async def _tides(run: ScriptRun) -> str:
    await run.say("matrix", "ines", _TIDES_PLAIN, _TIDES_HTML)

    def check(view: View) -> DisplayedMessage:
        copy = view.only("discord", "Ines")
        contains(copy.body, *_TIDES_MARKDOWN)
        return copy

    run.take("discord", await run.until(check))
    return "the table aligned in a block of code"


async def _call_to_matrix(run: ScriptRun) -> str:
    await run.say("discord", "jonas", "@Ines, can you bring the spare line?")
    called = run.matrix.id_of("ines")

    def check(view: View) -> DisplayedMessage:
        copy = view.only("matrix", "Jonas")
        contains(copy.html, f'href="https://matrix.to/#/{called}"')
        if copy.raw.get("m.mentions") != {"user_ids": [called]}:
            raise Mismatch(f"it mentions {copy.raw.get('m.mentions')}")
        return copy

    run.take("matrix", await run.until(check))
    return "Ines is mentioned, and nobody else"


async def _call_to_discord(run: ScriptRun) -> str:
    await run.say("matrix", "ines", "Packed already, @Jonas.")
    called = run.discord.id_of("jonas")

    def check(view: View) -> DisplayedMessage:
        copy = view.only("discord", "Ines")
        same(copy.body, f"Packed already, <@{called}>.")
        if [user["id"] for user in copy.raw["mentions"]] != [called]:
            raise Mismatch("it does not ping him")
        return copy

    run.take("discord", await run.until(check))
    return "Jonas is pinged"


async def _link(run: ScriptRun) -> str:
    plan, copy_of_plan = run.note("plan"), run.note("plan copy")
    guild, channel = run.discord.guild.id, run.discord.channel.id
    await run.say("discord", "jonas", f"It is all in https://discord.com/channels/{guild}/{channel}/{plan}")

    def check(view: View) -> DisplayedMessage:
        copy = view.only("matrix", "Jonas")
        contains(copy.html or copy.body, f"https://matrix.to/#/{run.matrix.room}/{copy_of_plan}")
        return copy

    run.take("matrix", await run.until(check))
    return "leads to the copy"


async def _emote(run: ScriptRun) -> str:
    content = {"msgtype": "m.emote", "body": "coils the lines", "m.mentions": {}}
    run.spoken("matrix", await run.matrix.send("yusuf", content))
    copy = await run.across("matrix", "Yusuf", "*coils the lines*")
    return copy.body


async def _place(run: ScriptRun) -> str:
    content = {"msgtype": "m.location", "body": "The old pier", "geo_uri": "geo:54.3239,10.1347", "m.mentions": {}}
    run.spoken("matrix", await run.matrix.send("ines", content))

    def check(view: View) -> DisplayedMessage:
        copy = view.only("discord", "Ines")
        contains(copy.body, "The old pier", "https://www.openstreetmap.org/?mlat=54.323900&mlon=10.134700")
        return copy

    run.take("discord", await run.until(check))
    return "with a link to a map"


async def _feed(run: ScriptRun) -> str:
    run.spoken("discord", run.discord.report(_PUSH))

    def check(view: View) -> DisplayedMessage:
        copy = view.only("matrix", FEED)
        contains(copy.html, "<blockquote>", 'href="https://github.com/mira"', "<strong>third buoy</strong>")
        contains(copy.html, 'commit/9e1f27c"><code>9e1f27c</code></a> Correct the spring tides')
        return copy

    run.take("matrix", await run.until(check))
    return f"as {FEED}"


async def _poll_to_matrix(run: ScriptRun) -> str:
    answers = [{"poll_media": {"text": answer}} for answer in _ANSWERS]
    poll = {"question": {"text": "What goes into the chowder?"}, "answers": answers, "duration": 24}
    message = run.spoken("discord", run.discord.show("jonas", poll=poll))

    def asked(view: View) -> DisplayedMessage:
        copy = view.only("matrix", "Jonas")
        contains(copy.body, "What goes into the chowder?", *_ANSWERS)
        return copy

    question = await run.until(asked)
    run.take("matrix", question)
    for who in ("mira", "jonas"):
        run.discord.vote(who, message, 1)
    run.spoken("discord", run.discord.end_poll(message))

    def ended(view: View) -> DisplayedMessage:
        contains(view.get("matrix", question.id).body, "Clams (2)", "Corn (0)")
        result = view.only("matrix", "Jonas")
        contains(result.body, "The poll has ended", "Clams (2 of 2 votes)")
        return result

    run.take("matrix", await run.until(ended))
    return "question, answers, and who won"


async def _poll_to_discord(run: ScriptRun) -> str:
    kind, text = "org.matrix.msc3381.poll", "org.matrix.msc1767.text"
    answers = [{"id": str(number), text: words} for number, words in enumerate(("Six", "Seven"))]
    question = {"question": {text: "When do we leave?"}, "kind": f"{kind}.disclosed", "answers": answers}
    start = {f"{kind}.start": question | {"max_selections": 1}, text: "When do we leave?\n1. Six\n2. Seven"}
    poll = run.spoken("matrix", await run.matrix.send("yusuf", start, f"{kind}.start"))

    def asked(view: View) -> DisplayedMessage:
        copy = view.only("discord", "Yusuf")
        contains(copy.body, "When do we leave?", "Six", "Seven")
        return copy

    run.take("discord", await run.until(asked))
    about = {"m.relates_to": {"rel_type": "m.reference", "event_id": poll}}
    before = await run.daemon.counters()
    for who in ("ines", "yusuf"):
        await run.matrix.send(who, about | {f"{kind}.response": {"answers": ["0"]}}, f"{kind}.response")
    end = about | {f"{kind}.end": {}, text: "The poll has ended. Top answer: Six"}
    run.spoken("matrix", await run.matrix.send("yusuf", end, f"{kind}.end"))

    def ended(view: View) -> DisplayedMessage:
        copy = view.only("discord", "Yusuf")
        contains(copy.body, "The poll has ended. Top answer: Six")
        return copy

    run.take("discord", await run.until(ended))
    await run.until_dropped("to_discord", "vote", 2, before)
    return "votes are counted as dropped, the result crosses"


async def _forward(run: ScriptRun) -> str:
    original = {"channel": run.discord.channel.id, "message": run.note("morning")}
    run.spoken("discord", run.discord.show("mira", forward=original))

    def check(view: View) -> DisplayedMessage:
        copy = view.only("matrix", "Mira")
        same(copy.body, "*↪ Forwarded:*\n> Good morning! Can everybody read this?")
        return copy

    run.take("matrix", await run.until(check))
    return "quoted, and said to be forwarded"


async def _welcome(run: ScriptRun) -> str:
    run.spoken("discord", run.discord.welcome("Lena"))
    copy = await run.across("discord", "Lena", "*joined the server.*")
    return f"Lena {copy.body.strip('*')}"
