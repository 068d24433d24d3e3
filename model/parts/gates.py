"""Gates: what is known of a context as a whole decides which small rows of weights are added to the global ones.

Five gates, each open at one value: how long ago the last click was (or how many clicks of the same batch stand in the
context), how long the history is, how often this user comes back to items, how often the last item was repeated, and
the event type of the last click.
"""

from __future__ import annotations

import numpy as np

from model.batch import Float32, Float64, Int32, Int64
from model.kernels import kernel
from model.parts.history import Contexts

MINUTE_MS = 60_000.0
_GAPS = np.array([0.0, 1.0, 30.0, 1440.0, 10080.0]) * MINUTE_MS
_FRESH = np.array([1.0, 3.0, 6.0])
_LENGTHS = np.array([0.0, 1.0, 3.0, 9.0])
_SHARES = np.array([0.0, 0.02, 0.1, 0.3, 0.5])
_RUNS = np.array([0.0, 1.0, 2.0, 3.0])
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
    gates = np.empty((len(contexts), GATES), np.int32)
    _open(contexts.users, contexts.items, contexts.kinds, contexts.fresh, contexts.gaps, repeat_shares, gates)
    return gates


@kernel
def _open(
    users: Int32, items: Int32, kinds: Int32, fresh: Int32, gaps: Float64, repeat_shares: Float32, gates: Int32
) -> None:
    for b in range(gates.shape[0]):
        # 0 to 5: time since the last click; 6: never clicked; 7 to 10: so many clicks in the same batch.
        if fresh[b] > 0:
            gates[b, 0] = len(_GAPS) + 2 + _step(_FRESH, fresh[b])
        else:
            gates[b, 0] = len(_GAPS) + 1 if np.isnan(gaps[b]) else _step(_GAPS, gaps[b])
        held, run = 0, 0
        for k in range(items.shape[1]):
            held += int(items[b, k] >= 0)
            run += int(run == k and items[b, k] >= 0 and items[b, k] == items[b, 0])
        gates[b, 1] = _STARTS[1] + _step(_LENGTHS, held)
        share = float(repeat_shares[users[b]]) if users[b] < repeat_shares.shape[0] else 0.0
        gates[b, 2] = _STARTS[2] + _step(_SHARES, share)
        gates[b, 3] = _STARTS[3] + _step(_RUNS, run)
        gates[b, 4] = _STARTS[4] + min(kinds[b, 0], _TYPES - 1)


@kernel
def _step(edges: Float64, value: float) -> int:
    """How many of the ascending edges lie below a value."""
    count = 0
    while count < edges.shape[0] and edges[count] < value:
        count += 1
    return count


@kernel
def sum_rows(
    gates: Int32, rows: Float32, base: Float32, added: Float32, places: Int64, searched: Float32, weights: Float32
) -> None:
    """weights[b] = base + searched[b] * added (at `places`) + the rows of its open gates.

    `weights` float32 [B, W], `rows` float32 [VALUES, W], `base` float32 [W], `added` float32 [places].
    """
    for b in range(gates.shape[0]):
        weights[b, :] = base
        if searched[b] > 0.0:
            for a in range(places.shape[0]):
                weights[b, places[a]] += searched[b] * added[a]
        for g in range(gates.shape[1]):
            row = gates[b, g]
            for f in range(rows.shape[1]):
                weights[b, f] += rows[row, f]


@kernel
def descend(gates: Int32, gradients: Float32, weights: Float32, sums: Float32, rate: float, start: float) -> None:
    """AdaGrad, weight by weight and in place: sums take in each click's square, then the rows move by the block's
    summed gradients. `gradients` float32 [B, W] click by click, for the rows that `gates` opens.
    """
    totals, opened = np.zeros_like(weights), np.zeros(weights.shape[0], np.uint8)
    for b in range(gates.shape[0]):
        for g in range(gates.shape[1]):
            row = gates[b, g]
            opened[row] = 1
            for f in range(weights.shape[1]):
                totals[row, f] += gradients[b, f]
                sums[row, f] += gradients[b, f] * gradients[b, f]
    single_rate, single_start = np.float32(rate), np.float32(start)
    for row in range(weights.shape[0]):
        if opened[row]:
            for f in range(weights.shape[1]):
                weights[row, f] -= single_rate * totals[row, f] / np.sqrt(single_start + sums[row, f])
