"""The doctor behind `relay check`: looks at everything that the configuration names, and changes nothing of it.

It knows the concrete surveys of the platforms, as `composition` knows the adapters.
"""

import asyncio
import grp
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from relay.adapters.matrix.allowance import RATE_LIMIT
from relay.adapters.matrix.api.address import is_private
from relay.config.settings import Settings
from relay.core.claims.handover import claim_key
from relay.core.claims.register import Claim
from relay.core.operations.findings import Finding, Survey
from relay.core.status.reading import read_report
from relay.domain.ids import Platform
from relay.domain.pair import Pair
from relay.errors import StoreError, how_many
from relay.store.lease import Holder, claim_of, has_ended, is_held
from relay.store.migrate import check as check_schema
from relay.store.unit_of_work import store_at
from relay.web.media import NO_SUCH_FILE
from relay.web.server import listen_problem

MATRIX_SESSION = "matrix session"
"""The key under which the store has the session of the Matrix account."""

# Bytes that are free on a disk. What Compose gives files on their way is 1 GiB of memory, of which some is in use.
_TOO_LITTLE, _LITTLE, _LITTLE_ON_THE_WAY = 100 * 1024**2, 1024**3, 512 * 1024**2
# Seconds by which our clock may differ from a platform's, which tells whole seconds.
_SLIGHTLY, _BADLY = 5.0, 60.0
_PUBLIC_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_STORES_DISK = "the disk of the store"


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Doctor:
    """One examination."""

    settings: Settings
    # The file with the settings.
    config: Path
    # Which pairs to look at; None: all.
    pairs: Sequence[Pair] | None = None
    # Whether to measure how many messages the Matrix account may send, if no relay needs them now.
    measures: bool = True
    # Whether a daemon runs on the store, and the session of the Matrix account that it keeps there; once that is known.
    _running: bool = field(init=False, default=False)
    _session: str | None = field(init=False, default=None)
    # What the daemon has learnt about how many messages the Matrix account may send.
    _learnt: Finding | None = field(init=False, default=None)
    # What a relay on the store would write into the register of relays; None if there is no store.
    _me: Claim | None = field(init=False, default=None)

    async def run(self) -> AsyncIterator[Finding]:
        """Look at everything, and tell what is found as it is found."""
        # Here, because the daemon imports this module for what the machine alone can tell, and surveys nothing.
        from relay.adapters.discord.survey import DiscordSurvey
        from relay.adapters.matrix.survey import MatrixSurvey

        yield pairs_finding(self.settings, self.config)
        for finding in local_findings(self.settings, self.config):
            yield finding
        yield await self._store()
        if not self._running and (problem := await listen_problem(self.settings.web.listen)) is not None:
            yield Finding("[web] listen", "wrong", *problem)
        if self.settings.web.public_url:
            yield await self._public_url()
        async with AsyncExitStack() as stack:
            discord = DiscordSurvey(settings=self.settings.discord)
            stack.push_async_callback(discord.close)
            matrix = MatrixSurvey(settings=self.settings.matrix, load=self._load_session, save=None)
            stack.push_async_callback(matrix.close)
            surveys: Sequence[Survey] = (discord, matrix)
            for findings in await asyncio.gather(*(survey.account() for survey in surveys)):
                for finding in findings:
                    yield finding
            if self._running and matrix.usable:
                yield self._learnt or Finding(RATE_LIMIT, "ok", "nothing was refused since the daemon started")
            for name, skew in (("Discord's", discord.clock_skew), ("the homeserver's", matrix.clock_skew)):
                if skew is not None:
                    yield clock_finding(name, skew)
            in_use = self._running
            if matrix.usable and (claims := await matrix.claims()) is not None:
                others = other_relays_finding(claims, self._me, self.settings.declared_pairs())
                in_use = in_use or others.state == "wrong"
                yield others
            if self.pairs is None:
                async for finding in self._operators({Platform.DISCORD: discord, Platform.MATRIX: matrix}):
                    yield finding
            async for finding in self._pairs([survey for survey in surveys if survey.usable]):
                yield finding
            if self.measures and matrix.usable and not in_use:
                # Last, because nothing is said for a quarter of a minute where there is a limit.
                yield await matrix.allowance()

    async def _operators(self, surveys: Mapping[Platform, Survey]) -> AsyncIterator[Finding]:
        for place in self.settings.operators.places():
            if surveys[place.platform].usable:
                yield await surveys[place.platform].operators(place.value)

    async def _pairs(self, surveys: Sequence[Survey]) -> AsyncIterator[Finding]:
        """What is found about the pairs, pair by pair."""
        declared = self.settings.declared_pairs() if self.pairs is None else self.pairs
        found: dict[str, list[Finding]] = {pair.name: [] for pair in declared if pair.destinations}
        for survey in surveys:
            async for finding in survey.pairs([pair for pair in declared if pair.destinations]):
                found.setdefault(finding.pair or "", []).append(finding)
        for findings in found.values():
            for finding in findings:
                yield finding

    # --- The store ----------------------------------------------------------------------------------------

    async def _store(self) -> Finding:
        path = self.settings.store.path
        subject = f"store {self.settings.store.name}"
        try:
            schema = await asyncio.to_thread(check_schema, self.settings.store.url)
            match schema.state:
                case "missing" if path is not None:
                    return _folder(subject, path)
                case "too_new":
                    return Finding(
                        subject, "wrong", "it was made by a newer relay", "use that version of the relay again"
                    )
                case "empty" | "outdated":
                    return Finding(subject, "ok", "`relay run` brings its tables up to date")
            if path is not None and not os.access(path, os.W_OK):
                return Finding(subject, "wrong", "it is read-only", "let the relay's user write it")
            store = store_at(self.settings.store.url)
            try:
                async with store.read() as unit:
                    self._session = await unit.key_values.get(MATRIX_SESSION)
                self._running = await is_held(store)
                if self._running:
                    report = await read_report(store, None, running=True, now=datetime.now(UTC))
                    self._learnt = next((one for one in report.findings if one.subject == RATE_LIMIT), None)
                await store.load_id()
                self._me = claim_of(Holder.this_process("", datetime.now(UTC)), store)
            finally:
                await store.close()
        except StoreError as error:
            return Finding(subject, "wrong", error.reason, error.remedy)
        size = f"{path.stat().st_size / 1024**2:.1f} MiB" if path is not None else "it answers"
        return Finding(subject, "ok", f"{size}, and a daemon runs on it" if self._running else size)

    async def _load_session(self) -> str | None:
        return self._session

    # --- The public address -------------------------------------------------------------------------------

    async def _public_url(self) -> Finding:
        url = self.settings.web.public_url
        subject = f"[web] public_url {url}"
        host = urlsplit(url).hostname or ""
        if is_private(host):
            words = "nobody outside this network can reach that address"
            return Finding(subject, "note", words, "write one that the world can open, if people elsewhere need links")
        if not self._running:
            words = "whether it leads to the relay shows only while the daemon runs"
            return Finding(subject, "note", words, "start the daemon, and check again")
        return await public_finding(url, self.settings.web.listen)


async def public_finding(url: str, listen: str) -> Finding:
    """Whether an address leads to the relay, which is running and listens at `listen`."""
    subject, words = f"[web] public_url {url}", ""
    try:
        async with (
            aiohttp.ClientSession(timeout=_PUBLIC_TIMEOUT) as session,
            session.get(f"{url}/media/check") as response,
        ):
            if (await response.content.read(200)).decode(errors="replace").strip() != NO_SUCH_FILE:
                words = f"something else than the relay answers below it (HTTP {response.status})"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        words = f"it cannot be reached from here ({type(error).__name__})"
    if not words:
        return Finding(subject, "ok", "it leads to the relay")
    return Finding(subject, "wrong", words, f"have the proxy there pass on /media/ to {listen}, with its Host header")


def other_relays_finding(claims: Sequence[Claim], me: Claim | None, pairs: Sequence[Pair]) -> Finding:
    """Whether a relay with another store than ours, or on another copy of it, holds some of these pairs."""
    subject = "other relays on the same accounts"
    keys = frozenset(claim_key(pair) for pair in pairs if pair.destinations)

    def is_other(claim: Claim) -> bool:
        if me is None or claim.store != me.store:
            return True
        # After the machine's last boot, a claim on this very file is still ours.
        ours = me.is_same_place(claim) or (me.file, me.host) == (claim.file, claim.host)
        return not ours and not has_ended(claim)

    holders = [claim for claim in claims if claim.channels & keys and is_other(claim)]
    if not holders:
        return Finding(subject, "ok", "none holds these pairs")
    held = "; ".join(
        f"{claim}{', on another copy of this store,' if me is not None and claim.store == me.store else ''}"
        f" holds {len(claim.channels & keys)} of these pairs"
        for claim in holders
    )
    if all(map(has_ended, holders)):
        remedy = "start that one again, and nothing is lost; or this one, which goes on without what was said since"
        return Finding(subject, "note", f"{held}, and has ended", remedy)
    remedy = "stop that one, or start this one with `relay run --take-over`; if it has ended long ago, start this one"
    return Finding(subject, "wrong", held, remedy)


# --- What this machine alone can tell ---------------------------------------------------------------------


def pairs_finding(settings: Settings, config: Path) -> Finding:
    """Whether any pairs are declared: a relay without them does nothing, and says nothing either."""
    if not settings.pairs:
        remedy = "add one with `relay pairs add`, or a [[pairs]] table with discord_channel and matrix_room"
        return Finding(str(config), "wrong", "no pairs are declared, so that nothing is mirrored", remedy)
    return Finding(str(config), "ok", how_many(len(settings.pairs), "pair"))


def local_findings(settings: Settings, config: Path) -> list[Finding]:
    """What the configuration and the disks tell, without a request to anybody. The daemon says it at its start."""
    return [*_file(settings, config), *_disks(settings)]


def _file(settings: Settings, config: Path) -> Iterator[Finding]:
    subject = str(config)
    if _holds_secrets(settings, config) and (readers := _readers(config)) is not None:
        yield Finding(subject, "note", f"it holds secrets, and {readers} may read it", f"chmod 600 {config}")
    for file in (config.parent / name for name in settings.secret_files()):
        if not _is_handed_in(file) and (readers := _readers(file)) is not None:
            yield Finding(str(file), "note", f"it holds a secret, and {readers} may read it", f"chmod 600 {file}")
    for variable, where in settings.overridden:
        words = f"it goes before {where}, which says something else"
        yield Finding(f"environment variable {variable}", "note", words, "remove one of the two")


def _disks(settings: Settings) -> Iterator[Finding]:
    seen = set()
    for what, folder, little in (
        *(((_STORES_DISK, settings.store.path.parent, _LITTLE),) if settings.store.path is not None else ()),
        ("the disk of files on their way", Path(tempfile.gettempdir()), _LITTLE_ON_THE_WAY),
    ):
        try:
            device, free = folder.stat().st_dev, shutil.disk_usage(folder).free
        except OSError:
            continue  # The store's own line tells.
        if device not in seen:
            seen.add(device)
            in_memory = free < little and is_in_memory(folder)
            yield disk_finding(what, folder, free, little, in_memory=in_memory)


def disk_finding(subject: str, folder: Path, free: int, little: int = _LITTLE, *, in_memory: bool = False) -> Finding:
    """How much room is left where a folder is, in bytes. `little`: what is less is worth a note."""
    words = f"{free / 1024**3:.1f} GiB free" if free >= little else f"only {free / 1024**2:.0f} MiB free"
    if free < little:
        remedy = f"make room on the disk of {folder}"
        if in_memory:
            words += f": {folder} is in memory"
            elsewhere = "[store] url" if subject == _STORES_DISK else "the environment variable TMPDIR"
            remedy = f"name a folder on a disk in {elsewhere}, or mount {folder} with a larger size"
        return Finding(subject, "wrong" if free < _TOO_LITTLE else "note", words, remedy)
    return Finding(subject, "ok", words)


def is_in_memory(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether what is in a folder lies in memory. Only Linux tells."""
    try:
        lines = [line.split(" ") for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return False
    # A blank in a path is written as \040. The last mount at a place hides those before it.
    kinds = {Path(line[1].replace("\\040", " ")): line[2] for line in lines if len(line) > 2}
    resolved = folder.resolve()
    return next((kinds[one] for one in (resolved, *resolved.parents) if one in kinds), "") in ("tmpfs", "ramfs")


def _holds_secrets(settings: Settings, config: Path) -> bool:
    try:
        text = config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(secret in text for secret in settings.secrets())


def _readers(file: Path) -> str | None:
    """Who else may read a file; None if nobody, or if we are in the group that its owner lets read it.

    A group in which nobody else is tells nobody: in a container it is there for another one, like Prometheus.
    """
    try:
        found = file.stat()
    except OSError:
        return None
    if found.st_mode & stat.S_IROTH:
        return "everybody on this machine"
    if found.st_mode & stat.S_IRGRP and found.st_uid == os.geteuid() and _others_in(found.st_gid):
        return "its group"
    return None


def _others_in(group: int) -> bool:
    """Whether anybody but our user is in a group, as far as this machine knows; one without a name may be anybody's."""
    try:
        added = grp.getgrgid(group).gr_mem
    except KeyError:
        return True
    users = {user.pw_name: user for user in pwd.getpwall()}
    members = {*added, *(name for name, user in users.items() if user.pw_gid == group)}
    return any(name not in users or users[name].pw_uid != os.geteuid() for name in members)


def _is_handed_in(file: Path) -> bool:
    """Whether a file with a secret is given to us by Docker, Kubernetes or systemd, so that its mode says nothing.

    They put it below /run (0444 and root's, for example), or mount somebody else's file.
    """
    try:
        return file.resolve().is_relative_to("/run") or file.stat().st_uid != os.geteuid()
    except OSError:
        return False


def _folder(subject: str, path: Path) -> Finding:
    """A store that does not exist yet."""
    folder = path.parent
    if not folder.is_dir():
        return Finding(subject, "wrong", f"there is no folder {folder}", "create it, or correct [store] url")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(subject, "wrong", f"the folder {folder} may not be written", "let the relay's user write there")
    return Finding(subject, "ok", "`relay run` makes it")


def clock_finding(whose: str, skew: float) -> Finding:
    """How this machine's clock compares with a platform's. `skew`: by how many seconds ours is ahead."""
    subject = "the clock"
    if abs(skew) <= _SLIGHTLY:
        return Finding(subject, "ok", f"it agrees with {whose}")
    words = f"it is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {whose}"
    remedy = "set it, and keep it set (timedatectl set-ntp true)"
    return Finding(subject, "wrong" if abs(skew) > _BADLY else "note", words, remedy)
