"""Ray's own processes die: the service brings the learner back, or ends with a code that says so; nothing is lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.stand import Stand
from tests.servers import ray as clusters
from tests.servers.kafka import KafkaBroker

pytestmark = [pytest.mark.services, pytest.mark.faults]
NOTICE_SECONDS = 240.0
"""Ray's own patience with a head that does not answer is a minute or more."""


@pytest.fixture
def own_head() -> Iterator[clusters.Head]:
    """A cluster that the test may kill."""
    folder = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))
    head = clusters.started(folder)
    yield head
    kill_all(head.process.pid)
    head.process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def kill_all(pid: int) -> None:
    """SIGKILL of a process and all below it."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for each in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
def test_embedded_ray_dies(lone_stand: Stand, part: str) -> None:
    """A part of the service's own Ray is killed: it ends with code 6, or is ready again; the next start is level."""
    lone_stand.publish(300)
    lone_stand.start()
    lone_stand.wait_level()
    killed = [each for each in lone_stand.family() if Path(each.cmdline()[0]).name == part]
    assert len(killed) == 1
    killed[0].kill()
    lone_stand.publish(200)
    assert lone_stand.running is not None
    process = lone_stand.running
    lone_stand.wait_until(lambda: process.poll() is not None or lone_stand.is_level(), NOTICE_SECONDS)
    if process.poll() is not None:
        assert lone_stand.ended() == 6, lone_stand.log()
        lone_stand.start()
    lone_stand.prove()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("through", ["client", "driver"])
def test_cluster_dies_and_returns(
    make_stand: Callable[..., Stand], kafka_broker: KafkaBroker, own_head: clusters.Head, through: str
) -> None:
    """The whole cluster is killed and comes back at its address: the same service brings its learner back there."""
    stand = make_stand(kafka_broker, own_head)
    if through == "client":
        stand.changes = {"HEADRACE_RAY_ADDRESS": own_head.client_address}
    stand.publish(300)
    stand.start()
    stand.wait_level()
    kill_all(own_head.process.pid)
    own_head.process.wait()
    stand.publish(200)
    again = clusters.started(own_head.folder, own_head.gcs, own_head.client)
    try:
        stand.wait_level(NOTICE_SECONDS)
        assert stand.metric("headrace_learner_restarts_total") >= 1
        stand.prove()
        assert {plan["epoch"] for plan in stand.plans()} == {1}
    finally:
        kill_all(again.process.pid)
        again.process.wait()
