"""Ray's door: the learner's host in an actor of its own, and a handle on it that keeps the order of things.

Ray restarts and retries nothing here: an actor that comes back has lost its state, and a call that is tried again may
run twice. Whatever goes wrong becomes `LearnerLost`, and the loop restores a checkpoint and replays. The actor is not
detached: it ends with the process that started it, however that ends (through ray://, after Ray's reconnect grace).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from threading import Event
from typing import Any

import ray
import structlog
from ray.exceptions import GetTimeoutError, RayTaskError

from stream import faultpoints
from stream.errors import ConfigError, Diverged, HeadraceError, LearnerFailed, LearnerLost
from stream.events import CheckpointFailed, CheckpointRef, LearnReport, PlannedBatch, Position, Recommendation
from stream.host import HostConfig, LearnerHost
from stream.ray_link import UNREACHED, RayConfig, actor_options, connect, disconnect, not_started

__all__ = ["RayConfig", "RayLearner", "connect", "disconnect"]

log = structlog.get_logger()
_START_SECONDS = 120.0
_CALL_SECONDS = 30.0
_GROUPS = {"read": 2, "upload": 1, "life": 1}


class _Actor(LearnerHost):
    """The host with Ray's concurrency groups on it: what reads, and what uploads, does not wait for what learns."""

    def __init__(self, config: HostConfig, fault: str = "") -> None:
        faultpoints.arm(fault)
        self._handed_over: SimpleQueue[Exception | None] = SimpleQueue()
        super().__init__(config)

    @ray.method(concurrency_group="life")
    def live(self) -> None:
        """Never returns: that this call has failed says that the process is gone, also while nothing else is asked."""
        Event().wait()

    @ray.method(concurrency_group="read")
    def recommend(self, user_id: str, top_n: int) -> list[Recommendation]:  # type: ignore[override]  # Ray's wrapper
        return super().recommend(user_id, top_n)

    @ray.method(concurrency_group="read")
    def explain(self, user_id: str, product_id: str) -> list[Recommendation]:  # type: ignore[override]  # the same
        return super().explain(user_id, product_id)

    def begin_checkpoint(self) -> None:
        try:
            super().begin_checkpoint()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other half of the pair says it
            self._handed_over.put(error)
        else:
            self._handed_over.put(None)

    @ray.method(concurrency_group="upload")
    def finish_checkpoint(self) -> CheckpointRef:  # type: ignore[override]  # the same
        # Waits here, not by an argument: Ray would hold back every later call until the argument is there.
        failed = self._handed_over.get()
        if failed is not None:
            raise failed
        return super().finish_checkpoint()


class RayLearner:
    """A `LiveLearner` in a Ray actor. `connect` comes first; `start` connects again when the connection was lost.

    `recommend`, `explain` and `status` may be called by any thread.
    """

    def __init__(self, config: HostConfig, fault: str = "", cpus: float = 1.0) -> None:
        """`fault`: where a test wants the first actor, and no later one, to die (see `faultpoints`).

        `cpus`: of the cluster, reserved for the actor.
        """
        self._config = config
        self._cpus = cpus
        self._fault = fault
        self._actor: Any = None
        self._life: Any = None
        self._applies: deque[Any] = deque()
        self._checkpoints: deque[Any] = deque()

    def start(self) -> None:
        """Begin a new, empty actor and wait until it answers. Raises LearnerAway when the cluster cannot be reached."""
        self.close()
        try:
            options = actor_options(self._cpus, _GROUPS)
            fault, self._fault = self._fault, ""
            self._actor = ray.remote(**options)(_Actor).remote(self._config, fault)
            ray.get(self._actor.status.remote(), timeout=_START_SECONDS)
            self._life = self._actor.live.remote()
        except GetTimeoutError:
            self.close()  # else it would go on waiting for a CPU, and start when nobody wants it any more
            raise LearnerFailed(
                f"Ray did not start the learner within {_START_SECONDS:.0f} s: is a CPU free (`ray status`)?"
            ) from None
        except (ConfigError, *UNREACHED) as error:
            self.close()
            raise not_started("the learner", error) from error

    def restore(self, manifest_key: str | None) -> Position:
        return self._ask("restore", manifest_key, seconds=None)  # type: ignore[no-any-return]

    def submit(self, planned: PlannedBatch) -> None:
        self._applies.append(self._remote("apply", planned))

    def begin_checkpoint(self) -> None:
        self._remote("begin_checkpoint")
        self._checkpoints.append(self._remote("finish_checkpoint"))

    def in_flight(self) -> int:
        return len(self._applies)

    def collect(self, timeout_seconds: float = 0.0) -> Sequence[LearnReport | CheckpointRef | CheckpointFailed]:
        ready = self._ready(timeout_seconds)
        reports: list[LearnReport | CheckpointRef | CheckpointFailed] = []
        while self._applies and self._applies[0] in ready:
            reports.append(self._learned(self._applies[0]))
            self._applies.popleft()
        while self._checkpoints and self._checkpoints[0] in ready:
            reports.append(self._written(self._checkpoints.popleft()))
        return reports

    def status(self, *, digest: bool = False) -> Mapping[str, Any]:
        return self._ask("status", digest=digest, seconds=_CALL_SECONDS * 4)  # type: ignore[no-any-return]

    def recommend(self, user_id: str, top_n: int) -> Sequence[Recommendation]:
        return self._ask("recommend", user_id, top_n, seconds=_CALL_SECONDS)  # type: ignore[no-any-return]

    def explain(self, user_id: str, product_id: str) -> Sequence[Recommendation]:
        """What the user's past clicks add to an item's score, by the item clicked, strongest first."""
        return self._ask("explain", user_id, product_id, seconds=_CALL_SECONDS)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the actor, if one runs; what was in flight is forgotten."""
        actor, self._actor, self._life = self._actor, None, None
        self._applies.clear()
        self._checkpoints.clear()
        try:
            if actor is not None and ray.is_initialized():
                ray.kill(actor)
        except UNREACHED as error:
            log.warning("the learner's cluster is out of reach; it ends the learner by itself", error=str(error))

    def _ready(self, timeout_seconds: float) -> set[Any]:
        """What has come of all that was asked. Raises LearnerLost when the process is gone, asked anything or not."""
        if self._life is None:
            return set()
        asked = [*self._applies, *self._checkpoints]
        waiting = [*asked, self._life]
        try:
            ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout_seconds)
            if ready and asked:
                ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
            if ready == [self._life]:
                ray.get(self._life)
        except UNREACHED as error:
            raise _lost(error) from error
        return set(ready)

    def _remote(self, method: str, *args: Any, **named: Any) -> Any:
        if self._actor is None:
            raise LearnerLost("the learner has not been started")
        try:
            return getattr(self._actor, method).remote(*args, **named)
        except UNREACHED as error:
            raise _lost(error) from error

    def _ask(self, method: str, *args: Any, seconds: float | None, **named: Any) -> Any:
        ref = self._remote(method, *args, **named)
        try:
            return ray.get(ref, timeout=seconds)
        except RayTaskError as error:
            if isinstance(error.cause, HeadraceError):
                raise error.cause from error
            raise LearnerLost(f"the learner failed: {error.cause!r}") from error
        except UNREACHED as error:
            raise _lost(error) from error

    def _learned(self, ref: Any) -> LearnReport:
        try:
            report: LearnReport = ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, Diverged):
                raise error.cause from error
            log.error("learning a plan failed", error=str(error))  # noqa: TRY400 - it holds the actor's own traceback
            raise LearnerLost(f"learning a plan failed: {error.cause!r}") from error
        except UNREACHED as error:
            raise _lost(error) from error
        return report

    def _written(self, ref: Any) -> CheckpointRef | CheckpointFailed:
        try:
            written: CheckpointRef = ray.get(ref)
        except RayTaskError as error:
            return CheckpointFailed(str(error.cause))
        except UNREACHED as error:
            raise _lost(error) from error
        return written


def _lost(error: Exception) -> LearnerLost:
    # Ray's own text goes on for a screen about what else may have killed it.
    first = next(iter(str(error).splitlines()), "")
    return LearnerLost(f"the learner's process is gone or out of reach: {type(error).__name__}: {first}")
