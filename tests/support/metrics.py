"""What `/metrics` shows."""

from datetime import UTC, datetime

from prometheus_client import Metric

from relay.core.ports import SideHealth
from relay.core.status.counters import Histogram, LimitStatus
from relay.core.status.report import DaemonStatus, DirectionStatus, PairStatus, Report
from relay.web.metrics import registry, tenants_registry


def families() -> list[Metric]:
    """Every metric, with a sample of each but of what is not declared."""
    direction = DirectionStatus(1, None, 1, 1.0, 1, {"reaction": 1}, 1)
    report = Report(
        (PairStatus("help", (), {"to_matrix": direction}),),
        {"matrix": SideHealth("ready")},
        datetime.now(UTC),
        DaemonStatus(running=True, since=datetime.now(UTC)),
    )
    limits = {"matrix": LimitStatus({"messages": 1.0}, 0.0)}
    of_one = registry(report, {"to_matrix": Histogram()}, limits).collect()
    return [*of_one, *tenants_registry({"one": None}).collect()]
