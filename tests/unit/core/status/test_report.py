"""`relay status` from the store alone, on the real store."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relay.core.operations.findings import Finding
from relay.core.pairs import PairDirectory
from relay.core.ports import SideHealth
from relay.core.status.reading import read_report
from relay.core.status.report import STATUS_KEY, DaemonStatus, DirectionStatus, PairStatus, Report, StatusRecord
from relay.domain.commands import PostNotice
from relay.domain.ids import ChannelAddress, Platform
from relay.domain.pair import Pair
from relay.domain.text.nodes import RichText
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.store import new_store

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
LAST = NOW - timedelta(minutes=5)
READY = SideHealth("ready")


def pair(name: str) -> Pair:
    sides = (ChannelAddress(Platform.DISCORD, f"1{name}"), ChannelAddress(Platform.MATRIX, f"#{name}:b"))
    return Pair(name, sides, frozenset(Platform))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await open_store(new_store(tmp_path))
    yield opened
    await opened.close()


async def save(store: SqlStore, *, problem: str | None = None, matrix: SideHealth = READY) -> None:
    """What the daemon leaves behind: `help` has carried messages; `gone` is not declared any more."""
    carried = DirectionStatus(7, LAST, 0, None, 2, {"reaction": 3}, 0)
    idle = DirectionStatus(0, None, 0, None, 0, {}, 0)
    problems = () if problem is None else (problem,)
    pairs = tuple(PairStatus(name, problems, {"to_matrix": carried, "to_discord": idle}) for name in ("help", "gone"))
    shown = Report(pairs, {"discord": READY, "matrix": matrix}, NOW)
    daemon = {"running": True, "pid": 7, "host": "h", "since": "2026-11-20T11:00:00+00:00", "updated_at": "…"}

    async with store.write() as unit:
        await unit.key_values.put(STATUS_KEY, json.dumps({**shown.as_json(), "daemon": daemon}))


IDLE: dict[str, Any] = {
    "last_message_at": None,
    "backlog": 0,
    "oldest_undelivered_seconds": None,
    "retries": 0,
    "dropped": {},
    "dead_letters": 0,
    "messages": 0,
}


def unknown(address: str) -> dict[str, Any]:
    return {"address": address, "id": address, "name": None, "link": None}


async def test_without_a_store() -> None:
    report = await read_report(None, [pair("help")], running=False, now=NOW)
    stopped = {"connected": False, "state": "stopped", "problem": "The daemon has never run on this store."}
    channels = {"channels": {"discord": unknown("1help"), "matrix": unknown("#help:b")}}
    ends = {"ended": None, "previous": None}
    assert report.as_json() == {
        "pairs": [{"name": "help", "problem": None, "note": None, "to_matrix": IDLE, "to_discord": IDLE} | channels],
        "undeclared": [],
        "discord": stopped,
        "matrix": stopped,
        "findings": [],
        "daemon": {"running": False, "pid": None, "host": None, "since": None, "updated_at": None} | ends,
        "standbys": [],
    }
    assert not report.well


async def test_the_last_word_of_the_daemon_with_the_outbox_of_now(store: SqlStore) -> None:
    await save(store)
    async with store.write() as unit:
        lane = PairDirectory([pair("help")]).lanes(pair("help"), towards=Platform.MATRIX)[0]
        for seconds in (90, 10):
            await unit.outbox.append(lane, PostNotice(RichText.plain("x")), NOW - timedelta(seconds=seconds))
        dead = await unit.outbox.append(lane, PostNotice(RichText.plain("x")), NOW)
        await unit.outbox.dead_letter(dead.id, "forbidden", NOW)
    report = await read_report(store, [pair("new"), pair("help")], running=True, now=NOW)
    assert report.well
    new, known = report.as_json()["pairs"]
    assert (new["name"], new["to_matrix"], new["to_discord"]) == ("new", IDLE, IDLE)
    assert known["to_discord"] == IDLE
    assert known["to_matrix"] == {
        "last_message_at": LAST.isoformat(),
        "backlog": 2,
        "oldest_undelivered_seconds": 90.0,
        "retries": 2,
        "dropped": {"reaction": 3},
        "dead_letters": 1,
        "messages": 7,
    }


@pytest.mark.parametrize(
    ("left", "running", "well"),
    [
        ({}, True, True),
        ({"problem": "No permission."}, True, False),  # as an earlier relay saved it
        ({"matrix": SideHealth("catching_up")}, True, True),
        ({"matrix": SideHealth("connecting", "no answer")}, True, False),
        ({}, False, False),
    ],
)
async def test_well_or_not(store: SqlStore, left: dict[str, Any], running: bool, well: bool) -> None:
    await save(store, **left)
    report = await read_report(store, [pair("help")], running=running, now=NOW)
    assert report.well is well
    # As the page has it, and `relay check`: what they show as wrong is wrong.
    assert not replace(report, store_problem="the disk is full").well
    assert not replace(report, pairs=()).well
    full = [Finding("the disk of the store", state, "only 0 MiB free", "make room") for state in ("wrong", "note")]
    assert [replace(report, findings=(one,)).well for one in full] == [False, well]
    if not running:
        assert report.sides["matrix"].problem == "The daemon is not running."
        assert report.daemon.pid == 7


async def test_a_pair_is_shown_as_the_daemon_has_it_and_not_as_the_file_says(store: SqlStore) -> None:
    """It looks at the file every two seconds."""
    pauses, resumes, same, changes, new = map(pair, ("pauses", "resumes", "same", "changes", "new"))
    works_with = (pauses, replace(resumes, paused=True), same, changes, pair("gone"))
    async with store.write() as unit:
        await unit.key_values.put(
            STATUS_KEY, StatusRecord(DaemonStatus(running=True), {}, {}, pairs=works_with).as_text()
        )
    to_discord = frozenset({Platform.DISCORD})
    file = [replace(pauses, paused=True), resumes, same, replace(changes, destinations=to_discord), new]
    report = await read_report(store, file, running=True, now=NOW)
    shown = {one.name: (one.paused, len(one.carried), one.pending, one.note) for one in report.pairs}
    assert shown == {
        "pauses": (False, 2, "pausing", "The file pauses it: the daemon follows within seconds."),
        "resumes": (True, 2, "resuming", "Paused until the daemon follows the file, which resumes it: within seconds."),
        "same": (False, 2, "", None),
        "changes": (False, 2, "changing", "The file gives it another direction: the daemon follows within seconds."),
        "new": (False, 2, "new", "It is new in the file: the daemon follows within seconds."),
    }
    # Without a daemon there is nothing but the file.
    left = await read_report(store, file, running=False, now=NOW)
    assert [(one.paused, one.pending) for one in left.pairs] == [(one.paused, "") for one in file]


async def test_a_daemon_that_is_starting(store: SqlStore) -> None:
    report = await read_report(store, [pair("help")], running=True, now=NOW)
    assert report.sides["discord"] == SideHealth("connecting", "The daemon is starting.")
    assert not report.sides["discord"].connected
    assert not report.well
