"""A training in a Ray actor of its own, at low priority: what the live model needs of the machine, it gets first."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from model.config import LearnerConfig
from stream import faultpoints
from stream.decode import DecodeRules
from stream.errors import ConfigError, HeadraceError, LearnerFailed, LearnerLost
from stream.history import Archive
from stream.metrics import NullMeter
from stream.naming import Layout
from stream.patience import Patience
from stream.policy import Backoff
from stream.ports import ObjectStore
from stream.ray_link import UNREACHED, actor_options, not_started
from stream.retrain.training import Task, Training
from stream.retraining import Progress
from stream.versions import Request, Trained

NICENESS = 10
"""Above the live learner's (see `ray_link`): where both want one processor, Linux gives this one a tenth of it
(weights 110 and 1024, `sched_prio_to_weight`). Less, as idle scheduling gives, and a training may never end.
"""
_PROGRESS_SECONDS = 5.0
_GROUPS = {"read": 1}


@dataclass(frozen=True, slots=True)
class Lessons:
    """How versions are trained here. `cpus`: reserved in the cluster for a training. See `Task` for the others."""

    store: ObjectStore
    learner: LearnerConfig
    window: int
    rules: DecodeRules
    epochs: int
    proof_clicks: int
    proof_seconds: float
    older_key: str
    cpus: float = 1.0


class _Actor:
    """One training, in a process that ends with it."""

    def __init__(self, task: Task, fault: str = "") -> None:
        faultpoints.arm(fault)
        os.nice(NICENESS)
        patience = Patience(Backoff(), threading.Event().wait, NullMeter())
        live = task.layout.of_version(task.against)
        self._training = Training(task, Archive(task.store, live, patience, NullMeter()))

    def run(self) -> Trained:
        return self._training.run()

    @ray.method(concurrency_group="read")
    def progress(self) -> Progress:
        return self._training.progress


class RayTrainer:
    """A `Trainer` in a Ray actor. `stream.actor.connect` comes first."""

    def __init__(self, lessons: Lessons, fault: str = "") -> None:
        """`fault`: where a test wants the first actor, and no later one, to die (see `faultpoints`)."""
        self._lessons = lessons
        self._fault = fault
        self._actor: Any = None
        self._run: Any = None
        self._progress = Progress()

    def begin(self, layout: Layout, against: int, request: Request) -> None:
        """Begin. Raises LearnerAway when the cluster cannot be reached."""
        self.close()
        try:
            options = actor_options(self._lessons.cpus, _GROUPS)
            fault, self._fault = self._fault, ""
            self._actor = ray.remote(**options)(_Actor).remote(self._task(layout, against, request), fault)
            self._run = self._actor.run.remote()
        except (ConfigError, *UNREACHED) as error:
            self.close()
            raise not_started("the training", error) from error

    def poll(self) -> Progress | Trained:
        if self._run is None:
            raise LearnerLost("no training runs")
        try:
            done, _ = ray.wait([self._run], timeout=0)
            if done:
                return ray.get(self._run)  # type: ignore[no-any-return]
            self._progress = ray.get(self._actor.progress.remote(), timeout=_PROGRESS_SECONDS)
        except GetTimeoutError:  # busy, or waiting for a CPU of the cluster
            return self._progress
        except RayTaskError as error:
            if isinstance(error.cause, HeadraceError):
                raise error.cause from error
            raise LearnerFailed(f"the training failed: {error.cause!r}") from error
        except UNREACHED as error:
            raise LearnerLost(f"the training's process is gone: {type(error).__name__}") from error
        return self._progress

    def close(self) -> None:
        """End it, if it runs. Idempotent."""
        actor, self._actor, self._run = self._actor, None, None
        self._progress = Progress()
        try:
            if actor is not None and ray.is_initialized():
                ray.kill(actor)
        except UNREACHED:  # it ends with its cluster, or with the connection to it
            return

    def _task(self, layout: Layout, against: int, request: Request) -> Task:
        lessons = self._lessons
        return Task(
            lessons.store,
            layout,
            against,
            request,
            lessons.learner,
            lessons.window,
            lessons.epochs,
            lessons.proof_clicks,
            lessons.proof_seconds,
            lessons.older_key,
            lessons.rules,
        )
