"""The dead-letter topic read, told again to its source, and emptied: what `headrace dlq` does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from stream import letters
from stream.errors import SourceRefused
from stream.kafka.link import KafkaSettings, connect, no_such_topic, refused, retention_ms, topic_partitions
from stream.kafka.repair import read_any_header_key
from stream.letters import Choice, Letter

ASK_SECONDS_MAX = 10.0
SILENCE_SECONDS_MAX = 20.0
"""A broker that delivers nothing for so long, though there should be letters, is given up."""
DELIVERY_SECONDS_MAX = 60.0
_POLL_SECONDS = 0.5
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was told again. `cut`: letters of messages too large to be kept whole, which cannot be. `foreign`: letters
    of another topic than the one that is read now.
    """

    replayed: int
    cut: int
    foreign: int


@dataclass(frozen=True, slots=True)
class Purged:
    """By partition of the dead-letter topic: the first offset that is left. `records`: how many were deleted."""

    records: int
    next_offsets: Mapping[int, int]


def read(settings: KafkaSettings, topic: str, choice: Choice) -> Iterator[Letter]:
    """The chosen letters that are there now, partition by partition, oldest first.

    Raises SourceRefused when there is no such topic, or the broker stops answering.
    """
    read_any_header_key()
    with closing(_reader(settings, topic)) as consumer:
        places = [TopicPartition(topic, partition) for partition in _partitions(settings, topic)]
        try:
            begin, end = (_ask(question, places) for question in (consumer.beginning_offsets, consumer.end_offsets))
            yield from _between(consumer, begin, end, choice)
        except KafkaError as error:
            raise refused(error, settings, topic) from error


def replay(settings: KafkaSettings, chosen: Iterable[Letter]) -> Replayed:
    """Publish letters to `settings.topic` again, each to its own partition, so that a user's clicks stay together.

    Returns once all are acknowledged. Doing it again trains nothing twice: see `letters`. Raises SourceRefused.
    """
    partitions = set(_partitions(settings, settings.topic))
    oldest = _oldest_kept(settings)
    replayed = cut = foreign = 0
    failed: list[KafkaError] = []
    producer = connect(KafkaProducer, settings, **_PRODUCER_OPTIONS)
    try:
        for letter in chosen:
            if letter.topic != settings.topic or letter.partition not in partitions:
                foreign += 1
            elif not letter.is_whole:
                cut += 1
            else:
                _tell_again(producer, letter, oldest).add_errback(failed.append)
                replayed += 1
        producer.flush(timeout=DELIVERY_SECONDS_MAX)
    except KafkaError as error:
        failed.append(error)
    finally:
        producer.close(timeout=ASK_SECONDS_MAX)
    if failed:
        raise SourceRefused(
            f"Kafka at {settings.bootstrap_servers} did not take all letters for {settings.topic!r}: {failed[0]!r}. "
            "Run the command again: those that it took are dropped as duplicates"
        )
    return Replayed(replayed, cut, foreign)


def purge(settings: KafkaSettings, topic: str, until: int | None) -> Purged:
    """Delete letters written before `until` (milliseconds since the epoch), or all that are there now.

    Kafka deletes from a partition's beginning only: the first letter that is as young as `until` ends it.
    """
    places = [TopicPartition(topic, partition) for partition in _partitions(settings, topic)]
    try:
        with closing(_reader(settings, topic)) as consumer:
            begin, end = (_ask(question, places) for question in (consumer.beginning_offsets, consumer.end_offsets))
            upto = dict(end)
            if until is not None:
                found = consumer.offsets_for_times(dict.fromkeys(places, until), timeout_ms=_ask_ms())
                upto |= {place: each.offset for place, each in found.items() if each is not None}
        emptied = {place: offset for place, offset in upto.items() if offset > begin[place]}
        if emptied:
            with closing(connect(KafkaAdminClient, settings)) as admin:
                admin.delete_records(emptied)
    except KafkaError as error:
        raise refused(error, settings, topic) from error
    records = sum(offset - begin[place] for place, offset in emptied.items())
    return Purged(records, {place.partition: offset for place, offset in sorted(upto.items())})


def _partitions(settings: KafkaSettings, topic: str) -> list[int]:
    found = topic_partitions(settings, topic)
    if not found:
        raise no_such_topic(settings, topic)
    return found


def _reader(settings: KafkaSettings, topic: str) -> Any:
    del topic  # assigned by hand: no group, no subscription
    return connect(
        KafkaConsumer,
        settings,
        auto_offset_reset="none",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )


def _ask(question: Any, places: list[TopicPartition]) -> dict[TopicPartition, int]:
    return dict(question(places, timeout_ms=_ask_ms()))


def _ask_ms() -> int:
    return round(ASK_SECONDS_MAX * 1000)


def _between(
    consumer: Any, begin: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int], choice: Choice
) -> Iterator[Letter]:
    left = {place: end[place] for place in begin if begin[place] < end[place]}
    consumer.assign(list(left))
    for place in left:
        consumer.seek(place, begin[place])
    heard = time.monotonic()
    while left:
        for place, records in consumer.poll(timeout_ms=round(_POLL_SECONDS * 1000)).items():
            heard = time.monotonic()
            for record in records:
                letter = letters.parse(record.value, record.headers, record.timestamp)
                if record.offset < end[place] and letter is not None and choice.takes(letter):
                    yield letter
            heard = time.monotonic()  # whoever takes the letters may take their time
        left = {place: until for place, until in left.items() if consumer.position(place) < until}
        if time.monotonic() - heard > SILENCE_SECONDS_MAX:
            raise SourceRefused(f"no more letters came for {SILENCE_SECONDS_MAX:g} s, though there are some: try again")


def _oldest_kept(settings: KafkaSettings) -> int:
    """A message of an older time would be deleted at once, by the topic's retention."""
    kept = retention_ms(settings, settings.topic)
    return 0 if kept < 0 else round(time.time() * 1000) - kept + _HOUR_MS


def _tell_again(producer: Any, letter: Letter, oldest: int) -> Any:
    keeps_time = oldest < letter.timestamp < time.time() * 1000
    return producer.send(
        letter.topic,
        letter.value,
        key=letter.place.encode(),  # a null value needs one
        headers=letters.replayed_headers(letter),
        partition=letter.partition,
        timestamp_ms=letter.timestamp if keeps_time else None,
    )


_PRODUCER_OPTIONS: dict[str, Any] = {
    "acks": "all",
    "enable_idempotence": False,
    "max_request_size": 64 << 20,
    "linger_ms": 5,
    "max_block_ms": round(DELIVERY_SECONDS_MAX * 1000),
    "delivery_timeout_ms": round(DELIVERY_SECONDS_MAX * 1000),
}
