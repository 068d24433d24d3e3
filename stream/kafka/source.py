"""Kafka's door: reading a topic by offsets that we keep ourselves.

No consumer group is joined: partitions are assigned by hand, so that no rebalance ever splits one model's order, and a
group coordinator in trouble never stops the reading. Group offsets are written beside it, for lag tools.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import (
    CorruptRecordError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)
from kafka.structs import OffsetAndMetadata

from stream import held
from stream.errors import SourceRefused
from stream.events import RawChunk
from stream.kafka.letters import KafkaDeadLetters
from stream.kafka.link import (
    REFUSALS,
    KafkaSettings,
    connect,
    no_such_topic,
    refused,
    topic_partitions,
)
from stream.kafka.records import Row, read_by_batches
from stream.kafka.repair import read_any_header_key
from stream.ports import Clock

__all__ = ["KafkaDeadLetters", "KafkaSettings", "KafkaSource"]

POLL_SECONDS_MAX = 1.0
CLOSE_SECONDS_MAX = 5.0
CORRUPT_SECONDS_MAX = 60.0
ASK_SECONDS_MAX = 10.0
COMMIT_RETRY_SECONDS = 1.0
LISTEN_SECONDS = 5.0
_log = structlog.get_logger(__name__)


class KafkaSource:
    """An `EventSource` over one Kafka topic.

    Opening it raises `SourceRefused` when no broker answers in time, the login is refused, or there is no such topic.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._partitions = topic_partitions(settings, settings.topic)
        if not self._partitions:
            raise no_such_topic(settings, settings.topic)
        self._consumer = connect(KafkaConsumer, settings, **_consumer_options(settings))
        read_by_batches(self._consumer)
        self._next: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._paused = False
        self._corrupt_since: float | None = None
        self._listened = self._heard = clock.monotonic()
        self._committer = _Committer(settings) if settings.group else None

    def partitions(self) -> Sequence[int]:
        # What the client knows, refreshed in the background. Its public question may wait for a broker, without an end.
        known = self._consumer._cluster.partitions_for_topic(self._settings.topic)  # noqa: SLF001
        self._partitions = sorted(known) if known else self._partitions
        return self._partitions

    def beginning(self) -> Mapping[int, int]:
        return self._ask(self._consumer.beginning_offsets)

    def end(self) -> Mapping[int, int]:
        self._ends = self._ask(self._consumer.end_offsets)
        return self._ends

    def _ask(self, question: Any) -> dict[int, int]:
        topics = [TopicPartition(self._settings.topic, partition) for partition in self.partitions()]
        try:
            answer = question(topics, timeout_ms=round(ASK_SECONDS_MAX * 1000))
        except KafkaError as error:
            raise refused(error, self._settings) from error
        return {topic.partition: offset for topic, offset in sorted(answer.items())}

    def assign(self, next_offsets: Mapping[int, int]) -> None:
        self._next = dict(next_offsets)
        topics = self._assigned()
        self._consumer.assign(topics)
        for topic in topics:
            self._consumer.seek(topic, self._next[topic.partition])
        self._consumer.resume(*topics)
        self._paused = False

    def _assigned(self) -> list[TopicPartition]:
        return [TopicPartition(self._settings.topic, partition) for partition in self._next]

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[RawChunk]:
        timeout_ms = round(min(timeout_seconds, POLL_SECONDS_MAX) * 1000)
        try:
            records = self._consumer.poll(timeout_ms=timeout_ms, max_records=max_events)
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            raise self._out_of_range(error) from error
        except REFUSALS as error:
            raise refused(error, self._settings) from error
        except KafkaError as error:
            self._read_again(error)
            return []
        if records:
            self._corrupt_since = None
        arrived = self._clock.monotonic()
        chunks = [_chunk(topic.partition, batch, arrived) for topic, batch in records.items()]
        for chunk in chunks:
            self._next[chunk.partition] = chunk.end
        return chunks

    def _read_again(self, error: KafkaError) -> None:
        """Fetch anew from where we stand; gives up on a record that stays unreadable for `CORRUPT_SECONDS_MAX`."""
        _log.warning("kafka_poll_failed", topic=self._settings.topic, error=repr(error))
        if isinstance(error, (CorruptRecordError, UnsupportedCodecError)):
            self._check_patience(error)
            read_any_header_key()
        # kafka-python keeps the rest of a failed fetch, and would spin on it for ever; a poll without an assignment
        # makes it let go.
        paused = self._paused
        self._consumer.unsubscribe()
        self._consumer.poll(timeout_ms=0)
        self.assign(self._next)
        if paused:
            self.pause()

    def _check_patience(self, error: KafkaError) -> None:
        now = self._clock.monotonic()
        self._corrupt_since = now if self._corrupt_since is None else self._corrupt_since
        if now - self._corrupt_since > CORRUPT_SECONDS_MAX:
            raise SourceRefused(
                f"a record of topic {self._settings.topic!r} stays unreadable: {error}. It lies behind one of the "
                f"offsets {self._next} (by partition); check the broker's disk and replicas with kafka-dump-log.sh"
            ) from error

    def _out_of_range(self, error: KafkaError) -> SourceRefused:
        try:
            first, last = self.beginning(), self.end()
        except SourceRefused:
            first, last = {}, {}
        if not held.passed(self._next, first) and not (last and held.beyond(self._next, last)):
            return SourceRefused(
                f"Kafka no longer has what comes next in topic {self._settings.topic!r}: {error}. Start again: the "
                "service then says what is held"
            )
        return held.refusal(self._settings.topic, self._next, first, last)

    def pause(self) -> None:
        self._consumer.pause(*self._assigned())
        self._paused = True

    def resume(self) -> None:
        self._consumer.resume(*self._assigned())
        self._paused = False

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        if self._committer is not None:
            self._committer.offer(next_offsets)

    def lag(self) -> Mapping[int, int]:
        # A partition's fetches tell its end; until the first one, what `end` was told last has to do.
        told = {topic.partition: self._consumer.highwater(topic) or 0 for topic in self._assigned()}
        ends = {p: max(head, self._ends.get(p, 0)) for p, head in told.items()}
        return {p: max(0, end - self._next[p]) for p, end in ends.items() if end}

    def silent_seconds(self) -> float:
        now = self._clock.monotonic()
        if now - self._listened >= LISTEN_SECONDS:
            self._listened = now
            if self._paused or self._answers():
                self._heard = now
        return self._listened - self._heard

    def _answers(self) -> bool:
        """A broker that is gone has no connection; one that hangs has, and the rate is that of the last minute."""
        figures = self._consumer.metrics().get("consumer-metrics", {})
        return bool(figures.get("connection-count") and figures.get("response-rate"))

    def exhausted(self) -> bool:
        return False

    def close(self) -> None:
        if self._committer is not None:
            self._committer.close()
        self._consumer.close(autocommit=False, timeout_ms=round(CLOSE_SECONDS_MAX * 1000))


def _consumer_options(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "auto_offset_reset": "none",
        "enable_auto_commit": False,
        "isolation_level": "read_committed",
        "fetch_max_bytes": settings.fetch_bytes_max,
        "max_partition_fetch_bytes": settings.partition_fetch_bytes_max,
    }


def _chunk(partition: int, rows: Sequence[Row], arrived: float) -> RawChunk:
    """Rows as columns, by C loops: nothing is done per message in Python."""
    offsets, timestamps, values, headers = zip(*rows, strict=True)
    return RawChunk(
        partition,
        np.fromiter(offsets, np.int64, len(rows)),
        np.fromiter(timestamps, np.int64, len(rows)),
        list(values),
        list(headers) if any(headers) else None,
        arrived,
    )


class _Committer:
    """Writes group offsets from a thread of its own, the newest only: whatever the broker does, polling goes on."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client: Any = None
        self._offered: dict[int, int] = {}
        self._changed = threading.Condition()
        self._closing = False
        # A daemon: a broker that never answers must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="kafka-committer", daemon=True)
        self._thread.start()

    def offer(self, next_offsets: Mapping[int, int]) -> None:
        """Have these offsets written soon; returns at once."""
        with self._changed:
            self._offered.update(next_offsets)
            self._changed.notify()

    def close(self) -> None:
        """Give what was offered last a short while to be written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS_MAX)

    def _run(self) -> None:
        while offsets := self._taken():
            try:
                self._write(offsets)
            except (KafkaError, SourceRefused) as error:
                self._drop_client()
                # The first commit of a cluster's life finds its coordinator still being made.
                _log.warning(
                    "offsets not told to Kafka yet (harmless: only lag tools read them), trying again",
                    group=self._settings.group,
                    error=repr(error),
                )
                self._offer_again(offsets)
        self._drop_client()

    def _taken(self) -> dict[int, int]:
        """What was offered since the last call, once there is something; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._offered or self._closing)
            taken, self._offered = self._offered, {}
            return taken

    def _offer_again(self, offsets: Mapping[int, int]) -> None:
        with self._changed:
            self._offered = {**offsets, **self._offered} if not self._closing else {}
            self._changed.wait_for(lambda: self._closing, COMMIT_RETRY_SECONDS)

    def _write(self, offsets: Mapping[int, int]) -> None:
        topic = self._settings.topic
        named = {TopicPartition(topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        if self._client is None:
            self._client = connect(KafkaAdminClient, self._settings)
        self._client.alter_group_offsets(self._settings.group, named)

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
