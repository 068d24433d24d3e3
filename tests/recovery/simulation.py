"""`python -m tests.recovery.simulation`: thousands of worlds, each from a seed, each judged. `make simulate` calls it.

`--seeds N [--first K]`: worlds K to K+N-1; a bad one prints its seed and what is wrong (exit code 1). `--seed K`: one
world, with its whole trace. `--sabotage`: each protection off in turn, and at which seed that was found (a table).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import structlog

import stream.collector
import stream.history
import stream.keeper
import stream.parquet
import stream.staged
import stream.verify.archive
import stream.verify.walk
from tests.recovery.simulated.chain import chain_model
from tests.recovery.simulated.judge import judge
from tests.recovery.simulated.sabotage import SABOTAGES, Sabotage
from tests.recovery.simulated.story import Story, tell

GROUP = 4
"""Plans per archive object, so that a short story has something to collect."""
LOOK_SECONDS = 20.0
"""Between two looks of the keeper: in a world of half an hour every five seconds would be most of what happens."""
REAL_MODEL_EACH = 40
HARMLESS = 40
"""Worlds that are tried without a protection that corrupts nothing when it is off."""
_CHUNK = 20


@dataclass(frozen=True, slots=True)
class Found:
    """What the judge said of one world."""

    seed: int
    wrong: list[str]


def live_through(seed: int, *, tracing: bool = False, sabotage: Sabotage | None = None) -> tuple[Story, list[str]]:
    """The world of `seed`, and what is wrong with its end. The judge keeps every protection."""
    with _simulated(), chain_model(real=seed % REAL_MODEL_EACH == 0):
        if sabotage is None:
            story = tell(seed, tracing=tracing)
        else:
            with sabotage.off():
                story = tell(seed, tracing=tracing)
        return story, judge(story)


def run(seeds: Sequence[int], workers: int) -> Iterator[Found]:
    """Judge many worlds, side by side; in the order of their seeds."""
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    if workers == 1:
        for chunk in chunks:
            yield from _judge_all(chunk)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    try:
        for found in pool.map(_judge_all, chunks):
            yield from found
    finally:
        for worker in list(pool._processes.values()):
            worker.kill()  # whoever gives up need not wait for a world without end
        pool.shutdown(cancel_futures=True)


def find(sabotage: Sabotage, first: int = 0) -> Found | None:
    """The first world in which it shows that a protection is off, within the seeds that it is given."""
    for seed in range(first, first + (sabotage.seeds or HARMLESS)):
        _, wrong = live_through(seed, sabotage=sabotage)
        if wrong:
            return Found(seed, wrong)
    return None


def _judge_all(seeds: Sequence[int]) -> list[Found]:
    return [Found(seed, live_through(seed)[1]) for seed in seeds]


@contextmanager
def _simulated() -> Iterator[None]:
    """Small groups, files in memory, no log, one thread for Arrow."""
    pa.set_cpu_count(1)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    folder = "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()
    modules = (stream.collector, stream.verify.archive, stream.verify.walk)
    patches: list[Any] = [patch.object(module, "GROUP", GROUP) for module in modules]
    patches.append(patch.object(stream.history, "ARCHIVE_GROUP", GROUP))
    patches.append(patch.object(stream.keeper, "LOOK_SECONDS", LOOK_SECONDS))
    patches.append(patch.object(tempfile, "tempdir", folder))
    # The same bytes are read by several processes and by the judge: what comes of them cannot change.
    patches.append(patch.object(stream.parquet, "table", lru_cache(1000)(stream.parquet.table)))
    patches.append(patch.object(stream.staged, "to_batch", _once(stream.staged.to_batch)))
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()
        structlog.configure(**before)


def _once(to_batch: Callable[[Sequence[pa.Table]], Any]) -> Callable[[Sequence[pa.Table]], Any]:
    """The same, but for the same tables only once."""
    known: dict[tuple[int, ...], tuple[Sequence[pa.Table], Any]] = {}

    def once(tables: Sequence[pa.Table]) -> Any:
        key = tuple(map(id, tables))
        if key not in known:
            known[key] = (list(tables), to_batch(tables))
        return known[key][1]

    return once


def _table() -> int:
    failed = 0
    print("| protection that is off | what breaks without it | found at seed | must be within |")
    print("| --- | --- | --- | --- |")
    for sabotage in SABOTAGES:
        found = find(sabotage)
        told = f"{found.seed}" if found else f"not in {sabotage.seeds or HARMLESS}"
        print(f"| {sabotage.name} | {sabotage.breaks} | {told} | {sabotage.seeds or 'never'} |", flush=True)
        failed += bool(found) != bool(sabotage.seeds)
        if found and not sabotage.seeds:
            print(f"unexpected: {found.wrong}", file=sys.stderr)
    return int(failed > 0)


def _one(seed: int) -> int:
    story, wrong = live_through(seed, tracing=True)
    print("\n".join(story.world.trace or []))
    print("\n".join(wrong) if wrong else "It ended well.")
    return int(bool(wrong))


def _many(seeds: Sequence[int], workers: int) -> int:
    begun, bad = time.monotonic(), 0
    for found in run(seeds, workers):
        if found.wrong:
            bad += 1
            print(f"seed {found.seed}: {'; '.join(found.wrong)}", flush=True)
    print(f"{len(seeds)} worlds in {time.monotonic() - begun:.0f} s, {bad} ended badly")
    if bad:
        print("python -m tests.recovery.simulation --seed N shows what happened in one of them")
    return int(bad > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--sabotage", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    if chosen.sabotage:
        return _table()
    if chosen.seed is not None:
        return _one(chosen.seed)
    return _many(range(chosen.first, chosen.first + chosen.seeds), chosen.workers)


if __name__ == "__main__":
    sys.exit(main())
