"""What a flood of random ids costs: memory, and quality on the real clicks between them.

    python -m bench.memory [STREAM.parquet] [--json] [--events 10000000] [--rows 200000] [--fraction 0.02] [--seed 0]

Every click of the flood has a user id and an item id of its own, drawn at random. The real stream is mixed in at
1 : 10, so `--events` of the flood carry a tenth as many real clicks, from the stream's front; where it is shorter, the
flood goes on alone. Both tables are capped at `--rows`. The same real clicks in the same batches are learned without
the flood, too; each learner has a process of its own, and a serving view.

`quality_ratio`: MRR@20 with the flood over MRR@20 without it, of the same `--fraction` of the real clicks, ranked
before they are learned, over the whole catalogue of each. `rss_ratio`: the most resident memory after warm-up over
that at its end, which is at a fifth of the flood. `stall_seconds`: of the longest batch that evicted.
`flood_clicks_learned`: clicks of the flood that got past admission, less the real ones that did not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before numpy is loaded: a figure per thread needs one thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from bench.common import machine, rss_bytes, say, show
from bench.protocol import Exam, set_exam
from bench.streams import made_up, read_stream
from model.batch import Batch, Float64, Int64
from model.config import LearnerConfig
from model.evaluation import summarize
from model.learner import Learner, warm_up
from model.view import ServingView

FLOOD_PER_CLICK = 10
REAL_CLICKS = 500
"""Of the real stream in a batch, as in the other benchmarks; the flood comes on top."""
WARM_SHARE = 0.2
MADE_UP_CLICKS = 100_000


@dataclass(frozen=True, slots=True)
class Plan:
    """`events` of the flood; caps in `rows`; `fraction` of the real clicks is ranked."""

    path: Path | None
    events: int
    rows: int
    fraction: float
    seed: int

    def exam(self) -> Exam:
        """The real clicks, and which of them are ranked."""
        count = -(-self.events // FLOOD_PER_CLICK)
        stream = made_up(min(count, MADE_UP_CLICKS)) if self.path is None else read_stream(self.path, count)
        return set_exam(stream, REAL_CLICKS, self.fraction, seed=self.seed)


def main() -> None:
    options = _options()
    plan = Plan(options.path, options.events, options.rows, options.fraction, options.seed)
    show(measure(plan) | {"machine": machine()}, as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, nargs="?", help="Parquet or JSON lines; without one, made-up clicks")
    parser.add_argument("--events", type=int, default=10_000_000, help="clicks of the flood")
    parser.add_argument("--rows", type=int, default=200_000, help="cap of both tables")
    parser.add_argument("--fraction", type=float, default=0.02, help="share of the real clicks that is ranked")
    parser.add_argument("--seed", type=int, default=0, help="draws the flood and the ranked clicks")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser.parse_args()


def measure(plan: Plan) -> dict[str, Any]:
    """Both runs, one after the other, and how they compare."""
    quiet, flooded = (_apart(plan, flood=flood) for flood in (False, True))
    return {
        "quality_ratio": round(flooded["mrr20"] / quiet["mrr20"], 4) if quiet["mrr20"] else None,
        "rss_ratio": flooded.pop("rss_ratio"),
        "mrr20": quiet["mrr20"],
        "mrr20_flooded": flooded["mrr20"],
        "rss_mib": flooded["rss_mib"],
        "stall_seconds": flooded["stall_seconds"],
        "flood_clicks_learned": flooded["learned"] - quiet["learned"],
        "real_clicks": quiet["clicks"],
        "ranked": quiet["ranked"],
        "occupancy": flooded["occupancy"],
        "seconds": flooded["seconds"],
        "events": plan.events,
        "rows": plan.rows,
    }


def _apart(plan: Plan, *, flood: bool) -> dict[str, Any]:
    """One run in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(lead, plan, flood=flood).result()


def lead(plan: Plan, *, flood: bool) -> dict[str, Any]:
    """Lead a learner through the real clicks, with the flood or without."""
    exam, config = plan.exam(), LearnerConfig(score_share=0.0, users_max=plan.rows, items_max=plan.rows, seed=plan.seed)
    warm_up(config)
    learner, view, random = Learner(config), ServingView(), np.random.default_rng(plan.seed)
    ranks, resident, stall, since = [np.empty(0)], list[int](), 0.0, time.perf_counter()
    clicks = learned = 0
    sizes = _flood_sizes(plan.events, len(exam.stream)) if flood else [0] * -(-len(exam.stream) // REAL_CLICKS)
    for number, size in enumerate(sizes):
        batch, chosen = _mixed(exam, number * REAL_CLICKS, size, random)
        if len(chosen):
            ranks.append(learner.ranks(batch, chosen))
        evicted, began = learner.state.tally[:, 2].sum(), time.perf_counter()
        found = learner.learn(batch)
        view.publish(learner)
        if learner.state.tally[:, 2].sum() > evicted:
            stall = max(stall, time.perf_counter() - began)
        clicks += found.clicks
        learned += found.clicks - found.withheld
        resident.append(rss_bytes())
        if number % 200 == 199:
            say(f"{'flooded' if flood else 'quiet'}: {number + 1} of {len(sizes)} batches, {resident[-1] >> 20} MiB")
    return _figures(ranks, resident) | {
        "clicks": clicks,
        "learned": learned,
        "occupancy": learner.occupancy(),
        "stall_seconds": round(stall, 2),
        "seconds": round(time.perf_counter() - since, 1),
    }


def _figures(ranks: list[Float64], resident: list[int]) -> dict[str, Any]:
    every = np.concatenate(ranks)
    warm = int(len(resident) * WARM_SHARE)
    return {
        "ranked": len(every),
        "mrr20": round(summarize(every)[1] / max(len(every), 1), 5),
        "rss_ratio": round(max(resident[warm:]) / resident[warm], 4),
        "rss_mib": [bytes_ >> 20 for bytes_ in (resident[0], resident[warm], max(resident), resident[-1])],
    }


def _flood_sizes(events: int, real: int) -> list[int]:
    """Clicks of the flood in each batch."""
    size = FLOOD_PER_CLICK * REAL_CLICKS
    count = max(-(-events // size), -(-real // REAL_CLICKS))
    return [max(0, min(size, events - number * size)) for number in range(count)]


def _mixed(exam: Exam, start: int, flood: int, random: np.random.Generator) -> tuple[Batch, Int64]:
    """The real clicks from `start` on with `flood` others between them, and the places of those that are ranked."""
    stream = exam.stream
    span = slice(min(start, len(stream)), min(start + REAL_CLICKS, len(stream)))
    real = range(span.start, span.stop)
    slots = np.sort(random.permutation(len(real) + flood)[: len(real)])
    first, last = np.searchsorted(exam.chosen, (span.start, span.stop))
    times = np.interp(np.arange(len(real) + flood), slots, stream.times[span]) if real else None
    return (
        Batch.of(
            _between(stream.users[span], slots, flood, random),
            _between(stream.items[span], slots, flood, random),
            np.full(flood, stream.times[-1]) if times is None else times.astype(np.int64),
            _between(stream.types[span], slots, flood, None),
        ),
        slots[exam.chosen[first:last] - span.start],
    )


def _between(real: Any, slots: Int64, flood: int, random: np.random.Generator | None) -> list[str]:
    """A column with the real values at `slots` and those of the flood around them: random ids, or `view`."""
    column = np.empty(len(real) + flood, object)
    others = np.ones(len(column), np.bool_)
    others[slots] = False
    column[slots] = real
    column[others] = ["view"] * flood if random is None else [f"{n:016x}" for n in random.integers(0, 2**63, flood)]
    found: list[str] = column.tolist()
    return found


if __name__ == "__main__":
    main()
