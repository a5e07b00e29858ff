"""The declared pairs, and which channel each declared address stands for."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from relay.core.clock import Bell
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.pair import LaneKey, Pair

SAID_WHILE_PAUSED = "its pair was paused when it was said"
"""Why a message was left out that is on record as deleted: it never crosses."""

_NOTHING: Mapping[ChannelAddress, ChannelRef] = MappingProxyType({})


class PairDirectory:
    """Finds pairs by channel and by lane, and channels by pair.

    Pairs come from the operator, channels from the adapters: an alias stands for a room once the homeserver has said
    which. That outlives `close` and the process (`known` is from earlier processes), so that waiting commands find
    their pair before its channels are open. An address that was never opened stands for itself.
    """

    def __init__(
        self,
        pairs: Iterable[Pair] = (),
        known: Mapping[ChannelAddress, ChannelRef] = _NOTHING,
        # Addresses that need not belong to a pair: the relay says something there in its own name.
        others: Iterable[ChannelAddress] = (),
    ) -> None:
        self._others = frozenset(others)
        self._pairs: tuple[Pair, ...] = ()
        self._by_address: dict[ChannelAddress, Pair] = {}
        self._channels = dict(known)
        self._addresses: dict[ChannelRef, ChannelAddress] = {}
        # None for an open channel; no entry before the first `open` or `close`.
        self._problems: dict[ChannelAddress, str | None] = {}
        self._predecessors: dict[ChannelRef, frozenset[ChannelRef]] = {}
        # Grows with each change, so that nobody need look through all pairs to find one.
        self.changes = 0
        # Rings with each change.
        self.changed = Bell()
        # Pairs that are left alone because another relay holds them, by one of their addresses: why.
        self._held_back: dict[ChannelAddress, str] = {}
        # Of pairs that are being handed over to another relay: nothing more is read in them.
        self._leaving: frozenset[ChannelAddress] = frozenset()
        self.replace(pairs)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """In the order of the file."""
        return self._pairs

    def replace(self, pairs: Iterable[Pair]) -> None:
        """The operator changed the pairs. Addresses that are still declared stay open."""
        self._use(pairs)
        self.count_change()

    def _use(self, pairs: Iterable[Pair]) -> None:
        self._pairs = tuple(pairs)
        used = [pair for pair in self._pairs if pair.destinations and self._held_back.keys().isdisjoint(pair.sides)]
        self._by_address = {side: pair for pair in used for side in pair.sides}
        self._addresses = {self.channel(address): address for address in self._by_address}
        self._problems = {known: text for known, text in self._problems.items() if self._is_declared(known)}

    def count_change(self) -> None:
        """Something about the pairs, or the channels of one, is another way now."""
        self.changes += 1
        self.changed.ring()

    def hold_back(self, reasons: Mapping[ChannelAddress, str]) -> None:
        """Another relay holds these pairs, and no others: treat them as not declared. The reasons are sentences."""
        same = reasons == self._held_back and self._leaving <= reasons.keys()
        self._held_back = dict(reasons)
        self._leaving &= reasons.keys()
        self._use(self._pairs)
        # Told every few seconds, mostly the same: who is told of changes looks through all pairs.
        if not same:
            self.count_change()

    def leave(self, addresses: Iterable[ChannelAddress]) -> None:
        """Read no more in the pairs of these addresses. What waits for them is delivered."""
        self._leaving |= frozenset(addresses)

    def is_left(self, pair: Pair) -> bool:
        """Whether nothing more is read in a pair."""
        return not self._leaving.isdisjoint(pair.sides)

    def remember(self, known: Mapping[ChannelAddress, ChannelRef]) -> None:
        """Add what an earlier process knew; what this one knows takes precedence."""
        self._channels = {**known, **self._channels}
        self.replace(self._pairs)

    def watched(self, platform: Platform) -> frozenset[ChannelAddress]:
        """The addresses on `platform` that an adapter has to open: all except those of archived pairs."""
        return frozenset(address for address in (*self._by_address, *self._others) if address.platform is platform)

    def secondary(self, platform: Platform) -> frozenset[ChannelAddress]:
        """Those among them that are in no pair."""
        return self.watched(platform) - self._by_address.keys()

    def _is_declared(self, address: ChannelAddress) -> bool:
        return address in self._by_address or address in self._others

    def open(
        self, address: ChannelAddress, channel: ChannelRef, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> Pair | None:
        """`address` is `channel`, and can be used. Returns its pair, None if it is not declared any more.

        `predecessors`: see `Inbox.opened`.
        """
        pair = self._by_address.get(address)
        if not self.is_address_open(address) or self._channels.get(address) != channel:
            self.count_change()
        if self._is_declared(address):
            before = self.channel(address)
            if before != channel and self._addresses.get(before) == address:
                del self._addresses[before]
            self._channels[address] = channel
            self._problems[address] = None
        if pair is not None:
            self._addresses[channel] = address
            self._predecessors[channel] = predecessors
        return pair

    def close(self, address: ChannelAddress, problem: str) -> Pair | None:
        """`address` cannot be used now, and the sentence `problem` says why. Returns its pair."""
        if self._is_declared(address):
            if self._problems.get(address) != problem:
                self.count_change()
            self._problems[address] = problem
        return self._by_address.get(address)

    def channel(self, address: ChannelAddress) -> ChannelRef:
        """The channel that `address` stands for, as far as is known."""
        return self._channels.get(address) or ChannelRef(address.platform, address.value)

    def declared_channels(self) -> frozenset[ChannelRef]:
        """The channels of all pairs, archived ones too, and their addresses taken as channels."""
        sides = [side for pair in self._pairs for side in pair.sides]
        return frozenset(map(self.channel, sides)) | {ChannelRef(side.platform, side.value) for side in sides}

    def pair_of(self, channel: ChannelRef) -> Pair | None:
        """The pair that a channel belongs to."""
        address = self._addresses.get(channel)
        return None if address is None else self._by_address.get(address)

    def predecessors(self, channel: ChannelRef) -> frozenset[ChannelRef]:
        """The channels that `channel` has replaced as the same place."""
        return self._predecessors.get(channel, frozenset())

    def across(self, channel: ChannelRef) -> ChannelRef | None:
        """The channel that `channel` is paired with. `channel` may be a declared alias, as people write it in links."""
        address = self._addresses.get(channel, ChannelAddress(channel.platform, channel.id))
        pair = self._by_address.get(address)
        return None if pair is None else self._channels.get(pair.side(pair.other(channel.platform)))

    def lane_from(self, channel: ChannelRef, pair: Pair) -> LaneKey:
        """The lane of what is said in `channel`, one of the pair's two."""
        return LaneKey(channel, self.channel(pair.side(pair.other(channel.platform))))

    def lanes(self, pair: Pair, *, towards: Platform | None = None) -> tuple[LaneKey, ...]:
        """The lanes of a pair: to each side, or only `towards` one, from the other side and from itself."""
        channels = {side.platform: self.channel(side) for side in pair.sides}
        return tuple(
            lane
            for platform, channel in channels.items()
            if towards in (None, platform)
            for lane in (LaneKey(channels[pair.other(platform)], channel), LaneKey.within(channel))
        )

    def pair_for(self, lane: LaneKey) -> Pair | None:
        """The pair of a lane's two channels; None while no such pair is declared."""
        pair = self.pair_of(lane.source)
        if pair is None or not lane.crosses:
            return pair
        there = pair.side(pair.other(lane.source.platform))
        return pair if self.channel(there) == lane.destination else None

    def carries(self, lane: LaneKey) -> bool:
        """Whether what waits in a lane may be delivered: its pair is declared, not paused, and open in this way."""
        pair = self.pair_for(lane)
        if pair is None or not lane.crosses:
            return pair is not None
        return not pair.paused and lane.destination.platform in pair.destinations

    def name_of(self, lane: LaneKey) -> str:
        """The name of a lane's pair; its channels while no pair is declared."""
        pair = self.pair_for(lane)
        return f"{lane.source.id} -> {lane.destination.id}" if pair is None else pair.name

    def is_open(self, lane: LaneKey) -> bool:
        """Whether the channel that a lane leads to can be used now."""
        address = self._addresses.get(lane.destination)
        return address is not None and self._problems.get(address, "not opened yet") is None

    def is_address_open(self, address: ChannelAddress) -> bool:
        """Whether the channel of a declared address can be used now."""
        return self._problems.get(address, "not opened yet") is None

    def address_problem(self, address: ChannelAddress) -> str | None:
        """Why it cannot be used; None if it can, or if that is not known yet."""
        return self._problems.get(address)

    def other_problems(self) -> tuple[str, ...]:
        """Why addresses that belong to no pair cannot be used: a sentence for each."""
        return tuple(text for address in sorted(self._others) if (text := self._problems.get(address)))

    def notes(self, pair: Pair) -> tuple[str, ...]:
        """What the operator may correct although the pair works: a declared channel has been replaced."""
        return tuple(
            f"{side.value} has been replaced by {now.id}, and the relay goes on there: the file may name the new one."
            for side in pair.sides
            if ChannelRef(side.platform, side.value) in self.predecessors(now := self.channel(side))
        )

    def problems(self, pair: Pair) -> tuple[str, ...]:
        """Why a pair's channels cannot be used: a sentence for each; none if they can."""
        reasons = (self._held_back, self._problems)
        return tuple(text for why in reasons for side in pair.sides if (text := why.get(side)))
