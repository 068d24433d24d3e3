"""A whole small service in this process: real corridor, real model, fakes at the doors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from model.config import LearnerConfig
from stream.batching import CutPolicy
from stream.drifting import DriftPolicy
from stream.errors import LearnerLost
from stream.history import Archive
from stream.host import HostConfig, LearnerHost
from stream.loop import Rhythm
from stream.metrics import PrometheusMeter
from stream.naming import Layout
from stream.patience import Patience
from stream.planner import Head
from stream.policy import Backoff, CheckpointPolicy
from stream.ports import ObjectStore
from stream.recovery import replay
from stream.replay.source import ReplaySource
from stream.retrain.training import Task, Training
from stream.retraining import Progress, RetrainPolicy
from stream.service import Doors, Orders, Service
from stream.versions import Request, Trained
from tests.fakes import FakeClock, InlineExecutor, InlineLearner, MemoryLetters, MemoryStore

LAYOUT = Layout("headrace", "main")
MODEL = LearnerConfig(dim=4, negatives=8, block=16, long_ring=1000)
RHYTHM = Rhythm(
    cut=CutPolicy(rows=40),
    checkpoint=CheckpointPolicy(batches=3, seconds=1e9, kept=2, grace_seconds=1e9),
    poll_events=25,
    idle_seconds=0.0,
    busy_seconds=0.0,
)
Row = Mapping[str, Any] | bytes | None


def clicks(count: int, users: int = 7, items: int = 30) -> list[Row]:
    """`count` valid clicks, one a second."""
    return [
        {
            "user_id": f"u{place * 5 % users}",
            "product_id": f"i{place * place % items}",
            "timestamp": 1_600_000_000 + place,
        }
        for place in range(count)
    ]


class InlineTrainer:
    """A `Trainer` in this process, which trains when it is polled. `dies`: so often it is lost instead."""

    def __init__(self, store: ObjectStore, window: int) -> None:
        self._store, self._window = store, window
        self._training: Training | None = None
        self.dies = 0

    def begin(self, layout: Layout, against: int, request: Request) -> None:
        task = Task(self._store, layout, against, request, MODEL, self._window, 2, proof_clicks=10, proof_seconds=0.0)
        patience = Patience(Backoff(), lambda _: True, PrometheusMeter())
        self._training = Training(task, Archive(self._store, LAYOUT.of_version(against), patience, PrometheusMeter()))

    def poll(self) -> Progress | Trained:
        if self._training is None or self.dies:
            self.dies -= 1
            raise LearnerLost("killed by the test")
        return self._training.run()

    def close(self) -> None:
        self._training = None


@dataclass(slots=True)
class Rig:
    """What one process of the service is made of; a second Rig on the same `store` is the next process."""

    store: ObjectStore
    rows: Sequence[Row]
    rhythm: Rhythm = RHYTHM
    window: int = 1000
    clock: FakeClock = field(default_factory=FakeClock)
    meter: PrometheusMeter = field(default_factory=PrometheusMeter)
    letters: MemoryLetters = field(default_factory=MemoryLetters)
    partitions: int = 2
    topic: str = "clicks"
    version: int = 1
    trains: bool = False
    drift: DriftPolicy = field(default_factory=DriftPolicy)
    config: HostConfig = field(init=False)
    trainer: InlineTrainer = field(init=False)
    learner: InlineLearner = field(init=False)
    source: ReplaySource = field(init=False)
    service: Service = field(init=False)

    def __post_init__(self) -> None:
        layout = LAYOUT.of_version(self.version)
        self.config = HostConfig(MODEL, layout, self.store, self.window)
        self.learner = InlineLearner(self.config)
        self.trainer = InlineTrainer(self.store, self.window)
        self.source = ReplaySource(self.rows, partitions=self.partitions, clock=self.clock)
        doors = Doors(self.source, self.letters, self.store, self.learner, self.clock, self.meter)
        if self.trains:
            doors = replace(doors, learners=self._another, trainer=self.trainer)
        policy = RetrainPolicy(margin=0.5, clicks=10)
        orders = Orders(layout, self.topic, rhythm=self.rhythm, window=self.window, retrain=policy, drift=self.drift)
        self.service = Service(doors, orders, lambda *_: InlineExecutor())

    def run(self, each_turn: Callable[[], None] = lambda: None) -> None:
        """Open, and run to the end of the rows."""
        self.service.open()
        self.service.run(lambda: self._turned(each_turn))

    def state(self) -> str:
        """Hash of the live state."""
        return str(self.service.learner.status(digest=True)["state_sha256"])

    def _another(self, layout: Layout) -> InlineLearner:
        self.learner = InlineLearner(replace(self.config, layout=layout))
        return self.learner

    def _turned(self, each_turn: Callable[[], None]) -> None:
        self.clock.advance(0.01)
        each_turn()


def folded(store: ObjectStore, window: int = 1000) -> LearnerHost:
    """A learner that has applied all plans of the store from the first on, without a break."""
    host = LearnerHost(HostConfig(MODEL, LAYOUT, store, window))
    patience = Patience(Backoff(), lambda _: True, PrometheusMeter())
    for planned in replay(Archive(store, LAYOUT, patience, PrometheusMeter()), Head(-1, "", 0), {}):
        host.apply(planned)
    return host


__all__ = ["LAYOUT", "MODEL", "RHYTHM", "MemoryStore", "Rig", "clicks", "folded"]
