"""Which answers lead to the right message."""

from dataclasses import replace

from tests.chaos.ledger import SAME, Written
from tests.chaos.reading import Quote, Said, Standing
from tests.chaos.replies import Place, Scene, check

_ROOM = Place("!room:localhost")
_CHANNEL = Place("1/2")
_ADA = Written("d1", "d1.0 tea", "Ada", id="101")
_BEN = Written("d2", "d2.0 rain", "Ben", id="102", reply_to="101")
_TEA = Standing("$1", (Said("Ada", "d1.0 tea"),))


def _scene(answer: Standing, *, there: Place = _ROOM, asked: Written = _ADA, answered: Written = _BEN) -> Scene:
    return Scene((asked, answered), (), (), (_TEA, answer), there, lambda _: frozenset())


def test_an_answer_to_somebody_of_the_same_side_leads_to_their_copy() -> None:
    right = Standing("$2", (Said("Ben", "d2.0 rain"),), reply_to="$1")
    assert check(_scene(right)) == (1, [])
    assert check(_scene(replace(right, reply_to="$9")))[1]
    assert check(_scene(replace(right, reply_to="")))[1]
    assert check(_scene(right, asked=replace(_ADA, deleted=True))) == (0, [])
    assert check(_scene(right, answered=replace(_BEN, reply_to="")))[1]


def test_an_answer_that_is_quoted_names_and_leads_to_what_it_answers() -> None:
    link = "https://matrix.to/#/!room:localhost/%241?via=localhost"

    def quoting(quote: Quote) -> list[str]:
        return check(_scene(Standing("$2", (Said("Ben", "d2.0 rain", quote),))))[1]

    assert not quoting(Quote("Ada", "d1.0 tea", link))
    assert quoting(Quote("Ben", "d1.0 tea", link))
    assert quoting(Quote("Ada", "d7.0 moss", link))
    assert quoting(Quote("Ada", "d1.0 tea", link.replace("%241", "%249")))
    assert quoting(Quote("Ada", "d1.0 tea", link.replace("!room", "!other")))
    assert quoting(Quote("Ada", "d1.0 tea"))


def test_an_answer_to_what_stands_beside_it_needs_no_link() -> None:
    together = Standing("$1", (Said("Ada", "d1.0 tea"), Said("Ben", "d2.0 rain", Quote("Ada", "d1.0 tea"))))
    scene = replace(_scene(together), copies_there=(together,))
    assert check(scene) == (1, [])


def test_an_answer_to_a_copy_leads_to_its_original() -> None:
    mia = Written("m1", "m1.0 tea", "Mia", id="$1")
    noa = Written("m2", "m2.0 moss", "Noa", id="$2")
    copy = Standing("55", (Said("Mia", "m1.0 tea"), Said("Noa", "m2.0 moss")))
    answer = replace(_BEN, reply_to="55", reply_keys=("m1", "m2"))
    stands = Standing("$3", (Said("Ben", "d2.0 rain"),), reply_to="$2")
    scene = Scene((answer,), (copy,), (mia, noa), (stands,), _ROOM, lambda _: frozenset())
    assert check(scene) == (1, [])
    assert check(replace(scene, copies_there=(replace(stands, reply_to="$1"),)))[1]


def test_an_answer_to_several_is_not_judged_where_the_last_of_them_is_left_out_as_unclear() -> None:
    """It was said to lead to the wrong one: where pairs had changed, who say the same are left out of the copy."""
    mia = Written("m1", "m1.0 tea", "Mia", id="$1")
    copy = Standing("55", (Said("Mia", "m1.0 tea"),))
    answer = replace(_BEN, reply_to="55", reply_keys=("m1", SAME[0]))
    stands = Standing("$3", (Said("Ben", "d2.0 rain"),), reply_to="$2")
    assert check(Scene((answer,), (copy,), (mia,), (stands,), _ROOM, lambda _: frozenset())) == (0, [])


def test_links_of_discord() -> None:
    assert _CHANNEL.led_to("https://discord.com/channels/1/2/3") == "3"
    assert not _CHANNEL.led_to("https://discord.com/channels/1/9/3")
