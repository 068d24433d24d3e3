"""What is Ray's own: joining and losing a cluster, who ends when, and what may be seen from outside.

The contract that the actor shares with the learner in process is in `tests/contract/test_live_learner.py`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray._private import worker as ray_worker

from model.batch import Batch, Strings
from stream import actor
from stream.actor import RayConfig, RayLearner
from stream.errors import ConfigError, LearnerFailed, LearnerLost
from stream.events import CheckpointRef, Plan, PlannedBatch, PlannedRange
from stream.host import HostConfig
from stream.plans import encode, sha256
from stream.store.directory import DirectoryStore
from stream.store.s3 import S3Settings, S3Store
from tests.rigs import LAYOUT, MODEL
from tests.servers import process
from tests.servers.proxy import proxy_to
from tests.servers.ray import Head, token_of
from tests.servers.ray_ends import Assassin, driver

PLANTED = "planted-secret-7c1e"


@pytest.fixture
def config(tmp_path: Path) -> HostConfig:
    """Hosts that keep their checkpoints in a folder."""
    return HostConfig(MODEL, LAYOUT, DirectoryStore(tmp_path), 100)


@pytest.fixture
def learner(config: HostConfig) -> Iterator[RayLearner]:
    """A learner in whichever Ray this process is connected to."""
    learner = RayLearner(config)
    learner.start()
    yield learner
    learner.close()


class TestEmbedded:
    """With a Ray of our own."""

    pytestmark = pytest.mark.usefixtures("embedded_ray")

    def test_one_blas_thread(self, learner: RayLearner) -> None:
        """BLAS has one thread in the actor, whatever the shell says."""
        assert ask(learner, blas_threads) == 1

    def test_is_as_urgent_as_the_service(self, learner: RayLearner) -> None:
        """Ray would have its workers give way to every other process."""
        assert ask(learner, niceness) == 0

    def test_reads_beside_learning(self, learner: RayLearner) -> None:
        """A recommendation does not wait for the plans before it, nor for a checkpoint that waits for them."""
        for planned in chain(8, 20_000):
            learner.submit(planned)
        learner.begin_checkpoint()
        found = learner.recommend("u1", 5)
        done = learner.collect()

        assert learner.in_flight() > 0
        assert not any(isinstance(each, CheckpointRef) for each in done)
        assert len(found) <= 5

    def test_holds_no_references(self, learner: RayLearner) -> None:
        """Neither plans nor reports are kept once they were collected: months of them would fill the memory."""
        planned = chain(30, 5_000)
        run(learner, planned[:5])
        before = references()
        run(learner, planned[5:])

        assert references() <= before

    def test_failing_start_keeps_secrets(self, config: HostConfig) -> None:
        """A learner that cannot start says why; neither the error nor Ray's logs hold the store's credentials."""
        said = failed_start(config)
        node: Any = ray_worker._global_node
        logs = logged(Path(node.get_logs_dir_path()))

        assert PLANTED not in said
        assert "AttributeError" in logs
        assert PLANTED not in logs

    def test_quiet_when_killed(self, learner: RayLearner, capfd: pytest.CaptureFixture[str]) -> None:
        """A killed learner is told by an error, not by Ray on our standard output, where a program may read JSON."""
        os.kill(learner.status()["pid"], signal.SIGKILL)
        with pytest.raises(LearnerLost):
            run(learner, chain(1, 0))
        time.sleep(3)  # Ray's remarks come by another way

        assert capfd.readouterr() == ("", "")


class TestCluster:
    """With a cluster that wants a token."""

    @pytest.mark.usefixtures("client_ray")
    def test_one_blas_thread(self, learner: RayLearner) -> None:
        """BLAS has one thread in the actor, whatever the cluster's environment says."""
        assert ask(learner, blas_threads) == 1

    @pytest.mark.usefixtures("client_ray")
    def test_is_as_urgent_as_the_service(self, learner: RayLearner) -> None:
        """As with our own Ray."""
        assert ask(learner, niceness) == 0

    def test_failing_start_keeps_secrets(self, client_ray: Head, config: HostConfig) -> None:
        """As with our own Ray: neither the error nor anything in the cluster's folder holds the credentials."""
        said = failed_start(config)
        logs = logged(client_ray.folder)

        assert PLANTED not in said
        assert "AttributeError" in logs
        assert PLANTED not in logs

    def test_survives_lost_connection(self, ray_head: Head, config: HostConfig) -> None:
        """When the way to the cluster is gone, calls say so in bounded time; the next start joins again."""
        actor.disconnect()
        with token_of(ray_head):
            with proxy_to(f"http://127.0.0.1:{ray_head.client}") as proxy:
                port = proxy.port
                actor.connect(RayConfig(f"ray://127.0.0.1:{port}"))
                learner = RayLearner(config)
                learner.start()
            started = time.monotonic()
            with pytest.raises(LearnerLost):
                learner.status()
            lost = time.monotonic() - started
            with pytest.raises(LearnerFailed, match=str(port)):
                learner.start()
            actor.disconnect()

        assert lost < 30

    def test_wrong_token(self, ray_head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wrong token is refused in bounded time, and the error speaks of tokens."""
        (tmp_path / "token").write_text("f" * 32)
        actor.disconnect()
        with token_of(replace(ray_head, folder=tmp_path)):
            started = time.monotonic()
            with pytest.raises(ConfigError, match="token"):
                actor.connect(RayConfig(ray_head.client_address))

        assert time.monotonic() - started < 40

    def test_nobody_listens(self) -> None:
        """Where nobody listens is told at once, by address, for both kinds of address."""
        actor.disconnect()
        (port,) = process.free_ports(1)
        for address in (f"ray://127.0.0.1:{port}", f"127.0.0.1:{port}"):
            started = time.monotonic()
            with pytest.raises(ConfigError, match=address):
                actor.connect(RayConfig(address))
            assert time.monotonic() - started < 10

    @pytest.mark.parametrize("way", ["driver_address", "client_address"])
    def test_driver_joins_and_dies(self, ray_head: Head, way: str) -> None:
        """A process joins at host:port or through ray://; killed, it takes its actor with it."""
        with driver(ray_head.environment, getattr(ray_head, way)) as (running, pid):
            alive = psutil.pid_exists(pid)
            running.kill()
            ended = wait_for(lambda: not psutil.pid_exists(pid), 60)

        assert alive
        assert ended

    def test_tries_again_when_server_dies(self, ray_head: Head) -> None:
        """Ray Client's server for this client may die as it starts; the next one serves."""
        actor.disconnect()
        with token_of(ray_head), Assassin(ray_head) as assassin:
            actor.connect(RayConfig(ray_head.client_address))
            joined = ray.is_initialized()
            actor.disconnect()

        assert assassin.killed == 1
        assert joined


def test_embedded_ray_dies_with_driver() -> None:
    """A killed process takes its Ray and its learner with it; only Ray's two agents need a minute to notice."""
    with driver({}) as (running, pid):
        family = psutil.Process(running.pid).children(recursive=True)
        ours = [each for each in family if "Agent" not in each.name() + " ".join(each.cmdline())]
        running.kill()
        _, left = psutil.wait_procs(ours, timeout=30)

    assert pid in {each.pid for each in ours}
    assert left == []


def test_needs_connection(config: HostConfig) -> None:
    """A learner never starts a Ray of its own accord."""
    actor.disconnect()
    with pytest.raises(LearnerFailed, match="not connected"):
        RayLearner(config).start()

    assert not ray.is_initialized()


def failed_start(config: HostConfig) -> str:
    """What is said when a learner with a secret cannot start, with all causes."""
    broken: Any = "no configuration"
    secret = S3Store(S3Settings("bucket", access_key="known", secret_key=PLANTED))
    with pytest.raises(LearnerFailed, match="AttributeError") as failure:
        RayLearner(replace(config, learner=broken, store=secret)).start()
    return "".join(traceback.format_exception(failure.value))


def chain(count: int, rows: int) -> list[PlannedBatch]:
    """A fence and plans of `rows` clicks each, well chained."""
    planned, previous = [], ""
    for seq in range(count):
        size = rows if seq else 0
        start = max(0, seq - 1) * rows
        ranges = (PlannedRange(0, start, start + size),)
        plan = Plan("main", seq, 1, f"n{seq}", previous, "rows" if seq else "fence", 0, "t", ranges)
        previous = sha256(encode(plan))
        planned.append(PlannedBatch(plan, previous, batch(start, size), Strings.of([]), 0, 0))
    return planned


def batch(start: int, size: int) -> Batch:
    """Clicks of 500 users on 2,000 items, one a second."""
    places = range(start, start + size)
    times = 1_600_000_000_000 + 1000 * np.arange(start, start + size, dtype=np.int64)
    return Batch.of([f"u{place % 500}" for place in places], [f"i{place * 7 % 2000}" for place in places], times)


def run(learner: RayLearner, planned: list[PlannedBatch]) -> None:
    """Hand over and wait until all are learned."""
    for each in planned:
        learner.submit(each)
    assert wait_for(lambda: bool(learner.collect(0.2)) and not learner.in_flight(), 60)


def wait_for(done: Callable[[], bool], seconds: float) -> bool:
    """Ask until it is so; False when time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if done():
            return True
        time.sleep(0.05)
    return False


def references() -> int:
    """Object references that this process holds."""
    gc.collect()
    inner: Any = ray_worker.global_worker
    return len(inner.core_worker.get_all_reference_counts())


def ask(learner: RayLearner, question: Callable[[Any], Any]) -> Any:
    """Run a function inside the actor."""
    return ray.get(learner._actor.__ray_call__.remote(question))


def niceness(_: object) -> int:
    """Of this process."""
    return os.nice(0)


def blas_threads(_: object) -> int:
    """Threads of the OpenBLAS that numpy has loaded into this process."""
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "openblas" in line]
    library = ctypes.CDLL(mapped[0])
    names = ("scipy_openblas_get_num_threads64_", "scipy_openblas_get_num_threads", "openblas_get_num_threads")
    return int(next(getattr(library, name) for name in names if hasattr(library, name))())


def logged(folder: Path) -> str:
    """Everything under Ray's log folder."""
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())
