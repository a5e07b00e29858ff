"""How the time of both markup parsers grows with hostile input: `python -m tests.benchmarks.markup_scaling`.

Prints, per family and parser, the milliseconds for 64 KiB and the exponent e of time = c * length ** e, between 16
and 64 KiB (1 = linear, 2 = quadratic). Exits 1 if anything grows faster than allowed, or if the families with a
limit take longer than that, there or back. Discord's own messages end at 4,000 characters.
"""

import math
import sys
import time
from collections.abc import Callable

from relay.adapters.discord import markup as discord
from relay.adapters.discord.outbound import body
from relay.adapters.matrix import markup as matrix
from relay.core.convert.degrade import Dropped, degrade
from relay.domain.content import Author, Capabilities, Content
from relay.domain.ids import Platform, UserRef
from relay.domain.pair import PairPolicy

SMALL, LARGE = 16 * 1024, 64 * 1024
LIMIT_MS = 20.0
LIMIT_EXPONENT = 1.4
NAMED = ("[", "*", ">", "<", "|")

# A family is its beginning, what is repeated, and its end.
FAMILIES: dict[str, tuple[str, str, str]] = {
    "[": ("", "[", ""),
    "*": ("", "*", ""),
    "_": ("", "_", ""),
    ">": ("", ">", ""),
    "> > >": ("", "> ", "x"),
    "<": ("", "<", ""),
    "|": ("", "|", ""),
    "`": ("", "`", ""),
    "backticks of all lengths": ("", "` `` ``` ```` ````` `````` ", ""),
    "**a": ("", "**a ", ""),
    "*_ nested": ("", "*_**__~~||", "x"),
    "_a__b": ("_a", "__b ", ""),
    "masked links": ("", "[a](http://b", ""),
    "nested lists": ("", "- a\n  - b\n    - c\n", ""),
    "https://": ("", "https://).", "x"),
    "backslashes": ("", "\\", ""),
    "<b>": ("", "<b>", ""),
    "<blockquote>": ("", "<blockquote>", ""),
    "<b><i></b>": ("", "<b><i></b>", ""),
    "<!-- <a": ("", '<!-- <a href="x ', ""),
    "</p><p": ("<b>" * 90, "<p>x</p>", ""),
    "&#9": ("", "&#99999999999", ""),
    "<table>": ("", "<table><tr><td>", ""),
    "white space": ("a", " \n\t ", "b"),
    "code in bold": ("**", "`*`a", "**"),
    "small print": ("", "-# a\n", ""),
    "<div>": ("", "<div>a</div>", ""),
    "deep list, few items": ("<ul><li>" * 40, "<li>a", ""),
    "deep list, quoted": ("<blockquote><ul><li>" * 20, "<li>a<br>b", ""),
    "deep quotes, many lines": ("<blockquote>" * 40, "x<br>", ""),
    "deep list, long item": ("<ul><li>" * 40 + "a", "<br>", "b"),
    "deep - lists": ("".join(f"{' ' * deep}- a\n" for deep in range(10)), " " * 10 + "- a\n", ""),
    "quoted - lists": ("", "> - a\n>   - b\n>     - c\n", ""),
    "one wide row": ("<table><tr>" + "<td>a" * 2_000, "<tr><td>b", ""),
    "long last row": ("<table>", "<tr><td>a", "<tr>" + "<td>b" * 3_000),
    "long last cell": ("<table>", "<tr><td>a<td>b", f"<tr><td>{'x' * 4_000}<td>c"),
    "links to people": ("", '<a href="https://matrix.to/#/@a:b.c">x</a>', ""),
    "links to messages": ("", "https://matrix.to/#/!a:b.c/$e ", ""),
    "long caption": (f"<table><caption>{'a ' * 450}</caption>", "<tr><td>b", ""),
}
ADA = Author(UserRef(Platform.MATRIX, "@ada:example.org"), "Ada")
TO_DISCORD = Capabilities(body.TEXT_LENGTH, False, 10, 10 << 20, 25 << 20)


def cross_to_discord(text: str) -> None:
    """All that becomes of an event's text, up to what is posted."""
    parts = degrade(
        Content(matrix.parse("", text, names=matrix.NameLookup())),
        author=ADA,
        capabilities=TO_DISCORD,
        policy=PairPolicy(),
        measure=body.measure,
        as_file=True,
    )
    for part in () if isinstance(parts, Dropped) else parts:
        body.webhook_body(part, ADA)


PARSERS: dict[str, Callable[[str], object]] = {
    "discord": lambda text: discord.parse(text, names=discord.NameLookup()),
    "matrix": lambda text: matrix.parse("", text, names=matrix.NameLookup()),
    "discord, back": lambda text: discord.render(
        discord.parse(text, names=discord.NameLookup()), codes=discord.ReferenceCodes()
    ),
    "matrix, back": lambda text: matrix.render(
        matrix.parse("", text, names=matrix.NameLookup()), resolver=matrix.Resolver()
    ),
    "to matrix": lambda text: matrix.render(
        discord.parse(text, names=discord.NameLookup()), resolver=matrix.Resolver()
    ),
    "all of it": cross_to_discord,
}


def sample(family: str, size: int) -> str:
    """`size` characters of a family."""
    head, middle, tail = FAMILIES[family]
    return head + (middle * (size // len(middle) + 1))[: max(0, size - len(head) - len(tail))] + tail


def seconds(parser: Callable[[str], object], text: str) -> float:
    """The best of three, of CPU time: other programs do not count."""
    best = math.inf
    for _ in range(3):
        start = time.process_time()
        parser(text)
        best = min(best, time.process_time() - start)
    return best


def measure(parser: Callable[[str], object], family: str) -> tuple[float, float]:
    """Milliseconds for 64 KiB of a family, and the exponent."""
    small, large = (seconds(parser, sample(family, size)) for size in (SMALL, LARGE))
    return large * 1000, math.log(large / small) / math.log(LARGE / SMALL)


def main() -> int:
    """Print the table; 0 if all is within the limits."""
    failed = 0
    print(f"{'family':26}" + "".join(f"{name + ' ms':>18}{'e':>6}" for name in PARSERS))
    for family in FAMILIES:
        row = [measure(parser, family) for parser in PARSERS.values()]
        print(f"{family:26}" + "".join(f"{ms:18.2f}{exponent:6.2f}" for ms, exponent in row))
        # What takes less than a few milliseconds has no exponent to speak of.
        failed += sum(exponent > LIMIT_EXPONENT and ms > 5 for ms, exponent in row)
        failed += sum(ms > LIMIT_MS for ms, _ in row) if family in NAMED else 0
    print(f"{failed} beyond the limits")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
