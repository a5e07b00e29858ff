"""Misbehaviour to order, of the REST API and of the gateway. Each fault counts how often it struck."""

import itertools
import random
import re
from dataclasses import dataclass, field
from typing import Literal

from relay.sandbox.world.models import Json

Kind = Literal["rate_limit", "status", "hang", "reset", "delay", "malformed"]
KINDS: tuple[Kind, ...] = ("rate_limit", "status", "hang", "reset", "delay", "malformed")
When = Literal["before", "after"]
GatewayKind = Literal["delay", "duplicate", "reorder", "drop"]
GATEWAY_KINDS: tuple[GatewayKind, ...] = ("delay", "duplicate", "reorder", "drop")


@dataclass(slots=True)
class Fault:
    """A fault of the REST API or the CDN.

    `method` (`*` for any) and `path` (a regular expression, found anywhere after `/api/v10`) choose the requests;
    `skip` of them pass first, then `count` (None: all) are struck, each with `probability`. `when`: before or after
    the request is carried out. `seconds`: Retry-After of a rate limit, or how long a delay or a hang lasts.
    """

    kind: Kind
    method: str = "*"
    path: str = ""
    count: int | None = 1
    skip: int = 0
    probability: float = 1.0
    when: When = "before"
    status: int = 500
    code: int = 0
    message: str | None = None
    seconds: float = 1.0
    scope: Literal["user", "global", "shared"] = "user"
    id: int = 0
    fired: int = 0
    seen: int = 0


@dataclass(slots=True)
class GatewayFault:
    """A fault of dispatches on their way to a client.

    `event` (empty for any); the next `count` are struck. `delay` holds one, and those behind it, back for `seconds`;
    `duplicate` sends it twice under one sequence number; `reorder` lets the next one overtake it; `drop` loses it.
    """

    kind: GatewayKind
    event: str = ""
    count: int | None = 1
    skip: int = 0
    seconds: float = 0.5
    id: int = 0
    fired: int = 0
    seen: int = 0


@dataclass(slots=True)
class Faults:
    """All faults, those that are spent too."""

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
