"""Steps 1 to 4: find the lineage, bring the learner level, take over, and point the source at the right offsets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog

from stream import faultpoints, held, plans
from stream.aside import Asides
from stream.errors import ConfigError, Diverged, Fenced, NotFound
from stream.events import LearnReport, Plan, PlannedRange
from stream.history import Archive, load
from stream.planner import Planner, Slots
from stream.ports import EventSource, LiveLearner
from stream.recovery import Recovered, Replaying, await_room, recover

log = structlog.get_logger()
_TRIES = 10
_IN_FLIGHT = 4

Start = Literal["earliest", "latest"]
Resume = Literal["stop", "earliest"]


@dataclass(frozen=True, slots=True)
class Opened:
    """The lineage is ours. `next_offsets`: of every partition; `recovered`: what came back from the store."""

    planner: Planner
    next_offsets: dict[int, int]
    recovered: Recovered


@dataclass(frozen=True, slots=True)
class Opening:
    """What taking over needs. `told` is given the report of each plan that is replayed.

    `window`: newest event ids that dedupe needs.
    `resume`: what to do when the source no longer holds what comes next: stop, or go on from the earliest offset held.
    """

    slots: Slots
    archive: Archive
    learner: LiveLearner
    source: EventSource
    asides: Asides
    start: Start
    told: Callable[[LearnReport], None]
    resume: Resume = "stop"
    window: int = 10_000_000

    def take_over(self) -> Opened:
        """Recover, fence with the next epoch, and assign the source. The learner must have been started.

        A writer that is still alive may plan while we recover: then its plan is in our slot, and we recover once more.
        """
        for _ in range(_TRIES):
            since = self.slots.clock.monotonic()
            recovered = self._recover()
            try:
                self._check_topic(recovered.head.seq)
            except NotFound:
                log.warning("another writer has collected our newest plan, recovering once more")
                continue
            lost = self._lost(recovered.next_offsets)
            offsets = _first_offsets(self.source, self.start, recovered.next_offsets)
            planner = Planner(self.slots, recovered.head, since)
            try:
                self._fence(planner, offsets)
                self._leave_out(planner, lost)
            except Fenced:
                log.warning("another writer is planning, recovering once more", seq=recovered.head.seq + 1)
                continue
            offsets |= {planned.partition: planned.end for planned in lost}
            self.source.assign(offsets)
            faultpoints.reach("assign")
            return Opened(planner, offsets, recovered)
        raise Fenced(f"another writer kept planning during {_TRIES} attempts to take over. Stop it, or leave it to it.")

    def _recover(self) -> Recovered:
        replaying = Replaying(_IN_FLIGHT, self.asides.noting(self.told), self.asides.reasons, self.window)
        while True:
            try:
                return recover(self.archive, self.learner, replaying)
            except Diverged as error:  # at most twice for a plan
                self.asides.diverged(error)
                self.learner.start()

    def _check_topic(self, seq: int) -> None:
        """Offsets mean something in their own topic only. Raises ConfigError for another one."""
        if seq < 0:
            return
        key = self.slots.layout.plan(seq)
        before = plans.decode(
            self.archive.patience.call(f"read {key}", lambda: plans.read(self.slots.store, key)), key
        ).topic
        if before != self.slots.topic:
            raise ConfigError(
                f"lineage {self.slots.layout.lineage} has read {before!r} so far, and is now told to read "
                f"{self.slots.topic!r}: its offsets mean nothing there. Name that one (--topic, HEADRACE_KAFKA_TOPIC), "
                "or begin another lineage (--lineage, HEADRACE_STORE_LINEAGE)."
            )

    def _fence(self, planner: Planner, offsets: dict[int, int]) -> None:
        plan = planner.fence(tuple(PlannedRange(partition, at, at) for partition, at in sorted(offsets.items())))
        faultpoints.reach("fence")
        self._learn(planner, plan)

    def _lost(self, wanted: Mapping[int, int]) -> tuple[PlannedRange, ...]:
        """The offsets that come next and are no longer held. Raises SourceRefused unless told to go on without them."""
        if not wanted:
            return ()
        first, end = self.source.beginning(), self.source.end()
        lost = held.gap(wanted, first)
        if held.beyond(wanted, end) or (lost and self.resume == "stop"):
            raise held.refusal(self.slots.topic, wanted, first, end)
        return lost

    def _leave_out(self, planner: Planner, lost: tuple[PlannedRange, ...]) -> None:
        """Record what retention has taken, so that the account of all offsets stays whole."""
        if lost:
            log.error(
                "offsets lost to retention, going on without them",
                lost=[f"{p.partition}: {p.start} to {p.end}" for p in lost],
            )
            self._learn(planner, planner.commit(lost, "gap"))

    def _learn(self, planner: Planner, plan: Plan) -> None:
        """A plan without clicks."""
        self.learner.submit(load(self.archive, plan, planner.head.sha256))
        await_room(self.learner, 1, self.told)


def _first_offsets(source: EventSource, start: Start, known: Mapping[int, int]) -> dict[int, int]:
    """Where to read on. A lineage that has read before takes partitions added since from their beginning.

    One that is added at this very moment the loop admits.
    """
    begin = source.end() if start == "latest" and not known else source.beginning()
    return {**begin, **known}
