"""What is remembered of messages is bounded by memory."""

from relay.adapters.discord.message_cache import CachedMessage, MessageCache
from relay.domain.content import Content
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import weight


def seen(pieces: int) -> CachedMessage:
    return CachedMessage(
        "1", "Ann", "2", None, Content(n.RichText((n.Paragraph((n.Strong((n.Text("a"),)),) * pieces),)))
    )


def test_dense_messages_push_others_out() -> None:
    recent = MessageCache(memory=200_000)
    for number in range(2_000):
        recent.put(str(number), seen(200))
    kept = [number for number in range(2_000) if recent.get(str(number)) is not None]
    assert kept == list(range(kept[0], 2_000))
    assert recent.size == sum(weight(seen(200)) for _ in kept) <= 200_000


def test_what_is_edited_or_gone_is_not_counted_twice() -> None:
    recent = MessageCache()
    recent.put("1", seen(50))
    recent.put("1", seen(5))
    assert recent.size == weight(seen(5))
    recent.forget("1")
    recent.forget("1")
    assert (recent.size, recent.get("1")) == (0, None)


def test_a_message_larger_than_all_room_is_not_kept() -> None:
    recent = MessageCache(memory=1_000)
    recent.put("1", seen(1))
    recent.put("2", seen(1_000))
    assert recent.size == 0
