"""What every implementation of `core.storage.People` does, and of what the message map knows about authors."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from relay.core.people.storage import ForgetRequest, LinkCode
from relay.core.storage import Store
from relay.domain.ids import ChannelRef, MessageRef, PlaceRef, Platform, UserRef
from tests.support.store_contract import ANN, DISCORD, NOON, add, copy, here

ADA, BEN = (UserRef(Platform.MATRIX, f"@{name}:example.org") for name in ("ada", "ben"))
BOB = UserRef(Platform.DISCORD, "8")


async def test_a_link_is_known_from_both_sides_until_either_ends_it(store: Store) -> None:
    for ends in (ANN, ADA):
        async with store.write() as unit:
            await unit.people.link(ANN, ADA, NOON)
            await unit.people.link(BOB, BEN, NOON)
        async with store.read() as unit:
            assert await unit.people.linked(ANN) == {Platform.MATRIX: ADA}
            assert await unit.people.linked(ADA) == {Platform.DISCORD: ANN}
            assert await unit.people.links_of(Platform.DISCORD, Platform.MATRIX, 10) == {ANN: ADA, BOB: BEN}
            assert len(await unit.people.links_of(Platform.MATRIX, Platform.DISCORD, 1)) == 1
        async with store.write() as unit:
            await unit.people.unlink(ends)
            assert await unit.people.linked(ANN) == await unit.people.linked(ADA) == {}
            assert await unit.people.linked(BEN) == {Platform.DISCORD: BOB}


async def test_an_id_belongs_to_its_platform(store: Store) -> None:
    async with store.write() as unit:
        await unit.people.link(UserRef(Platform.DISCORD, "x"), UserRef(Platform.MATRIX, "y"), NOON)
        await unit.people.opt_out(UserRef(Platform.DISCORD, "x"), NOON)
        assert await unit.people.linked(UserRef(Platform.MATRIX, "x")) == {}
        assert not await unit.people.has_opted_out(UserRef(Platform.MATRIX, "x"))
        assert await unit.people.has_opted_out(UserRef(Platform.DISCORD, "x"))


async def test_a_code_is_found_by_whom_it_is_bound_to(store: Store) -> None:
    code = LinkCode(ANN, "Ann", ADA, "digest", NOON)
    async with store.write() as unit:
        await unit.people.put_code(replace(code, digest="older"))
        await unit.people.put_code(code)
        await unit.people.put_code(replace(code, asked_by=BOB, name="Bob", expires_at=NOON + timedelta(minutes=1)))
    async with store.write() as unit:
        assert set(await unit.people.codes_for(ADA, 9)) == {
            code,
            LinkCode(BOB, "Bob", ADA, "digest", NOON + timedelta(minutes=1)),
        }
        assert len(await unit.people.codes_for(ADA, 1)) == 1
        assert await unit.people.codes_for(BEN, 9) == ()
        await unit.people.forget_codes(NOON + timedelta(seconds=1))
        assert [found.asked_by for found in await unit.people.codes_for(ADA, 9)] == [BOB]
        await unit.people.forget_code(BOB)
        assert await unit.people.codes_for(ADA, 9) == ()


async def test_who_has_opted_out_may_come_back(store: Store) -> None:
    async with store.write() as unit:
        assert not await unit.people.has_opted_out(ANN)
        await unit.people.opt_out(ANN, NOON)
        await unit.people.opt_out(ANN, NOON + timedelta(days=1))
        assert await unit.people.has_opted_out(ANN)
        assert not await unit.people.has_opted_out(BOB)
        await unit.people.opt_in(ANN)
        assert not await unit.people.has_opted_out(ANN)


async def test_who_is_to_be_forgotten_and_how_far_that_has_come(store: Store) -> None:
    async with store.write() as unit:
        await unit.people.put_request(ForgetRequest(ANN, copies=False))
        await unit.people.put_request(ForgetRequest(ANN, copies=True, position=7))
        await unit.people.put_request(ForgetRequest(ADA, copies=False))
    async with store.write() as unit:
        assert ForgetRequest(ANN, copies=True, position=7) in await unit.people.requests(5)
        assert await unit.people.request_of(ANN) == ForgetRequest(ANN, copies=True, position=7)
        assert await unit.people.request_of(BOB) is None
        (first,) = await unit.people.requests(1)
        (second,) = await unit.people.requests(1, first.user)
        assert {first.user, second.user} == {ANN, ADA}
        assert await unit.people.requests(1, second.user) == ()
        await unit.people.forget_request(ANN)
        assert await unit.people.requests(5) == (ForgetRequest(ADA, copies=False),)


async def test_what_somebody_wrote_is_found_in_steps_and_is_nobodys_then(store: Store) -> None:
    mine = [await add(store, number) for number in (1, 2)]
    async with store.write() as unit:
        other = await unit.messages.add(MessageRef(DISCORD, "3"), BOB, NOON, None)
        namesake = UserRef(Platform.MATRIX, ANN.id)
        twin = await unit.messages.add(MessageRef(ChannelRef(Platform.MATRIX, "!r"), "$4"), namesake, NOON, None)
    mine.append(await add(store, 5))
    await copy(store, mine[0], here(10))
    assert other is not None
    assert twin is not None
    async with store.write() as unit:
        position, found = await unit.messages.written_by(ANN, 0, 2)
        assert (position, [one.id for one in found]) == (mine[1], mine[:2])
        position, found = await unit.messages.written_by(ANN, position, 2)
        assert (position, found) == (twin, ())
        position, found = await unit.messages.written_by(ANN, position, 2)
        assert (position, [one.ref.id for one in found]) == (mine[2], ["5"])
        assert await unit.messages.written_by(ANN, position, 2) == (position, ())
        for message_id in mine:
            await unit.messages.forget_author(message_id)
    async with store.read() as unit:
        assert (await unit.messages.written_by(ANN, 0, 100))[1] == ()
        assert (await unit.messages.written_by(BOB, 0, 100))[1] != ()
        forgotten = await unit.messages.find(MessageRef(DISCORD, "1"))
        assert forgotten is not None
        assert forgotten.author == UserRef(Platform.DISCORD, "")
        assert [copy.ref for copy in await unit.messages.copies(forgotten.id, here(1).channel)] == [here(10)]


async def test_bans_hold_where_they_were_made_until_they_end(store: Store) -> None:
    place, other = PlaceRef(Platform.DISCORD, "1"), PlaceRef(Platform.MATRIX, "!a:b")
    async with store.write() as unit:
        assert await unit.people.ban(place, ANN, because=ANN)
        assert not await unit.people.ban(place, ANN, because=ANN)
        assert await unit.people.ban(place, ADA, because=ANN)
        assert await unit.people.ban(other, ADA, because=ADA)
        assert await unit.people.ban(place, BEN, because=ANN)
        assert await unit.people.ban(place, BEN, because=BEN)  # a ban of their own
        assert not await unit.people.ban(place, BEN, because=ANN)
    async with store.read() as unit:
        assert await unit.people.banned_from(ADA) == {place, other}
        assert await unit.people.banned_from(BOB) == frozenset()
        assert await unit.people.banned(place) == {ANN, BEN}
        assert await unit.people.banned(other) == {ADA}
    async with store.write() as unit:
        assert set(await unit.people.unban(place, because=ANN)) == {ANN, ADA}
        assert await unit.people.unban(place, because=ANN) == ()
        assert await unit.people.banned_from(ADA) == {other}
        assert await unit.people.banned_from(BEN) == {place}


async def test_what_was_received_before_a_moment(store: Store) -> None:
    async with store.read() as unit:
        assert await unit.messages.last_before(datetime.now(UTC)) == 0
    ids = [await add(store, number) for number in range(9)]
    async with store.read() as unit:
        assert await unit.messages.last_before(datetime.now(UTC) + timedelta(minutes=1)) == ids[-1]
        assert await unit.messages.last_before(datetime.now(UTC) - timedelta(minutes=1)) == 0
