"""Mistakes that operators make in pairs: how each is made in the sandbox or on the homeserver, and how it is mended."""

import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession, web
from yarl import URL

from relay.adapters.discord.permissions import INVITED, VIEW_CHANNEL, Permission
from relay.core.operations.findings import State
from relay.demo.matrix_client import Person
from tests.support.stack import FullStack

Act = Callable[[FullStack, str], Any]
MEGOLM = {"algorithm": "m.megolm.v1.aes-sha2"}
ABSENT = "1234567890123456789"


@dataclass(frozen=True, slots=True)
class Kind:
    """A mistake in a pair: how it is made, what `relay check` says about it, and how that is followed."""

    make: Act
    words: tuple[str, ...]
    mend: Act
    state: State = "wrong"


async def do(act: Act, place: FullStack, pair: str) -> None:
    done = act(place, pair)
    if inspect.isawaitable(done):
        await done


# --- Channels ---------------------------------------------------------------------------------------------


def declare_channel(place: FullStack, pair: str, channel: str) -> None:
    place.channels[pair] = channel


def new_channel(place: FullStack, pair: str, kind: int = 0) -> str:
    return str(place.control.create_channel(place.guild, pair, type=kind)["id"])


def without(*permissions: Permission) -> Act:
    """The channel denies the bot these permissions; a role of Discord's is named as the documentation names it."""
    names = [one.name.upper().replace(" ", "_") for one in permissions]
    return lambda place, pair: place.control.set_channel_permissions(place.channels[pair], place.bot, deny=names)


def allow(permission: Permission) -> Act:
    """The bot itself is allowed it."""
    name = permission.name.upper().replace(" ", "_")
    return lambda place, pair: place.control.set_channel_permissions(place.channels[pair], place.bot, allow=[name])


def all_permissions(place: FullStack, pair: str) -> None:
    place.control.set_channel_permissions(place.channels[pair], place.bot)


def fill_webhooks(place: FullStack, pair: str) -> None:
    for number in range(15):
        place.control.create_webhook(place.channels[pair], f"feed {number}", place.people["Ada"])


def free_webhook(place: FullStack, pair: str) -> None:
    place.control.delete_webhook(place.control.webhooks(place.channels[pair])[0]["id"])


def right_channel(place: FullStack, pair: str) -> None:
    declare_channel(place, pair, new_channel(place, pair))


def restrict(place: FullStack, pair: str) -> None:
    place.control.set_age_restriction(place.channels[pair])


def for_adults(place: FullStack, pair: str) -> None:
    place.pair_settings[pair] = "nsfw = true"


def role_id(place: FullStack) -> str:
    return str(place.control.create_role(place.guild, "Helpers")["id"])


def thread(place: FullStack, *, private: bool = False, locked: bool = False) -> str:
    made = place.control.open_thread(place.channels["help"], place.people["Ada"], "a thread", private=private)["id"]
    if locked:
        place.control.archive_thread(made, True, locked=True)
    return str(made)


def lacks(permission: Permission) -> Kind:
    """Only what is missing is named."""
    if permission is VIEW_CHANNEL:
        return Kind(
            without(permission), ("may not see it", f"{permission.name} there, or the bot itself"), all_permissions
        )
    blocks = permission.name == "Read Message History"
    state: State = "wrong" if blocks else "note"
    words = "the bot may not" if blocks else f"without {permission.name}, {permission.without}"
    return Kind(without(permission), (words, f"allow the bot itself {permission.name}"), all_permissions, state)


def hide(place: FullStack, pair: str) -> None:
    """A private channel: @everyone may not see it, whatever their roles give them on the server."""
    place.control.set_channel_permissions(place.channels[pair], place.guild, deny=["VIEW_CHANNEL"])


async def let_the_bots_role_in(place: FullStack, pair: str) -> None:
    url, headers = f"{place.sandbox.api_url}/guilds/{place.guild}/roles", {"Authorization": f"Bot {place.bot_token}"}
    async with ClientSession(headers=headers) as session, session.get(url) as answer:
        (role,) = (one for one in await answer.json() if one.get("tags", {}).get("bot_id") == place.bot)
    place.control.set_channel_permissions(place.channels[pair], role["id"], allow=["VIEW_CHANNEL"])


CHANNELS = {
    **{f"without {needed.name}": lacks(needed) for needed in INVITED},
    "nothing may be posted": Kind(
        lambda place, pair: place.control.set_channel_permissions(
            place.channels[pair], place.bot, deny=["SEND_MESSAGES", "MANAGE_WEBHOOKS"]
        ),
        ("may not write in", "allow the bot itself Manage Webhooks and Send Messages there"),
        all_permissions,
    ),
    # The bot's role does not help where the channel has an entry about the bot itself, which Discord does not tell.
    "denied to the bot itself": Kind(
        without(VIEW_CHANNEL), ("may not see it", "where an entry of its own denies that"), allow(VIEW_CHANNEL)
    ),
    "a private channel": Kind(hide, ("may not see", "give its role View Channel there"), let_the_bots_role_in),
    "15 webhooks": Kind(fill_webhooks, ("all 15 webhooks", "delete one", "Integrations"), free_webhook, "note"),
    "another bridge's webhook": Kind(
        lambda place, pair: place.control.create_webhook(place.channels[pair], "matterbridge", place.people["Ada"]),
        ("another bridge may be at work", "turn it off"),
        free_webhook,
        "note",
    ),
    "age-restricted": Kind(restrict, ("is age-restricted", "write nsfw = true in this pair"), for_adults),
    "not age-restricted": Kind(for_adults, ("is not age-restricted", "turn its age restriction on"), restrict),
    "no such channel": Kind(
        lambda place, pair: declare_channel(place, pair, ABSENT),
        ("there is no such channel", "correct discord_channel", "permissions=275414887488&client_id="),
        right_channel,
    ),
    "the server's ID": Kind(
        lambda place, pair: declare_channel(place, pair, place.guild),
        ("it is the ID of the server Sandbox", "Copy Channel ID"),
        right_channel,
    ),
    "a role's ID": Kind(
        lambda place, pair: declare_channel(place, pair, role_id(place)),
        ("it is the ID of the role Helpers", "Copy Channel ID"),
        right_channel,
    ),
    "the bot's ID": Kind(
        lambda place, pair: declare_channel(place, pair, place.bot),
        ("it is the ID of the bot itself", "Copy Channel ID"),
        right_channel,
    ),
    "a person's ID": Kind(
        lambda place, pair: declare_channel(place, pair, place.people["Ada"]),
        ("it is the ID of ada's account, not of a channel", "Copy Channel ID"),
        right_channel,
    ),
    "a category": Kind(
        lambda place, pair: declare_channel(place, pair, new_channel(place, pair, 4)),
        ("is a category, which cannot be mirrored", "name a text channel"),
        right_channel,
    ),
    "a private thread": Kind(
        lambda place, pair: declare_channel(place, pair, thread(place, private=True)),
        ("the bot may not see it", "add the bot to a private thread"),
        lambda place, pair: place.control.join_thread(place.channels[pair], place.bot),
    ),
    "a locked thread": Kind(
        lambda place, pair: declare_channel(place, pair, thread(place, locked=True)),
        ("the thread #a thread is locked", "unlock it, or give the bot's role Manage Threads"),
        lambda place, pair: place.control.archive_thread(place.channels[pair], False, locked=False),
    ),
    "a forum": Kind(
        lambda place, pair: declare_channel(place, pair, new_channel(place, pair, 15)),
        ("is a forum, which cannot be mirrored", "one of its posts"),
        right_channel,
    ),
}


# --- Rooms ------------------------------------------------------------------------------------------------


async def new_room(place: FullStack, pair: str, **options: Any) -> None:
    place.rooms[pair] = await place.mia.create_room(pair, **options)


async def joined(place: FullStack, pair: str, **options: Any) -> str:
    """A private room, with the relay in it."""
    await new_room(place, pair, public=False, invite=[place.relay_user], **options)
    async with Person(place.homeserver.url, place.relay_user, place.relay_token) as relay:
        await relay.join(place.rooms[pair])
    return place.rooms[pair]


def state(kind: str, content: dict[str, Any], key: str = "") -> Act:
    """The relay is in the room, and then a piece of the room's state changes."""

    async def act(place: FullStack, pair: str) -> None:
        await place.mia.set_state(await joined(place, pair), kind, content, key)

    return act


def change_state(kind: str, content: dict[str, Any], key: str = "") -> Act:
    return lambda place, pair: place.mia.set_state(place.rooms[pair], kind, content, key)


def power(**changes: Any) -> Act:
    async def act(place: FullStack, pair: str) -> None:
        await place.mia.set_power(await joined(place, pair), **changes)

    return act


def change_power(**changes: Any) -> Act:
    return lambda place, pair: place.mia.set_power(place.rooms[pair], **changes)


def name_room(place: FullStack, pair: str, room: str) -> None:
    place.rooms[pair] = room


async def invite(place: FullStack, pair: str) -> None:
    await place.mia.invite(place.rooms[pair], place.relay_user)


async def ban(place: FullStack, pair: str) -> None:
    await place.mia.ban(await joined(place, pair), place.relay_user)


async def lift_ban(place: FullStack, pair: str) -> None:
    await place.mia.unban(place.rooms[pair], place.relay_user)
    await invite(place, pair)


async def kick(place: FullStack, pair: str) -> None:
    await place.mia.kick(await joined(place, pair), place.relay_user)


async def upgrade(place: FullStack, pair: str) -> None:
    old = await joined(place, pair)
    body = {"body": "moved", "replacement_room": await place.mia.create_room("new")}
    await place.mia.set_state(old, "m.room.tombstone", body)


async def same_room(place: FullStack, pair: str) -> None:
    """By its alias, and another pair has it by its ID."""
    alias = f"#again-{place.bot}:localhost"
    await place.mia.set_alias(
        alias, next(room for name, room in place.rooms.items() if room.startswith("!") and name != pair)
    )
    name_room(place, pair, alias)


async def moderate(place: FullStack, pair: str) -> None:
    await joined(place, pair)
    place.pair_settings[pair] = "moderation.deletions = true"


async def broadcast(place: FullStack, pair: str) -> None:
    await joined(place, pair)
    place.pair_settings[pair] = "allow_broadcast = true"


async def space(place: FullStack, pair: str, **options: Any) -> None:
    body = {"preset": "public_chat", "name": pair, "creation_content": {"type": "m.space"}, **options}
    name_room(place, pair, (await place.mia.call("POST", "client/v3/createRoom", body))["room_id"])


async def window(place: FullStack, pair: str) -> None:
    """Anybody may look into it, so that the homeserver tells who may join."""
    await new_room(place, pair, public=False)
    await place.mia.set_state(place.rooms[pair], "m.room.history_visibility", {"history_visibility": "world_readable"})


BRIDGE = {"protocol": {"id": "discord", "displayname": "Discord"}, "channel": {"id": "1", "displayname": "#general"}}
ROOMS = {
    "an alias without a room": Kind(
        lambda place, pair: name_room(place, pair, f"#typo-{place.bot}:localhost"),
        ("No room has the alias", "correct matrix_room"),
        new_room,
    ),
    "no such room": Kind(
        lambda place, pair: name_room(place, pair, "!nowhere:localhost"),
        ("cannot be found", "correct matrix_room"),
        new_room,
    ),
    "not invited": Kind(lambda place, pair: new_room(place, pair, public=False), ("invite",), invite),
    "banned": Kind(ban, ("has been banned from", "lift the ban and invite it"), lift_ban),
    "kicked": Kind(kick, ("has been removed from", "invite it again"), invite),
    "encrypted": Kind(
        state("m.room.encryption", MEGOLM),
        ("is encrypted", "cannot be switched off again", "make another room"),
        joined,
    ),
    "not enough power": Kind(
        power(events_default=10), ("may not write in", "give it the power level 10"), change_power(users_default=10)
    ),
    "no power to redact": Kind(
        moderate, ("may not remove what people wrote", "power level 50"), change_power(redact=0), "note"
    ),
    "no power for @room": Kind(
        broadcast, ("may not notify the whole room", "power level 50"), change_power(notifications={"room": 0}), "note"
    ),
    "no power to react": Kind(
        power(events={"m.reaction": 20}),
        ("may not mark messages", "power level 20"),
        change_power(events={"m.reaction": 0}),
        "note",
    ),
    "the same room twice": Kind(
        same_room,
        ("it names the same room as !", "declare the room in one pair only"),
        new_room,
    ),
    "a space": Kind(
        lambda place, pair: space(place, pair, invite=[place.relay_user]),
        ("is a space, which lists rooms", "declare one of its rooms"),
        new_room,
    ),
    "a space that anybody may join": Kind(space, ("is a space", "declare one of its rooms"), new_room),
    "only who is invited may join": Kind(
        window, ("is not in it, and only who is invited may join", "invite @relay"), invite
    ),
    "upgraded": Kind(upgrade, ("has been replaced by", "declare the new room"), new_room, "note"),
    "history for members only": Kind(
        state("m.room.history_visibility", {"history_visibility": "joined"}),
        ("only members of then may read it", "Members only"),
        change_state("m.room.history_visibility", {"history_visibility": "shared"}),
        "note",
    ),
    "another bridge": Kind(
        state("m.bridge", BRIDGE, "discord://1"),
        ("another bridge connects it to Discord (#general)", "turn it off"),
        change_state("m.bridge", {}, "discord://1"),
        "note",
    ),
}


# --- An address that is no homeserver's --------------------------------------------------------------------


@asynccontextmanager
async def website(
    well_known: str | None, *, instead: str | None = None, tls: ssl.SSLContext | None = None, status: int = 404
) -> AsyncIterator[str]:
    """A website that is no homeserver, and may say where the homeserver is; or `instead` of that something else."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/.well-known/matrix/client":
            if instead is not None:
                return web.Response(text=instead)
            if well_known is not None:
                return web.json_response({"m.homeserver": {"base_url": well_known}})
        return web.Response(text="<h1>Welcome</h1>", content_type="text/html", status=status)

    async with _serving(answer, tls) as url:
        yield url


@asynccontextmanager
async def redirecting(to: str) -> AsyncIterator[str]:
    """A website that sends everybody somewhere else."""

    async def answer(request: web.Request) -> web.Response:
        raise web.HTTPMovedPermanently(to + request.path_qs)

    async with _serving(answer) as url:
        yield url


@asynccontextmanager
async def altered(url: str, answers: dict[str, dict[str, Any]]) -> AsyncIterator[str]:
    """The homeserver or Discord at `url`, which answers these paths in another way."""
    async with ClientSession(auto_decompress=False) as session:

        async def answer(request: web.Request) -> web.Response:
            if request.path in answers:
                return web.json_response(answers[request.path])
            headers = {name: value for name, value in request.headers.items() if name != "Host"}
            target = URL(url + request.raw_path, encoded=True)
            async with session.request(request.method, target, headers=headers, data=await request.read()) as told:
                body = await told.read()
                return web.Response(
                    status=told.status, body=body, headers={"Content-Type": told.headers["Content-Type"]}
                )

        async with _serving(answer) as altered_url:
            yield altered_url


@asynccontextmanager
async def _serving(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
