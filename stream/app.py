"""`headrace run`: the service with its doors open, its signals handled, and an end that says how it ended."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Self

import msgspec
import structlog

from stream import actor, faultpoints, wiring
from stream.actor import RayConfig, RayLearner
from stream.admin import AdminDoor
from stream.api import Answer, Health, HttpDoor
from stream.clocks import SystemClock
from stream.errors import ConfigError, Conflict, DrainIncomplete, StoreUnavailable
from stream.events import LearnReport
from stream.host import HostConfig
from stream.kafka.source import KafkaDeadLetters, KafkaSource
from stream.loop import Rhythm
from stream.metrics import PrometheusMeter
from stream.naming import Layout
from stream.patience import Patience
from stream.policy import Backoff
from stream.ports import Clock, DeadLetters, EventSource, ObjectStore
from stream.replay.source import FileDeadLetters, ReplaySource
from stream.retrain.actor import RayTrainer
from stream.retraining import RetrainPolicy
from stream.service import Doors, Orders, Service
from stream.settings.settings import Settings, wanted_fault

log = structlog.get_logger()
SECOND_SIGNAL = 130
_RETAKE_SECONDS = 0.05
_Ends = tuple[EventSource, DeadLetters, Clock]


def run(settings: Settings, replay: Path | None, rate: float | None, started: float) -> None:
    """Run until a signal comes or the replay ends. `started`: monotonic seconds at which the process began.

    Raises a `HeadraceError` whose exit code says why it stopped.
    """
    if rate is not None and replay is None:
        raise ConfigError("--rate slows a --replay down; Kafka is read as fast as it is learned. Leave --rate away")
    faultpoints.arm(wanted_fault())
    meter = PrometheusMeter()
    meter.set("headrace_build_info", 1, version=version("headrace"), python=platform.python_version())
    with ExitStack() as stack:
        signals = stack.enter_context(_Signals())
        entrance = _Entrance(meter)
        if settings.http.enabled:
            door = HttpDoor(wiring.http_config(settings), meter, entrance.health, entrance.recommend)
            log.info("listening", host=settings.http.host, port=door.start())
            stack.callback(door.close)
        store = wiring.open_store(settings)
        layout = _layout(settings, store, meter, signals)
        if settings.admin.token.get_secret_value():
            desk = wiring.admin_desk(settings, store, layout, entrance.progress)
            admin = AdminDoor(wiring.admin_config(settings), desk)
            log.info("listening for the admin", host=settings.admin.host, port=admin.start())
            stack.callback(admin.close)
        # Ray takes seconds to start: Kafka is reached, or the file is read, meanwhile.
        reaching = stack.enter_context(ThreadPoolExecutor(1, "headrace-open")).submit(_ends, settings, replay, rate)
        stack.callback(_let_go, reaching)
        # Ray's processes die with the thread that began them (PR_SET_PDEATHSIG), so it lives until we have left Ray.
        thread = stack.enter_context(ThreadPoolExecutor(1, "headrace-ray"))
        _join_ray(wiring.ray_config(settings), signals, thread)
        stack.callback(actor.disconnect)
        service = stack.enter_context(_service(settings, store, layout, meter, replay, reaching.result()))
        entrance.service = service
        signals.service = service
        service.figures.told = _FirstBatch(service, started)
        if not signals.count:
            opened = service.open()
            recovered = opened.recovered
            log.info(
                "lineage taken over",
                lineage=layout.lineage,
                epoch=opened.planner.head.epoch,
                checkpoint=recovered.checkpoint_seq,
                replayed=recovered.replayed,
                seconds=round(time.monotonic() - started, 2),
            )
            service.run(signals.take)  # a cluster that is joined anew brings its handlers along


def _layout(settings: Settings, store: ObjectStore, meter: PrometheusMeter, signals: _Signals) -> Layout:
    """Which lineage serves, once the store says so. Raises DrainIncomplete when asked to stop while it does not."""
    patience = Patience(Backoff(), signals.asked.wait, meter)
    try:
        return patience.call("ask which lineage serves", lambda: wiring.layout(settings, store))
    except (StoreUnavailable, Conflict) as error:
        raise DrainIncomplete(
            f"stopped as asked while waiting for the store, nothing was begun. The store's last word: {error}"
        ) from error


def _join_ray(config: RayConfig, signals: _Signals, thread: ThreadPoolExecutor) -> None:
    """Start or join Ray in `thread`. Signals keep reaching us in the seconds that takes.

    From the main thread Ray installs a handler of its own at once, which exits with a code of its own. Its C++ core
    installs another in any case, which aborts: that one is replaced.
    """
    joining = thread.submit(actor.connect, config)
    while not joining.done():
        signals.take()
        wait([joining], _RETAKE_SECONDS)
    signals.take()
    joining.result()


@contextmanager
def _service(
    settings: Settings, store: ObjectStore, layout: Layout, meter: PrometheusMeter, replay: Path | None, ends: _Ends
) -> Iterator[Service]:
    source, dead_letters, clock = ends
    config = HostConfig(
        wiring.learner_config(settings, settings.model.dim), layout, store, settings.stream.dedupe_window
    )
    orders = Orders(
        layout,
        replay.name if replay is not None else settings.kafka.topic,
        wiring.decode_rules(settings),
        _rhythm(settings, replay),
        settings.stream.dedupe_window,
        settings.stream.start,
        settings.stream.drain_seconds,
        settings.stream.resume_from,
        RetrainPolicy(settings.retrain.margin, settings.retrain.proof_clicks),
        settings.retrain.versions_kept,
        wiring.drift_policy(settings),
        wiring.location(settings),
    )
    learner = RayLearner(config, wanted_fault())
    doors = Doors(
        source,
        dead_letters,
        store,
        learner,
        clock,
        meter,
        learners=lambda layout: RayLearner(replace(config, layout=layout), cpus=wiring.spare_cpus(settings)),
        trainer=RayTrainer(wiring.lessons(settings, store)) if settings.retrain.enabled else None,
    )
    service = Service(doors, orders)
    try:
        yield service
    finally:
        service.close()


def _rhythm(settings: Settings, replay: Path | None) -> Rhythm:
    """A file brings nothing fresh that a circuit breaker could wait for: what is bad in it is set aside."""
    rhythm = wiring.rhythm(settings)
    return rhythm if replay is None else replace(rhythm, breaker=replace(rhythm.breaker, share=0.0))


def _ends(settings: Settings, replay: Path | None, rate: float | None) -> _Ends:
    """Where clicks come from, where rejects go, and the clock that arrivals are stamped by."""
    clock = SystemClock()
    if replay is not None:
        return (
            ReplaySource(replay, rate=rate, clock=clock),
            FileDeadLetters(f"{replay.name}.rejects.jsonl", replay.name),
            clock,
        )
    kafka = wiring.kafka_settings(settings)
    return KafkaSource(kafka, clock), KafkaDeadLetters(kafka, settings.kafka.dead_letter_topic), clock


def _let_go(reaching: Future[_Ends]) -> None:
    """Close what was reached, if it was, whoever uses it or not: closing twice is harmless."""
    if reaching.exception() is None:
        source, dead_letters, _ = reaching.result()
        source.close()
        dead_letters.close()


class _Entrance:
    """What the HTTP door asks, before and after there is a service behind it."""

    def __init__(self, meter: PrometheusMeter) -> None:
        self.service: Service | None = None
        self._meter = meter

    def health(self) -> Health:
        health = (
            self.service.health()
            if self.service is not None
            else Health(live=True, ready=False, reasons=["starting: reaching store, Kafka and Ray"])
        )
        self._meter.set("headrace_ready", health.live and health.ready)
        return health

    def progress(self) -> dict[str, object] | None:
        keeper = self.service.keeper if self.service is not None else None
        found = keeper.progress if keeper is not None else None
        if found is None:
            return None
        return {"ratio": found.ratio, "doing": found.doing, "duel": msgspec.to_builtins(found.duel)}

    def recommend(self, user_id: str, top_n: int) -> Answer:
        if self.service is None:
            raise TimeoutError("starting")
        return self.service.recommend(user_id, top_n)


class _FirstBatch:
    """Says once how long it took from the start of the process to the first batch learned."""

    def __init__(self, service: Service, started: float) -> None:
        self._service = service
        self._started = started

    def __call__(self, report: LearnReport) -> None:
        if report.learned is not None and report.learned.clicks:
            log.info("first batch learned", seconds_since_start=round(time.monotonic() - self._started, 2))
            self._service.figures.told = lambda _: None


class _Signals:
    """SIGINT and SIGTERM: the first asks for an orderly end, the second ends the process at once (which is safe)."""

    def __init__(self) -> None:
        self.count = 0
        self.asked = threading.Event()
        self.service: Service | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def take(self) -> None:
        """Install the handlers."""
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            os._exit(SECOND_SIGNAL)
        # Not from inside the handler: logging takes locks that the interrupted code may hold.
        threading.Thread(target=self._stop, args=(number,), daemon=True).start()

    def _stop(self, number: int) -> None:
        log.info(
            "stopping: draining and checkpointing; a second signal stops at once", signal=signal.Signals(number).name
        )
        self.asked.set()
        if self.service is not None:
            self.service.stop()
