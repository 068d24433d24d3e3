"""Promise 1 on real parts: whatever process dies, at whatever step and however often, the model is that of one run."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import psutil
import pytest

from stream import faultpoints
from stream.collector import GROUP
from tests.faults.stand import LAYOUT, Stand

pytestmark = [pytest.mark.services, pytest.mark.faults]
KILLS = 100


@pytest.mark.timeout(600)
def test_service_dies_at_every_step(stand: Stand) -> None:
    """SIGKILL at each of the steps that the service takes, one after the other in one stream; then it is level."""
    for point in [point for point in faultpoints.SERVICE if point != "collect"]:
        stand.publish(130, odd=0.2)
        stand.start(point)
        assert stand.ended() == -signal.SIGKILL, point
    stand.start()
    stand.prove()


@pytest.mark.timeout(600)
def test_service_dies_while_collecting(stand: Stand) -> None:
    """SIGKILL amid the removal of what no checkpoint needs any more: what is needed stays, archive included."""
    stand.changes = {"HEADRACE_STREAM_BATCH_ROWS": "10"}
    stand.publish(10 * (GROUP + 20))
    stand.start()
    stand.wait_level()
    stand.stop()
    stand.keep()
    stand.changes |= {"HEADRACE_STREAM_GC_GRACE_SECONDS": "0", "HEADRACE_STREAM_CHECKPOINTS_KEPT": "1"}
    for fault in ("collect:1", "collect:30"):
        stand.publish(60)
        stand.start(fault)
        assert stand.ended() == -signal.SIGKILL
        stand.keep()
    stand.start()
    stand.publish(60)
    stand.wait_level()
    stand.wait_for(lambda: not any(key < LAYOUT.plan(GROUP) for key in stand.listing("plan/")))
    total = stand.sent.copy()
    stand.prove()

    assert stand.outcomes() == total
    assert any("/archive/" in key for key in stand.listing())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", faultpoints.LEARNER)
def test_learner_dies(stand: Stand, point: str) -> None:
    """SIGKILL of the learner amid learning, freezing, uploading, publishing: the service brings it back by itself."""
    stand.publish(400)
    stand.start(f"{point}:2")
    stand.publish(400)
    stand.wait_level()

    stand.wait_for(lambda: stand.metric("headrace_learner_restarts_total") == 1)
    stand.publish(100)
    stand.prove()
    assert {plan["epoch"] for plan in stand.plans()} == {1}


@pytest.mark.timeout(1200)
def test_hundred_kills(stand: Stand) -> None:
    """A hundred kills of service or learner at moments drawn by a seed, in one stream: the model of an unbroken run."""
    for kill in range(KILLS):
        stand.publish(40)
        if stand.running is None:
            stand.start()
        if stand.draw.random() < 0.4:
            time.sleep(stand.draw.uniform(0, 8))  # the moment is the test: it may hit the start, too
            stand.kill()
        else:
            kill_learner(stand, kill)
    if stand.running is None:
        stand.start()
    stand.prove()


def kill_learner(stand: Stand, kill: int) -> None:
    """Some moment after the next plan was learned: then no death is one of four in a row at the same plan."""
    before = stand.metric("headrace_learned_seq")
    stand.wait_for(lambda: stand.metric("headrace_learned_seq") > before or stand.is_level())
    time.sleep(stand.draw.uniform(0, 0.5))
    learner = stand.learner()
    assert learner is not None, f"kill {kill}: no learner\n{stand.log()}"
    with suppress(psutil.NoSuchProcess):
        os.kill(learner.pid, signal.SIGKILL)
    stand.wait_for(lambda: stand.metric("headrace_learner_restarts_total") > 0)
