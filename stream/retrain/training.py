"""A new version from scratch: several epochs over all that is stored, a duel with the live one, a first checkpoint.

1. The live version's oldest checkpoint that is kept marks where history ends: at its plan the new model will stand.
2. Full training over everything up to there, as `headrace train` does it (`train.fit`): in order, newest clicks held
   back, the epoch that ranked them best is kept.
3. From there on both models meet the same plans as the stream did, each click ranked before it is learned. It goes on,
   with what comes in meanwhile, until enough clicks were ranked by both or time is up.
4. The new model's checkpoint is written, read back, and asked for recommendations. Only then is it `trained`.

Looks at the clock only to give up waiting for new clicks: the same history gives the same model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import structlog

from model.batch import Batch, Float64
from model.config import LearnerConfig
from model.learner import Learner
from stream import checkpoint, versions
from stream.decode import DecodeRules
from stream.errors import CheckpointInvalid, ConfigError, Diverged, LearnerFailed
from stream.events import CheckpointRef, PlannedBatch, Position
from stream.history import Archive, follow
from stream.host import HostConfig, LearnerHost
from stream.modelfiles import Shelf
from stream.naming import Layout
from stream.planner import Head
from stream.ports import ObjectStore
from stream.retrain.clicks import Span, StoredClicks, require, scan
from stream.retraining import Progress
from stream.train import fit
from stream.train.clickfile import Reader
from stream.train.clicks import Clicks, Ordered, in_time_order, within
from stream.train.fit import Epoch, Fitted
from stream.versions import Duel, Request, Trained

log = structlog.get_logger()
RANK = 20
SCANNING, TRAINING = 0.05, 0.85
"""Shares of the progress bar that reading and training end at; the rest is the duel's."""
_SAMPLE = 64
"""Most clicks of a plan that are ranked by both."""
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be trained. `layout`: of the new version. `against`: the live version. `epochs`: at most.

    `proof_clicks`: ranked by both before the duel is over; `proof_seconds`: how long they are waited for.
    `older_key`: object of clicks from before the lineage began, which may be missing ("": none is looked for).
    """

    store: ObjectStore
    layout: Layout
    against: int
    request: Request
    learner: LearnerConfig
    window: int
    epochs: int = 15
    proof_clicks: int = 2000
    proof_seconds: float = 600.0
    older_key: str = ""
    rules: DecodeRules = field(default_factory=DecodeRules)


@dataclass(slots=True)
class _Sums:
    """Over the clicks that both ranked: reciprocal ranks and hits at 20, and squares of the difference."""

    clicks: int = 0
    new: float = 0.0
    live: float = 0.0
    new_hits: int = 0
    live_hits: int = 0
    squares: float = 0.0

    def add(self, new: Float64, live: Float64) -> None:
        """Ranks of the same clicks, 1 is best."""
        ours, theirs = _reciprocal(new), _reciprocal(live)
        self.clicks += len(new)
        self.new += float(ours.sum())
        self.live += float(theirs.sum())
        self.new_hits += int((new <= RANK).sum())
        self.live_hits += int((live <= RANK).sum())
        self.squares += float(((ours - theirs) ** 2).sum())

    def duel(self) -> Duel:
        count = self.clicks
        if not count:
            return Duel()
        mean = (self.new - self.live) / count
        error = math.sqrt(max(self.squares / count - mean**2, 0.0) / count)
        return Duel(count, self.new / count, self.new_hits / count, self.live / count, self.live_hits / count, error)


class Training:
    """One training, from begin to end. `progress` may be read by other threads."""

    def __init__(self, task: Task, archive: Archive) -> None:
        """`archive`: the lineage as the live version sees it."""
        self._task = task
        self._archive = archive
        self.progress = Progress()

    def run(self) -> Trained:
        """Train, and answer what is recorded of it.

        Raises ConfigError when there is nothing to train from, StoreRefused when history is damaged, LearnerFailed when
        the new model is no good.
        """
        with Shelf() as live:
            return self._train(live)

    def _train(self, live: Shelf) -> Trained:
        """Two models at a time are in memory; what waits for its turn is on the disk."""
        began = time.monotonic()
        serving = versions.read_serving(self._task.store, self._task.layout).serving
        at = self._lay_by_live(live)
        self._show(0.0, "reading what is stored")
        clicks = self._clicks(at)
        fitted = self._fit(clicks)
        new = self._host(self._task.layout)
        new.begin_with(fitted.learner, at)
        duel = self._against_live(new, live.take(), at)
        self._show(0.98, "writing the first checkpoint")
        if (done := versions.read(self._task.store, self._task.layout).trained) is not None:
            return done  # another process was faster
        written = self._checkpoint(new, clicks)
        notes = self._notes(clicks)
        trained = Trained(
            written.seq,
            self._task.against,
            len(clicks),
            len(fitted.epochs),
            fitted.kept,
            clicks.first_seq,
            round(time.monotonic() - began, 1),
            duel,
            notes,
            serving.since,
        )
        noted = versions.note_trained(self._task.store, self._task.layout, trained)
        if noted != trained:  # faster by a moment: two trainings are two models, and one of them is the version
            self._task.store.delete(written.manifest_key)
        return noted

    def _lay_by_live(self, shelf: Shelf) -> Position:
        """Now, since its checkpoint may be gone when its turn comes. Where it stands."""
        host = self._live()
        shelf.put(host.model)
        return host.position

    def _against_live(self, new: LearnerHost, model: Learner, at: Position) -> Duel:
        live = self._host(self._archive.layout)
        live.begin_with(model, at)
        return self._duel(new, live)

    def _live(self) -> LearnerHost:
        """The live version as its oldest checkpoint that verifies says it was."""
        host = self._host(self._archive.layout)
        for _, key in checkpoint.complete(self._task.store, self._archive.layout):
            try:
                host.restore(key)
            except CheckpointInvalid as error:
                log.warning("checkpoint does not verify, taking the next newer one", error=str(error))
            else:
                return host
        raise ConfigError(
            f"version {self._task.against} has no checkpoint yet to train beside: wait for the first "
            "(HEADRACE_STREAM_CHECKPOINT_SECONDS), then ask again"
        )

    def _host(self, layout: Layout) -> LearnerHost:
        task = self._task
        return LearnerHost(HostConfig(task.learner, layout, task.store, task.window, fork=False, serves=False))

    def _clicks(self, end: Position) -> StoredClicks:
        prefix = self._archive.layout.asides
        aside = {int(info.key[-25:-5]) for info in self._task.store.list(prefix)}
        span = Span(end.seq, self._task.request.since_ms, aside)

        def told(seq: int) -> None:
            self._show(SCANNING * (seq + 1) / (end.seq + 1), "reading what is stored")

        clicks = scan(self._archive, span, told)
        clicks.older = self._older(clicks.oldest_ms)
        require(clicks)
        return clicks

    def _older(self, before_ms: int | None) -> Ordered | None:
        """Clicks of the batch contract's object from before the first that the lineage has."""
        task = self._task
        if not task.older_key:
            return None
        with ExitStack() as files:
            reading = Reader(task.store, task.rules, files, task.window).read(task.older_key)
        if reading is None:
            return None
        clicks: Clicks = within(reading.clicks, task.request.since_ms, before_ms)
        return in_time_order(clicks) if len(clicks) else None

    def _fit(self, clicks: StoredClicks) -> Fitted:
        epochs = self._task.request.epochs or self._task.epochs
        return fit.from_scratch(clicks, self._task.learner, epochs, _Watcher(self._show))

    def _duel(self, new: LearnerHost, live: LearnerHost) -> Duel:
        """Both learn what came after history ended, each click of a sample ranked by both before."""
        sums, random = _Sums(), np.random.default_rng(self._task.learner.seed)
        until = time.monotonic() + self._task.proof_seconds
        while True:
            for planned in self._newer(live.position):
                _rank(new, live, planned.batch, random, sums)
                self._both(new, live, planned)
                share = min(1.0, sums.clicks / self._task.proof_clicks)
                self._show(TRAINING + (0.97 - TRAINING) * share, "ranking new clicks beside the live one", sums.duel())
            if sums.clicks >= self._task.proof_clicks or time.monotonic() > until:
                return sums.duel()
            time.sleep(_LOOK_SECONDS)

    def _newer(self, at: Position) -> Iterator[PlannedBatch]:
        head = Head(at.seq, at.plan_sha256, at.epoch)
        for stored in follow(self._archive, head, at.next_offsets):
            aside = _aside(self._task.store, self._archive.layout, stored.plan.seq)
            yield replace(stored.batch(), aside=aside)

    @staticmethod
    def _both(new: LearnerHost, live: LearnerHost, planned: PlannedBatch) -> None:
        live.apply(planned)
        try:
            new.apply(planned)
        except Diverged as error:
            raise LearnerFailed(f"the new model diverged at plan {error.seq}: {error.reason}") from error

    def _checkpoint(self, new: LearnerHost, clicks: StoredClicks) -> CheckpointRef:
        """Write it, read it back, ask it. Raises LearnerFailed unless it is the same, finite, and answers.

        What an attempt before left, which died between its checkpoint and its record, is another model: it goes.
        """
        checkpoint.discard(self._task.store, self._task.layout)
        new.begin_checkpoint()
        written = new.finish_checkpoint()
        again = self._host(self._task.layout)
        again.restore(written.manifest_key)
        if again.state_sha256() != new.state_sha256():
            raise LearnerFailed(f"{written.manifest_key} reads back as another model than was written")
        self._check_answers(again, clicks)
        return written

    def _check_answers(self, again: LearnerHost, clicks: StoredClicks) -> None:
        batch = next(iter(clicks.batches(1)))
        for user in (batch.users.tolist()[0], "a user that nobody has seen"):
            answer = again.model.recommend(user, 10)
            if not answer or not all(math.isfinite(score) for _, score in answer):
                raise LearnerFailed(f"the new model has no finite answer for {user!r}: {answer}")

    def _notes(self, clicks: StoredClicks) -> tuple[str, ...]:
        notes = []
        if clicks.older is not None:
            notes.append(f"{len(clicks.older):,} older clicks of {self._task.older_key} were learned first")
        if clicks.first_seq:
            notes.append(f"history begins with plan {clicks.first_seq}: what was before is in no archive")
        return tuple(notes)

    def _show(self, ratio: float, doing: str, duel: Duel | None = None) -> None:
        self.progress = Progress(ratio, doing, duel or self.progress.duel)


class _Watcher(fit.Watcher):
    """Turns epochs into progress."""

    def __init__(self, show: Callable[[float, str], None]) -> None:
        self._show = show
        self._number, self._of, self._clicks = 1, 1, 1

    def begin(self, epoch: int, epochs: int, clicks: int) -> None:
        self._number, self._of, self._clicks = epoch, epochs, max(1, clicks)

    def learned(self, clicks: int, loss: float) -> None:
        done = (self._number - 1 + clicks / self._clicks) / self._of
        ratio = SCANNING + (TRAINING - SCANNING) * min(1.0, done)
        self._show(ratio, f"epoch {self._number} of at most {self._of}, loss {loss:.3f}")

    def end(self, epoch: Epoch) -> None:
        found = f", MRR@20 {epoch.held_mrr:.4f} on the {epoch.scored:,} clicks held back" if epoch.scored else ""
        self._show(SCANNING + (TRAINING - SCANNING) * epoch.number / self._of, f"epoch {epoch.number} is over{found}")


def _aside(store: ObjectStore, layout: Layout, seq: int) -> str:
    """Why the live version set a plan aside; empty when it did not."""
    return "set aside by the live version" if next(iter(store.list(layout.aside(seq))), None) is not None else ""


def _rank(new: LearnerHost, live: LearnerHost, batch: Batch, random: np.random.Generator, sums: _Sums) -> None:
    batch = batch.take(slice(live.model.config.batch_clicks))
    if not len(batch):
        return
    ready = live.model.ready(batch)
    chosen = np.sort(random.choice(ready, min(_SAMPLE, len(ready)), replace=False))
    if len(chosen):
        sums.add(new.model.ranks(batch, chosen), live.model.ranks(batch, chosen))


def _reciprocal(ranks: Float64) -> Float64:
    return np.where(ranks <= RANK, 1.0 / ranks, 0.0)
