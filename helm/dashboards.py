"""The Grafana dashboards, written here once: `python helm/dashboards.py` makes helm/headrace/dashboards/*.json anew.

Plain dicts of Grafana's own JSON model (schema 39, Grafana 10 and later). Every query is limited to `$job`, `$shard`
and `$instance`, those of a model's quality to `$version` too; every panel says what it shows and what to make of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "headrace" / "dashboards"
WIDTH = 24
SCHEMA = 39
S = '{job=~"$job",shard=~"$shard",instance=~"$instance"}'
"""Of each series asked for."""
SOURCE = {"type": "prometheus", "uid": "${source}"}
RED, ORANGE, GREEN = "red", "orange", "green"

Steps = Sequence[tuple[float | None, str]]


@dataclass(frozen=True)
class Panel:
    """`queries`: (PromQL, legend). `unit`: Grafana's name of it. `steps`: from which value on, which colour.

    `runbook`: the alert whose runbook says more.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    steps: Steps = ()
    runbook: str = ""
    words: Sequence[tuple[str, str, str]] = ()
    """For a few values: (value, word, colour)."""
    limit: float | None = None
    """Where the alert of `runbook` rings: a line."""


def series(metric: str, more: str = "") -> str:
    """A metric's series within `$job` and `$instance`."""
    return f"{metric}{S[:-1]}{',' if more else ''}{more}}}"


def of_version(expression: str) -> str:
    """A figure of the model, by the version that served when it was taken."""
    serves = series("headrace_model_info", 'version=~"$version"')
    return f"{expression} * ignoring (lineage, version) group_left (version) {serves}"


def rate(metric: str, more: str = "") -> str:
    return f"rate({series(metric, more)}[$__rate_interval])"


def quantile(share: float, histogram: str, by: str = "") -> str:
    """Of a histogram, by learner and the label `by`."""
    labels = ", ".join(filter(None, ["le", "shard", "instance", by]))
    return f"histogram_quantile({share}, sum by ({labels}) ({rate(f'{histogram}_bucket')}))"


def stat(title: str, description: str, unit: str, query: str, **more: Any) -> Panel:
    """One number in its colour."""
    return Panel(title, description, unit, [(query, "{{shard}}")], kind="stat", width=4, height=5, **more)


WAITED = f"time() - {series('headrace_last_trained_timestamp_seconds')}"
_IN_TIME = series("headrace_arrival_to_trained_seconds_bucket", 'le="30.0"')
LATE = f"1 - rate({_IN_TIME}[1h]) / ignoring (le) (rate({series('headrace_arrival_to_trained_seconds_count')}[1h]) > 0)"
LEAD = f"{series('headrace_prequential_mrr')} - {series('headrace_prequential_popularity_mrr')}"
LAG = f"sum without (partition) ({series('headrace_lag_events')})"

OVERVIEW: Sequence[Sequence[Panel]] = (
    (
        stat(
            "Ready",
            "Whether clicks are being learned as they come. /readyz says in words why not.",
            "none",
            series("headrace_ready"),
            words=[("1", "ready", GREEN), ("0", "not ready", RED)],
            runbook="HeadraceNotReady",
        ),
        stat(
            "Fresh",
            "Time since the model last learned. It grows while nothing arrives; with messages waiting, it is stale.",
            "s",
            WAITED,
            steps=[(None, GREEN), (60, ORANGE), (600, RED)],
            runbook="HeadraceModelStale",
        ),
        stat(
            "Behind",
            "Messages in Kafka that are not yet read.",
            "short",
            LAG,
            steps=[(None, GREEN), (10_000, ORANGE), (1_000_000, RED)],
            runbook="HeadraceLagGrows",
        ),
        stat(
            "Late, last hour",
            "Share of batches that took more than 30 s from their first message's arrival to being learned. One in a "
            "hundred is allowed.",
            "percentunit",
            LATE,
            steps=[(None, GREEN), (0.01, ORANGE), (0.144, RED)],
            runbook="HeadraceFreshnessBudgetBurnsFast",
        ),
        stat(
            "Right",
            "MRR@20 on clicks before they are learned, less that of decayed popularity on the same clicks. Below zero "
            "a list of what is popular would do better.",
            "none",
            LEAD,
            steps=[(None, RED), (0, GREEN)],
            runbook="HeadraceQualityBelowPopularity",
        ),
        stat(
            "Drifting",
            "The signal that is furthest from its long-term mean, in standard deviations between batches.",
            "none",
            f"max without (signal) (abs({series('headrace_drift_score')}))",
            steps=[(None, GREEN), (3, ORANGE), (4, RED)],
            runbook="HeadraceDrift",
        ),
    ),
    (
        Panel(
            "Events",
            "By outcome, each counted once. Rejected ones are in the dead-letter topic with their reasons.",
            "ops",
            [(rate("headrace_events_total"), "{{outcome}}")],
            runbook="HeadraceRejectsHigh",
        ),
        Panel(
            "Rank of the next click",
            "MRR@20 on a sample of clicks before they are learned, beside popularity on the same: decayed means.",
            "none",
            [
                (of_version(series("headrace_prequential_mrr")), "model, version {{version}}"),
                (series("headrace_prequential_popularity_mrr"), "popularity"),
            ],
            runbook="HeadraceQualityBelowPopularity",
        ),
        Panel(
            "From arrival to learned",
            "Half of the batches, and 99 of 100, take at most so long.",
            "s",
            [
                (quantile(0.5, "headrace_arrival_to_trained_seconds"), "half"),
                (quantile(0.99, "headrace_arrival_to_trained_seconds"), "99 %"),
            ],
            runbook="HeadraceFreshnessBudgetBurnsSlowly",
            limit=30,
        ),
    ),
    (
        Panel(
            "Messages that wait", "In Kafka, by partition.", "short", [(series("headrace_lag_events"), "{{partition}}")]
        ),
        Panel(
            "Drift",
            "How far the newest clicks are from the ones before, by signal, in standard deviations.",
            "none",
            [(series("headrace_drift_score"), "{{signal}}")],
            runbook="HeadraceDrift",
            limit=4,
        ),
        Panel(
            "Recommendations",
            "Requests answered, by status: 5xx are the service's own errors.",
            "reqps",
            [(rate("headrace_http_requests_total", 'route="recommend"'), "{{status}}")],
            runbook="HeadraceAnswersFail",
        ),
    ),
)

LEARNING: Sequence[Sequence[Panel]] = (
    (
        Panel(
            "Loss",
            "Nats per click, sampled softmax: of the newest batch, and a decayed mean. It says how learning goes, not "
            "how well the model ranks.",
            "none",
            [
                (of_version(series("headrace_batch_loss")), "newest batch, version {{version}}"),
                (of_version(series("headrace_loss")), "mean, version {{version}}"),
                (f"1.25 * avg_over_time({series('headrace_loss')}[6h] offset 1h)", "alarm"),
            ],
            runbook="HeadraceLossRises",
        ),
        Panel(
            "HR@20",
            "Share of clicks, before they are learned, whose item was among the first 20; beside popularity.",
            "percentunit",
            [
                (of_version(series("headrace_prequential_hit_ratio")), "model, version {{version}}"),
                (series("headrace_prequential_popularity_hit_ratio"), "popularity"),
            ],
            runbook="HeadraceQualityBelowPopularity",
        ),
        Panel(
            "Clicks that were ranked",
            "On how many the figures of quality stand; and clicks that taught nothing, because their user or item has "
            "no row yet.",
            "ops",
            [(rate("headrace_scored_events_total"), "ranked"), (rate("headrace_withheld_events_total"), "withheld")],
        ),
    ),
    (
        Panel(
            "Tables",
            "Rows, and the most that there may be.",
            "short",
            [
                (series("headrace_table_rows"), "{{table}}"),
                (series("headrace_table_capacity_rows"), "{{table}}, at most"),
                (f"0.95 * {series('headrace_table_capacity_rows')}", "{{table}}, alarm"),
            ],
            runbook="HeadraceTableFull",
        ),
        Panel(
            "What became of ids",
            "Got a row, were refused one, lost theirs; since the lineage began.",
            "short",
            [(series("headrace_table_ids"), "{{table}} {{outcome}}")],
            runbook="HeadraceTableFull",
        ),
        Panel(
            "Seen first", "New users and items a second.", "ops", [(rate("headrace_new_entities_total"), "{{kind}}")]
        ),
    ),
    (
        Panel(
            "Version that serves",
            "Of the lineage's model. It changes when a retrain is promoted, and when somebody promotes or rolls back.",
            "none",
            [(series("headrace_model_version"), "{{instance}}")],
            runbook="HeadraceVersionNotLevel",
        ),
        Panel(
            "Retrain",
            "How much of the training of a new version is done. It runs beside the live model, at low priority.",
            "percentunit",
            [
                (series("headrace_retrain_progress_ratio"), "done"),
                (series("headrace_retrain_running"), "runs"),
            ],
            runbook="HeadraceRetrainStuck",
        ),
        Panel(
            "Retrained beside live",
            "MRR@20 and HR@20 of the new version and of the live one, on the same newest clicks, each before it is "
            "learned. The new one takes over unless it is worse.",
            "none",
            [(series("headrace_retrain_quality"), "{{model}} {{measure}}")],
            runbook="HeadraceRetrainFailed",
        ),
    ),
    (
        Panel(
            "Rejects by reason",
            "What was no click. `headrace dlq list --reason ...` shows them.",
            "ops",
            [(f"topk(10, {rate('headrace_rejects_total')})", "{{reason}}")],
            runbook="HeadraceRejectsHigh",
        ),
        Panel(
            "Set aside",
            "Batches at which learning diverged twice. Their clicks are not learned.",
            "short",
            [(series("headrace_batches_set_aside_total"), "batches")],
            runbook="HeadraceBatchSetAside",
        ),
        Panel(
            "Age of clicks when learned",
            "By the producers' clocks: half of the batches are at most so old, at each stage.",
            "s",
            [(quantile(0.5, "headrace_freshness_seconds", "stage"), "{{stage}}")],
        ),
    ),
)

OPERATIONS: Sequence[Sequence[Panel]] = (
    (
        Panel(
            "Steps of the cycle",
            "19 of 20 take at most so long. stage and plan are the store, dead_letter is Kafka, score and learn the "
            "learner's processor.",
            "s",
            [(quantile(0.95, "headrace_step_seconds", "step"), "{{step}}")],
            runbook="HeadraceFreshnessBudgetBurnsFast",
        ),
        Panel(
            "Batches by what cut them",
            "rows: there is plenty. age: there is little. bytes: the clicks are large.",
            "ops",
            [(rate("headrace_batches_total"), "{{cut}}")],
        ),
        Panel(
            "Buffer",
            "Messages held in memory; reading is paused above the high mark.",
            "bytes",
            [(series("headrace_buffered_bytes"), "buffered")],
            runbook="HeadraceLagGrows",
        ),
    ),
    (
        Panel(
            "Paused",
            "1: reading is paused, because the buffer is full or the breaker open; the breaker is open.",
            "none",
            [(series("headrace_paused"), "paused"), (series("headrace_breaker_open"), "breaker")],
            runbook="HeadraceLearningPaused",
            limit=1,
        ),
        Panel(
            "Plans not yet safe",
            "Committed and not learned; learned and in no checkpoint: so many are replayed at a restart.",
            "short",
            [
                (f"{series('headrace_plan_seq')} - {series('headrace_learned_seq')}", "not learned"),
                (f"{series('headrace_plan_seq')} - {series('headrace_checkpoint_seq')}", "in no checkpoint"),
            ],
            runbook="HeadraceCheckpointOld",
        ),
        Panel(
            "Checkpoints",
            "Time to write one, and how long learning stood still for it.",
            "s",
            [
                (quantile(0.95, "headrace_checkpoint_seconds"), "written"),
                (quantile(0.95, "headrace_checkpoint_stall_seconds"), "stalled"),
            ],
        ),
    ),
    (
        Panel(
            "Trouble with checkpoints and staging",
            "Checkpoints that failed or did not verify, staged objects fetched again. All should stay at zero.",
            "short",
            [
                (series("headrace_checkpoint_failures_total"), "failed"),
                (series("headrace_checkpoint_invalid_total"), "did not verify"),
                (series("headrace_staged_refetched_total"), "fetched again"),
            ],
            runbook="HeadraceCheckpointInvalid",
        ),
        Panel(
            "Calls to the store repeated",
            "Each is safe to repeat; many mean that the store is in trouble.",
            "ops",
            [(rate("headrace_store_retries_total"), "repeated")],
            runbook="HeadraceStoreErrors",
            limit=0.1,
        ),
        Panel(
            "Starts",
            "The epoch goes up by one at each start of a service; the learner is brought back within one.",
            "short",
            [(series("headrace_epoch"), "epoch"), (series("headrace_learner_restarts_total"), "learner lost")],
            runbook="HeadraceTakenOverAgain",
        ),
    ),
    (
        Panel(
            "Memory",
            "The service's process; the model's rows in the learner's, by estimate, and their budget (0: none).",
            "bytes",
            [
                (series("process_resident_memory_bytes"), "service"),
                (series("headrace_model_bytes"), "model, {{kind}}"),
                ("1.05 * " + series("headrace_model_bytes", 'kind="budget"'), "model, alarm"),
            ],
            runbook="HeadraceMemoryNearBudget",
        ),
        Panel(
            "Processor and files of the service",
            "Cores in use; open files.",
            "short",
            [(rate("process_cpu_seconds_total"), "cores"), (series("process_open_fds"), "files")],
        ),
        Panel(
            "Answers",
            "Time to answer a recommendation: half of them, and 99 of 100, take at most so long.",
            "s",
            [
                (quantile(0.5, "headrace_recommend_seconds"), "half"),
                (quantile(0.99, "headrace_recommend_seconds"), "99 %"),
            ],
        ),
    ),
    (
        Panel(
            "Collected and archived",
            "Objects removed below the oldest checkpoint kept; clicks moved into the archive.",
            "ops",
            [(rate("headrace_garbage_objects_total"), "objects"), (rate("headrace_archived_events_total"), "clicks")],
        ),
        Panel(
            "Size of a checkpoint",
            "The newest one's bytes in the store.",
            "bytes",
            [(series("headrace_checkpoint_bytes"), "checkpoint")],
        ),
        Panel(
            "Dead letters",
            "Written to their topic, repeats included.",
            "ops",
            [(rate("headrace_dead_letters_total"), "letters")],
            runbook="HeadraceRejectsHigh",
        ),
    ),
)

BOARDS = {
    "overview": ("Headrace / Overview", "Is it fresh, is it right, is it drifting?", OVERVIEW),
    "learning": ("Headrace / Learning", "How learning goes, and what the tables hold.", LEARNING),
    "operations": ("Headrace / Operations", "Steps, buffers, checkpoints, memory.", OPERATIONS),
}


def board(name: str) -> dict[str, Any]:
    """One dashboard in Grafana's JSON model."""
    title, description, rows = BOARDS[name]
    return {
        "uid": f"headrace-{name}",
        "title": title,
        "description": description,
        "tags": ["headrace"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "links": [{"type": "dashboards", "title": "Headrace", "tags": ["headrace"], "asDropdown": False}],
        "templating": {"list": list(_variables())},
        "annotations": {"list": list(_annotations())},
        "panels": list(_placed(rows)),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    # Without shards there is no such label, and all of none must match it.
    for name, query, everything in (
        ("job", "label_values(headrace_build_info, job)", ".+"),
        ("shard", 'label_values(headrace_build_info{job=~"$job"}, shard)', ".*"),
        ("instance", 'label_values(headrace_build_info{job=~"$job",shard=~"$shard"}, instance)', ".+"),
        ("version", f"label_values({series('headrace_model_info')}, version)", ".+"),
    ):
        yield {
            "name": name,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": everything,
            "current": {"text": "All", "value": "$__all"},
        }


def _annotations() -> Iterator[dict[str, Any]]:
    marks = (
        ("Starts", _new("process_start_time_seconds"), "blue", "{{instance}} started"),
        ("Learner lost", _other("headrace_learner_restarts_total", ">"), "orange", "learner lost"),
        ("Promotions", _other("headrace_model_version", "!="), "purple", "{{instance}} serves another version"),
        ("Retrains", _new("headrace_retrain_timestamp_seconds"), "green", "a retrain ended on {{instance}}"),
        ("Alarms", 'ALERTS{alertname=~"Headrace.*",alertstate="firing"}', "red", "{{alertname}}"),
    )
    for name, query, colour, text in marks:
        yield {
            "name": name,
            "datasource": SOURCE,
            "enable": True,
            "iconColor": colour,
            "expr": query,
            "titleFormat": text,
            "step": "60s",
        }


def _before(metric: str) -> str:
    """Its last value a step ago, even if the service was away for a while then."""
    return f"last_over_time({series(metric)}[1d] offset $__interval)"


def _other(metric: str, compared: str) -> str:
    """Once, when it differs from what it was before. changes() sees nothing of what happened in a gap."""
    return f"{series(metric)} {compared} {_before(metric)}"


def _new(metric: str) -> str:
    """Once, when it says what it has not said before; its appearance counts, which changes() does not see."""
    return f"{series(metric)} unless {series(metric)} == {_before(metric)}"


def _placed(rows: Sequence[Sequence[Panel]]) -> Iterator[dict[str, Any]]:
    """Row under row, each from the left."""
    number = top = 0
    for row in rows:
        left = 0
        for panel in row:
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield {"id": number, "gridPos": place, **_drawn(panel)}
            left += panel.width
        top += max(panel.height for panel in row)


def _drawn(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.kind == "timeseries":
        defaults["custom"] = {"axisSoftMin": 0}
    if panel.steps:
        steps = [{"value": value, "color": colour} for value, colour in panel.steps]
        defaults |= {"thresholds": {"mode": "absolute", "steps": steps}, "color": {"mode": "thresholds"}}
    if panel.limit is not None:
        steps = [{"value": None, "color": GREEN}, {"value": panel.limit, "color": RED}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        defaults["custom"]["thresholdsStyle"] = {"mode": "line"}
    if panel.words:
        words = {value: {"text": word, "color": colour} for value, word, colour in panel.words}
        defaults["mappings"] = [{"type": "value", "options": words}]
    drawn: dict[str, Any] = {
        "title": panel.title,
        "description": f"{panel.description} {_runbook(panel)}".rstrip(),
        "type": panel.kind,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(65 + place), "datasource": SOURCE, "expr": query, "legendFormat": _legend(legend)}
            for place, (query, legend) in enumerate(panel.queries)
        ],
    }
    if panel.kind == "stat":
        drawn["options"] = {"colorMode": "background", "reduceOptions": {"calcs": ["lastNotNull"]}}
    return drawn


def _runbook(panel: Panel) -> str:
    """Which section says more, as words: Grafana cannot open a file of the repository.

    Where people can open it only the chart is told: templates/dashboards.yaml finds these words and makes links.
    """
    return f"Runbook: {panel.runbook} in docs/runbooks.md of the repository." if panel.runbook else ""


def _legend(words: str) -> str:
    """With the shard behind it, which is empty where there are none."""
    return words if "{{shard}}" in words or "{{instance}}" in words else f"{words} {{{{shard}}}}"


def main() -> None:
    """Write every dashboard."""
    for name in BOARDS:
        (FOLDER / f"{name}.json").write_text(json.dumps(board(name), indent=1) + "\n")


if __name__ == "__main__":
    main()
