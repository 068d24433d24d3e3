"""Test-then-learn: ranks over the whole catalogue, what they sum to, and how many of them a batch can afford.

The rank of a target is 1 + items that score higher + half of the others that tie. Everything is cut at rank 20.
How many clicks are scored is decided by counting arithmetic, never by the clock, so that the state stays the same on a
slow machine and on a fast one.
"""

from __future__ import annotations

import numpy as np

from model.batch import Float32, Float64, Int32
from model.kernels import kernel

CUT = 20
"""Ranks beyond this count as misses."""

# Nanoseconds on one core of 2024; only their ratios matter.
LEARN_CLICK_NS = 2500.0
LEARN_DIM_NEGATIVE_NS = 0.35
SCORE_ITEM_NS = 1.6
SCORE_ITEM_DIM_NS = 0.04
PREPARE_ITEM_NS = 12.0


@kernel
def rank_targets(scores: Float32, prior: Float32, which: Int32, targets: Int32, ranks: Float64) -> None:
    """ranks[s] of item targets[s] by scores[which[s], :] + prior over all items; scores [rows, n], prior [n]."""
    for s in range(targets.shape[0]):
        row = which[s]
        mark = scores[row, targets[s]] + prior[targets[s]]
        above = equal = 0
        for j in range(prior.shape[0]):
            value = scores[row, j] + prior[j]
            above += value > mark
            equal += value == mark
        ranks[s] = above + (equal - 1) / 2.0 + 1.0


def summarize(ranks: Float64) -> tuple[float, float, float]:
    """Sums of hits, reciprocal ranks and discounted gains at 20 over `ranks` float64 [n]; inf is a miss."""
    found = ranks[ranks <= CUT]
    return float(len(found)), float((1.0 / found).sum()), float((1.0 / np.log2(1.0 + found)).sum())


def learn_cost(clicks: int, dim: int, negatives: int) -> float:
    """What learning `clicks` costs, in the units of `score_cost`."""
    return clicks * (LEARN_CLICK_NS + LEARN_DIM_NEGATIVE_NS * dim * negatives)


def score_cost(items: int, dim: int) -> tuple[float, float]:
    """What scoring costs once per batch, and for each click, over `items` items."""
    return items * PREPARE_ITEM_NS, 2000.0 + items * (SCORE_ITEM_NS + SCORE_ITEM_DIM_NS * dim)


def affordable(purse: float, clicks: int, items: int, dim: int) -> tuple[int, float]:
    """How many of `clicks` a purse pays for, and what they cost. None while most of it would go into preparing."""
    once, each = score_cost(items, dim)
    count = min(int((purse - once) // each), clicks)
    return (count, once + count * each) if count >= 1 and (count * each >= once or count == clicks) else (0, 0.0)
