"""The accounts of ghosts: made on the homeserver, and what is known of them, in memory and in the store.

Everything that is done for a ghost may be done again: a process that dies in between begins anew, and what was done
before is done at once. What is known of a ghost is in the store, so that a known one costs no request.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from relay.adapters.matrix.api.client import Api, Identity, Refused, Unreachable
from relay.adapters.matrix.api.session import DEVICE_NAME
from relay.config.settings import AppserviceSettings
from relay.core.people.storage import Ghost
from relay.core.recent import keep
from relay.core.storage import Store, UnitOfWork
from relay.domain.ids import ChannelRef, Platform
from relay.domain.jsontext import Json
from relay.errors import Transient
from relay.logs import get_logger

_log = get_logger(__name__)

_DEVICE = "RELAY"
REMEMBERED = 5_000
"""Ghosts, and memberships, that are held in memory. What is known of the others is asked of the store."""

_NO_DEVICES = frozenset({400, 404, 405})


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class GhostAccounts:
    """Makes the accounts, and remembers them."""

    api: Api
    settings: AppserviceSettings
    store: Store
    _known: OrderedDict[str, Ghost] = field(init=False, default_factory=OrderedDict)
    # By account and room; None: it is not in there.
    _profiles: OrderedDict[tuple[str, str], str | None] = field(init=False, default_factory=OrderedDict)

    # --- On the homeserver --------------------------------------------------------------------------------

    async def register(self, account: str, profile: Json) -> Ghost:
        """An account with a device and a profile. To do it again does no harm."""
        name = account[1:].partition(":")[0]
        body = {"type": "m.login.application_service", "username": name, "inhibit_login": True}
        try:
            await self.api.call("POST", "register", body=body, identity=self.identity(Ghost("")))
        except Refused as refused:
            # Ours from before, or somebody's who was there before the registration: then we may not act as it.
            if refused.code != "M_USER_IN_USE":
                raise
        ghost = await self.with_device(Ghost(account))
        for key, value in profile.items():
            # Before it joins: a later change is written into every room that it is in, one event each.
            try:
                body = {key: value}
                await self.api.call("PUT", "profile", account, key, body=body, identity=self.identity(ghost))
            except Refused as refused:
                if refused.status in {401, 429} or refused.status >= 500:
                    raise
                _log.info("ghost has no profile of its own", ghost=account, reason=str(refused))
        _log.info("ghost made", ghost=account)
        return ghost

    async def with_device(self, ghost: Ghost) -> Ghost:
        """The ghost with a device: with that, a transaction ID is known also after the homeserver was killed."""
        identity = self.identity(replace(ghost, device=""))
        try:
            await self.api.call("PUT", "devices", _DEVICE, body={"display_name": DEVICE_NAME}, identity=identity)
        except Refused as refused:
            if refused.status not in _NO_DEVICES:
                raise
            _log.info("the homeserver makes no devices for ghosts", ghost=ghost.account, reason=str(refused))
            return replace(ghost, device="")
        return replace(ghost, device=_DEVICE)

    async def put_member(self, ghost: Ghost, room_id: str, profile: Json) -> None:
        """Join a room, or change the profile there: one event for both."""
        path = ("rooms", room_id, "state", "m.room.member", ghost.account)
        await self.api.call("PUT", *path, body={"membership": "join"} | profile, identity=self.identity(ghost))

    async def invite(self, account: str, room_id: str) -> None:
        """The relay's own account invites a ghost, if it may."""
        try:
            await self.api.call("POST", "rooms", room_id, "invite", body={"user_id": account})
        except Refused as refused:
            if refused.status == 429 or refused.status >= 500:
                raise
            _log.info("ghost not invited", ghost=account, room=room_id, reason=str(refused))

    async def renew_device(self, account: str) -> None:
        """A ghost's device is gone: make it again."""
        known = await self.ghost(account) or Ghost(account)
        keep(self._known, account, await self.with_device(known), REMEMBERED)

    async def act(self, identity: Identity, method: str, *path: str, body: Json) -> None:
        """Do something that a refusal keeps nobody from. Raises `Transient`."""
        try:
            await self.api.call(method, *path, body=body, identity=identity)
        except Unreachable as error:
            raise Transient(str(error), failed=error.answered) from error
        except Refused as refused:
            if refused.status == 429 or refused.status >= 500:
                raise Transient(str(refused), retry_after=refused.retry_after, failed=True) from refused
            _log.info("not done for a ghost", ghost=identity.user_id, path=path[0], reason=str(refused))

    def identity(self, ghost: Ghost) -> Identity:
        """To act as a ghost."""
        return Identity(ghost.account, self.settings.as_token.get_secret_value(), ghost.device)

    # --- What is known ------------------------------------------------------------------------------------

    async def ghost(self, account: str) -> Ghost | None:
        """What is known of a ghost; None if there is none."""
        if account not in self._known:
            async with self.store.read() as uow:
                await self._load(uow, account)
        return self._known.get(account)

    async def profile(self, account: str, room_id: str) -> str | None:
        """A digest of a ghost's profile in a room; None if it is not in there."""
        key = (account, room_id)
        if key not in self._profiles:
            async with self.store.read() as uow:
                await self._load(uow, account)  # whoever asks for the one asks for the other
                found = await uow.ghosts.profile(account, ChannelRef(Platform.MATRIX, room_id))
            self.remember(account, room_id, found)
        return self._profiles.get(key)

    async def record(self, ghost: Ghost, room_id: str, digest: str) -> None:
        """A ghost is in a room, under the profile of which this is the digest."""
        async with self.store.write() as uow:
            await uow.ghosts.put(ghost)
            await uow.ghosts.join(ghost.account, ChannelRef(Platform.MATRIX, room_id), digest)
        keep(self._known, ghost.account, ghost, REMEMBERED)
        self.remember(ghost.account, room_id, digest)

    def remember(self, account: str, room_id: str, digest: str | None) -> None:
        """A ghost has that profile in a room, or is not in there, as far as this process knows."""
        keep(self._profiles, (account, room_id), digest, REMEMBERED)

    async def _load(self, uow: UnitOfWork, account: str) -> None:
        if account not in self._known and (known := await uow.ghosts.get(account)) is not None:
            keep(self._known, account, known, REMEMBERED)

    async def left(self, account: str, room_id: str) -> None:
        """A ghost is not in a room any more."""
        async with self.store.write() as uow:
            await uow.ghosts.leave(account, ChannelRef(Platform.MATRIX, room_id))
        self.remember(account, room_id, None)

    async def channels(self, account: str) -> frozenset[ChannelRef]:
        """Where a ghost is, as far as is on record."""
        async with self.store.read() as uow:
            return frozenset(await uow.ghosts.channels(account))

    async def inside(self, channel: ChannelRef) -> Sequence[str]:
        """Who is in a channel, as far as is on record."""
        async with self.store.read() as uow:
            return await uow.ghosts.inside(channel)

    async def forget(self, account: str) -> None:
        """Nothing is known of a ghost any more."""
        async with self.store.write() as uow:
            await uow.ghosts.forget(account)
        self._known.pop(account, None)


def profile_digest(profile: Json) -> str:
    """What is kept of a name and picture, to compare them."""
    return hashlib.sha256(json.dumps(profile, sort_keys=True).encode()).hexdigest()[:16]
