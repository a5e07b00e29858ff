"""Only what had to be posted anew may stand at another place."""

from dataclasses import dataclass

from tests.chaos.copy_history import CopyHistory
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
    history = CopyHistory(_Clock())
    history.posted(_copy("1", "m1.0 tea"))
    again = _copy("2", "m1.1 rain")
    history.posted(again)
    assert not history.moved([_written("m1", "m1.1 rain")], [again])
    history = CopyHistory(_Clock())
    history.posted(_copy("1", "m1.0 tea"))
    history.webhook_deleted()
    history.posted(again)
    assert history.moved([_written("m1", "m1.1 rain")], [again]) == {"2"}
    assert history.stood_as("m1") == {"1", "2"}


def test_what_the_bot_posted_itself_may_move_and_nothing_else_does() -> None:
    history = CopyHistory(_Clock())
    history.webhook_deleted()
    history.posted(_copy("1", "m1.0 tea", by_bot=True))
    history.posted(_copy("2", "m2.0 rain"))
    standing = [_copy("2", "m2.0 rain"), _copy("3", "m1.1 tea")]
    history.posted(standing[1])
    written = [_written("m1", "m1.1 tea"), _written("m2", "m2.0 rain")]
    assert history.moved(written, standing) == {"3"}


def test_what_did_not_say_whose_it_was_at_first() -> None:
    history = CopyHistory(_Clock())
    again = _copy("2", "m1.1 tea")
    message = Written("m1", "m1.1 tea", "Mia", at=0.5, plain_at_first=True)
    history.webhook_deleted()
    history.posted(again)
    assert history.moved([message], [again]) == {"2"}
    message.plain_at_first = False
    assert not history.moved([message], [again])


def test_of_copies_that_say_the_same_the_later_one_may_have_moved() -> None:
    history = CopyHistory(_Clock())
    first, second, again = (_copy(message_id, "same here") for message_id in "123")
    history.posted(first)
    history.posted(second)
    said = [_written("m1", "same here"), _written("m2", "same here")]
    assert not history.moved(said, [first, second])
    history.posted(again)
    assert not history.moved(said, [second, again])
    history.webhook_deleted()
    once_more = _copy("4", "same here")
    history.posted(once_more)
    assert history.moved(said, [second, once_more]) == {"4"}
