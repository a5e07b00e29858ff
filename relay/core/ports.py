"""What the core needs of the world, and what it offers to the adapters, as protocols.

The adapters implement `Adapter` (and, where the platform's stream does not replay what was missed,
`HistoryReader`) and pass the suites in `tests/contract`. What an adapter may do
about people is in `core/people/ports.py`, files are in `core/files.py`, and what the core needs of the store is in
`core/storage.py`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from relay.core.files import Sender
from relay.domain.content import Author, Capabilities, Content, Quotation
from relay.domain.events import Event, MessageCreated
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform, ThreadRef, UserRef
from relay.domain.text.nodes import RichText
from relay.errors import sentence

NOT_OURS = "it is not certain that no other process serves by now"
"""Why a process changes nothing on a platform once it may have lost the store."""


class Clock(Protocol):
    """Time. The simulation has one of its own."""

    def now(self) -> datetime:
        """The time of day, with UTC as its zone."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


# --- From the adapters to the core ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a stream of one platform has been read."""

    platform: Platform
    stream: str  # its adapter's name for it: `channel:<snowflake>`, `sync`
    position: str  # in the adapter's own form
    resumes: bool = False  # another relay had read there before: if it is the first, nobody here knows what crossed


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events in the order of the platform, and the cursors that stand behind them.

    The core writes both in one transaction: a cursor never runs ahead of what it stands for.
    """

    events: tuple[Event, ...] = ()
    cursors: tuple[Cursor, ...] = ()


@dataclass(frozen=True, slots=True)
class OnRecord:
    """A message that was received."""

    ref: MessageRef
    # By its platform's clock.
    written_at: datetime


@dataclass(frozen=True, slots=True)
class CommandCall:
    """Somebody asks the relay for something."""

    user: UserRef
    # Where they asked.
    channel: ChannelRef
    # The command's name and what follows it; empty counts as `help`. What there is: `core.people.commands.COMMANDS`.
    words: tuple[str, ...]
    # The answer is shown to that person alone.
    private: bool
    # What people call them there, unchecked; "" if that is not known.
    name: str = ""


class Inbox(Protocol):
    """What an adapter may call."""

    async def receive(self, batch: EventBatch) -> None:
        """Take events and their cursors. Returns once both are on disk.

        Events that were received before are recognised and ignored; one that makes the core fail is left out and
        counted. Raises `StoreUnavailable` when nothing was written: the adapter keeps the events, and calls again.
        """
        ...

    async def cursor(self, platform: Platform, stream: str) -> str | None:
        """The position last written for a stream, None before the first."""
        ...

    async def last_originals(self, channel: ChannelRef, limit: int) -> Sequence[OnRecord]:
        """The last messages on record that were written in `channel`, and not deleted: at most `limit`, newest first.

        What came before the newest has been received.
        """
        ...

    async def opened(
        self, address: ChannelAddress, channel: ChannelRef, *, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> None:
        """The channel that the operator declared as `address` is `channel`, and can be read now.

        `predecessors`: channels that it has replaced and is the same place as. What waits for them goes there.
        Returns once the core can route its events; call it before the first `receive` with events of `channel`.
        """
        ...

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        """The declared channel cannot be used now: a sentence with the remedy. `opened` ends it."""
        ...

    async def post_again(
        self, channel: ChannelRef, post: Callable[[], Awaitable[Mapping[MessageRef, MessageRef]]]
    ) -> Collection[MessageRef]:
        """`post` posts copies of `channel` again in the one that replaces it, and returns where each is then.

        Nothing is sent to `channel` meanwhile: what was being sent is on record before, or is in doubt until the new
        channel is opened. From then on edits reach the new copies, and deletions both. `post` may be called again; it
        is not called where nothing crosses to `channel`. Returns the copies that may be removed there, since deletions
        reach the new ones. Raises what `post` raises, `StoreUnavailable`.
        """
        ...

    def health_changed(self) -> None:
        """Your `health` is another. What changes often, as how far you are, is looked at each second anyway."""
        ...

    async def catch_up(self, channel: ChannelRef, after: str) -> None:
        """Read what was missed in `channel` since the cursor position `after`, through the adapter's `HistoryReader`.

        Returns once all of it has been received; the adapter holds that channel's live events back meanwhile.
        """
        ...

    async def command(self, call: CommandCall) -> RichText:
        """Carry out what somebody asks for, and return the answer.

        Each call is carried out: an adapter whose platform sends a command again makes it an event instead. Raises
        `StoreUnavailable` when nothing was done.
        """
        ...


# --- From the core to the adapters ------------------------------------------------------------------------

SideState = Literal["connecting", "catching_up", "ready", "failed", "stopped"]
"""`ready`: everything said from now on will cross. `stopped`: no daemon runs; only `relay status` says so."""


@dataclass(frozen=True, slots=True)
class SideHealth:
    """How an adapter is."""

    state: SideState
    # A sentence for the operator, "" if there is nothing to say.
    detail: str = ""

    @property
    def connected(self) -> bool:
        """Whether the platform answers."""
        return self.state in ("ready", "catching_up")

    @property
    def problem(self) -> str | None:
        """Why it is not ready; None while it is."""
        return None if self.state == "ready" else sentence(self.detail or self.state.replace("_", " "))


async def _not_on_record(_: MessageRef) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to make (or to turn an existing one into), already cut to what the channel can carry.

    Where it is `suspect`, the adapter finds out before it sends whether an earlier try was carried out. It looks at the
    channel's messages since `after` that are not `on_record` for another command.
    """

    channel: ChannelRef
    # Unique for ever and the same for each try of the same message, at most 25 characters of [a-z0-9.].
    key: str
    author: Author | None  # None: the relay speaks in its own name
    content: Content
    reply_to: MessageRef | None = None
    thread: ThreadRef | None = None
    part: int = 0  # counts from 0
    suspect: bool = False  # an earlier try may have been carried out
    after: MessageRef | None = None  # the last message of this lane in that channel that is on record
    on_record: Callable[[MessageRef], Awaitable[bool]] = _not_on_record
    alone: bool = True  # no other lane has anything on its way into that channel: what looks like ours is ours
    queued_at: datetime | None = None  # when its command was queued; None if that is not known
    # Whose message is replied to; None where somebody of the other side wrote it.
    replied_author: UserRef | None = None
    last_try: bool = False  # if no earlier try was carried out, nothing is sent: raise `Permanent`
    # The store is a backup that was restored, and the message was written before that: since this time it may have
    # crossed without being on record, and so may others. Its copy says the same, or was edited; `after` tells nothing.
    restored_since: datetime | None = None
    # The author's name without what the operator adds to it; "" where that is not known.
    bare_name: str = ""

    @property
    def sender(self) -> "Sender | None":
        """Whose files it brings."""
        return None if self.author is None else Sender(self.channel, self.author.user)


class Adapter(Protocol):
    """One platform. Raises only errors of `relay.errors`.

    Whatever it is asked for: a 5xx in answer is a `Transient` that is `failed`, and nothing that only has to wait is.
    """

    @property
    def platform(self) -> Platform:
        """Which."""
        ...

    @property
    def shared_limit(self) -> bool:
        """Whether what may be sent in a time is counted over all channels together, rather than for each."""
        ...

    async def run(self, inbox: Inbox) -> None:
        """Connect and stay connected until cancelled, through every outage.

        Raises `FatalError` for what no retry mends (a refused token).
        """
        ...

    async def watch(
        self, addresses: frozenset[ChannelAddress], *, secondary: frozenset[ChannelAddress] = frozenset()
    ) -> None:
        """From now on these are the declared channels; may be called before and while `run` runs.

        For each the adapter calls `Inbox.opened` or `Inbox.closed`, and goes on trying those that are closed.
        `secondary`: those of no pair. Where one turns out to be the same channel as a pair's, it is closed, and not
        the pair's.
        """
        ...

    async def close(self) -> None:
        """Release connections. Called after `run` has ended."""
        ...

    def health(self) -> SideHealth:
        """How it is now. No I/O."""
        ...

    def capabilities(self, channel: ChannelRef) -> Capabilities:
        """What `channel` can carry. No I/O."""
        ...

    def measure(self, text: RichText, author: Author | None) -> int:
        """The length of `text` as rendered, all that is put around it for `author` included. Pure."""
        ...

    async def send(self, delivery: Delivery) -> MessageRef:
        """Post, and return the new message's ID; or find the one that a suspect earlier try made.

        Raises `FileRejected` for a file that cannot cross or not yet, `Unsupported` for what this platform cannot
        carry, `Permanent` when no try will succeed, `Transient` else.
        """
        ...

    async def edit(self, target: MessageRef, delivery: Delivery) -> None:
        """Make `target`, one of ours, say `delivery`; nothing is sent where it is known to say that already.

        Raises `TargetGone` when it is gone, `CopyNotEditable` when it can only be posted again, `FileRejected` for a
        file that cannot cross or not yet, `Permanent` when no try will succeed, `Transient` else.
        """
        ...

    async def delete(self, target: MessageRef, key: str) -> None:
        """Remove `target`, one of ours. Raises `TargetGone` when it is gone, `Permanent` or `Transient` else."""
        ...

    async def quote(self, target: MessageRef) -> Quotation | None:
        """What to show of `target` in a reply to it; None when it is gone. Raises `Transient`."""
        ...

    def permalink(self, target: MessageRef) -> str:
        """A link that opens `target`; "" where it is not known. No I/O.

        Raises `Transient` while that may be told any moment: what a copy says is to be the same at each try.
        """
        ...

    def own_names(self, channel: ChannelRef) -> frozenset[str]:
        """Under which names the relay's own account speaks in `channel`, as far as is known. No I/O."""
        ...

    async def people(self, channel: ChannelRef, names: frozenset[str]) -> Mapping[str, UserRef]:
        """The people who can be mentioned in `channel` under these names. Keys: see `convert.references.folded`.

        Only if exactly one person there has the name. Best effort: what cannot be looked up now is not found.
        """
        ...

    async def mark(self, source: MessageRef, *, done: bool) -> bool:
        """Show the author of `source`, a message on this platform, what became of it: by a reaction of ours.

        `done`: what it asked the relay for is so now. Else it did not cross, or nothing came of what it asked for.
        False where that is not possible here; the core posts a notice instead, if it has to be told.
        """
        ...


@runtime_checkable
class HistoryReader(Protocol):
    """An adapter whose platform's stream does not replay what was missed. Its readings raise only `Transient`.

    The ID of a message is a cursor position, too: what was written after it.
    """

    def knows(self, position: str) -> bool:
        """Whether that can be a position at all: a damaged row of the store may hold anything."""
        ...

    def position_at(self, moment: datetime) -> str:
        """The position before everything that was written since a moment."""
        ...

    def now(self) -> datetime:
        """The time of day by the platform's own clock, as far as it is known. No I/O."""
        ...

    def history(
        self, channel: ChannelRef, after: str, *, newest: int, threads_cross: bool, reread_from: MessageRef | None
    ) -> AsyncIterator[EventBatch]:
        """What was written after the cursor position `after`, oldest first, a page at a time, each with its cursor.

        At most the `newest` last messages; where there are more, the first batch says how many were passed over
        (`HistorySkipped`). Messages carry their latest text, and `edited_at` where they were edited. `threads_cross`:
        whether they cross from threads, too. Else threads that would have to be asked for are left out. `reread_from`:
        from where on `reread` is called next, if it is; what both need is asked for once.
        """
        ...

    def reread(self, first: MessageRef, last: MessageRef) -> AsyncGenerator[Sequence[MessageCreated] | None]:
        """What stands now between two messages of a channel, both included, oldest first, a page at a time.

        None instead of a page: some of it could not be looked at, so what is missing need not have been deleted. Who
        has seen enough closes it, and nothing more is asked for.
        """
        ...


@dataclass(frozen=True, slots=True)
class PastPage:
    """Some messages from before the relay was there, oldest first, with their latest text; no deleted ones."""

    messages: tuple[MessageCreated, ...]
    # Where the next page begins, in the adapter's own form.
    position: str
    # Messages of the page that cannot be carried at all: encrypted ones, for example.
    unreadable: int = 0
    # Threads that begin in it, of which nothing is read.
    threads: int = 0


Began = Callable[[str], Awaitable[str | None]]
"""The first position that was ever written for a stream; None where that is not on record."""


@runtime_checkable
class PastReader(Protocol):
    """An adapter that can read what was said in a channel before the relay first read there."""

    def past(
        self,
        channel: ChannelRef,
        position: str,
        began: Began,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> AsyncGenerator[PastPage]:
        """All of it, oldest first, from a position on; "": from the first message, or the first one written `since`.

        It ends where the relay first began to read, which the cursors of the adapter's streams tell (`began`). Where
        that is not on record, it ends with what was written `before`, and without that `Permanent` is raised; else the
        caller leaves out what is younger. No page is read before it is asked for, and what is read again from the same
        position is the same, but for what was edited or deleted meanwhile. A page has some twenty messages: few enough
        to be kept. The relay's own messages may be among them. Raises `Transient`.
        """
        ...


@runtime_checkable
class ChannelNotes(Protocol):
    """An adapter that can say what the operator may correct about a channel although it works."""

    def notes(self, channel: ChannelRef) -> Sequence[str]:
        """Sentences, each with its remedy. No I/O."""
        ...


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """What people know a channel by."""

    # `#help`, `Help room`.
    name: str
    # The server that it is in; "" where channels stand by themselves.
    place: str = ""
    topic: str = ""
    # Opens it in a client; "" if there is none.
    link: str = ""
    # Whether anybody may know that it exists, as far as its platform says.
    public: bool = False
    # It is marked as unsuitable for minors.
    nsfw: bool = False
    # Other addresses that lead there, the best known first.
    aliases: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For the operator: `#help on Some server`."""
        return f"{self.name} on {self.place}" if self.place else self.name


@runtime_checkable
class ChannelDescriber(Protocol):
    """An adapter that can say what people know a channel by."""

    def describe(self, channel: ChannelRef) -> ChannelInfo | None:
        """As it is now; None while that is not known. No I/O."""
        ...


@runtime_checkable
class LimitReader(Protocol):
    """An adapter whose platform tells how much the relay may still ask of it."""

    def limits_left(self) -> Mapping[str, float]:
        """What is left of each limit now, from 0 (nothing) to 1 (all of it), by a word for the limit. No I/O."""
        ...


@runtime_checkable
class ChannelLookup(Protocol):
    """An adapter that can find out what people know a channel by that is not mirrored."""

    async def look_up(self, address: ChannelAddress) -> ChannelInfo | None:
        """As it is now; None where nobody tells. Raises `Transient`."""
        ...


@runtime_checkable
class LatestReader(Protocol):
    """An adapter that can be asked for one message: an edit of it was taken back, or what it quotes has changed."""

    async def latest(self, ref: MessageRef) -> MessageCreated | None:
        """What a message says now; None when it is gone. Raises `Transient`."""
        ...
