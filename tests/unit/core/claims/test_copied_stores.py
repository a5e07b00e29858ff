"""Several relays on the same accounts whose stores were lost, copied, restored or away for a while."""

import asyncio
import random

import pytest

from relay.core.claims.agreement import SILENCE_SECONDS
from relay.core.claims.board import claims_in
from relay.core.claims.register import Claim
from tests.support.logs import captured_logs
from tests.support.relays import PAIRS, Account, Relay, play, until


@pytest.mark.parametrize("seen", [True, False])
def test_after_a_lost_volume_the_new_store_has_the_pairs_as_soon_as_the_old_one_can_be_dead(seen: bool) -> None:
    async def story() -> None:
        account, rng, dead = Account(), random.Random(1), set[str]()
        first, second = Relay("a", account, rng, dead), Relay("b", account, rng, dead)
        first.start()
        await until(lambda: first.works == PAIRS)
        await first.kill(seen=seen)
        second.start()
        took = await until(lambda: second.works == PAIRS)
        assert took < 2 if seen else SILENCE_SECONDS <= took < SILENCE_SECONDS + 5
        # Nothing is held back on the way: what is said once it is ready crosses.
        assert not second.switch.reasons
        assert not second.switch.set_aside
        # And now the first one is the one that waits.
        first.start()
        await until(first.claims.begun.is_set)
        assert (first.works, second.works) == (frozenset(), PAIRS)
        assert set(first.switch.set_aside) == PAIRS

    play(story)


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_store_that_was_away_does_not_read_again_what_another_one_has_read(end: str) -> None:
    async def story() -> None:
        account, rng, dead = Account(), random.Random(1), set[str]()
        first, second = Relay("a", account, rng, dead), Relay("b", account, rng, dead)
        first.start()
        await until(lambda: first.works == PAIRS)
        await first.stop()
        second.start()
        await until(lambda: second.works == PAIRS, 2)
        await asyncio.sleep(3600)
        await (second.stop() if end == "stopped" else second.kill())
        first.start(known={key: {"x": f"a {key}"} for key in PAIRS})
        first.switch.ready = False
        await until(first.claims.begun.is_set)
        assert first.works == frozenset()
        assert set(first.switch.set_aside) == PAIRS
        # Where it reads on is only written down once both sides have begun to read without these pairs.
        await asyncio.sleep(100)
        assert first.works == frozenset()
        first.switch.ready = True
        await until(lambda: first.works == PAIRS, 5)
        assert first.switch.started == {key: {"x": f"b {key}"} if end == "stopped" else {} for key in PAIRS}
        # What was told once is not used again.
        await asyncio.sleep(5)
        assert not any(claim.left for claim in claims_in(account.value))

    play(story)


def test_a_pair_that_another_store_has_had_since_is_not_read_from_our_own_place_when_it_comes_back() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        for relay in (first, second):
            relay.start()
            await until(lambda relay=relay: relay.works == PAIRS)  # type: ignore[misc]
            await relay.claims.declared(frozenset())
            await until(lambda: not any(claim.channels for claim in claims_in(account.value)))
        await first.kill()
        first.start(known={key: {"x": f"a {key}"} for key in PAIRS})
        await until(lambda: first.works == PAIRS)
        assert first.switch.started == {key: {} for key in PAIRS}

    play(story)


def test_a_copied_machine_is_another_one() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        old, copy = Relay("a", account, rng, boot="1"), Relay("a", account, rng, boot="2")
        old.start()
        await until(lambda: old.works == PAIRS)
        copy.start()
        await until(copy.claims.begun.is_set)
        assert (old.works, copy.works) == (PAIRS, frozenset())

    play(story)


def test_a_restored_backup_waits_only_as_long_as_the_dead_may_be_silent() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        old, new = Relay("a1", account, rng), Relay("a2", account, rng)
        old.start()
        await until(lambda: old.works == PAIRS)
        await old.kill()
        new.start()
        assert await until(lambda: new.works == PAIRS) < SILENCE_SECONDS + 5

    play(story)


def test_a_restored_backup_does_not_disturb_the_one_that_lives() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        old, new = Relay("a1", account, rng), Relay("a2", account, rng)
        old.start()
        await until(lambda: old.works == PAIRS)
        new.start()
        await until(new.claims.begun.is_set, 5)
        await asyncio.sleep(300)
        assert (old.works, new.works) == (PAIRS, frozenset())
        assert "process 1 on a1" in new.switch.reasons["100"]
        await old.stop()
        await until(lambda: new.works == PAIRS, 5)
        assert new.switch.started == {key: {"x": f"a1 {key}"} for key in PAIRS}

    play(story)


@pytest.mark.parametrize("end", ["stopped", "killed", "killed on another machine"])
def test_who_is_started_again_after_a_copy_of_its_store_has_served_reads_nothing_twice(end: str) -> None:
    async def story() -> None:
        account, rng, dead = Account(), random.Random(1), set[str]()
        copy, old = Relay("a2", account, rng, dead), Relay("a1", account, rng, dead)
        copy.start()
        await until(lambda: copy.works == PAIRS)
        if end == "stopped":
            await copy.stop()
            dead.add(copy.claims.me.started)
        else:
            await copy.kill(seen=end == "killed")
        with captured_logs() as lines:
            old.start(known={key: {"x": "long ago"} for key in PAIRS})
            await until(lambda: old.works == PAIRS)
        assert old.switch.started == {key: {"x": f"a2 {key}"} if end == "stopped" else {} for key in PAIRS}
        # What cannot be found out is said.
        assert any("left no word" in line["event"] for line in lines) == (end != "stopped")

    play(story)


def test_a_copy_of_a_store_does_not_read_a_pair_that_the_original_had_until_it_was_removed() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        original, copy = Relay("a1", account, rng), Relay("a2", account, rng)
        original.start()
        await until(lambda: original.works == PAIRS)
        # Alone in the register, it is started again without one of them.
        await original.kill()
        original.start(wanted=frozenset({"200"}))
        await until(lambda: original.works == {"200"})
        await original.stop()
        copy.start(known={key: {"x": "long ago"} for key in PAIRS})
        await until(lambda: copy.works == PAIRS)
        assert copy.switch.started == {"100": {}, "200": {"x": "a1 200"}}

    play(story)


def test_a_database_is_the_same_place_from_every_machine_and_a_copied_file_is_not() -> None:
    def claim(file: str, boot: str) -> Claim:
        return Claim("store", file, f"host of {boot}", boot, 1, f"{boot} 1", "2026-11-29T03:00:00+00:00")

    assert claim("database 7/5", "one").is_same_place(claim("database 7/5", "other"))
    assert not claim("database 7/5", "one").is_same_place(claim("database 8/5", "one"))
    assert claim("12", "one").is_same_place(claim("12", "one"))
    assert not claim("12", "one").is_same_place(claim("12", "other"))


def test_a_relay_whose_earlier_version_named_no_file_system_goes_on_where_that_was_killed() -> None:
    async def story() -> None:
        account, rng, dead = Account(), random.Random(1), set[str]()
        before, after = (Relay(file, account, rng, dead, host="here") for file in ("a1", "a1 on 7"))
        before.start()
        await until(lambda: before.works == PAIRS)
        await before.kill(seen=True)
        after.start(known={key: {"x": "where it was killed"} for key in PAIRS})
        await until(lambda: after.works == PAIRS, 2)
        assert not after.switch.started
        assert not after.switch.set_aside

    play(story)


@pytest.mark.parametrize("late", [number / 20 for number in range(24)])
def test_who_answers_at_the_last_moment_delivers_alone_also_where_another_question_follows(late: float) -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        old, copy, other = (Relay(name, account, rng) for name in ("a1", "a2", "b"))
        for relay, pair in ((old, "200"), (other, "100")):
            relay.start(wanted=frozenset({pair}))
            await until(lambda relay=relay: bool(relay.works))  # type: ignore[misc]
        old.switch.takes = 60
        old.line.running.clear()
        # It waits for the other one of its store, and then asks the relay of the other pair to hand that over.
        copy.start(take_over=True)
        await asyncio.sleep(SILENCE_SECONDS + late)
        # On what it has read it acts when it goes on. Meanwhile the old one answers, and hands over.
        copy.line.running.clear()
        old.line.running.set()
        await asyncio.sleep(2)
        copy.line.running.set()
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 10:
            may_send = [one for one in (old, copy) if one.claims.valid() and "200" not in one.switch.reasons]
            assert len(may_send) < 2
            await asyncio.sleep(0.01)

    play(story)


def test_who_had_read_as_far_as_the_one_that_was_there_since_sends_nothing_of_what_waits() -> None:
    async def story() -> None:
        account, rng = Account(), random.Random(1)
        first, second = Relay("a", account, rng), Relay("b", account, rng)
        first.start()
        await until(lambda: first.works == PAIRS)
        first.line.running.clear()
        second.start(take_over=True)
        await until(lambda: second.works == PAIRS)
        await second.stop()
        # It went on for a moment, and read what the other one had sent.
        await first.kill()
        first.start(known={key: {"x": f"b {key}"} for key in PAIRS})
        await until(lambda: first.works == PAIRS)
        assert set(first.switch.set_aside) == PAIRS

    play(story)
