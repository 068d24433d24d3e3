"""Kafka in trouble: outages, and records that no client should have to read."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from kafka import KafkaProducer

from stream.clocks import SystemClock
from stream.errors import SourceRefused
from stream.kafka.source import KafkaSettings, KafkaSource
from tests.servers.kafka import KafkaBroker
from tests.servers.process import free_ports

pytestmark = pytest.mark.services

POLL_SECONDS_MAX = 1.25
"""A second, and what a busy machine adds."""


def open_source(settings: KafkaSettings) -> KafkaSource:
    source = KafkaSource(settings, SystemClock())
    source.assign(source.beginning())
    return source


def longest_call(source: KafkaSource, seconds: float) -> float:
    """Poll and ask for `seconds`, as the loop does, getting nothing; the longest that any call took."""
    longest = 0.0
    calls: list[Callable[[], Any]] = [
        lambda: source.poll(100, 1.0),
        source.lag,
        source.partitions,
        lambda: source.commit({0: 1}),
    ]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for call in calls:
            started = time.monotonic()
            call()
            longest = max(longest, time.monotonic() - started)
    return longest


def values_of(source: KafkaSource, count: int, seconds: float = 20) -> list[bytes | None]:
    values: list[bytes | None] = []
    deadline = time.monotonic() + seconds
    while len(values) < count and time.monotonic() < deadline:
        values += [value for chunk in source.poll(100, 0.5) for value in chunk.values]
    return values


@pytest.mark.parametrize("kill", [False, True])
def test_broker_restart(unsteady_broker: KafkaBroker, *, kill: bool) -> None:
    """While the broker is down no call takes longer than a second or raises; then reading goes on where it stood."""
    topic = unsteady_broker.topic(1)
    unsteady_broker.produce(topic, [b"before"], partition=0)
    source = open_source(unsteady_broker.settings(topic, group="g", metadata_seconds_max=1))
    assert values_of(source, 1) == [b"before"]
    unsteady_broker.stop(kill=kill)

    longest = longest_call(source, 4)
    unsteady_broker.start()
    unsteady_broker.produce(topic, [b"after"], partition=0)

    assert longest < POLL_SECONDS_MAX
    assert values_of(source, 1) == [b"after"]
    source.close()


def test_broker_that_answers_nothing(unsteady_broker: KafkaBroker) -> None:
    """A broker that hangs holds up neither polls nor closing, and reading goes on once it is back."""
    topic = unsteady_broker.topic(1)
    unsteady_broker.produce(topic, [b"before"], partition=0)
    settings = unsteady_broker.settings(topic, group="g", metadata_seconds_max=1)
    source, other = open_source(settings), open_source(settings)
    assert values_of(source, 1) == [b"before"]
    unsteady_broker.freeze()

    longest = longest_call(source, 4)
    other.commit({0: 1})
    started = time.monotonic()
    other.close()
    took = time.monotonic() - started
    unsteady_broker.thaw()
    unsteady_broker.produce(topic, [b"after"], partition=0)

    assert longest < POLL_SECONDS_MAX
    assert took < 12
    assert values_of(source, 1) == [b"after"]
    source.close()


def test_name_server_in_trouble(unsteady_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that takes three seconds an answer does not hold up a poll, even while reconnecting."""
    topic = unsteady_broker.topic(1)
    unsteady_broker.produce(topic, [b"before"], partition=0)
    source = open_source(unsteady_broker.settings(topic, metadata_seconds_max=1))
    assert values_of(source, 1) == [b"before"]
    asked: list[Any] = []
    answer = socket.getaddrinfo

    def slow(*place: Any, **more: Any) -> Any:
        asked.append(place)
        time.sleep(3)
        return answer(*place, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr("stream.kafka.repair.FRESH_SECONDS", 0.0)
    unsteady_broker.stop(kill=True)

    assert longest_call(source, 5) < POLL_SECONDS_MAX
    assert asked
    monkeypatch.undo()
    unsteady_broker.start()
    unsteady_broker.produce(topic, [b"after"], partition=0)
    assert values_of(source, 1) == [b"after"]
    source.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_start_without_a_broker(host: str) -> None:
    """A start without a broker is refused in bounded time, naming the servers asked and what each said."""
    server = f"{host}:{free_ports(1)[0]}"
    settings = KafkaSettings(server, "clicks", start_seconds_max=2)
    started = time.monotonic()

    with pytest.raises(
        SourceRefused, match=rf"no Kafka broker answered at {server} .*({server}: .*(refused|known|resol))"
    ):
        KafkaSource(settings, SystemClock())
    assert time.monotonic() - started < 8


class _NotUtf8(str):
    """A header key as a producer in another language may send it."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfe"


def test_header_key_not_utf8(kafka_broker: KafkaBroker) -> None:
    """A header key that is not UTF-8 stops nothing: its record and those around it are delivered, each once."""
    topic = kafka_broker.topic(1)
    with KafkaProducer(bootstrap_servers=kafka_broker.bootstrap, linger_ms=100) as producer:
        for number in range(9):
            headers = [(_NotUtf8("key"), b"v")] if number % 4 == 1 else None
            producer.send(topic, b"%d" % number, partition=0, headers=headers)
        producer.flush(10)
    source = open_source(kafka_broker.settings(topic))

    assert values_of(source, 9) == [b"%d" % number for number in range(9)]
    assert source.poll(10, 0.1) == []
    source.close()
