"""The stream without a broker: a file or an iterable replayed as a partitioned log; dead letters in a local file."""

from __future__ import annotations

import os
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from model.batch import Int64
from stream.clocks import SimulatedClock, SystemClock
from stream.decode import DECODER_VERSION
from stream.errors import ConfigError, SourceRefused, StoreUnavailable
from stream.events import RawChunk, Reject
from stream.ports import Clock
from stream.replay.readers import Source, open_rows
from stream.replay.rows import Rows

POLL_SECONDS_MAX = 1.0
_SCAN_ROWS_MIN = 4096


class ReplaySource:
    """An `EventSource` over rows that are all there from the start.

    Users are spread over `partitions` by crc32 of their id; an offset is a row's place in its partition. Polls follow
    the order of the rows, across partitions. `rate`: events per second at most, counted by the clock; None: as asked.
    A `SimulatedClock` is moved along with the events' own times. Bad paths and files raise `ConfigError` at once.
    """

    def __init__(
        self,
        rows: Source | Rows,
        partitions: int = 4,
        rate: float | None = None,
        clock: Clock | None = None,
        limit: int | None = None,
    ) -> None:
        if partitions < 1 or (rate is not None and rate <= 0):
            raise ConfigError(f"a replay needs at least 1 partition and a rate above 0, not {partitions} and {rate}")
        self._rows: Rows = rows if hasattr(rows, "hashes") else open_rows(rows, limit)  # type: ignore[assignment]
        self._clock = clock or SystemClock()
        self._partition = (self._rows.hashes % np.uint32(partitions)).astype(np.int64)
        self._places = [np.flatnonzero(self._partition == each) for each in range(partitions)]
        self._offset = np.empty(len(self._rows), np.int64)
        for places in self._places:
            self._offset[places] = np.arange(len(places))
        self._next: dict[int, int] = {}
        self._cursor = 0
        self._paused = False
        self._pace = _Pace(rate, self._clock)
        self.committed: dict[int, int] = {}

    def partitions(self) -> Sequence[int]:
        return range(len(self._places))

    def beginning(self) -> Mapping[int, int]:
        return dict.fromkeys(self.partitions(), 0)

    def end(self) -> Mapping[int, int]:
        return {partition: len(places) for partition, places in enumerate(self._places)}

    def assign(self, next_offsets: Mapping[int, int]) -> None:
        self._next = dict(next_offsets)
        self._cursor = 0
        self._paused = False
        self._pace.restart()

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[RawChunk]:
        timeout = min(timeout_seconds, POLL_SECONDS_MAX)
        self._check_offsets()
        if self._paused or self.exhausted():
            time.sleep(timeout)
            return []
        chosen = self._choose(self._pace.grant(max_events, timeout))
        self._pace.spent(len(chosen))
        return self._chunks(chosen) if len(chosen) else []

    def _check_offsets(self) -> None:
        for partition, wanted in self._next.items():
            held = len(self._places[partition]) if 0 <= partition < len(self._places) else -1
            if not 0 <= wanted <= held:
                holds = f"it holds 0 to {held}" if held >= 0 else f"there are partitions 0 to {len(self._places) - 1}"
                raise SourceRefused(
                    f"the replay cannot go on at offset {wanted} of partition {partition}: {holds}. Is it the file "
                    "that the state was made from, with the same number of partitions? Else start a new lineage"
                )

    def _choose(self, count: int) -> Int64:
        """The next `count` rows of the stream that the assignment asks for, in order; moves the cursor past them."""
        start = np.full(len(self._places), np.iinfo(np.int64).max)
        for partition, offset in self._next.items():
            start[partition] = offset
        found: list[Int64] = []
        missing = count
        while missing > 0 and self._cursor < len(self._offset):
            block = slice(self._cursor, self._cursor + max(missing, _SCAN_ROWS_MIN))
            wanted = np.flatnonzero(self._offset[block] >= start[self._partition[block]])[:missing] + self._cursor
            full = len(wanted) == missing
            self._cursor = int(wanted[-1]) + 1 if full else min(block.stop, len(self._offset))
            found.append(wanted)
            missing -= len(wanted)
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _chunks(self, chosen: Int64) -> list[RawChunk]:
        times = self._rows.times[chosen]
        if isinstance(self._clock, SimulatedClock) and times.any():
            self._clock.advance(int(times[times != 0][-1]) / 1000)
        arrived = self._clock.monotonic()
        times = np.where(times != 0, times, round(self._clock.now() * 1000))
        lines, partition, offsets = self._rows.lines(chosen), self._partition[chosen], self._offset[chosen]
        chunks = []
        for each in np.unique(partition).tolist():
            at = np.flatnonzero(partition == each)
            values = [lines[place] for place in at.tolist()]
            chunks.append(RawChunk(each, offsets[at], times[at], values, None, arrived))
            self._next[each] = chunks[-1].end
        return chunks

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._pace.restart()

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        self.committed.update(next_offsets)

    def lag(self) -> Mapping[int, int]:
        end = self.end()
        return {partition: end.get(partition, 0) - offset for partition, offset in self._next.items()}

    def silent_seconds(self) -> float:
        return 0.0

    def exhausted(self) -> bool:
        return bool(self._next) and all(left <= 0 for left in self.lag().values())

    def close(self) -> None:
        """Nothing is held that the garbage collector would not release."""


class _Pace:
    """How many events may pass by now: `rate` per second since the last restart."""

    def __init__(self, rate: float | None, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        self._since = self._clock.monotonic()
        self._count = 0

    def spent(self, count: int) -> None:
        self._count += count

    def grant(self, wanted: int, timeout: float) -> int:
        """Up to `wanted`; sleeps until one is due, at most `timeout` seconds."""
        if self._rate is None:
            return wanted
        due = (self._clock.monotonic() - self._since) * self._rate - self._count
        if due < 1:
            time.sleep(min(timeout, (1 - due) / self._rate))
            due = (self._clock.monotonic() - self._since) * self._rate - self._count
        return min(wanted, int(due))


class FileDeadLetters:
    """A `DeadLetters` that appends JSON lines to a file: the original bytes in base64, and why they were rejected."""

    def __init__(self, path: str | os.PathLike[str], topic: str = "") -> None:
        """Open `path` for appending, with its folders. Raises `SourceRefused` when it cannot be written.

        `topic`: what the letters say they are from.
        """
        self._path = Path(path)
        self._topic = topic
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise SourceRefused(
                f"dead letters cannot be written to {self._path}: {error.strerror}. Name a file in a writable folder"
            ) from error

    def send(self, rejects: Sequence[Reject]) -> None:
        if not rejects:
            return
        lines = b"".join(msgspec.json.encode(_letter(reject, self._topic)) + b"\n" for reject in rejects)
        before = self._file.seek(0, os.SEEK_END)
        try:
            while lines:
                lines = lines[self._file.write(lines) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            # No torn line may stay behind: the next letters would be written on its end.
            with suppress(OSError):
                self._file.truncate(before)
            raise StoreUnavailable(f"dead letters could not be written to {self._path}: {error.strerror}") from error

    def close(self) -> None:
        self._file.close()


def _letter(reject: Reject, topic: str) -> dict[str, object]:
    return {
        "topic": topic,
        "partition": reject.partition,
        "offset": reject.offset,
        "reason": reject.reason,
        "detail": reject.detail,
        "decoder": DECODER_VERSION,
        "timestamp": reject.timestamp,
        "value": _base64(reject.value),
        "headers": [[name, _base64(value)] for name, value in reject.headers],
    }


def _base64(value: bytes | None) -> str | None:
    return b64encode(value).decode() if value is not None else None
