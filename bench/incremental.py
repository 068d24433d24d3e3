"""Full training against incremental, on the batch contract's own path: time, and the ranking of the clicks after it.

    python -m bench.incremental STREAM.parquet [--json] [--limit 100000] [--new 0.05] [--after 0.05] [--all-epochs]

The stream is cut by time into old, new and after. Both contenders know old and new: `full` trains them from scratch,
`incremental` trains new on top of a model of old. `stale` is that model of old, without new. Each is then led through
the clicks after, in batches, each ranked before it is learned, as the stream does. One process, a local store.
Times are those of the whole run: reading, decoding, loading the state, training, writing state and pickle; their ratio
is that of CPU seconds, which other work on the machine disturbs least. Full
training stops early by itself; `--all-epochs` lets it run to its end, which is what a job without early stopping costs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Before numpy is loaded: unpinned BLAS threads cost more than they give at these sizes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from bench.common import lacking
from model.batch import Batch
from model.config import LearnerConfig
from model.learner import Learner, warm_up
from stream import wiring
from stream.decode import DecodeRules, decode_chunk
from stream.errors import HeadraceError
from stream.events import Decoded, RawChunk
from stream.replay.readers import open_rows
from stream.settings.settings import Settings
from stream.store.directory import DirectoryStore
from stream.train import fit
from stream.train.job import run
from stream.train.progress import Lines, Progress
from stream.train.state import States

AFTER_BATCH = 500
SCORED = 5000


def main() -> None:
    options = _options()
    try:
        lines = _lines(options.path, options.limit)
    except HeadraceError as error:
        raise lacking(str(error)) from error
    if options.all_epochs:
        fit.PATIENCE = 1 << 30
    cut_new, cut_after = (int(len(lines) * share) for share in (1 - options.after - options.new, 1 - options.after))
    old, new, after = lines[:cut_new], lines[cut_new:cut_after], lines[cut_after:]
    warm_up(LearnerConfig(dim=32))
    with tempfile.TemporaryDirectory() as folder:
        result = _compare(Path(folder), old, new, after, quiet=options.json)
    if options.json:
        print(json.dumps(result))
    else:
        _show(result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.incremental")
    parser.add_argument("path", type=Path, help="Parquet or JSON lines")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--limit", type=int, default=None, help="clicks, from the front")
    parser.add_argument("--new", type=float, default=0.05, help="share of the clicks that is new")
    parser.add_argument("--after", type=float, default=0.05, help="share of the clicks to be ranked afterwards")
    parser.add_argument("--all-epochs", action="store_true", help="full training without early stopping")
    return parser.parse_args()


def _lines(path: Path, limit: int | None) -> list[bytes]:
    rows = open_rows(path, limit)
    return [line for line in rows.lines(range(len(rows))) if line is not None]


def _compare(folder: Path, old: list[bytes], new: list[bytes], after: list[bytes], *, quiet: bool) -> dict[str, Any]:
    full, step = DirectoryStore(folder / "full"), DirectoryStore(folder / "step")
    full.put("data/clickstream.json", b"\n".join(old + new))
    step.put("data/clickstream.json", b"\n".join(old))
    figures: dict[str, Any] = {"events_old": len(old), "events_new": len(new), "events_after": len(after)}
    figures["full"] = _train(full, after, incremental=False, quiet=quiet)
    figures["stale"] = _train(step, after, incremental=False, quiet=quiet)
    step.put("data/clickstream_new.json", b"\n".join(new))
    figures["incremental"] = _train(step, after, incremental=True, quiet=quiet)
    figures["time_ratio"] = figures["incremental"]["cpu_seconds"] / figures["full"]["cpu_seconds"]
    figures["mrr20_ratio"] = figures["incremental"]["mrr20"] / figures["full"]["mrr20"]
    figures["hr20_ratio"] = figures["incremental"]["hr20"] / figures["full"]["hr20"]
    return figures


def _train(store: DirectoryStore, after: list[bytes], *, incremental: bool, quiet: bool) -> dict[str, Any]:
    """Seconds of the whole run, reading and writing included, and the quality of what it left."""
    settings = Settings.load({"train.incremental": incremental, "store.location": str(store.root)})
    progress = Progress() if quiet else Lines(sys.stdout)
    began, cpu_began = time.perf_counter(), time.process_time()
    result = run(settings, store=store, progress=progress)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    states = States(store, settings.train.model_key)
    newest = states.newest()
    assert newest is not None
    learner, _ = states.load(newest)
    quality = _rank(learner, after, wiring.decode_rules(settings))
    costs = {"seconds": seconds, "cpu_seconds": cpu_seconds, "epochs": result.epochs, "kept_epoch": result.kept_epoch}
    return {**costs, "events": result.events, **quality}


def _rank(learner: Learner, after: list[bytes], rules: DecodeRules) -> dict[str, float]:
    """Test-then-learn over the clicks after; the same sample of them for every contender."""
    learner.config = LearnerConfig.from_dict(
        learner.config.to_dict() | {"score_fraction": min(1.0, SCORED / len(after))}
    )
    learner.state.purse[:] = 0.0
    learner.state.score_random = np.random.Generator(np.random.PCG64(1))
    scored, hits, mrr = 0, 0.0, 0.0
    for start in range(0, len(after), AFTER_BATCH):
        batch = _batch(after[start : start + AFTER_BATCH], rules)
        scores = learner.score(batch)
        scored, hits, mrr = scored + scores.scored, hits + scores.hits, mrr + scores.mrr
        learner.learn(batch)
    return {"scored": scored, "hr20": hits / max(scored, 1), "mrr20": mrr / max(scored, 1)}


def _batch(lines: list[bytes], rules: DecodeRules) -> Batch:
    count = len(lines)
    decoded: Decoded = decode_chunk(RawChunk(0, np.arange(count), np.zeros(count, np.int64), lines), rules)
    return Batch.of(decoded.users, decoded.items, decoded.times, decoded.types)


def _show(result: dict[str, Any]) -> None:
    print(f"\n{'':>12} {'seconds':>9} {'cpu':>9} {'epochs':>7} {'events':>9} {'HR@20':>7} {'MRR@20':>7}")
    for name in ("full", "incremental", "stale"):
        row = result[name]
        times, quality = f"{row['seconds']:9.2f} {row['cpu_seconds']:9.2f}", f"{row['hr20']:7.4f} {row['mrr20']:7.4f}"
        print(f"{name:>12} {times} {row['epochs']:7} {row['events']:9,} {quality}")
    print(
        f"incremental: {result['time_ratio']:.1%} of the time of full, "
        f"{result['mrr20_ratio']:.3f} of its MRR@20, {result['hr20_ratio']:.3f} of its HR@20"
    )


if __name__ == "__main__":
    main()
