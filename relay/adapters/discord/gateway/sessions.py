"""The gateway's sessions: what has to be read anew after each, and which shards are connected."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import discord

from relay.adapters.discord.bans import Bans
from relay.adapters.discord.channels import Channels
from relay.adapters.discord.gateway.guild_cache import GuildCache
from relay.adapters.discord.gateway.translator import BotIdentity
from relay.adapters.discord.identifiers import Shard
from relay.adapters.discord.pictures.avatars import Avatars
from relay.adapters.discord.webhooks import Webhooks
from relay.core.ports import SideHealth
from relay.domain.jsontext import Json
from relay.logs import get_logger

_log = get_logger(__name__)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Sessions:
    """Implements `Listener` in `gateway/connection.py`."""

    identity: BotIdentity
    guilds: GuildCache
    webhooks: Webhooks
    channels: Channels
    avatars: Avatars
    bans: Bans
    # Told the application's ID: it may have another command than we want by now.
    check_commands: Callable[[str], None]
    # Told how this side is whenever that may have changed.
    set_health: Callable[[SideHealth], None]
    # See `Listener.dispatched`: what is told within a session is taken elsewhere.
    dispatched: Callable[[str, Json], None]
    # Why each shard that is not connected is not.
    _connecting: dict[int, str] = field(init=False, default_factory=lambda: {0: ""})

    def divided(self, shards: int) -> None:
        """See `Listener`."""
        self._connecting = dict.fromkeys(range(shards), "")
        self.guilds.divided(shards)

    def session_started(self, client: discord.Client, shard: Shard) -> None:
        """See `Listener`."""
        self.identity.user = str(client.user.id) if client.user is not None else ""
        # Both IDs are the same, except for very old bots.
        self.identity.application = str(client.application_id or self.identity.user)
        self.webhooks.set_owner(self.identity.application, self.identity.user)
        self.avatars.session_started()
        self.guilds.session_started(client, shard)
        self.webhooks.may_have_changed(partial(self.guilds.may_be_in, shard))
        self.bans.may_be_missed(shard)
        self.channels.session_started(shard.covers)
        self.check_commands(self.identity.application)
        self._shard_is_connected(shard)
        who = f"{client.user.name} ({client.user.id})" if client.user is not None else ""
        _log.info("discord connected", **shard.label(), user=who, guilds=len(client.guilds))
        if not self._connecting and not self.guilds.guilds():
            _log.warning("the bot is in no server", remedy=f"invite it: {self.guilds.invite_link()}")

    def session_resumed(self, shard: Shard) -> None:
        """See `Listener`."""
        self._shard_is_connected(shard)
        _log.info("discord resumed", **shard.label())

    def dispatch_lost(self, shard: Shard) -> None:
        """See `Listener`."""
        self.bans.may_be_missed(shard)
        self.webhooks.may_have_changed(partial(self.guilds.may_be_in, shard))
        self.channels.read_again(shard.covers)

    def disconnected(self, shard: Shard, reason: str) -> None:
        """See `Listener`."""
        self._connecting[shard.number] = reason if shard.total == 1 else f"{shard}: {reason}"
        self._shards_changed()

    def _shard_is_connected(self, shard: Shard) -> None:
        self._connecting.pop(shard.number, None)
        self._shards_changed()

    def _shards_changed(self) -> None:
        """This side is ready while all shards are connected: of the others' servers nothing is heard."""
        reason = next(filter(None, self._connecting.values()), "")
        self.set_health(SideHealth("connecting", reason) if self._connecting else SideHealth("ready"))
