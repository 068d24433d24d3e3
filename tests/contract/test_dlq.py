"""`headrace dlq` on a real broker: letters are found, told again once for all, and purged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from stream import gate
from stream.batching import CutPolicy
from stream.breaker import BreakerPolicy
from stream.clocks import SystemClock
from stream.decode import REPLAY_HEADER
from stream.errors import SourceRefused
from stream.events import Reject
from stream.kafka import dlq
from stream.kafka.link import KafkaSettings
from stream.kafka.source import KafkaDeadLetters, KafkaSource
from stream.letters import Choice
from stream.service import Doors, Orders, Service
from stream.verify.walk import prove
from tests.fakes import InlineExecutor, MemoryStore
from tests.rigs import LAYOUT, RHYTHM, Rig
from tests.servers.kafka import KafkaBroker

pytestmark = pytest.mark.services


def click(**fields: object) -> bytes:
    return json.dumps({"user_id": "u17", "product_id": "p", **fields}).encode()


REJECTS = [
    Reject(1, 7, "too_large", "", click(), [("trace", b"1")], 1_700_000_000_000),
    Reject(0, 1, "too_large", "", click(event_id="own"), (), 1_700_000_000_000),
    Reject(1, 8, "not_json", "", b"nope", (), 1_700_000_000_000),
    Reject(0, 2, "null_value", "", None, (), 1_700_000_000_000),
]


@pytest.fixture
def settings(kafka_broker: KafkaBroker) -> KafkaSettings:
    """A source topic of two partitions, with letters in its dead-letter topic."""
    settings = kafka_broker.settings(kafka_broker.topic(2))
    box = KafkaDeadLetters(settings, f"{settings.topic}.dlq")
    box.send(REJECTS)
    box.close()
    return settings


def places(settings: KafkaSettings, choice: Choice) -> list[tuple[int, int]]:
    found = dlq.read(settings, f"{settings.topic}.dlq", choice)
    return sorted((letter.partition, letter.offset) for letter in found)


def turn_until(service: Service, done: Callable[[], bool]) -> None:
    """Turn the service's loop until something holds."""
    assert service._loop is not None
    deadline = time.monotonic() + 120
    while not done():
        service._loop.turn()
        assert time.monotonic() < deadline


def test_found_by_reason_and_time(settings: KafkaSettings) -> None:
    """All that were there at the start, and of those the chosen ones; the topic is read to its end and no further."""
    now = round(time.time() * 1000)

    assert places(settings, Choice()) == [(0, 1), (0, 2), (1, 7), (1, 8)]
    assert places(settings, Choice(frozenset({"not_json", "null_value"}))) == [(0, 2), (1, 8)]
    assert places(settings, Choice(until=now - 3_600_000)) == []
    assert places(settings, Choice(since=now - 3_600_000)) == [(0, 1), (0, 2), (1, 7), (1, 8)]


def test_replayed_twice_trained_once(settings: KafkaSettings) -> None:
    """Through the real source, the real decode and plans: each letter is trained once, what is bad stays bad."""
    for _ in range(2):
        done = dlq.replay(settings, dlq.read(settings, f"{settings.topic}.dlq", Choice()))
        assert (done.replayed, done.cut, done.foreign) == (4, 0, 0)
    rig = Rig(MemoryStore(), [])
    source = KafkaSource(settings, SystemClock())
    doors = Doors(source, rig.letters, rig.store, rig.learner, SystemClock(), rig.meter)
    service = Service(doors, Orders(LAYOUT, settings.topic, rhythm=RHYTHM, window=1000), lambda *_: InlineExecutor())
    service.open()
    turn_until(service, lambda: len(rig.letters.letters) == 4 and service._loop.idle)  # type: ignore[union-attr]
    turn_until(service, lambda: not sum(source.lag().values()) and service._loop.idle)  # type: ignore[union-attr]
    service.close()
    verdict = prove(rig.store, LAYOUT.prefix, LAYOUT.lineage)

    assert (verdict.trained, verdict.duplicates, verdict.rejected, verdict.breaches) == (2, 2, 4, 0)
    assert [letter.partition for letter in rig.letters.letters].count(1) == 2
    told = [dict(letter.headers) for letter in rig.letters.letters if letter.partition == 1]
    assert [headers[REPLAY_HEADER] for headers in told] == [f"{settings.topic}/1/8".encode()] * 2


def test_what_cannot_be_told_again_is_counted(settings: KafkaSettings, kafka_broker: KafkaBroker) -> None:
    """Letters of another topic, of a partition that is gone, or cut because they were too large, are left out."""
    found = list(dlq.read(settings, f"{settings.topic}.dlq", Choice(frozenset({"too_large"}))))
    odd = [replace(found[0], topic="other"), replace(found[0], partition=9), replace(found[0], original_bytes=10**6)]

    done = dlq.replay(settings, [*found, *odd])

    assert (done.replayed, done.cut, done.foreign) == (2, 1, 2)


def test_purged(settings: KafkaSettings) -> None:
    """Before a time: what is as young stays; without one: all that are there. Twice is once."""
    topic = f"{settings.topic}.dlq"
    untouched = dlq.purge(settings, topic, round(time.time() * 1000) - 3_600_000)
    assert untouched.records == 0
    assert len(places(settings, Choice())) == 4

    purged = dlq.purge(settings, topic, None)
    again = dlq.purge(settings, topic, None)

    assert purged.records == 4
    assert again.records == 0
    assert places(settings, Choice()) == []


def test_breaker_on_a_real_topic(kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens on a broken tracker and keeps the offsets; once the newest messages are clicks, it goes on there."""
    monkeypatch.setattr(gate, "PROBE_SECONDS", 0.2)
    settings = kafka_broker.settings(kafka_broker.topic(2))
    bad, good = [b"{}"] * 60, [click(user_id=f"u{number % 7}") for number in range(120)]
    for partition in (0, 1):
        kafka_broker.produce(settings.topic, bad, partition=partition)
    rig = Rig(MemoryStore(), [])
    source = KafkaSource(settings, SystemClock())
    doors = Doors(source, rig.letters, rig.store, rig.learner, SystemClock(), rig.meter)
    rhythm = replace(RHYTHM, cut=CutPolicy(rows=100), breaker=BreakerPolicy(share=0.5, messages=100), poll_events=1000)
    service = Service(doors, Orders(LAYOUT, settings.topic, rhythm=rhythm, window=1000), lambda *_: InlineExecutor())
    service.open()
    turn_until(service, lambda: not service.health().ready)
    assert len(rig.letters.letters) < 100
    for partition in (0, 1):
        kafka_broker.produce(settings.topic, good, partition=partition)
    turn_until(service, lambda: rig.meter.value("headrace_events_total", outcome="trained") == 240)
    service.close()
    verdict = prove(rig.store, LAYOUT.prefix, LAYOUT.lineage)

    assert (verdict.trained, verdict.rejected, verdict.breaches) == (240, 120, 0)
    assert len(rig.letters.letters) == 120
    assert rig.meter.value("headrace_breaker_openings_total") == 1


def test_no_such_topic_is_named(kafka_broker: KafkaBroker) -> None:
    """A dead-letter topic that was never made has no letters to find."""
    settings = kafka_broker.settings("never-made")

    with pytest.raises(SourceRefused, match="no topic 'never-made"):
        list(dlq.read(settings, "never-made.dlq", Choice()))
