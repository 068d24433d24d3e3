"""From what happened to the published figures.

Counts each plan once, whatever is replayed after the learner was lost.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping

from model.batch import Learned, Scores
from stream.collector import Collected
from stream.committer import Committed
from stream.events import CheckpointFailed, CheckpointRef, LearnReport
from stream.naming import Layout
from stream.ports import Clock, Meter

_QUALITY = {
    "loss": "headrace_loss",
    "hit_ratio": "headrace_prequential_hit_ratio",
    "mrr": "headrace_prequential_mrr",
    "popular_hit_ratio": "headrace_prequential_popularity_hit_ratio",
    "popular_mrr": "headrace_prequential_popularity_mrr",
}


class Figures:
    """Feeds the meter. `seq`: the newest plan learned; `trained_at`: when, in seconds since the epoch, 0 if never.

    `told` is given each report that counts: once for each plan. `delay`: seconds from the arrival of the newest learned
    batch's first message to its being learned. `drift`: scores by signal, after the newest plan.
    """

    def __init__(self, meter: Meter, clock: Clock, told: Callable[[LearnReport], None] = lambda _: None) -> None:
        self.told = told
        self.seq = -1
        self.trained_at = 0.0
        self._meter = meter
        self._clock = clock
        self._counted = sys.maxsize  # until the lineage is ours, all that is learned was learned before
        self._pending: dict[int, tuple[int, int, float]] = {}
        self.delay = 0.0
        self.drift: Mapping[str, float] = {}
        self._newest_ms = 0

    def opened(self, seq: int, epoch: int, place: str) -> None:
        """The lineage was taken over with plan `seq`. `place` tells it from others: see `naming.place`.

        What came before was counted by another process, or not at all.
        """
        self._counted = seq
        self._meter.set("headrace_plan_seq", seq)
        self._meter.set("headrace_epoch", epoch, place=place)

    def serves(self, layout: Layout) -> None:
        """A version of the lineage's model serves."""
        self._meter.set("headrace_model_info", 1, lineage=layout.lineage, version=str(layout.version))
        self._meter.set("headrace_model_version", layout.version)

    def committed(self, committed: Committed) -> None:
        """A plan was created."""
        planned = committed.planned
        self._pending[planned.plan.seq] = (planned.rejected, planned.duplicates, committed.arrived)
        self._meter.add("headrace_batches_total", cut=planned.plan.cut)
        for reason, count in committed.reasons.items():
            self._meter.add("headrace_rejects_total", count, reason=reason)
        self._meter.add("headrace_dead_letters_total", planned.rejected)
        for step, seconds in committed.seconds.items():
            self._meter.observe("headrace_step_seconds", seconds, step=step)
        self._meter.set("headrace_plan_seq", planned.plan.seq)
        self._age("staged", int(planned.batch.times.max()) if len(planned.batch) else 0)

    def learned(self, report: LearnReport) -> None:
        """A plan was learned, or learned again."""
        if report.learned is None or report.scores is None:
            return
        self.seq = report.seq
        self._state(report, report.learned)
        self._meter.add("headrace_learned_events_total", report.learned.clicks)
        self._meter.add("headrace_withheld_events_total", report.learned.withheld)
        if report.seq <= self._counted:
            self._meter.add("headrace_replayed_plans_total", report.learned.clicks > 0)
            return
        self._counted = report.seq
        self._count(report, report.learned, report.scores)

    def checkpointed(self, report: CheckpointRef | CheckpointFailed) -> None:
        """A checkpoint was written, or was not."""
        if isinstance(report, CheckpointFailed):
            self._meter.add("headrace_checkpoint_failures_total")
            return
        self._meter.add("headrace_checkpoints_total")
        self._meter.observe("headrace_checkpoint_seconds", report.seconds)
        self._meter.observe("headrace_checkpoint_stall_seconds", report.stall_seconds)
        self._meter.set("headrace_checkpoint_bytes", report.size)
        self._meter.set("headrace_checkpoint_seq", report.seq)
        self._meter.set("headrace_checkpoint_timestamp_seconds", self._clock.now())
        self._age("checkpointed", self._newest_ms)

    def collected(self, collected: Collected) -> None:
        """Garbage was collected."""
        self._meter.add("headrace_garbage_objects_total", collected.objects)
        self._meter.add("headrace_archived_events_total", collected.archived)

    def learner_lost(self) -> None:
        """The learner's process was lost."""
        self._meter.add("headrace_learner_restarts_total")

    def tick(
        self, lag: Mapping[int, int], buffered_bytes: int, in_flight: int, *, paused: bool, silent_seconds: float
    ) -> None:
        """Once a second or so."""
        for partition, events in lag.items():
            self._meter.set("headrace_lag_events", events, partition=str(partition))
        self._meter.set("headrace_buffered_bytes", buffered_bytes)
        self._meter.set("headrace_plans_in_flight", in_flight)
        self._meter.set("headrace_paused", paused)
        self._meter.set("headrace_source_silent_seconds", silent_seconds)

    def _count(self, report: LearnReport, learned: Learned, scores: Scores) -> None:
        now = self._clock.monotonic()
        rejected, duplicates, arrived = self._pending.pop(report.seq, (0, 0, now))
        self.delay = now - arrived
        self._meter.observe("headrace_arrival_to_trained_seconds", self.delay)
        self._meter.add("headrace_events_total", learned.clicks, outcome="trained")
        self._meter.add("headrace_events_total", report.aside, outcome="aside")
        self._meter.add("headrace_events_total", rejected, outcome="rejected")
        self._meter.add("headrace_events_total", duplicates, outcome="duplicate")
        self._meter.add("headrace_scored_events_total", scores.scored)
        self._meter.add("headrace_new_entities_total", learned.new_users, kind="user")
        self._meter.add("headrace_new_entities_total", learned.new_items, kind="item")
        if report.seconds:
            self._meter.observe("headrace_learn_seconds", report.seconds["score"] + report.seconds["learn"])
        for step, seconds in report.seconds.items():
            self._meter.observe("headrace_step_seconds", seconds, step=step)
        self._age("trained", report.newest_ms)
        self.told(report)

    def _state(self, report: LearnReport, learned: Learned) -> None:
        """Gauges: what the model is like after this plan, replayed or not."""
        if not math.isnan(learned.loss):
            self._meter.set("headrace_batch_loss", learned.loss)
        for name, value in report.quality.items():
            if not math.isnan(value):
                self._meter.set(_QUALITY[name], value)
        self.drift = report.drift
        for signal, score in report.drift.items():
            self._meter.set("headrace_drift_score", score, signal=signal)
        for table, rows in report.rows.items():
            self._meter.set("headrace_table_rows", rows, table=table)
        self._occupied(report.occupancy)
        self._meter.set("headrace_learned_seq", report.seq)
        if learned.clicks:
            self.trained_at = self._clock.now()
            self._meter.set("headrace_last_trained_timestamp_seconds", self.trained_at)
        self._newest_ms = max(self._newest_ms, report.newest_ms)

    def _occupied(self, occupancy: Mapping[str, Mapping[str, int]]) -> None:
        for table, found in occupancy.items():
            if table == "memory":
                for kind in ("used", "budget"):
                    self._meter.set("headrace_model_bytes", found[kind], kind=kind)
                continue
            self._meter.set("headrace_table_capacity_rows", found["capacity"], table=table)
            for outcome in ("admitted", "refused", "evicted"):
                self._meter.set("headrace_table_ids", found[outcome], table=table, outcome=outcome)

    def _age(self, stage: str, event_ms: int) -> None:
        if event_ms:
            self._meter.observe(
                "headrace_freshness_seconds", max(0.0, self._clock.now() - event_ms / 1000), stage=stage
            )
