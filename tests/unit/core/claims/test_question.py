"""What relays ask each other, and what becomes of the answers."""

import asyncio
import random
from dataclasses import replace

import pytest

from relay.core.claims.agreement import RIGHT_SECONDS, SILENCE_SECONDS
from relay.core.claims.board import claims_in, value_name
from relay.core.claims.register import Ask, Claim
from tests.support.relays import PAIRS, Account, Relay, play, until


def test_a_question_that_was_given_up_on_and_arrived_is_over_some_time() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        second.start(take_over=True)
        await until(lambda: any(claim.ask for claim in claims_in(account.value)))
        await second.kill()
        await until(lambda: not any(claim.channels for claim in claims_in(account.value)))
        first.line.lateness = 1.0
        await until(lambda: any(claim.ask and not claim.ask.take for claim in claims_in(account.value)))
        first.line.lateness = 0.0
        await until(lambda: first.works == PAIRS, 3 * SILENCE_SECONDS)

    play(story)


def test_of_two_that_ask_for_the_same_each_has_its_answer() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        second.start(take_over=True)
        await until(lambda: any(claim.answers for claim in claims_in(account.value)))
        # Just after the first one has answered, and before it reads that.
        late = Claim("c", "c", "c", "", 1, "c 1", "", ask=Ask("n", PAIRS, True, 99), turn=1)
        await account.replace(value_name(late), late.as_json())
        await until(lambda: second.works == PAIRS, 20)
        assert account.writes < 20

    play(story)


def test_who_waits_for_one_relay_takes_nothing_from_another_one() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second, third = (Relay(name, account, rng) for name in "abc")
        first.start()
        await until(lambda: first.works == PAIRS)
        first.switch.takes = 1_000.0
        second.start(take_over=True)
        await asyncio.sleep(1)
        third.start(take_over=True)
        await until(lambda: second.works == PAIRS, 370)
        # Now the third one has waited long enough as well, for the first one.
        second.line.up = False
        for _ in range(500):
            await asyncio.sleep(0.01)
            assert (second.works, third.works) == (PAIRS, frozenset())

    play(story)


@pytest.mark.parametrize("withdrawn", [True, False])
def test_who_holds_pairs_sets_nothing_aside_for_a_claim_that_may_be_withdrawn(withdrawn: bool) -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay = Relay("a", account, rng)
        relay.start()
        await until(lambda: relay.works == PAIRS)
        await asyncio.sleep(10)
        numbers = dict.fromkeys(PAIRS, 99)
        other = Claim("b", "b", "b", "", 1, "b 1", "", channels=PAIRS, pending=PAIRS, numbers=numbers, turn=1)
        await account.replace(value_name(other), other.as_json())
        for _ in range(10):
            await asyncio.sleep(1)
            assert relay.works == PAIRS
        if withdrawn:
            await account.replace(value_name(other), replace(other, channels=frozenset()).as_json())
            await asyncio.sleep(100)
            assert relay.works == PAIRS
            assert not relay.switch.set_aside
        else:
            # It may have begun.
            await until(lambda: relay.works == frozenset(), RIGHT_SECONDS)
            await until(lambda: relay.works == PAIRS, 3 * SILENCE_SECONDS)

    play(story)


def test_a_claim_that_nobody_was_ever_sure_of_hinders_nobody_for_ever() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        before, relay = Relay("c", account, rng), Relay("a", account, rng)
        before.start()
        await until(lambda: before.works == PAIRS)
        await before.stop()
        relay.start()
        await until(lambda: any(claim.pending for claim in claims_in(account.value)))
        # The last request of a process that has ended arrives.
        numbers = dict.fromkeys(PAIRS, 99)
        late = Claim("b", "b", "b", "", 1, "b 1", "", channels=PAIRS, pending=PAIRS, numbers=numbers, turn=1)
        await account.replace(value_name(late), late.as_json())
        await until(lambda: relay.works == PAIRS)
        # And what the one before has read is not forgotten for it.
        assert relay.switch.started == {key: {"x": f"c {key}"} for key in PAIRS}

    play(story)


def test_who_answers_loses_nothing_for_another_one_that_claimed_with_the_same_number_and_is_silent() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, third = Relay("a", account, rng), Relay("c", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        [claim] = claims_in(account.value)
        second = Claim("b", "b", "b", "", 1, "b 1", "", channels=PAIRS, pending=PAIRS, numbers=claim.numbers, turn=1)
        await account.replace(value_name(second), second.as_json())
        third.start()
        for _ in range(100):
            await asyncio.sleep(1)
            assert (first.works, third.works) == (PAIRS, frozenset())

    play(story)


@pytest.mark.parametrize("above", [0, 1])
def test_who_lives_loses_nothing_for_another_one_that_claimed_too_and_has_ended(above: int) -> None:
    async def story() -> None:
        account, rng, dead = Account(), random.Random(1), {"b 1"}
        first, third = Relay("a1", account, rng, dead), Relay("a2", account, rng, dead)
        first.start()
        await until(lambda: first.works == PAIRS)
        # Claimed at the same moment, or by a request that arrives late.
        numbers = {key: number + above for key, number in claims_in(account.value)[0].numbers.items()}
        second = Claim("b", "b", "b", "", 1, "b 1", "", channels=PAIRS, pending=PAIRS, numbers=numbers, turn=1)
        await account.replace(value_name(second), second.as_json())
        third.start()
        for _ in range(1_000):
            await asyncio.sleep(0.1)
            assert not first.works & third.works

    play(story)


def test_who_takes_over_from_the_dead_is_not_asked_at_every_try_whether_it_lives() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second, third = (Relay(name, account, rng) for name in "abc")
        first.start()
        await until(lambda: first.works == PAIRS)
        second.start(take_over=True)
        await until(lambda: any(claim.ask for claim in claims_in(account.value)))
        await second.kill()
        await until(lambda: first.works == frozenset())
        third.start(take_over=True)
        await until(lambda: first.works == PAIRS or third.works == PAIRS, 8 * SILENCE_SECONDS)

    play(story)


def test_who_hands_over_sets_nothing_aside_for_a_claim_that_may_be_withdrawn() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        first.switch.takes = 30.0
        second.start(take_over=True)
        await until(lambda: first.works == frozenset())
        numbers = dict.fromkeys(PAIRS, 99)
        other = Claim("c", "c", "c", "", 1, "c 1", "", channels=PAIRS, pending=PAIRS, numbers=numbers, turn=1)
        await account.replace(value_name(other), other.as_json())
        await asyncio.sleep(10)
        assert not first.switch.set_aside
        await account.replace(value_name(other), replace(other, channels=frozenset()).as_json())
        await until(lambda: second.works == PAIRS)
        assert second.switch.started == {key: {"x": f"a {key}"} for key in PAIRS}

    play(story)


def test_nobody_asks_for_ever_about_a_dead_relay_that_wanted_what_another_one_holds() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng, {"c 1"}), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        # Only the first one sees that it has ended.
        dead = Claim("c", "c", "c", "", 1, "c 1", "", ask=Ask("n", PAIRS, True, 99), turn=1)
        await account.replace(value_name(dead), dead.as_json())
        second.start()
        await asyncio.sleep(300)
        writes = account.writes
        await asyncio.sleep(1_000)
        assert (first.works, account.writes) == (PAIRS, writes)

    play(story)
