"""The contract of `EventSource`, over the replay and over a real Kafka broker."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
from kafka import KafkaProducer
from kafka.admin import NewPartitions
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError
from kafka.structs import TopicPartition

from stream.clocks import SystemClock
from stream.errors import SourceRefused
from stream.events import RawChunk
from stream.kafka.source import KafkaSource
from stream.ports import EventSource
from stream.replay.source import ReplaySource
from tests.servers.kafka import KafkaBroker

USERS = 23
SLACK_SECONDS = 0.5


def click(number: int) -> bytes:
    """The message of one numbered click; users take turns."""
    return json.dumps({"user_id": f"u{number % USERS}", "product_id": f"p{number}"}).encode()


def user_of(value: bytes) -> str:
    user: str = json.loads(value)["user_id"]
    return user


def drain(source: EventSource, count: int, size: int = 1000, seconds: float = 15) -> list[RawChunk]:
    """Poll until `count` messages have come."""
    chunks: list[RawChunk] = []
    deadline = time.monotonic() + seconds
    while sum(map(len, chunks)) < count and time.monotonic() < deadline:
        chunks.extend(source.poll(size, 0.5))
    return chunks


def by_partition(chunks: Sequence[RawChunk]) -> dict[int, dict[int, bytes | None]]:
    """Values by offset, by partition. Fails when an offset is repeated or falls back."""
    log: dict[int, dict[int, bytes | None]] = defaultdict(dict)
    for chunk in chunks:
        for offset, value in zip(chunk.offsets.tolist(), chunk.values, strict=True):
            assert offset > max(log[chunk.partition], default=-1)
            log[chunk.partition][offset] = value
    return dict(log)


class Log(ABC):
    """A log under test: how it is filled, and how offsets are lost from it."""

    def __init__(self) -> None:
        self.opened: list[EventSource] = []

    def source(self, values: Sequence[bytes | None]) -> EventSource:
        """A source over these messages in four partitions, nothing assigned."""
        source = self.make(values)
        self.opened.append(source)
        return source

    def close(self) -> None:
        for source in self.opened:
            source.close()

    @abstractmethod
    def make(self, values: Sequence[bytes | None]) -> EventSource: ...


class ReplayLog(Log):
    def make(self, values: Sequence[bytes | None]) -> EventSource:
        return ReplaySource(values)


class KafkaLog(Log):
    def __init__(self, broker: KafkaBroker) -> None:
        super().__init__()
        self.broker = broker
        self.topic = broker.topic(4)

    def make(self, values: Sequence[bytes | None]) -> EventSource:
        with KafkaProducer(bootstrap_servers=self.broker.bootstrap, linger_ms=20) as producer:
            for value in values:
                producer.send(self.topic, value, key=user_of(value).encode() if value else b"nobody")
            producer.flush(30)
        return KafkaSource(self.broker.settings(self.topic, metadata_seconds_max=0.5), SystemClock())


@pytest.fixture(params=["replay", pytest.param("kafka", marks=pytest.mark.services)])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """Each implementation in turn."""
    made = ReplayLog() if request.param == "replay" else KafkaLog(request.getfixturevalue("kafka_broker"))
    yield made
    made.close()


@pytest.fixture
def kafka(kafka_broker: KafkaBroker) -> Iterator[KafkaLog]:
    """Kafka alone, for what a replay has not."""
    made = KafkaLog(kafka_broker)
    yield made
    made.close()


def test_all_once_in_order(log: Log) -> None:
    """Every message comes once, offsets without a gap, and each user's messages in the order of sending."""
    values = [click(number) for number in range(500)]
    source = log.source(values)
    source.assign(source.beginning())

    messages = by_partition(drain(source, len(values), size=37))

    assert {p: list(offsets) for p, offsets in messages.items()} == {
        p: list(range(end)) for p, end in source.end().items() if end
    }
    per_user = {user_of(value): [v for v in values if user_of(v) == user_of(value)] for value in values}
    got: dict[str, list[bytes]] = defaultdict(list)
    for offsets in messages.values():
        for value in offsets.values():
            assert value is not None
            got[user_of(value)].append(value)
    assert got == per_user


def test_user_in_one_partition(log: Log) -> None:
    """All messages of a user lie in one partition, and users are spread over all of them."""
    source = log.source([click(number) for number in range(200)])
    source.assign(source.beginning())

    homes: dict[str, set[int]] = defaultdict(set)
    for partition, messages in by_partition(drain(source, 200)).items():
        for value in messages.values():
            assert value is not None
            homes[user_of(value)].add(partition)

    assert all(len(home) == 1 for home in homes.values())
    assert set.union(*homes.values()) == {0, 1, 2, 3}


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_poll_is_bounded(log: Log, size: int) -> None:
    """A poll answers at most as many messages as were asked for, over all partitions together."""
    source = log.source([click(number) for number in range(60)])
    source.assign(source.beginning())
    polls: list[int] = []
    while sum(polls) < 60:
        polls.append(sum(map(len, source.poll(size, 0.5))))

    assert max(polls) <= size
    assert sum(polls) == 60


def test_seek_anywhere(log: Log) -> None:
    """After `assign`, exactly the partitions named are read, each from exactly its offset on."""
    source = log.source([click(number) for number in range(400)])
    source.assign(source.beginning())
    everything = by_partition(drain(source, 400))
    start = {0: source.end()[0] // 2, 2: source.end()[2] - 1, 3: 0}

    source.assign(start)
    expected = {p: {o: v for o, v in everything[p].items() if o >= first} for p, first in start.items()}
    wanted = sum(map(len, expected.values()))
    chunks = drain(source, wanted)

    assert by_partition([*chunks, *source.poll(10, 0.1)]) == expected


def test_rewind(log: Log) -> None:
    """Assigning older offsets in the middle of reading gives the same messages again, nothing from before."""
    source = log.source([click(number) for number in range(300)])
    source.assign(source.beginning())
    drain(source, 100, size=50)

    source.assign(source.beginning())
    again = by_partition(drain(source, 300, size=1000))

    assert sum(map(len, again.values())) == 300
    assert {min(offsets) for offsets in again.values()} == {0}


def test_pause_and_resume(log: Log) -> None:
    """While paused, polls answer nothing; afterwards nothing is missing or repeated. `assign` unpauses."""
    source = log.source([click(number) for number in range(300)])
    source.assign(source.beginning())
    before = drain(source, 60, size=30)

    source.pause()
    assert [source.poll(100, 0.05) for _ in range(5)] == [[]] * 5
    source.resume()
    after = drain(source, 300 - sum(map(len, before)))
    assert sum(map(len, by_partition([*before, *after]).values())) == 300

    source.pause()
    source.assign(source.beginning())
    assert sum(map(len, drain(source, 300))) == 300


@pytest.mark.parametrize(("asked", "longest"), [(0.0, 0.0), (0.3, 0.3), (30.0, 1.0)])
def test_empty_poll_returns_in_time(log: Log, asked: float, longest: float) -> None:
    """A poll without messages waits as long as asked, a second at most."""
    source = log.source([click(number) for number in range(10)])
    source.assign(source.end())
    source.poll(10, 0.5)
    started = time.monotonic()

    assert source.poll(10, asked) == []
    assert longest * 0.9 <= time.monotonic() - started < longest + SLACK_SECONDS


def test_poll_before_assign(log: Log) -> None:
    """Without an assignment there is nothing to read, and nothing is exhausted."""
    source = log.source([click(number) for number in range(10)])

    assert source.poll(10, 0.05) == []
    assert not source.exhausted()


def test_bounds_and_lag(log: Log) -> None:
    """`beginning` and `end` hold all messages between them, for every partition; lag falls to nothing."""
    source = log.source([click(number) for number in range(100)])
    source.assign(source.beginning())

    assert list(source.partitions()) == [0, 1, 2, 3]
    assert dict(source.beginning()) == {0: 0, 1: 0, 2: 0, 3: 0}
    assert sum(source.end().values()) == 100

    while sum(source.lag().values()) > 60:
        source.poll(1, 0.5)
    assert sum(source.lag().values()) == 60
    drain(source, 60)
    assert set(source.lag().values()) == {0}


def test_null_value(log: Log) -> None:
    """A message without a value is delivered as None, among the others."""
    source = log.source([click(0), None, click(1)])
    source.assign(source.beginning())

    values = [value for chunk in drain(source, 3) for value in chunk.values]

    assert sorted(values, key=str) == sorted([click(0), None, click(1)], key=str)


def test_offset_beyond_the_end(log: Log) -> None:
    """An offset that was never written is refused by name, with what is held; never skipped, never waited for."""
    source = log.source([click(number) for number in range(40)])
    source.assign({1: source.end()[1] + 5})

    with pytest.raises(SourceRefused, match=rf"(?s)partition 1.*{source.end()[1]}|{source.end()[1]}.*partition 1"):
        drain(source, 1)


def test_close_and_commit(log: Log) -> None:
    """Commits never raise; closing twice is closing once, and is quick."""
    source = log.source([click(number) for number in range(10)])
    source.assign(source.beginning())
    source.commit({0: 1, 1: 2})
    started = time.monotonic()
    source.close()
    source.close()

    assert time.monotonic() - started < 5


def test_replay_is_exhausted_at_its_end() -> None:
    """A replay that has given everything says so, and not before."""
    source = ReplaySource([click(number) for number in range(30)])
    source.assign(source.beginning())
    source.poll(20, 0)
    assert not source.exhausted()
    source.poll(20, 0)

    assert source.exhausted()


@pytest.mark.parametrize("offsets", [{0: -1}, {4: 0}, {-1: 0}])
def test_replay_refuses_what_it_has_not(offsets: dict[int, int]) -> None:
    """A negative offset and a partition that is not there are refused, naming both."""
    source = ReplaySource([click(number) for number in range(30)])
    source.assign(offsets)
    partition, offset = next(iter(offsets.items()))

    with pytest.raises(SourceRefused, match=rf"offset {offset} of partition {partition}"):
        source.poll(10, 0)


@pytest.mark.services
def test_retention_passed(kafka: KafkaLog) -> None:
    """Offsets that the broker has deleted are refused, naming topic, partition, the offset and what is held."""
    source = kafka.source([click(number) for number in range(200)])
    admin = kafka.broker.admin()
    admin.delete_records({TopicPartition(kafka.topic, 2): 3})
    admin.close()
    source.assign(dict.fromkeys(source.partitions(), 0))

    with pytest.raises(SourceRefused) as refused:
        drain(source, 200)

    assert f"'{kafka.topic}': partition 2: offset 0 is wanted, 3 to {source.end()[2]} are held" in str(refused.value)
    assert "partition 1" not in str(refused.value)


@pytest.mark.services
def test_headers_and_timestamps(kafka: KafkaLog) -> None:
    """Headers and the record's own time come through; without any header in a chunk there is no list of them."""
    headers = [("trace", b"1"), ("empty", b"")]
    kafka.broker.produce(kafka.topic, [b"plain"], partition=0, timestamp_ms=1_700_000_000_123)
    kafka.broker.produce(kafka.topic, [b"with", b"more"], partition=1, headers=headers)
    source = kafka.source([])
    source.assign(source.beginning())
    chunks = {chunk.partition: chunk for chunk in drain(source, 3)}

    assert chunks[0].headers is None
    assert chunks[0].timestamps.tolist() == [1_700_000_000_123]
    assert chunks[1].headers is not None
    assert [list(each) for each in chunks[1].headers] == [headers, headers]


@pytest.mark.services
def test_aborted_transactions_are_not_read(kafka: KafkaLog) -> None:
    """What a producer took back is never delivered; markers leave gaps in the offsets, reading goes on past them."""
    with KafkaProducer(bootstrap_servers=kafka.broker.bootstrap, transactional_id=kafka.topic) as producer:
        producer.init_transactions()
        for name, finish in (("a", producer.commit_transaction), ("b", producer.abort_transaction)) * 2:
            producer.begin_transaction()
            for number in range(3):
                producer.send(kafka.topic, f"{name}{number}".encode(), partition=0)
            producer.flush(10)
            finish()
    kafka.broker.produce(kafka.topic, [b"last"], partition=0)
    source = kafka.source([])
    source.assign(source.beginning())

    messages = by_partition(drain(source, 7))[0]

    assert list(messages.values()) == [b"a0", b"a1", b"a2", b"a0", b"a1", b"a2", b"last"]
    assert list(messages) == [0, 1, 2, 8, 9, 10, 16]


@pytest.mark.services
def test_partitions_added(kafka: KafkaLog) -> None:
    """Partitions that are added while reading become visible without a restart, and can be assigned."""
    source = kafka.source([click(0)])
    source.assign(source.beginning())
    admin = kafka.broker.admin()
    admin.create_partitions({kafka.topic: NewPartitions(6)})
    admin.close()
    deadline = time.monotonic() + 10
    while len(source.partitions()) < 6 and time.monotonic() < deadline:
        source.poll(10, 0.2)
    kafka.broker.produce(kafka.topic, [b"new"], partition=5)
    source.assign({5: 0})

    assert list(source.partitions()) == [0, 1, 2, 3, 4, 5]
    assert [chunk.values for chunk in drain(source, 1)] == [[b"new"]]


@pytest.mark.services
def test_unknown_topic(kafka_broker: KafkaBroker) -> None:
    """A topic that does not exist is refused at once, with the command that creates it; it is not created by asking."""
    for _ in range(2):
        with pytest.raises(SourceRefused, match=r"no topic 'nowhere'.*kafka-topics.sh --create --topic nowhere"):
            KafkaSource(kafka_broker.settings("nowhere"), SystemClock())


@pytest.mark.services
def test_group_offsets_are_written(kafka: KafkaLog) -> None:
    """Lag tools see the offsets that were committed last."""
    source = KafkaSource(kafka.broker.settings(kafka.topic, group=kafka.topic), SystemClock())
    source.assign(source.beginning())
    source.commit({0: 1, 1: 1})
    source.commit({0: 5})
    admin = kafka.broker.admin()
    deadline = time.monotonic() + 15
    seen: dict[int, int] = {}
    while seen != {0: 5, 1: 1} and time.monotonic() < deadline:
        time.sleep(0.1)
        with suppress(CoordinatorLoadInProgressError, CoordinatorNotAvailableError):  # a young cluster: ask again
            offsets = admin.list_group_offsets({kafka.topic: None})[kafka.topic]
            seen = {topic.partition: each.offset for topic, each in offsets.items()}
    admin.close()
    source.close()

    assert seen == {0: 5, 1: 1}
