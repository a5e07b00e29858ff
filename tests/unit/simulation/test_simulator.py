"""The simulator finds what it is there to find: the real core keeps the promise, one with a known fault does not."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from relay.core.delivery.execute import Executor
from relay.core.delivery.lane import Lane
from relay.core.delivery.lookups import Lookups
from relay.core.delivery.plan import Plan, Send, Target
from relay.core.moderation.age_marks import AgeMarks
from relay.core.moderation.decisions import Moderation
from relay.core.pairs import PairDirectory
from relay.core.ports import Adapter, Delivery, EventBatch
from relay.core.storage import Entry
from relay.domain.ids import ChannelRef, MessageRef, UserRef
from relay.domain.pair import LaneKey, Pair
from relay.errors import NotDeclared
from relay.store.repositories.people import SqlPeople
from tests.simulation.runner import play, workshop
from tests.support.logs import quiet_logs
from tests.support.memory_adapter import MemoryAdapter

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SEEDS = 200


@pytest.fixture(scope="module", autouse=True)
def _quiet_logs() -> Iterator[None]:
    """A core with a fault logs thousands of tracebacks, and formatting one takes longer than a history."""
    with quiet_logs():
        yield


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    with workshop() as path:
        yield path


def first_broken(template: Path, *, word: str = "", begin: int = 0) -> list[str]:
    """What is wrong with the first history that breaks the promise in a way that is told with `word`.

    `begin`: where the fault was found last. Those before it are played at the end, so it only saves time.
    """
    for number in range(SEEDS):
        report = play((begin + number) % SEEDS, template)
        if any(word in violation for violation in report.violations):
            return report.violations
    pytest.fail(f"the fault stayed hidden in {SEEDS} histories")


def test_the_real_core_keeps_the_promise(template: Path) -> None:
    for seed in range(40):
        assert play(seed, template).violations == []


def test_a_seed_gives_the_same_history_again(template: Path) -> None:
    first, second = play(7, template), play(7, template)
    assert first.trace
    assert first.trace == second.trace


def test_it_finds_a_record_before_the_send(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receipt that is written before the message is sent loses what a kill comes between."""
    execute = Executor.execute

    async def record_first(self: Executor, plan: Plan) -> None:
        if isinstance(plan, Send):
            await self.entries.done(plan.entry)
        await execute(self, plan)

    monkeypatch.setattr(Executor, "execute", record_first)
    assert any("lost" in violation for violation in first_broken(template))


def test_it_finds_a_cursor_ahead_of_the_outbox(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cursor that is written before the rows it stands for skips them after a kill."""
    hand_over = MemoryAdapter._hand_over

    async def cursor_first(self: MemoryAdapter, batch: EventBatch) -> None:
        await hand_over(self, EventBatch((), batch.cursors))
        await hand_over(self, EventBatch(batch.events))

    monkeypatch.setattr(MemoryAdapter, "_hand_over", cursor_first)
    assert first_broken(template, word="lost", begin=115)


def test_it_finds_what_is_delivered_wherever_its_channel_leads_by_now(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits while rooms are swapped is then said in the wrong one."""

    def wherever(self: Lookups, lane: LaneKey) -> tuple[Pair, ChannelRef, Adapter]:
        pair = self.pairs.pair_of(lane.source)
        if pair is None:
            raise NotDeclared("no pair")
        channel = self.pairs.lane_from(lane.source, pair).destination if lane.crosses else lane.destination
        return pair, channel, self.adapters[channel.platform]

    monkeypatch.setattr(PairDirectory, "pair_for", lambda self, lane: self.pair_of(lane.source))
    monkeypatch.setattr(Lookups, "destination", wherever)
    monkeypatch.setattr(Target, "post", lambda target, delivery: target.adapter.send(delivery))
    assert first_broken(template, word="in a room where it was not said", begin=63)


def test_it_finds_sends_that_are_not_looked_for(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no key exists and nobody adopts what an earlier try posted, messages double."""

    async def only_keys(self: MemoryAdapter, delivery: Delivery, account: str) -> MessageRef | None:
        return self.server.by_key(delivery.channel, delivery.key, account) if self.replays else None

    monkeypatch.setattr(MemoryAdapter, "_earlier", only_keys)
    assert any("doubled" in violation for violation in first_broken(template))


def test_it_finds_a_lane_that_is_not_serial(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that goes on with the next command while the first waits for another try loses the order."""
    attempt = Lane._try

    async def impatient(self: Lane, entry: Entry) -> bool:
        if await attempt(self, entry):
            return True
        if len(self._waiting) > 1 and await attempt(self, self._waiting[1]):
            del self._waiting[1]
        return False

    monkeypatch.setattr(Lane, "_try", impatient)
    assert any("out of order" in violation or "lost" in violation for violation in first_broken(template))


def test_it_finds_a_link_that_is_told_and_not_kept(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was told that their accounts are linked is called by both."""

    async def forgets(self: SqlPeople, one: UserRef, other: UserRef, since: datetime) -> None:
        pass

    monkeypatch.setattr(SqlPeople, "link", forgets)
    assert any("was told that she is linked" in violation for violation in first_broken(template, begin=85))


def test_it_finds_keys_that_are_used_again(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform takes a second message under the key of a first for the same message, and drops it."""

    def key(target: Target, part: int, verb: str, *, superseded: int = 0) -> str:
        return f"{target.store_id}{target.entry.id % 3}.{part}.{superseded}{verb}"

    monkeypatch.setattr("relay.core.delivery.render.key", key)
    assert any("lost" in violation or "wrong" in violation for violation in first_broken(template))


@pytest.mark.parametrize(
    ("service", "asked", "answer", "told", "begin"),
    [
        (Moderation, "refusal", None, "of somebody who is banned", 27),
        (AgeMarks, "carries_files", True, "for adults", 11),
    ],
)
def test_it_finds_what_moderators_did_not_want(
    template: Path, monkeypatch: pytest.MonkeyPatch, service: type, asked: str, answer: object, told: str, begin: int
) -> None:
    """A relay that does not ask whether something may cross."""

    async def always(*_: object) -> object:
        return answer

    monkeypatch.setattr(service, asked, always)
    assert first_broken(template, word=told, begin=begin)
