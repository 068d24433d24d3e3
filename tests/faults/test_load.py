"""More than can be learned: back-pressure, bounded memory, and a stop in order under full load."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest

from tests.faults.stand import Stand, meanwhile

pytestmark = [pytest.mark.services, pytest.mark.faults]
HIGH, FETCH = 400_000, 4 << 20
LOAD = {
    "HEADRACE_STREAM_BATCH_ROWS": "1000",
    "HEADRACE_STREAM_BUFFER_HIGH_BYTES": str(HIGH),
    "HEADRACE_STREAM_BATCH_BYTES": str(HIGH // 2),
    "HEADRACE_STREAM_CHECKPOINT_BATCHES": "20",
}


@contextmanager
def slowed(stand: Stand, share: float, period_seconds: float = 0.5) -> Iterator[None]:
    """The learner's process runs only a `share` of the time: stopped and continued, over and over."""
    learner = stand.learner()
    assert learner is not None, stand.log()

    def pace(over: threading.Event) -> None:
        while not over.is_set():
            learner.suspend()
            over.wait(period_seconds * (1 - share))
            learner.resume()
            over.wait(period_seconds * share)

    try:
        with meanwhile(pace):
            yield
    finally:
        with suppress(psutil.NoSuchProcess):
            learner.resume()


@pytest.mark.timeout(600)
def test_learner_ten_times_too_slow(stand: Stand) -> None:
    """The learner has a tenth of its time: reading pauses, buffer and RSS stay bounded, it lives, all is kept."""
    stand.changes = LOAD
    stand.publish(3000)
    stand.start()
    stand.wait_level()
    service = psutil.Process(stand.running.pid if stand.running else 0)
    stand.publish(40_000)
    with slowed(stand, 0.1):
        paused, buffered, resident, seen = 0.0, 0.0, [], set()
        began = time.monotonic()
        while time.monotonic() - began < 30 or not paused:
            assert time.monotonic() - began < 200, stand.log()
            paused = max(paused, stand.metric("headrace_paused"))
            buffered = max(buffered, stand.metric("headrace_buffered_bytes"))
            resident.append(service.memory_info().rss)
            seen.add(stand.page("/healthz")[0])
            time.sleep(0.5)
    assert seen == {200}
    assert buffered < HIGH + FETCH
    assert max(resident[len(resident) // 2 :]) < 1.2 * max(resident[: len(resident) // 2])
    assert stand.metric("headrace_learner_restarts_total") == 0
    stand.wait_level(300)
    stand.prove()


@pytest.mark.timeout(600)
def test_sigterm_under_full_load(stand: Stand) -> None:
    """SIGTERM while messages pour in: drained and checkpointed inside the deadline; a second start finds the rest."""
    stand.changes = {**LOAD, "HEADRACE_STREAM_DRAIN_SECONDS": "60"}
    stand.publish(2000)
    stand.start()
    stand.wait_for(lambda: stand.metric("headrace_learned_events_total") > 0)
    pouring = threading.Thread(target=stand.publish, args=(30_000,))
    pouring.start()
    at = stand.metric("headrace_learned_events_total")
    stand.wait_for(lambda: stand.metric("headrace_learned_events_total") > at + 1000)
    stand.stop()
    assert stand.checkpoints()[-1] == stand.plans()[-1]["seq"]
    pouring.join()
    stand.start()
    stand.prove()


@pytest.mark.timeout(600)
def test_second_sigterm_under_full_load(stand: Stand) -> None:
    """A second SIGTERM ends a drain that cannot end: at once, with code 130, and nothing is lost."""
    stand.changes = {**LOAD, "HEADRACE_STREAM_DRAIN_SECONDS": "300"}
    stand.publish(5000)
    stand.start()
    stand.wait_for(lambda: stand.metric("headrace_learned_events_total") > 0)
    learner = stand.learner()
    assert learner is not None
    assert stand.running is not None
    learner.suspend()
    stand.publish(3000)
    stand.running.send_signal(signal.SIGTERM)
    stand.wait_until(lambda: "draining and checkpointing" in stand.log())
    code = stand.end(signal.SIGTERM)
    with suppress(psutil.NoSuchProcess):
        learner.resume()

    assert code == 130
    stand.start()
    stand.prove()
