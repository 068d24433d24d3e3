"""Ray's door: the learner's host in an actor of its own, and a handle on it that keeps the order of things.

Ray restarts and retries nothing here: an actor that comes back has lost its state, and a call that is tried again may run
twice. Whatever goes wrong becomes `LearnerLost`, and the loop restores a checkpoint and replays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import structlog
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from stream.errors import ConfigError, HeadraceError, LearnerFailed, LearnerLost
from stream.events import CheckpointFailed, CheckpointRef, LearnReport, PlannedBatch, Position, Recommendation
from stream.host import HostConfig, LearnerHost

log = structlog.get_logger()
_START_SECONDS = 120.0
_CALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RayConfig:
    """How to reach Ray. `address` None: a Ray of our own, in this process's care. `object_store_bytes`: its shared memory."""

    address: str | None = None
    namespace: str = "headrace"
    num_cpus: int = 2
    object_store_bytes: int = 256 * 2**20


def connect(config: RayConfig) -> None:
    """Start or join Ray, once per process. Raises ConfigError naming the address and what may be wrong with it."""
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"namespace": config.namespace, "log_to_driver": True, "logging_level": "warning"}
    if config.address is None:
        options |= {
            "address": "local",
            "num_cpus": config.num_cpus,
            "object_store_memory": config.object_store_bytes,
            "include_dashboard": False,
        }
    else:
        options["address"] = config.address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(_explained(config, error)) from error


def disconnect() -> None:
    """Leave Ray; one that we started ends. Idempotent."""
    ray.shutdown()


class _Actor(LearnerHost):
    """The host with Ray's concurrency groups on it: what reads, and what uploads, does not wait for what learns."""

    @ray.method(concurrency_group="read")
    def recommend(self, user_id: str, top_n: int) -> list[Recommendation]:
        return super().recommend(user_id, top_n)

    @ray.method(concurrency_group="read")
    def explain(self, user_id: str, product_id: str) -> list[Recommendation]:
        return super().explain(user_id, product_id)

    @ray.method(concurrency_group="upload")
    def finish_checkpoint(self, begun: None) -> CheckpointRef:  # type: ignore[override]  # `begun` orders the two calls
        return super().finish_checkpoint()


class RayLearner:
    """A `LiveLearner` in a Ray actor. Ray must be connected."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._actor: Any = None
        self._applies: deque[Any] = deque()
        self._checkpoints: deque[Any] = deque()

    def start(self) -> None:
        """Begin a new, empty actor and wait until it answers."""
        self.close()
        options = {
            "max_restarts": 0,
            "max_task_retries": 0,
            "num_cpus": 1,
            "concurrency_groups": {"read": 2, "upload": 1},
        }
        self._actor = ray.remote(**options)(_Actor).remote(self._config)
        try:
            ray.get(self._actor.status.remote(), timeout=_START_SECONDS)
        except GetTimeoutError:
            raise LearnerFailed(
                f"Ray did not start the learner within {_START_SECONDS:.0f} s: is a CPU free in the cluster (`ray status`)?"
            ) from None
        except RayError as error:
            raise LearnerFailed(f"the learner does not start: {error}") from error

    def restore(self, manifest_key: str | None) -> Position:
        return self._ask(self._need().restore.remote(manifest_key), None)  # type: ignore[no-any-return]

    def submit(self, planned: PlannedBatch) -> None:
        self._applies.append(self._remote("apply", planned))

    def begin_checkpoint(self) -> None:
        self._checkpoints.append(self._remote("finish_checkpoint", self._remote("begin_checkpoint")))

    def in_flight(self) -> int:
        return len(self._applies)

    def collect(self, timeout_seconds: float = 0.0) -> Sequence[LearnReport | CheckpointRef | CheckpointFailed]:
        if self._actor is None:
            return []
        waiting = [*self._applies, *self._checkpoints]
        if not waiting:
            return []
        ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout_seconds)
        if not ready:
            return []
        ready = set(ray.wait(waiting, num_returns=len(waiting), timeout=0)[0])
        reports: list[LearnReport | CheckpointRef | CheckpointFailed] = []
        while self._applies and self._applies[0] in ready:
            reports.append(self._learned(self._applies[0]))
            self._applies.popleft()
        while self._checkpoints and self._checkpoints[0] in ready:
            reports.append(self._written(self._checkpoints.popleft()))
        return reports

    def status(self, digest: bool = False) -> Mapping[str, Any]:
        return self._ask(self._need().status.remote(digest), _CALL_SECONDS * 4)  # type: ignore[no-any-return]

    def recommend(self, user_id: str, top_n: int) -> Sequence[Recommendation]:
        return self._ask(self._need().recommend.remote(user_id, top_n), _CALL_SECONDS)  # type: ignore[no-any-return]

    def explain(self, user_id: str, product_id: str) -> Sequence[Recommendation]:
        """Which of the user's recent items speak for an item, strongest first."""
        return self._ask(self._need().explain.remote(user_id, product_id), _CALL_SECONDS)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the actor, if one runs; what was in flight is forgotten."""
        actor, self._actor = self._actor, None
        self._applies.clear()
        self._checkpoints.clear()
        if actor is not None and ray.is_initialized():
            ray.kill(actor)

    def _need(self) -> Any:
        if self._actor is None:
            raise LearnerLost("the learner has not been started")
        return self._actor

    def _remote(self, method: str, *args: Any) -> Any:
        try:
            return getattr(self._need(), method).remote(*args)
        except RayError as error:
            raise self._lost(error) from error

    def _ask(self, ref: Any, timeout_seconds: float | None) -> Any:
        try:
            return ray.get(ref, timeout=timeout_seconds)
        except RayTaskError as error:
            if isinstance(error.cause, HeadraceError):
                raise error.cause from error
            raise LearnerLost(f"the learner failed: {error.cause!r}") from error
        except RayError as error:
            raise self._lost(error) from error

    def _learned(self, ref: Any) -> LearnReport:
        try:
            report: LearnReport = ray.get(ref)
        except RayTaskError as error:
            log.error("learning a plan failed", error=str(error))
            raise LearnerLost(f"learning a plan failed: {error.cause!r}") from error
        except RayError as error:
            raise self._lost(error) from error
        return report

    def _written(self, ref: Any) -> CheckpointRef | CheckpointFailed:
        try:
            written: CheckpointRef = ray.get(ref)
        except RayTaskError as error:
            return CheckpointFailed(str(error.cause))
        except RayError as error:
            raise self._lost(error) from error
        return written

    def _lost(self, error: RayError) -> LearnerLost:
        return LearnerLost(f"the learner's process is gone or out of reach: {type(error).__name__}: {error}")


def _explained(config: RayConfig, error: Exception) -> str:
    if config.address is None:
        return f"Ray does not start on this machine: {error}"
    return (
        f"Ray at RAY_ADDRESS={config.address} cannot be joined: {error}. Check the address and the port (ray:// wants the "
        "Ray Client port, 10001 by default), that the cluster runs the same Ray and Python versions, and, if it wants a "
        "token, RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH: a wrong token shows as a time-out."
    )


