"""Only what had to be posted anew may stand at another place."""

from dataclasses import dataclass

from tests.chaos.chronicle import Chronicle
from tests.chaos.ledger import Written
from tests.chaos.reading import Said, Standing


@dataclass
class _Clock:
    now: float = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def _copy(message_id: str, *texts: str, by_bot: bool = False) -> Standing:
    return Standing(message_id, tuple(Said("Mia", text) for text in texts), by_bot=by_bot)


def _written(name: str, text: str) -> Written:
    return Written(name, text, "Mia")


def test_what_was_posted_anew_because_its_webhook_was_deleted() -> None:
    chronicle = Chronicle(_Clock())
    chronicle.posted(_copy("1", "m1.0 tea"))
    again = _copy("2", "m1.1 rain")
    chronicle.posted(again)
    assert not chronicle.moved([_written("m1", "m1.1 rain")], [again])
    chronicle = Chronicle(_Clock())
    chronicle.posted(_copy("1", "m1.0 tea"))
    chronicle.webhook_deleted()
    chronicle.posted(again)
    assert chronicle.moved([_written("m1", "m1.1 rain")], [again]) == {"2"}
    assert chronicle.stood_as("m1") == {"1", "2"}


def test_what_the_bot_posted_itself_may_move_and_nothing_else_does() -> None:
    chronicle = Chronicle(_Clock())
    chronicle.webhook_deleted()
    chronicle.posted(_copy("1", "m1.0 tea", by_bot=True))
    chronicle.posted(_copy("2", "m2.0 rain"))
    standing = [_copy("2", "m2.0 rain"), _copy("3", "m1.1 tea")]
    chronicle.posted(standing[1])
    written = [_written("m1", "m1.1 tea"), _written("m2", "m2.0 rain")]
    assert chronicle.moved(written, standing) == {"3"}


def test_what_did_not_say_whose_it_was_at_first() -> None:
    chronicle = Chronicle(_Clock())
    again = _copy("2", "m1.1 tea")
    message = Written("m1", "m1.1 tea", "Mia", at=0.5, plain_at_first=True)
    chronicle.webhook_deleted()
    chronicle.posted(again)
    assert chronicle.moved([message], [again]) == {"2"}
    message.plain_at_first = False
    assert not chronicle.moved([message], [again])


def test_of_copies_that_say_the_same_the_later_one_may_have_moved() -> None:
    chronicle = Chronicle(_Clock())
    first, second, again = (_copy(message_id, "same here") for message_id in "123")
    chronicle.posted(first)
    chronicle.posted(second)
    said = [_written("m1", "same here"), _written("m2", "same here")]
    assert not chronicle.moved(said, [first, second])
    chronicle.posted(again)
    assert not chronicle.moved(said, [second, again])
    chronicle.webhook_deleted()
    once_more = _copy("4", "same here")
    chronicle.posted(once_more)
    assert chronicle.moved(said, [second, once_more]) == {"4"}
