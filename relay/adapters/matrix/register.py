"""The register of relays on one account, in the account's own data: only that account can read and write it.

https://spec.matrix.org/latest/client-server-api/#client-config. Sync tells of changes at once, and so of other relays;
`core/claims/agreement.py` decides what that means.
"""

import asyncio
import json
import secrets
from dataclasses import dataclass, field

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.api.session import is_token_refusal
from relay.core.claims.register import NoRegister, Values
from relay.core.ports import Clock
from relay.domain.jsontext import Json, as_dict, as_list, as_string
from relay.errors import RateLimited, Transient

_BROKEN_AFTER = 60.0
"""Seconds of errors after which it is looked whether the homeserver only has no answer for this."""

_PREFIX = "relay.claims."
"""The type of a value in the account data is this and its name."""

REGISTER_TYPES = (f"{_PREFIX}*",)
"""For a filter of sync."""

_NOTHING = {"not_types": ["*"]}
_READING = {"account_data": {"types": REGISTER_TYPES}, "presence": _NOTHING, "room": {"rooms": []}}


@dataclass(slots=True, kw_only=True)
class AccountRegister:
    """Implements `core.claims.register.Register`."""

    api: Api
    clock: Clock
    # See `Register.confirmed`. Nothing is confirmed before the first reading.
    confirmed: float = field(init=False, default=float("-inf"))
    # When sync told of a change that is not settled (monotonic).
    _told_at: float | None = field(init=False, default=None)
    _told: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # How many readings were begun, and when the last two were asked for. What the last one found, and the number of
    # that which has been acted on: while it is the last one, sync tells nothing new by saying the same.
    _readings: int = field(init=False, default=0)
    _asked: tuple[float, float] = field(init=False, default=(float("-inf"), float("-inf")))
    _found: Values | None = field(init=False, default=None)
    _settled: int = field(init=False, default=0)
    # Since when the homeserver has answered such requests with nothing but its own errors (monotonic), by method.
    _failing_since: dict[str, float] = field(init=False, default_factory=dict)

    async def read(self) -> Values:
        """See `Register.read`. Only a sync has all of the account's data in one answer."""
        # It is answered at once, whatever the time-out is. For two minutes Synapse answers the same request from its
        # cache; a random time-out makes it differ.
        timeout = str(secrets.randbelow(60_000) + 1)
        query = {"filter": json.dumps(_READING), "timeout": timeout, "set_presence": "offline"}
        self._readings, self._found = self._readings + 1, None
        self._asked = (self._asked[1], self.clock.monotonic())
        self._found = _values(await self._call("GET", "sync", query=query))
        return self._found

    async def write(self, name: str, value: Json) -> None:
        """See `Register.write`."""
        await self._call("PUT", "user", self.api.user_id, "account_data", f"{_PREFIX}{name}", body=value)

    async def changed(self) -> None:
        """See `Register.changed`."""
        while self._told_at is None:
            await self._told.wait()
            self._told.clear()

    def settle(self, asked: float) -> None:
        """See `Register.settle`."""
        if self._told_at is not None and self._told_at <= asked:
            self._told_at = None
        if self._asked[0] < asked <= self._asked[1]:
            self._settled = self._readings
        self.confirmed = max(self.confirmed, asked)

    def synced(self, response: Json, asked: float) -> None:
        """A sync response has arrived, which says what has changed since the one before.

        `asked`: when it was asked for with this `since` for the first time. The homeserver may have kept that answer.
        """
        told = _values(response)
        if told and not self._is_settled(told):
            self._told_at = self.clock.monotonic()
            self._told.set()
        elif self._told_at is None:
            self.confirmed = max(self.confirmed, asked)

    def _is_settled(self, told: Values) -> bool:
        """Whether that is what was read last and acted on. Our own words come back so, at the start.

        Not where something is under way: what it will find may be older than this.
        """
        if self._told_at is not None or self._found is None or self._settled != self._readings:
            return False
        return all(self._found.get(name) == value for name, value in told.items())

    async def _call(
        self, method: str, *path: str, query: dict[str, str] | None = None, body: Json | None = None
    ) -> Json:
        try:
            found = await self.api.call(method, *path, query=query, body=body)
        except Unreachable as error:
            raise Transient(str(error)) from error
        except Refused as refused:
            raise await self._translated(refused, method) from refused
        self._failing_since.pop(method, None)
        return found

    async def _translated(self, refused: Refused, method: str) -> Exception:
        if refused.status == 429:
            return RateLimited(str(refused), retry_after=refused.retry_after)
        if is_token_refusal(refused):
            return Transient(str(refused))
        if refused.status >= 500 and not await self._is_broken(method):
            return Transient(str(refused))
        return NoRegister(str(refused))

    async def _is_broken(self, method: str) -> bool:
        """Whether the homeserver works, and only the register has failed for long. No relay waits for ever for that."""
        now = self.clock.monotonic()
        if now - self._failing_since.setdefault(method, now) < _BROKEN_AFTER:
            return False
        try:
            await self.api.call("GET", "account", "whoami")
        except (Refused, Unreachable):
            return False
        return True


def _values(response: Json) -> Values:
    """What of the register stands in a sync response, by name."""
    events = [as_dict(event) for event in as_list(as_dict(response.get("account_data")).get("events"))]
    told = [(as_string(event.get("type")), as_dict(event.get("content"))) for event in events]
    return {kind.removeprefix(_PREFIX): value for kind, value in told if kind.startswith(_PREFIX)}
