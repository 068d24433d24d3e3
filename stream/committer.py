"""From a cut to a committed plan: decode, drop duplicates, stage, dead-letter, plan. In that order, because of crashes.

Steps 6, 8 and 9 of the cycle. A crash before the plan exists leaves orphans (a staged object, a dead letter) that the
next run writes again; a crash after it leaves a plan that the next run replays. The window of event ids moves last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from stream import bounded, faultpoints, staged
from stream.batching import Cut
from stream.breaker import Breaker
from stream.decode import DecodeRules, decode_chunk
from stream.dedupe import Window
from stream.errors import PreconditionFailed
from stream.events import Decoded, PlannedBatch, PlannedRange, Reject, StagedObject
from stream.naming import Layout
from stream.patience import Patience
from stream.planner import Head, Planner
from stream.policy import spans
from stream.ports import DeadLetters, Executor, ObjectStore


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed batch and what it cost. `arrived`: monotonic seconds at which its oldest message did. `seconds`: wall
    time by step. `reasons`: rejects by reason.
    """

    planned: PlannedBatch
    arrived: float
    seconds: dict[str, float]
    reasons: dict[str, int]


@dataclass(frozen=True, slots=True)
class Held:
    """A batch that was not committed, because the breaker opened on it. `next_offsets`: where the plans end."""

    next_offsets: dict[int, int]


@dataclass(frozen=True, slots=True)
class Desk:
    """What committing needs. `stagers`: threads that stage the ranges of one batch side by side."""

    store: ObjectStore
    layout: Layout
    topic: str
    rules: DecodeRules
    dead_letters: DeadLetters
    patience: Patience
    breaker: Breaker
    stagers: Executor | None = None


@dataclass(slots=True)
class _Watch:
    """Wall time by step."""

    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._since
        self._since = now


class Committer:
    """Turns cuts into plans. Used by one thread at a time."""

    def __init__(self, desk: Desk, planner: Planner, window: Window, next_offsets: dict[int, int]) -> None:
        """`next_offsets`: where each partition's next range must begin, by the plans so far."""
        self._desk = desk
        self._planner = planner
        self._window = window
        self._next_offsets = dict(next_offsets)

    @property
    def head(self) -> Head:
        """The newest plan written here."""
        return self._planner.head

    def admit(self, next_offsets: dict[int, int]) -> None:
        """New partitions, and where their first range must begin."""
        self._next_offsets.update(next_offsets)

    def check(self) -> None:
        """Raises Fenced when another writer has taken the lineage over."""
        self._planner.check()

    def check_own(self, head: Head) -> None:
        """Raises Fenced unless `head`, the newest plan that was found in the store, is the one written here last."""
        self._planner.check_own(head)

    def commit(self, cut: Cut) -> Committed | Held:
        """Commit one batch, unless the breaker opens on it: then nothing is written.

        Raises Fenced, StoreRefused, SourceRefused; nothing is half done then: see the module.
        """
        watch = _Watch()
        decoded = [decode_chunk(chunk, self._desk.rules) for chunk in cut.chunks]
        if not self._desk.breaker.admits(decoded):
            return Held(dict(self._next_offsets))
        deduped = self._window.split(decoded)
        watch.lap("decode")
        faultpoints.reach("decode")
        tables = [staged.to_table(kept) for kept in deduped.ranges]
        ends = [chunk.end for chunk in cut.chunks]
        objects = self._stage_all(deduped.ranges, tables, ends)
        watch.lap("stage")
        faultpoints.reach("stage")
        rejects = [reject for kept in decoded for reject in kept.rejects]
        if rejects:
            self._desk.patience.call("send dead letters", lambda: self._desk.dead_letters.send(rejects))
        watch.lap("dead_letter")
        faultpoints.reach("dead-letter")
        ranges = tuple(
            self._range(kept, end, stored, repeated)
            for kept, end, stored, repeated in zip(deduped.ranges, ends, objects, deduped.duplicates, strict=True)
        )
        plan = self._planner.commit(ranges, cut.reason)
        faultpoints.reach("plan")
        self._next_offsets.update(plan.next_offsets)
        self._window.advance(deduped.event_ids)
        watch.lap("plan")
        batch, event_ids = staged.to_batch(tables)
        duplicates = sum(map(len, deduped.duplicates))
        planned = PlannedBatch(plan, self._planner.head.sha256, batch, event_ids, len(rejects), duplicates)
        watch.lap("assemble")
        return Committed(planned, cut.arrived, watch.seconds, _by_reason(rejects))

    def _stage_all(
        self, ranges: Sequence[Decoded], tables: Sequence[pa.Table], ends: Sequence[int]
    ) -> list[StagedObject | None]:
        jobs = list(zip(ranges, tables, ends, strict=True))
        if self._desk.stagers is None or len(jobs) < 2:
            return [self._stage(*job) for job in jobs]
        staging = [self._desk.stagers.submit(self._stage, *job) for job in jobs]
        return [each.result() for each in staging]

    def _stage(self, kept: Decoded, table: pa.Table, end: int) -> StagedObject | None:
        if not table.num_rows:
            return None
        data = staged.encode(table)
        sha256 = staged.digest(data)
        start = self._start(kept)
        key = self._desk.layout.stage(self._desk.topic, kept.partition, start, end)
        other = self._desk.layout.stage(self._desk.topic, kept.partition, start, end, f".{sha256[:16]}")
        key = self._desk.patience.call(f"stage {key}", lambda: self._put(key, other, data))
        return StagedObject(key, sha256, len(data), table.num_rows)

    def _put(self, key: str, other: str, data: bytes) -> str:
        """Write under `key`; if something else lies there (an orphan of a crash, or a zombie's), under `other`."""
        try:
            self._desk.store.put(key, data, if_absent=True)
        except PreconditionFailed:
            if bounded.is_same(self._desk.store, key, data):
                return key
            self._desk.store.put(other, data)
            return other
        return key

    def _range(self, kept: Decoded, end: int, stored: StagedObject | None, repeated: Sequence[int]) -> PlannedRange:
        reasons: dict[str, list[int]] = {}
        for reject in kept.rejects:
            reasons.setdefault(reject.reason, []).append(reject.offset)
        start = self._start(kept)
        present = len(kept.users) + len(kept.rejects) + len(repeated)
        rejected = {reason: spans(offsets) for reason, offsets in sorted(reasons.items())}
        return PlannedRange(kept.partition, start, end, stored, rejected, spans(repeated), absent=end - start - present)

    def _start(self, kept: Decoded) -> int:
        """Ranges join without a gap: offsets that the source never delivered belong to the range after them."""
        return self._next_offsets[kept.partition]


def _by_reason(rejects: Sequence[Reject]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reject in rejects:
        counts[reject.reason] = counts.get(reject.reason, 0) + 1
    return counts
