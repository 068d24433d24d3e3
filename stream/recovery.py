"""Back to where the stream stood: the newest checkpoint that verifies, then every plan after it, from staging.

Kafka is not asked: what a plan committed to lies in the store, whatever Kafka's retention has dropped meanwhile. Only
when a staged object turns out lost, while a lineage is being opened, are its messages fetched again (`refetch.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import structlog

from stream import checkpoint, faultpoints, plans, staged
from stream.errors import CheckpointInvalid, NotFound, StoreRefused
from stream.events import LearnReport, Plan, PlannedBatch, PlannedRange, Position, StagedObject
from stream.naming import Layout, seq_of
from stream.patience import Patience
from stream.planner import Head
from stream.ports import LiveLearner, Meter, ObjectStore
from stream.refetch import Refetch

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Archive:
    """A lineage in the store, for reading. `refetch`: makes lost clicks again, while the source is ours alone."""

    store: ObjectStore
    layout: Layout
    patience: Patience
    meter: Meter
    refetch: Refetch | None = None


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

    `aside`: by plan, why its clicks are not learned.
    """

    in_flight_max: int
    told: Callable[[LearnReport], None]
    aside: Mapping[int, str]


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
    offsets, event_ids, replayed = dict(position.next_offsets), position.window.tolist(), 0
    for planned in replay(archive, head, offsets):
        await_room(learner, replaying.in_flight_max, replaying.told)
        learner.submit(replace(planned, aside=replaying.aside.get(planned.plan.seq, "")))
        head = Head(planned.plan.seq, planned.sha256, planned.plan.epoch)
        offsets |= planned.plan.next_offsets
        event_ids += planned.event_ids.tolist()
        replayed += 1
    await_room(learner, 1, replaying.told)
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
        data = _read_plan(archive, key)
        plan = plans.decode(data, key)
        plans.check_place(plan, archive.layout, key)
        _check(plan, head, key)
        plans.check_ranges(plan, offsets, key)
        offsets |= plan.next_offsets
        head = Head(plan.seq, plans.sha256(data), plan.epoch)
        yield load(archive, plan, head.sha256)


def _read_plan(archive: Archive, key: str) -> bytes:
    try:
        return archive.patience.call(f"read {key}", lambda: plans.read(archive.store, key))
    except NotFound:
        raise StoreRefused(f"{key} is gone, and was there a moment ago: has another process collected it?") from None


def load(archive: Archive, plan: Plan, sha256: str) -> PlannedBatch:
    """A plan with its clicks."""
    tables = [_table(archive, planned, planned.staged) for planned in plan.ranges if planned.staged is not None]
    batch, event_ids = staged.to_batch(tables)
    counts = [plans.count(planned) for planned in plan.ranges]
    rejected = sum(count[1] for count in counts)
    duplicates = sum(count[2] for count in counts)
    return PlannedBatch(plan, sha256, batch, event_ids, rejected, duplicates)


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


def _table(archive: Archive, planned: PlannedRange, stored: StagedObject) -> pa.Table:
    data, wrong = archive.patience.call(f"read {stored.key}", lambda: _read(archive.store, stored))
    if wrong and archive.refetch is None:
        raise StoreRefused(
            f"{stored.key} (partition {planned.partition}, offsets {planned.start} to {planned.end}) {wrong}, though a "
            "plan commits to it. Start again: at its start the service fetches the messages again from the source, if "
            "they are still held. Else restore the object from a backup."
        )
    if wrong and archive.refetch is not None:
        data = archive.refetch.mend(planned, stored, wrong)
    table = staged.decode(data, stored.key)
    if table.num_rows != stored.rows:
        raise StoreRefused(f"{stored.key} has {table.num_rows} rows, its plan says {stored.rows}")
    return table


def _read(store: ObjectStore, stored: StagedObject) -> tuple[bytes, str]:
    """The object's bytes, and what is wrong with them: nothing, if they are those of the plan."""
    try:
        data = staged.read(store, stored)
    except NotFound:
        return b"", "is missing"
    return data, "" if staged.digest(data) == stored.sha256 else "was altered: its SHA-256 is not the one in its plan"
