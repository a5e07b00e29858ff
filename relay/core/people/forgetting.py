"""Forgets people who ask for it: in small steps beside everything else, and on after a restart where it stopped."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from relay.core.author_names import AuthorNames
from relay.core.pairs import PairDirectory
from relay.core.people.directory import PeopleDirectory
from relay.core.people.ports import PersonForgetter
from relay.core.people.storage import ForgetRequest
from relay.core.ports import Clock, EventBatch
from relay.core.recent import Recent
from relay.core.storage import DeadLetter, Original, Store, UnitOfWork
from relay.domain.commands import Digest, EditMessage, LateFile, SendMessage
from relay.domain.events import MessageDeleted
from relay.domain.ids import UserRef
from relay.errors import DeliveryError, RelayError, StoreUnavailable
from relay.logs import get_logger

_log = get_logger(__name__)

_ROWS = 2_000
"""Rows of the message map that are looked at in one step: a few milliseconds."""

_COPIES = 3
"""Messages whose copies are deleted in one step, and only once nothing else waits in their lane."""

_PEOPLE = 100
"""People who have a step each in one round; those who come after them have the next one."""

_DIGESTS = 1_000
"""Of so many people, for each of 256 beginnings of a digest, it is known that nothing earlier of them crosses."""

_BETWEEN_STEPS = 0.1
_BETWEEN_COPIES = 1.0
_AFTER_TROUBLE = 60.0
_LEFT_ALONE = 256 * 1024
"""Bytes of the people who are left alone for now. Those who are dropped from there are tried again sooner."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Forgetter:
    """Carries out what people asked for with `forget`."""

    store: Store
    pairs: PairDirectory
    people: PeopleDirectory
    names: AuthorNames
    clock: Clock
    # Takes deletions as if they came from the platform: copies go by ordinary commands, quoted lines follow.
    receive: Callable[[EventBatch], Awaitable[None]]
    forgetters: Sequence[PersonForgetter]
    # Until when those are left alone with whom something failed.
    _later: Recent[UserRef, float] = field(init=False, default_factory=lambda: Recent(_LEFT_ALONE))
    # After whom the next round begins; None: with the first.
    _last: UserRef | None = field(init=False, default=None)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self.people.settled.clear()  # before looking, so that what is asked meanwhile is not missed
            pause = await self._round()
            if pause is None:
                await self.people.settled.wait()
            else:
                await self.clock.sleep(pause)

    async def _round(self) -> float | None:
        """One step for the next of them; how long to wait before the next round, None until somebody asks."""
        try:
            async with self.store.look() as uow:
                requests = await uow.people.requests(_PEOPLE, self._last)
            now = self.clock.monotonic()
            pauses = [await self._try(one) for one in requests if self._later.get(one.user, now) <= now]
        except StoreUnavailable as error:
            _log.warning("people are forgotten later", reason=error.reason)
            return _AFTER_TROUBLE
        was_first, is_last = self._last is None, len(requests) < _PEOPLE
        self._last = None if is_last else requests[-1].user
        if was_first and not requests:
            self._later.clear()
            return None
        if not (was_first and is_last):
            return _BETWEEN_STEPS  # however long these have to wait, others come after them
        return min(pauses, default=_AFTER_TROUBLE)

    async def _try(self, request: ForgetRequest) -> float:
        try:
            return await self._step(request)
        except RelayError:
            raise
        except Exception:  # noqa: BLE001 - the top of a worker: the daemon and the others go on
            _log.exception("bug while forgetting a person")
            return self._leave_alone(request.user)

    def _leave_alone(self, user: UserRef) -> float:
        """Something failed: go on without them for a while, of so many seconds."""
        self._later[user] = self.clock.monotonic() + _AFTER_TROUBLE
        return _AFTER_TROUBLE

    async def _step(self, request: ForgetRequest) -> float:
        """Go on with one of them; how long to wait before the next step."""
        async with self.store.read() as uow:
            last, found = await uow.messages.written_by(request.user, request.position, _ROWS)
        if last == request.position:
            return await self._finish(request)
        to_delete = [one for one in found if not (one.deleted or one.left_out)] if request.copies else []
        pause = _BETWEEN_STEPS
        if to_delete:
            to_delete, pause = to_delete[:_COPIES], _BETWEEN_COPIES
            if not await self._is_quiet(to_delete):
                return pause
            await self.receive(EventBatch(tuple(MessageDeleted(one.ref) for one in to_delete)))
            last = to_delete[-1].id
        async with self.store.write() as uow:
            if not await _still_asked(uow, request):
                return pause
            for one in found:
                if one.id <= last:
                    await uow.messages.forget_author(one.id)
            await uow.people.put_request(replace(request, position=last))
        return pause

    async def _is_quiet(self, originals: Sequence[Original]) -> bool:
        """Whether nothing waits where their copies are to be deleted: everybody's words come first."""
        channels = {one.ref.channel for one in originals}
        lanes = [self.pairs.lane_from(channel, pair) for channel in channels if (pair := self.pairs.pair_of(channel))]
        async with self.store.look() as uow:
            depths = await uow.outbox.depths()
        return not any(lane in depths and depths[lane].waiting for lane in lanes)

    async def _finish(self, request: ForgetRequest) -> float:
        """Every message has been looked at: the rest, and what others keep."""
        try:
            for forgetter in self.forgetters:
                await forgetter.forget_person(request.user)
        except DeliveryError as error:
            _log.warning("something of a person stays for now", reason=str(error))
            return self._leave_alone(request.user)
        async with self.store.write() as uow:
            for letter in await uow.outbox.dead():
                await _forget_letter(uow, letter, request.user)
            channels = [one for one in self.pairs.declared_channels() if one.platform is request.user.platform]
            await self.names.forget_person(uow, channels, request.user)
            if await _still_asked(uow, request):
                await uow.people.forget_request(request.user)
                if request.copies:
                    await _keep_back(uow, request.user)
        self.names.forget()
        self._later.pop(request.user, None)
        _log.info("a person has been forgotten", platform=str(request.user.platform), copies=request.copies)
        return _BETWEEN_STEPS


async def is_kept_back(uow: UnitOfWork, user: UserRef) -> bool:
    """Whether what somebody said before must not cross: the copies of what had crossed are deleted, or are being."""
    if (request := await uow.people.request_of(user)) is not None and request.copies:
        return True
    name, digest = _digest(user)
    return digest in (await uow.key_values.get(name) or "").split()


async def _keep_back(uow: UnitOfWork, user: UserRef) -> None:
    name, digest = _digest(user)
    kept = (await uow.key_values.get(name) or "").split()
    if digest not in kept:
        await uow.key_values.put(name, " ".join([*kept, digest][-_DIGESTS:]))


def _digest(user: UserRef) -> tuple[str, str]:
    """The named value in which a person is kept back, and how: a digest leads to nobody whose ID is not known."""
    digest = blake2b(f"{user.platform} {user.id}".encode("utf-8", "replace"), digest_size=16).hexdigest()
    return f"forgotten {digest[:2]}", digest[2:]


async def _still_asked(uow: UnitOfWork, request: ForgetRequest) -> bool:
    """Whether it is still the same request: somebody may have asked again meanwhile, for more."""
    return await uow.people.request_of(request.user) == request


async def _forget_letter(uow: UnitOfWork, letter: DeadLetter, user: UserRef) -> None:
    match letter.entry.command:
        case SendMessage(author=author) | EditMessage(author=author) | LateFile(author=author) if author.user == user:
            await uow.outbox.discard(letter.entry.id)
        case Digest(items=items) as digest if any(item.author.user == user for item in items):
            rest = tuple(item for item in items if item.author.user != user)
            if rest:
                await uow.outbox.amend(letter.entry.id, replace(digest, items=rest))
            else:
                await uow.outbox.discard(letter.entry.id)
