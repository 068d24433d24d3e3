"""Metrics: listed once, refused when not, in Prometheus's format, documented as they are."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import product
from math import prod
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from model.config import LearnerConfig
from model.drift import SIGNALS
from model.learner import Learner
from stream.events import CutReason, RejectReason
from stream.metrics import METRICS, STEPS, TABLES, Metric, NullMeter, PrometheusMeter, metrics_table
from stream.ports import Meter

ROOT = Path(__file__).parents[2]
ASKED_FOR = {
    "events_total",
    "rejects_total",
    "batches_total",
    "batch_loss",
    "loss",
    "prequential_hit_ratio",
    "prequential_mrr",
    "freshness_seconds",
    "learn_seconds",
    "step_seconds",
    "lag_events",
    "buffered_bytes",
    "paused",
    "table_rows",
    "new_entities_total",
    "checkpoint_seconds",
    "checkpoint_bytes",
    "checkpoint_timestamp_seconds",
    "plan_seq",
    "last_trained_timestamp_seconds",
    "build_info",
    "model_info",
    "drift_score",
}
SAMPLE = {"partition": "3", "lineage": "main", "place": "0a1b2c3d4e5f", "version": "0.1.0", "python": "3.11.7"}
VERBS = {"counter": "add", "gauge": "set", "info": "set", "histogram": "observe"}


def sample_labels(metric: Metric) -> dict[str, str]:
    return {name: values[0] if isinstance(values, tuple) else SAMPLE[name] for name, values in metric.labels.items()}


def use_all(meter: Meter) -> None:
    for metric in METRICS:
        getattr(meter, VERBS[metric.kind])(metric.name, 1.0, **sample_labels(metric))


def samples(meter: PrometheusMeter) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(meter.render()[0].decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


@pytest.fixture(params=[PrometheusMeter, NullMeter])
def meter(request: pytest.FixtureRequest) -> Meter:
    made: Meter = request.param()
    return made


def test_asked_for() -> None:
    """Every metric that the product promises is listed, once."""
    names = [metric.name for metric in METRICS]

    assert {f"headrace_{name}" for name in ASKED_FOR} <= set(names)
    assert len(names) == len(set(names))


def test_names_follow_convention() -> None:
    """Counters, and only they, end in _total; every name has the product's prefix; every meaning is a sentence."""
    for metric in METRICS:
        assert re.fullmatch(r"headrace_[a-z0-9]+(_[a-z0-9]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.meaning.endswith("."), metric.name
        assert list(metric.buckets) == sorted(metric.buckets)
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name


def test_no_ids_in_labels() -> None:
    """No label can hold a user or an item: all but partitions, lineages, their places and versions are closed lists."""
    open_labels = {
        name for metric in METRICS for name, values in metric.labels.items() if not isinstance(values, tuple)
    }

    assert open_labels == {"partition", "lineage", "place", "version", "python"}


def test_every_metric_is_scraped() -> None:
    """Whatever is used once appears under its name and labels with its value."""
    meter = PrometheusMeter()
    use_all(meter)
    found = samples(meter)

    for metric in METRICS:
        labels = tuple(sorted(sample_labels(metric).items()))
        name = metric.name + ("_count" if metric.kind == "histogram" else "")
        assert found[name, labels] == 1.0, metric.name


def test_counters_begin_at_zero() -> None:
    """Each outcome, reason and cut exists before its first event, so that a rate sees that one too."""
    found = samples(PrometheusMeter())

    for label, values, name in (
        ("reason", get_args(RejectReason), "headrace_rejects_total"),
        ("cut", get_args(CutReason), "headrace_batches_total"),
    ):
        assert [found[name, ((label, value),)] for value in values] == [0.0] * len(values)


def test_unmeasured_gauges_are_absent() -> None:
    """Before the first measurement there is no figure rather than a made-up zero."""
    assert not [name for name, _ in samples(PrometheusMeter()) if name == "headrace_loss"]


def test_values_add_up() -> None:
    """Counters add, gauges replace, histograms count into their buckets."""
    meter = PrometheusMeter()
    meter.add("headrace_events_total", 3, outcome="trained")
    meter.add("headrace_events_total", outcome="trained")
    meter.set("headrace_loss", 2.0)
    meter.set("headrace_loss", 1.5)
    meter.observe("headrace_learn_seconds", 0.02)
    found = samples(meter)

    assert found["headrace_events_total", (("outcome", "trained"),)] == 4
    assert found["headrace_loss", ()] == 1.5
    assert found["headrace_learn_seconds_bucket", (("le", "0.01"),)] == 0
    assert found["headrace_learn_seconds_bucket", (("le", "0.025"),)] == 1


def test_info_replaces() -> None:
    """Only the newest labels of an info stand."""
    meter = PrometheusMeter()
    meter.set("headrace_model_info", 1, lineage="main", version="1")
    meter.set("headrace_model_info", 1, lineage="main", version="2")

    found = [dict(labels)["version"] for name, labels in samples(meter) if name == "headrace_model_info"]
    assert found == ["2"]


@pytest.mark.parametrize(
    ("verb", "name", "labels"),
    [
        ("add", "headrace_evnts_total", {"outcome": "trained"}),
        ("add", "headrace_events_total", {}),
        ("add", "headrace_events_total", {"outcome": "trained", "user": "u1"}),
        ("add", "headrace_events_total", {"outcome": "u1"}),
        ("set", "headrace_lag_events", {"partition": "household-1"}),
        ("set", "headrace_model_info", {"lineage": "a b", "version": "1"}),
        ("set", "headrace_epoch", {"place": "household-1"}),
        ("set", "headrace_events_total", {"outcome": "trained"}),
        ("observe", "headrace_loss", {}),
    ],
)
def test_unlisted_is_refused(meter: Meter, verb: str, name: str, labels: dict[str, str]) -> None:
    """An unknown name, label or value, or the wrong verb, is an error that names it, in every meter."""
    with pytest.raises(ValueError, match=name):
        getattr(meter, verb)(name, 1.0, **labels)


def test_counters_cannot_fall(meter: Meter) -> None:
    """A negative amount is refused."""
    with pytest.raises(ValueError, match=r"(?i)counter"):
        meter.add("headrace_batches_total", -1.0, cut="rows")


def test_meters_accept_all(meter: Meter) -> None:
    """Every listed metric can be used with its own verb."""
    use_all(meter)


def test_registry_is_its_own() -> None:
    """Two meters in one process do not meet."""
    first, second = PrometheusMeter(), PrometheusMeter()
    first.add("headrace_checkpoints_total")

    assert samples(second)["headrace_checkpoints_total", ()] == 0


def test_process_figures() -> None:
    """Memory and CPU time of the process itself are there."""
    names = {name for name, _ in samples(PrometheusMeter())}

    assert {"process_resident_memory_bytes", "process_cpu_seconds_total"} <= names


def test_signals_are_the_models() -> None:
    """Each drift signal that the model reports has its series."""
    listed = next(metric for metric in METRICS if metric.name == "headrace_drift_score").labels["signal"]

    assert listed == SIGNALS


def test_code_and_list_agree() -> None:
    """Every name that the code publishes is listed, and every listed one is published somewhere."""
    files = [path for path in (ROOT / "stream").glob("*.py") if path.name != "metrics.py"]
    used = {name for path in files for name in re.findall(r'"(headrace_[a-z_]+)"', path.read_text())}

    assert used == {metric.name for metric in METRICS}


def test_steps_are_listed() -> None:
    """Every step that the committer and the learner's host time has its series, and no other has."""
    timed = {
        step for path in (ROOT / "stream").glob("*.py") for step in re.findall(r'\.lap\("(\w+)"', path.read_text())
    }

    assert timed | {"score", "learn", "publish"} == set(STEPS)


def test_tables_are_the_models() -> None:
    """Each table that the model reports has its series."""
    assert set(Learner(LearnerConfig()).rows()) <= set(TABLES)


def test_promtool_is_content() -> None:
    """Prometheus's own linter finds nothing to say."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is absent: apt-get install -y --no-install-recommends prometheus")
    meter = PrometheusMeter()
    use_all(meter)
    page, _ = meter.render()
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


ASKS = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;q=0.5"
"""What Prometheus sends."""


def test_openmetrics() -> None:
    """Who asks for it gets it: OpenMetrics' own strict parser reads every family, and its text ends as it must."""
    meter = PrometheusMeter()
    use_all(meter)
    page, content_type = meter.render(ASKS)
    families = list(openmetrics.text_string_to_metric_families(page.decode()))  # type: ignore[no-untyped-call]
    found = {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert page.endswith(b"\n# EOF\n")
    ours = {key: value for key, value in found.items() if key[0].startswith("headrace_")}
    assert ours == {key: value for key, value in samples(meter).items() if key[0].startswith("headrace_")}
    assert {family.name for family in families} > {metric.name.removesuffix("_total") for metric in METRICS}
    assert all(family.documentation for family in families)


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/plain;version=0.0.4", "text/html", "application/openmetrics-text;version=?"]
)
def test_anything_else_is_text(accept: str) -> None:
    page, content_type = PrometheusMeter().render(accept)

    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# EOF" not in page


def series_most(metric: Metric) -> int:
    """Series that a metric can have, for one of each of the labels that are no closed list."""
    labels = prod(len(values) for values in metric.labels.values() if isinstance(values, tuple))
    return labels * (len(metric.buckets) + 3 if metric.kind == "histogram" else 1)


def test_cardinality_is_bounded() -> None:
    """So many series at most, and one more a partition: a thousand learners are within what one Prometheus takes."""
    meter = PrometheusMeter()
    combinations = [
        (metric, dict(zip(metric.labels, values, strict=True)))
        for metric in METRICS
        for values in product(*(v if isinstance(v, tuple) else (SAMPLE[name],) for name, v in metric.labels.items()))
    ]
    for metric, labels in combinations:
        getattr(meter, VERBS[metric.kind])(metric.name, 1.0, **labels)
    ours = [name for name, _ in samples(meter) if name.startswith("headrace_")]

    assert len(ours) == sum(map(series_most, METRICS)) <= 450
    assert [metric.name for metric in METRICS if "partition" in metric.labels] == ["headrace_lag_events"]


def test_documentation_is_current() -> None:
    """docs/metrics.md is what the code says: `python -m stream.metrics > docs/metrics.md`."""
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics_table()
