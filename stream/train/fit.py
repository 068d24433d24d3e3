"""Several epochs over the same clicks, in the order of time, each as if the clicks came for the first time.

Full training holds back the newest clicks. After each epoch a copy of the learner meets them as the stream would, each
ranked before it is learned; the copy that ranked them best is the result, so it has seen every click. An epoch never
looks at the clock, nor does the decision to stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from model import snapshot
from model.batch import Batch
from model.config import LearnerConfig
from model.learner import Learner
from stream.modelfiles import Shelf

BATCH_CLICKS_MAX = 500
"""Clicks counted in at once: what is new in a batch cannot be ranked or stand in a context before the next one."""
BATCHES_MIN = 20
"""So that little data is not one batch, in which everything is new. 100 ranked no better, and took twice as long."""
HELD_SHARE = 0.05
HELD_CLICKS_MIN = 200
"""Fewer clicks held back than this tell nothing: then every epoch is run, and the last one counts."""
SCORED_CLICKS = 4000
PATIENCE = 2
"""Epochs without a better rank after which training stops."""


class ClicksInOrder(Protocol):
    """Clicks in the order in which they are to be learned, as often as wanted."""

    def __len__(self) -> int:
        """How many."""

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Clicks [start, stop) as batches of `size`, in order; the last one may be smaller."""


class Watcher(Protocol):
    """Told how training goes; changes nothing."""

    def begin(self, epoch: int, epochs: int, clicks: int) -> None:
        """An epoch over `clicks` begins."""

    def learned(self, clicks: int, loss: float) -> None:
        """So many clicks of the epoch are learned, at this mean loss."""

    def end(self, epoch: Epoch) -> None:
        """The epoch is over."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """`loss`: mean sampled-softmax loss in nats (nan: no click had a context). `held_mrr`, `held_hits`: MRR@20 and
    HR@20 over `scored` of the clicks held back, nan when none was scored.
    """

    number: int
    loss: float
    scored: int = 0
    held_mrr: float = math.nan
    held_hits: float = math.nan


@dataclass(slots=True)
class _Pass:
    """Sums over the batches of one epoch."""

    watcher: Watcher
    clicks: int = 0
    total: float = 0.0
    weight: int = 0
    scored: int = 0
    mrr: float = 0.0
    hits: float = 0.0

    @property
    def loss(self) -> float:
        return self.total / self.weight if self.weight else math.nan

    def learn(
        self, learner: Learner, clicks: ClicksInOrder, span: tuple[int, int], *, rate: float, score: bool
    ) -> None:
        """Learn clicks [start, stop) at `rate` times the configured steps, ranking a sample of each batch first."""
        for batch in clicks.batches(batch_clicks(len(clicks)), *span):
            if score:
                scores = learner.score(batch)
                self.scored += scores.scored
                self.mrr += scores.mrr
                self.hits += scores.hits
            learned = learner.learn(batch, rate)
            self.clicks += learned.clicks
            if not math.isnan(learned.loss):
                self.total += learned.loss * learned.clicks
                self.weight += learned.clicks
            self.watcher.learned(self.clicks, self.loss)

    def epoch(self, number: int) -> Epoch:
        if not self.scored:
            return Epoch(number, self.loss)
        return Epoch(number, self.loss, self.scored, self.mrr / self.scored, self.hits / self.scored)


@dataclass(slots=True)
class Fitted:
    """A trained learner. `epochs`: all that were run; `kept`: the number of the one that it comes from (0: none)."""

    learner: Learner
    epochs: list[Epoch] = field(default_factory=list)
    kept: int = 0


@dataclass(slots=True)
class _Best:
    """The epochs so far, and on disk the learner of the one that ranked best: memory holds two learners, not three."""

    shelf: Shelf
    epochs: list[Epoch] = field(default_factory=list)
    number: int = 0

    def offer(self, candidate: Learner, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        if not self.number or math.isnan(epoch.held_mrr) or epoch.held_mrr > self.epochs[self.number - 1].held_mrr:
            self.shelf.put(candidate)
            self.number = epoch.number


def batch_clicks(clicks: int) -> int:
    """Clicks per batch when there are so many in all."""
    return max(1, min(BATCH_CLICKS_MAX, clicks // BATCHES_MIN))


def from_scratch(clicks: ClicksInOrder, config: LearnerConfig, epochs: int, watcher: Watcher) -> Fitted:
    """Train a new learner for at most `epochs`; fewer when the clicks held back are ranked no better for a while."""
    held = int(len(clicks) * HELD_SHARE)
    if held < HELD_CLICKS_MIN:
        return _all_epochs(clicks, Learner(config), epochs, watcher)
    scoring = LearnerConfig.from_dict(config.to_dict() | {"score_fraction": min(1.0, SCORED_CLICKS / held)})
    with Shelf() as shelf:
        best = _Best(shelf)
        _epochs_with_proof(Learner(scoring), clicks, epochs, best, watcher)  # which lets go of its learner
        return Fitted(shelf.take(score_fraction=config.score_fraction), best.epochs, best.number)


def further(clicks: ClicksInOrder, learner: Learner, epochs: int, rate: float, watcher: Watcher) -> Fitted:
    """Train `learner` on with clicks that it has not seen, at `rate` times its steps. It is changed."""
    if not len(clicks):
        return Fitted(learner)
    return _all_epochs(clicks, learner, epochs, watcher, rate)


def _all_epochs(clicks: ClicksInOrder, learner: Learner, epochs: int, watcher: Watcher, rate: float = 1.0) -> Fitted:
    before, fitted = learner.context(), Fitted(learner, kept=epochs)
    for number in range(1, epochs + 1):
        watcher.begin(number, epochs, len(clicks))
        if number > 1:
            learner.reset_context(before)
        sums = _Pass(watcher)
        sums.learn(learner, clicks, (0, len(clicks)), rate=rate, score=False)
        fitted.epochs.append(sums.epoch(number))
        watcher.end(fitted.epochs[-1])
    return fitted


def _epochs_with_proof(learner: Learner, clicks: ClicksInOrder, epochs: int, best: _Best, watcher: Watcher) -> None:
    for number in range(1, epochs + 1):
        best.offer(*_epoch_with_proof(learner, clicks, (number, epochs), watcher))
        if number - best.number >= PATIENCE:
            return


def _epoch_with_proof(
    learner: Learner, clicks: ClicksInOrder, number: tuple[int, int], watcher: Watcher
) -> tuple[Learner, Epoch]:
    """One epoch of `learner` over the older clicks, and a copy of it that has gone on over those held back."""
    watcher.begin(*number, len(clicks))
    learner.reset_context(None)
    first_held = len(clicks) - int(len(clicks) * HELD_SHARE)
    sums = _Pass(watcher)
    sums.learn(learner, clicks, (0, first_held), rate=1.0, score=False)
    candidate = snapshot.load(snapshot.dump(learner))
    sums.learn(candidate, clicks, (first_held, len(clicks)), rate=1.0, score=True)
    epoch = sums.epoch(number[0])
    watcher.end(epoch)
    return candidate, epoch
