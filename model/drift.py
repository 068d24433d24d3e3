"""Drift: short means against long ones, in standard deviations, for a few figures that every batch yields anyway.

- loss: the sampled-softmax loss of the clicks learned
- new_item_share: clicks on items that no finished batch had
- popularity_shift: mean log ratio of the clicked items' shares at the shortest day-scale and the longest half-life,
  an estimate of how far the recent distribution has moved from the old one (a Kullback-Leibler divergence)
"""

from __future__ import annotations

import math

import numpy as np

from model.batch import Float64

SIGNALS = ("loss", "new_item_share", "popularity_shift")
SHORT_CLICKS = 5_000.0
LONG_CLICKS = 100_000.0


class Signals:
    """Decayed moments per signal: `moments` float64 [signals, 5] = short (sum, weight), long (sum, weight, squares).

    Windows are counted in clicks, so that neither batch sizes nor the clock matter to where they reach.
    """

    def __init__(self) -> None:
        self.moments = np.zeros((len(SIGNALS), 5))

    def update(self, figures: dict[str, float], clicks: int) -> None:
        """Take in one batch's figures; one that is not finite is left out."""
        for row, name in zip(self.moments, SIGNALS, strict=True):
            if math.isfinite(figures[name]):
                _add(row, figures[name], float(clicks))

    def scores(self) -> dict[str, float]:
        """By signal: (short mean - long mean) / long standard deviation between batches; 0 before there is any."""
        return {name: _score(row) for name, row in zip(SIGNALS, self.moments, strict=True)}


def _add(row: Float64, value: float, clicks: float) -> None:
    row[:2] *= 0.5 ** (clicks / SHORT_CLICKS)
    row[2:] *= 0.5 ** (clicks / LONG_CLICKS)
    row += np.array([value, 1.0, value, 1.0, value * value]) * clicks


def _score(row: Float64) -> float:
    if not row[3]:
        return 0.0
    short, long = row[0] / row[1], row[2] / row[3]
    spread = math.sqrt(max(row[4] / row[3] - long * long, 0.0))
    return float((short - long) / (spread + 1e-3))
