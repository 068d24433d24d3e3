"""A lineage as it is stored, plan by plan with its clicks: out of the archive first, then out of staging.

Kafka is not asked: what a plan committed to lies in the store, whatever Kafka's retention has dropped meanwhile. Only
when a staged object turns out lost, while a lineage is being opened, are its messages fetched again (`refetch.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from stream import bounded, parquet, plans, staged
from stream.errors import NotFound, StoreRefused
from stream.events import Plan, PlannedBatch, PlannedRange, StagedObject
from stream.naming import Layout, seq_of
from stream.patience import Patience
from stream.planner import Head
from stream.policy import ARCHIVE_GROUP
from stream.ports import Meter, ObjectInfo, ObjectStore
from stream.refetch import Refetch
from stream.thrift import Unreadable


@dataclass(frozen=True, slots=True)
class Archive:
    """A lineage in the store, for reading. `refetch`: makes lost clicks again, while the source is ours alone."""

    store: ObjectStore
    layout: Layout
    patience: Patience
    meter: Meter
    refetch: Refetch | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A plan as it lies in the store. `tables` reads its clicks: a table for each range that has any, in order."""

    plan: Plan
    sha256: str
    tables: Callable[[], Sequence[pa.Table]]

    @property
    def head(self) -> Head:
        """The plan as the newest one so far."""
        return Head(self.plan.seq, self.sha256, self.plan.epoch)

    def batch(self) -> PlannedBatch:
        """The plan with its clicks, for the learner."""
        return assemble(self.plan, self.sha256, self.tables())


def follow(archive: Archive, head: Head, next_offsets: dict[int, int]) -> Iterator[Stored]:
    """The plans after `head`, each checked against the one before.

    Raises StoreRefused naming the plan or the object that is missing or not what it should be.
    """
    offsets = dict(next_offsets)
    for key, place, data, plan, tables in _found(archive, head.seq):
        plans.check_place(plan, archive.layout, place)
        _check(plan, head, key)
        plans.check_ranges(plan, offsets, key)
        offsets |= plan.next_offsets
        stored = Stored(plan, plans.sha256(data), tables)
        head = stored.head
        yield stored


def first_seq(archive: Archive) -> int:
    """The first plan from which on all are there, in the archive or by themselves; 0 where nothing was collected."""
    first = _first_plan(archive, -1)
    if first is None or not first:
        return 0
    groups = {info.key for info in _listed(archive, archive.layout.archived)}
    start = first // ARCHIVE_GROUP * ARCHIVE_GROUP
    while start and archive.layout.archived_plans(start - ARCHIVE_GROUP, start - 1) in groups:
        start -= ARCHIVE_GROUP
    whole = archive.layout.archived_plans(*_group(first)) in groups or not first % ARCHIVE_GROUP
    return start if whole else first


def continues(store: ObjectStore, layout: Layout, after: int) -> bool:
    """Whether the plan after `after` is there, by itself or in the archive; true where there is none yet."""
    start_after = layout.plan(after) if after >= 0 else ""
    info = next(iter(store.list(layout.plans, start_after)), None)
    if info is None or seq_of(info.key) == after + 1:
        return True
    key = layout.archived_plans(*_group(after + 1))
    return any(found.key == key for found in store.list(key))


def before(archive: Archive, seq: int) -> Head:
    """What comes before plan `seq`, by what it says itself: for who reads a history whose beginning is gone."""
    if not seq:
        return Head(-1, "", 0)
    found = next(_found(archive, seq - 1), None)
    if found is None:
        raise _missing(archive, seq, "none")
    return Head(seq - 1, found[3].previous_sha256, 0)


def load(archive: Archive, plan: Plan, sha256: str) -> PlannedBatch:
    """A plan that has just been written, with its clicks."""
    return assemble(plan, sha256, _staged_tables(archive, plan))


def assemble(plan: Plan, sha256: str, tables: Sequence[pa.Table]) -> PlannedBatch:
    """A plan and its clicks as the learner takes them."""
    batch, event_ids = staged.to_batch(tables)
    counts = [plans.count(planned) for planned in plan.ranges]
    rejected, duplicates = sum(each[1] for each in counts), sum(each[2] for each in counts)
    return PlannedBatch(plan, sha256, batch, event_ids, rejected, duplicates)


_Entry = tuple[str, str, bytes, Plan, Callable[[], Sequence[pa.Table]]]
"""A plan: the key it was read from, the one where it belongs, its bytes, itself, and what reads its clicks."""


def _found(archive: Archive, after: int) -> Iterator[_Entry]:
    """Each plan from `after` + 1 on."""
    while (first := _first_plan(archive, after)) is not None and first != after + 1:
        last = after
        for seq, entry in _archived(archive, after):
            yield entry
            last = seq
        if last == after:
            raise _missing(archive, after + 1, archive.layout.plan(first))
        after = last
    for key in _plan_keys(archive, after):
        data = _read_plan(archive, key)
        plan = plans.decode(data, key)
        yield key, key, data, plan, partial(_staged_tables, archive, plan)


def _first_plan(archive: Archive, after: int) -> int | None:
    """The first plan after `after` that is there by itself."""
    start_after = archive.layout.plan(after) if after >= 0 else ""
    found = archive.patience.call(
        "look for the next plan", lambda: next(iter(archive.store.list(archive.layout.plans, start_after)), None)
    )
    if found is None:
        return None
    seq = seq_of(found.key)
    if seq is None:
        raise _missing(archive, after + 1, found.key)
    return seq


def _archived(archive: Archive, after: int) -> Iterator[tuple[int, _Entry]]:
    """The plans after `after` out of the archive of one group; none where there is no such archive."""
    first, last = _group(after + 1)
    key, clicks = archive.layout.archived_plans(first, last), archive.layout.archive(first, last)
    try:
        lines = archive.patience.call(
            f"read {key}", lambda: bounded.read(archive.store, key, bounded.ARCHIVED_PLANS_BYTES_MAX)
        ).splitlines()
    except NotFound:
        return
    if len(lines) != ARCHIVE_GROUP:
        raise StoreRefused(f"{key} holds {len(lines)} plans, not {ARCHIVE_GROUP}: restore it from a backup")
    tables = _archived_tables(archive, clicks)
    for seq, line in enumerate(lines, first):
        plan = plans.decode(line, key)
        found = _next_tables(tables, plan, clicks)
        if seq > after:
            yield seq, (key, archive.layout.plan(seq), line, plan, partial(_as_it_is, found))


def _as_it_is(tables: Sequence[pa.Table]) -> Sequence[pa.Table]:
    """Of clicks that were read already."""
    return tables


def _archived_tables(archive: Archive, key: str) -> Iterator[pa.Table]:
    """What was staged, one object after the other."""
    patience, store = archive.patience, archive.store

    def at(start: int, length: int) -> bytes:
        return patience.call(f"read {key}", lambda: store.get_range(key, start, length))

    try:
        size = patience.call(f"look for {key}", lambda: store.head(key)).size
        yield from parquet.tables(at, size, staged.SCHEMA, staged.ARCHIVE_LIMITS)
    except NotFound:
        raise StoreRefused(f"{key} is gone, and its plans are there: restore it from a backup") from None
    except Unreadable as error:
        raise StoreRefused(f"{key} is no archive of Headrace: {error}. Restore it from a backup") from error


def _next_tables(tables: Iterator[pa.Table], plan: Plan, key: str) -> Sequence[pa.Table]:
    """The tables of the plan that is next in the archive."""
    found = []
    for planned in plan.ranges:
        if planned.staged is None:
            continue
        table = next(tables, None)
        if table is None or table.num_rows != planned.staged.rows:
            rows = "no clicks" if table is None else f"{table.num_rows} clicks"
            raise StoreRefused(f"{key} has {rows} for plan {plan.seq}, which trained {planned.staged.rows}")
        found.append(table)
    return found


def _group(seq: int) -> tuple[int, int]:
    """First and last plan of the archive that `seq` belongs into."""
    first = seq // ARCHIVE_GROUP * ARCHIVE_GROUP
    return first, first + ARCHIVE_GROUP - 1


def _plan_keys(archive: Archive, after: int) -> list[str]:
    layout = archive.layout
    found = _listed(archive, layout.plans, layout.plan(after) if after >= 0 else "")
    keys = [info.key for info in found]
    for expected, key in enumerate(keys, after + 1):
        if seq_of(key) != expected:
            raise _missing(archive, expected, key)
    return keys


def _listed(archive: Archive, prefix: str, start_after: str = "") -> list[ObjectInfo]:
    return archive.patience.call(f"list {prefix}", lambda: list(archive.store.list(prefix, start_after)))


def _missing(archive: Archive, expected: int, key: str) -> StoreRefused:
    layout = archive.layout
    return StoreRefused(
        f"plan {expected} of lineage {layout.lineage} is missing (the next one found is {key}), neither does the "
        f"archive have it, and no checkpoint of version {layout.version} at or after it verifies. Restore the object "
        "from a backup, go to another version (`headrace models list`), or begin a new lineage."
    )


def _check(plan: Plan, head: Head, key: str) -> None:
    if plan.seq != head.seq + 1:
        raise StoreRefused(f"{key} is plan {plan.seq}, and {head.seq + 1} comes next: one is missing")
    if plan.previous_sha256 != head.sha256 or plan.epoch < head.epoch:
        raise StoreRefused(f"{key} does not follow on plan {head.seq}: the chain of hashes is broken there")


def _read_plan(archive: Archive, key: str) -> bytes:
    try:
        return archive.patience.call(f"read {key}", lambda: plans.read(archive.store, key))
    except NotFound:
        raise StoreRefused(f"{key} is gone, and was there a moment ago: has another process collected it?") from None


def _staged_tables(archive: Archive, plan: Plan) -> Sequence[pa.Table]:
    return [_table(archive, planned, planned.staged) for planned in plan.ranges if planned.staged is not None]


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
