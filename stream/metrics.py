"""Every figure that Headrace publishes, listed once: name, kind, labels, meaning. Prometheus is one way out.

Counters and figures belong to the service's process, so they go on across a restart of the learner; a plan that is
replayed is counted as replayed, not as events anew. No label ever holds a user or an item: each label takes one of the
values listed here, or a partition's number, a lineage, its place in the store or a version.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase

from stream.events import CutReason, RejectReason
from stream.naming import is_place, is_safe
from stream.versions import OUTCOMES

Kind = Literal["counter", "gauge", "histogram", "info"]
LabelValues = tuple[str, ...] | Callable[[str], bool]


def is_partition(text: str) -> bool:
    """A partition's number."""
    return re.fullmatch(r"\d{1,6}", text) is not None


SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LONG: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
AGES: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86_400, 604_800)

STEPS: Final = ("decode", "stage", "dead_letter", "plan", "assemble", "score", "learn", "publish")
TABLES: Final = ("users", "items", "types")
LIMITED_TABLES: Final = ("users", "items")


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the catalogue. `labels`: name to the values it may take, listed or told by a function.

    An `info` is a gauge that is always 1 and of which only the newest labels stand.
    """

    name: str
    kind: Kind
    meaning: str
    labels: Mapping[str, LabelValues] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()


METRICS: Final = (
    # What became of the events.
    Metric(
        "headrace_events_total",
        "counter",
        "Events by outcome, each counted once, when its plan has been learned; replays do not count again.",
        {"outcome": ("trained", "rejected", "duplicate", "aside")},
    ),
    Metric("headrace_rejects_total", "counter", "Rejected events by reason.", {"reason": get_args(RejectReason)}),
    Metric("headrace_batches_total", "counter", "Batches by what cut them.", {"cut": get_args(CutReason)}),
    Metric("headrace_learned_events_total", "counter", "Clicks that the learner took in, replays included."),
    Metric(
        "headrace_withheld_events_total",
        "counter",
        "Of those, clicks that taught nothing, because their user or item has no row and waits for admission.",
    ),
    Metric("headrace_scored_events_total", "counter", "Clicks that were ranked before they were learned."),
    Metric("headrace_replayed_plans_total", "counter", "Plans learned again from staging after a restart."),
    Metric("headrace_dead_letters_total", "counter", "Rejects written to the dead-letter topic, repeats included."),
    # How well the model does.
    Metric("headrace_batch_loss", "gauge", "Loss of the newest batch: nats per click, sampled softmax."),
    Metric("headrace_loss", "gauge", "Loss, a decayed mean over batches."),
    Metric("headrace_prequential_hit_ratio", "gauge", "HR@20 on clicks before they are learned, a decayed mean."),
    Metric("headrace_prequential_mrr", "gauge", "MRR@20 on clicks before they are learned, a decayed mean."),
    Metric("headrace_prequential_popularity_hit_ratio", "gauge", "HR@20 of decayed popularity on the same clicks."),
    Metric("headrace_prequential_popularity_mrr", "gauge", "MRR@20 of decayed popularity on the same clicks."),
    Metric(
        "headrace_drift_score",
        "gauge",
        "How far the newest clicks are from the ones before, in standard deviations; 0 is no drift.",
        {"signal": ("loss", "new_item_share", "popularity_shift")},
    ),
    Metric("headrace_table_rows", "gauge", "Rows of the model's tables.", {"table": TABLES}),
    Metric("headrace_table_capacity_rows", "gauge", "Most rows that a table may have.", {"table": LIMITED_TABLES}),
    Metric(
        "headrace_table_ids",
        "gauge",
        "What became of ids since the lineage began: got a row, were refused one (once per batch), lost it.",
        {"table": LIMITED_TABLES, "outcome": ("admitted", "refused", "evicted")},
    ),
    Metric(
        "headrace_model_bytes",
        "gauge",
        "Memory of the learner's process: in use, by estimate from the rows, and the budget (0: none).",
        {"kind": ("used", "budget")},
    ),
    Metric("headrace_new_entities_total", "counter", "Users and items seen first.", {"kind": ("user", "item")}),
    # How fresh and how fast.
    Metric(
        "headrace_freshness_seconds",
        "histogram",
        "Age of a batch's newest click, by its event time, when the stage is done.",
        {"stage": ("staged", "trained", "checkpointed")},
        AGES,
    ),
    Metric(
        "headrace_arrival_to_trained_seconds",
        "histogram",
        "From the arrival of a batch's first message to its being learned: freshness without the producers' clocks.",
        buckets=AGES,
    ),
    Metric("headrace_learn_seconds", "histogram", "Time to score and learn one batch.", buckets=SECONDS),
    Metric("headrace_step_seconds", "histogram", "Time of each step of the cycle.", {"step": STEPS}, SECONDS),
    Metric("headrace_lag_events", "gauge", "Messages in Kafka not yet read.", {"partition": is_partition}),
    Metric("headrace_source_silent_seconds", "gauge", "Since Kafka last answered, 0 while it does: lag is old then."),
    Metric("headrace_buffered_bytes", "gauge", "Messages held in memory."),
    Metric("headrace_paused", "gauge", "1 while reading is paused: the buffer is full, or the breaker open."),
    Metric("headrace_breaker_open", "gauge", "1 while the circuit breaker is open (docs/dead-letters.md): alarm."),
    Metric("headrace_breaker_openings_total", "counter", "Times that the circuit breaker opened."),
    Metric("headrace_plans_in_flight", "gauge", "Plans handed to the learner and not yet learned."),
    Metric("headrace_plan_seq", "gauge", "Number of the newest plan committed to the store."),
    Metric("headrace_learned_seq", "gauge", "Number of the newest plan that is in the model."),
    Metric("headrace_epoch", "gauge", "Writer's epoch of the lineage: one more at each start.", {"place": is_place}),
    Metric("headrace_last_trained_timestamp_seconds", "gauge", "When the model last learned, seconds since 1970."),
    # Checkpoints.
    Metric("headrace_checkpoint_seconds", "histogram", "Time to write a checkpoint.", buckets=LONG),
    Metric("headrace_checkpoint_stall_seconds", "histogram", "Time that learning stood still for it.", buckets=SECONDS),
    Metric("headrace_checkpoint_bytes", "gauge", "Size of the newest checkpoint."),
    Metric("headrace_checkpoint_timestamp_seconds", "gauge", "When the newest one was complete, seconds since 1970."),
    Metric("headrace_checkpoint_seq", "gauge", "Number of the newest plan that is in a checkpoint."),
    Metric("headrace_checkpoints_total", "counter", "Checkpoints written."),
    Metric(
        "headrace_checkpoint_failures_total", "counter", "Checkpoints that could not be written; the next is tried."
    ),
    Metric("headrace_checkpoint_invalid_total", "counter", "Checkpoints that did not verify; an older one was taken."),
    # What went wrong and passed.
    Metric("headrace_learner_restarts_total", "counter", "Learner processes lost and begun again."),
    Metric(
        "headrace_batches_set_aside_total",
        "counter",
        "Batches at which learning diverged twice: their clicks are not learned. Look at aside/ in the store.",
    ),
    Metric("headrace_store_retries_total", "counter", "Calls to the store tried again."),
    Metric("headrace_staged_refetched_total", "counter", "Staged objects lost, and made again from the source."),
    Metric("headrace_garbage_objects_total", "counter", "Objects removed below the oldest checkpoint kept."),
    Metric("headrace_archived_events_total", "counter", "Clicks moved into the archive."),
    # The service.
    Metric("headrace_ready", "gauge", "1 while /readyz says yes."),
    Metric(
        "headrace_http_requests_total",
        "counter",
        "HTTP requests answered.",
        {
            "route": ("metrics", "healthz", "readyz", "recommend", "other"),
            "status": ("2xx", "4xx", "5xx"),
        },
    ),
    Metric("headrace_recommend_seconds", "histogram", "Time to answer a recommendation.", buckets=SECONDS),
    Metric(
        "headrace_build_info", "info", "Version of Headrace and of Python.", {"version": is_safe, "python": is_safe}
    ),
    Metric("headrace_model_info", "info", "What the live model is.", {"lineage": is_safe, "version": is_safe}),
    Metric("headrace_model_version", "gauge", "Which version of the model serves: it changes at a promotion."),
    Metric("headrace_version_failures_total", "counter", "Times that a version could not be brought level."),
    Metric("headrace_retrain_running", "gauge", "1 while a version is being trained from scratch."),
    Metric("headrace_retrain_progress_ratio", "gauge", "How much of the training is done, 0 to 1."),
    Metric(
        "headrace_retrain_last_outcome",
        "gauge",
        "1 for how the last retrain of this process ended, else 0.",
        {"outcome": OUTCOMES},
    ),
    Metric("headrace_retrain_timestamp_seconds", "gauge", "When it ended, seconds since 1970."),
    Metric(
        "headrace_retrain_quality",
        "gauge",
        "Of the retrained model and the live one, on the same newest clicks, each ranked before it was learned, at 20.",
        {"model": ("new", "live"), "measure": ("mrr", "hit_ratio")},
    ),
)
_BY_NAME: Final = {metric.name: metric for metric in METRICS}


def check(name: str, kinds: tuple[Kind, ...], labels: Mapping[str, str]) -> Metric:
    """The metric of that name. Raises `ValueError` unless it is of one of `kinds` and the labels are as listed."""
    metric = _BY_NAME.get(name)
    if metric is None:
        raise ValueError(f"metric {name!r} is not listed in stream/metrics.py")
    if metric.kind not in kinds:
        raise ValueError(f"metric {name} is a {metric.kind}, used as a {' or '.join(kinds)}")
    if labels.keys() != metric.labels.keys():
        raise ValueError(f"metric {name} has the labels {sorted(metric.labels)}, not {sorted(labels)}")
    for label, value in labels.items():
        allowed = metric.labels[label]
        if not (value in allowed if isinstance(allowed, tuple) else allowed(value)):
            raise ValueError(f"metric {name}: {label}={value!r} is not a value listed in stream/metrics.py")
    return metric


class NullMeter:
    """Forgets everything, after checking it as strictly as the real one."""

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        check(name, ("counter",), labels)
        if amount < 0:
            raise ValueError(f"metric {name}: a counter cannot fall by {-amount}")

    def set(self, name: str, value: float, **labels: str) -> None:
        check(name, ("gauge", "info"), labels)
        float(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        check(name, ("histogram",), labels)
        float(value)


class PrometheusMeter:
    """Implements `ports.Meter` on a registry of its own, beside the process's own figures. Thread safe.

    Counters exist from the start, at 0, so that rates see the first event. A gauge appears when it is first set: an
    absent figure is honest, a zero that nobody measured is not.
    """

    def __init__(self) -> None:
        # Else every counter brings a second series that tells when it began; nobody asks.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        self._lock = threading.Lock()
        self._instruments: dict[str, Any] = {}
        for metric in METRICS:
            if metric.kind in {"counter", "histogram"}:
                self._begin(self._instrument(metric), metric)

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Raise a counter. Raises `ValueError` for a name, label or value that is not listed, or a negative amount."""
        self._child(check(name, ("counter",), labels), labels).inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge. Raises `ValueError` as `add` does."""
        metric = check(name, ("gauge", "info"), labels)
        if metric.kind == "info":
            self._instrument(metric).clear()
        self._child(metric, labels).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Record one observation. Raises `ValueError` as `add` does."""
        self._child(check(name, ("histogram",), labels), labels).observe(value)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Everything, and of which content type it is.

        `accept`: an Accept header. Prometheus asks for OpenMetrics by it; who asks for nothing in particular gets
        Prometheus's text format, version 0.0.4.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def value(self, name: str, **labels: str) -> float:
        """What a counter or gauge stands at, for the demo and for tests; 0 before it was touched."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def _child(self, metric: Metric, labels: Mapping[str, str]) -> Any:
        instrument = self._instrument(metric)
        return instrument.labels(**labels) if labels else instrument

    def _instrument(self, metric: Metric) -> Any:
        with self._lock:
            if metric.name not in self._instruments:
                self._instruments[metric.name] = _make(metric, self.registry)
            return self._instruments[metric.name]

    @staticmethod
    def _begin(instrument: Any, metric: Metric) -> None:
        """Begin each series of a counter whose labels are a closed set at 0."""
        if metric.kind != "counter":
            return
        combinations: list[dict[str, str]] = [{}]
        for label, values in metric.labels.items():
            if not isinstance(values, tuple):
                return
            combinations = [{**known, label: value} for known in combinations for value in values]
        for labels in combinations if metric.labels else []:
            instrument.labels(**labels)


def _make(metric: Metric, registry: CollectorRegistry) -> MetricWrapperBase:
    labels = tuple(metric.labels)
    if metric.kind == "counter":
        return Counter(metric.name, metric.meaning, labels, registry=registry)
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.meaning, labels, registry=registry, buckets=metric.buckets)
    return Gauge(metric.name, metric.meaning, labels, registry=registry)


def metrics_table() -> str:
    """All metrics as Markdown: docs/metrics.md."""
    rows = [f"| `{metric.name}` | {metric.kind} | {_labels(metric)} | {metric.meaning} |" for metric in METRICS]
    return "\n".join([_INTRODUCTION, *rows]) + "\n"


def _labels(metric: Metric) -> str:
    texts = []
    for label, values in metric.labels.items():
        words = ", ".join(values) if isinstance(values, tuple) else _OPEN.get(label, "its name")
        texts.append(f"`{label}`: {words}")
    return "; ".join(texts)


_OPEN: Final = {"partition": "its number", "place": "the lineage's bucket and prefix, hashed"}

_INTRODUCTION: Final = """# Metrics

Made by `python -m stream.metrics`; do not edit.

`GET /metrics` answers them as OpenMetrics to who asks for it, as Prometheus does, and else in Prometheus's text format;
beside the process's own (`process_*`). Counters begin at 0 at
the start of the service and go on across a restart of the learner; a gauge appears when it is first measured. No label
ever holds a user or an item.

| name | kind | labels | meaning |
| --- | --- | --- | --- |"""


if __name__ == "__main__":
    sys.stdout.write(metrics_table())
