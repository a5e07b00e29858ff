"""What goes wrong with a PostgreSQL server and on the way to it, by seed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.simulation.trouble import Spell

# Of a whole server, or of all connections to it: see `lines.py`.
SPELLS = ("away", "starting", "full", "read-only", "crowded")

# What a server may answer to any statement of a transaction, which it then breaks off: see
# https://www.postgresql.org/docs/current/errcodes-appendix.html
REFUSALS = {
    "40001": "serialization failure",
    "40P01": "deadlock",
    "53100": "disk full",
    "53200": "out of memory",
    "55P03": "lock not available",
    "57014": "statement too slow",
}


@dataclass(slots=True)
class Mishaps:
    """What a seed has in store."""

    rng: random.Random
    # Of one trip to the server to go wrong, and of a commit's.
    likelihood: float
    of_commit: float
    spells: Sequence[Spell]
    # Seconds after which everything works.
    over: float
    # Whether the server is really restarted when it is away.
    restarts: bool
    counts: dict[str, int] = field(default_factory=dict)
    # Set by the history.
    now: Callable[[], float] = lambda: 0.0
    trace: Callable[[str], None] = lambda line: None

    @classmethod
    def of(cls, seed: int) -> "Mishaps":
        """What a seed has in store; some histories have next to none."""
        rng = random.Random(f"database {seed}")
        over = rng.uniform(5, 40)
        spells = []
        for what in SPELLS:
            for _ in range(rng.choice((0, 0, 0, 1, 2))):
                start = rng.uniform(0, over)
                spells.append(Spell(what, start, start + rng.expovariate(1 / 6)))
        return cls(
            rng,
            rng.choice((0.0, 0.001, 0.01, 0.03)),
            rng.choice((0.0, 0.05, 0.2)),
            spells,
            over,
            restarts=rng.random() < 0.2,
        )

    def spell(self) -> str | None:
        """What holds now."""
        now = self.now()
        return next((spell.what for spell in self.spells if spell.start <= now < min(spell.end, self.over)), None)

    def of_trip(self, *, commits: bool) -> str | None:
        """What happens to one trip: `lost before` or `lost after` it was carried out, `slow`, or an SQLSTATE."""
        if self.now() >= self.over:
            return None
        if commits and self.rng.random() < self.of_commit:
            return self.rng.choice(("lost before", "lost after", "lost after", "half open"))
        if self.rng.random() < self.likelihood:
            return self.rng.choice(("lost before", "lost after", "slow", *REFUSALS))
        return None

    def pause(self) -> float:
        """Seconds that one way of a trip takes."""
        return 0.0 if self.rng.random() < 0.9 else self.rng.uniform(0.0, 0.02)

    def long_pause(self) -> float:
        """Seconds that a slow answer takes, sometimes longer than anybody waits."""
        return self.rng.uniform(0.5, 40.0)

    def happened(self, what: str) -> None:
        """Count it, and write it down."""
        name = f"database {REFUSALS.get(what, what)}"
        self.counts[name] = self.counts.get(name, 0) + 1
        self.trace(name)
