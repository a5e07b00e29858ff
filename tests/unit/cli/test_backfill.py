"""What `relay backfill` says while it is watched."""

import pytest

from relay.cli.backfill import time_left


@pytest.mark.parametrize(
    ("seconds", "done", "left", "words"),
    [
        (29.0, 0.1, 0.9, ""),
        (60.0, 0.0, 0.9, ""),
        (60.0, 0.5, 0.4, "; about 1 minute left"),
        (60.0, 0.01, 0.99, "; about 99 minutes left"),
        (600.0, 0.01, 0.99, "; about 16 hours left"),
        (600.0, 0.001, 0.9, "; about 6 days left"),
    ],
)
def test_about_how_long_it_takes_is_told_once_that_is_known(
    seconds: float, done: float, left: float, words: str
) -> None:
    assert time_left(seconds, done, left) == words
