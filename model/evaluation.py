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

# Nanoseconds on one core, measured on complete_journey (68 k items) and deskdrop (3 k); only their ratios matter.
LEARN_CLICK_NS = 5500.0
LEARN_DIM_NEGATIVE_NS = 0.35
FIND_CLICK_NS = 600.0
PREPARE_ITEM_NS = 25.0
SCORE_CLICK_NS = 14000.0
SCORE_ITEM_NS = 2.5
SCORE_ITEM_DIM_NS = 0.03


@kernel
def rank_targets(scores: Float32, targets: Int32, above: Int32, equal: Int32, ranks: Float64) -> None:
    """ranks[b] of item targets[b] by scores[:, b] over all items; scores [items, B].

    `above`, `equal` int32 [B] are scratch. Item by item, so that the scores are read once, in the order they lie in.
    """
    for b in range(targets.shape[0]):
        above[b] = 0
        equal[b] = -1
    for j in range(scores.shape[0]):
        for b in range(targets.shape[0]):
            value = scores[j, b]
            mark = scores[targets[b], b]
            above[b] += value > mark
            equal[b] += value == mark
    for b in range(targets.shape[0]):
        ranks[b] = 1.0 + above[b] + equal[b] / 2.0


@kernel
def rank_popular(popular: Float32, targets: Int32, ranks: Float64) -> None:
    """ranks[b] of item targets[b] by popular [items] alone."""
    for b in range(targets.shape[0]):
        above = equal = 0
        for j in range(popular.shape[0]):
            above += popular[j] > popular[targets[b]]
            equal += popular[j] == popular[targets[b]]
        ranks[b] = 1.0 + above + (equal - 1) / 2.0


@kernel
def best_rows(scores: Float32, rows: Int32, values: Float32) -> None:
    """Fill rows [B, N] with the N best of each column of scores [n >= N, B], best first, of equals the lower row, and
    values [B, N] with their scores.

    Item by item, in the order in which the scores lie: mostly one comparison each, which beats partitioning.
    """
    width, least = rows.shape[1], np.full(rows.shape[0], -np.inf, np.float32)
    for row in range(scores.shape[0]):
        size = min(row, width)
        for b in range(rows.shape[0]):
            value = scores[row, b]
            if size == width and value <= least[b]:
                continue
            spot = min(size, width - 1)
            while spot > 0 and values[b, spot - 1] < value:
                values[b, spot], rows[b, spot] = values[b, spot - 1], rows[b, spot - 1]
                spot -= 1
            values[b, spot], rows[b, spot] = value, row
            least[b] = values[b, min(size, width - 1)]


def summarize(ranks: Float64) -> tuple[float, float, float]:
    """Sums of hits, reciprocal ranks and discounted gains at 20 over `ranks` float64 [n]; inf is a miss."""
    found = ranks[ranks <= CUT]
    return float(len(found)), float((1.0 / found).sum()), float((1.0 / np.log2(1.0 + found)).sum())


def learn_cost(clicks: int, dim: int, negatives: int) -> float:
    """What learning `clicks` costs, in the units of `score_cost`."""
    return clicks * (LEARN_CLICK_NS + LEARN_DIM_NEGATIVE_NS * dim * negatives)


def score_cost(clicks: int, items: int, dim: int) -> tuple[float, float]:
    """What scoring costs once for a batch of `clicks`, and for each click ranked, over `items` items."""
    once = clicks * FIND_CLICK_NS + items * PREPARE_ITEM_NS
    return once, SCORE_CLICK_NS + items * (SCORE_ITEM_NS + SCORE_ITEM_DIM_NS * dim)


def affordable(purse: float, clicks: int, items: int, dim: int) -> tuple[int, float]:
    """How many of `clicks` a purse pays for, and what they cost. None while most of it would go into preparing."""
    once, each = score_cost(clicks, items, dim)
    count = min(int((purse - once) // each), clicks)
    return (count, once + count * each) if count >= 1 and (count * each >= once or count == clicks) else (0, 0.0)
