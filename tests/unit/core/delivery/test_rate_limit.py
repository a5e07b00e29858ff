"""How fast a lane may send, and how it adapts to what the platform refuses."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from relay.core.delivery.rate_limit import Budget, Budgets
from relay.domain.ids import ChannelRef, Platform
from relay.domain.pair import LaneKey
from relay.errors import RateLimited
from tests.support.patience import PATIENCE

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def spend(budget: Budget, waited: int, order: list[int], refuse: float | None = None) -> None:
    async with budget.turn(NOON - timedelta(seconds=waited)) as granted:
        assert granted
        order.append(waited)
        if refuse is not None:
            raise RateLimited("slow down", retry_after=refuse)


async def test_nobody_waits_while_nothing_is_refused() -> None:
    budget, order = Budget(), list[int]()
    for number in range(5):
        await spend(budget, number, order)
    assert order == [0, 1, 2, 3, 4]
    assert budget.seconds_each() == 0


async def test_after_a_refusal_whoever_waited_longest_goes_first() -> None:
    budget, order = Budget(), list[int]()
    with pytest.raises(RateLimited):
        await spend(budget, 0, [], refuse=0.3)
    await asyncio.gather(*(spend(budget, waited, order) for waited in (1, 5, 3, 2, 4)))
    assert order == [5, 4, 3, 2, 1]


async def test_what_the_relay_says_goes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.core.delivery.rate_limit._NOTICE_SECONDS", 0.0)
    monkeypatch.setattr("relay.core.delivery.rate_limit._NOTICE_INTERVALS", 0)
    budget, order = Budget(shared=True), list[int]()

    async def note() -> None:
        async with budget.turn(NOON - timedelta(days=1), is_notice=True):
            order.append(0)

    with pytest.raises(RateLimited):
        await spend(budget, 0, [], refuse=0.3)
    await asyncio.gather(note(), *(spend(budget, waited, order) for waited in (1, 3, 2)))
    assert order == [3, 2, 1, 0]


async def test_what_the_relay_says_comes_at_last_though_words_never_cease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.core.delivery.rate_limit._NOTICE_SECONDS", 0.0)
    monkeypatch.setattr("relay.core.delivery.rate_limit._NOTICE_INTERVALS", 0)
    monkeypatch.setattr("relay.core.delivery.rate_limit._MESSAGES_BEFORE_A_NOTICE", 10)
    budget, order = Budget(shared=True), list[int]()

    async def note() -> None:
        async with budget.turn(NOON, is_notice=True):
            order.append(0)

    async def talk(lane: int) -> None:
        while order.count(0) < 2:
            await spend(budget, lane, order)

    with pytest.raises(RateLimited):
        await spend(budget, 9, [], refuse=0.05)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(talk(lane) for lane in (1, 2, 3)), note(), note())
    assert order[:22] == [*order[:10], 0, *order[11:21], 0]


async def test_a_turn_that_sends_nothing_teaches_nothing() -> None:
    budget, order = Budget(), list[int]()
    with pytest.raises(RateLimited):
        await spend(budget, 0, [], refuse=0.03)
    interval = budget.seconds_each()
    async with budget.turn(NOON, sends=False):
        pass
    assert budget.seconds_each() == interval > 0
    await spend(budget, 1, order)
    assert budget.seconds_each() == 0


async def test_what_the_relay_says_leaves_most_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.core.delivery.rate_limit._NOTICE_SECONDS", 1.0)
    budget, order = Budget(shared=True), list[int]()

    async def note() -> None:
        async with budget.turn(NOON, is_notice=True) as granted:
            if granted:
                order.append(-1)

    notes = [asyncio.create_task(note()) for _ in range(8)]
    while len(order) < 5:  # noqa: ASYNC110 - turns have no event to offer
        await asyncio.sleep(0)
    assert order == [-1] * 5
    assert budget.notices_pile_up()
    await spend(budget, 1, order)
    assert order == [-1] * 5 + [1], "words do not wait for notes"
    async with asyncio.timeout(PATIENCE):
        while len(order) < 7:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert order[:7] == [-1] * 5 + [1, -1]
    budget.close()
    await asyncio.gather(*notes)


async def test_a_refusal_stops_everybody_until_the_platform_said() -> None:
    budget, order = Budget(), list[int]()
    start = asyncio.get_running_loop().time()
    with pytest.raises(RateLimited):
        await spend(budget, 0, [], refuse=0.03)
    await spend(budget, 1, order)
    assert asyncio.get_running_loop().time() - start >= 0.03


async def test_it_learns_what_a_message_takes_and_forgets_it_when_all_is_well() -> None:
    budget, order = Budget(), list[int]()
    for _ in range(3):
        with pytest.raises(RateLimited):
            await spend(budget, 9, [], refuse=0.02)
        waiting = [asyncio.create_task(spend(budget, waited, order)) for waited in (2, 1)]
        await asyncio.sleep(0)
        assert budget.seconds_each() > 0
        await asyncio.gather(*waiting)
    assert budget.seconds_each() == 0
    assert budget.waiting == 0


async def test_a_lane_that_gives_up_does_not_hold_up_the_others() -> None:
    budget, order = Budget(), list[int]()
    with pytest.raises(RateLimited):
        await spend(budget, 0, [], refuse=0.01)
    impatient = asyncio.create_task(spend(budget, 9, order))
    patient = asyncio.create_task(spend(budget, 1, order))
    await asyncio.sleep(0)
    impatient.cancel()
    await patient
    assert order == [1]


async def test_a_turn_is_not_given_to_who_was_cancelled_at_that_moment() -> None:
    budget, order = Budget(), list[int]()
    with pytest.raises(RateLimited):
        await spend(budget, 0, [], refuse=0.01)
    async with budget.turn(NOON):
        impatient = asyncio.create_task(spend(budget, 9, order))
        patient = asyncio.create_task(spend(budget, 1, order))
        await asyncio.sleep(0)
        impatient.cancel()
    await patient
    assert order == [1]


async def test_a_turn_that_takes_long_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.core.delivery.rate_limit._LONGEST_TURN", 0.02)
    budget, order = Budget(), list[int]()
    with pytest.raises(RateLimited):
        await spend(budget, 0, [], refuse=0.01)
    release = asyncio.Event()

    async def upload() -> None:
        async with budget.turn(NOON - timedelta(seconds=9)):
            await release.wait()

    uploading = asyncio.create_task(upload())
    await asyncio.wait_for(spend(budget, 1, order), PATIENCE)
    assert order == [1]
    release.set()
    await uploading
    await spend(budget, 2, order)
    assert order == [1, 2]


async def test_stopping_lets_everybody_go() -> None:
    budget = Budget()
    with pytest.raises(RateLimited):
        await spend(budget, 0, [], refuse=60)

    async def wait() -> bool:
        async with budget.turn(NOON) as granted:
            return granted

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    budget.close()
    assert await waiting is False


async def test_how_long_a_platform_takes_nothing() -> None:
    budgets = Budgets(lambda platform: platform is Platform.MATRIX)
    channel, room = ChannelRef(Platform.DISCORD, "1"), ChannelRef(Platform.MATRIX, "!a:b")
    with pytest.raises(RateLimited):
        await spend(budgets.of(LaneKey(channel, room)), 0, [], refuse=60)
    assert 50 < budgets.seconds_to_wait(Platform.MATRIX) <= 60
    assert budgets.seconds_to_wait(Platform.DISCORD) == 0
