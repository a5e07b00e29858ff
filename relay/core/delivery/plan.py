"""What is to be done about one entry of the outbox: `resolve` makes the plan, `execute` carries it out.

A plan holds everything that was looked up for it, and the adapter that carries it out. One kind of plan for each thing
that can be done.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from relay.core.ports import Adapter, Delivery
from relay.core.storage import Copy, Entry, Original
from relay.domain.commands import (
    Command,
    Digest,
    EditMessage,
    LateFile,
    MarkAnswered,
    MarkFailed,
    PostNotice,
    SendMessage,
)
from relay.domain.content import Capabilities, Content, Quotation
from relay.domain.ids import ChannelRef, MessageRef, UserRef
from relay.domain.pair import LaneKey, Pair
from relay.errors import Permanent


@dataclass(frozen=True, slots=True)
class UnreadableDigest:
    """In place of a digest whose row is damaged, or was written by a newer relay."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One channel in which something is to be said, and what is on record there about the message that it is about."""

    entry: Entry
    pair: Pair
    channel: ChannelRef
    adapter: Adapter
    capabilities: Capabilities
    own_names: frozenset[str]  # under which the relay's own account speaks there
    store_id: str  # the prefix of delivery keys
    is_on_record: Callable[[MessageRef], Awaitable[bool]]  # asked by the adapter while it looks for an earlier try
    suspect: bool = False  # an earlier try may have been carried out
    last_copy: MessageRef | None = None  # of the lane; known only where `suspect`
    alone: bool = True  # nothing else is on its way into the channel
    restored_since: datetime | None = None  # since when copies may be there that are not on record: see `RestoredGap`
    original: Original | None = None
    copies: tuple[Copy, ...] = ()  # those that stand, by part: see `standing`
    superseded: tuple[Copy, ...] = ()  # those that were posted again elsewhere, and must still be deleted
    reply_to: MessageRef | None = None  # where what the message answers stands in this channel
    replied_author: UserRef | None = None
    # What the first copy says, where other messages stand in it, too.
    shared: Digest | UnreadableDigest | None = None

    def require_digest(self) -> Digest | None:
        """What the first copy says, where it stands for other messages, too. Raises `Permanent` if unreadable."""
        if isinstance(self.shared, UnreadableDigest):
            # Taken for a copy of this message alone, it would lose the words of the others.
            raise Permanent(f"what stands in the copy it shares with others cannot be read ({self.shared.why})")
        return self.shared

    @property
    def follows_removals(self) -> bool:
        """Whether what moderators remove there goes on its own side, too."""
        return self.original is not None and self.pair.policy.moderate_deletions

    @property
    def takes_new(self) -> bool:
        """Whether anything new may be posted there.

        Else the lane does not lead there: the channel belongs to another pair by now, or to none. Copies that are there
        may still be edited or deleted.
        """
        return self.channel == self.entry.lane.destination

    async def post(self, delivery: Delivery) -> MessageRef:
        """Post something new about a message. Raises `Permanent` where nothing new is posted."""
        if not self.takes_new:
            raise Permanent("nothing new is posted where this channel is not mirrored to")
        return await self.adapter.send(delivery)

    @property
    def replies_natively(self) -> bool:
        """Whether the channel itself can show what the message answers."""
        return self.reply_to is not None and self.capabilities.native_replies


@dataclass(frozen=True, slots=True)
class _Targeted:
    """A plan about one channel."""

    target: Target

    @property
    def entry(self) -> Entry:
        """The entry that it is for."""
        return self.target.entry


# --- Nothing is said --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    """The entry is done: there is nothing left to do about it."""

    entry: Entry
    # Whose message it is that does not cross, because its author is blocked, and why.
    refused: UserRef | None = None
    why: str = ""
    unseen: int = 0  # files that stay words, because the age marks of the two channels differ


@dataclass(frozen=True, slots=True)
class Move:
    """The entry waits, as `command`, at the end of another lane."""

    entry: Entry
    lane: LaneKey
    command: Command
    had_turn: bool = False  # it has waited among notices, and does not give way again


@dataclass(frozen=True, slots=True)
class UpdateDeadLetters:
    """An edit of a message that is a dead letter: if the operator retries that, it crosses with the new words."""

    entry: Entry
    edit: EditMessage


# --- Messages ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Send(_Targeted):
    """Post a message: the parts of it that do not stand yet."""

    command: SendMessage
    content: Content  # the command's, with what it refers to found on the other side
    unseen: int = 0  # files and pictures that have become words in it, because the age marks of the two channels differ
    quotation: Quotation | None = None  # what it answers, where the channel cannot show that itself
    # The edit for which it is sent: there was nothing in the message before that could cross.
    first_words: EditMessage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit(_Targeted):
    """Make the copies of a message say something else."""

    command: EditMessage
    content: Content
    is_new: bool = True  # its author says something; else only what it refers to has changed
    unseen: int = 0  # as in `Send`
    quotation: Quotation | None = None


@dataclass(frozen=True, slots=True)
class EditFormer:
    """Edit the copies in the first channel that allows it, of those that the lane's has replaced."""

    entry: Entry
    edits: tuple[Edit, ...]
    reason: str  # what the author is told if none does


@dataclass(frozen=True, slots=True)
class Delete(_Targeted):
    """Delete every copy of a message."""

    source: MessageRef
    former: tuple[Target, ...]  # channels to which the lane led before


@dataclass(frozen=True, slots=True)
class DeleteSuperseded(_Targeted):
    """Delete the copies of a message that were posted again elsewhere."""


@dataclass(frozen=True, slots=True)
class DeleteOriginal(_Targeted):
    """Delete an original; its platform then tells of that, and its copies follow."""

    source: MessageRef


@dataclass(frozen=True, slots=True)
class SendDigest(_Targeted):
    """Post several messages as one."""

    digest: Digest
    unseen: int = 0  # as in `Send`


@dataclass(frozen=True, slots=True)
class EditDigest(_Targeted):
    """Make the copy that a message shares with others say this."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class RemoveFrom(_Targeted):
    """Take the account that stands for somebody of the other side out of the channel."""

    user: UserRef


# --- Notices ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendNotice(_Targeted):
    """Say something in the relay's own name."""

    notice: PostNotice


@dataclass(frozen=True, slots=True)
class ShowOutcome(_Targeted):
    """Let an author see that a message did not cross, or what came of a command to the relay."""

    outcome: MarkFailed | MarkAnswered


# --- Files that did not come in time ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendLateFile(_Targeted):
    """Post a file behind the words of its message."""

    late: LateFile


@dataclass(frozen=True, slots=True)
class LateFileSeen:
    """What became of one late file that need not be looked for any more."""

    entry: Entry
    late: LateFile
    target: Target
    lane: Callable[[], LaneKey]  # in which the words of its message are edited now: its room may be replaced meanwhile
    outcome: Literal["settled", "here", "given up"]  # settled: not wanted any more; here: at hand


@dataclass(frozen=True, slots=True)
class FollowLateFiles:
    """What a look at the late files of a channel has shown."""

    entry: Entry
    seen: tuple[LateFileSeen, ...] = ()
    to_the_end: tuple[Entry, ...] = ()  # these wait at the end of the lane from now on, so that others are in front
    is_still_away: bool = False  # nothing else waits behind them: look again later


Plan = (
    Done
    | Move
    | UpdateDeadLetters
    | Send
    | Edit
    | EditFormer
    | Delete
    | DeleteSuperseded
    | DeleteOriginal
    | RemoveFrom
    | SendDigest
    | EditDigest
    | SendNotice
    | ShowOutcome
    | SendLateFile
    | FollowLateFiles
)


@dataclass(frozen=True, slots=True)
class Merge:
    """What waits in a lane becomes one command, in place of its head: `entry` says `command`, `absorbed` are done."""

    entry: Entry
    command: Command
    absorbed: tuple[int, ...]
