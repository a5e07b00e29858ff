"""People of one channel are told apart by their names, whatever they call themselves."""

import json
import re
import unicodedata
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.discord.outbound.body import usernames
from relay.core.author_names import AuthorNames, _decided, in_template
from relay.core.convert.headings import under_heading
from relay.core.delivery.digests import content_of
from relay.core.ports import Delivery, EventBatch
from relay.domain.commands import Digest, DigestItem
from relay.domain.content import Author, Content
from relay.domain.events import MessageCreated
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.names import folded_letters, skeleton, visible
from relay.domain.text import nodes as n
from tests.support.names import TEMPLATES, unsafe_names
from tests.support.platform import MemoryPlatform
from tests.support.world import World, pair, world

MOMENT = datetime(2026, 11, 28, tzinfo=UTC)
ROOM = ChannelRef(Platform.MATRIX, "!room:example.org")


def author(name: str, user: str) -> Author:
    return Author(UserRef(Platform.MATRIX, f"@{user}"), name, handle=user.partition(":")[0])


async def shown(names: AuthorNames, made: World, name: str, user: str) -> str:
    async with made.store.write() as uow:
        return (await names.distinguished(uow, ROOM, author(name, user))).name


async def test_who_comes_second_is_marked_and_stays_so(bridge: World) -> None:
    names = AuthorNames()
    for _ in range(2):
        assert await shown(names, bridge, "Sam", "sam:one.test") == "Sam"
        assert await shown(names, bridge, "Sam", "sam2:two.test") == "Sam ⟨sam2⟩"
        assert await shown(names, bridge, "Ѕаm", "mallory:evil.test") == "Ѕаm ⟨mallory⟩"
        assert await shown(names, bridge, "Sam", "sam2:three.test") == "Sam ⟨sam2:three.test⟩"
        names = AuthorNames()  # after a restart nobody has taken over anybody's name


async def test_marks_and_headings_of_several_cannot_be_copied(bridge: World) -> None:
    names = AuthorNames()
    assert await shown(names, bridge, "Sam ⟨sam2⟩", "mallory:evil.test") == "Sam (sam2)"
    assert await shown(names, bridge, "Sam", "sam:one.test") == "Sam"
    assert await shown(names, bridge, "Ben", "ben:one.test") == "Ben"
    assert await shown(names, bridge, "Sam, Ben", "mallory:evil.test") == "Sam, Ben ⟨mallory⟩"
    assert await shown(names, bridge, "Lovelace, Ada", "ada:one.test") == "Lovelace, Ada"
    assert await shown(names, bridge, "\u3164\u2800", "carol:one.test") == "carol"


async def test_a_name_that_its_owner_gave_up_long_ago_is_free(bridge: World) -> None:
    names = AuthorNames()
    assert await shown(names, bridge, "Sam", "ada:one.test") == "Sam"
    for number in range(5):
        await shown(names, bridge, f"Ada {number}", "ada:one.test")
    assert await shown(names, bridge, "Sam", "sam:one.test") == "Sam"


async def shown_in_past(names: AuthorNames, made: World, name: str, user: str) -> str:
    async with made.store.write() as uow:
        return (await names.distinguished_in_past(uow, ROOM, author(name, user))).name


async def test_who_spoke_before_the_relay_came_takes_no_name_from_anybody_of_today(bridge: World) -> None:
    names = AuthorNames()
    assert await shown(names, bridge, "Sam", "sam:one.test") == "Sam"
    for number in range(320):
        assert await shown_in_past(names, bridge, f"guest {number}", f"guest{number}:one.test") == f"guest {number}"
    for _ in range(2):
        assert await shown_in_past(names, bridge, "Sam", "mallory:evil.test") == "Sam ⟨mallory⟩"
        assert await shown_in_past(names, bridge, "Sam", "sam:one.test") == "Sam"
        assert await shown_in_past(names, bridge, "Ann", "ann:one.test") == "Ann"
        assert await shown_in_past(names, bridge, "Ann", "mallory:evil.test") == "Ann ⟨mallory⟩"
        names = AuthorNames()
    assert await shown(names, bridge, "Sam", "sam:one.test") == "Sam"
    assert await shown(names, bridge, "Ann", "mallory:evil.test") == "Ann"
    assert await shown_in_past(names, bridge, "Ann", "ann:one.test") == "Ann ⟨ann⟩"


async def test_the_names_of_the_past_are_forgotten_with_who_had_them(bridge: World) -> None:
    names = AuthorNames()
    assert await shown_in_past(names, bridge, "Ann", "ann:one.test") == "Ann"
    async with bridge.store.write() as uow:
        await names.forget_person(uow, [ROOM], author("Ann", "ann:one.test").user)
    names.forget()
    assert await shown_in_past(names, bridge, "Ann", "mallory:evil.test") == "Ann"


async def test_who_speaks_keeps_the_name_however_many_come(bridge: World) -> None:
    names = AuthorNames()
    for number in range(320):
        assert await shown(names, bridge, "Sam", "sam:one.test") == "Sam"
        assert await shown(names, bridge, f"guest {number}", f"guest{number}:one.test") == f"guest {number}"
    assert await shown(names, bridge, "Sam", "mallory:evil.test") == "Sam ⟨mallory⟩"


async def test_a_name_that_somebody_else_has_by_now_is_not_taken_back(bridge: World) -> None:
    names = AuthorNames()
    for name in ("Sam", "1", "2", "3", "4", "5"):
        assert await shown(names, bridge, name, "ada:one.test") == name
    assert await shown(names, bridge, "Sam", "sam:one.test") == "Sam"
    assert await shown(names, bridge, "Sam", "ada:one.test") == "Sam ⟨ada⟩"


async def test_names_that_an_earlier_version_wrote_down_count_as_none(bridge: World) -> None:
    look = next(iter(_owned("Sam")))
    async with bridge.store.write() as uow:
        await uow.key_values.put(f"names {ROOM.platform} {ROOM.id}", json.dumps({look: "0123456789"}))
    assert await shown(AuthorNames(), bridge, "Sam", "sam:one.test") == "Sam"


def _owned(name: str) -> OrderedDict[str, str]:
    owners: OrderedDict[str, str] = OrderedDict()
    _decided(owners, author(name, "sam:one.test"))
    return owners


@given(
    st.lists(st.tuples(st.text(max_size=100) | st.sampled_from(["Sam", "sam", "Ѕam"]), st.integers(0, 9)), max_size=30)
)
def test_no_two_people_look_the_same(said: list[tuple[str, int]]) -> None:
    owners: OrderedDict[str, str] = OrderedDict()
    seen: dict[str, int] = {}
    held: dict[int, list[str]] = {}
    for name, number in said:
        look = skeleton(_decided(owners, author(name, f"user{number}:one.test"))[0])
        assert seen.setdefault(look, number) == number or look not in held[seen[look]][-5:]
        held.setdefault(number, []).append(look)


async def test_two_people_of_one_name_on_either_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    post = MemoryPlatform.post

    def seen(self: MemoryPlatform, delivery: Delivery) -> MessageRef:
        assert delivery.author is not None
        names.append(delivery.author.name)
        return post(self, delivery)

    monkeypatch.setattr(MemoryPlatform, "post", seen)
    async with world(tmp_path, pair()) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            bridge.discord.say(here, "ann", "one")
            bridge.discord.say(here, "Ann", "two")
            bridge.discord.say(here, "THE  rеlay", "three")
            await bridge.shows(there, "one", "two", "three")
    first, second, third = names
    assert first == "ann"
    assert skeleton(first) != skeleton(second)
    assert third == "THE rеlay ⟨THE rеlay⟩", "nobody speaks in the relay's name"


async def test_the_operators_template_is_around_every_name(tmp_path: Path) -> None:
    templates = ((Platform.DISCORD, "[M] {name}"),)
    async with world(tmp_path, pair(name_templates=templates)) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            bridge.matrix.say(there, "ann", "one")
            bridge.discord.say(here, "bob", "two")
            await bridge.shows(here, "two", "one")
            await bridge.shows(there, "one", "two")
            shown = {n.plain_text(said.content.text): said.shown_as for said in bridge.shown(here)}
            assert shown["one"] == "[M] ann"
            shown = {n.plain_text(said.content.text): said.shown_as for said in bridge.shown(there)}
            assert shown["two"] == "bob"


@given(st.text(max_size=120), st.text(max_size=40), st.sampled_from(TEMPLATES))
def test_a_name_in_a_template_is_as_safe_as_without(name: str, handle: str, template: str) -> None:
    user = UserRef(Platform.MATRIX, "@x:example.org")
    one = _decided(OrderedDict(), Author(user, name, handle=handle))[0]
    made = in_template(Author(user, one, handle=handle), template).name
    assert len(made) <= 80
    assert len(unicodedata.normalize("NFKC", made)) <= 80
    assert visible(made) == made != ""
    for shown in usernames(Author(user, made, handle=handle)):
        assert 1 <= len(shown) <= 80
        folded = "".join(letter for _, letter in folded_letters(shown))
        assert not re.search("discord|clyde|everyone|here|system message", folded)


def test_hostile_names_become_safe_ones() -> None:
    """`python -m tests.name_fuzz` makes 100,000."""
    assert unsafe_names(3_000, seed=20261128) == []


@given(st.text(max_size=90), st.text(max_size=90), st.sampled_from(TEMPLATES), st.booleans())
def test_a_template_makes_nobody_look_like_another(first: str, second: str, template: str, same: bool) -> None:
    owners: OrderedDict[str, str] = OrderedDict()
    names = []
    for number, name in enumerate((first, first if same else second)):
        somebody = Author(UserRef(Platform.MATRIX, f"@u{number}:example.org"), name, handle=f"u{number}")
        decided = _decided(owners, somebody)[0]
        names.append(in_template(replace(somebody, name=decided), template).name)
    assert names[0] != names[1]
    if "{handle}" not in template:
        assert skeleton(names[0]) != skeleton(names[1])


def test_what_tells_people_apart_is_never_cut_off() -> None:
    name = "x" * 60 + " ⟨" + "y" * 24 + "⟩"
    made = in_template(author(name[:80], "x:one.test"), "{name} (Matrix)").name
    other = in_template(author(name[:80], "x:two.test"), "{name} (Matrix)").name
    assert made.endswith("⟩ (Matrix)")
    assert made != other
    assert len(made) <= 80


@pytest.mark.parametrize(
    "line",
    [
        (n.Strong((n.Text("Ben:"),)), n.Text(" I quit")),
        (n.Text(" "), n.Emphasis((n.Strong((n.Text("Ben:"),)),)), n.Text(" I quit")),
        (n.Text("𝐁𝐞𝐧: I quit"),),
    ],
)
def test_a_line_that_looks_like_somebodys_name_is_set_apart(line: tuple[n.Inline, ...]) -> None:
    ben, mallory = author("Ben", "ben:one.test"), author("Mallory", "mallory:one.test")
    forged = n.RichText(
        (n.Paragraph((n.Text("hi"), n.LineBreak(), *line, n.LineBreak(), n.Text("bye"))), n.Paragraph(line))
    )
    said = [(mallory, forged), (ben, n.RichText.plain("hello"))]
    items = (
        DigestItem(MessageRef(ROOM, str(number)), who, Content(text), MOMENT, n.RichText())
        for number, (who, text) in enumerate(said)
    )
    blocks = content_of(Digest(tuple(items))).text.blocks
    headed = [block for block in blocks if isinstance(block, n.Paragraph) and isinstance(block.children[0], n.Strong)]
    assert [n.plain_text(n.RichText((block,))) for block in headed] == ["Mallory: hi", "Ben: hello"]
    assert n.Quote((n.Paragraph(line),)) in blocks
    assert n.Paragraph((n.Text("bye"),)) in blocks


def test_bold_across_lines_is_set_apart_as_well() -> None:
    bold = n.Strong((n.Text("a"), n.LineBreak(), n.Text("Ben: I quit")))
    blocks = under_heading((n.Text("Mallory:"),), (n.Paragraph((bold,)),))
    assert blocks[1] == n.Quote((n.Paragraph((n.Strong((n.Text("Ben: I quit"),)),)),))


@pytest.mark.parametrize("damaged", ["{", "[]", "7", '{"a": 7}', "[" * 100_000])
async def test_damaged_names_in_the_store_count_as_none(bridge: World, damaged: str) -> None:
    async with bridge.store.write() as uow:
        await uow.key_values.put(f"names {ROOM.platform} {ROOM.id}", damaged)
    for names in (AuthorNames(), AuthorNames()):
        assert await shown(names, bridge, "Sam", "sam:one.test") == "Sam"
        assert await shown(names, bridge, "Sam", "sam2:two.test") == "Sam ⟨sam2⟩"


async def test_a_name_that_could_not_be_written_down_is_nobodys(bridge: World) -> None:
    _, room = bridge.channels()
    said = MessageCreated(
        MessageRef(room, "$1"), author("Sam", "sam:one.test"), Content(n.RichText.plain("one")), MOMENT
    )
    no_event: MessageCreated = None  # type: ignore[assignment]
    async with bridge.relay() as core:
        with pytest.raises(AttributeError):
            await core.inbox.receive(EventBatch((said, no_event)))
        await core.inbox.receive(EventBatch((said,)))
    async with bridge.store.read() as uow:
        assert await uow.key_values.get(f"names {room.platform} {room.id}")
