"""A message is found by its ID without its channel, and without a look at all messages."""

from sqlalchemy.dialects.sqlite import dialect

from relay.store.repositories import traces
from relay.store.sqlite.engine import connect
from relay.store.unit_of_work import SqlStore


def test_only_the_channels_are_gone_through(store: SqlStore) -> None:
    compiled = traces._NUMBERS.compile(dialect=dialect())
    connection = connect(store.path)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {compiled}", [1] * str(compiled).count("?")).fetchall()
    connection.close()
    steps = [row[3] for row in plan]
    assert not [step for step in steps if step.startswith("SCAN")]
    assert sum("SEARCH ON TABLE channel FOR IN-OPERATOR" in step for step in steps) == 3
    assert sum("channel_id=? AND native_id=?" in step for step in steps) == 3


def test_what_waits_in_other_lanes_is_not_read(store: SqlStore) -> None:
    compiled = traces._ENTRIES.compile(dialect=dialect())
    connection = connect(store.path)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {compiled}", [1] * str(compiled).count("?")).fetchall()
    connection.close()
    steps = [row[3] for row in plan]
    assert {step.split(" USING")[0] for step in steps if step.startswith("SCAN")} == {"SCAN lane"}
    assert any(step.startswith("SEARCH outbox USING") and "(lane_id=?" in step for step in steps)
