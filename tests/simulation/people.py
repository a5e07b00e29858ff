"""What people do in a history, by seed."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from relay.domain.ids import ChannelRef, MessageRef, Platform
from tests.simulation.operator import Operator
from tests.support.platform import MemoryPlatform, Message

_LONG = 30  # words: more than one part

EVE = "eve"
"""Somebody of Matrix who does not always want to be carried over, and wants to be forgotten now and then."""

_WISHES = ("optout", "optin", "forget", "forget copies", "unlink", "link abcdefghjk")


@dataclass(slots=True)
class People:
    """The people of both platforms; each `act` is one thing that one of them does.

    `tampered`: originals whose copies a moderator removed on the other side.
    """

    rng: random.Random
    platforms: tuple[MemoryPlatform, MemoryPlatform]
    operator: Operator
    trace: Callable[[str], None]
    written: int = 0
    removed: set[MessageRef] = field(default_factory=set)
    # What Eve wrote when she had certainly opted out: it crosses never.
    secret: set[MessageRef] = field(default_factory=set)
    # What she asked for, the last at the end.
    _wishes: dict[MessageRef, str] = field(default_factory=dict)

    _with_eve: bool = field(init=False)

    def __post_init__(self) -> None:
        self._with_eve = self.rng.random() < 0.3  # a history is short: where she is, she is busy

    def act(self) -> None:
        """Do something, mostly write."""
        platform = self.rng.choice(self.platforms)
        open_channels = self.operator.open_channels(platform.platform)
        if not open_channels:
            return
        channel = platform.channel(self.rng.choice(open_channels))
        shown = platform.shown(channel)
        mine = [message for message in shown if not message.author.is_self and message.author.name != EVE]
        on_matrix = platform.platform is Platform.MATRIX
        what = self.rng.choices(
            ("say", "reply", "edit", "take back", "delete", "react", "moderate", "ask", "eve"),
            (56, 10, 14, 10, 8, 2, 2 if shown else 0, 2 * on_matrix, 60 * (on_matrix and self._with_eve)),
        )[0]
        if what == "ask":
            self._ask(platform, channel)
        elif what == "eve":
            self._eve(platform, channel)
        elif what == "say" or not mine:
            self._say(platform, channel, None)
        elif what == "reply":
            self._say(platform, channel, self.rng.choice(shown).ref)
        elif what == "edit":
            self._edit(platform, self.rng.choice(mine))
        elif what == "take back":
            self._take_back(platform, [message.ref for message in mine if len(platform.edits.get(message.ref, ())) > 1])
        elif what == "delete":
            target = self.rng.choice(mine)
            self.trace(f"{platform.platform} {target.ref.id}: deleted by its author")
            platform.delete(target.ref)
        elif what == "react":
            platform.react(channel)
        else:
            self._moderate(platform, shown)

    def _words(self) -> str:
        self.written += 1
        if self.rng.random() < 0.15:
            return "same"
        length = _LONG * self.rng.randint(1, 3) if self.rng.random() < 0.15 else self.rng.randint(1, 4)
        return " ".join(f"w{self.written}.{number}" for number in range(length))

    def _say(self, platform: MemoryPlatform, channel: ChannelRef, reply_to: MessageRef | None) -> None:
        words = self._words()
        ref = platform.say(channel, self.rng.choice(("ann", "ben")), words, reply_to=reply_to)
        self.operator.wrote(ref)
        self.trace(
            f"{platform.platform} {ref.id} in {channel.id}: {words[:24]!r} says {platform.messages[ref].author.name}"
        )

    def _ask(self, platform: MemoryPlatform, channel: ChannelRef) -> None:
        ref = platform.say(channel, self.rng.choice(("ann", "ben")), "!relay whoami")
        self.operator.wrote(ref)
        self.trace(f"{platform.platform} {ref.id} in {channel.id}: a command")

    def _eve(self, platform: MemoryPlatform, channel: ChannelRef) -> None:
        if self.rng.random() < 0.4:
            wish = self.rng.choices(_WISHES, (4, 1, 1, 1, 1, 1))[0]
            ref = platform.say(channel, EVE, f"!relay {wish}")
            self._wishes[ref] = wish
        else:
            ref = platform.say(channel, EVE, self._words())
            if self._is_out(platform):
                self.secret.add(ref)
        self.operator.wrote(ref)
        self.trace(f"{platform.platform} {ref.id} in {channel.id}: {platform.messages[ref].text[:24]!r} says eve")

    def _is_out(self, platform: MemoryPlatform) -> bool:
        """Whether Eve has opted out, and was told; nothing that she asked for before may be carried out after that."""
        told = {message.reply_to for message in platform.messages.values() if message.author.is_self}
        asked = [ref for ref, wish in self._wishes.items() if wish in {"optout", "optin"}]
        return bool(asked) and self._wishes[asked[-1]] == "optout" and all(ref in told for ref in asked)

    def _edit(self, platform: MemoryPlatform, target: Message) -> None:
        words = self._words()
        self.trace(f"{platform.platform} {target.ref.id}: edited to {words[:24]!r}")
        platform.edit(target.ref, words)
        if target.text.startswith("!relay "):
            self.operator.wrote(target.ref)  # what is said with it is said where the room leads now

    def _take_back(self, platform: MemoryPlatform, edited: list[MessageRef]) -> None:
        # On Discord an edit is for good.
        if edited and platform.platform is Platform.MATRIX:
            target = self.rng.choice(edited)
            number = self.rng.randrange(1, len(platform.edits[target]))
            self.trace(f"{platform.platform} {target.id}: edit {number} taken back")
            platform.take_back(target, number)

    def _moderate(self, platform: MemoryPlatform, shown: list[Message]) -> None:
        copies = [message for message in shown if message.author.is_self]
        if copies:
            target = self.rng.choice(copies)
            self.trace(f"{platform.platform} {target.ref.id}: a copy, deleted by a moderator")
            self.removed.add(target.ref)
            platform.delete(target.ref)
