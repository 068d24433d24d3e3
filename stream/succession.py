"""Another version of the model takes the place of the one that serves, without losing or repeating a click.

It is brought level beside the live one: its newest checkpoint, then the plans after it. When it is nearly there, no
plan is committed for a moment; it learns the last ones, and the loop goes on with it. Plans and offsets never notice.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

import structlog

from stream.aside import Asides
from stream.errors import Diverged, DrainIncomplete, HeadraceError, LearnerLost
from stream.events import LearnReport
from stream.history import Archive
from stream.loop import Loop, Model
from stream.naming import Layout
from stream.ports import Clock, Executor, LiveLearner
from stream.recovery import Recovered, Replaying, catch_up, recover

log = structlog.get_logger()
RETRY_SECONDS = 60.0
"""After a version could not be brought level, it is tried again."""
_TRIES = 5
_ROUNDS = 20
_NEAR = 8
"""So few plans are learned while the stream is held."""
_IN_FLIGHT = 4


@dataclass(frozen=True, slots=True)
class Wings:
    """Where a successor waits. `learners` makes a learner of a layout's version. `archive`: of the lineage.

    `closing`: whether the process is about to end, and the next one may bring the version about.
    """

    learners: Callable[[Layout], LiveLearner]
    archive: Archive
    executor: Executor
    clock: Clock
    closing: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class Successor:
    """A version that has learned all plans up to `at.head`."""

    model: Model
    at: Recovered


class Succession:
    """At most one version on its way to be the one that serves. Used by the loop's thread."""

    def __init__(self, wings: Wings, loop: Loop) -> None:
        self._wings = wings
        self._loop = loop
        self._wanted = loop.model.archive.layout.version
        self._learner: LiveLearner | None = None
        self._coming: Future[Successor] | None = None
        self._successor: Successor | None = None
        self._closing = False
        self._not_before = wings.clock.monotonic()

    @property
    def serving(self) -> int:
        """The version that learns and answers now."""
        return self._loop.model.archive.layout.version

    @property
    def busy(self) -> bool:
        """Whether a version is being brought level."""
        return self._coming is not None or self._successor is not None

    def want(self, version: int) -> None:
        """Let `version` be the one that serves, as soon as it is level."""
        if version != self._wanted:
            self._wanted = version
            self._not_before = self._wings.clock.monotonic()

    def turn(self, now: float) -> bool:
        """A step towards it, if one can be taken without waiting. True once when another version serves."""
        if self._coming is not None:
            self._settle(now)
        elif self._successor is not None:
            return self._approach(self._successor)
        elif self._wanted != self.serving and now >= self._not_before:
            log.info("bringing another version level", version=self._wanted, serving=self.serving)
            self._coming = self._wings.executor.submit(self._bring_up, self._wanted)
        return False

    def close(self) -> None:
        """End the learner of a version that is not there yet. Idempotent."""
        self._successor = None
        learner, self._learner = self._learner, None
        if learner is not None:
            learner.close()

    def _settle(self, now: float) -> None:
        if self._coming is None or not self._coming.done():
            return
        coming, self._coming = self._coming, None
        closing, self._closing = self._closing, False
        try:
            self._successor = coming.result()
        except HeadraceError as error:
            self._give_up(now, str(error))
            return
        except Exception as error:
            log.exception("a version could not be brought level, in a way that nobody has thought of")
            self._give_up(now, repr(error))
            return
        if closing:  # nothing was committed meanwhile: a plan that we do not know is another writer's
            self._loop.check_own(self._successor.at.head)

    def _give_up(self, now: float, why: str) -> None:
        """The live version goes on; whoever looks sees that another one was wanted."""
        log.error("a version could not be brought level, the live one goes on", version=self._wanted, why=why)
        self._wings.archive.meter.add("headrace_version_failures_total")
        self._not_before = now + RETRY_SECONDS
        self._loop.hold(on=False)
        self.close()

    def _approach(self, successor: Successor) -> bool:
        """Close the gap, or take the place if there is none."""
        if successor.model.archive.layout.version != self._wanted:
            log.info("another version is wanted by now", version=self._wanted)
            self._loop.hold(on=False)
            self.close()
        elif successor.at.head == self._loop.head and self._loop.quiet:
            self._take_the_place(successor)
            return True
        elif not self._loop.checkpointing or self._loop.holding:
            # The gap is small by now: hold the stream, let all that was begun be learned, then learn it too.
            self._loop.hold(on=True)
            if self._loop.quiet:
                self._successor, self._closing = None, True
                self._coming = self._wings.executor.submit(self._close_gap, successor)
        return False

    def _take_the_place(self, successor: Successor) -> None:
        before = self._loop.exchange(successor.model, successor.at.replayed)
        self._learner = self._successor = None
        before.learner.close()
        log.info("another version serves", version=self.serving, seq=successor.at.head.seq)

    def _bring_up(self, version: int) -> Successor:
        wings = self._wings
        layout = wings.archive.layout.of_version(version)
        archive = replace(wings.archive, layout=layout)
        asides = Asides(archive.store, layout, archive.patience, archive.meter)
        self._learner = learner = wings.learners(layout)
        lost = 0
        while True:
            try:
                learner.start()
                at = self._draw_near(archive, learner, asides)
            except Diverged as error:  # counts for nothing: each plan is set aside at its second time
                asides.diverged(error)
            except LearnerLost:
                lost += 1
                if lost == _TRIES:
                    raise
            else:
                collector = replace(self._loop.model.collector, layout=layout)
                return Successor(Model(learner, archive, asides, collector), at)

    def _draw_near(self, archive: Archive, learner: LiveLearner, asides: Asides) -> Recovered:
        """Learn until few plans are left: while it learned, others were committed."""
        at = recover(archive, learner, self._replaying(asides))
        for _ in range(_ROUNDS):
            before, at = at, catch_up(archive, learner, self._replaying(asides), at)
            if at.replayed - before.replayed <= _NEAR:
                break
        return at

    def _close_gap(self, successor: Successor) -> Successor:
        model = successor.model
        at = catch_up(model.archive, model.learner, self._replaying(model.asides), successor.at)
        return Successor(model, at)

    def _replaying(self, asides: Asides) -> Replaying:
        return Replaying(_IN_FLIGHT, asides.noting(self._told), asides.reasons, window=0)

    def _told(self, _report: LearnReport) -> None:
        if self._wings.closing():
            raise DrainIncomplete("stopped as asked while another version was being brought level; the next start does")
