"""The vocabulary of the stream: what walks through each doorway, from raw bytes to a checkpoint.

This file imports nothing of ours but the model's batch. Offsets, wherever they appear as a range, are half open:
`start` is the first offset inside, `end` the first one after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from model.batch import Batch, Int64, Learned, Scores, Strings

Headers = Sequence[tuple[str, bytes | None]]
Span = tuple[int, int]
"""Offsets [start, end)."""

CutReason = Literal["rows", "bytes", "age", "drain", "fence", "gap"]
RejectReason = Literal[
    "null_value",
    "too_large",
    "not_utf8",
    "not_json",
    "not_an_object",
    "too_deep",
    "missing_user_id",
    "missing_product_id",
    "empty_user_id",
    "empty_product_id",
    "user_id_too_long",
    "product_id_too_long",
    "wrong_type",
    "bad_timestamp",
    "absurd_timestamp",
    "event_type_too_long",
    "event_id_too_long",
]


@dataclass(frozen=True, slots=True)
class RawChunk:
    """n consecutive messages of one partition, undecoded, in offset order.

    `offsets` int64 [n], strictly rising, gaps allowed (compaction, transaction markers). `timestamps` int64 [n], the
    record's own time in milliseconds since the epoch. `values`: n payloads, None for a null value. `headers`: n header
    lists, or None when no message has any. `arrived`: `Clock.monotonic()` when the chunk was received.
    """

    partition: int
    offsets: Int64
    timestamps: Int64
    values: Sequence[bytes | None]
    headers: Sequence[Headers] | None = None
    arrived: float = 0.0

    def __len__(self) -> int:
        return len(self.values)

    @property
    def end(self) -> int:
        """The offset after the last message."""
        return int(self.offsets[-1]) + 1

    def slice(self, start: int, stop: int) -> RawChunk:
        """Messages [start, stop) by position, as a chunk of its own."""
        headers = self.headers[start:stop] if self.headers is not None else None
        return RawChunk(
            self.partition,
            self.offsets[start:stop],
            self.timestamps[start:stop],
            self.values[start:stop],
            headers,
            self.arrived,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One valid click. `time`: milliseconds since the epoch, UTC."""

    user_id: str
    product_id: str
    event_type: str
    time: int
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """One message that cannot be learned, with the reason as data and the detail for a person."""

    partition: int
    offset: int
    reason: RejectReason
    detail: str
    value: bytes | None
    headers: Headers = ()
    timestamp: int = 0


@dataclass(frozen=True, slots=True)
class Decoded:
    """The valid clicks of one partition range as columns, and what was rejected. Columns have equal length n.

    `offsets`, `times` int64 [n]; `event_ids` None when no message of the range has one.
    """

    partition: int
    offsets: Int64
    users: list[str]
    items: list[str]
    types: list[str]
    times: Int64
    event_ids: list[str | None] | None
    rejects: list[Reject] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StagedObject:
    """One Parquet object in the store. `sha256` hex of its bytes; `rows` clicks in it."""

    key: str
    sha256: str
    size: int
    rows: int


@dataclass(frozen=True, slots=True)
class PlannedRange:
    """What became of the offsets [start, end) of one partition: each is in `staged` (trained), in `rejected`, in
    `duplicates`, or is one of the `absent` offsets that the source never delivered (compaction, transaction markers).
    """

    partition: int
    start: int
    end: int
    staged: StagedObject | None = None
    rejected: Mapping[str, Sequence[Span]] = field(default_factory=dict)
    duplicates: Sequence[Span] = ()
    absent: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch that is committed to: once its object exists in the store, it will be learned, once, in this order.

    `previous_sha256`: hex digest of the preceding plan's bytes ("" for the first).
    `created_ms`: wall clock, for people.
    """

    lineage: str
    seq: int
    epoch: int
    nonce: str
    previous_sha256: str
    cut: CutReason
    created_ms: int
    topic: str
    ranges: tuple[PlannedRange, ...]

    @property
    def next_offsets(self) -> dict[int, int]:
        """The offset to read next, of each partition that the plan names."""
        return {planned.partition: planned.end for planned in self.ranges}


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A committed plan with its clicks, ready for the learner.

    `event_ids`: those of the batch that have one, in order; they enter the dedupe window.
    `sha256`: of the plan's bytes. `aside`: why the clicks are not to be learned; empty: they are.
    """

    plan: Plan
    sha256: str
    batch: Batch
    event_ids: Strings
    rejected: int
    duplicates: int
    aside: str = ""


@dataclass(frozen=True, slots=True)
class Totals:
    """Events by outcome since the lineage began. `aside`: valid clicks of batches at which learning diverged."""

    trained: int = 0
    rejected: int = 0
    duplicates: int = 0
    aside: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """Where the learner's state stands: everything up to and including plan `seq` is in it (-1: nothing).

    `next_offsets`: per partition. `window`: the event ids of the dedupe window, oldest first.
    """

    seq: int
    plan_sha256: str
    epoch: int
    next_offsets: dict[int, int]
    totals: Totals
    window: Strings


@dataclass(frozen=True, slots=True)
class LearnReport:
    """What the learner says after one plan. `already_applied`: it had it, nothing changed, the other figures are empty.

    `seconds`: wall time by step. `rows`: table sizes by table name. `quality`: decayed means by name
    (`loss`, `hit_ratio`, `mrr`, `popular_hit_ratio`, `popular_mrr`). `drift`: score by signal. `occupancy`: how full
    `users` and `items` are and what became of ids since the lineage began (`rows`, `capacity`, `admitted`, `refused`,
    `evicted`), and `memory` in bytes (`used`, `budget`). `newest_ms`: event time of the newest click of the batch, 0
    when it is empty. `aside`: clicks that were set aside instead of learned.
    """

    seq: int
    already_applied: bool = False
    learned: Learned | None = None
    scores: Scores | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    drift: Mapping[str, float] = field(default_factory=dict)
    occupancy: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    newest_ms: int = 0
    aside: int = 0


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """A written checkpoint.

    `manifest_key` names its MANIFEST; `size` bytes of all parts; `stall_seconds`: how long the learner did not learn
    because of it; `seconds`: how long it took in all.
    """

    seq: int
    manifest_key: str
    size: int
    stall_seconds: float
    seconds: float
    next_offsets: dict[int, int]


@dataclass(frozen=True, slots=True)
class CheckpointFailed:
    """A checkpoint that could not be written; the state is unharmed, the next one is due later.

    `reason`: for a person.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One suggested item. `score`: in log-odds units, comparable within one answer only."""

    product_id: str
    score: float
