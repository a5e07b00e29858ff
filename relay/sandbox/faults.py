"""Faults of the REST API and of the gateway, as the control interface asks for them. Each counts how often it fired."""

import asyncio
import itertools
import random
import re
import socket
import struct
from dataclasses import dataclass, field
from typing import Literal

from relay.sandbox.world.models import Json

Kind = Literal["rate_limit", "status", "hang", "reset", "delay", "malformed"]
KINDS: tuple[Kind, ...] = ("rate_limit", "status", "hang", "reset", "delay", "malformed")
When = Literal["before", "after", "late"]
GatewayKind = Literal["delay", "duplicate", "reorder", "drop"]
GATEWAY_KINDS: tuple[GatewayKind, ...] = ("delay", "duplicate", "reorder", "drop")


@dataclass(slots=True)
class Fault:
    """A fault of the REST API or the CDN."""

    kind: Kind
    method: str = "*"  # of the requests that are meant; `*`: any
    path: str = ""  # a regular expression, found anywhere after `/api/v10`
    count: int | None = 1  # how many of these requests fail; None: all
    skip: int = 0  # how many pass first
    probability: float = 1.0
    when: When = "before"  # or after the request has been carried out; late: it is, so many `seconds` after the failure
    status: int = 500
    code: int = 0  # Discord's error code
    message: str | None = None
    seconds: float = 1.0  # Retry-After of a rate limit, or how long a delay or a hang lasts, or how late it is
    scope: Literal["user", "global", "shared"] = "user"  # of a rate limit
    id: int = 0  # given by `Faults.add`, as the next two are counted there
    fired: int = 0
    seen: int = 0
    carried_out: int = 0  # late


@dataclass(slots=True)
class GatewayFault:
    """A fault of dispatches on their way to a client.

    `delay` holds one and all behind it back; `duplicate` sends it twice under one sequence number; `reorder` lets the
    next one overtake it; `drop` loses it.
    """

    kind: GatewayKind
    event: str = ""  # of the dispatches that are meant; empty: any
    count: int | None = 1  # how many of these dispatches fail; None: all
    skip: int = 0  # how many pass first
    seconds: float = 0.5  # of a delay
    id: int = 0
    fired: int = 0
    seen: int = 0


@dataclass(slots=True)
class Faults:
    """All faults, also those that are used up."""

    rng: random.Random = field(default_factory=lambda: random.Random(0))
    rest: list[Fault] = field(default_factory=list)
    gateway: list[GatewayFault] = field(default_factory=list)
    actions: dict[str, int] = field(default_factory=dict)
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def add(self, fault: Fault) -> Fault:
        """Arm a fault of the REST API."""
        re.compile(fault.path)
        fault.id = next(self._ids)
        self.rest.append(fault)
        return fault

    def add_gateway(self, fault: GatewayFault) -> GatewayFault:
        """Arm a fault of dispatches."""
        fault.id = next(self._ids)
        self.gateway.append(fault)
        return fault

    def clear(self) -> None:
        """Disarm everything; what has fired stays counted."""
        for fault in self.rest:
            fault.count = 0
        for dispatch_fault in self.gateway:
            dispatch_fault.count = 0

    def strike(self, method: str, path: str) -> Fault | None:
        """The fault that hits this request, counted; None for none."""
        for fault in self.rest:
            chosen = fault.method in {"*", method} and re.search(fault.path, path)
            if chosen and self._hits(fault) and self.rng.random() < fault.probability:
                fault.fired += 1
                return fault
        return None

    def strike_dispatch(self, event: str) -> GatewayFault | None:
        """The fault that hits this dispatch, counted; None for none."""
        for fault in self.gateway:
            if fault.event in {"", event} and self._hits(fault):
                fault.fired += 1
                return fault
        return None

    def note(self, action: str) -> None:
        """Count something that was done at once rather than armed (`gateway_close`, `session_invalidated`, …)."""
        self.actions[action] = self.actions.get(action, 0) + 1

    def fired(self) -> Json:
        """How often each kind struck."""
        totals: Json = dict(self.actions)
        for fault in self.rest:
            name = f"{fault.kind}_{fault.when}" if fault.kind in {"status", "hang", "reset"} else fault.kind
            totals[name] = totals.get(name, 0) + fault.fired
        for dispatch_fault in self.gateway:
            name = f"gateway_{dispatch_fault.kind}"
            totals[name] = totals.get(name, 0) + dispatch_fault.fired
        return totals

    @staticmethod
    def _hits(fault: Fault | GatewayFault) -> bool:
        if fault.count is not None and fault.fired >= fault.count:
            return False
        fault.seen += 1
        return fault.seen > fault.skip


def reset(transport: asyncio.BaseTransport) -> None:
    """Abort with RST rather than FIN."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
