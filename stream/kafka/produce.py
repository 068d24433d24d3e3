"""`headrace produce`: a file's clicks published to Kafka, keyed by user, at a rate or as fast as possible."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

from stream.errors import ConfigError, HeadraceError, SourceRefused
from stream.kafka.link import REFUSALS, KafkaSettings, connect, ensure_topic, refused, retention_ms
from stream.replay.readers import open_rows
from stream.replay.rows import Rows

BLOCK_ROWS = 4096
TICK_SECONDS = 0.05
DELIVERY_SECONDS_MAX = 60.0
CLOSE_SECONDS_MAX = 5.0
_PRODUCER_OPTIONS = {
    "acks": "all",
    "batch_size": 256 << 10,
    "linger_ms": 20,
    "max_block_ms": round(DELIVERY_SECONDS_MAX * 1000),
    "delivery_timeout_ms": round(DELIVERY_SECONDS_MAX * 1000),
}


@dataclass(frozen=True, slots=True)
class Produced:
    """What was published: acknowledged messages, their bytes, and wall time.

    `created`: the topic had to be made. `event_times`: messages carry their events' times as record times; False where
    the topic's retention would have deleted some of them at once, so that all carry the time of publishing.
    """

    messages: int
    size: int
    seconds: float
    created: bool
    event_times: bool


Progress = Callable[[int, int], None]
"""Called with (messages handed over, messages in the file), a few times a second at most."""


def produce_file(
    settings: KafkaSettings,
    path: str | os.PathLike[str],
    rate: float | None = None,
    progress: Progress | None = None,
    partitions: int = 4,
) -> Produced:
    """Publish the rows of `path` (Parquet or JSON lines) to `settings.topic` in file order; returns when acknowledged.

    Each message is one JSON text keyed by its user id, its record time the event's time where the topic keeps it that
    long. A missing topic is made with `partitions`, and without deletion by time. `rate`: messages per second, None for
    as fast as possible. Raises `ConfigError` for the file, `SourceRefused` for Kafka.
    """
    if rate is not None and rate <= 0:
        raise ConfigError(f"--rate is {rate:g}: messages per second above 0 are expected, or no rate at all")
    rows = open_rows(path)
    created = ensure_topic(settings, settings.topic, partitions, **{"retention.ms": "-1"})
    event_times = created or _is_kept(rows, settings)
    publisher = _Publisher(settings, connect(KafkaProducer, settings, **_PRODUCER_OPTIONS), event_times=event_times)
    started = time.monotonic()
    try:
        _publish(rows, publisher, rate, progress or _no_progress)
        publisher.finish()
    finally:
        publisher.close()
    return Produced(publisher.messages, publisher.size, time.monotonic() - started, created, event_times)


def _is_kept(rows: Rows, settings: KafkaSettings) -> bool:
    """Whether the topic's retention, which goes by record times, would leave all rows alone for an hour at least."""
    kept = retention_ms(settings, settings.topic)
    known = rows.times[rows.times > 0]
    return kept < 0 or not len(known) or int(known.min()) > (time.time() + 3600) * 1000 - kept


def _no_progress(_done: int, _of: int) -> None:
    return None


def _publish(rows: Rows, publisher: _Publisher, rate: float | None, progress: Progress) -> None:
    """Hand over all rows in blocks; at a rate, in blocks of what is due every `TICK_SECONDS`."""
    size = BLOCK_ROWS if rate is None else max(1, min(BLOCK_ROWS, round(rate * TICK_SECONDS)))
    started = told = time.monotonic()
    for start in range(0, len(rows), size):
        block = range(start, min(start + size, len(rows)))
        publisher.publish(rows, block)
        if time.monotonic() - told > 0.2 or block.stop == len(rows):
            told = time.monotonic()
            progress(block.stop, len(rows))
        if rate is not None:
            time.sleep(max(0.0, started + block.stop / rate - time.monotonic()))


class _Publisher:
    """A producer that remembers its first failure, and stops at the next block."""

    def __init__(self, settings: KafkaSettings, producer: Any, *, event_times: bool) -> None:
        self._event_times = event_times
        self._settings = settings
        self._producer = producer
        self._failure: KafkaError | None = None
        self.messages = 0
        self.size = 0

    def publish(self, rows: Rows, block: range) -> None:
        """Hand over the rows of `block`; blocks while the producer's buffer is full."""
        self._check()
        send, topic = self._producer.send, self._settings.topic
        times = rows.times[block.start : block.stop] if self._event_times else np.zeros(len(block), np.int64)
        # Brokers refuse record times of the future; such an event gets the time of publishing.
        stamps = np.where(times < time.time() * 1000, times, 0).tolist()
        try:
            for line, key, stamp in zip(rows.lines(block), rows.keys(block), stamps, strict=True):
                future = send(topic, line, key=key, timestamp_ms=stamp or None)
                future.add_errback(self._note)
                self.size += len(line or b"")
        except KafkaError as error:
            raise self._refused(error) from error
        self.messages += len(block)

    def finish(self) -> None:
        """Wait for the acknowledgements of everything handed over."""
        try:
            self._producer.flush(timeout=DELIVERY_SECONDS_MAX)
        except KafkaTimeoutError as error:
            raise self._refused(error) from error
        self._check()

    def close(self) -> None:
        self._producer.close(timeout=CLOSE_SECONDS_MAX)

    def _note(self, error: KafkaError) -> None:
        self._failure = self._failure or error

    def _check(self) -> None:
        if self._failure is not None:
            raise self._refused(self._failure) from self._failure

    def _refused(self, error: KafkaError) -> HeadraceError:
        if isinstance(error, REFUSALS):
            return refused(error, self._settings)
        return SourceRefused(
            f"Kafka at {self._settings.bootstrap_servers} did not take all messages for {self._settings.topic!r}: "
            f"{error!r}, after {self.messages} were handed over. Running the command again publishes them all again"
        )
