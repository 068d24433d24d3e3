"""What a retrain costs the live stream: events a second without one, and while one trains, by turns in one run.

The service is the product's, with its default settings but for more frequent checkpoints: a real Kafka with a backlog,
plans and staged clicks in a store, the learner in a Ray actor, the training in another one. Each window begins when all
is as it should be (no training, or one in its epochs), and counts the events that the live model learned in it.

    python -m bench.retrain --json [--events N] [--windows N] [--seconds S]
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from bench.common import lacking, machine, median, say, show
from bench.pipeline import LAYOUT, PARTITIONS, Ground, TimedSource, prepared, told
from stream import actor, log, versions, wiring
from stream.actor import RayLearner
from stream.clocks import SystemClock
from stream.events import LearnReport
from stream.kafka.source import KafkaDeadLetters
from stream.metrics import PrometheusMeter
from stream.ports import ObjectStore
from stream.retrain.actor import RayTrainer
from stream.service import Doors, Service
from stream.settings.settings import Settings
from stream.versions import Request, Result

EPOCHS = 1000
"""So that a training is always in the middle; each is cancelled."""
WARM_SECONDS = 5.0
WAIT_SECONDS = 60.0


@dataclass
class Watch:
    """Windows without a training and with one, by turns. `check` is called once a turn of the loop."""

    service: Service
    store: ObjectStore
    meter: PrometheusMeter
    windows: int
    seconds: float
    speeds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    learned: int = 0
    _training: bool = False
    _since: float | None = None
    _first: int = 0
    _asked: float = field(default_factory=time.monotonic)

    def __call__(self, report: LearnReport) -> None:
        assert report.learned is not None
        self.learned += report.learned.clicks

    def check(self) -> None:
        """Begin a window when all is ready for it; end it when it is over."""
        now = time.monotonic()
        if self._since is None:
            if self._ready(now):
                self._since, self._first = now, self.learned
            elif now - self._asked > WAIT_SECONDS:
                raise SystemExit(f"{'a' if self._training else 'no'} training after {WAIT_SECONDS:.0f} s: see the log")
        elif now - self._since >= self.seconds:
            speed = (self.learned - self._first) / (now - self._since)
            self.speeds[self._training].append(speed)
            say(f"{'with' if self._training else 'without'} a training: {speed:,.0f}/s")
            self._turn_over(now)

    def _ready(self, now: float) -> bool:
        warm = now - self._asked > WARM_SECONDS and self.meter.value("headrace_checkpoint_seq") > 0
        running = self.meter.value("headrace_retrain_running") == 1
        if not self._training:
            return warm and not running
        return running and self.meter.value("headrace_retrain_progress_ratio") > 0.05  # its epochs have begun

    def _turn_over(self, now: float) -> None:
        self._since, self._asked = None, now
        if self._training:
            newest = versions.newest(self.store, LAYOUT)
            versions.close(self.store, LAYOUT.of_version(newest.number), Result("cancelled", "the window is over"))
        elif len(self.speeds[False]) > self.windows:
            self.service.stop()
            return
        else:
            versions.ask(self.store, LAYOUT, Request(uuid.uuid4().hex, "a benchmark", epochs=EPOCHS))
        self._training = not self._training


def main() -> None:
    options = _options()
    log.configure("warning")
    with ExitStack() as stack:
        place = stack.enter_context(prepared(options))
        settings = Settings.load({"stream.checkpoint_batches": 40})
        actor.connect(wiring.ray_config(settings))
        stack.callback(actor.disconnect)
        watch = _run(place, settings, options)
    show(_result(watch, options), as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000_000, help="messages in the topic: more than is learned")
    parser.add_argument("--windows", type=int, default=3, help="windows with a training")
    parser.add_argument("--seconds", type=float, default=8.0, help="of one window")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return argparse.Namespace(**vars(parser.parse_args()), data=None, store="directory")


def _run(place: Ground, settings: Settings, options: argparse.Namespace) -> Watch:
    service, store, meter = _made(place, settings)
    watch = Watch(service, store, meter, options.windows, options.seconds)
    try:
        service.open()
        service.figures.told = watch
        service.run(_unless_over(watch, place.events))
    finally:
        service.close()
    return watch


def _unless_over(watch: Watch, events: int) -> Callable[[], None]:
    def check() -> None:
        watch.check()
        if watch.learned >= events:
            raise lacking(f"all {events:,} messages were learned before the last window was over: raise --events")

    return check


def _made(place: Ground, settings: Settings) -> tuple[Service, ObjectStore, PrometheusMeter]:
    clock, store, meter = SystemClock(), place.store(), PrometheusMeter()
    kafka = place.broker.settings(place.topic, group="bench")
    config, orders = told(place, settings, store)
    doors = Doors(
        TimedSource(kafka, clock),
        KafkaDeadLetters(kafka, f"{place.topic}.dlq"),
        store,
        RayLearner(config),
        clock,
        meter,
        learners=lambda layout: RayLearner(replace(config, layout=layout), cpus=wiring.spare_cpus(settings)),
        trainer=RayTrainer(replace(wiring.lessons(settings, store), older_key="")),
    )
    return Service(doors, orders), store, meter


def _result(watch: Watch, options: argparse.Namespace) -> dict[str, Any]:
    without, trained = watch.speeds[False], watch.speeds[True]
    beside = [2 * speed / (before + after) for speed, before, after in zip(trained, without, without[1:], strict=False)]
    return {
        "ratio": round(median(trained) / median(without), 3),
        "worst": round(min(beside), 3),  # of a window with a training to the mean of its two neighbours
        "without": [round(each) for each in without],
        "while_training": [round(each) for each in trained],
        "seconds": options.seconds,
        "partitions": PARTITIONS,
        **machine(),
    }


if __name__ == "__main__":
    main()
