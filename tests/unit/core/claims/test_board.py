"""What stands in the register, and what counts of it."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from relay.core.claims.board import claims_in, value_name
from relay.core.claims.register import Ask, Claim
from tests.support.relays import PAIRS, Account, Relay, play, until


def values(account: Account) -> dict[str, Any]:
    return {name: value for name, value in account.value.items() if value}


def test_what_stands_in_the_register_may_be_anything() -> None:
    odd: list[Any] = [
        {},
        {"store": 2},
        {"store": "x", "ask": 1, "left": {"a": 1}},
        {"store": "x", "turn": True, "numbers": {"1": "a", "2": -1, "3": 10**30}, "left_numbers": 1, "pending": 2},
    ]
    for value in odd:
        assert claims_in({"": value, "some.1": value, "some": value}) == []
    claim = Claim("s", "f", "h", "b", 1, "p", "now", frozenset({"1"}), answers=frozenset({"n"}), left={"2": {"x": "y"}})
    assert claims_in({f"{claim.place()}.0": claim.as_json()}) == []
    ask = Ask("n", frozenset({"3"}), True, 5)
    own = replace(claim, ask=ask, numbers={"1": 4}, left_numbers={"2": 3}, pending=frozenset({"1"}), turn=513)
    assert claims_in({f"{own.place()}.1": own.as_json()}) == [own]
    # A value that is not its relay's own says nothing.
    assert claims_in({f"{own.place()}.2": own.as_json(), "some.1": own.as_json()}) == []


def test_a_relay_has_one_value_however_often_it_starts_or_gives_up_on_a_request() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay = Relay("a", account, rng, lateness=0.3)
        for _ in range(10):
            relay.start()
            await until(lambda: relay.works == PAIRS)
            await until(lambda: len(values(account)) == 1)
            await relay.kill()
            # What is still on the way arrives.
            await asyncio.sleep(150)

    play(story)


def test_a_late_request_changes_nothing() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay = Relay("a", account, rng)
        relay.start()
        await until(lambda: relay.works == PAIRS)
        [(name, value)] = values(account).items()
        await relay.kill()
        relay.start()
        await until(lambda: relay.works == PAIRS)
        now = claims_in(account.value)
        await account.replace(name, {**value, "channels": []})
        assert claims_in(account.value) == now

    play(story)


def test_a_value_is_not_emptied_shortly_before_it_is_used_again() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay = Relay("a", account, rng)
        relay.start()
        await until(lambda: relay.works == PAIRS)
        [(name, value)] = values(account).items()
        place, _, number = name.partition(".")
        # In 20 seconds a turn may begin in it.
        former = f"{place}.{(int(number) + 40) % 512}"
        await account.replace(former, value)
        await asyncio.sleep(15)
        assert values(account).keys() == {name, former}
        await until(lambda: values(account).keys() == {name}, 30)

    play(story)


def test_the_last_word_of_a_process_does_not_replace_what_the_next_one_says_although_it_was_not_seen() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(2)
        relay = Relay("a", account, rng, lateness=1.0)
        relay.start()
        await until(lambda: bool(relay.line.late))
        [late] = relay.line.late
        await relay.kill()
        relay.lateness = 0.0
        relay.start()
        await until(lambda: relay.works == PAIRS and not any(claim.pending for claim in claims_in(account.value)), 3)
        assert not late.done()
        now = claims_in(account.value)
        await late
        assert len(values(account)) == 2
        assert claims_in(account.value) == now

    play(story)


def test_who_was_taken_for_dead_and_goes_on_in_our_place_has_not_the_last_word() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay = Relay("a", account, rng)
        relay.start()
        await until(lambda: relay.works == PAIRS)
        [claim] = claims_in(account.value)
        other = replace(claim, turn=claim.turn + 200, channels=frozenset(), started="a 0")
        await account.replace(value_name(other), other.as_json())
        await until(lambda: [claim.started for claim in claims_in(account.value)] == ["a 1"], 60)
        assert relay.works == PAIRS

    play(story)


def test_what_somebody_leaves_while_we_claim_it_does_not_count_beside_our_claim() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay = Relay("a", account, rng)
        relay.start()
        await until(lambda: any(claim.pending for claim in claims_in(account.value)))
        # Claimed at the same moment, and left again.
        left = {key: {"x": f"b {key}"} for key in PAIRS}
        numbers = claims_in(account.value)[0].numbers
        other = Claim("b", "b", "b", "", 1, "b 1", "", left=left, left_numbers=numbers, turn=1)
        await account.replace(value_name(other), other.as_json())
        await until(lambda: relay.works == PAIRS)
        assert not any(claim.left for claim in claims_in(account.value))

    play(story)


def test_who_has_lost_its_store_says_nothing_in_the_place_of_the_next_process() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay = Relay("a", account, rng)
        relay.start()
        await until(lambda: relay.works == PAIRS and account.writes > 1)
        await asyncio.sleep(60)
        relay.has_lease, writes = False, account.writes
        await relay.claims.declared(frozenset())
        await asyncio.sleep(100)
        assert account.writes == writes
        relay.has_lease = True
        await until(lambda: account.writes > writes)

    play(story)


def test_what_earlier_boots_have_left_is_emptied_when_nothing_of_it_counts() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        for boot in range(3):
            earlier = Relay("a", account, rng, boot=f"boot {boot}")
            earlier.start()
            await until(earlier.claims.begun.is_set)
            await earlier.stop()
        # What somebody else has said still counts.
        other, relay = Relay("b", account, rng), Relay("a", account, rng, boot="boot 3")
        other.start(wanted=frozenset({"300"}))
        relay.start()
        await until(lambda: relay.works == PAIRS)
        assert len(values(account)) == 5
        await asyncio.sleep(3600)
        await until(lambda: len(values(account)) == 2, 400)
        writes = account.writes
        await asyncio.sleep(100)
        assert (relay.works, other.works) == (PAIRS, frozenset({"300"}))
        assert account.writes == writes

    play(story)


@pytest.mark.parametrize("copied", ["store", "machine"])
def test_nobody_empties_again_and_again_what_a_copy_that_waits_says(copied: str) -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        relay, copy = Relay("a1", account, rng, boot="1"), Relay("a2", account, rng, boot="2")
        if copied == "machine":
            copy = Relay("a1", account, rng, boot="2")
        relay.start()
        await until(lambda: relay.works == PAIRS)
        copy.start()
        await until(copy.claims.begun.is_set)
        await relay.kill()
        relay.start()
        await until(lambda: relay.works == PAIRS)
        await asyncio.sleep(3700)
        # Something changes, so both look.
        await account.replace("another.1", {})
        await asyncio.sleep(200)
        writes = account.writes
        await asyncio.sleep(200)
        assert account.writes == writes
        assert {claim.boot for claim in claims_in(account.value)} == {"1", "2"}

    play(story)
