"""Several relays on the same accounts: at any moment at most one of them mirrors a pair."""

import asyncio
import random
from dataclasses import replace

import pytest

from relay.core.claims.board import claims_in, value_name
from relay.core.claims.register import Ask, Claim
from tests.support.claim_histories import play_history
from tests.support.logs import captured_logs
from tests.support.relays import PAIRS, Account, Relay, play, until


def test_the_second_one_waits_and_goes_on_where_the_first_one_ends() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        second.start()
        await until(second.claims.begun.is_set)
        assert "--take-over" in second.switch.reasons["100"]
        assert "process 1 on a" in second.switch.reasons["100"]
        await asyncio.sleep(1_000)
        writes = account.writes
        await asyncio.sleep(10_000)
        assert account.writes == writes
        assert (first.works, second.works) == (PAIRS, frozenset())
        await first.stop()
        await until(lambda: second.works == PAIRS)
        assert second.switch.started == {key: {"x": f"a {key}"} for key in PAIRS}
        assert not second.switch.reasons

    play(story)


def test_who_waits_does_not_take_from_who_crashes() -> None:
    async def story() -> None:
        account, rng, dead = Account(), random.Random(1), set[str]()
        first, second = Relay("a", account, rng, dead), Relay("b", account, rng, dead)
        first.start()
        await until(lambda: first.works == PAIRS)
        second.start()
        await until(second.claims.begun.is_set, 5)
        await first.kill(seen=True)
        # It may come back at any moment, and then it reads what was missed.
        await asyncio.sleep(3600)
        assert second.works == frozenset()
        assert "start that one again, and nothing is lost" in second.switch.reasons["100"]
        first.start()
        await until(lambda: first.works == PAIRS, 2)
        await first.kill(seen=True)
        await second.kill()
        second.start()
        await until(lambda: second.works == PAIRS, 2)

    play(story)


@pytest.mark.parametrize("end", ["removed", "removed while it was away"])
def test_a_pair_that_somebody_has_had_since_is_not_read_from_where_the_one_before_ended(end: str) -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second, third = (Relay(name, account, rng) for name in "abc")
        first.start()
        await until(lambda: first.works == PAIRS)
        await first.stop()
        second.start()
        await until(lambda: second.works == PAIRS)
        await asyncio.sleep(3600)
        if end == "removed":
            await second.claims.declared(frozenset())
        else:
            await second.kill()
            second.start(wanted=frozenset())
        third.start()
        await until(lambda: third.works == PAIRS)
        assert not any(third.switch.started.values())

    play(story)


def test_a_pair_that_comes_back_is_not_read_from_where_another_one_ended_while_it_was_not_declared() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        second.start()
        await until(second.claims.begun.is_set)
        await second.claims.declared(frozenset())
        await first.stop()
        await asyncio.sleep(3600)
        await second.claims.declared(PAIRS)
        await until(lambda: second.works == PAIRS)
        assert second.switch.started == {key: {} for key in PAIRS}

    play(story)


def test_who_begins_later_reads_nothing_twice_although_it_is_started_again_before() -> None:
    async def story() -> None:
        account, rng, dead = Account(), random.Random(1), set[str]()
        first, second = Relay("a", account, rng, dead), Relay("b", account, rng, dead)
        second.start()
        await until(lambda: second.works == PAIRS)
        await second.kill(seen=True)
        for _ in range(2):
            first.start(known={key: {"x": f"a {key}"} for key in PAIRS})
            first.switch.ready = False
            await until(lambda: any(claim.left for claim in claims_in(account.value)))
            await until(first.claims.begun.is_set)
            assert first.works == frozenset()
            await first.kill()
        first.start(known={key: {"x": f"a {key}"} for key in PAIRS})
        await until(lambda: first.works == PAIRS)
        assert first.switch.started == {key: {} for key in PAIRS}

    play(story)


def test_nobody_mirrors_what_it_has_not_said_to_be_sure_of() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        assert not any(claim.pending for claim in claims_in(account.value))
        second.start(take_over=True)
        await until(lambda: second.works == PAIRS)
        assert not any(claim.pending for claim in claims_in(account.value))

    play(story)


def test_what_was_left_is_not_forgotten_although_it_is_not_known_whether_the_next_one_is_sure() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start(wanted=PAIRS | {"300"})
        await until(lambda: first.works == PAIRS | {"300"})
        second.start(take_over=True)
        await until(lambda: any(claim.pending for claim in claims_in(account.value)))
        [pending] = [claim for claim in claims_in(account.value) if claim.pending]
        second.line.lateness = 1.0
        await until(lambda: bool(second.line.late))
        [late] = second.line.late
        late.cancel()
        # It arrives, and while it is not known to the second one, the first one tidies up.
        await account.replace(value_name(pending), replace(pending, pending=frozenset()).as_json())
        ask = Claim("c", "c", "c", "", 1, "c 1", "", ask=Ask("n", frozenset({"300"}), False, 99), turn=1)
        await account.replace(value_name(ask), ask.as_json())
        await until(lambda: not any(claim.left for claim in claims_in(account.value)))
        second.line.lateness = 0.0
        await until(lambda: second.works == PAIRS)
        assert second.switch.started == {key: {"x": f"a {key}"} for key in PAIRS}

    play(story)


def test_who_is_asked_just_when_it_starts_again_reads_on_from_its_own_place() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay = Relay("a", account, rng)
        relay.start()
        await until(lambda: relay.works == PAIRS)
        await relay.kill()
        relay.start()
        turn = claims_in(account.value)[0].turn
        await until(lambda: claims_in(account.value)[0].turn > turn)
        ask = Claim("b", "b", "b", "", 1, "b 1", "", ask=Ask("n", PAIRS, False, 99), turn=1)
        await account.replace(value_name(ask), ask.as_json())
        await until(lambda: relay.works == PAIRS, 5)
        assert not relay.switch.started
        await until(lambda: any("n" in claim.answers for claim in claims_in(account.value)), 5)

    play(story)


def test_while_the_platform_is_away_it_is_said_less_and_less_that_nothing_can_be_agreed() -> None:
    async def story() -> None:
        account = Account()
        relay = Relay("a", account, random.Random(1))
        relay.start()
        await until(lambda: relay.works == PAIRS)
        with captured_logs() as lines:
            relay.line.up = False
            await until(lambda: sum("cannot be agreed" in line["event"] for line in lines) == 3, 1000)
        # The log shows the first, the second, the fourth of them, and so on.
        assert [line["tries"] for line in lines if "cannot be agreed" in line["event"]] == [1, 2, 3]

    play(story)


def test_who_answers_long_after_another_one_has_its_time_to_hand_over() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second, third = (Relay(name, account, rng) for name in "abc")
        first.start(wanted=frozenset({"100"}))
        second.start(wanted=frozenset({"200"}))
        await until(lambda: first.works == {"100"} and second.works == {"200"})
        second.switch.takes = 120.0
        second.line.running.clear()
        third.start(take_over=True)
        await until(lambda: third.works == {"100"}, 100)
        await asyncio.sleep(250)
        second.line.running.set()
        await until(lambda: third.works == PAIRS, 400)
        assert third.switch.started == {"100": {"x": "a 100"}, "200": {"x": "b 200"}}

    play(story)


@pytest.mark.parametrize("later", [0.02, 0.05, 0.08, 0.12])
def test_who_is_stopped_while_it_starts_goes_on_where_the_last_one_ended(later: float) -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        second.start(known={key: {"x": "long ago"} for key in PAIRS})
        await asyncio.sleep(later)
        second.line.running.clear()
        first.start()
        await until(lambda: first.works == PAIRS, 400)
        await first.stop()
        second.line.running.set()
        await until(lambda: second.works == PAIRS, 400)
        assert second.switch.started == {key: {"x": f"a {key}"} for key in PAIRS}

    play(story)


@pytest.mark.parametrize("later", [0.05, 0.1, 0.15, 0.2])
def test_who_is_stopped_while_it_reads_goes_on_where_the_last_one_ended(later: float) -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second, third = (Relay(name, account, rng) for name in "abc")
        first.start()
        await until(lambda: first.works == PAIRS)
        third.start()
        await until(lambda: third.switch.reasons.keys() == PAIRS and third.claims.begun.is_set())
        await first.stop()
        await asyncio.sleep(later)
        third.line.running.clear()
        second.start(take_over=True)
        await until(lambda: second.works == PAIRS, 400)
        await second.stop()
        third.line.running.set()
        await until(lambda: third.works == PAIRS, 400)
        assert third.switch.started == {key: {"x": f"b {key}"} for key in PAIRS}

    play(story)


def test_a_fault_in_the_register_ends_no_relay() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay = Relay("a", account, rng)
        relay.start()
        await until(lambda: relay.works == PAIRS)
        relay.line.faults = 3
        await until(lambda: relay.line.faults == 0)
        await asyncio.sleep(60)
        assert relay.works == PAIRS

    play(story)


def test_a_restart_on_the_same_store_waits_for_nothing() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay = Relay("a", account, rng)
        for _ in range(3):
            relay.start()
            await until(lambda: relay.works == PAIRS, 2)
            await relay.kill()
        relay.start()
        await until(lambda: relay.works == PAIRS, 2)
        await relay.stop()
        relay.start()
        await until(lambda: relay.works == PAIRS, 2)

    play(story)


def test_who_was_stopped_for_long_sends_nothing_when_it_goes_on() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        first.line.running.clear()
        second.start(take_over=True)
        await until(lambda: second.works == PAIRS)
        first.line.running.set()
        assert first.works == frozenset()
        await asyncio.sleep(60)
        assert (first.works, second.works) == (frozenset(), PAIRS)
        assert set(first.switch.set_aside) == PAIRS

    play(story)


def test_who_was_stopped_and_replaced_sends_nothing_of_its_own_although_nobody_is_there_any_more() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        first.line.running.clear()
        second.start(take_over=True)
        await until(lambda: second.works == PAIRS)
        await second.stop()
        first.line.running.set()
        await until(lambda: first.works == PAIRS)
        assert set(first.switch.set_aside) == PAIRS
        assert first.switch.started == {key: {"x": f"b {key}"} for key in PAIRS}

    play(story)


def test_who_was_replaced_and_has_its_pair_removed_and_added_again_sends_nothing_of_what_waited() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        first.line.up = False
        first.line.running.clear()
        second.start(take_over=True)
        await until(lambda: second.works == PAIRS)
        await second.stop()
        # It goes on, and has not read yet what has become of its pairs.
        first.line.running.set()
        for keys in (frozenset[str](), PAIRS):
            await first.claims.before_declaring(keys)
            await first.claims.declared(keys)
        first.line.up = True
        await until(lambda: first.works == PAIRS)
        assert set(first.switch.set_aside) == PAIRS

    play(story)


def test_what_waits_in_a_pair_that_is_removed_and_comes_back_is_sent_if_nobody_else_had_it() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay, other = Relay("a", account, rng), Relay("b", account, rng)
        other.start(wanted=frozenset({"300"}))
        relay.start()
        await until(lambda: relay.works == PAIRS)
        await relay.claims.declared(frozenset())
        await until(lambda: not any("100" in claim.channels for claim in claims_in(account.value)))
        await relay.claims.declared(frozenset({"100"}))
        await until(lambda: relay.works == {"100"})
        await relay.kill()
        relay.start(known={key: {"x": f"a {key}"} for key in PAIRS})
        await until(lambda: relay.works == PAIRS, 2)
        assert not relay.switch.set_aside

    play(story)


def test_where_the_platform_keeps_no_such_data_everything_is_ours() -> None:
    async def story() -> None:
        account, rng = Account(refused=True), random.Random(1)
        relay = Relay("a", account, rng)
        relay.start()
        await until(lambda: relay.works == PAIRS, 2)
        await asyncio.sleep(1_000)
        assert relay.works == PAIRS

    play(story)


def test_a_pair_that_is_added_later_is_claimed_first() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start(wanted=frozenset({"100"}))
        second.start(wanted=frozenset({"200"}))
        await until(lambda: first.works == {"100"} and second.works == {"200"})
        with captured_logs() as lines:
            await second.claims.before_declaring(PAIRS | {"300"})
        assert not any("left no word" in line["event"] for line in lines)
        assert second.works == {"200", "300"}
        assert "process 1 on a" in second.switch.reasons["100"]
        await second.claims.declared(PAIRS | {"300"})
        await first.claims.declared(frozenset())
        await until(lambda: second.works == {"100", "200", "300"}, 5)

    play(story)


def test_a_pair_that_is_removed_while_it_is_claimed_is_free() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        second.start()
        await until(second.claims.begun.is_set)
        await first.stop()
        await until(lambda: bool(second.switch.started))
        await second.claims.declared(frozenset())
        await asyncio.sleep(100)
        assert not any(claim.channels for claim in claims_in(account.value))

    play(story)


# In the last one, a relay dies with a claim that it is not sure of, whose number is that of one who is.
@pytest.mark.parametrize("seed", [*range(12), 311981])
def test_no_pair_is_ever_mirrored_twice(seed: int) -> None:
    wrong, story = play_history(seed)
    assert not wrong, "\n".join([*story, wrong])
