"""How many messages a homeserver takes from an account: measured where nobody hears it.

Synapse counts what an account sends (`rc_message`) and nothing else that would do no harm: account data, reading and
filters are not limited alike. So events are sent until one is refused, into a room of the account's own in which nobody
else is, and which no other server gets to know. The room is kept, and used again.
https://element-hq.github.io/synapse/latest/usage/configuration/config_documentation.html#rc_message
"""

import secrets
from dataclasses import dataclass

from relay.adapters.matrix.api.client import Api, Refused
from relay.core.operations.findings import Finding
from relay.core.ports import Clock
from relay.domain.jsontext import Json, as_string

RATE_LIMIT = "rate limit of the Matrix account"
_KEPT_IN = "org.relay.allowance"
_EVENT = "org.relay.allowance"
ROOM_TYPE = "org.relay.allowance"
_MOST, _TRIES = 25, 5
# Seconds: who takes one event in half a second limits nobody; a longer pause than that is told as it is.
_QUICK, _LONGEST_PAUSE = 12.0, 8.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an account may send."""

    # How many events were taken before one was refused.
    taken: int
    # From one message to the next in the long run; 0: nothing was refused.
    seconds: float


def rate_finding(user: str, seconds: float) -> Finding:
    """That the homeserver limits the account to one message in so many seconds, and how that is lifted."""
    return Finding(
        RATE_LIMIT,
        "note",
        f"one message in {round(seconds, 1):g} s, after a few at once: in a rush, several messages cross as one",
        f"ask the homeserver's admin to lift it for {user}; on Synapse: POST "
        f'/_synapse/admin/v1/users/{user}/override_ratelimit with {{"messages_per_second": 0}}',
    )


async def measure(api: Api, clock: Clock) -> Allowance:
    """Send until the homeserver refuses, but not for long. Raises `Refused`, `Unreachable`."""
    room = await _room(api, clock)
    started, run = clock.monotonic(), secrets.token_hex(6)
    for number in range(_MOST):
        pause = await _send(api, room, f"{run}.{number}")
        if pause is not None:
            return Allowance(number, await _interval(api, room, run, clock, pause))
        if clock.monotonic() - started > _QUICK:
            break
    return Allowance(_MOST, 0.0)


async def _interval(api: Api, room: str, run: str, clock: Clock, pause: float) -> float:
    """How long one message takes, after a refusal that asked for a pause.

    Part of a message's time had passed when that was asked for. So another one is sent as soon as it may be: the pause
    after that one is whole.
    """
    if pause > _LONGEST_PAUSE:
        return round(pause, 1)
    await clock.sleep(pause)
    sent = clock.monotonic()
    if await _send(api, room, f"{run}.again") is None:
        whole = await _send(api, room, f"{run}.last")
        pause = pause if whole is None else whole + clock.monotonic() - sent
    return round(pause, 1)


async def _send(api: Api, room: str, transaction: str) -> float | None:
    """Send one event. Returns the seconds to wait if it was refused."""
    try:
        await api.call("PUT", "rooms", room, "send", _EVENT, transaction, body={})
    except Refused as refused:
        if refused.status == 429:
            return refused.retry_after or 1.0
        raise
    return None


async def _room(api: Api, clock: Clock) -> str:
    """The room that is kept for this, made if there is none."""
    path = ("user", api.user_id, "account_data", _KEPT_IN)
    try:
        known = as_string((await api.call("GET", *path)).get("room_id"))
    except Refused:
        known = ""
    if known:
        try:
            await api.call("GET", "rooms", known, "state", "m.room.create", "")
        except Refused:
            known = ""
    if not known:
        body = {
            "preset": "private_chat",
            "name": "relay check",
            "topic": "Here `relay check` measures how many messages this account may send. Nobody else is to join.",
            "creation_content": {"m.federate": False, "type": ROOM_TYPE},
        }
        known = await _create(api, body, clock)
        await api.call("PUT", *path, body={"room_id": known})
    return known


async def _create(api: Api, body: Json, clock: Clock) -> str:
    """Make a room. It costs the account what some messages do, which a daemon that has just ended may have spent."""
    for left in reversed(range(_TRIES)):
        try:
            return str((await api.call("POST", "createRoom", body=body))["room_id"])
        except Refused as refused:
            pause = refused.retry_after or 1.0
            if refused.status != 429 or pause > _LONGEST_PAUSE or not left:
                raise
            await clock.sleep(pause)
    raise AssertionError("the last try returns or raises")
