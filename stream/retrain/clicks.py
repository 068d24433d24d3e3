"""All clicks of a lineage in plan order, read from the store as often as wanted and never held whole."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.batch import Batch
from stream import history, staged
from stream.errors import ConfigError
from stream.history import Archive, Stored
from stream.planner import Head
from stream.train.clicks import Ordered

_MARK_EVERY = 64
"""Plans between two places at which reading can begin."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which clicks: of plans up to `last`, but those in `without`, and from `since_ms` on by their event time."""

    last: int
    since_ms: int = 0
    without: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class _Mark:
    """Before the plan after `head`, so many clicks have passed."""

    head: Head
    clicks: int


@dataclass(slots=True)
class StoredClicks:
    """`older`: clicks from before the lineage began, learned first. Made by `scan`."""

    archive: Archive
    span: Span
    older: Ordered | None
    first_seq: int
    count: int = 0
    oldest_ms: int | None = None
    marks: list[_Mark] = field(default_factory=list)

    def __len__(self) -> int:
        return self.count + (len(self.older) if self.older is not None else 0)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Clicks [start, stop) as batches of `size`, in order; the last one of each source may be smaller."""
        older = len(self.older) if self.older is not None else 0
        end = len(self) if stop is None else stop
        if self.older is not None and start < older:
            yield from self.older.batches(size, start, min(end, older))
        if end > older:
            yield from _cut(self._tables(max(0, start - older), end - older), size)

    def _tables(self, start: int, end: int) -> Iterator[pa.Table]:
        """The rows [start, end) of the plans' clicks."""
        mark = self.marks[bisect_right(self.marks, start, key=lambda mark: mark.clicks) - 1]
        at = mark.clicks
        for _, table in _wanted(self.archive, self.span, mark.head):
            low, high = max(start - at, 0), min(end - at, table.num_rows)
            if low < high:
                yield table.slice(low, high - low)
            at += table.num_rows
            if at >= end:
                return


def scan(archive: Archive, span: Span, told: Callable[[int], None]) -> StoredClicks:
    """Count what there is, and mark where reading can begin. `told`: of each plan.

    Raises ConfigError when there is not one click, StoreRefused when something is missing or altered.
    """
    first = history.first_seq(archive)
    found = StoredClicks(archive, span, None, first)
    head = history.before(archive, first)
    plans = -1
    for stored, table in _wanted(archive, span, head):
        plans += 1
        if plans % _MARK_EVERY == 0:
            previous = Head(stored.plan.seq - 1, stored.plan.previous_sha256, 0)
            found.marks.append(_Mark(previous, found.count))
        if table.num_rows:
            oldest = int(pc.min(table["timestamp"]).cast(pa.int64()).as_py())
            found.oldest_ms = oldest if found.oldest_ms is None else min(found.oldest_ms, oldest)
        found.count += table.num_rows
        told(stored.plan.seq)
    return found


def require(clicks: StoredClicks) -> None:
    """Raises ConfigError when there is nothing to train from."""
    if not len(clicks):
        raise ConfigError("there is not one click to train from: does --since leave any?")


def _wanted(archive: Archive, span: Span, head: Head) -> Iterator[tuple[Stored, pa.Table]]:
    """Each plan after `head` up to the last, with its clicks that are wanted."""
    if head.seq >= span.last:
        return
    for stored in history.follow(archive, head, {}):
        yield stored, _rows(stored, span)
        if stored.plan.seq >= span.last:
            return


def _rows(stored: Stored, span: Span) -> pa.Table:
    tables: Sequence[pa.Table] = [] if stored.plan.seq in span.without else stored.tables()
    table = pa.concat_tables(tables) if tables else staged.SCHEMA.empty_table()
    if span.since_ms:
        keep = np.asarray(table["timestamp"].cast(pa.int64()).to_numpy()) >= span.since_ms
        table = table.filter(pa.array(keep))
    return table


def _cut(tables: Iterator[pa.Table], size: int) -> Iterator[Batch]:
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        if rows >= size:
            whole = pa.concat_tables(held)
            full = rows // size * size
            for start in range(0, full, size):
                yield staged.to_batch([whole.slice(start, size)])[0]
            held, rows = [whole.slice(full)], rows - full
    if rows:
        yield staged.to_batch(held)[0]
