"""The composition root: what is built from what. Only this module knows which classes there are."""

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from relay.adapters.discord.adapter import DiscordAdapter
from relay.adapters.matrix.adapter import MatrixAdapter
from relay.adapters.matrix.allowance import rate_finding
from relay.config.settings import Settings
from relay.core.bootstrap import Core, assemble
from relay.core.claims.agreement import Claims
from relay.core.claims.handover import Handover, claim_keys
from relay.core.clock import Backoff
from relay.core.offload import Conversions
from relay.core.operations.channel_lookups import ChannelLookups, known_channels
from relay.core.operations.dead_letters import DeadLetters
from relay.core.operations.findings import Finding
from relay.core.ports import Clock
from relay.core.status.recorder import StatusRecorder
from relay.core.storage import Store
from relay.doctor import MATRIX_SESSION
from relay.domain.ids import ChannelAddress, Platform
from relay.media.library import Library
from relay.media.links import SignedLinks, link_key
from relay.media.proxy import MediaProxy, stands
from relay.reload import Declared
from relay.store.backup import restored_gap
from relay.store.lease import HeldLease, claim_of, has_ended
from relay.store.pruning import Pruner
from relay.store.unit_of_work import SqlStore
from relay.web.directory import directory_of, unmirrored
from relay.web.server import WebServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What runs side by side in the daemon."""

    declared: Declared
    core: Core
    matrix: MatrixAdapter
    discord: DiscordAdapter
    # Whether another relay on the same accounts mirrors a pair.
    claims: Claims
    handover: Handover
    recorder: StatusRecorder
    pruner: Pruner
    web: WebServer | None
    lookups: ChannelLookups


async def build(
    settings: Settings,
    *,
    store: SqlStore,
    lease: HeldLease,
    clock: Clock,
    rng: random.Random,
    take_over: bool,
    outbox_every: int,
    stack: AsyncExitStack,
) -> Parts:
    """Build everything. `stack` closes it in reverse order.

    `take_over`: take over what another relay on the same accounts holds now. `outbox_every`: see `Dispatcher`.
    """
    declared = Declared(settings)
    await store.prepare_start()
    await store.recount()
    began = clock.now()
    gap = await restored_gap(store, clock)
    files = Library(store=store, clock=clock)
    stack.push_async_callback(files.close)
    conversions = Conversions()
    proxy = await _media_proxy(settings, store, clock)
    discord = DiscordAdapter(
        settings=settings.discord,
        clock=clock,
        rng=rng,
        files=files,
        conversions=conversions,
        store=store,
        pictures_kept=settings.store.retention,
        links=proxy if settings.web.avatars else None,
        may_write=lease.valid,
    )
    stack.push_async_callback(discord.close)

    async def agree() -> None:
        await claims.begin()

    matrix = MatrixAdapter(
        settings=settings.matrix,
        load_session=partial(_load_value, store, MATRIX_SESSION),
        save_session=partial(_save_value, store, MATRIX_SESSION),
        catchup_limit=partial(_catchup_limit, declared),
        store=store,
        has_ghosts=partial(_has_ghosts, declared),
        clock=clock,
        rng=rng,
        files=files,
        conversions=conversions,
        before_reading=agree,
        may_write=lease.valid,
    )
    stack.push_async_callback(matrix.close)
    files.serve(discord.platform, discord)
    files.serve(matrix.platform, matrix)
    if proxy is not None:
        stack.push_async_callback(proxy.close)
        proxy.serve(discord.platform, discord)
        proxy.serve(matrix.platform, matrix)
    core = assemble(
        store=store,
        pairs=declared.pairs,
        adapters={discord.platform: discord, matrix.platform: matrix},
        files=files,
        links=proxy,
        clock=clock,
        rng=rng,
        reconcile_window=timedelta(seconds=settings.store.reconcile_window),
        may_send=lambda: lease.valid() and claims.valid(),
        conversions=conversions,
        declared_links=settings.declared_links(),
        operators=settings.operators.places(),
        gap=gap,
        outbox_every=outbox_every,
    )
    core.status.learnt = partial(_rate_limit, core, settings.matrix.user_id)
    lookups = ChannelLookups(
        store=store, clock=clock, adapters={matrix.platform: matrix}, wanted=lambda: unmirrored(declared.settings)
    )
    web = WebServer(
        status=core.status,
        settings=settings.web,
        files=proxy,
        letters=DeadLetters(store=store, pairs=core.pairs),
        directory=lambda: directory_of(
            declared.settings, known_channels(core.pairs, core.status.channels(), lookups.known), known_only=True
        ),
    )
    handover = Handover(store=store, pairs=core.pairs, lanes=core.dispatcher, adapters=(discord, matrix), clock=clock)
    claims = Claims(
        register=matrix.register,
        switch=handover,
        clock=clock,
        backoff=Backoff(rng),
        me=claim_of(lease.holder, store),
        has_ended=has_ended,
        may_write=lease.valid,
        take_over=take_over,
        # Not at a later start: others may have had its pairs since the first, and left word of how far they were.
        restored=gap is not None and gap.until >= began,
        wanted=claim_keys(declared.pairs),
    )
    return Parts(
        declared=declared,
        core=core,
        matrix=matrix,
        discord=discord,
        claims=claims,
        handover=handover,
        recorder=StatusRecorder(store=store, status=core.status, clock=clock),
        pruner=Pruner(
            store=store,
            clock=clock,
            messages=settings.store.retention,
            dead_letters=settings.store.dead_letter_retention,
            discard_undeclared=core.inbox.discard_undeclared,
            declared=core.pairs.declared_channels,
            forget_counters=core.status.forget_undeclared,
        ),
        web=web if settings.web.listen else None,
        lookups=lookups,
    )


async def _media_proxy(settings: Settings, store: Store, clock: Clock) -> MediaProxy | None:
    """What serves files to those who have a link; None if the world does not reach us."""
    web = settings.web
    if not web.public_url:
        return None
    key = await link_key(store)
    links = SignedLinks(public_url=web.public_url, key=key, lifetime=web.link_lifetime, clock=clock)
    home = settings.matrix.user_id.partition(":")[2].partition(":")[0]
    return MediaProxy(links, stands=partial(stands, store), home=home)


def _catchup_limit(declared: Declared, address: ChannelAddress) -> int:
    """How many missed messages a declared channel still catches up on."""
    return next((pair.policy.catchup_limit for pair in declared.pairs if address in pair.sides), 0)


def _has_ghosts(declared: Declared, address: ChannelAddress) -> bool:
    """Whether people have accounts of their own in a declared channel, where that is possible."""
    return any(pair.policy.ghosts for pair in declared.pairs if address in pair.sides)


def _rate_limit(core: Core, user: str) -> tuple[Finding, ...]:
    """How many messages the homeserver takes from the account, once it has refused some."""
    seconds = core.dispatcher.budgets.learnt(Platform.MATRIX)
    return (rate_finding(user, seconds),) if seconds else ()


async def _load_value(store: Store, key: str) -> str | None:
    async with store.look() as uow:
        return await uow.key_values.get(key)


async def _save_value(store: Store, key: str, value: str) -> None:
    async with store.write() as uow:
        await uow.key_values.put(key, value)
