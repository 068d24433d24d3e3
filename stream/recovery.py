"""Back to where the stream stood: the newest checkpoint that verifies, then every plan after it, from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import structlog

from stream import checkpoint, faultpoints
from stream.errors import CheckpointInvalid, StoreRefused
from stream.events import LearnReport, PlannedBatch, Position
from stream.history import Archive, follow
from stream.naming import FIRST_VERSION
from stream.planner import Head
from stream.ports import LiveLearner

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where the learner stands now. `event_ids`: the dedupe window, oldest first. `replayed`: plans replayed."""

    head: Head
    next_offsets: dict[int, int]
    event_ids: list[str]
    replayed: int
    checkpoint_seq: int


@dataclass(frozen=True, slots=True)
class Replaying:
    """How plans are replayed. `in_flight_max`: handed over and not yet learned; `told` is given the report of each.

    `aside`: by plan, why its clicks are not learned. `window`: newest event ids that are wanted.
    """

    in_flight_max: int
    told: Callable[[LearnReport], None]
    aside: Mapping[int, str]
    window: int = 10_000_000


def recover(archive: Archive, learner: LiveLearner, replaying: Replaying) -> Recovered:
    """Bring a started learner to the newest plan of the lineage.

    Raises StoreRefused when neither a checkpoint nor plans from the beginning can be read; LearnerLost when the learner
    dies meanwhile; Diverged when its model is no good after a plan. Where another writer wrote a newer checkpoint
    meanwhile, and collected what we were about to read, it begins again from there.
    """
    while True:
        known = _newest(archive)
        try:
            return _recover(archive, learner, replaying)
        except StoreRefused as error:
            if _newest(archive) == known:
                raise
            log.warning("overtaken while recovering, beginning again", error=str(error))


def _newest(archive: Archive) -> int:
    """Of the complete checkpoints, -1 when there is none."""
    return max((seq for seq, _ in _complete(archive)), default=-1)


def _complete(archive: Archive) -> list[tuple[int, str]]:
    return archive.patience.call("list checkpoints", lambda: list(checkpoint.complete(archive.store, archive.layout)))


def _recover(archive: Archive, learner: LiveLearner, replaying: Replaying) -> Recovered:
    position = _restore_newest(archive, learner)
    faultpoints.reach("restore")
    head = Head(position.seq, position.plan_sha256, position.epoch)
    at = Recovered(head, dict(position.next_offsets), position.window.tolist(), 0, position.seq)
    return catch_up(archive, learner, replaying, at)


def catch_up(archive: Archive, learner: LiveLearner, replaying: Replaying, at: Recovered) -> Recovered:
    """Let a learner that stands `at` some plan learn those after it. Raises as `recover` does."""
    head, offsets, event_ids, replayed = at.head, dict(at.next_offsets), list(at.event_ids), at.replayed
    for planned in replay(archive, head, offsets):
        await_room(learner, replaying.in_flight_max, replaying.told)
        learner.submit(replace(planned, aside=replaying.aside.get(planned.plan.seq, "")))
        head = Head(planned.plan.seq, planned.sha256, planned.plan.epoch)
        offsets |= planned.plan.next_offsets
        event_ids += planned.event_ids.tolist()
        if len(event_ids) > 2 * replaying.window:  # a replay may be of any length
            del event_ids[: len(event_ids) - replaying.window]
        replayed += 1
    await_room(learner, 1, replaying.told)
    return Recovered(head, offsets, event_ids, replayed, at.checkpoint_seq)


def await_room(learner: LiveLearner, in_flight_max: int, told: Callable[[LearnReport], None]) -> None:
    """Collect until fewer than `in_flight_max` plans are in flight."""
    while learner.in_flight() >= in_flight_max:
        for report in learner.collect(timeout_seconds=0.5):
            if isinstance(report, LearnReport):
                told(report)


def replay(archive: Archive, head: Head, next_offsets: dict[int, int]) -> Iterator[PlannedBatch]:
    """The plans after `head`, each checked against the one before and with its clicks read and verified.

    Raises StoreRefused naming the plan or the object that is missing or not what it should be.
    """
    for stored in follow(archive, head, next_offsets):
        yield stored.batch()


def _restore_newest(archive: Archive, learner: LiveLearner) -> Position:
    for seq, key in reversed(_complete(archive)):
        try:
            position = archive.patience.call(f"restore {key}", lambda key=key: learner.restore(key))  # type: ignore[misc]
        except CheckpointInvalid as error:
            archive.meter.add("headrace_checkpoint_invalid_total")
            log.error(  # noqa: TRY400 - the error says what is wrong with the checkpoint; a traceback adds nothing
                "checkpoint does not verify, trying the next older one", seq=seq, error=str(error)
            )
            continue
        log.info("checkpoint restored", seq=seq, version=archive.layout.version)
        return position
    if archive.layout.version != FIRST_VERSION:
        raise StoreRefused(
            f"version {archive.layout.version} of lineage {archive.layout.lineage} has no checkpoint that verifies, "
            "and was not learned from the stream alone: go back to another one with `headrace models rollback`"
        )
    return learner.restore(None)
