"""Joining Ray, or starting one of our own: with a bounded wait, and with errors that say what to look at."""

from __future__ import annotations

import logging
import os
import re
import socket
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
import structlog
from ray._private import ray_logging
from ray.exceptions import AuthenticationError, RayActorError, RayError

from stream import ray_own
from stream.errors import ConfigError, LearnerAway, LearnerFailed

log = structlog.get_logger()
UNREACHED = (RayError, ConnectionError)
"""How a call to an actor fails that is gone or out of reach: Ray Client says the second where Ray says the first."""
_ATTEMPTS = 3
_REACH_SECONDS = 5.0
# Ray Client reads these when it is first used. Its own figures mean half a minute until a wrong token is told, and as
# long again until a lost cluster is noticed and a killed driver's actor ends. What the operator has set wins.
_CLIENT_SECONDS = {
    "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "3",
    "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "5",
    "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "10",
}
# BLAS reads these when it is loaded, so they must stand before a worker begins. With more threads sums are added up in
# another order, and on a busy machine they cost a factor of five.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
# The learner freezes its state by a fork, and gRPC's fork handlers crash most children of a process in which
# its threads run (tests/stream/test_freeze.py counts them).
# Ray's own niceness for its workers, 15, would leave the learner a thirtieth of what the service beside it gets of a
# busy processor, and no room below it for a training.
_WORKER = {**_ONE_THREAD, "GRPC_ENABLE_FORK_SUPPORT": "0", "RAY_worker_niceness": "0"}
# How Ray says that the process which serves this one client died as it started: its parent forks while gRPC's threads
# run (ray-project/ray#63202). The next try mostly succeeds.
_FORK_RACE = (
    "Starting Ray client server failed",
    "Proxy failed to Connect to backend",
    "psutil.ZombieProcess",  # the proxy looked at it between its death and its funeral
    "psutil.NoSuchProcess",
)


@dataclass(frozen=True, slots=True)
class RayConfig:
    """How to reach Ray. `address` None or "local": a Ray of our own, in this process's care.

    `object_store_bytes`: shared memory of our own Ray. `quiet`: neither the actor's output nor Ray's remarks (on a
    killed worker, say) are repeated on this process's streams; they stay in Ray's log folder.
    """

    address: str | None = None
    namespace: str = "headrace"
    num_cpus: int = 2
    object_store_bytes: int = 256 * 2**20
    quiet: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether Ray begins and ends with this process."""
        return self.address in {None, "local"}


_joined: RayConfig | None = None  # as Ray itself, one per process


def connect(config: RayConfig) -> None:
    """Start or join Ray, once per process. Raises ConfigError naming the address and what may be wrong with it.

    A cluster that listens but does not let us in is given up after about a quarter of a minute.
    """
    global _joined  # noqa: PLW0603 - see there
    if not ray.is_initialized():
        _quieten(config)
        for name, value in _CLIENT_SECONDS.items():
            os.environ.setdefault(name, value)
        _join(config)
    _joined = config


def rejoin() -> RayConfig:
    """How this process is connected; connects again if the connection was lost. Raises ConfigError.

    Whoever uses Ray asks here first: left to itself, Ray would start another one on this machine without a word.
    """
    if _joined is None:
        raise ConfigError("Ray is not connected: call stream.actor.connect first")
    connect(_joined)
    return _joined


def disconnect() -> None:
    """Leave Ray; one that we started ends. Idempotent."""
    global _joined
    left, _joined = _joined, None
    _leave(left)


def let_go() -> bool:
    """Leave a cluster that is out of reach, so that `rejoin` connects anew: one that came back is another one to Ray.

    False for our own Ray, which does not come back.
    """
    if _joined is None or _joined.is_ours:
        return False
    ray.shutdown()
    return True


def actor_options(cpus: float, groups: Mapping[str, int]) -> dict[str, Any]:
    """How an actor of ours is made: Ray restarts and repeats nothing. `groups`: concurrency groups with their threads.

    Connects again if the connection was lost. Raises ConfigError when that cannot be.
    """
    environment = worker_environment(rejoin())
    options = {"max_restarts": 0, "max_task_retries": 0, "num_cpus": cpus, "concurrency_groups": dict(groups)}
    return options | ({"runtime_env": {"env_vars": environment}} if environment else {})


def not_started(what: str, error: Exception) -> LearnerFailed:
    """What to raise when an actor does not start: LearnerAway, and the cluster is let go, if that is out of reach."""
    away = not isinstance(error, RayActorError) and let_go()  # else it was reached, and died
    return (LearnerAway if away else LearnerFailed)(f"{what} does not start: {error}")


def worker_environment(config: RayConfig) -> Mapping[str, str]:
    """What an actor's process needs beyond what Ray gives it; empty for our own Ray, whose every process has it."""
    return {} if config.is_ours else _WORKER


def _join(config: RayConfig) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _reach(config)
            _init(config)
            return
        except (RayError, RuntimeError, ValueError, OSError) as error:
            _leave(config)  # a client that was refused stays half connected otherwise
            if attempt == _ATTEMPTS or not _is_fork_race(error):
                raise ConfigError(_explained(config, error)) from error
            log.warning("Ray Client's server died as it started, trying again", attempt=attempt)


def _leave(config: RayConfig | None) -> None:
    if config is not None and config.is_ours:
        ray_own.end()
    else:
        ray.shutdown()


def _init(config: RayConfig) -> None:
    shared: dict[str, Any] = {
        "namespace": config.namespace,
        "log_to_driver": not config.quiet,
        "logging_level": "warning",
    }
    if config.is_ours:
        sizes = {"num_cpus": config.num_cpus, "object_store_memory": config.object_store_bytes}
        ray_own.start(shared | sizes, _WORKER)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Ray Client connection timed out")  # our error says more
        ray.init(address=config.address, **shared)


def _quieten(config: RayConfig) -> None:
    """Take from Ray's remarks what needs nobody's attention.

    That a Ray wants a token is as it should be, and that it leaves our signal handlers alone. Ray repeats its
    remarks on killed workers on standard output whatever `log_to_driver` says; only its de-duplication can drop them.
    """
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    logging.getLogger("ray._private.worker").addFilter(_is_not_about_signals)
    if config.quiet:
        ray_logging.stdout_deduplicator.skip_re = re.compile("")


def _is_not_about_signals(record: logging.LogRecord) -> bool:
    return "SIGTERM handler is not set" not in record.getMessage()


def _reach(config: RayConfig) -> None:
    """Raises OSError at once when nothing listens; Ray itself would go on trying."""
    host, _, port = (config.address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"nothing listens at RAY_ADDRESS={config.address}: {error}") from error


def _is_fork_race(error: Exception) -> bool:
    return any(words in str(error) for words in _FORK_RACE)


def _explained(config: RayConfig, error: Exception) -> str:
    if config.is_ours:
        return f"Ray does not start on this machine: {error}"
    return f"Ray at RAY_ADDRESS={config.address} cannot be joined: {error}. {_remedy(error)}"


def _remedy(error: Exception) -> str:
    if isinstance(error, AuthenticationError) or "connection timeout" in str(error):
        return (
            "Something listens there but does not let us in. Most likely it wants another token: set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on the cluster. Or the port is not the "
            "one of Ray Client (10001 by default)."
        )
    if _is_fork_race(error):
        return (
            "Set GRPC_ENABLE_FORK_SUPPORT=0 in the environment of the cluster's head (`ray start`), and start it again."
        )
    return (
        "Check the address and the port (ray:// wants the Ray Client port, 10001 by default; host:port wants the GCS "
        "port, 6379 by default), and that the cluster runs and has the same versions of Ray and Python."
    )
