"""Gates: what is known of a context as a whole decides which small rows of weights are added to the global ones.

Five gates, each open at one value: how long ago the last click was (or how many clicks of the same batch stand in the
context), how long the history is, how often this user comes back to items, how often the last item was repeated, and
the event type of the last click.
"""

from __future__ import annotations

import numpy as np

from model.batch import Float32, Float64, Int32
from model.kernels import kernel
from model.parts.history import Contexts

MINUTE_MS = 60_000.0
_GAPS = np.array([0.0, 1.0, 30.0, 1440.0, 10080.0]) * MINUTE_MS
_FRESH = np.array([1, 3, 6])
_LENGTHS = np.array([0, 1, 3, 9])
_SHARES = np.array([0.0, 0.02, 0.1, 0.3, 0.5])
_RUNS = np.array([0, 1, 2, 3])
_TYPES = 8
"""Event types with a row of their own here, by the order in which they came; later ones share the last."""
_SIZES = (len(_GAPS) + 2 + len(_FRESH) + 1, len(_LENGTHS) + 1, len(_SHARES) + 1, len(_RUNS) + 1, _TYPES)
GATES = len(_SIZES)
_STARTS = np.cumsum((0, *_SIZES[:-1]))
VALUES = sum(_SIZES)
"""Rows of gate weights in all."""


def open_gates(contexts: Contexts, repeat_shares: Float32) -> Int32:
    """The rows of gate weights that are open for each context, int32 [n, GATES].

    `repeat_shares` float32 [users] are the stored ones; users without a row have none.
    """
    count = len(contexts)
    known = contexts.users < len(repeat_shares)
    shares = np.zeros(count, np.float32)
    shares[known] = repeat_shares[contexts.users[known]]
    gates = np.empty((count, GATES), np.int32)
    gates[:, 0] = _since(contexts.gaps, contexts.fresh)
    gates[:, 1] = np.searchsorted(_LENGTHS, (contexts.items >= 0).sum(axis=1))
    gates[:, 2] = np.searchsorted(_SHARES, shares)
    gates[:, 3] = np.searchsorted(_RUNS, _runs(contexts.items))
    gates[:, 4] = np.minimum(contexts.kinds[:, 0], _TYPES - 1)
    return np.asarray(gates + _STARTS, np.int32)


def _since(gaps: Float64, fresh: Int32) -> Int32:
    """0 to 5: time since the last click; 6: never clicked; 7 to 10: so many clicks in the same batch."""
    since = np.where(np.isnan(gaps), len(_GAPS) + 1, np.searchsorted(_GAPS, np.nan_to_num(gaps)))
    return np.where(fresh > 0, len(_GAPS) + 2 + np.searchsorted(_FRESH, fresh), since).astype(np.int32)


def _runs(items: Int32) -> Int32:
    """How often the last item stands at the front of its context, int32 [n]."""
    same = (items == items[:, :1]) & (items >= 0)
    return np.asarray(np.logical_and.accumulate(same, axis=1).sum(axis=1), np.int32)


@kernel
def add_rows(gates: Int32, rows: Float32, weights: Float32) -> None:
    """weights[b] += the rows of its open gates; weights float32 [B, W], rows float32 [VALUES, W]."""
    for b in range(gates.shape[0]):
        for g in range(gates.shape[1]):
            row = gates[b, g]
            for f in range(rows.shape[1]):
                weights[b, f] += rows[row, f]


@kernel
def descend(gates: Int32, gradients: Float32, weights: Float32, sums: Float32, rate: float, start: float) -> None:
    """AdaGrad, weight by weight and in place, for the open rows; `gradients` float32 [B, weights] click by click."""
    single_rate, single_start = np.float32(rate), np.float32(start)
    for b in range(gates.shape[0]):
        for g in range(gates.shape[1]):
            row = gates[b, g]
            for f in range(weights.shape[1]):
                slope = gradients[b, f]
                sums[row, f] += slope * slope
                weights[row, f] -= single_rate * slope / np.sqrt(single_start + sums[row, f])
