"""Versions in a simulated world: an operator who asks for retrains and changes who serves, and who trains them.

The training is the product's own but for its arithmetic: what is stored is read by its code, the new model is begun
with what that gives, meets the plans after it, and is checkpointed by the product's host. It runs in a process of its
own, which dies like any other.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import stream.host
from model.config import LearnerConfig
from stream import versions
from stream.errors import ConfigError, HeadraceError, LearnerLost, PreconditionFailed
from stream.history import Archive
from stream.host import LearnerHost
from stream.metrics import NullMeter
from stream.models import _check_can_serve
from stream.naming import Layout
from stream.patience import Patience
from stream.policy import Backoff
from stream.ports import ObjectStore
from stream.retrain.clicks import StoredClicks
from stream.retrain.training import Task, Training
from stream.retraining import Progress
from stream.train.fit import Fitted
from stream.versions import Duel, Request, Result, RetrainRunning, Serving, Trained
from tests.fakes import MemoryStore
from tests.recovery.simulated.ends import Bucket, SimulatedStore, Weather
from tests.recovery.simulated.world import Process


class Direct(MemoryStore):
    """The bucket as somebody sees it whose calls never fail: nobody is interested in what becomes of the operator."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__()
        self.objects = bucket.objects
        self._bucket = bucket

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False, if_match: str | None = None) -> str:
        return self._bucket.put(key, bytes(data), if_absent=if_absent, if_match=if_match)


class SimulatedTraining(Training):
    """Begun with what all of history gives; then, as every other version, with each plan once."""

    def __init__(self, task: Task, archive: Archive, duel: Duel, pause: Callable[[], None]) -> None:
        super().__init__(task, archive)
        self._verdict, self._pause = duel, pause

    def _fit(self, clicks: StoredClicks) -> Fitted:
        self._pause()
        learner: Any = vars(stream.host)["Learner"](self._task.learner)  # a chain, in most worlds
        for batch in clicks.batches(10):
            learner.learn(batch)
        return Fitted(learner, [], 1)

    def _duel(self, new: LearnerHost, live: LearnerHost) -> Duel:
        for planned in self._newer(live.position):
            self._both(new, live, planned)
        return self._verdict

    def _check_answers(self, again: LearnerHost, clicks: StoredClicks) -> None:
        """A chain has none."""


class SimulatedTrainer:
    """A `Trainer` whose training runs in a process of its own. `born` is told of each."""

    def __init__(self, bucket: Bucket, process: Process, model: LearnerConfig, window: int) -> None:
        self._bucket, self._process, self._world = bucket, process, process.world
        self._model, self._window = model, window
        self._child: Process | None = None
        self._answer: list[Trained | Exception] = []
        self.born: Callable[[Process], None] = lambda _process: None

    def begin(self, layout: Layout, against: int, request: Request) -> None:
        self.close()
        self._process.boundary()
        self._world.sleep(1.0 + self._world.random.random() * 3.0)
        self._child = child = Process(self._world, f"{self._process.name}.trainer")
        answer: list[Trained | Exception] = []
        self._answer = answer
        self._process.children.append(child)
        self.born(child)
        self._world.spawn(child, lambda: self._train(child, layout, against, request, answer))

    def poll(self) -> Progress | Trained:
        self._process.boundary()
        self._world.sleep(self._world.random.random() * 0.1)
        if self._answer:
            found = self._answer[0]
            if isinstance(found, Exception):
                raise found
            return found
        if self._child is None or not self._child.alive:
            raise LearnerLost("the training's process is gone")
        return Progress(0.5, "training")

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            self._world.kill(child)

    def _train(
        self, child: Process, layout: Layout, against: int, request: Request, answer: list[Trained | Exception]
    ) -> None:
        store = SimulatedStore(self._bucket, child)
        task = Task(store, layout, against, request, self._model, self._window)
        patience = Patience(Backoff(), self._wait, NullMeter())
        archive = Archive(store, layout.of_version(against), patience, NullMeter())
        duel = Duel(100, self._world.random.uniform(0.05, 0.2), 0.1, 0.1, 0.1)
        try:
            answer.append(SimulatedTraining(task, archive, duel, self._take_long).run())
        except Exception as error:  # noqa: BLE001 - as in Ray's actor: it is the answer
            answer.append(error)

    def _take_long(self) -> None:
        """Longer than a request may be under way, as trainings do."""
        self._world.sleep(Weather().late_seconds * (1.0 + self._world.random.random()))

    def _wait(self, seconds: float) -> bool:
        self._world.sleep(seconds)
        return False


class Operator:
    """Asks for retrains, cancels them, promotes and rolls back, as the commands do."""

    def __init__(self, bucket: Bucket, layout: Layout, chance: random.Random) -> None:
        self._store: ObjectStore = Direct(bucket)
        self._layout, self._chance = layout, chance
        self._asked = 0

    def act(self) -> str:
        """Do one thing, and say which."""
        deed = self._chance.choice((self._ask, self._ask, self._promote, self._roll_back, self._cancel))
        try:
            return deed()
        except (ConfigError, PreconditionFailed, RetrainRunning) as error:
            return f"is told no: {error}"
        except HeadraceError as error:
            return f"cannot: {error}"

    def settled(self, serving: int) -> bool:
        """Whether `serving` is the version that is to serve, and no retrain is under way."""
        known = versions.read_serving(self._store, self._layout)
        return known.serving.version == serving and not versions.newest(self._store, self._layout).open

    def _ask(self) -> str:
        self._asked += 1
        version = versions.ask(self._store, self._layout, Request(f"key {self._asked}"))
        return f"asks for version {version.number}"

    def _cancel(self) -> str:
        newest = versions.newest(self._store, self._layout)
        if not newest.open:
            return "has nothing to cancel"
        versions.close(self._store, self._layout.of_version(newest.number), Result("cancelled", "by hand"))
        return f"cancels version {newest.number}"

    def _promote(self) -> str:
        version = self._chance.choice(versions.numbers(self._store, self._layout))
        return self._serve(lambda now: versions.promoted(now, version, "now", "by hand"))

    def _roll_back(self) -> str:
        return self._serve(lambda now: versions.rolled_back(now, "now", "by hand"))

    def _serve(self, change: Callable[[Serving], Serving]) -> str:
        known = versions.read_serving(self._store, self._layout)
        wanted = change(known.serving)
        _check_can_serve(self._store, self._layout.of_version(wanted.version))
        versions.write_serving(self._store, self._layout, wanted, known)
        return f"lets version {wanted.version} serve"
