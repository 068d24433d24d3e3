"""The learning curve: how well the next click was ranked as the stream went, the product against its best peers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.common import lacking
from bench.figures import rolling
from bench.peers.peer import NotInstalled, library
from bench.protocol import Exam
from model.batch import Float64

HALF_LIFE_SHARE = 0.05
"""The curve's half-life as a share of the scored clicks: long enough to be smooth, short enough to show a change."""


def plotting() -> Any:
    """The module for figures of matplotlib, without a screen; ends with a message where it is not installed."""
    try:
        return library("matplotlib.figure", "bench")
    except NotInstalled as error:
        raise lacking(f"--plot: {error}") from None


def draw(path: Path, exam: Exam, ranks: Mapping[str, Float64]) -> None:
    """Write a PNG with one curve per contender, by name, the first one drawn strongest."""
    picture = plotting().Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    axes = picture.add_subplot()
    for place, (name, each) in enumerate(ranks.items()):
        half_life = max(len(each) * HALF_LIFE_SHARE, 1.0)
        shown = slice(int(half_life), None)  # the mean of the first few clicks is noise
        axes.plot(
            exam.chosen[shown],
            rolling(each, half_life)[shown],
            label=name,
            linewidth=1.2 if place else 2.2,
            zorder=-place,
        )
    axes.set_xlabel("clicks learned")
    axes.set_ylabel("MRR@20, decayed mean")
    axes.set_title(f"{exam.stream.name}: ranked live, in batches of {exam.batch}")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)
    picture.savefig(path, format="png")
