"""The learner's process: one live model, applied plan by plan. Knows nothing of Ray; `actor.py` puts it into an actor.

Learning, restoring and beginning a checkpoint happen on one thread, in order. Recommending and finishing a checkpoint
may happen on others: they work on the serving view and on a frozen copy.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from model import health, kernels, snapshot
from model.batch import Learned, Scores, Strings
from model.config import LearnerConfig
from model.learner import Learner
from model.view import NoView, ServingView
from stream import checkpoint, faultpoints, modelfiles
from stream.errors import Diverged, LearnerFailed
from stream.events import CheckpointRef, LearnReport, PlannedBatch, Position, Recommendation, Totals
from stream.freeze import Frozen, WriterCrashed, scratch
from stream.naming import Layout
from stream.partfiles import Arrays, last, write_arrays
from stream.ports import ObjectStore

STREAM_PART = "stream"
UNSCORED = Scores(0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What the learner's process is begun with.

    `window`: event ids kept for dedupe. `fork`: whether a checkpoint may be frozen by a fork, where there is one.
    `serves`: whether it is asked for recommendations; the view that answers them costs nearly as much memory as
    the model.
    """

    learner: LearnerConfig
    layout: Layout
    store: ObjectStore
    window: int
    fork: bool = True
    serves: bool = True


@dataclass(frozen=True, slots=True)
class _Begun:
    """A checkpoint whose files are being written by a frozen copy."""

    frozen: Frozen
    folder: Path
    ids: Mapping[str, Strings]
    model: Mapping[str, Any]
    manifest: checkpoint.Manifest
    since: float
    stall_seconds: float


class LearnerHost:
    """Holds the model and where in the stream it stands; the two change together or not at all."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._begun: deque[_Begun] = deque()
        self._fork_is_safe = config.fork
        self.restore(None)

    def restore(self, manifest_key: str | None) -> Position:
        """Load the checkpoint whose MANIFEST is at `manifest_key`; None begins anew.

        Raises CheckpointInvalid naming the part that is wrong; the model is then empty.
        """
        self._reset(Learner(self._config.learner), Position(-1, "", 0, {}, Totals(), Strings.of([])))
        if manifest_key is None:
            return self._position
        manifest = checkpoint.read_manifest(self._config.store, manifest_key)
        learner, window = self._load(manifest)
        self._reset(
            learner,
            Position(
                manifest.seq,
                manifest.plan_sha256,
                manifest.epoch,
                dict(manifest.next_offsets),
                manifest.totals,
                window,
            ),
        )
        return self._position

    def begin_with(self, learner: Learner, position: Position) -> None:
        """Go on with a model that was trained elsewhere, and that stands at `position`."""
        self._reset(learner, position)

    @property
    def position(self) -> Position:
        """Where in the stream the model stands."""
        return self._position

    @property
    def model(self) -> Learner:
        """The model itself: only to be looked at."""
        return self._learner

    def apply(self, planned: PlannedBatch) -> LearnReport:
        """Score the batch, then learn it; one that is set aside is only counted.

        Raises LearnerFailed when it does not follow on what has been learned; Diverged when the model is no good after
        it, and LearnerFailed from then on, until `restore`.
        """
        plan = planned.plan
        self._check_sound()
        if plan.seq <= self._position.seq:
            return LearnReport(plan.seq, already_applied=True)
        if plan.seq != self._position.seq + 1 or plan.previous_sha256 != self._position.plan_sha256:
            raise LearnerFailed(
                f"plan {plan.seq} does not follow on plan {self._position.seq}: refused, so that nothing is learned "
                "out of order"
            )
        report = self._learn(planned) if len(planned.batch) and not planned.aside else self._pass_over(planned)
        self._advance(planned)
        return report

    def begin_checkpoint(self) -> None:
        """Freeze the state as it is now. Returns as soon as learning may go on. Raises LearnerFailed once diverged."""
        self._check_sound()
        since = time.monotonic()
        dumped = snapshot.dump(self._learner)
        files = {**dumped.parts, STREAM_PART: self._stream_arrays()}
        folder = scratch()
        frozen = Frozen(lambda: write_arrays(files, folder), fork=self._fork_is_safe)
        manifest = self._manifest()
        stall = time.monotonic() - since
        faultpoints.reach("freeze")
        self._begun.append(_Begun(frozen, folder, dumped.ids, dumped.meta, manifest, since, stall))

    def finish_checkpoint(self) -> CheckpointRef:
        """Upload the oldest checkpoint begun. Raises what the store raises, or FreezeFailed; the model is unharmed."""
        begun = self._begun.popleft()
        try:
            begun.frozen.wait()
            modelfiles.write_texts(begun.folder, begun.ids, begun.model)
            files = {path.name: path for path in begun.folder.iterdir()}
            layout = self._config.layout
            manifest = checkpoint.write(self._config.store, layout, begun.manifest, files)
        except WriterCrashed:
            self._fork_is_safe = False
            raise
        finally:
            shutil.rmtree(begun.folder, ignore_errors=True)
        return CheckpointRef(
            manifest.seq,
            layout.manifest(manifest.seq),
            manifest.size,
            begun.stall_seconds,
            time.monotonic() - begun.since,
            dict(manifest.next_offsets),
        )

    def status(self, *, digest: bool = False) -> dict[str, Any]:
        """See `ports.LiveLearner.status`."""
        figures = {
            "seq": self._position.seq,
            "pid": os.getpid(),
            "rows": self._learner.rows(),
            "occupancy": self._learner.occupancy(),
            "config": self._learner.config.to_dict(),
            "compiled": kernels.compiled(),
        }
        return {**figures, "state_sha256": self.state_sha256()} if digest else figures

    def state_sha256(self) -> str:
        """Hex SHA-256 over model and position."""
        at = self._position
        position = msgspec.json.encode([at.seq, at.plan_sha256, at.epoch, sorted(at.next_offsets.items()), at.totals])
        window = self._stream_arrays()
        state = hashlib.sha256(snapshot.digest(self._learner).encode() + position)
        for name in sorted(window):
            state.update(window[name].tobytes())
        return state.hexdigest()

    def recommend(self, user_id: str, top_n: int) -> list[Recommendation]:
        """Top N from the serving view: the state after some whole batch, never in between."""
        return [Recommendation(item, score) for item, score in self._view.recommend(user_id, top_n)]

    def explain(self, user_id: str, product_id: str) -> list[Recommendation]:
        """What the user's past clicks add to `product_id`'s score, by the item clicked, strongest first."""
        return [Recommendation(item, weight) for item, weight in self._view.explain(user_id, product_id)]

    def _check_sound(self) -> None:
        if self._diverged is not None:
            raise LearnerFailed(f"this state is given up ({self._diverged}): restore a checkpoint")

    def _pass_over(self, planned: PlannedBatch) -> LearnReport:
        report = self._report(planned.plan.seq, Learned(0, math.nan, 0, 0), UNSCORED)
        return replace(report, aside=len(planned.batch) if planned.aside else 0)

    def _reset(self, learner: Learner, position: Position) -> None:
        self._learner = learner
        self._position = position
        self._diverged: Diverged | None = None
        self._window = deque([position.window])
        self._view = ServingView() if self._config.serves else NoView()
        self._view.publish(learner)

    def _learn(self, planned: PlannedBatch) -> LearnReport:
        batch = planned.batch
        started = time.perf_counter()
        scores = self._learner.score(batch)
        scored = time.perf_counter()
        faultpoints.reach("apply")
        learned = self._learner.learn(batch)
        if (reason := health.ailment(self._learner, learned)) is not None:
            self._diverged = Diverged(planned.plan.seq, reason)
            raise self._diverged
        done = time.perf_counter()
        faultpoints.reach("publish")
        self._view.publish(self._learner)
        published = time.perf_counter()
        seconds = {"score": scored - started, "learn": done - scored, "publish": published - done}
        report = self._report(planned.plan.seq, learned, scores)
        return replace(report, seconds=seconds, newest_ms=int(batch.times.max()))

    def _report(self, seq: int, learned: Learned, scores: Scores) -> LearnReport:
        """How the model stands, with what a plan did to it."""
        model = self._learner
        return LearnReport(
            seq,
            learned=learned,
            scores=scores,
            rows=model.rows(),
            quality=model.quality(),
            drift=model.drift(),
            occupancy=model.occupancy(),
        )

    def _advance(self, planned: PlannedBatch) -> None:
        before = self._position
        totals = Totals(
            before.totals.trained + (0 if planned.aside else len(planned.batch)),
            before.totals.rejected + planned.rejected,
            before.totals.duplicates + planned.duplicates,
            before.totals.aside + (len(planned.batch) if planned.aside else 0),
        )
        self._window.append(planned.event_ids)
        self._trim_window()
        self._position = Position(
            planned.plan.seq,
            planned.sha256,
            planned.plan.epoch,
            {**before.next_offsets, **planned.plan.next_offsets},
            totals,
            before.window,
        )

    def _trim_window(self) -> None:
        """Let go of whole batches of ids that lie outside the window; the rest is cut when it is written."""
        total = sum(map(len, self._window))
        while self._window and total - len(self._window[0]) >= self._config.window:
            total -= len(self._window.popleft())

    def _stream_arrays(self) -> Arrays:
        """The dedupe window as arrays, never of length zero (a file format's limit). Small, and a copy."""
        ids = last(list(self._window), self._config.window)
        return {"window_data": np.append(ids.data, np.uint8(0)), "window_offsets": ids.offsets}

    def _load(self, manifest: checkpoint.Manifest) -> tuple[Learner, Strings]:
        what = f"checkpoint {manifest.seq}"
        reading = modelfiles.read(self._config.store, manifest, what)
        with modelfiles.loading(what):
            window = _window(reading.parts.pop(STREAM_PART))
            return reading.learner(), window

    def _manifest(self) -> checkpoint.Manifest:
        position, rows, quality = self._position, self._learner.rows(), self._learner.quality()
        metadata = {
            "training_mode": "stream",
            "n_users": rows["users"],
            "n_items": rows["items"],
            "final_loss": quality["loss"],
            "last_updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "total_training_samples": position.totals.trained,
            "quality": quality,
            "occupancy": self._learner.occupancy(),
        }
        return checkpoint.Manifest(
            checkpoint.FORMAT,
            self._config.layout.lineage,
            position.seq,
            position.epoch,
            position.plan_sha256,
            position.next_offsets,
            position.totals,
            (),
            metadata,
            self._config.layout.version,
        )


def _window(arrays: Arrays) -> Strings:
    """The inverse of `_stream_arrays`. Raises ValueError when the offsets are not those of texts in the data."""
    data, offsets = arrays["window_data"][:-1], arrays["window_offsets"]
    if data.dtype != np.uint8 or offsets.dtype != np.int64 or data.ndim != 1 or offsets.ndim != 1:
        raise ValueError("the dedupe window is of other types than it should be")
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) < 0).any():
        raise ValueError("the dedupe window's offsets do not fit its texts")
    window = Strings(data, offsets)
    window.tolist()  # text that is no UTF-8 would stop the recovery later
    return window
