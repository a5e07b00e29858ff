"""The report as Prometheus metrics. The names and labels are part of the operator's contract."""

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.core.status.counters import Histogram
from relay.core.status.report import Report

_LANE = ("pair", "direction")


def registry(report: Report, delivery: Mapping[str, Histogram]) -> CollectorRegistry:
    """All metrics of one moment."""
    result = CollectorRegistry(auto_describe=False)
    result.register(_ReportCollector(report, delivery))
    return result


class _ReportCollector(Collector):
    def __init__(self, report: Report, delivery: Mapping[str, Histogram]) -> None:
        self._report = report
        self._delivery = delivery

    def collect(self) -> Iterator[Metric]:
        """The families, each with a sample for every pair and direction."""
        messages = CounterMetricFamily("relay_messages", "Messages accepted on the other side.", labels=_LANE)
        dropped = CounterMetricFamily("relay_dropped", "What cannot cross and did not.", labels=(*_LANE, "feature"))
        retries = CounterMetricFamily("relay_retries", "Deliveries that were tried again.", labels=_LANE)
        depth = GaugeMetricFamily("relay_outbox_depth", "Commands that wait for delivery.", labels=_LANE)
        dead = GaugeMetricFamily("relay_dead_letters", "Commands that failed for good and are kept.", labels=_LANE)
        for pair in self._report.pairs:
            for name, direction in pair.directions.items():
                lane = (pair.name, name)
                messages.add_metric(lane, direction.messages)
                retries.add_metric(lane, direction.retries)
                depth.add_metric(lane, direction.backlog)
                dead.add_metric(lane, direction.dead_letters)
                for feature, count in sorted(direction.dropped.items()):
                    dropped.add_metric((*lane, feature), count)
        yield from (messages, dropped, self._seconds(), depth, retries, dead, self._undeclared())

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
        # Show both directions from the start. If a series appears later, `rate` misses its first value.
        directions = {name for pair in self._report.pairs for name in pair.directions}
        for name in sorted(directions | self._delivery.keys()):
            histogram = self._delivery.get(name) or Histogram()
            family.add_metric((name,), buckets=histogram.cumulative(), sum_value=histogram.total)
        return family
