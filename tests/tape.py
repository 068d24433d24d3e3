"""A broker's log on a clock that tests move: messages become visible at their time, in any number of partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stream.errors import SourceRefused
from stream.events import RawChunk
from tests.fakes import FakeClock

Message = tuple[float, bytes | None]
"""When it was published, in seconds of the clock's `monotonic`, and its value."""


class Tape:
    """An `EventSource` that never ends by itself; `over` makes it. `refuses`: the broker answers no question now."""

    def __init__(self, clock: FakeClock, partitions: Sequence[Sequence[Message]]) -> None:
        self._clock = clock
        self._times = [np.array([when for when, _ in messages]) for messages in partitions]
        self._values = [[value for _, value in messages] for messages in partitions]
        self._next: dict[int, int] = {}
        self._paused = False
        self.over = False
        self.refuses = False
        self.delivered = 0

    def partitions(self) -> Sequence[int]:
        return range(len(self._values))

    def beginning(self) -> Mapping[int, int]:
        return dict.fromkeys(self.partitions(), 0)

    def end(self) -> Mapping[int, int]:
        if self.refuses:
            raise SourceRefused("the broker does not answer")
        return {p: int(np.searchsorted(times, self._clock.ticks, "right")) for p, times in enumerate(self._times)}

    def assign(self, next_offsets: Mapping[int, int]) -> None:
        self._next = dict(next_offsets)
        self._paused = False

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[RawChunk]:
        if self._paused:
            return []
        chunks = []
        for partition, end in ((p, len(t[t <= self._clock.ticks])) for p, t in enumerate(self._times)):
            start = self._next.get(partition, end)
            stop = min(end, start + max_events)
            max_events -= stop - start
            if stop > start:
                offsets = np.arange(start, stop)
                stamps = np.full(stop - start, int(self._clock.now() * 1000))
                values = self._values[partition][start:stop]
                chunks.append(RawChunk(partition, offsets, stamps, values, None, self._clock.monotonic()))
                self._next[partition] = stop
                self.delivered += stop - start
        return chunks

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Nobody asks."""

    def lag(self) -> Mapping[int, int]:
        return {p: len(self._values[p]) - offset for p, offset in self._next.items()}

    def silent_seconds(self) -> float:
        return 0.0

    def exhausted(self) -> bool:
        return self.over and not self._paused and all(left <= 0 for left in self.lag().values())

    def close(self) -> None:
        """Nothing is held."""
