"""Which accounts on the homeserver are the relay's: its own, and its ghosts. Told by their IDs, never by a name."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from relay.domain.ids import Platform, UserRef

# Nothing but a number stands behind a prefix, and no prefix ends with one: so no ghost of one relay can be another's.
_NUMBER = re.compile(r"[0-9]{1,20}")


@dataclass(slots=True, kw_only=True)
class OwnAccounts:
    """The accounts of the relay. Those of earlier prefixes count as well: what they wrote is still ours."""

    # The account that listens, in full.
    me: str
    # What the names of ghosts begin with now; None: there are none.
    prefix: str | None = None
    # Other prefixes that ghosts had before.
    earlier: set[str] = field(default_factory=set)
    # Whose people they are.
    platform: Platform = Platform.DISCORD

    def is_ghost(self, user_id: str) -> bool:
        """Whether an account is one of our ghosts."""
        return self.person(user_id) is not None

    def is_own(self, user_id: str) -> bool:
        """Whether an account is the relay's own, or one of its ghosts."""
        return user_id == self.me or self.is_ghost(user_id)

    def person(self, user_id: str) -> UserRef | None:
        """For whom a ghost was made; None for any other account."""
        if not user_id.startswith("@_"):
            return None
        name, _, server = user_id[1:].partition(":")
        if server != self.server:
            return None
        for prefix in self._prefixes:
            if name.startswith(prefix) and _NUMBER.fullmatch(number := name.removeprefix(prefix)):
                return UserRef(self.platform, number)
        return None

    def ghost_of(self, user: UserRef) -> str | None:
        """The ID of somebody's ghost, whether it exists or not; None for those who can have none."""
        if self.prefix is None or user.platform is not self.platform or not _NUMBER.fullmatch(user.id):
            return None
        return f"@{self.prefix}{user.id}:{self.server}"

    def ghosts_of(self, user: UserRef) -> list[str]:
        """The IDs that somebody's ghost may have had at any time."""
        if user.platform is not self.platform or not _NUMBER.fullmatch(user.id):
            return []
        return [f"@{prefix}{user.id}:{self.server}" for prefix in self._prefixes]

    def is_current(self, user_id: str) -> bool:
        """Whether an account is a ghost of the prefix in use, as which the relay may act."""
        return self.prefix is not None and self.is_ghost(user_id) and user_id.startswith(f"@{self.prefix}")

    @property
    def has_ghosts(self) -> bool:
        """Whether there are ghosts, or have ever been any."""
        return self.prefix is not None or bool(self.earlier)

    @property
    def server(self) -> str:
        """The homeserver's name."""
        return self.me.partition(":")[2]

    @property
    def _prefixes(self) -> Iterable[str]:
        return self.earlier if self.prefix is None else {self.prefix, *self.earlier}
