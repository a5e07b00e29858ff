"""Who the relay is on the homeserver: a token from the operator, or one that a password got once and that is kept."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import structlog

from relay.adapters.matrix.api.client import Api, Refused
from relay.config.settings import MatrixSettings
from relay.errors import FatalError

_log = structlog.get_logger(__name__)

LoadSession = Callable[[], Awaitable[str | None]]
SaveSession = Callable[[str], Awaitable[None]]

_TOKEN_REFUSED = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_DEACTIVATED", "M_USER_LOCKED"})


@dataclass(frozen=True, slots=True)
class StoredSession:
    """What outlives the process. The device matters as much as the token: transaction IDs count within it."""

    homeserver_url: str
    user_id: str
    access_token: str
    device_id: str

    def __repr__(self) -> str:
        return f"StoredSession({self.user_id}, device {self.device_id})"


class MatrixSession:
    """Logs in, and again where that is possible. A token of the operator's comes before the password."""

    def __init__(
        self,
        api: Api,
        settings: MatrixSettings,
        *,
        load: LoadSession,
        save: SaveSession,
    ) -> None:
        self._api = api
        self._token = settings.access_token
        self._password = settings.password
        self._load = load
        self._save = save
        self._unsaved: StoredSession | None = None

    def __repr__(self) -> str:
        return f"MatrixSession({self._api.user_id})"

    async def establish(self) -> None:
        """Make the API speak for the account.

        Raises `FatalError` where the token or password is refused or belongs to somebody else; `Refused`,
        `Unreachable` and `StoreUnavailable` where another try is worth it.
        """
        if self._token is not None:
            self._api.use_token(self._token.get_secret_value())
            await self._check("matrix.access_token", "make a new one and put it into matrix.access_token")
            return
        if self._unsaved is None:
            kept = await self._kept()
            if kept is not None and await self._still_good(kept):
                return
            self._unsaved = await self._log_in(kept.device_id if kept else None)
        await self._save(json.dumps(asdict(self._unsaved)))
        self._unsaved = None

    async def _check(self, what: str, remedy: str) -> None:
        try:
            answer = await self._api.call("GET", "account", "whoami")
        except Refused as refused:
            if is_token_refusal(refused):
                raise FatalError(f"the homeserver refuses {what} ({refused.code})", remedy) from refused
            raise
        if answer.get("user_id") != self._api.user_id:
            raise FatalError(
                f"{what} belongs to {answer.get('user_id')}, not to {self._api.user_id}",
                "correct matrix.user_id or the token",
            )

    async def _still_good(self, kept: StoredSession) -> bool:
        self._api.use_token(kept.access_token)
        try:
            await self._check("the kept token", "")
        except FatalError as refused:
            self._api.use_token("")
            _log.warning("the kept token is refused, logging in again", reason=refused.reason)
            return False
        return True

    async def _kept(self) -> StoredSession | None:
        try:
            found = StoredSession(**json.loads(await self._load() or "null"))
        except (TypeError, ValueError, RecursionError):
            return None
        same = (found.homeserver_url, found.user_id) == (self._api.homeserver_url, self._api.user_id)
        return found if same else None

    async def _log_in(self, device_id: str | None) -> StoredSession:
        if self._password is None:
            raise FatalError("there is neither a token nor a password", "set matrix.access_token or matrix.password")
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self._api.user_id},
            "password": self._password.get_secret_value(),
            "initial_device_display_name": "relay",
        }
        # The same device again: what was sent under a transaction ID before is then still recognised.
        body |= {"device_id": device_id} if device_id else {}
        try:
            answer = await self._api.call("POST", "login", body=body)
        except Refused as refused:
            if refused.status in {400, 401, 403}:
                raise FatalError(
                    f"the homeserver refuses the password of {self._api.user_id} ({refused.code or refused.status})",
                    "correct matrix.user_id and matrix.password, or set matrix.access_token instead",
                ) from refused
            raise
        if answer.get("user_id") != self._api.user_id:
            raise FatalError(f"the login is {answer.get('user_id')}, not {self._api.user_id}", "correct matrix.user_id")
        self._api.use_token(str(answer["access_token"]))
        _log.info("logged in", user=self._api.user_id, device=answer.get("device_id"))
        return StoredSession(
            self._api.homeserver_url, self._api.user_id, str(answer["access_token"]), str(answer["device_id"])
        )


def is_token_refusal(refused: Refused) -> bool:
    """Whether the answer means that the access token is not good (any more)."""
    return refused.code in _TOKEN_REFUSED
