"""The register of relays on one account, in the account's own data: only that account can read and write it.

https://spec.matrix.org/latest/client-server-api/#client-config. Sync tells of changes at once, and so of other relays;
`core/claims/agreement.py` decides what that means.
"""

import asyncio
from dataclasses import dataclass, field

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.api.session import is_token_refusal
from relay.core.claims.register import NoRegister
from relay.core.ports import Clock
from relay.domain.jsontext import Json, as_dict, as_list
from relay.errors import RateLimited, Transient

_BROKEN_AFTER = 60.0
"""Seconds of errors after which it is looked whether the homeserver only has no answer for this."""

REGISTER = "relay.claims"
"""The type of the account data."""


@dataclass(slots=True, kw_only=True)
class AccountRegister:
    """Implements `core.claims.register.Register`."""

    api: Api
    clock: Clock
    # See `Register.confirmed`. Nothing is confirmed before the first reading.
    confirmed: float = field(init=False, default=float("-inf"))
    # A change that sync has told of, and when it was asked, until that is settled.
    _news: tuple[Json, float] | None = field(init=False, default=None)
    _told: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # Since when the homeserver has answered with nothing but its own errors (monotonic).
    _failing_since: float | None = field(init=False, default=None)

    async def read(self) -> Json:
        """See `Register.read`."""
        try:
            return await self._call("GET", None)
        except Refused as refused:
            if refused.code == "M_NOT_FOUND":
                return {}
            raise await self._translated(refused) from refused

    async def write(self, value: Json) -> None:
        """See `Register.write`."""
        try:
            await self._call("PUT", value)
        except Refused as refused:
            raise await self._translated(refused) from refused

    async def news(self) -> tuple[Json, float]:
        """See `Register.news`."""
        while self._news is None:
            await self._told.wait()
            self._told.clear()
        return self._news

    def settle(self, asked: float) -> None:
        """See `Register.settle`."""
        if self._news is not None and self._news[1] <= asked:
            self._news = None
        self.confirmed = max(self.confirmed, asked)

    def synced(self, response: Json, asked: float) -> None:
        """A sync response has arrived, to a request of that time. It says what has changed since the one before."""
        events = [as_dict(event) for event in as_list(as_dict(response.get("account_data")).get("events"))]
        told = [as_dict(event.get("content")) for event in events if event.get("type") == REGISTER]
        if told:
            self._news = (told[-1], asked)
            self._told.set()
        elif self._news is None:
            self.confirmed = max(self.confirmed, asked)

    async def _call(self, method: str, value: Json | None) -> Json:
        try:
            found = await self.api.call(method, "user", self.api.user_id, "account_data", REGISTER, body=value)
        except Unreachable as error:
            raise Transient(str(error)) from error
        self._failing_since = None
        return found

    async def _translated(self, refused: Refused) -> Exception:
        if refused.status == 429:
            return RateLimited(str(refused), retry_after=refused.retry_after)
        if is_token_refusal(refused):
            return Transient(str(refused))
        if refused.status >= 500 and not await self._is_broken():
            return Transient(str(refused))
        return NoRegister(str(refused))

    async def _is_broken(self) -> bool:
        """Whether the homeserver works, and only the register has failed for long. No relay waits for ever for that."""
        now = self.clock.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since < _BROKEN_AFTER:
            return False
        try:
            await self.api.call("GET", "account", "whoami")
        except (Refused, Unreachable):
            return False
        return True
