"""Rate limits: https://discord.com/developers/docs/topics/rate-limits. Pure; time is an argument.

Discord does not document the numbers of the buckets: those here are what the headers of the real API are known to show.
Clients must read them from the headers.
"""

import hashlib
from collections import deque
from dataclasses import dataclass, field
from math import ceil
from typing import Literal, TypeVar

K = TypeVar("K")
Scope = Literal["user", "global", "shared"]


@dataclass(slots=True)
class Limits:
    """May be changed while the server runs."""

    factor: float = 1.0  # multiplies every allowance; 0 turns all limits off
    global_per_second: int = 50
    invalid_per_ten_minutes: int = 10_000
    identify_every: float = 5.0  # seconds between two IDENTIFYs
    identifies_per_day: int = 1000
    max_concurrency: int = 1  # so many shards may IDENTIFY at a time
    shards: int = 0  # how many a bot is told to use; 0: one for each thousand of its guilds
    guilds_per_shard: int = 2500  # with more, a session is refused
    gateway_sends_per_minute: int = 120
    # All webhooks of a channel together, shown in no header: some channels are known to have such a limit
    # (https://github.com/discord/discord-api-docs/issues/1454). 0: none.
    webhooks_per_minute: int = 0
    # Routes for emoji have limits of their own that no header shows, "to prevent abuse". Known is that a guild takes 50
    # new ones an hour (https://github.com/discord/discord-api-docs/issues/2250); an application is taken to be the
    # same. 0: none.
    emojis_per_hour: int = 50

    @property
    def on(self) -> bool:
        """Whether anything is limited at all."""
        return self.factor > 0


@dataclass(frozen=True, slots=True)
class Rule:
    """`limit` requests in `per` seconds, for each channel, guild or webhook."""

    name: str
    limit: int
    per: float


_DEFAULT = Rule("default", 10, 5)
_RULES = {
    ("POST", "/channels/{channel_id}/messages"): Rule("message-create", 5, 5),
    ("PATCH", "/channels/{channel_id}/messages/{message_id}"): Rule("message-edit", 5, 5),
    ("DELETE", "/channels/{channel_id}/messages/{message_id}"): Rule("message-delete", 5, 1),
    ("POST", "/channels/{channel_id}/messages/bulk-delete"): Rule("bulk-delete", 1, 1),
    ("GET", "/channels/{channel_id}/messages"): Rule("message-list", 5, 1),
    ("GET", "/channels/{channel_id}/messages/{message_id}"): Rule("message-get", 30, 30),
    ("POST", "/channels/{channel_id}/typing"): Rule("typing", 5, 5),
    ("PUT", "/channels/{channel_id}/messages/{message_id}/reactions/{emoji}/@me"): Rule("reaction", 1, 0.3),
    ("DELETE", "/channels/{channel_id}/messages/{message_id}/reactions/{emoji}/@me"): Rule("reaction", 1, 0.3),
    ("POST", "/channels/{channel_id}/webhooks"): Rule("webhook-create", 5, 60),
    ("POST", "/webhooks/{webhook_id}/{webhook_token}"): Rule("webhook-execute", 5, 2),
    ("PATCH", "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}"): Rule("webhook-message", 5, 2),
    ("DELETE", "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}"): Rule("webhook-message", 5, 2),
    ("GET", "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}"): Rule("webhook-message-get", 5, 2),
    ("GET", "/gateway/bot"): Rule("gateway", 2, 5),
}
# In practice their limits are so wide that no header is sent; of the last one, no header is sent at all
# (https://github.com/discord/discord-api-docs/issues/4008).
_UNLIMITED = frozenset(
    {
        ("GET", "/users/@me"),
        ("GET", "/oauth2/applications/@me"),
        ("GET", "/applications/@me"),
        ("POST", "/applications/{application_id}/emojis"),
    }
)


@dataclass(slots=True)
class _Window:
    resets_at: float
    used: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 429."""

    scope: Scope
    retry_after: float  # seconds


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may pass, and the headers of its answer in either case."""

    headers: dict[str, str] = field(default_factory=dict)
    refusal: Refusal | None = None


class RateLimiter:
    """Counts requests. `now` is seconds since 1970 throughout."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._windows: dict[tuple[str, str], _Window] = {}
        self._global: dict[str, _Window] = {}
        self._hidden: dict[str, _Window] = {}

    def take(self, who: str, method: str, route: str, major: str, now: float, *, counted: bool = True) -> Verdict:
        """One request by `who` to a route (its template), for one channel, guild or webhook.

        `counted`: it is within the global limit.
        """
        if not self.limits.on:
            return Verdict()
        everything = self._window(self._global, who, now, 1.0)
        if counted and everything.used >= self._scaled(self.limits.global_per_second):
            return Verdict(refusal=Refusal("global", everything.resets_at - now))
        everything.used += counted
        if (method, route) in _UNLIMITED:
            return Verdict()
        rule = _RULES.get((method, route)) or Rule(f"{method} {route}", _DEFAULT.limit, _DEFAULT.per)
        window = self._window(self._windows, (rule.name, f"{who}:{major}"), now, rule.per)
        limit = self._scaled(rule.limit)
        refused = window.used >= limit
        window.used += not refused
        headers = _headers(rule, limit, limit - window.used, window.resets_at, now)
        refusal = Refusal("user", window.resets_at - now) if refused else None
        return Verdict(headers, refusal)

    def take_webhook(self, channel: str, now: float) -> Refusal | None:
        """One execution of any webhook of a channel, against the allowance that no header shows."""
        return self._take_hidden(f"webhooks of {channel}", self.limits.webhooks_per_minute, 60.0, now)

    def take_emoji(self, application: str, now: float) -> Refusal | None:
        """One new emoji of an application, against the allowance that no header shows."""
        return self._take_hidden(f"emojis of {application}", self.limits.emojis_per_hour, 3600.0, now)

    def _take_hidden(self, key: str, allowed: int, per: float, now: float) -> Refusal | None:
        if not self.limits.on or not allowed:
            return None
        window = self._window(self._hidden, key, now, per)
        if window.used >= self._scaled(allowed):
            return Refusal("shared", window.resets_at - now)
        window.used += 1
        return None

    def _scaled(self, allowance: int) -> int:
        return max(1, round(allowance * self.limits.factor))

    @staticmethod
    def _window(windows: dict[K, _Window], key: K, now: float, per: float) -> _Window:
        window = windows.get(key)
        if window is None or now >= window.resets_at:
            window = windows[key] = _Window(now + per)
        return window


def _headers(rule: Rule, limit: int, remaining: int, resets_at: float, now: float) -> dict[str, str]:
    return {
        "X-RateLimit-Bucket": hashlib.md5(rule.name.encode(), usedforsecurity=False).hexdigest(),
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        # Rounded up: who waits exactly that long is not refused again.
        "X-RateLimit-Reset": f"{ceil(resets_at * 1000) / 1000:.3f}",
        "X-RateLimit-Reset-After": f"{ceil((resets_at - now) * 1000) / 1000:.3f}",
    }


class InvalidRequests:
    """Counts answers of 401, 403 and 429 (but for the shared scope): too many in ten minutes ban the address.

    https://discord.com/developers/docs/topics/rate-limits#invalid-request-limit-aka-cloudflare-bans
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.banned_until = 0.0
        self.bans = 0
        self._times: deque[float] = deque()

    def count(self, status: int, scope: str | None, now: float) -> None:
        """Count an answer, if it is one of these."""
        if status not in {401, 403, 429} or scope == "shared":
            return
        self._times.append(now)
        self._forget(now)
        if len(self._times) >= self.limits.invalid_per_ten_minutes and now >= self.banned_until:
            self.banned_until = now + 3600
            self.bans += 1

    def recent(self, now: float) -> int:
        """How many in the last ten minutes."""
        self._forget(now)
        return len(self._times)

    def banned(self, now: float) -> bool:
        """Whether the address is banned."""
        return now < self.banned_until

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] < now - 600:
            self._times.popleft()
