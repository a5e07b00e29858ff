"""What people do in a history, by seed."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from relay.core.ports import CommandCall, Inbox
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.text.nodes import plain_text
from relay.errors import StoreUnavailable
from tests.simulation.moderators import Moderators
from tests.simulation.operator import Operator
from tests.support.platform import MemoryPlatform, Message

_LONG = 30  # words: more than one part

EVE = "eve"
"""Somebody of Matrix who does not always want to be carried over, and wants to be forgotten now and then."""

_WISHES = ("optout", "optin", "forget", "forget copies", "unlink", "link")
_LINKING = frozenset({"forget", "forget copies", "unlink", "link"})
_ANSWERS = {
    "You are linked with": True,
    "You are not linked": False,
    "You have no such code": False,
    "Too many wrong codes": False,
    "What I have stored about you is being removed": False,
}
"""What the answers to these tell: whether she is linked."""


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
    wishes: dict[MessageRef, str] = field(default_factory=dict)
    # She is about to ask for a code on Discord, and the one that she was told last.
    wants_code: bool = False
    moderators: Moderators | None = None
    _code: str = "abcdefghjk"
    _has_code: bool = False

    _with_eve: bool = field(init=False)

    def __post_init__(self) -> None:
        self._with_eve = self.rng.random() < 0.3  # a history is short: where she is, she is busy

    def act(self) -> None:
        """Do something, mostly write."""
        if self.moderators is not None and self.moderators.rng.random() < 0.5:
            self.moderators.act()
            return
        platform = self.rng.choice(self.platforms)
        open_channels = self.operator.open_channels(platform.platform)
        if not open_channels:
            return
        channel = platform.channel(self.rng.choice(open_channels))
        shown = platform.shown(channel)
        mine = [message for message in shown if message.author.name in ("ann", "ben")]
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
        # Whoever reads a code of Eve's may say it, too.
        what = self.rng.choice(("whoami", f"link {self._code}"))
        ref = platform.say(channel, self.rng.choice(("ann", "ben")), f"!relay {what}")
        self.operator.wrote(ref)
        self.trace(f"{platform.platform} {ref.id} in {channel.id}: a command")

    def _eve(self, platform: MemoryPlatform, channel: ChannelRef) -> None:
        if self.rng.random() < 0.4:
            wish = self.rng.choices(_WISHES, (4, 1, 1, 1, 1, 8 if self._has_code else 1))[0]
            self.wants_code = not self._has_code or self.rng.random() < 0.1
            self._has_code = self._has_code and wish != "link"
            ref = platform.say(channel, EVE, f"!relay {wish} {self._code}" if wish == "link" else f"!relay {wish}")
            self.wishes[ref] = wish
        else:
            ref = platform.say(channel, EVE, self._words())
            if self._is_out(platform):
                self.secret.add(ref)
        self.operator.wrote(ref)
        words = self.wishes.get(ref, platform.messages[ref].text[:24])  # without the code: each play has another one
        self.trace(f"{platform.platform} {ref.id} in {channel.id}: {words!r} says eve")

    async def ask_for_code(self, inbox: Inbox) -> None:
        """Eve asks for a code on Discord, where the answer is private."""
        self.wants_code = False
        channel = ChannelRef(Platform.DISCORD, "anywhere")
        call = CommandCall(
            UserRef(Platform.DISCORD, EVE), channel, ("link", f"{Platform.MATRIX}:{EVE}"), private=True, name=EVE
        )
        try:
            told = re.search(r"!relay link (\w+)", plain_text(await inbox.command(call)))
        except StoreUnavailable:
            return
        if told is not None:
            self._code, self._has_code = told[1], True
            self.trace("eve has a code")

    def is_linked(self, platform: MemoryPlatform) -> bool | None:
        """Whether Eve's accounts are linked, as she was told; None where she was not, or may have changed it since."""
        linked: bool | None = False
        for asked in (ref for ref, wish in self.wishes.items() if wish in _LINKING):
            words = [it.text for it in platform.messages.values() if it.author.is_self and it.reply_to == asked]
            told = [is_so for start, is_so in _ANSWERS.items() if any(start in answer for answer in words)]
            linked = told[0] if told else None
        return linked

    def _is_out(self, platform: MemoryPlatform) -> bool:
        """Whether Eve has opted out, and was told; nothing that she asked for before may be carried out after that."""
        told = {message.reply_to for message in platform.messages.values() if message.author.is_self}
        told |= {marked for marked, sign in platform.reactions if sign == "✅"}
        asked = [ref for ref, wish in self.wishes.items() if wish in {"optout", "optin"}]
        return bool(asked) and self.wishes[asked[-1]] == "optout" and all(ref in told for ref in asked)

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
