"""What commands ask the platforms beside the daemon, some of them before there is a configuration.

It knows the concrete surveys of the platforms, as `composition` knows the adapters.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from relay.adapters.discord.api.errors import ApiError
from relay.adapters.discord.survey import DiscordSurvey
from relay.adapters.matrix.api import address, session
from relay.adapters.matrix.api.client import Refused, Unreachable
from relay.adapters.matrix.survey import MatrixSurvey
from relay.config.settings import DiscordSettings, MatrixSettings, Settings
from relay.core.operations.findings import Finding, VisibleChannel
from relay.domain.ids import MessageRef, Platform
from relay.errors import FatalError, RelayError, Transient

_MOMENT = 3.0
"""Seconds to find out a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at an account has found."""

    findings: Sequence[Finding]
    # The token is this account's.
    accepted: bool
    # What people call the account.
    name: str
    channels: Sequence[VisibleChannel] = ()

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.state == "wrong" for finding in self.findings)


async def look_at_discord(settings: DiscordSettings, *, with_new_token: str = "") -> Look:
    """Look at the bot, and list its channels. Raises `DeliveryError`.

    `with_new_token`: what to do with a new token where this one is refused; "": write it to relay.toml.
    """
    survey = DiscordSurvey(settings=settings, with_new_token=with_new_token)
    try:
        findings = await survey.account()
        channels = await survey.channels() if survey.usable else ()
        return Look(findings=findings, accepted=bool(survey.invite), name=survey.name, channels=channels)
    finally:
        await survey.close()


async def look_at_matrix(settings: MatrixSettings, *, with_new_token: str = "") -> Look:
    """Look at the account on the homeserver, and list its rooms. Raises `DeliveryError`.

    `with_new_token`: what to do where its token is refused; "": as the daemon says it.
    """
    survey = MatrixSurvey(settings=settings, load=_nothing, save=None, with_new_token=with_new_token)
    try:
        findings = await survey.account()
        channels = await survey.channels() if survey.usable else ()
        return Look(findings=findings, accepted=survey.usable, name=settings.user_id, channels=channels)
    finally:
        await survey.close()


async def alias_problem(settings: MatrixSettings, alias: str) -> str | None:
    """Why an alias names no room; None if it does. Raises `DeliveryError`."""
    survey = MatrixSurvey(settings=settings, load=_nothing, save=None)
    try:
        return await survey.alias_problem(alias)
    finally:
        await survey.close()


async def find_homeserver(user_id: str) -> str | None:
    """The address of an account's homeserver, from the server's name in its ID; None if none is found."""
    return await address.find(user_id.partition(":")[2])


async def homeserver_problem(url: str, user_id: str) -> str | None:
    """What is wrong with the address of a homeserver, and what to write instead; None if it is one."""
    return await address.correction(url, user_id, typed=True)


async def log_in(
    homeserver_url: str, user_id: str, password: str, *, refused: str, typed: bool = True
) -> session.StoredSession:
    """An access token of a new device. Raises `RelayError` if the homeserver refuses, `Transient` if it is away.

    `refused`: what to do where it refuses the password. `typed`: somebody has just typed the address.
    """
    try:
        return await session.log_in(homeserver_url, user_id, password, refused=refused)
    except FatalError as error:
        raise RelayError(str(error)) from error  # no daemon ends
    except Transient:
        if (wrong := await address.correction(homeserver_url, user_id, typed=typed)) is not None:
            raise Transient(wrong) from None
        raise


async def log_out(made: session.StoredSession) -> bool:
    """End a session of `log_in` that nobody will use; whether the homeserver has done it."""
    return await session.log_out(made)


async def author_name(settings: Settings, message: MessageRef, user: str, session: str | None) -> str:
    """What people call the author of a message; "" if their platform does not say so in a moment.

    The store keeps no names. `session`: of the Matrix account, as the daemon keeps it.
    """

    async def kept() -> str | None:
        return session

    name = ""
    with suppress(ApiError, Refused, Unreachable, RelayError, TimeoutError):
        async with asyncio.timeout(_MOMENT), AsyncExitStack() as stack:
            if message.platform is Platform.DISCORD:
                discord = DiscordSurvey(settings=settings.discord)
                stack.push_async_callback(discord.close)
                name = await discord.author_name(message, user)
            elif session or settings.matrix.access_token is not None:
                matrix = MatrixSurvey(settings=settings.matrix, load=kept, save=None)
                stack.push_async_callback(matrix.close)
                name = await matrix.author_name(message.channel.id, user)
    return name


async def _nothing() -> None:
    return None
