"""The report as Prometheus metrics. The names and labels are part of the operator's contract.

`deploy/monitoring/` has rules and a dashboard that use them.
"""

import platform as python_platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from relay import __version__
from relay.core.status.counters import Histogram, LimitStatus
from relay.core.status.report import DirectionStatus, Report

_LANE = ("pair", "direction")


def registry(report: Report, delivery: Mapping[str, Histogram], limits: Mapping[str, LimitStatus]) -> CollectorRegistry:
    """All metrics of one moment."""
    result = CollectorRegistry(auto_describe=False)
    result.register(_ReportCollector(report, delivery, limits))
    return result


Source = tuple[Report, Mapping[str, Histogram], Mapping[str, LimitStatus]]
"""What one community's metrics are made of."""


def tenants_registry(tenants: Mapping[str, Source | None]) -> CollectorRegistry:
    """Those of all tenants that this process serves, each with the label `tenant`. None: one cannot be served."""
    result = CollectorRegistry(auto_describe=False)
    result.register(_TenantsCollector(tenants))
    return result


class _TenantsCollector(Collector):
    def __init__(self, tenants: Mapping[str, Source | None]) -> None:
        self._tenants = tenants

    def collect(self) -> Iterator[Metric]:
        """Each family once, with the samples of all tenants."""
        problem = GaugeMetricFamily(
            "relay_tenant_problem", "1 while a tenant cannot be served for a mistake of its own.", labels=["tenant"]
        )
        families: dict[str, Metric] = {}
        for tenant, source in self._tenants.items():
            problem.add_metric((tenant,), int(source is None))
            for family in _ReportCollector(*source).collect() if source is not None else ():
                samples = [one._replace(labels={"tenant": tenant, **one.labels}) for one in family.samples]
                family.samples = samples
                families.setdefault(family.name, family)
                if families[family.name] is not family:
                    families[family.name].samples.extend(samples)
        yield problem
        yield from families.values()


class _ReportCollector(Collector):
    def __init__(self, report: Report, delivery: Mapping[str, Histogram], limits: Mapping[str, LimitStatus]) -> None:
        self._report = report
        self._delivery = delivery
        self._limits = limits

    def collect(self) -> Iterator[Metric]:
        """The families. Each pair, direction and platform has a sample from the start: `rate` needs the first zero."""
        standby = "1 where this relay only waits to go on where another one ends. It has no other metrics then."
        yield GaugeMetricFamily("relay_standby", standby, value=int(bool(self._report.stands_by_for)))
        yield from self._daemon()
        if self._report.stands_by_for:
            return  # they are the other one's
        yield from self._platforms()
        yield from self._pairs()
        yield self._undeclared()
        yield self._seconds()

    def _daemon(self) -> Iterator[Metric]:
        report = self._report
        build = {"version": __version__, "python": python_platform.python_version()}
        yield InfoMetricFamily("relay_build", "Which relay this is, and which Python runs it.", value=build)
        if report.stands_by_for:
            return
        since = report.daemon.since
        started = None if since is None else since.timestamp()
        yield GaugeMetricFamily("relay_start_time_seconds", "When it was started, in Unix time.", value=started)
        behind = "1 while the relay catches up on what it missed, or messages have waited for more than 10 seconds."
        yield GaugeMetricFamily("relay_catching_up", behind, value=int(report.catching_up))
        unusable = "1 while the store cannot be written or read."
        yield GaugeMetricFamily("relay_store_problem", unusable, value=int(report.store_problem is not None))

    def _platforms(self) -> Iterator[Metric]:
        connected = GaugeMetricFamily("relay_connected", "1 while the platform answers.", labels=("platform",))
        for name, side in self._report.sides.items():
            connected.add_metric((name,), int(side.connected))
        left = GaugeMetricFamily(
            "relay_rate_limit_left",
            "What is left of a rate limit, from 0 (nothing may be sent) to 1.",
            labels=("platform", "limit"),
        )
        wait = GaugeMetricFamily(
            "relay_rate_limit_wait_seconds", "Until the platform takes the next message.", labels=("platform",)
        )
        for name, limit in self._limits.items():
            wait.add_metric((name,), limit.wait_seconds)
            for what, share in limit.left.items():
                left.add_metric((name, what), share)
        yield from (connected, left, wait)

    def _pairs(self) -> Iterator[Metric]:
        problem = GaugeMetricFamily(
            "relay_pair_problem", "1 while something keeps a pair from working.", labels=["pair"]
        )
        messages = CounterMetricFamily("relay_messages", "Messages accepted on the other side.", labels=_LANE)
        dropped = CounterMetricFamily("relay_dropped", "What cannot cross and did not.", labels=(*_LANE, "feature"))
        retries = CounterMetricFamily("relay_retries", "Deliveries that were tried again.", labels=_LANE)
        depth = GaugeMetricFamily("relay_outbox_depth", "Commands that wait for delivery.", labels=_LANE)
        oldest = GaugeMetricFamily(
            "relay_oldest_undelivered_seconds", "How long the oldest of them has waited; 0 if none waits.", labels=_LANE
        )
        dead = GaugeMetricFamily("relay_dead_letters", "Commands that failed for good and are kept.", labels=_LANE)
        for pair in self._report.pairs:
            problem.add_metric((pair.name,), int(bool(pair.problem)))
        for lane, direction in self._lanes():
            messages.add_metric(lane, direction.messages)
            retries.add_metric(lane, direction.retries)
            depth.add_metric(lane, direction.backlog)
            oldest.add_metric(lane, direction.oldest_undelivered_seconds or 0.0)
            dead.add_metric(lane, direction.dead_letters)
            for feature, count in sorted(direction.dropped.items()):
                dropped.add_metric((*lane, feature), count)
        yield from (problem, messages, dropped, retries, depth, oldest, dead)

    def _lanes(self) -> Iterable[tuple[tuple[str, str], DirectionStatus]]:
        for pair in self._report.pairs:
            for name, direction in pair.directions.items():
                yield (pair.name, name), direction

    def _undeclared(self) -> Metric:
        family = GaugeMetricFamily(
            "relay_undeclared_depth", "Commands that wait for a pair that is not declared.", labels=_LANE
        )
        waiting: Counter[tuple[str, str]] = Counter()
        for lane in self._report.undeclared:
            waiting[lane.pair or "", lane.lane.direction] += lane.waiting
        for labels, count in waiting.items():
            family.add_metric(labels, count)
        return family

    def _seconds(self) -> Metric:
        family = HistogramMetricFamily(
            "relay_delivery_seconds",
            "From an event's arrival here to its copy's acceptance on the other side.",
            labels=("direction",),
        )
        directions = {name for pair in self._report.pairs for name in pair.directions}
        for name in sorted(directions | self._delivery.keys()):
            histogram = self._delivery.get(name) or Histogram()
            family.add_metric((name,), buckets=histogram.cumulative(), sum_value=histogram.total)
        return family
