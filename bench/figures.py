"""What ranks amount to: reciprocal rank, hits and gain at a cut, and how sure they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.batch import Float64, Int32

RESAMPLES = 1000


def reciprocal(ranks: Float64, cut: int) -> Float64:
    """1 / rank up to `cut`, else 0."""
    return np.where(ranks <= cut, 1.0 / ranks, 0.0)


def summary(ranks: Float64, repeats: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Means over all scored clicks; the last two over those whose target is in their context, and over the others."""
    return {
        "mrr20": mean(reciprocal(ranks, 20)),
        "hr20": mean(ranks <= 20),
        "mrr10": mean(reciprocal(ranks, 10)),
        "hr10": mean(ranks <= 10),
        "ndcg10": mean(np.where(ranks <= 10, 1.0 / np.log2(1.0 + ranks), 0.0)),
        "mrr20_repeat": mean(reciprocal(ranks, 20)[repeats]),
        "mrr20_new": mean(reciprocal(ranks, 20)[~repeats]),
    }


def mean(values: npt.NDArray[np.bool_] | Float64) -> float:
    """0 where there is nothing to average."""
    return round(float(values.mean()), 5) if len(values) else 0.0


def interval(gains: Float64, users: Int32, seed: int) -> tuple[float, float]:
    """95 % of the mean of what each scored click gained, by drawing the users anew with replacement, each with all of
    their clicks. With reciprocal ranks that is the interval of MRR, with differences of them that of a lead.
    """
    if not len(gains):
        return 0.0, 0.0
    _, local = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(local, gains), np.bincount(local)
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for place in range(RESAMPLES):
        drawn = random.integers(len(sums), size=len(sums))
        means[place] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, (0.025, 0.975))
    return round(float(low), 5), round(float(high), 5)


def rolling(ranks: Float64, half_life: float) -> Float64:
    """MRR@20 as it went: at each scored click the decayed mean up to it, float64 [scored]."""
    decay, total, weight = 0.5 ** (1.0 / half_life), 0.0, 0.0
    curve = np.empty(len(ranks))
    for place, value in enumerate(reciprocal(ranks, 20).tolist()):
        total, weight = total * decay + value, weight * decay + 1.0
        curve[place] = total / weight
    return curve
