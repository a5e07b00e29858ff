"""Guesses at the code that links two accounts, as commands that people give: for the suite and `tests.code_fuzz`."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from relay.core.bootstrap import assemble
from relay.core.people.codes import VALID_FOR
from relay.core.people.commands import Commands
from relay.core.ports import CommandCall
from relay.core.storage import UnitOfWork
from relay.domain.ids import ChannelRef, Platform, UserRef
from relay.domain.text.nodes import plain_text
from relay.store.unit_of_work import open_store
from tests.support.memory_adapter import MemoryAdapter
from tests.support.platform import MemoryPlatform
from tests.support.store import new_store
from tests.support.world import pair

ANN = UserRef(Platform.DISCORD, "ann")
BEN = UserRef(Platform.MATRIX, "ben")
_PLACES = {platform: ChannelRef(platform, "help") for platform in Platform}
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


class _Clock:
    """The time of day stands still, so that no code expires; the seconds run, so that no limit hides a comparison."""

    def __init__(self) -> None:
        self.time, self.seconds = datetime(2026, 3, 1, tzinfo=UTC), 0.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        self.seconds += 3601
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")


def _guesses(rng: random.Random, code: str) -> Iterator[tuple[UserRef, str]]:
    """An account and what it says, never the right ones together."""
    wrong = [
        ANN,
        UserRef(Platform.DISCORD, "ben"),
        *(UserRef(Platform.MATRIX, one) for one in ("eve", "Ben", "ben ", "")),
    ]
    while True:
        kind = rng.randrange(8)
        if kind == 0:
            yield rng.choice(wrong), rng.choice((code, code.upper()))
            continue
        place = rng.randrange(len(code))
        said = (
            code[:place] + rng.choice(_LETTERS) + code[place + 1 :],
            code[:place] + code[place + 1 :],
            code[:place] + rng.choice("\u0130\u017f\u212a\u0661\uff21\u200b\0*?%_") + code[place:],
            code[::-1],
            "".join(rng.choice(_LETTERS) for _ in code),
            rng.choice(("' OR 1=1 --", "*", "%", "_" * len(code), code * 500, "\ud800" * 10, "", "link")),
            code.translate({ord("a"): "\u0430", ord("c"): "\u0441", ord("e"): "\u0435"}) + "\u0430",
        )[kind - 1]
        if said.casefold() != code:
            yield rng.choice((BEN, BEN, *wrong)), said


async def guess(folder: Path, count: int, seed: int) -> str | None:
    """So many guesses at one code; what was found that should not be, None if nothing was, and the code still works."""
    clock, rng = _Clock(), random.Random(seed)
    store = await open_store(new_store(folder))
    try:
        adapters = {
            platform: MemoryAdapter(MemoryPlatform(platform, clock.now), replays=platform is Platform.MATRIX)
            for platform in Platform
        }
        core = assemble(store=store, pairs=(pair(),), adapters=adapters, clock=clock, rng=rng)
        commands = core.inbox.commands
        async with store.write() as uow:
            told = await _answer(commands, uow, ANN, "link", "matrix:ben", private=True)
            code = told.partition("!relay link ")[2].split()[0]
            guesses = _guesses(rng, code)
            for _ in range(count):
                user, said = next(guesses)
                private = user.platform is Platform.DISCORD or rng.random() < 0.1
                answer = await _answer(commands, uow, user, "link", said, private=private)
                if "You are linked" in answer or (code in answer.casefold() and code not in said.casefold()):
                    return f"{user} said {said!r}: {answer}"
            if await uow.people.linked(BEN) or await uow.people.linked(ANN):
                return "two accounts are linked"
            clock.time += VALID_FOR
            if "no such code" not in await _answer(commands, uow, BEN, "link", code):
                return "the code did not expire"
            clock.time -= VALID_FOR
            return (
                None if "You are linked" in await _answer(commands, uow, BEN, "link", code) else "the code was used up"
            )
    finally:
        await store.close()


async def _answer(commands: Commands, uow: UnitOfWork, user: UserRef, *words: str, private: bool = False) -> str:
    call = CommandCall(user, _PLACES[user.platform], words, private)
    return plain_text((await commands.answer(uow, call, set())).words)
