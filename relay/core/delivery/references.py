"""Looks up what a text refers to: people, channels and messages, as `core.convert.references` names them."""

from collections.abc import Mapping
from dataclasses import replace

from relay.core.convert.references import Found, Wanted, named, resolved, unnamed, wanted
from relay.core.pairs import PairDirectory
from relay.core.ports import Adapter, NameReader
from relay.core.storage import Store
from relay.domain.content import Content
from relay.domain.ids import ChannelRef, MessageRef, Platform


class References:
    """Looks up, in the pairs, the message map and on the other platform."""

    def __init__(
        self, *, store: Store, pairs: PairDirectory, name_readers: Mapping[Platform, NameReader] | None = None
    ) -> None:
        self._store = store
        self._pairs = pairs
        self._name_readers = name_readers or {}

    async def resolve(self, content: Content, adapter: Adapter, channel: ChannelRef) -> Content:
        """`content` as it is to be shown in `channel`. Raises `StoreUnavailable`."""
        # A feed that quotes an @ means somebody elsewhere.
        typed = content.style != "notice"
        content = await self._named(content, channel)
        looked_for = wanted(content.text, typed=typed)
        if looked_for == Wanted():
            return content
        found = Found(
            people=await adapter.people(channel, looked_for.names) if looked_for.names else {},
            channels={known: across for known in looked_for.channels if (across := self._pairs.across(known))},
            messages=await self._messages(looked_for.messages, adapter),
        )
        return replace(content, text=resolved(content.text, found, typed=typed))

    async def _named(self, content: Content, channel: ChannelRef) -> Content:
        unknown = unnamed(content.text)
        source = self._pairs.across(channel) if unknown else None
        reader = None if source is None else self._name_readers.get(source.platform)
        if source is None or reader is None:
            return content
        return replace(content, text=named(content.text, await reader.names(source, unknown)))

    async def _messages(
        self, messages: frozenset[MessageRef], adapter: Adapter
    ) -> Mapping[MessageRef, tuple[MessageRef, str]]:
        found: dict[MessageRef, tuple[MessageRef, str]] = {}
        if not messages:
            return found
        async with self._store.read() as uow:
            for message in messages:
                across = self._pairs.across(message.channel)
                copy = None if across is None else await uow.messages.counterpart(message, across)
                if copy is not None and copy.platform is adapter.platform:
                    found[message] = copy, adapter.permalink(copy)
        return found
