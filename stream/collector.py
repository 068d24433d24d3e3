"""Step 14: archive what recovery no longer needs, then delete it. Never at or above the oldest checkpoint kept.

Plans go in groups of fixed numbers, so that a group's archive object has one name and one content however often the
collection is begun: archive first, then the staged objects and plans, oldest first. A crash in between leaves something
to delete for the next time, never a plan whose clicks are gone and that someone may still have to replay.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, takewhile

import pyarrow.parquet as pq

from stream import checkpoint, faultpoints, plans, staged
from stream.errors import NotFound, PreconditionFailed, StoreRefused
from stream.events import Plan, StagedObject
from stream.naming import MANIFEST, Layout, seq_of
from stream.policy import ARCHIVE_GROUP, CheckpointPolicy
from stream.ports import ObjectInfo, ObjectStore

GROUP = ARCHIVE_GROUP
GROUPS_MAX = 16
"""Groups that `tolerant` collects: more plans than usually lie between two checkpoints, so that garbage never gains on
us, and few enough that whoever waits behind the call is not kept for long."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What one call did: objects removed, and clicks moved into the archive."""

    objects: int = 0
    archived: int = 0


@dataclass(frozen=True, slots=True)
class _Read:
    """A plan, and the bytes that it was read from."""

    plan: Plan
    data: bytes


@dataclass(frozen=True, slots=True)
class Collector:
    """Collects one lineage's garbage, at most one group of plans a call, as the version that serves sees it.

    `spare`: whether somebody else in this process is reading plans; none is collected then.
    """

    store: ObjectStore
    layout: Layout
    policy: CheckpointPolicy
    spare: Callable[[], bool] = lambda: False

    def collect(self) -> Collected:
        """Remove what lies below the oldest checkpoint kept and is older than the grace period."""
        kept = [seq for seq, _ in checkpoint.complete(self.store, self.layout)][-self.policy.kept :]
        if len(kept) < self.policy.kept:
            return Collected()
        # The store's own time: a wall clock that jumps would collect what others are just reading.
        now = self.store.head(self.layout.manifest(kept[-1])).modified
        deadline = now - self.policy.grace_seconds
        below = 0 if self.spare() else kept[0]
        group = [self._read(info.key) for info in self._oldest_group(below=below, deadline=deadline)]
        archived = self._archive(group) if group and self.policy.archive else 0
        return Collected(self._clear(group) + self._clear_checkpoints(kept[0], deadline), archived)

    def _oldest_group(self, below: int, deadline: float) -> list[ObjectInfo]:
        """The plans that are left of the oldest group; empty while any of the group may still be needed."""
        group: list[ObjectInfo] = []
        end = 0
        for info in self.store.list(self.layout.plans):
            seq = seq_of(info.key)
            if seq is None:
                continue
            end = end or (seq // GROUP + 1) * GROUP
            if seq >= end:
                break
            if end > below or info.modified > deadline:
                return []
            group.append(info)
        return group if end <= below else []

    def _archive(self, group: Sequence[_Read]) -> int:
        """A group's plans, and everything that they staged, in plan order; how many clicks. Not again after a crash."""
        first = group[0].plan.seq // GROUP * GROUP
        if group[0].plan.seq != first or not all(map(self._has, _staged(group[:1]))):
            return 0  # clearing it had begun, so it was archived
        sink = io.BytesIO()
        with pq.ParquetWriter(sink, staged.SCHEMA, compression="zstd") as writer:
            for stored in _staged(group):
                data = staged.read(self.store, stored)
                if staged.digest(data) != stored.sha256:
                    raise StoreRefused(f"{stored.key} was altered: not archived, and nothing is collected")
                writer.write_table(staged.decode(data, stored.key))
        lines = b"\n".join(each.data for each in group) + b"\n"
        with suppress(PreconditionFailed):
            self.store.put(self.layout.archived_plans(first, first + GROUP - 1), lines, if_absent=True)
        try:
            self.store.put(self.layout.archive(first, first + GROUP - 1), sink.getvalue(), if_absent=True)
        except PreconditionFailed:
            return 0  # archived before a crash; the content is the same
        return sum(stored.rows for stored in _staged(group))

    def _clear(self, group: Sequence[_Read]) -> int:
        keys = [
            key
            for each in group
            for key in [*(stored.key for stored in _staged([each])), self.layout.plan(each.plan.seq)]
        ]
        for key in keys:
            self.store.delete(key)
            faultpoints.reach("collect")
        return len(keys)

    def _has(self, stored: StagedObject) -> bool:
        try:
            self.store.head(stored.key)
        except NotFound:
            return False
        return True

    def _read(self, key: str) -> _Read:
        data = plans.read(self.store, key)
        plan = plans.decode(data, key)
        plans.check_place(plan, self.layout, key)
        return _Read(plan, data)

    def _clear_checkpoints(self, below: int, deadline: float) -> int:
        """Delete older checkpoints, MANIFEST first: what is half deleted is no checkpoint. Orphaned parts go too."""
        end = self.layout.checkpoint(below)
        older = takewhile(lambda info: info.key < end, self.store.list(self.layout.checkpoints))
        removed = 0
        for _, found in groupby(older, lambda info: info.key.rpartition("/")[0]):
            infos = sorted(found, key=lambda info: not info.key.endswith(f"/{MANIFEST}"))
            if max(info.modified for info in infos) > deadline:
                continue  # parts are older than their MANIFEST, and someone may have begun to read it
            for info in infos:
                self.store.delete(info.key)
            removed += len(infos)
        return removed


def _staged(group: Sequence[_Read]) -> Iterator[StagedObject]:
    return (planned.staged for each in group for planned in each.plan.ranges if planned.staged is not None)


def tolerant(collector: Collector, closing: Callable[[], bool] = lambda: False) -> Collected:
    """Collect group after group, until `closing`.

    An object that a second collector removed meanwhile ends it too, and is no error.
    """
    objects = archived = 0
    with suppress(NotFound):
        for _ in range(GROUPS_MAX):
            done = collector.collect()
            objects, archived = objects + done.objects, archived + done.archived
            if not done.objects or closing():
                break
    return Collected(objects, archived)
