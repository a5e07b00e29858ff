"""The last event that a response tells of: what is asked for later, to find out whether the homeserver has lost it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from relay.adapters.matrix.cursors import LastTold
from relay.adapters.matrix.sync.update import Told

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
BEFORE = LastTold("!before:a", "$before", NOON)


def event(event_id: Any, minutes: float) -> dict[str, Any]:
    return {"event_id": event_id, "origin_server_ts": (NOON + timedelta(minutes=minutes)).timestamp() * 1000}


def told(joined: Any, before: LastTold | None = BEFORE) -> LastTold | None:
    seen = Told(before, NOON + timedelta(minutes=10))
    for room, events in joined.items():
        seen.see(room, {"timeline": {"events": events}})
    return seen.last


def test_the_last_event_of_the_room_in_which_was_written_last() -> None:
    rooms = {"!a:a": [event("$1", 1), event("$2", 2)], "!b:a": [event("$3", 3), event("$4", 4)]}
    assert told(rooms) == LastTold("!b:a", "$4", NOON + timedelta(minutes=4))


def test_nothing_that_was_told_was_written_later() -> None:
    # The clocks of servers differ: the last one need not bear the latest date.
    assert told({"!a:a": [event("$1", 3), event("$2", 2)]}) == LastTold("!a:a", "$2", NOON + timedelta(minutes=3))
    assert told({"!a:a": [event("$1", -3)]}) == LastTold("!a:a", "$1", NOON)


def test_a_date_far_ahead_counts_as_soon() -> None:
    assert told({"!a:a": [event("$1", 99_999_999)]}) == LastTold("!a:a", "$1", NOON + timedelta(minutes=70))


def test_without_an_event_that_can_be_asked_for_it_stays() -> None:
    assert told({}) == told({"!a:a": []}) == BEFORE
    assert told({}, None) is None
    # Its date counts all the same.
    for odd in ("no ID", "", None, 5, "$with blank"):
        assert told({"!a:a": [event(odd, 1)]}) == LastTold("!before:a", "$before", NOON + timedelta(minutes=1))
