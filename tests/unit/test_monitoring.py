"""`deploy/monitoring/`: Prometheus takes it, each alert fires when it says, and every metric in it is on `/metrics`."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.metrics import families

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
# What Prometheus adds to each sample, or makes itself;
# and what every metric has where one process serves several communities.
OF_PROMETHEUS = {"instance", "job", "up", "tenant"}
NAME = re.compile(r"\brelay_[a-z_]+|\bup\b")
# Labels in `{label="…"}`, `by (label, …)`, `on (label)`, and in texts.
LABELS = re.compile(r"\{([^{}]*)\}|\b(?:by|on) \(([^)]*)\)|\{\{ ?\$labels\.(\w+) ?\}\}|\{\{(\w+)\}\}")
# Where there may be words that look like labels.
ELSE = re.compile(r'"[^"]*"')
VALUE = re.compile(r"\{\{ ?(?:\$value|with \$labels\.tenant|\.|end)[^}]*\}\}")


def samples() -> dict[str, set[str]]:
    """The labels of every sample that the relay may have, by its name."""
    # The families that have no sample now: what is not declared.
    found = {"relay_undeclared_depth": {"pair", "direction"}, "up": set[str]()}
    for family in families():
        for sample in family.samples:
            found[sample.name] = set(sample.labels)
    return found


def rules() -> Iterator[tuple[str, str]]:
    """Each alert's expression, and its texts: the few lines of YAML that there are need no parser."""
    for block in re.split(r"\n +- alert: ", (FOLDER / "rules.yml").read_text(encoding="utf-8"))[1:]:
        expression, _, texts = block.partition("\n        annotations:\n")
        lines = (line.strip() for line in expression.splitlines())
        yield next(line.removeprefix("expr: ") for line in lines if line.startswith("expr: ")), texts


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, and the text that names its labels."""
    yield from rules()
    dashboard: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        yield from ((target["expr"], target["legendFormat"]) for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"].removeprefix("label_values"), "{{" + variable["name"] + "}}"


@pytest.mark.parametrize(("expression", "texts"), list(expressions()))
def test_every_metric_and_label_is_there(expression: str, texts: str) -> None:
    there = samples()
    names = set(NAME.findall(ELSE.sub("", expression)))
    assert names
    assert names <= there.keys()
    labels = set[str]()
    for groups in LABELS.findall(ELSE.sub("", expression) + VALUE.sub("", texts)):
        labels |= set(re.findall(r"[a-z_]+", " ".join(groups)))
    assert labels <= OF_PROMETHEUS | set().union(*(there[name] for name in names))


def test_every_metric_is_looked_at() -> None:
    """What nobody looks at tells nobody anything."""
    looked_at = {name for expression, _ in expressions() for name in NAME.findall(expression)}
    of_histogram = {"relay_delivery_seconds_count", "relay_delivery_seconds_sum"}
    assert samples().keys() - looked_at == of_histogram


def test_each_alert_is_tested() -> None:
    named = set(re.findall(r"- alert: (\w+)", (FOLDER / "rules.yml").read_text(encoding="utf-8")))
    tests = (FOLDER / "rules_test.yml").read_text(encoding="utf-8")
    fires = re.findall(r"alertname: (\w+)\n +exp_alerts:\n", tests)
    quiet = re.findall(r"alertname: (\w+), exp_alerts: \[\]", tests)
    assert named == set(fires)
    assert named == set(quiet)


@pytest.mark.parametrize("arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")])
def test_prometheus_takes_it(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool (Debian's package prometheus has it)")
    done = subprocess.run([promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_hangs_together() -> None:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        for at in (panel["gridPos"] for panel in panels)
    ]
    assert sum(map(len, places)) == len(set().union(*places)), "two panels overlap"
    assert all(at["x"] + at["w"] <= 24 for at in (panel["gridPos"] for panel in panels))
