"""Records read by whole batches: one by one, in Python, kafka-python spends more on them than all that follows does.

What is subtle stays kafka-python's: checksums, aborted transactions, control records, old formats, where to fetch next.
Only the records of a plain batch (format 2, no headers, nothing odd) are read as columns. All others, damaged ones
included, take kafka-python's own way, and fail there with its own errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import dropwhile, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatch

from model.batch import Int64, UInt8

Row = tuple[int, int, bytes | None, Sequence[Any]]
"""Offset, milliseconds since the epoch, value, headers."""
_VARINT_BYTES_MAX = 9
"""A longer number, which nothing reasonable has, is left to Python's own integers."""
_BASE_MAX = 1 << 61


def read_by_batches(consumer: Any) -> None:
    """From now on, `consumer.poll` answers lists of `Row` instead of ConsumerRecord."""
    consumer._fetcher.PartitionRecords = _PartitionRows  # noqa: SLF001  there is no public place to choose it


class _PartitionRows(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types
    """What was fetched of one partition. The base class yields one record per plain batch; `take` opens it."""

    def __init__(self, fetch_offset: int, tp: Any, records: Any, **options: Any) -> None:
        super().__init__(fetch_offset, tp, _Batches(records), **options)
        self._opened: list[Row] = []
        self._place = 0
        self._begun = False

    def take(self, n: int | None = None) -> list[Row]:
        """The next `n` rows, fewer at the end; an error after some of them is raised by the next call."""
        self._maybe_raise_next_inline_exception()
        rows: list[Row] = []
        limit = n if n is not None else np.iinfo(np.int64).max
        try:
            while len(rows) < limit and self._open():
                stop = min(self._place + limit - len(rows), len(self._opened))
                rows += self._opened[self._place : stop]
                self._place = stop
        except Exception as error:
            if not rows:
                raise
            self._next_inline_exception = error
        # Once drained, the base has said where to go on, past what compaction has left of the last batch.
        if rows and self.record_iterator is not None:
            self.next_fetch_offset = rows[-1][0] + 1
        return rows

    def _open(self) -> bool:
        """Have rows to give; False at the end."""
        while self._place == len(self._opened):
            record = next(self.record_iterator, None) if self.record_iterator is not None else None
            if record is None:
                return False
            self._opened, self._place = _rows(record), 0
            if not self._begun:  # a fetch that begins inside a batch brings all of it
                self._opened = list(dropwhile(lambda row: row[0] < self.fetch_offset, self._opened))
                self._begun = bool(self._opened)
        return True


def _rows(record: Any) -> list[Row]:
    if isinstance(record.value, _Rows):
        return record.value
    return [(record.offset, record.timestamp, record.value, record.headers)]


class _Rows(list[Row]):
    """All rows of a batch, in the place of a value."""


class _Batches:
    """kafka-python's record batches, the plain ones replaced by such as yield a single record."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if batch is None or batch.magic != 2 or batch.is_control_batch:
            return batch
        return _Batch(batch._buffer)  # noqa: SLF001


class _Batch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no types
    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        self._maybe_uncompress()
        rows = _read(self)
        if rows is None:
            yield from iter(self.__next__, None)
        elif rows:
            yield _Whole(rows)


class _Whole:
    """A batch's rows, looking like one record."""

    key, headers, timestamp, timestamp_type, checksum = None, (), 0, 0, None

    def __init__(self, rows: _Rows) -> None:
        self.value = rows
        self.offset = rows[-1][0]
        self.size_in_bytes = 0

    def validate_crc(self) -> bool:
        return True  # the batch's own was checked


def _read(batch: Any) -> _Rows | None:
    """All records of an uncompressed batch; None when one has headers, or anything about them is odd."""
    if max(abs(batch.first_timestamp), abs(batch.base_offset)) > _BASE_MAX:  # sums must stay within 64 bits
        return None
    data = bytes(batch._buffer)  # noqa: SLF001
    try:
        bounds = _bounds(data, batch._pos, batch.records_count)  # noqa: SLF001
        return _columns(batch, data, np.array(bounds, np.int64))
    except (IndexError, OverflowError):  # a length that leads out of the batch
        return None


def _bounds(data: bytes, place: int, count: int) -> list[int]:
    """Where each record begins, and where the last one ends, [count + 1]. Raises IndexError if that is not the batch's
    end. The one loop that cannot be done by columns, for each record says where the next one is.
    """
    bounds = [place]
    add = bounds.append
    for _ in range(count):
        size = data[place]
        if size > 127:
            size, shift = size & 127, 0
            byte = 128
            while byte > 127:
                place += 1
                shift += 7
                byte = data[place]
                size |= (byte & 127) << shift
        place += 1 + (size >> 1)
        add(place)
    if place != len(data):
        raise IndexError("the records do not fill the batch")
    return bounds


def _columns(batch: Any, data: bytes, bounds: Int64) -> _Rows | None:
    raw = np.frombuffer(data + bytes(_VARINT_BYTES_MAX), np.uint8)
    lengths, place = _varints(raw, bounds[:-1])
    attributes = raw[place]
    delays, place = _varints(raw, place + 1)
    steps, place = _varints(raw, place)
    key_sizes, place = _varints(raw, place)
    sizes, first = _varints(raw, place + np.maximum(key_sizes, 0))
    last = first + np.maximum(sizes, 0)
    headers, place = _varints(raw, last)
    odd = attributes.any() or headers.any() or (np.diff(steps) <= 0).any()
    if odd or (lengths < 0).any() or (place != bounds[1:]).any():
        return None
    values: list[bytes | None] = [data[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
    for absent in np.flatnonzero(sizes < 0).tolist():
        values[absent] = None
    times = np.full(len(steps), batch.max_timestamp) if batch.timestamp_type else batch.first_timestamp + delays
    return _Rows(zip((batch.base_offset + steps).tolist(), times.tolist(), values, repeat(())))


def _varints(raw: UInt8, place: Int64) -> tuple[Int64, Int64]:
    """The zigzag numbers that begin at `place` int64 [n], and where each ends. Raises IndexError outside of `raw`."""
    byte = raw[place]
    value: npt.NDArray[np.uint64] = (byte & 127).astype(np.uint64)
    place = place + 1
    more, shift = byte > 127, 7
    while more.any():
        if shift >= 7 * _VARINT_BYTES_MAX:
            raise IndexError("a number of too many bytes")
        byte = np.where(more, raw[place], 0).astype(np.uint8)
        value |= (byte & 127).astype(np.uint64) << np.uint64(shift)
        place = place + more
        more, shift = byte > 127, shift + 7
    numbers = (value >> np.uint64(1)).astype(np.int64) ^ -(value & np.uint64(1)).astype(np.int64)
    return numbers, place
