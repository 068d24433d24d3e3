"""Popularity: each item's decayed share of all clicks, at several half-lives; no batch costs O(items).

A click at time t adds 2^(t / half-life) to its item's count and to the total; the weights of newer clicks grow
instead of those of older ones fading, so that no count is touched unless its item is clicked. Counts are kept as
natural logarithms: log share = log count - log total, whatever the time of reading.
"""

from __future__ import annotations

import math

import numpy as np

from model.batch import Float32, Float64, Int32, Int64
from model.kernels import FLOOR, NEVER, kernel
from model.table import Column

HOUR_MS = 3_600_000.0
LONG_HOURS = 168.0
"""Products take the popularity at the half-life nearest to a week."""


def item_columns(counters: int) -> dict[str, Column]:
    """`log_counts`: log of the decayed count at each half-life."""
    return {"log_counts": Column(counters, np.float64, NEVER, memory=True)}


def growth_rates(half_lives_hours: tuple[float, ...]) -> Float64:
    """By how much the log weight of a click grows per millisecond, float64 [P]."""
    return np.array([math.log(2.0) / (hours * HOUR_MS) for hours in half_lives_hours])


def long_counter(half_lives_hours: tuple[float, ...]) -> int:
    """Which counter multiplies into the products."""
    return int(np.abs(np.log(np.array(half_lives_hours) / LONG_HOURS)).argmin())


def steady_times(times: Int64) -> Float64:
    """Event times with outliers drawn in, float64 ms [n]: one click dated a century ahead must not outweigh all others.

    Kept is what lies within the batch's own 5 to 95 % span, widened by that span on both sides.
    """
    if not len(times):
        return np.zeros(0)
    real = times.astype(np.float64)
    ordered, last = np.sort(real), len(real) - 1
    low, high = np.interp((0.05 * last, 0.95 * last), np.arange(len(real)), ordered)
    return np.clip(real, low - (high - low), high + (high - low))


@kernel
def count_clicks(items: Int32, times: Float64, rates: Float64, log_counts: Float64, totals: Float64) -> None:
    """Add each click's weight exp(rate * time) to its item's count and to the totals [P], all kept as logarithms."""
    for i in range(items.shape[0]):
        for p in range(rates.shape[0]):
            weight = rates[p] * times[i]
            for place in range(2):
                old = totals[p] if place else log_counts[items[i], p]
                high, gap = max(old, weight), -abs(old - weight)
                new = high + math.log1p(math.exp(gap)) if gap > -40.0 else high
                if place:
                    totals[p] = new
                else:
                    log_counts[items[i], p] = new


@kernel
def log_shares(log_counts: Float64, totals: Float64, which: int, shares: Float32) -> None:
    """Write the log share of every item [n] at one half-life, down to four times the floor."""
    for j in range(shares.shape[0]):
        shares[j] = max(log_counts[j, which] - totals[which], 4.0 * FLOOR)


def mean_shift(log_counts: Float64, totals: Float64, recent: int) -> float:
    """Mean log ratio of the clicked items' recent share to their share at the longest half-life; nan without clicks.

    `log_counts` float64 [n, P] of the items clicked. An estimate of the Kullback-Leibler divergence of now from before.
    """
    if not len(log_counts):
        return math.nan
    shares = np.maximum(log_counts - totals, FLOOR)
    return float((shares[:, recent] - shares[:, -1]).mean())
