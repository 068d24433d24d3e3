"""When is a batch due, and which messages are in it.

The batcher counts messages and bytes as they arrive, before they are decoded. Where it cuts is recorded in the plan and
never computed again, so the cut may depend on the clock while the model does not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from stream.events import CutReason, RawChunk

_OVERHEAD_BYTES = 64
"""Counted per message beside its payload, for the objects that hold it."""


@dataclass(frozen=True, slots=True)
class CutPolicy:
    """A batch is cut at `rows` messages, `bytes` payload bytes or `age_seconds` after its first message arrived."""

    rows: int = 5000
    bytes: int = 8 * 2**20
    age_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class PressurePolicy:
    """Fetching pauses at `high_bytes` buffered and resumes at `low_bytes`."""

    high_bytes: int = 64 * 2**20
    low_bytes: int = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Cut:
    """The messages of one batch: one chunk per partition, partitions ascending. `arrived`: when the oldest did."""

    chunks: tuple[RawChunk, ...]
    reason: CutReason
    arrived: float


class Batcher:
    """Holds what was polled until it is cut off as a batch, in arrival order; every message leaves exactly once."""

    def __init__(self, policy: CutPolicy) -> None:
        self._policy = policy
        self._chunks: deque[tuple[RawChunk, int]] = deque()
        self.rows = 0
        self.bytes = 0

    def add(self, chunk: RawChunk) -> None:
        """Take a chunk in. Offsets of a partition must keep rising from chunk to chunk."""
        if not len(chunk):
            return
        size = payload_bytes(chunk)
        self._chunks.append((chunk, size))
        self.rows += len(chunk)
        self.bytes += size

    def due(self, now: float) -> CutReason | None:
        """Why a batch should be cut now, if it should. `now`: seconds of the clock that stamped `arrived`."""
        if self.rows >= self._policy.rows:
            return "rows"
        if self.bytes >= self._policy.bytes:
            return "bytes"
        if self._chunks and now - self._chunks[0][0].arrived >= self._policy.age_seconds:
            return "age"
        return None

    def cut(self, reason: CutReason) -> Cut | None:
        """Take the oldest messages off, at most a policy's worth of rows and bytes, at least one. None when empty."""
        if not self._chunks:
            return None
        taken: list[RawChunk] = []
        rows, room = self._policy.rows, self._policy.bytes
        arrived = self._chunks[0][0].arrived
        while self._chunks and rows > 0 and room > 0:
            chunk, size = self._take(rows, room, first=not taken)
            if not len(chunk):
                break
            taken.append(chunk)
            rows -= len(chunk)
            room -= size
        return Cut(_by_partition(taken), reason, arrived)

    def clear(self) -> None:
        """Forget everything: the source will deliver it again."""
        self._chunks.clear()
        self.rows = self.bytes = 0

    def _take(self, rows: int, room: int, *, first: bool) -> tuple[RawChunk, int]:
        chunk, size = self._chunks.popleft()
        stop = min(rows, len(chunk) if size <= room else _fitting(chunk, room))
        stop = max(stop, 1 if first else 0)
        if stop < len(chunk):
            head, rest = chunk.slice(0, stop), chunk.slice(stop, len(chunk))
            head_size = payload_bytes(head)
            self._chunks.appendleft((rest, size - head_size))
            chunk, size = head, head_size
        self.rows -= len(chunk)
        self.bytes -= size
        return chunk, size


def payload_bytes(chunk: RawChunk) -> int:
    """What a chunk counts for: its payloads and a little for each message."""
    try:
        total = sum(map(len, chunk.values))  # type: ignore[arg-type]
    except TypeError:  # a null value among them
        total = sum(len(value) for value in chunk.values if value is not None)
    return total + _OVERHEAD_BYTES * len(chunk)


def _fitting(chunk: RawChunk, room: int) -> int:
    """How many of the first messages stay within `room` bytes."""
    sizes = np.fromiter((len(value or b"") + _OVERHEAD_BYTES for value in chunk.values), np.int64, len(chunk))
    return int(np.searchsorted(np.cumsum(sizes), room, side="right"))


def _by_partition(chunks: list[RawChunk]) -> tuple[RawChunk, ...]:
    partitions = sorted({chunk.partition for chunk in chunks})
    return tuple(_joined([chunk for chunk in chunks if chunk.partition == partition]) for partition in partitions)


def _joined(chunks: list[RawChunk]) -> RawChunk:
    if len(chunks) == 1:
        return chunks[0]
    headers = None
    if any(chunk.headers is not None for chunk in chunks):
        headers = [header for chunk in chunks for header in (chunk.headers or [()] * len(chunk))]
    return RawChunk(
        chunks[0].partition,
        np.concatenate([chunk.offsets for chunk in chunks]),
        np.concatenate([chunk.timestamps for chunk in chunks]),
        [value for chunk in chunks for value in chunk.values],
        headers,
        chunks[0].arrived,
    )
