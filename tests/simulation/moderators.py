"""What moderators do in some histories: bans, a policy list, a block list, and marks for adults that change."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from relay.core.bootstrap import Core
from relay.core.moderation.ports import BanReader
from relay.domain.content import Content
from relay.domain.events import PolicyListRead, PolicyRule
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, Platform
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import walk
from tests.simulation.operator import Operator
from tests.support.memory_adapter import MemoryAdapter
from tests.support.platform import MemoryPlatform

MAL = "mal"
"""Somebody on both platforms whom moderators ban, and take back."""

_LIST = ChannelAddress(Platform.MATRIX, "#bans")
_FILE = MediaRef(Platform.DISCORD, "https://cdn.example/blob.png")


@dataclass(slots=True)
class Moderators:
    """Each `act` is one thing that a moderator, or Mal, does."""

    rng: random.Random
    platforms: tuple[MemoryPlatform, MemoryPlatform]
    operator: Operator
    trace: Callable[[str], None]
    # What Mal wrote when it was certainly known that he is not to be heard: it crosses never.
    refused: set[MessageRef] = field(default_factory=set)
    # What was written where certainly only adults read, and the picture in it: that is never shown to others.
    adult: dict[MessageRef, str] = field(default_factory=dict)
    # The operator's own list changed, and is to be read again.
    block_list_changed: bool = False
    _listed: bool = False
    _life: tuple[Core, list[MemoryAdapter]] | None = None

    @classmethod
    def of(
        cls,
        seed: int,
        platforms: tuple[MemoryPlatform, MemoryPlatform],
        operator: Operator,
        trace: Callable[[str], None],
    ) -> "Moderators | None":
        """Those of a history; most have none."""
        if seed % 4 != 3:
            return None
        rng = random.Random(seed + 1_000_000_007)
        differ = rng.random() < 0.5
        operator.policy = replace(
            operator.policy, follow_bans=True, policy_lists=(_LIST,), nsfw_may_differ=differ, moderate_deletions=False
        )
        return cls(rng, platforms, operator, trace)

    def begin(self, core: Core, adapters: list[MemoryAdapter]) -> None:
        """A life of the process begins."""
        self._life = core, adapters

    def end(self) -> None:
        """It is over: from now on nothing is known to anybody."""
        self._life = None

    def settle(self) -> None:
        """No channel is for adults any more, so that everything crosses in the end."""
        for channel in sorted(self._discord.restricted):
            self._unmark(channel)

    def act(self) -> None:
        """Do something."""
        platform = self.rng.choice(self.platforms)
        names = self.operator.open_channels(platform.platform)
        if not names:
            return
        channel = platform.channel(self.rng.choice(names))
        what = self.rng.choices(("mal", "picture", "ban", "list", "block", "mark"), (40, 20, 12, 8, 4, 12))[0]
        match what:
            case "mal":
                self._mal(platform, channel)
            case "picture":
                self._picture()
            case "ban":
                self._ban(platform, channel)
            case "list":
                self._list()
            case "block":
                self._block()
            case "mark":
                self._mark()

    # --- What is known ------------------------------------------------------------------------------------

    def _has_read(self) -> bool:
        """Whether the relay has read everything that has happened so far."""
        return self._life is not None and all(
            adapter.health().state == "ready" and not adapter.unread() for adapter in self._life[1]
        )

    def _knows_bans_of(self, channel: ChannelRef) -> bool:
        if self._life is None:
            return False
        core, adapters = self._life
        reader: BanReader = next(adapter for adapter in adapters if adapter.platform is channel.platform)
        place = reader.place_of(channel)
        return place is not None and core.moderation.bans._listed.get(place) == reader.bans_version(place)

    def _is_refused(self, channel: ChannelRef) -> bool:
        """Whether the relay certainly knows that nothing of Mal's may cross from a channel."""
        if self.operator.partner(channel) is None or not self._has_read() or self.block_list_changed:
            return False
        if self.operator.policy.blocked or (self._listed and channel.platform is Platform.MATRIX):
            return True
        return MAL in self._of(channel).bans.get(channel, ()) and self._knows_bans_of(channel)

    # --- What is done -------------------------------------------------------------------------------------

    def _mal(self, platform: MemoryPlatform, channel: ChannelRef) -> None:
        refused = self._is_refused(channel)
        ref = platform.say(channel, MAL, f"spam {len(platform.messages)}")
        self.operator.wrote(ref)
        if refused:
            self.refused.add(ref)
        self.trace(f"{platform.platform} {ref.id} in {channel.id}: {MAL} writes{', whom nobody hears' * refused}")

    def _picture(self) -> None:
        names = self.operator.open_channels(Platform.DISCORD)
        channel = self._discord.channel(self.rng.choice(names))
        number = str(len(self._discord.messages))
        words, picture = n.Text(f"picture {number} "), n.CustomEmoji("blob", number, _FILE)
        ref = self._discord.say(channel, "ann", Content(n.RichText((n.Paragraph((words, picture)),))))
        self.operator.wrote(ref)
        if self._knows_mark_of(channel):
            self.adult[ref] = number
        self.trace(f"discord {ref.id} in {channel.id}: a picture{', for adults' * (ref in self.adult)}")

    def _ban(self, platform: MemoryPlatform, channel: ChannelRef) -> None:
        banned = MAL in platform.bans.get(channel, ())
        if banned:
            self._hear_again()
            platform.unban(channel, MAL)
        else:
            platform.ban(channel, MAL)
        self.trace(f"{platform.platform} {channel.id}: {MAL} is {'un' * banned}banned")

    def _list(self) -> None:
        self._listed = not self._listed
        if not self._listed:
            self._hear_again()
        rules = (PolicyRule("account", "m?l", "spam"),) if self._listed else ()
        matrix = self._of(ChannelRef(Platform.MATRIX, ""))
        matrix._happen(PolicyListRead(_LIST, rules))
        self.trace(f"the policy list: {len(rules)} rules")

    def _block(self) -> None:
        blocked = () if self.operator.policy.blocked else tuple((platform, "m*l") for platform in Platform)
        if not blocked:
            self._hear_again()
        self.operator.policy = replace(self.operator.policy, blocked=blocked)
        self.block_list_changed = True
        self.trace(f"the block list: {len(blocked)} accounts")

    def _hear_again(self) -> None:
        """What the relay has not read yet, it may read once nobody is refused any more."""
        if not self._has_read():
            self.refused.clear()

    def _mark(self) -> None:
        channel = self._discord.channel(self.rng.choice(self.operator.open_channels(Platform.DISCORD)))
        if channel in self._discord.restricted:
            self._unmark(channel)
        else:
            self._discord.restrict(channel)
            self.trace(f"discord {channel.id}: for adults")

    def _unmark(self, channel: ChannelRef) -> None:
        if not self._knows_mark_of(channel):
            # Marked and not any more while nobody looked: nobody can tell what was written in between.
            self.adult = {ref: number for ref, number in self.adult.items() if ref.channel != channel}
        self._discord.restrict(channel, restricted=False)
        self.trace(f"discord {channel.id}: for everybody")

    def _knows_mark_of(self, channel: ChannelRef) -> bool:
        """Whether it is on record that a channel is for adults."""
        known = None if self._life is None else self._life[0].moderation.age_marks._known.get(channel)
        return channel in self._discord.restricted and known is not None and known.restricted

    @property
    def _discord(self) -> MemoryPlatform:
        return next(one for one in self.platforms if one.platform is Platform.DISCORD)

    def _of(self, channel: ChannelRef) -> MemoryPlatform:
        return next(one for one in self.platforms if one.platform is channel.platform)

    # --- What is judged -----------------------------------------------------------------------------------

    def violations(self, copies: dict[MessageRef, list[MessageRef]]) -> list[str]:
        """What crossed although it must not."""
        found = [
            f"crossed: {ref.platform} {ref.id}, of somebody who is banned"
            for ref in sorted(self.refused & copies.keys())
        ]
        shown = {ref: message for platform in self.platforms for ref, message in platform.messages.items()}
        found += [
            f"a picture for adults: {original.platform} {original.id} in {copy.channel.id}"
            for original, number in sorted(self.adult.items())
            for copy in copies.get(original, ())
            if any(isinstance(it, n.CustomEmoji) and it.id == number for it in walk(shown[copy].content.text.blocks))
        ]
        return found
