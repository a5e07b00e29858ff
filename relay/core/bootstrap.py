"""Builds the core around a store and its adapters: once in the daemon, in the simulation for each life."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from relay.core.author_names import AuthorNames
from relay.core.delivery.copies import StandingCopies
from relay.core.delivery.dispatcher import Dispatcher
from relay.core.delivery.entries import Entries
from relay.core.delivery.execute import Executor
from relay.core.delivery.late_files import LateFiles
from relay.core.delivery.lookups import Lookups, RestoredGap
from relay.core.delivery.plan import Done
from relay.core.delivery.rate_limit import Budgets
from relay.core.delivery.resolve import ReplyGate, Resolver
from relay.core.files import Files, MediaLinks
from relay.core.intake.backfill import Backfills
from relay.core.intake.inbox import CoreInbox
from relay.core.intake.router import Router
from relay.core.moderation.age_marks import AgeMarks
from relay.core.moderation.bans import Bans
from relay.core.moderation.decisions import Moderation
from relay.core.moderation.ports import AgeMarkReader, BanReader, PolicyListReader
from relay.core.offload import Conversions
from relay.core.operations.operators import Operators
from relay.core.pairs import PairDirectory
from relay.core.people.commands import Commands
from relay.core.people.directory import PeopleDirectory
from relay.core.people.forgetting import Forgetter
from relay.core.people.memberships import Memberships
from relay.core.people.ports import (
    CommandReader,
    DepartureFinder,
    MemberLister,
    MemberMirror,
    NameReader,
    PersonForgetter,
    PictureKeeper,
    RoleReader,
)
from relay.core.ports import (
    Adapter,
    ChannelDescriber,
    ChannelNotes,
    Clock,
    EventBatch,
    HistoryReader,
    LatestReader,
    LimitReader,
    PastReader,
)
from relay.core.status.counters import Status
from relay.core.storage import Store
from relay.domain.ids import ChannelAddress, Platform, UserRef
from relay.domain.pair import LaneKey, Pair


@dataclass(frozen=True, slots=True)
class Core:
    """The bridge without its adapters and its store."""

    pairs: PairDirectory
    status: Status
    dispatcher: Dispatcher
    inbox: CoreInbox
    people: PeopleDirectory
    forgetter: Forgetter
    memberships: Memberships
    operators: Operators
    moderation: Moderation
    backfills: Backfills


def assemble(
    *,
    store: Store,
    pairs: Sequence[Pair],
    adapters: Mapping[Platform, Adapter],
    files: Files | None = None,
    links: MediaLinks | None = None,
    clock: Clock,
    rng: random.Random,
    reconcile_window: timedelta = timedelta(hours=48),
    may_send: Callable[[], bool] = lambda: True,
    conversions: Conversions | None = None,
    declared_links: Iterable[tuple[UserRef, UserRef]] = (),
    # Where the operators are told what is wrong.
    operators: Sequence[ChannelAddress] = (),
    gap: RestoredGap | None = None,
    outbox_every: int = 1,
) -> Core:
    """Put everything together, with whatever optional protocols the adapters implement. No I/O."""
    directory = PairDirectory(pairs, others=operators)
    budgets = Budgets(lambda platform: adapters[platform].shared_limit)
    status = Status(
        clock=clock,
        pairs=directory,
        store=store,
        health={platform: adapter.health for platform, adapter in adapters.items()},
        notes={platform: one.notes for platform, one in adapters.items() if isinstance(one, ChannelNotes)},
        describe={platform: one.describe for platform, one in adapters.items() if isinstance(one, ChannelDescriber)},
        limits_left={platform: one.limits_left for platform, one in adapters.items() if isinstance(one, LimitReader)},
        seconds_to_wait=budgets.seconds_to_wait,
    )
    names = AuthorNames()
    people = PeopleDirectory(store=store)
    people.declare(declared_links)
    conversions = conversions or Conversions()

    async def deliver(batch: EventBatch) -> None:
        await inbox.receive(batch)

    bans = Bans(
        store=store,
        pairs=directory,
        people=people,
        clock=clock,
        readers={platform: one for platform, one in adapters.items() if isinstance(one, BanReader)},
        deliver=deliver,
    )
    age_marks = AgeMarks(
        store=store,
        pairs=directory,
        readers={platform: one for platform, one in adapters.items() if isinstance(one, AgeMarkReader)},
    )
    moderation = Moderation(
        bans=bans,
        age_marks=age_marks,
        store=store,
        people=people,
        clock=clock,
        conversions=conversions,
        readers={platform: one for platform, one in adapters.items() if isinstance(one, PolicyListReader)},
    )
    status.pair_problems = age_marks.problems
    lookups = Lookups(
        store=store,
        pairs=directory,
        adapters=adapters,
        author_names=names,
        people=people,
        moderation=moderation,
        latest_readers={platform: one for platform, one in adapters.items() if isinstance(one, LatestReader)},
        role_readers={platform: one for platform, one in adapters.items() if isinstance(one, RoleReader)},
        name_readers={platform: one for platform, one in adapters.items() if isinstance(one, NameReader)},
        gap=gap,
    )
    late_files = LateFiles(lookups=lookups, files=files, clock=clock)

    def wake(lane: LaneKey) -> None:
        dispatcher.wake(lane)

    def tell(lane: LaneKey, plan: Done) -> None:
        pair = directory.pair_for(lane)
        if pair is not None and plan.refused is not None:
            moderation.tell(pair, plan.refused, plan.why)

    entries = Entries(store=store, late_files=late_files, status=status, clock=clock, wake=wake, tell=tell)
    dispatcher = Dispatcher(
        store=store,
        pairs=directory,
        status=status,
        clock=clock,
        rng=rng,
        budgets=budgets,
        may_send=may_send,
        resolver=Resolver(
            lookups=lookups,
            reply_gate=ReplyGate(lookups=lookups, clock=clock),
            late_files=late_files,
            conversions=conversions,
            links=links,
        ),
        executor=Executor(
            store=store,
            entries=entries,
            copies=StandingCopies(store=store, entries=entries, clock=clock),
            conversions=conversions,
            status=status,
            clock=clock,
        ),
        entries=entries,
        outbox_every=outbox_every,
    )
    commands = Commands(
        pairs=directory,
        status=status,
        people=people,
        clock=clock,
        readers={platform: one for platform, one in adapters.items() if isinstance(one, CommandReader)},
    )
    router = Router(
        store=store,
        pairs=directory,
        status=status,
        clock=clock,
        names=names,
        people=people,
        commands=commands,
        moderation=moderation,
        mirrors=[adapter for adapter in adapters.values() if isinstance(adapter, MemberMirror)],
        picture_keepers={platform: one for platform, one in adapters.items() if isinstance(one, PictureKeeper)},
    )
    inbox = CoreInbox(
        store=store,
        pairs=directory,
        status=status,
        router=router,
        lanes=dispatcher,
        commands=commands,
        people=people,
        age_marks=age_marks,
        readers={platform: adapter for platform, adapter in adapters.items() if isinstance(adapter, HistoryReader)},
        reconcile_window=reconcile_window,
    )
    forgetter = Forgetter(
        store=store,
        pairs=directory,
        people=people,
        names=names,
        clock=clock,
        receive=inbox.receive,
        forgetters=[one for one in adapters.values() if isinstance(one, PersonForgetter)],
    )
    memberships = Memberships(
        pairs=directory,
        people=people,
        clock=clock,
        listers={platform: one for platform, one in adapters.items() if isinstance(one, MemberLister)},
        mirrors={platform: one for platform, one in adapters.items() if isinstance(one, MemberMirror)},
        departures={platform: one for platform, one in adapters.items() if isinstance(one, DepartureFinder)},
        receive=inbox.receive,
    )
    backfills = Backfills(
        store=store,
        pairs=directory,
        router=router,
        lanes=dispatcher,
        readers={platform: one for platform, one in adapters.items() if isinstance(one, PastReader)},
        clock=clock,
        rng=rng,
        look_every=2 * outbox_every,
    )
    status.pair_notes = lambda pair: (*moderation.notes(pair), *backfills.notes(pair))
    told = Operators(
        store=store,
        pairs=directory,
        status=status,
        clock=clock,
        rng=rng,
        adapters=adapters,
        budgets=budgets,
        may_send=may_send,
        places=operators,
    )
    return Core(directory, status, dispatcher, inbox, people, forgetter, memberships, told, moderation, backfills)
