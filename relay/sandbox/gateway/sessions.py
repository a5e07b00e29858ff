"""Gateway sessions: what each has been sent, may see, and can still resume. No sockets here.

https://discord.com/developers/docs/events/gateway#connection-lifecycle
"""

import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from relay.sandbox.gateway.handshake import Identify
from relay.sandbox.rate_limits import Limits
from relay.sandbox.world import render
from relay.sandbox.world.dispatch import Dispatch, Intent, Shard, Viewer
from relay.sandbox.world.models import Application, Json
from relay.sandbox.world.state import State

Sender = Callable[[Json], None]


@dataclass(slots=True)
class Session:
    """One session, which may outlive several connections."""

    id: str
    app: Application
    intents: Intent
    shard: Shard
    buffer: "deque[Json]"  # what was dispatched last, for a replay
    sequence: int = 0
    sender: Sender | None = None  # None while it has no connection
    lost_at: float | None = None  # since when it has none, in seconds since 1970

    @property
    def viewer(self) -> Viewer:
        """How this session sees a message."""
        return Viewer(self.app.user.id, bool(self.intents & Intent.MESSAGE_CONTENT))

    def dispatch(self, event: str, body: Json) -> None:
        """Number an event, keep it for a replay, and send it if there is a connection."""
        self.sequence += 1
        payload: Json = {"t": event, "s": self.sequence, "op": 0, "d": body}
        self.buffer.append(payload)
        if self.sender is not None:
            self.sender(payload)


class Sessions:
    """All sessions. `resume_window`: seconds that one without a connection is kept; `buffer_size`: in events."""

    def __init__(self, state: State, limits: Limits, *, resume_window: float, buffer_size: int) -> None:
        self.state = state
        self.limits = limits
        self.resume_window = resume_window
        self.buffer_size = buffer_size
        self.gateway_url = ""
        self.by_id: dict[str, Session] = {}
        self._identified: dict[int, deque[float]] = {}
        self._latest: dict[tuple[int, int], float] = {}
        state.listeners.append(self.on_dispatch)

    # --- Life of a session --------------------------------------------------------------------------------

    def start(self, wanted: Identify) -> Session:
        """A new session after an IDENTIFY that was in order."""
        self._expire()
        buffer: deque[Json] = deque(maxlen=self.buffer_size)
        session = Session(secrets.token_hex(16), wanted.app, wanted.intents, wanted.shard, buffer)
        self.by_id[session.id] = session
        return session

    def greet(self, session: Session) -> None:
        """READY, and each guild in turn."""
        guilds = self.state.guilds_of(session.app.user.id, session.shard)
        session.dispatch(
            "READY",
            {
                "v": 10,
                "user": render.own_user(session.app),
                "guilds": [{"id": str(guild.id), "unavailable": True} for guild in guilds],
                "session_id": session.id,
                "session_type": "normal",
                "resume_gateway_url": self.gateway_url,
                "shard": [session.shard.number, session.shard.total],
                "application": {"id": str(session.app.id), "flags": render.application_flags(session.app)},
                "private_channels": [],
                "relationships": [],
                "user_settings": {},
                "presences": [],
                "geo_ordered_rtc_regions": [],
                "_trace": ["sandbox"],
            },
        )
        if session.intents & Intent.GUILDS:
            for guild in guilds:
                if guild.available:
                    session.dispatch("GUILD_CREATE", self.state.full_guild(guild, session.app.user.id))

    def find(self, session_id: str, token: str, sequence: int) -> "Session | None":
        """The session that a RESUME asks for; None if it can no longer be resumed."""
        self._expire()
        session = self.by_id.get(session_id)
        if session is None or session.app.token != token:
            return None
        oldest = session.buffer[0]["s"] if session.buffer else session.sequence + 1
        return session if oldest <= sequence + 1 else None

    def replay(self, session: Session, sequence: int) -> list[Json]:
        """What a client that has seen `sequence` missed."""
        return [payload for payload in session.buffer if payload["s"] > sequence]

    def lose(self, session: Session) -> None:
        """Note that it has no connection now; it can be resumed for a while."""
        session.sender = None
        session.lost_at = self.state.clock()

    def end(self, session: Session) -> None:
        """Forget it: it can never be resumed."""
        session.sender = None
        self.by_id.pop(session.id, None)

    def _expire(self) -> None:
        now = self.state.clock()
        for session in list(self.by_id.values()):
            if session.sender is None and session.lost_at is not None and now - session.lost_at > self.resume_window:
                self.end(session)

    # --- Starts -------------------------------------------------------------------------------------------

    def may_identify(self, app: Application, shard: Shard) -> bool:
        """Count an IDENTIFY; false when it comes too soon after the last one of those that share its turn.

        https://discord.com/developers/docs/events/gateway#sharding-max-concurrency
        """
        now = self.state.clock()
        self._starts(app.user.id).append(now)
        turn = app.user.id, shard.number % self.limits.max_concurrency
        last, self._latest[turn] = self._latest.get(turn), now
        return last is None or not self.limits.on or now - last >= self.limits.identify_every

    def used_up(self, app: Application) -> bool:
        """Whether there were more IDENTIFYs today than are allowed; Discord then resets the bot's token."""
        return self.limits.on and len(self._starts(app.user.id)) > self.limits.identifies_per_day

    def start_limit(self, user_id: int) -> Json:
        """How many IDENTIFYs are left today."""
        times = self._starts(user_id)
        total = self.limits.identifies_per_day
        reset = 0.0 if not times else times[0] + 86_400 - self.state.clock()
        remaining = max(0, total - len(times)) if self.limits.on else total
        at_once = self.limits.max_concurrency
        return {"total": total, "remaining": remaining, "reset_after": int(reset * 1000), "max_concurrency": at_once}

    def recommended_shards(self, user_id: int) -> int:
        """How many shards a bot is told to use."""
        return self.limits.shards or max(1, ceil(len(self.state.guilds_of(user_id)) / 1000))

    def _starts(self, user_id: int) -> "deque[float]":
        times = self._identified.setdefault(user_id, deque())
        while times and times[0] < self.state.clock() - 86_400:
            times.popleft()
        return times

    # --- Events -------------------------------------------------------------------------------------------

    def on_dispatch(self, dispatch: Dispatch) -> None:
        """Give an event to every session that asked for it and may see it."""
        guild = self.state.guilds.get(dispatch.guild_id)
        for session in tuple(self.by_id.values()):
            user_id = session.app.user.id
            if dispatch.user_id is not None and dispatch.user_id != user_id:
                continue
            if not session.shard.covers(dispatch.guild_id):
                continue
            if dispatch.intents and not dispatch.intents & session.intents:
                continue
            if guild is None or user_id not in guild.members:
                if dispatch.user_id is None:
                    continue
            elif dispatch.channel is not None and not self.state.can_read(user_id, dispatch.channel):
                continue
            session.dispatch(dispatch.event, dispatch.render(session.viewer))
