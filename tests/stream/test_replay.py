"""The replay: order, pace and clock; what every source must keep is in tests/contract."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.clocks import SimulatedClock, SystemClock
from stream.errors import ConfigError
from stream.ports import Clock
from stream.replay.source import ReplaySource

START = 1_600_000_000


def clicks(count: int) -> list[dict[str, Any]]:
    return [{"user_id": f"u{n % 11}", "product_id": f"p{n}", "timestamp": START + n} for n in range(count)]


def replay(count: int, clock: Clock | None = None, **options: Any) -> ReplaySource:
    source = ReplaySource(clicks(count), clock=clock, **options)
    source.assign(source.beginning())
    return source


class SetClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def products(source: ReplaySource, size: int) -> list[str]:
    """Products of one poll, in the order of their times."""
    pairs = [
        (int(stamp), json.loads(value or b"")["product_id"])
        for chunk in source.poll(size, 0)
        for stamp, value in zip(chunk.timestamps, chunk.values, strict=True)
    ]
    return [name for _, name in sorted(pairs)]


def test_polls_follow_the_stream() -> None:
    """Each poll takes the next events of the whole stream, across partitions, so that replayed time moves evenly."""
    source = replay(100)

    assert [products(source, 30) for _ in range(4)] == [
        [f"p{n}" for n in range(start, min(start + 30, 100))] for start in (0, 30, 60, 90)
    ]


@pytest.mark.parametrize("partitions", [1, 3, 8])
def test_users_keep_their_partition(partitions: int) -> None:
    """A user's partition is crc32 of the id: the same today, tomorrow, and in another file."""
    source = replay(50, partitions=partitions)

    for chunk in source.poll(50, 0):
        users = {json.loads(value or b"")["user_id"] for value in chunk.values}
        assert {crc32(user.encode()) % partitions for user in users} == {chunk.partition}


def test_rate() -> None:
    """A rate lets through that many events per second of the clock, whatever size of poll is asked for."""
    clock = SetClock()
    source = replay(1000, clock, rate=100.0)
    counts = []
    for seconds in (0.0, 0.5, 0.25, 2.0):
        clock.seconds += seconds
        counts.append(sum(map(len, source.poll(500, 0.0))))

    assert counts == [0, 50, 25, 200]


def test_rate_in_real_time() -> None:
    """At 200 events a second, 100 events take half a second: polls wait for what is due."""
    source = replay(100, rate=200.0)
    started = time.monotonic()
    while not source.exhausted():
        source.poll(1000, 0.2)

    assert 0.45 < time.monotonic() - started < 1.5


def test_simulated_clock() -> None:
    """The simulated clock stands at the newest event emitted, follows a rewind, and ignores times that are none."""
    clock = SimulatedClock()
    source = replay(10, clock)
    source.poll(4, 0)
    assert clock.now() == START + 3

    source.assign({0: 0})
    source.poll(1, 0)
    rewound = clock.now()
    assert rewound < START + 3

    for nonsense in (time.time() + 1e9, 0.0, -5.0):
        clock.advance(nonsense)
        assert clock.now() == rewound


def test_record_time() -> None:
    """A row's record time is its event time; where that cannot be read, the clock's time at arrival."""
    clock = SetClock()
    rows: list[dict[str, Any] | bytes | None] = [
        *clicks(1),
        b"not json",
        {"user_id": "u0", "product_id": "p", "timestamp": "yesterday"},
    ]
    source = ReplaySource(rows, partitions=1, clock=clock)
    source.assign({0: 0})

    assert source.poll(10, 0)[0].timestamps.tolist() == [START * 1000, 100_000, 100_000]


def test_year_of_events_starts_soon(tmp_path: Path) -> None:
    """A large file is read as columns, not as messages: opening costs a small part of emitting it."""
    count = 300_000
    path = tmp_path / "year.parquet"
    numbers = np.arange(count)
    pq.write_table(
        pa.table({"user_id": numbers % 2469, "product_id": numbers % 68509, "timestamp": START + numbers}), path
    )
    started = time.process_time()
    source = ReplaySource(path, clock=SystemClock())
    opening = time.process_time() - started
    source.assign(source.beginning())
    events = 0
    started = time.process_time()
    while not source.exhausted():
        events += sum(map(len, source.poll(5000, 0)))

    assert events == count
    assert opening < time.process_time() - started


@pytest.mark.parametrize("options", [{"partitions": 0}, {"rate": 0.0}, {"rate": -1.0}])
def test_options_refused(options: dict[str, Any]) -> None:
    """No partitions and a rate that is none are refused, naming both."""
    with pytest.raises(ConfigError, match=str(next(iter(options.values())))):
        ReplaySource(clicks(3), **options)
