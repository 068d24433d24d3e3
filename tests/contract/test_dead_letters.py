"""The contract of `DeadLetters`, over a local file and over a real Kafka topic."""

from __future__ import annotations

import json
import os
import resource
import signal
from abc import ABC, abstractmethod
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer

from stream.clocks import SystemClock
from stream.decode import DECODER_VERSION
from stream.errors import SourceRefused, StoreUnavailable
from stream.events import Reject
from stream.kafka import letters as kafka_letters
from stream.kafka.source import KafkaDeadLetters, KafkaSettings, KafkaSource
from stream.ports import DeadLetters
from stream.replay.source import FileDeadLetters
from tests.servers.kafka import KafkaBroker

REJECTS = [
    Reject(2, 7, "not_utf8", "not UTF-8", b'\xff\x00\n"', [("trace", b"\x01"), ("trace", b"2"), ("none", None)], 1_700),
    Reject(0, 1, "null_value", "no value", None),
    Reject(0, 2, "not_json", "no JSON", b""),
]
Letter = tuple[int, int, str, bytes | None, list[tuple[str, bytes]]]


def letter_of(reject: Reject) -> Letter:
    """What must be found again; a null header may come back empty."""
    headers = [(name, value or b"") for name, value in reject.headers]
    return reject.partition, reject.offset, reject.reason, reject.value, headers


class Box(ABC):
    """Dead letters under test, and a reading of what arrived that uses none of our code."""

    @abstractmethod
    def open(self) -> DeadLetters: ...

    @abstractmethod
    def letters(self) -> list[Letter]: ...


class FileBox(Box):
    def __init__(self, path: Path) -> None:
        self.path = path / "rejects" / "letters.jsonl"

    def open(self) -> DeadLetters:
        return FileDeadLetters(self.path)

    def letters(self) -> list[Letter]:
        def bytes_of(text: str | None) -> bytes | None:
            return None if text is None else b64decode(text)

        rows = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [
            (
                row["partition"],
                row["offset"],
                row["reason"],
                bytes_of(row["value"]),
                [(name, bytes_of(value) or b"") for name, value in row["headers"]],
            )
            for row in rows
        ]


class KafkaBox(Box):
    def __init__(self, broker: KafkaBroker) -> None:
        self.broker = broker
        self.topic = broker.topic(1, **{"max.message.bytes": "400000"})

    def open(self) -> DeadLetters:
        return KafkaDeadLetters(self.broker.settings("clicks"), self.topic)

    def records(self) -> list[Any]:
        with KafkaConsumer(
            self.topic,
            bootstrap_servers=self.broker.bootstrap,
            auto_offset_reset="earliest",
            consumer_timeout_ms=1500,
        ) as consumer:
            return list(consumer)

    def letters(self) -> list[Letter]:
        found = []
        for record in self.records():
            ours = {name: value.decode() for name, value in record.headers if name.startswith("headrace-")}
            headers = [each for each in record.headers if not each[0].startswith("headrace-")]
            place = int(ours["headrace-partition"]), int(ours["headrace-offset"])
            found.append((*place, ours["headrace-reason"], record.value, headers))
        return found


@pytest.fixture(params=["file", pytest.param("kafka", marks=pytest.mark.services)])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    """Each implementation in turn."""
    return FileBox(tmp_path) if request.param == "file" else KafkaBox(request.getfixturevalue("kafka_broker"))


def test_original_bytes(box: Box) -> None:
    """What was sent is there when `send` returns: bytes, headers in order, place and reason; null stays null."""
    letters = box.open()
    letters.send(REJECTS)

    assert box.letters() == [letter_of(reject) for reject in REJECTS]
    letters.close()


def test_appended(box: Box) -> None:
    """A second sending, by a second process even, adds to what is there."""
    for reject in REJECTS[:2]:
        letters = box.open()
        letters.send([reject])
        letters.close()

    assert box.letters() == [letter_of(reject) for reject in REJECTS[:2]]


def test_nothing_to_send(box: Box) -> None:
    """Sending nothing writes nothing; closing twice is closing once."""
    letters = box.open()
    letters.send([])
    letters.close()
    letters.close()

    assert box.letters() == []


@pytest.mark.services
def test_letter_names_its_source(kafka_broker: KafkaBroker) -> None:
    """A letter says from which topic, when and by which decoder it was rejected; of the person it says nothing."""
    box = KafkaBox(kafka_broker)
    letters = box.open()
    letters.send(REJECTS[:1])
    letters.close()
    record = box.records()[0]
    headers = dict(record.headers)

    assert headers["headrace-topic"] == b"clicks"
    assert headers["headrace-timestamp"] == b"1700"
    assert headers["headrace-decoder"] == DECODER_VERSION.encode()
    assert headers["headrace-null-headers"] == b"none"
    assert record.key == b"clicks/2/7"


@pytest.mark.services
def test_too_large_for_its_topic(kafka_broker: KafkaBroker) -> None:
    """A message that the dead-letter topic cannot hold is cut and says so; the others are whole, nothing is stopped."""
    box = KafkaBox(kafka_broker)
    value = os.urandom(500_000)
    letters = box.open()
    letters.send([REJECTS[2], Reject(1, 5, "too_large", "500000 bytes", value), REJECTS[1]])
    letters.close()
    found = {(partition, offset): got for partition, offset, _, got, _ in box.letters()}
    cut = next(dict(record.headers) for record in box.records() if record.key == b"clicks/1/5")

    assert found == {(0, 2): b"", (0, 1): None, (1, 5): value[: 256 << 10]}
    assert cut["headrace-original-bytes"] == b"500000"


@pytest.mark.services
def test_topic_is_made(kafka_broker: KafkaBroker) -> None:
    """A dead-letter topic that does not exist is made, and can be read like any other."""
    name = kafka_broker.topic(1) + ".dlq"
    letters = KafkaDeadLetters(kafka_broker.settings("clicks"), name)
    letters.send(REJECTS[:1])
    letters.close()
    source = KafkaSource(kafka_broker.settings(name), SystemClock())
    source.assign(source.beginning())
    values = [chunk.values for _ in range(4) for chunk in source.poll(10, 0.5)]
    source.close()

    assert values == [[REJECTS[0].value]]


@pytest.mark.services
def test_broker_down(unsteady_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the broker is down a sending fails as one to be tried again; tried again, it arrives."""
    options: dict[str, Any] = kafka_letters._PRODUCER_OPTIONS
    # Twenty seconds otherwise, which is what the promise is about, but long for a test.
    monkeypatch.setitem(options, "delivery_timeout_ms", 2000)
    monkeypatch.setitem(options, "max_block_ms", 2000)
    monkeypatch.setitem(options, "request_timeout_ms", 1000)
    box = KafkaBox(unsteady_broker)
    letters = box.open()
    unsteady_broker.stop(kill=True)

    with pytest.raises(StoreUnavailable, match=box.topic):
        letters.send(REJECTS[2:])
    unsteady_broker.start()
    letters.send(REJECTS[2:])

    assert letter_of(REJECTS[2]) in box.letters()
    letters.close()


def test_file_cannot_be_written(tmp_path: Path) -> None:
    """A folder in place of the file is refused with the path and what to do."""
    with pytest.raises(SourceRefused, match=rf"{tmp_path}.*Name a file"):
        FileDeadLetters(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_disk_full() -> None:
    """A full disk is an error that may pass, never a letter lost in silence."""
    letters = FileDeadLetters("/dev/full")
    with pytest.raises(StoreUnavailable, match="No space left"):
        letters.send(REJECTS)
    letters.close()


def test_file_is_limited(tmp_path: Path) -> None:
    """Letters that fit in part only leave no torn line behind: what is written later is whole."""
    box = FileBox(tmp_path)
    letters = box.open()
    letters.send(REJECTS[:1])
    limit = box.path.stat().st_size + 30
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StoreUnavailable, match="File too large"):
            letters.send(REJECTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    letters.send(REJECTS[1:])
    letters.close()

    assert box.letters() == [letter_of(reject) for reject in REJECTS]


@pytest.mark.services
def test_no_broker_for_letters() -> None:
    """Dead letters without a broker to take them are refused at the start."""
    with pytest.raises(SourceRefused, match="no Kafka broker answered"):
        KafkaDeadLetters(KafkaSettings("127.0.0.1:1", "clicks", start_seconds_max=1), "clicks.dlq")
