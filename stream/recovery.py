"""Back to where the stream stood: the newest checkpoint that verifies, then every plan after it, from staging.

Kafka is not asked: what a plan committed to lies in the store, whatever Kafka's retention has dropped meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import structlog

from stream import checkpoint, plans, staged
from stream.errors import CheckpointInvalid, NotFound, StoreRefused
from stream.events import LearnReport, Plan, PlannedBatch, Position, StagedObject
from stream.naming import Layout, seq_of
from stream.patience import Patience
from stream.planner import Head
from stream.ports import LiveLearner, Meter, ObjectStore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Archive:
    """A lineage in the store, for reading."""

    store: ObjectStore
    layout: Layout
    patience: Patience
    meter: Meter


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where the learner stands now. `event_ids`: the dedupe window, oldest first. `replayed`: plans replayed."""

    head: Head
    next_offsets: dict[int, int]
    event_ids: list[str]
    replayed: int
    checkpoint_seq: int


def recover(
    archive: Archive, learner: LiveLearner, in_flight_max: int, told: Callable[[LearnReport], None]
) -> Recovered:
    """Bring a started learner to the newest plan of the lineage. `told` is given the report of each plan replayed.

    Raises StoreRefused when neither a checkpoint nor plans from the beginning can be read; LearnerLost when the learner
    dies meanwhile.
    """
    position = _restore_newest(archive, learner)
    head = Head(position.seq, position.plan_sha256, position.epoch)
    offsets, event_ids, replayed = dict(position.next_offsets), position.window.tolist(), 0
    for planned in replay(archive, head, offsets):
        await_room(learner, in_flight_max, told)
        learner.submit(planned)
        head = Head(planned.plan.seq, planned.sha256, planned.plan.epoch)
        offsets |= planned.plan.next_offsets
        event_ids += planned.event_ids.tolist()
        replayed += 1
    await_room(learner, 1, told)
    return Recovered(head, offsets, event_ids, replayed, position.seq)


def await_room(learner: LiveLearner, in_flight_max: int, told: Callable[[LearnReport], None]) -> None:
    """Collect until fewer than `in_flight_max` plans are in flight."""
    while learner.in_flight() >= in_flight_max:
        for report in learner.collect(timeout_seconds=0.5):
            if isinstance(report, LearnReport):
                told(report)


def replay(archive: Archive, head: Head, next_offsets: dict[int, int]) -> Iterator[PlannedBatch]:
    """The plans after `head`, each checked against the one before and with its clicks read from staging and verified.

    Raises StoreRefused naming the plan or the object that is missing or not what it should be.
    """
    offsets = dict(next_offsets)
    for key in _plan_keys(archive, head.seq):
        data = archive.patience.call(f"read {key}", lambda key=key: plans.read(archive.store, key))  # type: ignore[misc]
        plan = plans.decode(data, key)
        plans.check_place(plan, archive.layout, key)
        _check(plan, head, key)
        plans.check_ranges(plan, offsets, key)
        offsets |= plan.next_offsets
        head = Head(plan.seq, plans.sha256(data), plan.epoch)
        yield load(archive, plan, head.sha256)


def load(archive: Archive, plan: Plan, sha256: str) -> PlannedBatch:
    """A plan with its clicks."""
    tables = [_table(archive, planned.staged) for planned in plan.ranges if planned.staged is not None]
    batch, event_ids = staged.to_batch(tables)
    counts = [plans.count(planned) for planned in plan.ranges]
    rejected = sum(count[1] for count in counts)
    duplicates = sum(count[2] for count in counts)
    return PlannedBatch(plan, sha256, batch, event_ids, rejected, duplicates)


def _restore_newest(archive: Archive, learner: LiveLearner) -> Position:
    found = archive.patience.call("list checkpoints", lambda: list(checkpoint.complete(archive.store, archive.layout)))
    for seq, key in reversed(found):
        try:
            position = archive.patience.call(f"restore {key}", lambda key=key: learner.restore(key))  # type: ignore[misc]
        except CheckpointInvalid as error:
            archive.meter.add("headrace_checkpoint_invalid_total")
            log.error(  # noqa: TRY400 - the error says what is wrong with the checkpoint; a traceback adds nothing
                "checkpoint does not verify, trying the next older one", seq=seq, error=str(error)
            )
            continue
        log.info("checkpoint restored", seq=seq)
        return position
    return learner.restore(None)


def _plan_keys(archive: Archive, after: int) -> list[str]:
    layout = archive.layout
    start_after = layout.plan(after) if after >= 0 else ""
    found = archive.patience.call("list plans", lambda: list(archive.store.list(layout.plans, start_after)))
    keys = [info.key for info in found]
    for expected, key in enumerate(keys, after + 1):
        if seq_of(key) != expected:
            raise StoreRefused(
                f"plan {expected} of lineage {layout.lineage} is missing (the next one found is {key}), and no "
                "checkpoint at or after it verifies. Restore the object from a backup, or begin a new lineage."
            )
    return keys


def _check(plan: Plan, head: Head, key: str) -> None:
    if plan.seq != head.seq + 1:
        raise StoreRefused(f"{key} is plan {plan.seq}, and {head.seq + 1} comes next: one is missing")
    if plan.previous_sha256 != head.sha256 or plan.epoch < head.epoch:
        raise StoreRefused(f"{key} does not follow on plan {head.seq}: the chain of hashes is broken there")


def _table(archive: Archive, stored: StagedObject) -> pa.Table:
    try:
        data = archive.patience.call(f"read {stored.key}", lambda: staged.read(archive.store, stored))
    except NotFound:
        raise StoreRefused(f"{stored.key} is missing, though a plan commits to it. Restore it from a backup.") from None
    if staged.digest(data) != stored.sha256:
        raise StoreRefused(
            f"{stored.key} was altered: its SHA-256 is not the one in its plan. Restore it from a backup."
        )
    table = staged.decode(data, stored.key)
    if table.num_rows != stored.rows:
        raise StoreRefused(f"{stored.key} has {table.num_rows} rows, its plan says {stored.rows}")
    return table
