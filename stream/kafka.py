"""Kafka's door: reading a topic by offsets that we keep ourselves, and writing dead letters.

No consumer group is joined: partitions are assigned by hand, so that no rebalance ever splits one model's order, and a
group coordinator in trouble never stops the reading. Group offsets are written beside it, for lag tools.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from operator import attrgetter
from typing import Any

import numpy as np
import structlog
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
)
from kafka.structs import OffsetAndMetadata

from stream.decode import DECODER_VERSION
from stream.errors import SourceRefused
from stream.events import RawChunk, Reject
from stream.kafka_link import (
    REFUSALS,
    KafkaSettings,
    client_options,
    connect,
    ensure_topic,
    may_pass,
    no_such_topic,
    refused,
    topic_partitions,
)
from stream.ports import Clock

__all__ = ["KafkaDeadLetters", "KafkaSettings", "KafkaSource"]

POLL_SECONDS_MAX = 1.0
CLOSE_SECONDS_MAX = 5.0
ASK_SECONDS_MAX = 10.0
COMMIT_RETRY_SECONDS = 1.0
CUT_LETTER_BYTES = 256 << 10
DELIVERY_SECONDS_MAX = 20.0
_log = structlog.get_logger(__name__)
_offset, _timestamp, _value, _headers = map(attrgetter, ("offset", "timestamp", "value", "headers"))


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
        self._next: dict[int, int] = {}
        self._committer = _Committer(settings) if settings.group else None

    def partitions(self) -> Sequence[int]:
        # Answered from what the client knows, refreshed in the background: no network call, so it may be asked often.
        known = self._consumer.partitions_for_topic(self._settings.topic) if self._next else None
        self._partitions = sorted(known) if known else self._partitions
        return self._partitions

    def beginning(self) -> Mapping[int, int]:
        return self._ask(self._consumer.beginning_offsets)

    def end(self) -> Mapping[int, int]:
        return self._ask(self._consumer.end_offsets)

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
            _log.warning("kafka_poll_failed", topic=self._settings.topic, error=repr(error))
            return []
        arrived = self._clock.now()
        chunks = [_chunk(topic.partition, batch, arrived) for topic, batch in records.items()]
        for chunk in chunks:
            self._next[chunk.partition] = chunk.end
        return chunks

    def _out_of_range(self, error: KafkaError) -> SourceRefused:
        first, last = self.beginning(), self.end()
        lost = {p: wanted for p, wanted in self._next.items() if not first.get(p, 0) <= wanted <= last.get(p, 0)}
        said = "; ".join(
            f"partition {p}: offset {wanted} is wanted, {first.get(p)} to {last.get(p)} are held"
            for p, wanted in lost.items()
        )
        return SourceRefused(
            f"Kafka no longer has what comes next in topic {self._settings.topic!r}: {said or error}. Restore a state "
            "whose offsets are still held, or start a new lineage, which begins at the oldest offset; then raise the topic's "
            "retention.ms above the longest outage to be survived"
        )

    def pause(self) -> None:
        self._consumer.pause(*self._assigned())

    def resume(self) -> None:
        self._consumer.resume(*self._assigned())

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        if self._committer is not None:
            self._committer.offer(next_offsets)

    def lag(self) -> Mapping[int, int]:
        heads = {topic.partition: self._consumer.highwater(topic) for topic in self._assigned()}
        return {p: max(0, head - self._next[p]) for p, head in heads.items() if head is not None}

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


def _chunk(partition: int, records: Sequence[Any], arrived: float) -> RawChunk:
    """Columns of `records` by C loops: nothing is done per message in Python."""
    count = len(records)
    headers = [record.headers for record in records] if any(map(_headers, records)) else None
    return RawChunk(
        partition,
        np.fromiter(map(_offset, records), np.int64, count),
        np.fromiter(map(_timestamp, records), np.int64, count),
        list(map(_value, records)),
        headers,
        arrived,
    )


class _Committer:
    """Writes group offsets from a thread of its own, the newest only: whatever the broker does, polling goes on."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
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
            except KafkaError as error:
                # The first commit of a cluster's life finds its coordinator still being made.
                _log.warning("kafka_commit_failed", group=self._settings.group, error=repr(error))
                self._offer_again(offsets)

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
        with closing(KafkaAdminClient(**client_options(self._settings))) as admin:
            admin.alter_group_offsets(self._settings.group, named)


class KafkaDeadLetters:
    """A `DeadLetters` that produces to a topic, made if it is missing.

    A letter is the original bytes and headers, and headers of ours: where the message stood and why it was rejected. One
    that is too large for the topic is cut, and a header says so.
    """

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        ensure_topic(settings, topic)
        self._producer = connect(KafkaProducer, settings, **_PRODUCER_OPTIONS)

    def send(self, rejects: Sequence[Reject]) -> None:
        failures = self._write([(reject, reject.value) for reject in rejects])
        too_large = [reject for reject, error in failures if isinstance(error, MessageSizeTooLargeError)]
        failures = [each for each in failures if each[0] not in too_large]
        # A reject that its own topic cannot hold must not stop the stream: its first bytes say what it was.
        failures += self._write([(reject, (reject.value or b"")[:CUT_LETTER_BYTES]) for reject in too_large])
        if failures:
            raise may_pass(failures[0][1], self._settings, self._topic) from failures[0][1]

    def _write(self, letters: Sequence[tuple[Reject, bytes | None]]) -> list[tuple[Reject, KafkaError]]:
        """Produce and wait for the acknowledgements; answers what failed, and how."""
        try:
            sent = [
                self._producer.send(
                    self._topic, value, headers=_letter_headers(reject, self._settings.topic, cut=value != reject.value)
                )
                for reject, value in letters
            ]
            self._producer.flush(timeout=DELIVERY_SECONDS_MAX + 1)
        except KafkaError as error:
            return [(letters[0][0], error)]
        late = KafkaTimeoutError("not acknowledged in time")
        results = [
            (reject, future.exception if future.is_done else late)
            for (reject, _), future in zip(letters, sent, strict=True)
        ]
        return [(reject, error) for reject, error in results if error is not None]

    def close(self) -> None:
        self._producer.close(timeout=CLOSE_SECONDS_MAX)


def _letter_headers(reject: Reject, source: str, *, cut: bool) -> list[tuple[str, bytes | None]]:
    ours: dict[str, str | int] = {
        "headrace-topic": source,
        "headrace-partition": reject.partition,
        "headrace-offset": reject.offset,
        "headrace-timestamp": reject.timestamp,
        "headrace-reason": reject.reason,
        "headrace-decoder": DECODER_VERSION,
    }
    if cut:
        ours["headrace-original-bytes"] = len(reject.value or b"")
    return [*reject.headers, *((name, str(value).encode()) for name, value in ours.items())]


_PRODUCER_OPTIONS: dict[str, Any] = {
    "acks": "all",
    # At least once is promised, and a new producer session after a time-out is not needed for that.
    "enable_idempotence": False,
    "max_request_size": 64 << 20,
    "linger_ms": 5,
    "max_block_ms": round(DELIVERY_SECONDS_MAX * 1000),
    "delivery_timeout_ms": round(DELIVERY_SECONDS_MAX * 1000),
}
