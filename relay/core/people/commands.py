"""Commands that people give to the relay, and what it answers. How a command is written is the adapters' affair."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from relay.core.clock import Limit
from relay.core.pairs import PairDirectory
from relay.core.people.codes import VALID_FOR, LinkCodes, is_code
from relay.core.people.directory import PeopleDirectory, Person
from relay.core.people.ports import CommandReader
from relay.core.people.storage import ForgetRequest
from relay.core.ports import Clock, CommandCall
from relay.core.status.counters import Status
from relay.core.storage import UnitOfWork
from relay.domain.ids import Platform, UserRef
from relay.domain.names import shortened, visible
from relay.domain.pair import LaneKey, Pair
from relay.domain.text import nodes as n

_LONGEST_QUOTED = 40
"""Characters of somebody's words that an answer repeats."""

_MOST_WAITING = 12
"""Notices that wait in a room, above which a command is not answered in words."""

_MOST_SIGNS = 24
"""The same, above which it is not answered at all."""

_MINUTES = int(VALID_FOR.total_seconds() // 60)


@dataclass(frozen=True, slots=True)
class Argument:
    """What may follow the name of a command, and may be left out."""

    name: str
    summary: str
    # The only values that it may have; empty: any one word.
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One command, as adapters offer it and as `help` explains it."""

    name: str
    # What it does, in one line of at most 100 characters.
    summary: str
    argument: Argument | None = None


COMMANDS = (
    CommandSpec("help", "Shows what you can ask the relay for."),
    CommandSpec("status", "Shows whether messages of this room cross."),
    CommandSpec(
        "link",
        "Links your accounts on both sides, so that people can call you from either.",
        Argument("account", "Your account on the other side, or the code that you got there."),
    ),
    CommandSpec("unlink", "Ends that link."),
    CommandSpec("whoami", "Shows what the relay knows about you."),
    CommandSpec("optout", "From now on nothing that you write crosses to the other side."),
    CommandSpec("optin", "What you write crosses again."),
    CommandSpec(
        "forget",
        "Removes what the relay has stored about you; with “copies”, also the copies of your messages.",
        Argument("copies", "Write “copies” to have the copies of your messages deleted, too.", choices=("copies",)),
    ),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said about a command."""

    # Empty: to say nothing is better.
    words: n.RichText = field(default_factory=n.RichText)
    # Of a command that changes something: whether what was asked for is so now. A sign says that where words are too
    # many, so that nobody has to guess.
    done: bool | None = None


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Commands:
    """Answers commands."""

    pairs: PairDirectory
    status: Status
    people: PeopleDirectory
    clock: Clock
    readers: Mapping[Platform, CommandReader]
    _codes: LinkCodes = field(init=False)
    # Of one person, wherever they ask: in a minute, and in an hour.
    _asked: Limit = field(init=False)
    _asked_of_late: Limit = field(init=False)
    # In one room, whoever asks: answers are for all to see, and share what the relay may send with other notices.
    _answered: Limit = field(init=False)
    _forgotten: Limit = field(init=False)

    def __post_init__(self) -> None:
        self._codes = LinkCodes(clock=self.clock)
        self._asked = Limit(self.clock, most=5, seconds=60)
        self._asked_of_late = Limit(self.clock, most=30, seconds=3600)
        self._answered = Limit(self.clock, most=10, seconds=60)
        self._forgotten = Limit(self.clock, most=2, seconds=3600)

    async def answer(self, uow: UnitOfWork, call: CommandCall, changed: set[UserRef]) -> Answer:
        """Carry out a command in the transaction `uow`, and say what came of it.

        `changed`: see `PeopleDirectory.change`.
        """
        over = max(limit.count(call.user) - limit.most for limit in (self._asked, self._asked_of_late))
        # Whoever wants their words kept back is never told to come back later: those they write meanwhile would cross.
        if over > 0 and _name(call) != "optout":
            is_told = call.private or over == 1
            return Answer(n.RichText.plain("You ask too much at once. Try again later.") if is_told else n.RichText())
        answer = await self._answer(uow, call, changed)
        # What was asked is done in any case: strangers who fill a room with commands must not keep others from it.
        if call.private:
            return answer
        waiting = len(await uow.outbox.waiting(LaneKey.within(call.channel), _MOST_SIGNS))
        if over <= 0 and self._answered.takes(call.channel) and waiting < _MOST_WAITING:
            return answer
        return Answer(done=answer.done if waiting < _MOST_SIGNS else None)

    async def _answer(self, uow: UnitOfWork, call: CommandCall, changed: set[UserRef]) -> Answer:
        match name := _name(call):
            case "help":
                return Answer(self._help(call))
            case "status":
                return Answer(await self._status(uow, call))
            case "link":
                return await self._link(uow, call, changed)
            case "unlink":
                return await self._unlink(uow, call, changed)
            case "whoami":
                return Answer(await self._whoami(uow, call))
            case "optout":
                return await self._opt_out(uow, call, changed)
            case "optin":
                return await self._opt_in(uow, call, changed)
            case "forget":
                return await self._forget(uow, call, changed)
            case _:
                unknown = _line("I do not know ", n.Code(_short(name)), ". ")
                return Answer(n.RichText((unknown, *self._help(call).blocks)))

    # --- What there is, and how it is -----------------------------------------------------------------------

    def _help(self, call: CommandCall) -> n.RichText:
        items = tuple(
            n.ListItem((_line(self._written(call.user.platform, _with_argument(spec)), f": {spec.summary}"),))
            for spec in COMMANDS
        )
        lines: list[n.Block] = [_line("You can ask the relay for:"), n.BulletList(items)]
        if not call.private:
            lines.append(_line("Where many ask at once, a reaction to what you wrote is all of the answer."))
        return n.RichText(tuple(lines))

    async def _status(self, uow: UnitOfWork, call: CommandCall) -> n.RichText:
        pair = self.pairs.pair_of(call.channel)
        if pair is None:
            connect = "Whoever runs the relay can connect it, with a pair in its configuration."
            return n.RichText((_line("This room is not connected to another one."), _line(connect)))
        waiting = {lane: depth.waiting for lane, depth in (await uow.outbox.depths()).items()}
        out = self.pairs.lane_from(call.channel, pair)
        lines = [_line(self._condition(pair))]
        for lane, way in ((out, "From here to"), (out.back, "Here from")):
            if lane.destination.platform in pair.destinations:
                other = (lane.source if lane is not out else lane.destination).platform
                lines.append(_line(f"{way} {other.title()}: ", *self._way(lane, waiting.get(lane, 0))))
        return n.RichText(tuple(lines))

    def _condition(self, pair: Pair) -> str:
        """Whether a pair works. Not why it does not: that is the operator's affair, and may name private things."""
        if pair.paused:
            return "This room is connected, but paused: what is written now does not cross, now or later."
        if not self.status.problems(pair):
            return "This room is connected, and it works."
        return "This room is connected, but something keeps messages from crossing. The operator can see why."

    def _way(self, lane: LaneKey, waiting: int) -> Iterator[str | n.Inline]:
        last = self.status.lane(lane).last_message_at
        if last is None:
            yield "no message yet"
        else:
            yield "last message "
            yield n.Timestamp(last, "R")
        yield f", {waiting} waiting." if waiting else ", nothing waits."

    async def _whoami(self, uow: UnitOfWork, call: CommandCall) -> n.RichText:
        person = await self.people.of(call.user, uow)
        lines = [_line("You are ", n.Code(call.user.id), f" on {call.user.platform.title()}.")]
        lines += [self._linked_line(other, call) for other in person.linked.values()]
        if not person.linked:
            lines.append(_line("You are not linked with another account."))
        if person.has_opted_out:
            lines.append(_line("You have opted out: what you write does not cross."))
        return n.RichText(tuple(lines))

    def _linked_line(self, other: UserRef, call: CommandCall) -> n.Paragraph:
        by = " The operator has declared that." if self.people.is_declared(call.user) else ""
        if call.private:
            return _line("You are linked with ", n.Code(other.id), f" on {other.platform.title()}.{by}")
        return _line(f"You are linked with an account on {other.platform.title()}.{by}")

    # --- Links ----------------------------------------------------------------------------------------------

    async def _link(self, uow: UnitOfWork, call: CommandCall, changed: set[UserRef]) -> Answer:
        word = call.words[1] if len(call.words) > 1 else ""
        person = await self.people.of(call.user, uow)
        if person.linked:
            again = self._written(call.user.platform, "unlink")
            lines = (self._linked_line(other, call) for other in person.linked.values())
            return _refused(*lines, _line(again, " ends that."))
        wanted = self._account(word, call.user.platform)
        if wanted is not None:
            return Answer(await self._code(uow, call, wanted), done=False)
        if is_code(word):
            return await self._redeem(uow, call, word, changed)
        return Answer(self._how_to_link(call), done=False)

    def _account(self, word: str, here: Platform) -> UserRef | None:
        """The account of another platform that a word names."""
        others = (reader.person(word) for platform, reader in self.readers.items() if platform is not here)
        return next((user for user in others if user is not None), None)

    async def _code(self, uow: UnitOfWork, call: CommandCall, wanted: UserRef) -> n.RichText:
        if not call.private:
            return n.RichText(
                (_line("I cannot give you a code where everybody reads it."), *self._how_to_link(call).blocks)
            )
        code = await self._codes.make(uow, call.user, shortened(visible(call.name)), wanted)
        if code is None:
            return n.RichText.plain(
                "Too many others ask for that account just now. It can end that by asking for `unlink` itself."
            )
        # Whether that account is linked already is told to itself alone, when it says the code.
        say = self._written(wanted.platform, f"link {code}")
        where = "in any room that this relay connects"
        return n.RichText(
            (
                _line(f"On {wanted.platform.title()}, as ", n.Code(wanted.id), f", write this {where}: ", say),
                _line(f"It has to be within {_MINUTES} minutes. The code is of use to that account alone."),
            )
        )

    async def _redeem(self, uow: UnitOfWork, call: CommandCall, word: str, changed: set[UserRef]) -> Answer:
        if not self._codes.may_try(call.user):
            return _refused(_line(f"Too many wrong codes. Ask for a new one in {_MINUTES} minutes."))
        code = await self._codes.redeem(uow, call.user, word)
        if code is None:
            return _refused(
                _line("You have no such code."),
                _line(f"A code is valid for {_MINUTES} minutes, once, and only for the account it was made for."),
            )
        other = code.asked_by
        if (await self.people.of(other, uow)).linked:
            return _refused(_line("Whoever asked for that code is linked with another account by now."))
        self.people.change((call.user, other), changed)
        for user in (call.user, other):
            # A link that one declared by the operator covers for now: it would be back when that is taken away.
            self.people.change((await uow.people.linked(user)).values(), changed)
            await uow.people.unlink(user)
        await uow.people.link(other, call.user, self.clock.now())
        name = (n.Code(code.name), n.Text(" ")) if code.name else ()
        end = self._written(call.user.platform, "unlink")
        linked = _line("You are linked with ", *name, "(", n.Code(other.id), f") on {other.platform.title()} now.")
        return _carried_out(linked, _line("If that is not you: ", end))

    def _how_to_link(self, call: CommandCall) -> n.RichText:
        here = call.user.platform
        other = next((platform for platform in self.readers if platform is not here), here)
        if call.private:
            return n.RichText((_line("Write ", self._written(here, "link"), f" and your full ID on {other.title()}."),))
        say = self._written(here, "link")
        return n.RichText(
            (
                _line(f"On {other.title()}, write ", self._written(other, f"link {call.user.id}"), "."),
                _line("You get a code there that nobody else sees. Then write ", say, " and the code here."),
            )
        )

    async def _unlink(self, uow: UnitOfWork, call: CommandCall, changed: set[UserRef]) -> Answer:
        if self.people.is_declared(call.user):
            return _refused(_line("The operator has declared your link. Ask them to end it."))
        person = await self.people.of(call.user, uow)
        await self._codes.forget(uow, call.user)
        if not person.linked:
            return _carried_out(_line("You are not linked with another account."))
        await self._end_links(uow, call.user, person, changed)
        return _carried_out(_line("You are not linked with another account any more."))

    async def _end_links(self, uow: UnitOfWork, user: UserRef, person: Person, changed: set[UserRef]) -> None:
        self.people.change((user, *person.linked.values()), changed)
        await uow.people.unlink(user)

    # --- Privacy --------------------------------------------------------------------------------------------

    async def _opt_out(self, uow: UnitOfWork, call: CommandCall, changed: set[UserRef]) -> Answer:
        self.people.change((call.user,), changed)
        await uow.people.opt_out(call.user, self.clock.now())
        back, forget = (self._written(call.user.platform, word) for word in ("optin", "forget copies"))
        return _carried_out(
            _line("From now on nothing that you write with this account crosses."),
            _line(
                "What has crossed before stays, and still follows when you edit or delete it; ",
                forget,
                " removes it. ",
                back,
                " takes you in again.",
            ),
        )

    async def _opt_in(self, uow: UnitOfWork, call: CommandCall, changed: set[UserRef]) -> Answer:
        person = await self.people.of(call.user, uow)
        if not person.has_opted_out:
            return _carried_out(_line("You have not opted out: what you write crosses."))
        self.people.change((call.user,), changed)
        await uow.people.opt_in(call.user)
        return _carried_out(_line("What you write with this account crosses again, from now on."))

    async def _forget(self, uow: UnitOfWork, call: CommandCall, changed: set[UserRef]) -> Answer:
        copies = len(call.words) > 1 and call.words[1].casefold() == "copies"
        if len(call.words) > 1 and not copies:
            first, second = (self._written(call.user.platform, word) for word in ("forget", "forget copies"))
            return _refused(_line("Write ", first, ", or ", second, " if the copies of your messages are to go, too."))
        if not self._forgotten.takes(call.user):
            return _refused(_line("You have asked for that a moment ago. Ask again in an hour."))
        person = await self.people.of(call.user, uow)
        await self._end_links(uow, call.user, person, changed)
        await self._codes.forget(uow, call.user)
        # What they asked for a while ago is still carried out.
        copies = copies or ((asked := await uow.people.request_of(call.user)) is not None and asked.copies)
        await uow.people.put_request(ForgetRequest(call.user, copies))
        lines = [_line("What I have stored about you is being removed.", self._what_goes(copies))]
        if person.has_opted_out:
            lines.append(
                _line("That you have opted out stays on record, since nothing you write would be kept back else.")
            )
        else:
            out = self._written(call.user.platform, "optout")
            lines.append(_line("What you write from now on is known again, unless you write ", out, "."))
        if self.people.is_declared(call.user):
            lines.append(_line("The operator has declared a link of your account. Ask them to end it."))
        return _carried_out(*lines)

    def _what_goes(self, copies: bool) -> str:
        if copies:
            return (
                " The copies of your messages are being deleted, too; with many of them that takes a while. What you"
                " wrote before the relay came does not cross later, either: of your ID a digest is kept for that."
            )
        return " The copies of your messages stay on the other side. They go when you delete the messages."

    # --- Words ----------------------------------------------------------------------------------------------

    def _written(self, platform: Platform, command: str) -> n.Code:
        """A command as people write it on a platform."""
        reader = self.readers.get(platform)
        return n.Code(command if reader is None else f"{reader.command_prefix}{command}")


def _name(call: CommandCall) -> str:
    return call.words[0].casefold() if call.words else "help"


def _with_argument(spec: CommandSpec) -> str:
    return spec.name if spec.argument is None else f"{spec.name} [{spec.argument.name}]"


def _line(*parts: str | n.Inline) -> n.Paragraph:
    return n.Paragraph(tuple(n.Text(part) if isinstance(part, str) else part for part in parts if part))


def _carried_out(*lines: n.Paragraph) -> Answer:
    return Answer(n.RichText(lines), done=True)


def _refused(*lines: n.Paragraph) -> Answer:
    return Answer(n.RichText(lines), done=False)


def _short(word: str) -> str:
    return word if len(word) <= _LONGEST_QUOTED else f"{word[:_LONGEST_QUOTED]}…"
