"""The corridor: one loop that leads clicks from the source to the learner. Holds ports, never clients.

Each `turn` polls, cuts, hands cuts to the committer, hands committed plans to the learner, and collects what the
learner reports. Nothing in a turn waits longer than a poll: what may take long (the store, the dead letters, bringing
the learner back) runs on the executor, one job at a time, in order. Numbers in comments are the steps of the cycle.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from stream import faultpoints
from stream.aside import Asides
from stream.batching import Batcher, CutPolicy, PressurePolicy
from stream.breaker import BreakerPolicy
from stream.collector import Collector, tolerant
from stream.committer import Committed, Committer, Held
from stream.errors import (
    Diverged,
    HeadraceError,
    LearnerAway,
    LearnerFailed,
    LearnerLost,
    SourceRefused,
    StoreUnavailable,
)
from stream.events import CheckpointFailed, CheckpointRef, LearnReport
from stream.figures import Figures
from stream.gate import Gate
from stream.history import Archive
from stream.planner import Head
from stream.policy import CheckpointCadence, CheckpointPolicy
from stream.ports import Clock, EventSource, Executor, LiveLearner
from stream.recovery import Replaying, recover

log = structlog.get_logger()
STORE_SECONDS = 10.0
"""A commit that takes longer than this waits for the store: clicks are not being learned."""
SOURCE_SECONDS = 15.0
"""A source that is silent for longer is away: whatever is published meanwhile is not learned."""
_BREATH_SECONDS = 0.005
_AWAY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How the loop paces itself.

    `poll_events`: at most this many messages a poll. `idle_seconds`: how long a poll may wait when there is nothing
    else to do; `busy_seconds`: when there is. `in_flight`: plans handed to the learner and not yet learned.
    `revivals`: how often in a row the learner may die without learning a plan before the loop gives up;
    `cluster_seconds`: how long a cluster that was lost with it is waited for.
    """

    cut: CutPolicy = field(default_factory=CutPolicy)
    pressure: PressurePolicy = field(default_factory=PressurePolicy)
    checkpoint: CheckpointPolicy = field(default_factory=CheckpointPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    poll_events: int = 10_000
    idle_seconds: float = 0.2
    busy_seconds: float = 0.01
    in_flight: int = 4
    revivals: int = 3
    tick_seconds: float = 1.0
    partitions_seconds: float = 60.0
    check_seconds: float = 15.0
    cluster_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Model:
    """One version of the model, live. `archive` reads the lineage as the version sees it."""

    learner: LiveLearner
    archive: Archive
    asides: Asides
    collector: Collector


@dataclass(frozen=True, slots=True)
class Crew:
    """Everybody the loop works with, but the model. `janitor` never delays a commit.

    `gate`: shut while the circuit breaker is open. `closing`: whether the process is about to end, and garbage is left
    to the next one.
    """

    source: EventSource
    committer: Committer
    executor: Executor
    janitor: Executor
    clock: Clock
    figures: Figures
    gate: Gate
    closing: Callable[[], bool] = lambda: False


class Loop:
    """Steps 5 to 14.

    Begins where `recovery.recover` and the fence ended: the source is assigned, the learner is level.
    """

    def __init__(self, crew: Crew, model: Model, rhythm: Rhythm, next_offsets: dict[int, int]) -> None:
        self._crew = crew
        self.model = model
        self._rhythm = rhythm
        self._batcher = Batcher(rhythm.cut)
        self._polled = dict(next_offsets)
        now = crew.clock.monotonic()
        self._cadence = CheckpointCadence(rhythm.checkpoint, now)
        self._ticked = self._listed = self._checked = now
        self._checking: Future[None] | None = None
        self._paused = False
        self._committing: Future[Committed | Held] | None = None
        self._commit_begun = now
        self._reviving: Future[list[LearnReport]] | None = None
        self._collecting: Future[Any] | None = None
        self._checkpointing = False
        self._silent = 0.0
        self._holding = False
        self._deaths = 0

    def owe(self, plans: int) -> None:
        """So many plans are in the model and in no checkpoint: those that were replayed at the start."""
        self._cadence.learned(plans)

    @property
    def idle(self) -> bool:
        """Nothing buffered, nothing being committed or learned."""
        return not self._batcher.rows and self.quiet

    @property
    def exhausted(self) -> bool:
        """The source has ended and all it gave is learned."""
        return self._crew.source.exhausted() and self.idle

    def waiting_for(self) -> list[str]:
        """Why clicks are not being learned just now; empty when they are."""
        reasons = ["the learner was lost and is being brought back"] if self._reviving is not None else []
        reasons += filter(None, [self._crew.gate.reason])
        waited = self._crew.clock.monotonic() - self._commit_begun
        if self._committing is not None and waited > STORE_SECONDS:
            reasons.append(f"a batch has been waiting for {waited:.0f} s for the store, or for the dead letters")
        if self._silent > SOURCE_SECONDS:
            reasons.append(f"no Kafka broker has answered for {self._silent:.0f} s")
        return [*reasons, *(["reading is paused: the buffer is full"] if self._paused else [])]

    @property
    def quiet(self) -> bool:
        """Nothing is on its way to the model or from it: it has learned the newest plan."""
        busy = self._committing or self._reviving or self._checkpointing
        return not busy and not self.model.learner.in_flight()

    @property
    def checkpointing(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._checkpointing

    def hold(self, *, on: bool) -> None:
        """Commit nothing more until told otherwise, or until draining; what was begun goes on until all is `quiet`."""
        self._holding = on

    @property
    def holding(self) -> bool:
        """Whether it was told to hold."""
        return self._holding

    @property
    def head(self) -> Head:
        """The newest plan that was committed."""
        return self._crew.committer.head

    def check_own(self, head: Head) -> None:
        """Raises Fenced unless `head`, the newest plan that was found in the store, is our own newest."""
        self._crew.committer.check_own(head)

    def exchange(self, model: Model, replayed: int) -> Model:
        """Go on with `model`, which has learned the newest plan, while all is `quiet`. Answers the one before.

        `replayed`: plans that it has learned and that are in no checkpoint of it.
        """
        before, self.model = self.model, model
        self._deaths = 0
        self._cadence = CheckpointCadence(self._rhythm.checkpoint, self._crew.clock.monotonic())
        self.owe(replayed)
        self._holding = False
        return before

    def turn(self, *, draining: bool = False) -> None:
        """One turn, at most about a second.

        Raises what must stop the process: Fenced, StoreRefused, SourceRefused, ...
        """
        now = self._crew.clock.monotonic()
        if not draining:
            self._poll(now)  # 5
            self._pass_the_gate(now)
        self._press()
        self._settle_commit()
        self._settle_revival()
        self._collect_reports(0.05 if draining else 0.0)
        if draining and (self._reviving is not None or not self.model.learner.in_flight()):
            # Nothing above need have waited, and what is waited for runs on another thread, which needs the processor.
            self._crew.clock.sleep(_BREATH_SECONDS)
        self._commit_if_due(now, draining=draining)  # 6 to 9
        self._checkpoint_if_due(now)  # 11
        self._check_if_idle(now)
        self._tick(now)

    def checkpoint(self) -> None:
        """Begin a checkpoint of all that was learned since the last, if anything was and none is being written."""
        now = self._crew.clock.monotonic()
        if not self._cadence.allowed(now) or self._checkpointing or self._reviving is not None:
            return
        try:
            self.model.learner.begin_checkpoint()
            faultpoints.reach("checkpoint")
        except LearnerLost as lost:
            self._revive(lost)
            return
        self._cadence.begun(now)
        self._checkpointing = True

    @property
    def settled(self) -> bool:
        """Idle, and all that was learned is in a checkpoint."""
        return self.idle and not self._cadence.pending

    def _poll(self, now: float) -> None:
        busy = self._committing or self._reviving or self.model.learner.in_flight()
        wait = self._rhythm.busy_seconds if busy else self._rhythm.idle_seconds
        if now - self._listed >= self._rhythm.partitions_seconds and not self._crew.gate.shut:
            self._listed = now
            self._admit_new_partitions()
        for chunk in self._crew.source.poll(self._rhythm.poll_events, wait):
            self._batcher.add(chunk)
            self._polled[chunk.partition] = chunk.end
            faultpoints.reach("poll")

    def _admit_new_partitions(self) -> None:
        """A partition that was added is read from its beginning: nothing was published to it before it existed."""
        new = set(self._crew.source.partitions()) - set(self._polled)
        if new:
            try:
                beginning = self._crew.source.beginning()
            except SourceRefused as error:  # a broker in trouble: they are there the next time as well
                log.warning("new partitions, and no answer where they begin; asking again later", error=str(error))
                return
            log.info("new partitions", partitions=sorted(new))
            self._polled |= {partition: beginning[partition] for partition in new}
            self._crew.committer.admit({partition: beginning[partition] for partition in new})
            self._crew.source.assign(self._polled)
            self._paused = False

    def _pass_the_gate(self, now: float) -> None:
        """Go on, when the breaker has closed, from where the plans end."""
        if self._crew.gate.turn(now):
            self._paused = False

    def _stand_back(self, held: Held) -> None:
        """The breaker has opened: forget what was read, the source will deliver it again."""
        self._batcher.clear()
        self._polled = dict(held.next_offsets)
        self._crew.gate.hold(held.next_offsets)

    def _press(self) -> None:
        if self._crew.gate.shut:
            return
        pressure = self._rhythm.pressure
        if not self._paused and self._batcher.bytes >= pressure.high_bytes:
            self._crew.source.pause()
            self._paused = True
        elif self._paused and self._batcher.bytes <= pressure.low_bytes:
            self._crew.source.resume()
            self._paused = False

    def _commit_if_due(self, now: float, *, draining: bool) -> None:
        busy = self._committing or self._reviving or self.model.learner.in_flight() >= self._rhythm.in_flight
        if busy or self._crew.gate.shut or (self._holding and not draining):
            return
        reason = self._batcher.due(now) or ("drain" if draining or self._crew.source.exhausted() else None)
        cut = self._batcher.cut(reason) if reason else None  # 7
        if cut is not None:
            faultpoints.reach("cut")
            self._commit_begun = now
            self._committing = self._crew.executor.submit(self._crew.committer.commit, cut)

    def _settle_commit(self) -> None:
        """Hand a committed plan to the learner (10).

        While the learner is being brought back, it reads the plan itself.
        """
        if self._committing is None or not self._committing.done():
            return
        committed = self._committing.result()
        self._committing = None
        if isinstance(committed, Held):
            self._stand_back(committed)
            return
        self._crew.figures.committed(committed)
        if self._reviving is None:
            try:
                self.model.learner.submit(committed.planned)
                faultpoints.reach("submit")
            except LearnerLost as lost:
                self._revive(lost)

    def _collect_reports(self, wait: float) -> None:
        if self._reviving is not None:
            return
        try:
            reports = self.model.learner.collect(wait)
        except LearnerLost as lost:
            self._revive(lost)
            return
        for report in reports:
            self._settle_report(report)

    def _settle_report(self, report: LearnReport | CheckpointRef | CheckpointFailed) -> None:
        if isinstance(report, LearnReport):
            self._deaths = 0
            self.model.asides.learned(report.seq)
            self._cadence.learned()
            self._crew.figures.learned(report)
            return
        self._checkpointing = False
        self._crew.figures.checkpointed(report)
        if isinstance(report, CheckpointRef):
            self._crew.source.commit(report.next_offsets)  # 12
            faultpoints.reach("commit")
            if self._collecting is None or self._collecting.done():
                self._collecting = self._crew.janitor.submit(self._collect_garbage)  # 14
        else:
            self._cadence.failed(self._crew.clock.monotonic())
            log.error("checkpoint not written, the next try is due soon", reason=report.reason)

    def _collect_garbage(self) -> None:
        try:
            collected = tolerant(self.model.collector, self._crew.closing)
            self._crew.figures.collected(collected)
        except HeadraceError as error:  # garbage can wait; the stream cannot
            log.warning("garbage not collected, next try after the next checkpoint", error=str(error))

    def _revive(self, lost: LearnerLost) -> None:
        """Begin to bring the learner back, behind a commit that may be under way."""
        diverged = lost if isinstance(lost, Diverged) else None
        self._deaths += diverged is None  # a batch that diverges is set aside at the second time: that ends by itself
        log.error("learner lost, bringing it back", error=str(lost), in_a_row=self._deaths)
        self._crew.figures.learner_lost()
        if self._deaths > self._rhythm.revivals:
            raise LearnerFailed(f"the learner was lost {self._deaths} times in a row without learning a plan: {lost}")
        self._checkpointing = False
        self._reviving = self._crew.executor.submit(self._bring_back, diverged)

    def _bring_back(self, diverged: Diverged | None) -> list[LearnReport]:
        """What the learner said of each plan replayed: counted by the loop, which may first have to settle a commit."""
        if diverged is not None:
            self.model.asides.diverged(diverged)
        self._start_learner()
        reports: list[LearnReport] = []
        asides = self.model.asides
        replaying = Replaying(self._rhythm.in_flight, asides.noting(reports.append), asides.reasons, window=0)
        recovered = recover(self.model.archive, self.model.learner, replaying)
        self._crew.committer.check_own(recovered.head)
        return reports

    def _start_learner(self) -> None:
        """A cluster that was lost with the learner is waited for: that it is away now does not say that it stays away.

        Raises LearnerAway when it does.
        """
        until = self._crew.clock.monotonic() + self._rhythm.cluster_seconds
        while True:
            try:
                self.model.learner.start()
                return
            except LearnerAway as away:
                if self._crew.closing() or self._crew.clock.monotonic() > until:
                    raise
                log.warning("the learner's cluster is away, trying again", error=str(away))
                self._crew.clock.sleep(_AWAY_SECONDS)

    def _settle_revival(self) -> None:
        if self._reviving is None or self._committing is not None or not self._reviving.done():
            return
        revival, self._reviving = self._reviving, None
        try:
            reports = revival.result()
        except LearnerLost as lost:
            self._revive(lost)
            return
        for report in reports:
            self._crew.figures.learned(report)
        self._cadence.learned(len(reports))
        log.info("learner is back", replayed=len(reports))

    def _checkpoint_if_due(self, now: float) -> None:
        if self._cadence.due(now) and not self._holding:
            self.checkpoint()

    def _check_if_idle(self, now: float) -> None:
        """A service without clicks would learn only from its next plan that it has been replaced: look now and then."""
        if self._checking is not None:
            if self._checking.done():
                checking, self._checking = self._checking, None
                with suppress(StoreUnavailable):  # it is asked again
                    checking.result()
        elif self.idle and now - self._checked >= self._rhythm.check_seconds:
            self._checked = now
            self._checking = self._crew.executor.submit(self._crew.committer.check)

    def _tick(self, now: float) -> None:
        if now - self._ticked < self._rhythm.tick_seconds:
            return
        self._ticked = now
        self._silent = self._crew.source.silent_seconds()
        self._crew.figures.tick(
            self._crew.source.lag(),
            self._batcher.bytes,
            self.model.learner.in_flight(),
            paused=self._paused or self._crew.gate.shut,
            silent_seconds=self._silent,
        )


def drain(loop: Loop, clock: Clock, deadline: float, beat: Callable[[], None]) -> bool:
    """Learn and checkpoint what has arrived, until `deadline` (monotonic seconds). True when all of it is safe.

    `beat` is called after each turn. What is not safe is no loss: committed plans are replayed at the next start, and
    the rest is still at the source.
    """
    while clock.monotonic() < deadline:
        loop.turn(draining=True)
        beat()
        if loop.idle:
            if loop.settled:
                return True
            loop.checkpoint()
    return False
