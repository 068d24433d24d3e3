"""What each stream taught the model: the learned weights and priorities after each of some streams, side by side.

    python -m bench.weights STREAM.parquet... [--json] [--limit N] [--batch 500] [--plot FILE.svg]

Printed are the global weights as served, before the gates add to them, and the position and event-type priorities.
A weight alone says little, since features differ in size: `say` is the weight times the standard deviation of its
feature among the items that have features for the users who clicked last, in log-odds. That is what the picture shows.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

# Before numpy is loaded: a figure per thread needs one thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from bench.common import say, show
from bench.curves import plotting
from bench.streams import Stream, read_stream
from model import ranking
from model.batch import Float64
from model.config import LearnerConfig
from model.learner import Learner, warm_up

CONFIG = LearnerConfig(score_share=0.0)
ASKED = 200
"""Users whose candidates tell how much a feature varies: those who clicked last."""


def main() -> None:
    options = _options()
    if options.plot:
        plotting()  # rather now than after the streams
    warm_up(CONFIG)
    found = {path.stem: learned(read_stream(path, options.limit), options.batch) for path in options.paths}
    if options.plot:
        draw(options.plot, found)
    if options.json:
        show({"streams": found}, as_json=True)
    else:
        _print_table(found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", help="Parquet or JSON lines")
    parser.add_argument("--limit", type=int, default=None, help="clicks of each stream, from the front")
    parser.add_argument("--batch", type=int, default=500, help="clicks between two states")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of what each weight has to say")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser.parse_args()


def learned(stream: Stream, batch: int) -> dict[str, Any]:
    """The weights by name, what each has to say, and the priorities, after learning a stream."""
    learner = Learner(CONFIG)
    for start in range(0, len(stream), batch):
        learner.learn(stream.batch(slice(start, start + batch)))
    say(f"{stream.name}: learned")
    spread = spreads(learner)
    return {
        "events": len(stream),
        "weights": {name: round(value, 4) for name, value in learner.weights.items()},
        "say": {name: round(value * spread[place], 4) for place, (name, value) in enumerate(learner.weights.items())},
        "position_priorities": [round(float(value), 3) for value in learner.position_priorities],
        "type_priorities": {name: round(value, 3) for name, value in learner.type_priorities.items()},
    }


def spreads(learner: Learner) -> Float64:
    """The standard deviation of each feature, that of the embedding first, over the items found for the last users."""
    read = learner.state.readable()
    users = np.argsort(-learner.users["last_ms"], kind="stable")[:ASKED].astype(np.int32)
    asked = ranking.requests(read, users)
    found = ranking.walk(read, asked, float(asked.times.mean()))
    h = ranking.embed(read, asked.items, asked.kinds)
    whose, place = np.nonzero(np.cumsum(found.items < 0, axis=1) == 0)
    pulls = np.einsum("nd,nd->n", h[whose], learner.items["vector"][found.items[whose, place]])
    features = np.concatenate((pulls[:, None], found.features[whose, place]), axis=1)
    return np.asarray(features.std(axis=0), np.float64)


def draw(path: Path, found: dict[str, Any]) -> None:
    """One row of bars per weight, one bar per stream."""
    picture = plotting().Figure(figsize=(9, 9), layout="constrained")
    axes = picture.add_subplot()
    names = list(next(iter(found.values()))["say"])
    height = 0.8 / len(found)
    for place, (stream, each) in enumerate(found.items()):
        at = np.arange(len(names)) + (place - (len(found) - 1) / 2) * height
        axes.barh(at, list(each["say"].values()), height=height, label=stream)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_xlabel("weight times the standard deviation of its feature, log-odds")
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.legend(frameon=False)
    picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _print_table(found: dict[str, Any]) -> None:
    print(f"{'weight (say)':>22} {' '.join(f'{name[:20]:>20}' for name in found)}")
    for name in next(iter(found.values()))["weights"]:
        cells = (f"{each['weights'][name]:+.3f} ({each['say'][name]:+.2f})" for each in found.values())
        print(f"{name:>22} {' '.join(f'{cell:>20}' for cell in cells)}")
    for name, each in found.items():
        print(f"{name}: positions {each['position_priorities']}, types {each['type_priorities']}")


if __name__ == "__main__":
    main()
