"""The daemon is down while people write, edit and delete on both sides; then everything has to be there, once."""

import random
from dataclasses import dataclass
from functools import partial
from operator import le

from tests.support.patience import PATIENCE
from tests.support.stack import FullStack, eventually


@dataclass(frozen=True, slots=True)
class Happened:
    """What the other side should show: the words of what was written on each, in order."""

    on_discord: list[str]
    on_matrix: list[str]


async def live_without_the_relay(
    place: FullStack, pair: str, *, messages: int, edits: int, deletions: int, seed: int
) -> Happened:
    """People go on as if nothing were wrong; a part of what they edit and delete had crossed before."""
    rng = random.Random(seed)
    on_discord = await _discord(place, pair, rng, messages, edits, deletions)
    on_matrix = await _matrix(place, pair, rng, messages, edits, deletions)
    return Happened(on_discord, on_matrix)


async def _discord(
    place: FullStack, pair: str, rng: random.Random, messages: int, edits: int, deletions: int
) -> list[str]:
    channel, ada = place.channels[pair], place.people["Ada"]
    place.control.say_many(channel, ada, [f"d{number}" for number in range(messages)])
    own = [message for message in place.on_discord(pair) if not message.get("webhook_id")]
    for number, message in enumerate(rng.sample(own, edits)):
        place.control.edit(channel, message["id"], f"edited d{number}")
    for message in rng.sample(own, deletions):
        place.control.delete(channel, message["id"])
    return [message["content"] for message in place.on_discord(pair) if not message.get("webhook_id")]


async def _matrix(
    place: FullStack, pair: str, rng: random.Random, messages: int, edits: int, deletions: int
) -> list[str]:
    room, mia = place.rooms[pair], place.mia
    for number in range(messages):
        await mia.text(room, f"m{number}")
    own = [message for message in await place.on_matrix(pair) if message.sender == mia.user_id]
    for number, message in enumerate(rng.sample(own, edits)):
        await mia.edit(room, message.event_id, f"edited m{number}")
    for message in rng.sample(own, deletions):
        await mia.redact(room, message.event_id)
    return [message.body for message in await place.on_matrix(pair) if message.sender == mia.user_id]


async def copies(place: FullStack, pair: str) -> Happened:
    """The copies there are: `on_discord` = what was written on Discord and is shown on Matrix, and so on."""
    there = [message for message in await place.on_matrix(pair) if message.sender == place.relay_user]
    here = [message["content"] for message in place.on_discord(pair) if message.get("webhook_id")]
    return Happened([message.body.removeprefix(f"{message.name}: ") for message in there], here)


async def converge(place: FullStack, pair: str, expected: Happened, *, patience: float = PATIENCE) -> None:
    """Wait until both sides say the same."""

    try:
        await eventually(lambda: copies(place, pair), lambda seen: seen == expected, patience=patience)
    except AssertionError:
        seen = await copies(place, pair)
        for name in ("on_discord", "on_matrix"):
            wanted, got = getattr(expected, name), getattr(seen, name)
            missing = [words for words in wanted if words not in got]
            extra = [words for words in got if words not in wanted]
            assert got == wanted, f"written {name}: missing {missing[:9]}, too much {extra[:9]}\n{place.daemon.log()}"


async def start_and_kill(place: FullStack, pair: str, times: int, rng: random.Random, *, step: int, total: int) -> None:
    """Start the daemon and kill it in the middle of its catch-up, again and again; then let it run.

    Each time up to `step` more copies stand on Discord, until there are `total`.
    """

    async def crossed() -> int:
        return sum(1 for message in place.on_discord(pair) if message.get("webhook_id"))

    for _ in range(times):
        enough = min(total, await crossed() + rng.randint(1, step))
        await place.daemon.start(ready=False)
        await eventually(crossed, partial(le, enough), what=place.daemon.log)
        await place.daemon.kill()
    await place.daemon.start()
