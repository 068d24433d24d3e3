"""What an event costs as the catalogue grows: made-up clicks over 10,000, 100,000 and 1,000,000 items.

    python -m bench.scaling [--json] [--items 10000 100000 1000000] [--rounds 5] [--batches 40]

Each learner has seen every one of its items once, in large batches and by users who do not come again, before anything
is timed. Then all of them learn batches of the same size by the same number of new users, by turns, round after round:
popularity by Zipf's law, and the popular items change all along. `ratio` is the largest catalogue's microseconds per
event to the smallest one's, medians of rounds, in processor time. `steps`: where the difference lies, from as many
rounds with every step timed. `rare_ratio`: with all items equally popular, so that few rows are in the processor's
cache. Neighbours are searched as rarely as late in a stream: early, a small catalogue would be searched more often.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from typing import Any

# Before numpy is loaded: a figure per thread needs one thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from bench.common import machine, median, rss_bytes, say, show
from bench.laps import measured
from bench.rows import computed
from model.batch import Batch, Float64, Int64
from model.config import LearnerConfig
from model.learner import Learner, warm_up

CONFIG = LearnerConfig(score_share=0.0, search_clicks=0)
USERS = 2000
"""So few that their histories are full when timing begins."""
GROW_USERS = 1000
GROW_BATCH = 10_000
BATCH = 500
DRIFT_CLICKS = 50
"""After so many clicks every item moves up one place in popularity, and the most popular one becomes the rarest."""
CLICK_MS = 400


def main() -> None:
    options = _options()
    result = measure(options.items, options.rounds, options.batches)
    if options.json:
        show(result, as_json=True)
    else:
        _print_table(result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each size")
    parser.add_argument("--batches", type=int, default=40, help="batches of 500 clicks per turn")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser.parse_args()


def measure(sizes: list[int], rounds: int, batches: int) -> dict[str, Any]:
    warm_up(CONFIG)
    stages = [Stage(items) for items in sorted(sizes)]
    # One turn that is not counted: sessions and histories fill, caches warm.
    zipf = [[_turn(stage, batches) for stage in stages] for _ in range(1 + rounds)][1:]
    steps = [[_steps(stage, batches) for stage in stages] for _ in range(rounds)]
    rare = [[_turn(stage, batches, rare=True) for stage in stages] for _ in range(rounds)]
    found = [
        {
            "items": stage.items,
            "microseconds_per_event": round(median([turn[place] for turn in zipf]), 2),
            "rare_microseconds_per_event": round(median([turn[place] for turn in rare]), 2),
            "resident_bytes_per_item": stage.resident,
            "column_bytes_per_item": computed(stage.learner.items),
        }
        for place, stage in enumerate(stages)
    ]
    first, last = found[0], found[-1]
    return {
        "ratio": round(last["microseconds_per_event"] / first["microseconds_per_event"], 3),
        "rare_ratio": round(last["rare_microseconds_per_event"] / first["rare_microseconds_per_event"], 3),
        "sizes": found,
        "steps": _compared(steps),
        "users": USERS,
        "batch": BATCH,
        "rounds": rounds,
        "machine": machine(),
    }


class Stage:
    """A learner that knows `items` items, and the clicks that go on there. `resident`: bytes per item that it took."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.learner = Learner(CONFIG)
        self._random = np.random.default_rng(0)
        self._places = self._random.permutation(items)
        self._clicks = 0
        self._popular: Float64 = np.cumsum(1.0 / np.arange(1, items + 1))
        gc.collect()
        before = rss_bytes()
        self._grow()
        gc.collect()
        self.resident = round((rss_bytes() - before) / items)
        say(f"{items:,} items are known")

    def batch(self, *, rare: bool = False) -> Batch:
        """The next clicks."""
        uniform = self._random.random(BATCH)
        if rare:
            ranks = (uniform * self.items).astype(np.int64)
        else:
            ranks = np.searchsorted(self._popular, uniform * self._popular[-1])
        moved = (ranks + (self._clicks + np.arange(BATCH)) // DRIFT_CLICKS) % self.items
        return self._made(self._places[moved], "user", USERS)

    def _grow(self) -> None:
        for start in range(0, self.items, GROW_BATCH):
            self.learner.learn(self._made(self._places[start : start + GROW_BATCH], "first", GROW_USERS))

    def _made(self, items: Int64, group: str, size: int) -> Batch:
        users = self._random.integers(0, size, len(items))
        times = (self._clicks + np.arange(len(items), dtype=np.int64)) * CLICK_MS
        self._clicks += len(items)
        return Batch.of([f"{group}-{row}" for row in users], [f"item-{row}" for row in items], times)


def _turn(stage: Stage, count: int, *, rare: bool = False) -> float:
    """Microseconds of processor time per event."""
    batches = [stage.batch(rare=rare) for _ in range(count)]
    since = time.process_time()
    for batch in batches:
        stage.learner.learn(batch)
    return (time.process_time() - since) / (count * BATCH) * 1e6


def _steps(stage: Stage, count: int) -> dict[str, float]:
    batches = [stage.batch() for _ in range(count)]
    with measured() as laps:
        for batch in batches:
            stage.learner.learn(batch)
    return laps.per_event(count * BATCH)


def _compared(steps: list[list[dict[str, float]]]) -> dict[str, list[float]]:
    """Microseconds per event at each size by step, medians of rounds; first the step that grew most from the smallest
    to the largest.
    """
    found = {
        name: [round(median([turn[place][name] for turn in steps]), 3) for place in range(len(steps[0]))]
        for name in steps[0][0]
    }
    return dict(sorted(found.items(), key=lambda pair: pair[1][0] - pair[1][-1]))


def _print_table(result: dict[str, Any]) -> None:
    columns = ("microseconds_per_event", "rare_microseconds_per_event", "resident_bytes_per_item")
    print(f"{'items':>12} {' '.join(f'{name:>28}' for name in columns)}")
    for row in result["sizes"]:
        print(f"{row['items']:12,} {' '.join(f'{row[name]:28,}' for name in columns)}")
    print(f"ratio: {result['ratio']}, with all items equally popular: {result['rare_ratio']}")
    print("steps that grow most, microseconds per event at each size")
    for name, found in list(result["steps"].items())[:8]:
        print(f"{' '.join(f'{each:10.3f}' for each in found)}  {name}")
    print(f"machine: {result['machine']}")


if __name__ == "__main__":
    main()
