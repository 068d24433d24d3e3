"""`headrace produce` on a real broker: every row once, keyed by its user, at its time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from stream.errors import ConfigError, SourceRefused
from stream.kafka.produce import produce_file
from stream.kafka.source import KafkaSettings
from tests.servers.kafka import KafkaBroker

pytestmark = pytest.mark.services
START_MS = 1_600_000_000_000


def clicks(count: int) -> list[dict[str, Any]]:
    return [{"user_id": f"u{n % 31}", "product_id": f"p{n}", "timestamp": START_MS + n} for n in range(count)]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(broker: KafkaBroker, topic: str) -> list[Any]:
    """Everything in the topic, by a client of its own."""
    with KafkaConsumer(
        bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=1500
    ) as consumer:
        consumer.assign([TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)])
        return list(consumer)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_row_once(kafka_broker: KafkaBroker, tmp_path: Path, kind: str) -> None:
    """Each row is one message: its JSON, keyed by the user, at the event's time, each user's rows in file order."""
    rows = clicks(2000)
    path = lines(tmp_path / "a.jsonl", rows)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    topic = kafka_broker.topic(4)
    told: list[tuple[int, int]] = []
    produced = produce_file(kafka_broker.settings(topic), path, progress=lambda done, of: told.append((done, of)))
    records = read(kafka_broker, topic)
    by_user = {user: [row for row in rows if row["user_id"] == user] for user in {row["user_id"] for row in rows}}

    assert (produced.messages, produced.created, produced.event_times) == (2000, False, True)
    assert produced.size == sum(len(record.value) for record in records)
    assert told[-1] == (2000, 2000)
    assert sorted((json.loads(record.value) for record in records), key=lambda row: row["timestamp"]) == rows
    for user, expected in by_user.items():
        mine = [record for record in records if record.key == user.encode()]
        assert len({record.partition for record in mine}) == 1
        assert [json.loads(record.value) for record in mine] == expected
        assert [record.timestamp for record in mine] == [row["timestamp"] for row in expected]


def test_bad_lines_are_published(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    """Lines that are no clicks are published as they are: rejecting is the consumer's part. Their time is now."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'nonsense\n{"user_id": "u", "product_id": "p", "timestamp": 4000000000}\n')
    topic = kafka_broker.topic(1)
    produce_file(kafka_broker.settings(topic), path)
    records = read(kafka_broker, topic)

    assert {record.key for record in records} == {None, b"u"}
    assert b"nonsense" in {record.value for record in records}
    assert all(abs(record.timestamp / 1000 - time.time()) < 60 for record in records)


def test_topic_is_made(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    """A missing topic is made with the partitions asked for, and keeps messages of any age."""
    topic = kafka_broker.topic(1) + "-new"
    produced = produce_file(kafka_broker.settings(topic), lines(tmp_path / "a.jsonl", clicks(100)), partitions=3)

    assert produced.created
    assert {record.partition for record in read(kafka_broker, topic)} == {0, 1, 2}


def test_retention_does_not_eat_old_events(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    """Into a topic that deletes by age, old events go with the time of publishing, and the answer says so."""
    topic = kafka_broker.topic(1, **{"retention.ms": "3600000"})
    produced = produce_file(kafka_broker.settings(topic), lines(tmp_path / "a.jsonl", clicks(10)))
    records = read(kafka_broker, topic)

    assert not produced.event_times
    assert len(records) == 10
    assert all(abs(record.timestamp / 1000 - time.time()) < 60 for record in records)


def test_rate(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    """At 200 messages a second, 200 messages take a second, evenly."""
    path = lines(tmp_path / "a.jsonl", clicks(200))
    produced = produce_file(kafka_broker.settings(kafka_broker.topic(1)), path, rate=200)

    assert 0.9 < produced.seconds < 3


def test_refused(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    """A bad file, a bad rate and a topic that cannot be made are refused before anything is published."""
    settings = kafka_broker.settings(kafka_broker.topic(1))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ConfigError, match="empty"):
        produce_file(settings, tmp_path / "empty.jsonl")
    with pytest.raises(ConfigError, match="--rate is -1"):
        produce_file(settings, lines(tmp_path / "a.jsonl", clicks(1)), rate=-1)
    with pytest.raises(SourceRefused, match="not a name"):
        produce_file(kafka_broker.settings("not a name"), tmp_path / "a.jsonl")
    with pytest.raises(SourceRefused, match=r"no Kafka broker answered at 127.0.0.1:1 "):
        produce_file(KafkaSettings("127.0.0.1:1", "clicks", start_seconds_max=1), tmp_path / "a.jsonl")
