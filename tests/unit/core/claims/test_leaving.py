"""Several relays on the same accounts: what one hands over, another one goes on with, and nothing is sent twice."""

import asyncio
import random

import pytest

from relay.core.claims.agreement import SILENCE_SECONDS
from relay.core.claims.board import claims_in
from tests.support.logs import captured_logs
from tests.support.relays import PAIRS, Account, Relay, play, until


def test_taking_over_hands_over_what_was_read() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        with captured_logs() as lines:
            second.start(take_over=True)
            await until(lambda: second.works == PAIRS, 20)
        # Nobody is told to do what they have done.
        assert not any("--take-over" in line.get("remedy", "") for line in lines if "process 1 on a" in str(line))
        assert second.switch.started == {key: {"x": f"a {key}"} for key in PAIRS}
        assert "process 1 on b" in first.switch.reasons["100"]
        assert not first.switch.set_aside
        # And back, without a word about it.
        await second.stop()
        await until(lambda: first.works == PAIRS, 20)
        assert first.switch.started == {key: {"x": f"b {key}"} for key in PAIRS}

    play(story)


def test_who_takes_back_what_it_has_handed_over_reads_on_from_there() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        before, slow, first, second = (Relay(name, account, rng) for name in "cdab")
        before.start(wanted=frozenset({"100"}))
        slow.start(wanted=frozenset({"200"}))
        await until(lambda: before.works | slow.works == PAIRS)
        slow.switch.takes = 170.0
        first.start(take_over=True)
        await until(lambda: first.works == {"100"})
        assert first.switch.started == {"100": {"x": "c 100"}}
        second.start(take_over=True, wanted=frozenset({"100"}))
        # Of two that want to take over, the first goes before the second.
        await until(lambda: first.works == frozenset())
        await until(lambda: first.works == {"100"})
        assert first.switch.started == {"100": {"x": "a 100"}}

    play(story)


def test_who_takes_over_has_also_what_it_begins_with_later() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second, third, fourth = (Relay(name, account, rng) for name in ("a1", "b", "c", "a2"))
        first.start(wanted=frozenset({"100"}))
        second.start(wanted=frozenset({"200"}))
        await until(lambda: (first.works, second.works) == (frozenset({"100"}), frozenset({"200"})))
        third.start()
        await until(third.claims.begun.is_set)
        fourth.start(take_over=True)
        await until(lambda: fourth.works == PAIRS)

    play(story)


def test_who_hands_over_takes_back_what_the_other_one_did_not_live_to_take() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        second.start(take_over=True)
        await until(lambda: any(claim.ask for claim in claims_in(account.value)))
        await second.kill()
        await until(lambda: first.works == frozenset())
        await until(lambda: first.works == PAIRS, 3 * SILENCE_SECONDS)
        assert first.switch.started == {key: {"x": f"a {key}"} for key in PAIRS}
        # The question of who is dead still stands. It is not followed again.
        for _ in range(500):
            await asyncio.sleep(1)
            assert first.works == PAIRS

    play(story)


def test_while_it_hands_over_it_may_deliver_and_shows_that_it_lives() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second, third = (Relay(name, account, rng) for name in "abc")
        first.start()
        await until(lambda: first.works == PAIRS)
        first.switch.takes = 110.0
        second.start(take_over=True)
        await until(lambda: first.works == frozenset())
        third.start()
        for _ in range(100):
            await asyncio.sleep(1)
            assert first.claims.valid()
            assert second.works == third.works == frozenset()
        await until(lambda: second.works == PAIRS, 20)
        assert second.switch.started == {key: {"x": f"a {key}"} for key in PAIRS}

    play(story)


def test_what_is_handed_over_is_left_alone_before_the_next_one_is_handed_over() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second, third = (Relay(name, account, rng) for name in "abc")
        first.start()
        await until(lambda: first.works == PAIRS)
        first.switch.takes = 30.0
        second.start(take_over=True, wanted=frozenset({"100"}))
        await until(lambda: first.works == {"200"})
        third.start(take_over=True, wanted=frozenset({"200"}))
        await until(lambda: any("100" in claim.left for claim in claims_in(account.value)))
        assert "100" in first.switch.reasons
        await until(lambda: (second.works, third.works) == (frozenset({"100"}), frozenset({"200"})))

    play(story)


@pytest.mark.parametrize("later", [0.0, 1.0])
def test_who_waits_takes_nothing_from_a_relay_that_hands_over_to_another_one_first(later: float) -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second, third = (Relay(name, account, rng) for name in "abc")
        first.start()
        await until(lambda: first.works == PAIRS)
        first.switch.takes = 120.0
        first.line.running.clear()
        second.start(take_over=True, wanted=frozenset({"100"}))
        await until(lambda: any(claim.ask for claim in claims_in(account.value)))
        if later:
            first.line.running.set()
            await until(lambda: first.works == {"200"})
        third.start(take_over=True, wanted=frozenset({"200"}))
        await asyncio.sleep(1)
        first.line.running.set()
        await until(lambda: second.works == {"100"} and third.works == {"200"}, 400)
        assert third.switch.started == {"200": {"x": "a 200"}}

    play(story)


def test_while_it_hands_over_without_the_platform_it_is_said_less_and_less_that_nothing_can_be_read() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        first.switch.takes = 120.0
        with captured_logs() as lines:
            second.start(take_over=True)
            await until(lambda: any(line["event"] == "handing over to another relay" for line in lines), 400)
            first.line.up = False
            await until(lambda: sum("cannot be read or written" in line["event"] for line in lines) == 3, 400)
        assert [line["tries"] for line in lines if "cannot be read or written" in line["event"]] == [1, 2, 3]

    play(story)


def test_what_could_not_be_handed_over_is_left_alone_all_the_same() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        first.switch.full = True
        second.start(take_over=True)
        await until(lambda: first.works == frozenset())
        assert first.switch.reasons.keys() == PAIRS

    play(story)


def test_what_is_handed_over_by_a_relay_that_had_been_replaced_before_is_not_sent_later() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second, third = (Relay(name, account, rng) for name in "abc")
        first.start()
        await until(lambda: first.works == PAIRS)
        first.switch.takes = 10.0
        second.start(take_over=True)
        await until(lambda: first.works == frozenset())
        # It is stopped before it has delivered all, and taken for dead.
        first.line.running.clear()
        await second.kill()
        third.start(take_over=True)
        await until(lambda: third.works == PAIRS, 400)
        await third.stop()
        first.line.running.set()
        await until(lambda: first.works == PAIRS, 400)
        assert set(first.switch.set_aside) == PAIRS

    play(story)


def test_a_pair_that_is_added_while_others_are_handed_over_loses_nothing_of_them() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        first.switch.takes = 30.0
        second.start(take_over=True)
        await until(lambda: any(claim.ask for claim in claims_in(account.value)))
        # Nobody waits for the handover before it is declared, and what is handed over is still delivered.
        await first.claims.before_declaring(PAIRS | {"300"})
        await first.claims.declared(PAIRS | {"300"})
        assert first.switch.reasons.keys() == {"300"}
        await until(lambda: (first.works, second.works) == (frozenset({"300"}), PAIRS))
        assert second.switch.started == {key: {"x": f"a {key}"} for key in PAIRS}

    play(story)
