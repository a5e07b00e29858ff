"""What the operator and the machine do in a history, by seed: the pairs change, the clock jumps, rows are damaged."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from relay.domain.commands import PostNotice
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform
from relay.domain.pair import Pair, PairPolicy
from relay.domain.text.nodes import RichText
from relay.store import codec
from tests.simulation.place import Place

GHOST = "ghost"
"""A channel and a room of a pair that was never declared in this history, for which a backlog waits."""

_GARBAGE: tuple[str | bytes, ...] = ("{", "", "[]", '{"kind":"hologram"}', b"\xff\xfe", '{"kind":"delete","source":7}')


@dataclass(frozen=True, slots=True)
class Link:
    """A pair as the file has it: its name, the names of its two channels, and whether it is declared and paused now."""

    name: str
    discord: str
    matrix: str
    declared: bool = True
    paused: bool = False


@dataclass(slots=True)
class Operator:
    """The file. `said`: where the room of each message led when it was written.

    `loose`: what was written before its channel was given another partner. How much of it crossed by then, and what
    becomes of its copies, is left open; not where they are. `unsaid`: what was written while its pair was paused.
    """

    rng: random.Random
    policy: PairPolicy
    links: list[Link]
    trace: Callable[[str], None]
    changes: list[float]
    jumps: list[tuple[float, float]]
    said: dict[MessageRef, ChannelRef] = field(default_factory=dict)
    loose: set[MessageRef] = field(default_factory=set)
    unsaid: set[MessageRef] = field(default_factory=set)
    damaged: int = 0

    @classmethod
    def of(cls, rng: random.Random, policy: PairPolicy, over: float, trace: Callable[[str], None]) -> "Operator":
        """What a seed has in store; the operator of half of the histories leaves everything as it is."""
        links = [Link(f"p{number}", f"p{number}", f"p{number}") for number in range(rng.choice((1, 1, 2, 3)))]
        changes = sorted(rng.uniform(1, over) for _ in range(rng.choice((0, 0, 1, 3, 6))))
        jumps = sorted((rng.uniform(0, over), rng.uniform(-6, 6) * 3600) for _ in range(rng.choice((0, 0, 1, 3))))
        return cls(rng, policy, links, trace, changes, jumps)

    def pairs(self) -> tuple[Pair, ...]:
        """The declared ones."""
        return tuple(
            Pair(
                link.name,
                (ChannelAddress(Platform.DISCORD, link.discord), ChannelAddress(Platform.MATRIX, f"#{link.matrix}")),
                frozenset(Platform),
                self.policy,
                link.paused,
            )
            for link in self.links
            if link.declared
        )

    def open_channels(self, platform: Platform) -> list[str]:
        """The channels in which people write: those of declared pairs."""
        return [getattr(link, platform.value) for link in self.links if link.declared]

    def partner(self, channel: ChannelRef) -> ChannelRef | None:
        """Where a channel leads now: nowhere while its pair is paused."""
        for link in self.links:
            here, there = ChannelRef(Platform.DISCORD, link.discord), ChannelRef(Platform.MATRIX, link.matrix)
            if link.declared and not link.paused and channel in (here, there):
                return there if channel == here else here
        return None

    def wrote(self, message: MessageRef) -> None:
        """Somebody has written a message just now."""
        partner = self.partner(message.channel)
        if partner is not None:
            self.said[message] = partner
        else:
            self.unsaid.add(message)

    def offset(self, elapsed: float) -> timedelta:
        """How wrong the machine's clock is."""
        return timedelta(seconds=next((off for at, off in reversed(self.jumps) if at <= elapsed), 0.0))

    def change(self) -> None:
        """Edit the file."""
        what = self.rng.choice(("rename", "swap", "remove", "return", "pause"))
        numbers = range(len(self.links))
        one, other = self.rng.choice(numbers), self.rng.choice(numbers)
        if what == "rename":
            name = self.links[one].name
            self.links[one] = replace(self.links[one], name="renamed" if one == other else self.links[other].name)
            if one != other:
                self.links[other] = replace(self.links[other], name=name)
        elif what == "swap" and one != other:
            first, second = self.links[one], self.links[other]
            self.links[one] = replace(first, matrix=second.matrix)
            self.links[other] = replace(second, matrix=first.matrix)
            moved = {
                ChannelRef(Platform(platform), getattr(link, platform))
                for link in (first, second)
                for platform in ("discord", "matrix")
            }
            self.loose |= {message for message in self.said if message.channel in moved}
        elif what == "remove":
            self.links[one] = replace(self.links[one], declared=False)
        elif what == "pause":
            self.links[one] = replace(self.links[one], paused=True)
        else:
            self.links = [replace(link, declared=True, paused=False) for link in self.links]
        names = [link.name for link in self.links]
        self.links = [
            replace(link, name=f"{link.name}-{number}") if names.index(link.name) != number else link
            for number, link in enumerate(self.links)
        ]
        self.trace(f"the file ({what}): {self.links}")

    def damage(self, store: Place) -> None:
        """Put rows into the outbox that nobody can read, right behind the head of a lane or at its end.

        Not before the head: that is the one row that may have been sent already, and a row does not come before it.
        """
        garbage = [each for each in _GARBAGE if store.takes_any_bytes or isinstance(each, str)]
        for (lane_id,) in store.rows("SELECT id FROM lane"):
            if self.rng.random() < 0.3:
                self.damaged += 1
                ((head,),) = store.rows(
                    "SELECT coalesce(min(position), 0) FROM outbox WHERE lane_id = ? AND state = 'waiting'", lane_id
                )
                place = head + self.rng.choice((1, self.rng.randint(1 << 30, 1 << 40)))
                store.change(
                    "INSERT INTO outbox (lane_id, position, state, queued_at, command) VALUES (?, ?, 'waiting', 1, ?)",
                    [(lane_id, place, self.rng.choice(garbage))],
                )
                self.trace(f"a row of lane {lane_id} cannot be read")

    def grow_backlog(self, store: Place) -> None:
        """Let much wait for a pair that is not declared."""
        payload = codec.encode(PostNotice(RichText.plain("nobody may ever read this")))
        ((lane_id,),) = store.rows(
            "INSERT INTO lane (source_platform, source_channel, destination_platform, destination_channel)"
            " VALUES ('discord', ?, 'matrix', ?) RETURNING id",
            GHOST,
            GHOST,
        )
        store.change(
            "INSERT INTO outbox (lane_id, position, state, queued_at, command) VALUES (?, ?, 'waiting', 1, ?)",
            [(lane_id, number << 20, payload) for number in range(300)],
        )
