"""What the relay itself says is put together, and is never in front of what people say."""

from pathlib import Path

import pytest

from relay.domain.ids import ThreadRef
from tests.support.world import pair, until, world


async def test_many_marks_become_one_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.core.delivery.rate_limit._NOTICE_SECONDS", 1.0)
    async with world(tmp_path, pair("one"), pair("two")) as bridge:
        (_, one), (other, two) = bridge.channels("one"), bridge.channels("two")
        async with bridge.relay():
            for _ in range(40):
                bridge.matrix.say(one, "mallory", "")
            bridge.matrix.say(two, "ann", "hello")
            await bridge.shows(other, "hello")
            bridge.discord.say(other, "ben", "hello yourself")
            await until(lambda: "hello yourself" in bridge.words(two))
            await bridge.quiet()
        marks, notices = len(bridge.matrix.reactions), [text for text in bridge.words(one) if "did not cross" in text]
    assert 1 <= marks <= 10
    assert 1 <= len(notices) <= 3
    assert marks + sum(int(text.split()[0]) for text in notices) == 40


async def test_many_threads_are_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.core.delivery.rate_limit._NOTICE_SECONDS", 1.0)
    async with world(tmp_path, pair()) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            for number in range(30):
                bridge.discord.say(here, "mallory", "psst", thread=ThreadRef(here, f"9{number}"))
            bridge.discord.say(here, "ann", "hello")
            await until(lambda: "hello" in bridge.words(there))
            await bridge.quiet()
        assert 1 <= len([text for text in bridge.words(there) if "thread goes on" in text]) < 20
        assert len([text for text in bridge.words(here) if "do not see this thread" in text]) == 30
