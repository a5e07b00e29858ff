"""The file with the pairs, read again whenever somebody saves it, and what the daemon does with what it says then."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from relay.config.settings import PairSettings, Settings, Stamp, changed_values, differing_keys, stamp
from relay.core.bootstrap import Core
from relay.core.claims.agreement import Claims
from relay.core.claims.handover import Handover, claim_keys
from relay.core.clock import wait_at_most
from relay.core.operations.channel_lookups import ChannelLookups
from relay.domain.pair import Pair
from relay.errors import ConfigurationError, StoreUnavailable
from relay.logs import get_logger

_log = get_logger(__name__)

_LOOK_SECONDS, SETTLE_SECONDS = 2.0, 0.5
"""Between two looks at the file; and where it has changed, until it is looked whether it goes on to."""

# Pairs that are named one by one where several have changed in the same way.
_FEW = 3


@dataclass(slots=True)
class Declared:
    """What the operator has declared, as the file said it when it was read last."""

    settings: Settings
    # Those of the settings, once other relays know that we want them.
    pairs: tuple[Pair, ...] = field(init=False)
    # Set when other pairs are declared.
    changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.pairs = self.settings.declared_pairs()


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Reloader:
    """Watches the file, and declares what it says."""

    declared: Declared
    # With which the daemon was started. What is not about pairs and people stays as it is there.
    started_with: Settings
    # The file as it was when they were read: what was saved since is read at once.
    saved: Stamp
    config: Path
    # Reads the configuration again. Raises `ConfigurationError`.
    read: Callable[[], Settings]
    # Set when it is to be read again, also if nobody has saved the file.
    read_now: asyncio.Event
    # Starts the daemon again, with settings that it cannot follow while it runs; None: the operator has to.
    restart: Callable[[], None] | None
    core: Core
    claims: Claims
    handover: Handover
    lookups: ChannelLookups

    async def run(self) -> None:
        """Use the pairs of the file whenever it is saved. A file with mistakes is refused, and the old pairs stay."""
        known = seen = self.saved
        refused = False
        while True:
            await wait_at_most(self.read_now, _LOOK_SECONDS if seen == known else SETTLE_SECONDS)
            # Wait until the file stops changing. Half of a file would remove half of the pairs.
            before, seen = seen, stamp(self.config)
            if not self.read_now.is_set() and (seen == known or seen != before):
                continue
            asked = self.read_now.is_set() or refused
            self.read_now.clear()
            known = seen
            try:
                settings = await asyncio.to_thread(self.read)
            except ConfigurationError as error:
                refused = True
                for mistake in error.mistakes:
                    _log.error("configuration refused; the pairs stay as they are", mistake=str(mistake))
                continue
            refused = False
            if asked:
                # Also where nothing has changed: who asks, or mends a file, wants to see that it was heard.
                _log.info("configuration read again", pairs=len(settings.pairs))
            await self._use(settings)

    async def _use(self, settings: Settings) -> None:
        core, pairs = self.core, settings.declared_pairs()
        log_difference(self.declared.settings.pairs, settings.pairs)
        self.declared.settings = settings
        if changed := self._needs_restart(settings):
            if self.restart is not None:
                _log.info("settings changed; starting again with them", settings=changed)
                self.restart()
                return
            # Only their names: some of them are secrets.
            _log.warning("settings changed; they take effect when the daemon is started again", settings=changed)
        await self.claims.before_declaring(claim_keys(pairs))
        self.declared.pairs = pairs
        try:
            await core.moderation.declare(pairs)
        except StoreUnavailable as error:
            _log.warning("what policy lists said before is not known", reason=error.reason)
        core.inbox.declare(pairs)
        if core.people.declare(settings.declared_links()):
            _log.info("declared links changed", links=len(settings.people))
        await self.handover.watch()
        await self.claims.declared(claim_keys(pairs))
        await core.inbox.keep_names()
        self.declared.changed.set()
        self.lookups.changed.set()

    def _needs_restart(self, settings: Settings) -> str:
        """The settings that have changed and that a running daemon does not follow, as the file calls them."""
        defaults, directory = self.started_with.defaults, self.started_with.directory
        before, now = (
            replace(one, pairs=(), rooms=(), people=(), defaults=defaults, directory=directory)
            for one in (self.started_with, settings)
        )
        return differing_keys(before, now)


def log_difference(before: Iterable[PairSettings], after: Iterable[PairSettings]) -> None:
    """Log what changed. A pair is identified by its two channels: under another name it was renamed."""
    known = {pair.as_pair().sides: pair for pair in before}
    declared = {pair.as_pair().sides: pair for pair in after}
    for sides, pair in known.items():
        if sides not in declared:
            _log.info("pair removed", pair=pair.label, channel=pair.discord_channel, room=pair.matrix_room)
    # The pairs of each change: one in [defaults] is one line, and not sixty.
    changed: dict[str, list[str]] = {}
    for sides, pair in declared.items():
        old = known.get(sides)
        if old is None:
            _log.info("pair added", pair=pair.label, channel=pair.discord_channel, room=pair.matrix_room)
            continue
        if old.label != pair.label:
            _log.info("pair renamed", pair=pair.label, before=old.label)
        values = changed_values(replace(old, name=pair.name), pair)
        if words := ", ".join(f"{key}: {was} -> {now}" for key, (was, now) in values.items()):
            changed.setdefault(words, []).append(pair.label)
    for words, names in changed.items():
        if len(names) > _FEW:
            _log.info("pairs changed", pairs=f"{', '.join(names[:_FEW])} and {len(names) - _FEW} more", changed=words)
            continue
        for name in names:
            _log.info("pair changed", pair=name, changed=words)
