"""How fast the learner learns, beside gensim's CBOW and implicit's BPR on the same clicks; where its time goes.

    python -m bench.throughput [STREAM.parquet] [--json] [--limit 200000] [--batch 500] [--rounds 5]

One thread, the product's defaults (dim 64) without scoring, kernels compiled beforehand. In each round each contender
learns the whole stream from nothing; figures are medians of rounds, ratios those of the medians. A contender's seconds
are the processor's, which other work on the machine disturbs least, or those on the wall where that is less: a helper
thread of a library must not count against it. Batches, sentences and matrices are made beforehand.

`where`: microseconds per event by step, of one more pass with every step timed. `top_n`: the best 20 of 100,000 items,
for one user by `recommend`, and for 256 contexts at once by `ranking.score`, without and with choosing the 20.
A library that is not installed is `null`, and `skipped` says so.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before numpy is loaded: a figure per thread needs one thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


from bench import laps, libraries
from bench.common import machine, median, say, show
from bench.peers.peer import NotInstalled
from bench.rows import row_bytes
from bench.streams import Stream, made_up, read_stream
from bench.top import top_n
from model.batch import Batch
from model.config import LearnerConfig
from model.learner import Learner, warm_up

CONFIG = LearnerConfig(score_share=0.0)
ROWS = 100_000
"""Rows of each kind over which memory is measured."""
Contenders = dict[str, Callable[[], int]]
"""By name what learns the stream once, and answers how many events, words or triples that were."""


def main() -> None:
    options = _options()
    stream = read_stream(options.path, options.limit) if options.path else made_up(options.limit)
    warm_up(CONFIG)
    result = measure(stream, options.batch, options.rounds)
    result |= _rows(ROWS)
    result["top_n"] = top_n(options.items, calls=50)
    if options.json:
        show(result, as_json=True)
    else:
        _print_lines(result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, nargs="?", help="Parquet or JSON lines; without one, made-up clicks")
    parser.add_argument("--limit", type=int, default=200_000, help="clicks, from the front")
    parser.add_argument("--batch", type=int, default=500, help="clicks per batch")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender learns the stream")
    parser.add_argument("--items", type=int, default=100_000, help="size of the catalogue of `top_n`")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser.parse_args()


def measure(stream: Stream, batch: int, rounds: int) -> dict[str, Any]:
    """Speeds and ratios of one run, and where the learner's time went."""
    batches = [stream.batch(slice(start, start + batch)) for start in range(0, len(stream), batch)]
    contenders, skipped = _contenders(stream, batches)
    say("warming up")
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for train in contenders.values():
        train()
    for number in range(rounds):
        for name, train in contenders.items():
            speeds[name].append(_speed(train))
        say(f"round {number + 1}: " + ", ".join(f"{name} {found[-1]:,.0f}/s" for name, found in speeds.items()))
    with laps.measured() as lap:
        _learn(batches)
    return {
        "stream": stream.name,
        "events": len(stream),
        "batch": batch,
        **_figures({name: median(found) for name, found in speeds.items()}),
        "skipped": skipped,
        "rounds": [{name: round(found[number]) for name, found in speeds.items()} for number in range(rounds)],
        "where": lap.per_event(len(stream)),
        "dim": CONFIG.dim,
        "machine": machine(),
    }


def _contenders(stream: Stream, batches: list[Batch]) -> tuple[Contenders, dict[str, str]]:
    """Those that can run here, and why the others cannot."""
    found: Contenders = {"learner": lambda: _learn(batches)}
    skipped = {}
    for name, make in (("gensim", libraries.cbow), ("bpr", libraries.bpr)):
        try:
            found[name] = make(stream)
        except NotInstalled as error:
            skipped[name] = str(error)
            say(f"{name}: skipped, {error}")
    return found, skipped


def _learn(batches: list[Batch]) -> int:
    learner = Learner(CONFIG)
    return sum(learner.learn(batch).clicks for batch in batches)


def _speed(train: Callable[[], int]) -> float:
    since, since_cpu = time.perf_counter(), time.process_time()
    count = train()
    return count / min(time.perf_counter() - since, time.process_time() - since_cpu)


def _figures(speeds: dict[str, float]) -> dict[str, Any]:
    own = speeds["learner"]
    return {
        "events_per_second": round(own),
        "gensim_words_per_second": round(speeds["gensim"]) if "gensim" in speeds else None,
        "ratio_to_gensim": round(own / speeds["gensim"], 3) if "gensim" in speeds else None,
        "bpr_triples_per_second": round(speeds["bpr"]) if "bpr" in speeds else None,
        "ratio_to_bpr": round(own / speeds["bpr"], 3) if "bpr" in speeds else None,
    }


def _rows(count: int) -> dict[str, Any]:
    say("measuring rows")
    return {f"bytes_per_{kind}_row": found for kind, found in row_bytes(count).items()}


def _print_lines(result: dict[str, Any]) -> None:
    where = result.pop("where")
    show(result, as_json=False)
    print("where: microseconds per event")
    for name, microseconds in where.items():
        print(f"{microseconds:10.3f}  {microseconds / sum(where.values()):6.1%}  {name}")


if __name__ == "__main__":
    main()
