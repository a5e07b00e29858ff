"""Codes that link two accounts: made for one account of each side, valid for some minutes, and not to be guessed."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from relay.core.clock import Limit
from relay.core.people.storage import LinkCode
from relay.core.ports import Clock
from relay.core.storage import UnitOfWork
from relay.domain.ids import UserRef

VALID_FOR = timedelta(minutes=15)

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # without letters and digits that people mix up
_LENGTH = 10
_MOST_PENDING = 20
"""Codes that wait for one account to say them: everybody may ask for one."""

_MOST_TRIES = 5


def is_code(word: str) -> bool:
    """Whether a word has the form of a code."""
    return len(word) == _LENGTH and set(word.casefold()) <= set(_ALPHABET)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class LinkCodes:
    """Makes codes, and checks those that people say."""

    clock: Clock
    # Wrong codes of each account.
    _wrong: Limit = field(init=False)

    def __post_init__(self) -> None:
        self._wrong = Limit(self.clock, most=_MOST_TRIES, seconds=VALID_FOR.total_seconds())

    async def make(self, uow: UnitOfWork, asked_by: UserRef, name: str, bound_to: UserRef) -> str | None:
        """A code that only `bound_to` may say; None if too many others wait for that account already."""
        now = self.clock.now()
        await uow.people.forget_codes(now)
        await uow.people.forget_code(asked_by)
        if len(await uow.people.codes_for(bound_to, _MOST_PENDING)) >= _MOST_PENDING:
            return None
        code = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
        await uow.people.put_code(LinkCode(asked_by, name, bound_to, _digest(code), now + VALID_FOR))
        return code

    async def redeem(self, uow: UnitOfWork, said_by: UserRef, code: str) -> LinkCode | None:
        """The code that somebody says, which is then used up; None if it is not one of theirs, or has expired.

        After some wrong ones (`may_try`) no code of theirs is looked at for a while.
        """
        if not self.may_try(said_by):
            return None
        found = _matching(await uow.people.codes_for(said_by, _MOST_PENDING), _digest(code.casefold()))
        if found is None or found.expires_at <= self.clock.now():
            self._wrong.count(said_by)
            return None
        self._wrong.forget(said_by)
        await uow.people.forget_code(found.asked_by)
        return found

    async def forget(self, uow: UnitOfWork, user: UserRef) -> None:
        """Take back what somebody asked for, and what others asked for to link with them."""
        await uow.people.forget_code(user)
        for code in await uow.people.codes_for(user, _MOST_PENDING):
            await uow.people.forget_code(code.asked_by)

    def may_try(self, user: UserRef) -> bool:
        """Whether an account has not said too many wrong codes of late."""
        return not self._wrong.is_reached(user)


def _matching(codes: Sequence[LinkCode], digest: str) -> LinkCode | None:
    wanted = digest.encode()
    return next((code for code in codes if hmac.compare_digest(code.digest.encode("utf-8", "replace"), wanted)), None)


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode("utf-8", "replace")).hexdigest()
