"""The login: with the operator's access token, or with a password once, after which the token is kept in the store."""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.config.settings import AppserviceSettings, MatrixSettings
from relay.domain.jsontext import Json, as_dict, as_list
from relay.errors import FatalError, Transient
from relay.logs import get_logger

_log = get_logger(__name__)

LoadSession = Callable[[], Awaitable[str | None]]
SaveSession = Callable[[str], Awaitable[None]]

DEVICE_NAME = "relay"
"""What people see the relay's sessions called in the list of an account's devices."""

# https://docs.discord.com/developers/reference#authentication: the bot's ID, a time, and a signature.
_DISCORDS = re.compile(r"[\w-]{20,32}\.[\w-]{4,10}\.[\w-]{20,}")
_LOGIN_TYPE = "m.login.password"
_LOGOUT_SECONDS = 5.0  # somebody waits to leave
_TOKEN_REFUSED = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_DEACTIVATED", "M_USER_LOCKED"})


@dataclass(frozen=True, slots=True)
class StoredSession:
    """What is kept in the store. With the device as well: transaction IDs are known per device."""

    homeserver_url: str
    user_id: str
    access_token: str
    device_id: str

    def __repr__(self) -> str:
        return f"StoredSession({self.user_id}, device {self.device_id})"


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class MatrixSession:
    """Logs in, and again when that becomes necessary. The operator's token is used before the password."""

    api: Api
    settings: MatrixSettings
    load: LoadSession
    save: SaveSession
    # From a login that is not in the store yet.
    _unsaved: StoredSession | None = field(init=False, default=None)

    def __repr__(self) -> str:
        return f"MatrixSession({self.api.user_id})"

    async def establish(self) -> None:
        """Give the API a valid token.

        Raises `FatalError` if the token or password is refused or belongs to another account; `Refused`,
        `Unreachable` and `StoreUnavailable` if it is worth trying again.
        """
        if self.settings.access_token is not None:
            self.api.use_token(self.settings.access_token.get_secret_value())
            await self._check("[matrix] access_token", make_token(self.settings))
            return
        if self._unsaved is None:
            stored = await self._stored()
            if stored is not None and await self._is_valid(stored):
                return
            self._unsaved = await self._log_in(stored.device_id if stored else None)
        await self.save(json.dumps(asdict(self._unsaved)))
        self._unsaved = None

    async def _check(self, what: str, remedy: str) -> None:
        try:
            answer = await self.api.call("GET", "account", "whoami")
        except Refused as refused:
            if is_token_refusal(refused):
                looks = ": it looks like a bot's token of Discord" if self._is_discords() else ""
                raise FatalError(f"the homeserver refuses {what} ({refused.code}){looks}", remedy) from refused
            raise
        if answer.get("user_id") != self.api.user_id:
            raise FatalError(
                f"{what} belongs to {answer.get('user_id')}, not to {self.api.user_id}",
                "correct [matrix] user_id, or make a token of that account with `relay login`",
            )

    def _is_discords(self) -> bool:
        token = self.settings.access_token
        return token is not None and _DISCORDS.fullmatch(token.get_secret_value()) is not None

    async def _is_valid(self, stored: StoredSession) -> bool:
        self.api.use_token(stored.access_token)
        try:
            await self._check("the kept token", "")
        except FatalError as refused:
            self.api.use_token("")
            _log.warning("the kept token is refused, logging in again", reason=refused.reason)
            return False
        return True

    async def _stored(self) -> StoredSession | None:
        try:
            found = StoredSession(**json.loads(await self.load() or "null"))
        except (TypeError, ValueError, RecursionError):
            return None
        same = (found.homeserver_url, found.user_id) == (self.api.homeserver_url, self.api.user_id)
        return found if same else None

    async def _log_in(self, device_id: str | None) -> StoredSession:
        if self.settings.password is None:
            raise FatalError("there is neither a token nor a password", "set [matrix] access_token or password")
        # The same device again: the homeserver then still knows the transaction IDs of what was sent before.
        password = self.settings.password
        remedy = f"{_CORRECT} (the password is from {password.source})" if password.source else _CORRECT
        return await _password_login(self.api, password.get_secret_value(), device_id, remedy)


def make_token(settings: MatrixSettings) -> str:
    """How to get another access token, and where to put it."""
    source = "" if settings.access_token is None else settings.access_token.source
    place = f"where the old one is ({source})" if source else "into [matrix] access_token or the access_token_file"
    return f"make a new one with `relay login`, and put it {place}"


def make_known(settings: AppserviceSettings) -> str:
    """How a homeserver gets to know the registration of ghosts, and where the token is from that it does not know."""
    source = f"; the as_token is from {settings.as_token.source}" if settings.as_token.source else ""
    return f"`relay registration` prints what it needs, and where it goes{source}"


_CORRECT = "correct [matrix] user_id and password, or set access_token instead"


async def log_in(homeserver_url: str, user_id: str, password: str, *, refused: str = _CORRECT) -> StoredSession:
    """A session of a new device. Raises `FatalError` if the homeserver refuses, `Transient` if it does not answer.

    `refused`: what to do where it refuses the password.
    """
    api = Api(homeserver_url, user_id)
    try:
        flows = as_list((await api.call("GET", "login")).get("flows"))
        if not any(as_dict(flow).get("type") == _LOGIN_TYPE for flow in flows):
            raise FatalError(
                "the homeserver takes no passwords of other programs (it logs people in through a website)",
                "copy an access token from a client (Element: All settings, Help & About, Access Token)",
            )
        return await _password_login(api, password, None, refused)
    except (Refused, Unreachable) as error:
        raise Transient(str(error)) from error
    finally:
        await api.close()


async def log_out(made: StoredSession) -> bool:
    """End a session, so that its device is gone from the account; whether the homeserver has done it."""
    api = Api(made.homeserver_url, made.user_id)
    api.use_token(made.access_token)
    try:
        await api.call("POST", "logout", body={}, timeout=_LOGOUT_SECONDS)
    except (Refused, Unreachable):
        return False
    finally:
        await api.close()
    return True


async def _password_login(api: Api, password: str, device_id: str | None, remedy: str = _CORRECT) -> StoredSession:
    body: Json = {
        "type": _LOGIN_TYPE,
        "identifier": {"type": "m.id.user", "user": api.user_id},
        "password": password,
        "initial_device_display_name": DEVICE_NAME,
    }
    body |= {"device_id": device_id} if device_id else {}
    try:
        answer = await api.call("POST", "login", body=body)
    except Refused as refused:
        if refused.status in {400, 401, 403}:
            raise FatalError(
                f"the homeserver refuses the password of {api.user_id} ({refused.code or refused.status})",
                remedy,
            ) from refused
        raise
    if answer.get("user_id") != api.user_id:
        raise FatalError(f"the login is {answer.get('user_id')}, not {api.user_id}", "correct [matrix] user_id")
    token, device = str(answer["access_token"]), str(answer["device_id"])
    api.use_token(token)
    _log.info("logged in", user=api.user_id, device=device)
    return StoredSession(api.homeserver_url, api.user_id, token, device)


def is_token_refusal(refused: Refused) -> bool:
    """Whether the answer means that the access token is not valid (any more)."""
    return refused.code in _TOKEN_REFUSED
