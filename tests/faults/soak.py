"""Leaks, if there are any: what service and learner hold after 200 restarts and after minutes at 80 % of peak load.

    python -m tests.faults.soak --minutes 30 --restarts 200        prints JSON; exit code 1 when something grew

Real broker, real S3 server, a Ray of the service's own. Peak is measured first: how fast clicks are learned while more
are published than can be, for producer and broker live on the same processors. File descriptors, threads and resident
memory are sampled all along; of each series the middle of the second quarter is compared with the middle of the last:
by then caches are warm and tables, which are bounded here, are full.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.faults.stand import Stand, meanwhile
from tests.servers import process
from tests.servers.kafka import KafkaBroker
from tests.servers.s3 import start_seaweedfs

SAMPLE_SECONDS = 2.0
TURN_SECONDS = 0.2
ALLOWED = {"fds": (0.0, 8), "threads": (0.0, 6), "rss": (0.08, 24 << 20)}
"""By which share, and by how much beside, a figure may be larger at the end: Python's and the allocator's own noise."""
WARM_SECONDS, PEAK_SECONDS = 20.0, 40.0
PER_TURN = 5_000
"""Messages that are published at once, five times a second, while peak is measured: more than is ever learned."""
BEHIND_MAX = 200_000
"""Messages that may wait: more say that the machine is shared, and would only be worked off for as long afterwards."""


@dataclass
class Series:
    """Samples of one process's figures, by name."""

    figures: dict[str, list[int]] = field(default_factory=dict)

    def sample(self, each: psutil.Process) -> None:
        try:
            found = {"fds": each.num_fds(), "threads": each.num_threads(), "rss": each.memory_info().rss}
        except psutil.Error:
            return
        for name, value in found.items():
            self.figures.setdefault(name, []).append(value)

    def summary(self) -> dict[str, dict[str, Any]]:
        return {name: _compared(name, values) for name, values in self.figures.items()}


def _compared(name: str, values: Sequence[int]) -> dict[str, Any]:
    quarter = max(1, len(values) // 4)
    before, after = statistics.median(values[quarter : 2 * quarter] or values), statistics.median(values[-quarter:])
    share, beside = ALLOWED[name]
    return {
        "samples": len(values),
        "before": before,
        "after": after,
        "most": max(values),
        "grew": bool(after > before * (1 + share) + beside),
    }


def peak(stand: Stand) -> float:
    """Messages a second that are learned while there are always some that wait."""
    stand.start()
    with pouring(stand, PER_TURN / TURN_SECONDS):
        stand.wait_for(lambda: learned(stand) > 0)
        time.sleep(WARM_SECONDS)
        begun, first = time.monotonic(), learned(stand)
        time.sleep(PEAK_SECONDS)
        found = (learned(stand) - first) / (time.monotonic() - begun)
    stand.wait_for(lambda: learned(stand) >= stand.sent.total() - 2000, 600)
    return found


@contextmanager
def pouring(stand: Stand, rate: float) -> Iterator[None]:
    """Publish `rate` messages a second, or as fast as they are learned if that is slower: nothing piles up."""

    def pour(over: threading.Event) -> None:
        since = time.monotonic()
        while not over.wait(TURN_SECONDS):
            due, since = int((time.monotonic() - since) * rate), time.monotonic()
            room = BEHIND_MAX - (stand.sent.total() - learned(stand))
            if (count := int(min(due, room, rate))) > 0:
                stand.publish(count)

    with meanwhile(pour):
        yield


def learned(stand: Stand) -> float:
    return sum(stand.metric("headrace_events_total", outcome=name) for name in ("trained", "rejected", "duplicate"))


def restarts(stand: Stand, count: int) -> dict[str, Any]:
    """Kill the learner so often, each time after it has learned something; the service's figures after each return."""
    service = Series()
    for _ in range(count):
        before = stand.metric("headrace_learner_restarts_total")
        seq = stand.metric("headrace_learned_seq")
        stand.publish(50)
        stand.wait_for(lambda seq=seq: stand.metric("headrace_learned_seq") > seq)  # type: ignore[misc]
        learner = stand.learner()
        assert learner is not None, stand.log()
        learner.kill()
        stand.wait_for(lambda before=before: stand.metric("headrace_learner_restarts_total") > before)  # type: ignore[misc]
        stand.wait_for(lambda: stand.page("/readyz")[0] == 200)
        service.sample(stand.family()[0])
    return {"restarts": count, "service": service.summary()}


def steady(stand: Stand, minutes: float, rate: float) -> dict[str, Any]:
    """So many minutes at `rate` messages a second."""
    before, service, learner, begun, lag = stand.sent.total(), Series(), Series(), time.monotonic(), 0.0
    with pouring(stand, rate):
        while time.monotonic() - begun < minutes * 60:
            service.sample(stand.family()[0])
            if (found := stand.learner()) is not None:
                learner.sample(found)
            lag = max(lag, stand.sent.total() - learned(stand))
            time.sleep(SAMPLE_SECONDS)
    return {
        "minutes": minutes,
        "rate_wanted": round(rate),
        "rate": round((stand.sent.total() - before) / (minutes * 60)),
        "messages": stand.sent.total() - before,
        "most_behind": lag,
        "service": service.summary(),
        "learner": learner.summary(),
    }


def grown(result: dict[str, Any], path: str = "") -> list[str]:
    """Names of the figures that grew."""
    found = [path] if result.get("grew") else []
    return found + [
        name
        for key, value in result.items()
        if isinstance(value, dict)
        for name in grown(value, f"{path}.{key}".lstrip("."))
    ]


def soak(minutes: float, count: int, folder: Path) -> dict[str, Any]:
    """Run it all in `folder`."""
    with ExitStack() as stack:
        for name in ("kafka", "s3", "stand"):
            (folder / name).mkdir()
        broker = KafkaBroker(folder / "kafka")
        broker.start()
        stack.callback(broker.stop, kill=True)
        server, running = start_seaweedfs(folder / "s3")
        stack.callback(running.wait)
        stack.callback(running.kill)
        (port,) = process.free_ports(1)
        changes = {
            "HEADRACE_STREAM_BATCH_ROWS": "1000",
            "HEADRACE_STREAM_CHECKPOINT_BATCHES": "50",
            "HEADRACE_STREAM_CHECKPOINT_SECONDS": "20",
            "HEADRACE_STREAM_GC_GRACE_SECONDS": "60",
        }
        stand = Stand(broker.topic(4), server.fresh_bucket(), broker, server, folder / "stand", port, changes)
        try:
            fastest = peak(stand)
            result: dict[str, Any] = {"peak": round(fastest)}
            result["after_restarts"] = restarts(stand, count)
            result["at_80_percent"] = steady(stand, minutes, 0.8 * fastest)
            stand.wait_for(lambda: learned(stand) >= stand.sent.total(), 600)
            stand.stop()
        finally:
            if stand.running is not None:
                stand.kill()
    return {**result, "grew": grown(result)}


def main() -> None:
    """Parse, run, print; exit code 1 when something grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--restarts", type=int, default=200)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="headrace-soak-"))
    try:
        result = soak(asked.minutes, asked.restarts, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result, indent=1))
    sys.exit(1 if result["grew"] else 0)


if __name__ == "__main__":
    main()
