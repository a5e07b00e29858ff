"""The declared pairs, and which real channel each declared address stands for at the moment."""

from collections.abc import Iterable

from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.pair import LaneKey, Pair


class PairDirectory:
    """Looks pairs up by channel, and channels up by pair.

    Pairs come from the operator, channels from the adapters: an alias is bound to a room once the homeserver has
    said which. A binding outlives `close`, so that what waits for the channel can still be told apart.
    """

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self._pairs: dict[str, Pair] = {}
        self._by_address: dict[ChannelAddress, Pair] = {}
        self._channels: dict[ChannelAddress, ChannelRef] = {}
        self._addresses: dict[ChannelRef, ChannelAddress] = {}
        self._problems: dict[ChannelAddress, str | None] = {}
        self.replace(pairs)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """In the order of the file."""
        return tuple(self._pairs.values())

    def replace(self, pairs: Iterable[Pair]) -> None:
        """The operator changed the file: addresses that are still declared keep their channels."""
        self._pairs = {pair.name: pair for pair in pairs}
        self._by_address = {side: pair for pair in self._pairs.values() if pair.destinations for side in pair.sides}
        for address in [known for known in self._channels if known not in self._by_address]:
            self._addresses.pop(self._channels.pop(address), None)
        self._problems = {known: text for known, text in self._problems.items() if known in self._by_address}

    def watched(self, platform: Platform) -> frozenset[ChannelAddress]:
        """The addresses on `platform` that an adapter has to open; those of archived pairs are not among them."""
        return frozenset(address for address in self._by_address if address.platform is platform)

    def open(self, address: ChannelAddress, channel: ChannelRef) -> Pair | None:
        """`address` is `channel` and works; the pair it belongs to, None if it is not declared any more."""
        pair = self._by_address.get(address)
        if pair is not None:
            self._channels[address] = channel
            self._addresses[channel] = address
            self._problems[address] = None
        return pair

    def close(self, address: ChannelAddress, problem: str) -> Pair | None:
        """`address` does not work now, for the reason of the sentence `problem`."""
        pair = self._by_address.get(address)
        if pair is not None:
            self._problems[address] = problem
        return pair

    def pair_of(self, channel: ChannelRef) -> Pair | None:
        """The pair that a channel belongs to."""
        address = self._addresses.get(channel)
        return None if address is None else self._by_address.get(address)

    def across(self, channel: ChannelRef) -> ChannelRef | None:
        """The channel that `channel` is paired with. An alias may stand for a room, as people write it."""
        address = self._addresses.get(channel, ChannelAddress(channel.platform, channel.id))
        pair = self._by_address.get(address)
        return None if pair is None else self._channels.get(pair.side(pair.other(channel.platform)))

    def destination(self, lane: LaneKey) -> tuple[Pair, ChannelRef] | None:
        """The pair of a lane and the channel it leads to; None while the pair is undeclared or the channel closed."""
        pair = self._pairs.get(lane.pair)
        if pair is None:
            return None
        address = pair.side(lane.destination)
        channel = self._channels.get(address)
        if channel is None or self._problems.get(address) is not None:
            return None
        return pair, channel

    def problem(self, pair: Pair) -> str | None:
        """What keeps a pair's channels from working, in one sentence."""
        problems = [text for side in pair.sides if (text := self._problems.get(side))]
        return " ".join(problems) or None
