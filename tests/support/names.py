"""Names that mean harm, and whether what is made of them for Discord is safe."""

import random
import re
import unicodedata
from collections import OrderedDict
from dataclasses import replace

from relay.adapters.discord.outbound.body import usernames
from relay.core.author_names import _decided, distinct_from_relay, in_template
from relay.domain.content import Author
from relay.domain.ids import Platform, UserRef
from relay.domain.names import folded_letters, visible

TEMPLATES = [
    "{name} (Matrix)",
    "[M] {name}",
    "{name} @{handle}",
    "{handle} · {name}",
    "x" * 24 + "{name}",
    "{{{name}}}",
]

PIECES = [
    *"aAeEоОеh e\u0301ßİ1._@#:`|*(⟨⟩↪ \u00a0\u3000",
    *(
        "\u200b",
        "\u202e",
        "\u2066",
        "\u00ad",
        "\ufeff",
        "\u3164",
        "\u2800",
        "\U000e0041",
        "\ud800",
        "\0",
        "\n",
        "\x1b[1m",
    ),
    *("discord", "ＤＩＳＣＯＲＤ", "cl\u200byde", "everyone", "EVERYONE", "hеre", "ⓗⓔⓡⓔ", "𝐡𝐞𝐫𝐞"),
    *("System Message", "```", "｀｀｀", "(via IRC)", ", ", "\u0489" * 9, "ﷺ", "ﷺ" * 20, "x" * 90),
    *("🦊", "👩\u200d❤\ufe0f\u200d👩", "🏳\ufe0f\u200d🌈", "שלום", "مرحبا", "你好"),
]

_REFUSED = re.compile("discord|clyde|everyone|here|system message|```")
_UNSEEN = frozenset("\u202e\u200b\u2066\ufeff\u3164@#:\n\0")


def unsafe_names(count: int, seed: int) -> list[str]:
    """Makes `count` names for people of one room; those under which Discord would show something unsafe."""
    rng = random.Random(seed)
    owners: OrderedDict[str, str] = OrderedDict()
    found: list[str] = []
    for number in range(count):
        name = "".join(rng.choices(PIECES, k=rng.choice((0, 1, 2, 3, 5, 8))))
        name *= 1 if number % 500 else 4000 // (len(name) or 1)
        somebody = Author(UserRef(Platform.MATRIX, f"@u{number % 500}:example.org"), name, handle=f"u{number % 500}")
        decided = replace(somebody, name=_decided(owners, somebody)[0])
        made = distinct_from_relay(in_template(decided, rng.choice(TEMPLATES)), frozenset({"relay"}))
        if not (visible(made.name) == made.name != "" and all(map(_is_safe, usernames(made)))):
            found.append(f"{name!r} became {made.name!r}")
    return found


def _is_safe(shown: str) -> bool:
    folded = "".join(letter for _, letter in folded_letters(shown))
    seen = any(unicodedata.category(char)[0] in "LNPS" for char in shown)
    return 1 <= len(shown) <= 80 and seen and not _REFUSED.search(folded) and _UNSEEN.isdisjoint(shown)
