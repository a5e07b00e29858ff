"""Who may see the status page, and act on it, where `[web] token` is set: sign-in, sessions, forged requests.

A browser signs in once with the token and gets a cookie, which is worth nothing once the daemon has ended. A program
(Prometheus) sends the token with each request, as `Authorization: Bearer`.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from aiohttp import web

from relay.logs import get_logger

_log = get_logger(__name__)

COOKIE = "relay_session"
FORM_TOKEN = "form"  # noqa: S105 - the name of a field
SESSION_SECONDS = 7 * 86400
_MOST_SESSIONS = 32
_WRONG_TRIES = 5
_WRONG_SECONDS = 60.0
"""So many wrong tokens within so many seconds, and that address is not listened to until they are over."""

_ADDRESSES_REMEMBERED = 1000


@dataclass(slots=True)
class WrongTries:
    """Where wrong tokens came from of late."""

    now: Callable[[], float] = time.monotonic
    # By address, the oldest first: when each was tried.
    _tries: dict[str, list[float]] = field(default_factory=dict)

    def seconds_to_wait(self, address: str) -> float:
        """How long an address is not listened to."""
        tries = [at for at in self._tries.get(_network(address), ()) if self.now() - at < _WRONG_SECONDS]
        return tries[-_WRONG_TRIES] + _WRONG_SECONDS - self.now() if len(tries) >= _WRONG_TRIES else 0.0

    def wrong(self, address: str) -> None:
        """A wrong token came from there."""
        network = _network(address)
        tries = [at for at in self._tries.pop(network, ()) if self.now() - at < _WRONG_SECONDS]
        self._tries[network] = [*tries, self.now()][-_WRONG_TRIES:]
        if len(self._tries) > _ADDRESSES_REMEMBERED:
            del self._tries[next(iter(self._tries))]


def _network(address: str) -> str:
    """Who has one address of IPv6 has as many as they like beside it."""
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(known, IPv6Address) and known.ipv4_mapped is None:
        return str(int(known) >> 64)
    return str(getattr(known, "ipv4_mapped", None) or known)


@dataclass(slots=True)
class Access:
    """The token, and the sessions that it has opened."""

    # None: everybody who reaches the server may see the page, and nobody may act on it.
    token: str | None
    now: Callable[[], float] = time.monotonic
    tries: WrongTries = field(init=False)
    # By the hash of the cookie, the oldest first: when each ends.
    _sessions: dict[bytes, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.tries = WrongTries(self.now)

    def may_see(self, request: web.Request) -> bool:
        """Whether a request may see what is not for everybody. Raises 429."""
        return self.token is None or self.session(request) is not None or self._has_token(request)

    def session(self, request: web.Request) -> str | None:
        """The cookie of whoever has signed in; None for all others."""
        cookie = request.cookies.get(COOKIE, "")
        ends = self._sessions.get(_hash(cookie))
        return cookie if self.token is not None and ends is not None and self.now() < ends else None

    def sign_in(self, request: web.Request, token: str) -> str | None:
        """The cookie of a new session; None for a wrong token. Raises 429."""
        if not self._is_right(request, token):
            return None
        cookie = secrets.token_urlsafe(32)
        self._sessions[_hash(cookie)] = self.now() + SESSION_SECONDS
        while len(self._sessions) > _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return cookie

    def sign_out(self, request: web.Request) -> None:
        """The session of a request is over."""
        self._sessions.pop(_hash(request.cookies.get(COOKIE, "")), None)

    def form_token(self, session: str) -> str:
        """What stands in the forms of a session's pages: another site cannot read it."""
        return hmac.new(session.encode(), b"form", hashlib.sha256).hexdigest()

    def is_own_form(self, session: str, sent: str) -> bool:
        """Whether a form came from a page of the session."""
        return hmac.compare_digest(self.form_token(session).encode(), sent.encode())

    def _has_token(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._is_right(request, token.strip())

    def _is_right(self, request: web.Request, token: str) -> bool:
        """Compare in a time that does not depend on where they differ."""
        address = request.remote or ""
        if (wait := self.tries.seconds_to_wait(address)) > 0:
            # The right one is not taken either: else it could be guessed all the same.
            raise web.HTTPTooManyRequests(
                text="Too many wrong tokens came from this address. Wait a minute.",
                headers={"Retry-After": str(int(wait) + 1)},
            )
        right = self.token is not None and hmac.compare_digest(_hash(token), _hash(self.token))
        if not right:
            _log.warning("wrong web token", address=address)
            self.tries.wrong(address)
        return right


def is_from_here(request: web.Request) -> bool:
    """Whether a form was sent from a page of this server, as far as the browser says.

    https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site; browsers without it send the origin.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("Host")


def is_over_tls(request: web.Request) -> bool:
    """Whether the browser sees the page over HTTPS, which a proxy may have ended: the browser says so itself."""
    return request.secure or request.headers.get("Origin", "").startswith("https://")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
