"""What each part of the model brings and what it costs: the learner as it is, beside the learner without one part.

    python -m bench.ablation STREAM.parquet... [--json] [--limit N] [--batch 500] [--fraction 0.2] [--warmup 0.1]
        [--seed 0] [--parts NAME,...]

The protocol is that of `bench.quality` (`bench/protocol.py`), and so are the scored clicks, the same for all learners.
`brings`: MRR@20 of the whole less MRR@20 without the part, with the standard error of that difference over the clicks.
All learners are led through the stream together, a few batches each by turns, so that other work on the machine hits
them alike. `costs`: microseconds of processor time per learned event that the part takes, the median over the turns of
the difference. The whole learner takes part twice: what its second self `costs` says how far such a difference can be
trusted.

A part is taken out by the product's settings where they can; else the gradients of its weights are held at zero, so
that the weights stay at zero where they began, and its features say nothing in learning or in ranking. That saves no
time: such a part's cost is nil, and its features are still computed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Before numpy is loaded: a figure per thread needs one thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from bench.common import machine, median, say, show
from bench.protocol import Contender, Exam, set_exam
from bench.streams import Stream, read_stream
from model.batch import Batch, Float32, Float64, Int32, Int64
from model.config import LearnerConfig
from model.learner import Learner, warm_up
from model.parts import neighbours, own_items, transitions
from model.parts.mixing import Layout, Mixing

CUT = 20
TURN = 10
"""Batches."""
WHOLE, AGAIN = "whole", "whole, again"
Places = Callable[[Layout], Sequence[int]]
"""Which features' weights are held at zero."""


def _no_places(layout: Layout) -> Sequence[int]:
    return ()


@dataclass(frozen=True, slots=True)
class Without:
    """How a part is taken out: by `settings`, by holding weights at zero, by reading every click as a view."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    held: Places = _no_places
    typed: bool = True


PARTS: Mapping[str, Without] = {
    "gates": Without({"gate_rate": 0.0}),
    "own items": Without({"own_items": 1}, lambda at: range(at.own, at.own + own_items.FEATURES)),
    "transitions": Without({"transitions": 1}, lambda at: range(at.follows, at.follows + transitions.LAGS + 1)),
    "neighbours": Without(
        {"search_clicks": 0, "search_least": 0.0}, lambda at: range(at.near, at.near + neighbours.FEATURES)
    ),
    "embeddings": Without({"learning_rate": 0.0}),
    "age": Without(held=lambda at: (at.age, at.fresh + 2)),
    "repeats": Without(held=lambda at: range(at.repeat, at.follows)),
    "repeats x popularity": Without(held=lambda at: (at.fresh + 1,)),
    "event types": Without(typed=False),
    "learned priorities": Without({"priority_rate": 0.0}),
}


def main() -> None:
    options = _options()
    streams = {path.stem: _measured(read_stream(path, options.limit), options) for path in options.paths}
    names = ("limit", "batch", "fraction", "warmup", "seed")
    settings = {name: getattr(options, name) for name in names}
    if options.json:
        show({"streams": streams, "settings": settings, "machine": machine()}, as_json=True)
        return
    for name, result in streams.items():
        _print_table(name, result)
    print(f"settings: {settings}\nmachine: {machine()}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", help="Parquet or JSON lines")
    parser.add_argument("--limit", type=int, default=None, help="clicks of each stream, from the front")
    parser.add_argument("--batch", type=int, default=500, help="clicks between two states")
    parser.add_argument("--fraction", type=float, default=0.2, help="share of the clicks that is scored")
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the stream that is learned before")
    parser.add_argument("--seed", type=int, default=0, help="draws the scored clicks, and seeds the learner")
    parser.add_argument("--parts", type=_parts, default=tuple(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser.parse_args()


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return names


@dataclass(frozen=True, slots=True)
class Run:
    """One learner's way through a stream: the reciprocal rank of each scored click, 0 past the cut, and microseconds
    per event of each turn, float64 [turns].
    """

    gains: Float64
    turns: Float64

    @property
    def mrr(self) -> float:
        return float(self.gains.mean()) if len(self.gains) else 0.0


def _measured(stream: Stream, options: argparse.Namespace) -> dict[str, Any]:
    exam = set_exam(stream, options.batch, options.fraction, options.warmup, options.seed)
    runs = lead(_contenders(options.parts, exam, options.seed), exam)
    whole = runs[WHOLE]
    return {
        "events": len(stream),
        "scored": len(whole.gains),
        "whole": {"mrr20": round(whole.mrr, 5), "microseconds_per_event": round(float(whole.turns.mean()), 2)},
        "again": _compared(whole, runs[AGAIN]),
        "without": {name: _compared(whole, runs[name]) for name in options.parts},
    }


def _contenders(parts: Sequence[str], exam: Exam, seed: int) -> dict[str, Ablated]:
    """The whole learner, those without a part, and the whole one again."""
    typed = {place.start: exam.stream.batch(place) for place, _ in exam.batches()}
    plain = {place.start: _untyped(exam.stream, place) for place, _ in exam.batches()}
    chosen = {WHOLE: Without(), **{name: PARTS[name] for name in parts}, AGAIN: Without()}
    return {name: Ablated(learner_without(part, seed), typed if part.typed else plain) for name, part in chosen.items()}


def _untyped(stream: Stream, place: slice) -> Batch:
    return Batch.of(stream.users[place], stream.items[place], stream.times[place])


class Ablated:
    """A learner as a contender, with its batches by where they start."""

    def __init__(self, learner: Learner, batches: Mapping[int, Batch]) -> None:
        self._learner = learner
        self._batches = batches

    def ranks(self, batch: slice, chosen: Int64) -> Float64:
        return self._learner.ranks(self._batches[batch.start], chosen - batch.start)

    def learn(self, batch: slice) -> None:
        self._learner.learn(self._batches[batch.start])


def lead(contenders: Mapping[str, Contender], exam: Exam) -> dict[str, Run]:
    """Lead all of them through the stream, by turns."""
    batches = list(exam.batches())
    ranks: dict[str, list[Float64]] = {name: [np.empty(0)] for name in contenders}
    turns: dict[str, list[float]] = {name: [] for name in contenders}
    for start in range(0, len(batches), TURN):
        for name, contender in contenders.items():
            turns[name].append(_turn(contender, batches[start : start + TURN], ranks[name]))
        say(f"{exam.stream.name}: {min(start + TURN, len(batches))} of {len(batches)} batches")
    found = {name: np.concatenate(each) for name, each in ranks.items()}
    return {
        name: Run(np.where(each <= CUT, 1.0 / each, 0.0), np.array(turns[name]) * 1e6) for name, each in found.items()
    }


def _turn(contender: Contender, batches: Sequence[tuple[slice, Int64]], ranks: list[Float64]) -> float:
    """Rank, then learn, some batches; seconds of learning per event are answered, the ranks added to `ranks`."""
    seconds, events = 0.0, 0
    for batch, chosen in batches:
        if len(chosen):
            ranks.append(contender.ranks(batch, chosen))
        since = time.process_time()
        contender.learn(batch)
        seconds += time.process_time() - since
        events += batch.stop - batch.start
    return seconds / events


def learner_without(part: Without, seed: int) -> Learner:
    """The product's learner with its defaults, but for one part."""
    settings = LearnerConfig(seed=seed, score_share=0.0).to_dict() | dict(part.settings)
    learner = Learner(LearnerConfig.from_dict(settings))
    warm_up(learner.config)
    if held := part.held(learner.state.mixing.layout):
        learner.state.mixing = HeldMixing(learner.config, held)
    return learner


class HeldMixing(Mixing):
    """Weights in which those of some features never leave zero."""

    def __init__(self, config: LearnerConfig, held: Sequence[int]) -> None:
        super().__init__(config)
        self._held = np.array(held, np.intp) + 1

    def learn(self, found: Float32, opened: Int32, searched: Float32, config: LearnerConfig, rate: float) -> None:
        """As ever, with gradients of zero where weights are held."""
        found[:, self._held] = 0.0
        super().learn(found, opened, searched, config, rate)


def _compared(whole: Run, without: Run) -> dict[str, float]:
    lost = whole.gains - without.gains
    return {
        "mrr20": round(without.mrr, 5),
        "brings": round(whole.mrr - without.mrr, 5),
        "error": round(float(lost.std() / max(len(lost), 1) ** 0.5), 5) if len(lost) else 0.0,
        "microseconds_per_event": round(float(without.turns.mean()), 2),
        "costs": round(median([float(each) for each in whole.turns - without.turns]), 2),
    }


def _print_table(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name}: {result['events']:,} events, {result['scored']:,} scored")
    print(f"{'without':>22} {'MRR@20':>9} {'brings':>9} {'error':>8} {'us/event':>9} {'costs':>7}")
    whole = result["whole"]
    print(f"{'(nothing)':>22} {whole['mrr20']:9.4f} {'':>18} {whole['microseconds_per_event']:9.2f}")
    rows = {"(nothing, again)": result["again"], **result["without"]}
    for part, row in sorted(rows.items(), key=lambda pair: -pair[1]["brings"]):
        quality = f"{row['mrr20']:9.4f} {row['brings']:+9.4f} {row['error']:8.4f}"
        print(f"{part:>22} {quality} {row['microseconds_per_event']:9.2f} {row['costs']:+7.2f}")


if __name__ == "__main__":
    main()
