"""The long-running service, put together from ports: open, turn, drain, close. The command line and the demo run it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import structlog

from stream import faultpoints
from stream.api import Answer, Health
from stream.aside import Asides
from stream.breaker import Breaker
from stream.collector import Collector
from stream.committer import Committer, Desk
from stream.decode import DecodeRules
from stream.dedupe import Window
from stream.drifting import DriftPolicy
from stream.errors import Conflict, DrainIncomplete, LearnerFailed, LearnerLost, StoreUnavailable
from stream.events import LearnReport, Recommendation
from stream.figures import Figures
from stream.gate import Gate, Post
from stream.history import Archive
from stream.keeper import KEPT_MIN, Keeper, Watch
from stream.loop import Crew, Loop, Model, Rhythm, drain
from stream.naming import Layout, place
from stream.opening import Opened, Opening, Resume, Start
from stream.patience import Patience
from stream.planner import Slots
from stream.policy import Backoff
from stream.ports import Clock, DeadLetters, EventSource, Executor, LiveLearner, Lookout, Meter, ObjectStore
from stream.probe import probe
from stream.refetch import Refetch
from stream.retraining import Office, Retraining, RetrainPolicy, Trainer
from stream.succession import Succession, Wings

log = structlog.get_logger()
LIVE_SECONDS = 30.0
"""A loop that has not turned for this long hangs: liveness fails, and the process is restarted."""
_STAGERS = 4
_VERSIONERS = 3
"""One looks, one talks to a training, one brings a version level: none of them waits for another."""


@dataclass(frozen=True, slots=True)
class Doors:
    """The world, as ports. `lookout` makes a flag that threads can wait for, `nonce` a fresh unguessable text.

    `learners` makes the learner of another version; where it is None, the version that serves at the start stays.
    `trainer` trains new ones; None: none are trained here.
    """

    source: EventSource
    dead_letters: DeadLetters
    store: ObjectStore
    learner: LiveLearner
    clock: Clock
    meter: Meter
    lookout: Callable[[], Lookout] = threading.Event
    nonce: Callable[[], str] = lambda: uuid.uuid4().hex
    learners: Callable[[Layout], LiveLearner] | None = None
    trainer: Trainer | None = None


def hire(threads: int, name: str) -> Executor:
    """Threads of our own to run what may block."""
    return ThreadPoolExecutor(threads, name)


@dataclass(frozen=True, slots=True)
class Orders:
    """What the service is told to do. `drain_seconds`: how long stopping may take. `location`: bucket or directory."""

    layout: Layout
    topic: str
    rules: DecodeRules = field(default_factory=DecodeRules)
    rhythm: Rhythm = field(default_factory=Rhythm)
    window: int = 100_000
    start: Start = "earliest"
    drain_seconds: float = 25.0
    resume: Resume = "stop"
    retrain: RetrainPolicy = field(default_factory=RetrainPolicy)
    versions_kept: int = KEPT_MIN
    drift: DriftPolicy = field(default_factory=DriftPolicy)
    location: str = ""


class Service:
    """One lineage, one loop. Made and run by one thread; `stop`, `health` and `recommend` may be called by others."""

    def __init__(self, doors: Doors, orders: Orders, hire: Callable[[int, str], Executor] = hire) -> None:
        """`hire(threads, name)`: who runs what may block."""
        self._doors = doors
        self._orders = orders
        self._give_up = doors.lookout()
        self._stopping = doors.lookout()
        self._worker = hire(1, "headrace-commit")
        self._janitor = hire(1, "headrace-janitor")
        self._stagers = hire(_STAGERS, "headrace-stage")
        self._versioners = hire(_VERSIONERS, "headrace-versions")
        self.figures = Figures(doors.meter, doors.clock)
        self.opened: Opened | None = None
        self.keeper: Keeper | None = None
        self._loop: Loop | None = None
        self._turned = doors.clock.monotonic()

    def open(self) -> Opened:
        """Steps 1 to 4. Raises StoreRefused, SourceRefused, LearnerFailed, Fenced; what may pass is waited for.

        Raises DrainIncomplete when asked to stop while it waits for the store, or replays.
        """
        try:
            return self._open()
        except (StoreUnavailable, Conflict) as error:
            if not self.stopping:
                raise
            raise _stopped_early() from error
        except LearnerLost as error:
            raise LearnerFailed(f"the learner was lost while it was being restored; start again: {error}") from error

    def _open(self) -> Opened:
        doors, orders = self._doors, self._orders
        patience = Patience(Backoff(), self._give_up.wait, doors.meter)
        starting = self._worker.submit(doors.learner.start)  # seconds, which the probe need not wait for
        patience.call("probe the store", lambda: probe(doors.store, orders.layout))
        faultpoints.reach("probe")
        starting.result()
        archive = Archive(doors.store, orders.layout, patience, doors.meter)
        slots = Slots(doors.store, orders.layout, orders.topic, doors.clock, patience, doors.nonce)
        asides = Asides(doors.store, orders.layout, patience, doors.meter)
        refetch = Refetch(doors.source, orders.rules, doors.store, patience, doors.meter)
        mending = replace(archive, refetch=refetch)  # while opening only: afterwards the source is the loop's
        opening = Opening(
            slots,
            mending,
            doors.learner,
            doors.source,
            asides,
            orders.start,
            self._replayed,
            orders.resume,
            orders.window,
        )
        opened = opening.take_over()
        head = opened.planner.head
        self.figures.opened(head.seq, head.epoch, place(orders.location, orders.layout))
        breaker = Breaker(orders.rhythm.breaker)
        desk = Desk(
            doors.store,
            orders.layout,
            orders.topic,
            orders.rules,
            doors.dead_letters,
            patience,
            breaker,
            self._stagers,
        )
        window = Window(orders.window, opened.recovered.event_ids)
        crew = Crew(
            doors.source,
            Committer(desk, opened.planner, window, opened.next_offsets),
            self._worker,
            self._janitor,
            doors.clock,
            self.figures,
            self._gate(breaker),
            self._give_up.is_set,
        )
        self._turned = doors.clock.monotonic()
        collector = Collector(doors.store, orders.layout, orders.rhythm.checkpoint, self._is_reading)
        model = Model(doors.learner, archive, asides, collector)
        self._loop = Loop(crew, model, orders.rhythm, opened.next_offsets)
        self._loop.owe(opened.recovered.replayed)
        self.keeper = self._keeper(self._loop, archive)
        self.opened = opened
        return opened

    def _keeper(self, loop: Loop, archive: Archive) -> Keeper | None:
        doors, orders = self._doors, self._orders
        if doors.learners is None:
            return None
        pool, clock = self._versioners, doors.clock
        retraining = None
        if doors.trainer is not None:
            office = Office(doors.store, orders.layout, orders.retrain, pool, clock, doors.meter)
            retraining = Retraining(office, doors.trainer)
        watch = Watch(doors.store, orders.layout, pool, clock, self.figures, orders.versions_kept, orders.drift)
        wings = Wings(doors.learners, archive, pool, clock, self._give_up.is_set)
        return Keeper(watch, Succession(wings, loop), retraining)

    def _is_reading(self) -> bool:
        return self.keeper is not None and self.keeper.busy

    def _gate(self, breaker: Breaker) -> Gate:
        doors, orders = self._doors, self._orders
        post = Post(
            doors.source,
            doors.store,
            orders.layout.resume,
            orders.rules,
            orders.rhythm.breaker.messages,
            self._worker,
            doors.clock,
            doors.meter,
        )
        return Gate(post, breaker)

    @property
    def learner(self) -> LiveLearner:
        """Of the version that serves now."""
        return self._loop.model.learner if self._loop is not None else self._doors.learner

    @property
    def layout(self) -> Layout:
        """The lineage as the version that serves now sees it."""
        return self._loop.model.archive.layout if self._loop is not None else self._orders.layout

    def run(self, each_turn: Callable[[], None] = lambda: None) -> None:
        """Turn until told to stop or the source ends, then drain. Raises DrainIncomplete, and what a turn raises."""
        loop = self._loop
        if loop is None:
            raise RuntimeError("open() comes first")
        while not self._stopping.is_set() and not loop.exhausted:
            loop.turn()
            self._turned = self._doors.clock.monotonic()
            if self.keeper is not None:
                self.keeper.turn(self._turned)
            each_turn()
        self._drain(loop)

    def stop(self) -> None:
        """Ask for an orderly end. While still opening, waiting for the store ends at once, and replaying soon."""
        self._stopping.set()
        if self._loop is None:
            self._give_up.set()

    @property
    def stopping(self) -> bool:
        """Whether an orderly end was asked for."""
        return self._stopping.is_set()

    def close(self) -> None:
        """Release everything; whatever was not committed is left to the next start. Idempotent."""
        self._give_up.set()
        pools = (self._worker, self._janitor, self._versioners)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        learner = self.learner
        learner.close()  # ends a replay that a worker may be in the middle of
        if self.keeper is not None:
            self.keeper.close()  # the same
        for pool in pools:
            pool.shutdown(wait=True)
        self._stagers.shutdown(wait=True, cancel_futures=True)
        for port in (learner, self._doors.source, self._doors.dead_letters):
            port.close()

    def health(self) -> Health:
        """For the probes. Answers from memory."""
        if self._loop is None:
            return Health(live=True, ready=False, reasons=["opening: restoring and replaying"])
        age = self._doors.clock.monotonic() - self._turned
        reasons = [f"the loop has not turned for {age:.0f} s"] if age > LIVE_SECONDS else []
        waiting = self._loop.waiting_for()
        return Health(
            live=not reasons, ready=not reasons and not waiting, reasons=reasons + waiting, details=self._details()
        )

    def recommend(self, user_id: str, top_n: int) -> Answer:
        """Top N from the live model."""
        items: list[Recommendation] = list(self.learner.recommend(user_id, top_n))
        age = max(0.0, self._doors.clock.now() - self.figures.trained_at) if self.figures.trained_at else 0.0
        return Answer(items, self.figures.seq, age, self.layout.version)

    def _replayed(self, report: LearnReport) -> None:
        self.figures.learned(report)
        if self._give_up.is_set() and report.learned is not None and report.learned.clicks:
            raise _stopped_early()

    def _details(self) -> dict[str, object]:
        opened = self.opened
        epoch = opened.planner.head.epoch if opened is not None else 0
        layout = self.layout
        return {"lineage": layout.lineage, "version": layout.version, "epoch": epoch, "seq": self.figures.seq}

    def _drain(self, loop: Loop) -> None:
        deadline = self._doors.clock.monotonic() + self._orders.drain_seconds
        if drain(loop, self._doors.clock, deadline, self._beat):
            log.info("drained and checkpointed", seq=self.figures.seq)
            return
        raise DrainIncomplete(
            f"not everything was learned and checkpointed within {self._orders.drain_seconds:.0f} s. Nothing is lost: "
            "the next start replays it. Raise HEADRACE_STREAM_DRAIN_SECONDS if the store is only slow."
        )

    def _beat(self) -> None:
        self._turned = self._doors.clock.monotonic()


def _stopped_early() -> DrainIncomplete:
    return DrainIncomplete("stopped as asked while still opening. Nothing is lost: the next start begins anew.")
