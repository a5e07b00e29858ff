"""Embeds, components and polls as text."""

from typing import Any

from relay.adapters.discord.inbound import embeds
from relay.adapters.discord.markup import NameLookup, ReferenceCodes, render
from relay.domain.text.nodes import RichText

READER = embeds.TextReader(NameLookup())


def shown(blocks: Any) -> str:
    return render(RichText(tuple(blocks)), codes=ReferenceCodes())


def test_a_feed_entry_reads_well() -> None:
    embed = {
        "type": "rich",
        "author": {"name": "octocat", "url": "https://github.com/octocat"},
        "title": "[stash] 1 new commit",
        "url": "https://github.com/stash/commit/1",
        "description": "`1f3a` Fix the **login**",
        "fields": [{"name": "Branch", "value": "main"}],
        "image": {"url": "https://example.org/i.png"},
        "footer": {"text": "GitHub"},
        "timestamp": "2026-01-01T00:00:00+00:00",
    }
    lines = shown(embeds.embeds([embed], READER)).split("\n")
    assert all(line.startswith(">") for line in lines if line)
    text = "\n".join(lines)
    order = ["octocat", "1 new commit", "`1f3a` Fix the **login**", "**Branch**", "main", "Image", "GitHub"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "<t:1767225600:" in text


def test_hostile_links_stay_words() -> None:
    embed = {"type": "rich", "title": "click", "url": "javascript:alert(1)"}
    assert "javascript" not in shown(embeds.embeds([embed], READER))


def test_a_poll_and_its_result() -> None:
    poll = {
        "question": {"text": "Lunch?"},
        "answers": [
            {"answer_id": 1, "poll_media": {"text": "Soup", "emoji": {"name": "🍲"}}},
            {"answer_id": 2, "poll_media": {"text": "Salad"}},
        ],
        "results": {"is_finalized": True, "answer_counts": [{"id": 1, "count": 3}]},
    }
    assert shown(embeds.poll(poll, READER)) == "📊 **Lunch?**\n- 🍲 Soup (3)\n- Salad (0)"
    open_poll = poll | {"results": {"is_finalized": False}}
    assert "(3)" not in shown(embeds.poll(open_poll, READER))


def test_the_end_of_a_poll() -> None:
    fields = {
        "poll_question_text": "Lunch?",
        "victor_answer_text": "Soup",
        "victor_answer_votes": "3",
        "total_votes": "4",
    }
    embed = {"type": "poll_result", "fields": [{"name": name, "value": value} for name, value in fields.items()]}
    assert shown(embeds.embeds([embed], READER)) == "The poll has ended: **Lunch?**\n\nSoup (3 of 4 votes)"


def test_components() -> None:
    buttons = {
        "type": 1,
        "components": [
            {"type": 2, "style": 5, "label": "Open", "url": "https://example.org"},
            {"type": 2, "style": 1, "label": "Retry", "custom_id": "retry"},
        ],
    }
    container = {"type": 17, "components": [{"type": 10, "content": "# Title"}, {"type": 14}, buttons]}
    text = shown(embeds.components([container], READER, frozenset()))
    assert text.startswith("# Title")
    assert "Open" in text
    assert r"\[Retry]" in text or "[Retry]" in text


def test_components_that_nest_for_ever_end() -> None:
    deep: dict[str, Any] = {"type": 10, "content": "deep"}
    for _ in range(500):
        deep = {"type": 17, "components": [deep]}
    assert shown(embeds.components([deep], READER, frozenset())) == ""
