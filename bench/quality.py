"""How well the next click is ranked, live: the product and its peers, each led through the same recorded stream.

    python -m bench.quality STREAM.parquet [--json] [--limit N] [--skip 0] [--user-column session_id]
        [--batch 500] [--fraction 0.2] [--warmup 0.1] [--seed 0] [--peers all|NAME,...] [--plot FILE.png]

Test-then-learn, as `bench/protocol.py` says it: each batch is ranked on the state before it, over the whole catalogue,
then learned. The product is its own learner through its own seam, with its own defaults; the seed alone is set.
`learn_seconds` and `score_seconds` are the processor's, of one thread; scoring costs only what the scored clicks need.
`interval` is the 95 % bootstrap interval of `mrr20`, users drawn anew; a peer's `lead` is that of the product's lead
over it, click by click. `--skip` leaves the first clicks out, to look at some that no setting was chosen on. A batch
size beside 500 shows what freshness is worth: `--batch 50`, `--batch 5000`; the scored clicks stay the same.

Peers that stand on libraries need `pip install '.[peers]'`, the neural ones `pip install '.[peers-torch]'`; where one
is not installed, its place in the output says so (`skipped`). `--plot` draws the product and the two best peers.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Before numpy is loaded: a figure per thread needs one thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from bench.common import machine, say, show
from bench.curves import draw, plotting
from bench.figures import interval, reciprocal, summary
from bench.peers import PEERS, Variants
from bench.peers.peer import NotInstalled, PeerContender
from bench.protocol import Contender, Exam, Sat, set_exam, sit
from bench.streams import read_stream
from model.batch import Float64, Int64
from model.config import LearnerConfig
from model.learner import Learner, warm_up

TABLE = ("mrr20", "hr20", "mrr10", "hr10", "ndcg10", "mrr20_repeat", "mrr20_new")
PLOTTED_PEERS = 2


class Product:
    """The product's own learner as a contender, through the seam that the stream uses. Batches are made beforehand."""

    def __init__(self, config: LearnerConfig, exam: Exam) -> None:
        self._learner = Learner(config)
        self._batches = {place.start: exam.stream.batch(place) for place, _ in exam.batches()}

    def ranks(self, batch: slice, chosen: Int64) -> Float64:
        return self._learner.ranks(self._batches[batch.start], chosen - batch.start)

    def learn(self, batch: slice) -> None:
        self._learner.learn(self._batches[batch.start])


def main() -> None:
    options = _options()
    stream = read_stream(options.path, options.limit, options.user_column, options.skip)
    exam = set_exam(stream, options.batch, options.fraction, options.warmup, options.seed)
    if options.plot:
        plotting()  # rather now than after an hour
    result, ranks = measure(exam, options.peers, options.seed)
    if options.plot:
        draw(options.plot, exam, best(result, ranks, PLOTTED_PEERS))
    result["settings"] |= {
        name: getattr(options, name) for name in ("limit", "skip", "user_column", "fraction", "warmup", "seed")
    }
    if options.json:
        show(result, as_json=True)
    else:
        _print_table(result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="Parquet or JSON lines")
    parser.add_argument("--limit", type=int, default=None, help="clicks, from the front")
    parser.add_argument("--skip", type=int, default=0, help="clicks of the file that are left out before")
    parser.add_argument("--user-column", default="user_id", help="the column that says who clicked")
    parser.add_argument("--batch", type=_positive, default=500, help="clicks between two states")
    parser.add_argument("--fraction", type=float, default=0.2, help="share of the clicks that is scored")
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the stream that is learned before")
    parser.add_argument("--seed", type=int, default=0, help="draws the scored clicks, and seeds the learner")
    parser.add_argument("--peers", type=_peers, default=(), metavar="all|NAME,...", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a PNG of the learning curve")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser.parse_args()


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is expected")
    return int(text)


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(PEERS) if text == "all" else tuple(text.split(","))
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return names


def measure(exam: Exam, peers: Sequence[str], seed: int) -> tuple[dict[str, Any], dict[str, Float64]]:
    """The product's figures, with those of each peer under `peers`; and everyone's ranks, by name."""
    config = LearnerConfig(seed=seed, score_share=0.0)
    warm_up(config)
    judge = _Judge(exam, seed)
    product = judge.figures("product", _sat("product", Product(config, exam), exam))
    measured = {name: _peer(name, PEERS[name], judge) for name in peers}
    return {**product, "peers": measured, "settings": {"learner": config.to_dict(), **machine()}}, judge.ranks


def best(result: Mapping[str, Any], ranks: Mapping[str, Float64], count: int) -> dict[str, Float64]:
    """The ranks of the product, then those of its `count` best peers, best first."""
    peers = {name: float(peer["mrr20"]) for name, peer in result["peers"].items() if "mrr20" in peer}
    return {name: ranks[name] for name in ["product", *sorted(peers, key=lambda name: -peers[name])[:count]]}


class _Judge:
    """Turns outcomes into figures. `ranks`: by name, each contender's best."""

    def __init__(self, exam: Exam, seed: int) -> None:
        self.exam = exam
        self.ranks: dict[str, Float64] = {}
        self._seed = seed
        self._repeats = exam.repeats()
        self._users = exam.stream.user_rows[exam.chosen]

    def figures(self, name: str, sat: Sat) -> dict[str, Any]:
        """The same object for everyone. `events_per_second` is of learning alone."""
        events, quality = len(self.exam.stream), summary(sat.ranks, self._repeats)
        if name not in self.ranks or quality["mrr20"] > summary(self.ranks[name], self._repeats)["mrr20"]:
            self.ranks[name] = sat.ranks
        return {
            "stream": self.exam.stream.name,
            "events": events,
            "scored": len(sat.ranks),
            "batch": self.exam.batch,
            **quality,
            "interval": interval(reciprocal(sat.ranks, 20), self._users, self._seed),
            "learn_seconds": round(sat.learn_seconds, 3),
            "score_seconds": round(sat.score_seconds, 3),
            "events_per_second": round(events / max(sat.learn_seconds, 1e-9)),
        }

    def lead(self, name: str) -> tuple[float, float]:
        """The interval of the product's MRR@20 less that of a peer's best variant, on the same clicks."""
        gains = reciprocal(self.ranks["product"], 20) - reciprocal(self.ranks[name], 20)
        return interval(gains, self._users, self._seed)


def _sat(name: str, contender: Contender, exam: Exam) -> Sat:
    say(f"{name} ...")
    sat = sit(contender, exam)
    say(f"{name}: learned in {sat.learn_seconds:.1f} s, scored in {sat.score_seconds:.1f} s")
    return sat


def _peer(name: str, variants: Variants, judge: _Judge) -> dict[str, Any]:
    """The figures of a peer's best variant, and what each of them reached; or why it was skipped."""
    found = {}
    for variant, make in variants.items():
        try:
            contender = PeerContender(make(), judge.exam)
        except NotInstalled as error:
            say(f"{name}: skipped, {error}")
            return {"skipped": str(error)}
        found[variant] = judge.figures(name, _sat(f"{name} {variant}", contender, judge.exam))
    top = max(found, key=lambda variant: float(found[variant]["mrr20"]))
    variants_reached = {variant: each["mrr20"] for variant, each in found.items()}
    return {**found[top], "lead": judge.lead(name), "variant": top, "variants": variants_reached}


def _print_table(result: dict[str, Any]) -> None:
    print(f"{result['stream']}: {result['events']:,} events, {result['scored']:,} scored, batches of {result['batch']}")
    print(f"{'':>14} {' '.join(f'{name:>12}' for name in TABLE)} {'95 %':>17} {'learn s':>9} {'score s':>9}")
    for name, row in {"product": result, **result["peers"]}.items():
        if "skipped" in row:
            print(f"{name:>14} skipped: {row['skipped']}")
            continue
        low, high = row["interval"]
        quality = " ".join(f"{row[key]:12.4f}" for key in TABLE)
        print(f"{name:>14} {quality}   {low:.4f} - {high:.4f} {row['learn_seconds']:9.2f} {row['score_seconds']:9.2f}")


if __name__ == "__main__":
    main()
