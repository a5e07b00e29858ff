"""Control: what goes wrong. Every method is also `POST /_sandbox/<name>`."""

from dataclasses import asdict
from typing import Any

from relay.sandbox.control.base import ControlBase, Id
from relay.sandbox.errors import ApiError
from relay.sandbox.faults import GATEWAY_KINDS, KINDS, Fault, GatewayFault
from relay.sandbox.world.models import Json


class MischiefControl(ControlBase):
    """Faults, outages, limits and statistics."""

    # --- The REST API and the CDN -------------------------------------------------------------------------

    def add_fault(self, kind: str, **options: Any) -> Json:
        """Arm a fault: `Fault` of `relay.sandbox.faults` says what `kind` and `options` there are. Returns it."""
        if kind not in KINDS:
            raise ApiError(400, 0, f"kind is one of {', '.join(KINDS)}")
        return asdict(self._parts.api.faults.add(Fault(kind, **options)))

    def add_gateway_fault(self, kind: str, **options: Any) -> Json:
        """Arm a fault of dispatches: see `GatewayFault`. Returns it."""
        if kind not in GATEWAY_KINDS:
            raise ApiError(400, 0, f"kind is one of {', '.join(GATEWAY_KINDS)}")
        return asdict(self._parts.api.faults.add_gateway(GatewayFault(kind, **options)))

    def faults(self) -> Json:
        """All faults with how often each `fired`: `{"rest": […], "gateway": […], "fired": {kind: n}}`."""
        faults = self._parts.api.faults
        return {
            "rest": [asdict(fault) for fault in faults.rest],
            "gateway": [asdict(fault) for fault in faults.gateway],
            "fired": faults.fired(),
        }

    def clear_faults(self) -> None:
        """Disarm all faults; outages and withheld acknowledgements end too."""
        self._parts.api.faults.clear()
        self._parts.api.offline = False
        gateway = self._parts.gateway
        gateway.offline, gateway.refuse, gateway.acknowledge = False, 0, True

    # --- The gateway --------------------------------------------------------------------------------------

    def close_gateway(self, code: int = 4000, shard: int | None = None) -> int:
        """Close every connection, or that of one shard, with a code. Returns how many, as do the next four."""
        return self._parts.gateway.drop(code, shard)

    def abort_gateway(self, shard: int | None = None) -> int:
        """Reset every connection's TCP stream, or that of one shard."""
        return self._parts.gateway.abort(shard)

    def ask_reconnect(self, shard: int | None = None) -> int:
        """Opcode 7."""
        return self._parts.gateway.ask_reconnect(shard)

    def invalidate_sessions(self, resumable: bool = False, shard: int | None = None) -> int:
        """Opcode 9; not resumable: what happens until the next IDENTIFY is never dispatched."""
        return self._parts.gateway.invalidate(shard, resumable=resumable)

    def send_unparseable(self, event: str = "MESSAGE_CREATE") -> int:
        """A dispatch that no client can parse, to every session."""
        return self._parts.gateway.send_unparseable(event)

    def acknowledge_heartbeats(self, on: bool) -> None:
        """Stop acknowledging heartbeats, or go on."""
        self._parts.gateway.acknowledge = on

    def refuse_gateway(self, count: int = 1) -> None:
        """The next connections are refused with 503."""
        self._parts.gateway.refuse = count

    # --- Everything ---------------------------------------------------------------------------------------

    def go_offline(self, offline: bool = True) -> None:
        """Discord is down: every connection is reset and none is accepted, until `offline` false. Control works on."""
        self._parts.api.offline = offline
        self._parts.gateway.offline = offline
        if offline:
            self._parts.api.faults.note("offline")
            self._parts.gateway.abort()

    def expire_attachments(self) -> None:
        """Every URL of an attachment that was handed out before is dead."""
        self._state.signer.expire_all()

    def set_limits(self, **changes: Any) -> Json:
        """Change `Limits` (`factor=0` turns all off). Returns them."""
        limits = self._parts.limits
        for name, value in changes.items():
            if name not in asdict(limits):
                raise ApiError(400, 0, f"limits are {', '.join(asdict(limits))}")
            setattr(limits, name, value)
        return asdict(limits)

    def statistics(self) -> Json:
        """What clients did.

        `{"requests": {route: n}, "statuses": {status: n}, "invalid": {"recent", "banned", "bans"},
        "gateway": {"connections", "sessions", "history": […]}, "faults": {kind: n}, "limits": {…}}`
        """
        api, gateway = self._parts.api, self._parts.gateway
        now = self._state.clock()
        return {
            "requests": dict(api.statistics.requests),
            "statuses": {str(status): count for status, count in api.statistics.statuses.items()},
            "invalid": {
                "recent": api.invalid.recent(now),
                "banned": api.invalid.banned(now),
                "bans": api.invalid.bans,
            },
            "gateway": {
                "connections": len(gateway.connections),
                "sessions": len(gateway.sessions.by_id),
                "history": list(gateway.history),
            },
            "faults": api.faults.fired(),
            "limits": asdict(self._parts.limits),
        }

    def connected(self, bot: Id) -> bool:
        """Whether a session of the bot has a connection now."""
        sessions = self._parts.gateway.sessions.by_id.values()
        return any(session.app.id == int(bot) and session.sender is not None for session in sessions)
