"""Has learning gone wrong? Weights that are not finite, or have run away, are found before anybody is shown them.

Asked after each batch, about the rows that the batch touched and the small arrays, so its cost follows the batch.
"""

from __future__ import annotations

import math

import numpy as np

from model.batch import Float32, Float64, Int32, Learned
from model.kernels import kernel
from model.learner import Learner

LOSS_MAX = 100.0
"""Mean nats per click. Guessing blindly among a billion items costs 21: more than 100 is no learning any more."""
WEIGHT_MAX = 1e6
"""In absolute value. A vector's values lie around 1; what is a million times that has run away."""
_VECTORS = ("vector", "input")
_ARRAYS = ("positions", "mixing", "mixing_served", "gates", "gates_served")


def ailment(model: Learner, learned: Learned) -> str | None:
    """What is wrong with the model after the batch that `learned` tells of; None when nothing is.

    Must be asked before the model is published to its view: that takes the note of what was touched.
    """
    if learned.clicks and (learned.loss > LOSS_MAX or math.isinf(learned.loss)):
        return f"the loss is {learned.loss:.3g} nats per click"
    arrays = model.state.arrays()
    for name in _ARRAYS:
        if (odd := _odd(np.ravel(arrays[name]))) is not None:
            return f"a weight in {name} is {odd:.3g}"
    if (odd := _odd(model.state.types["priority"])) is not None:
        return f"the priority of an event type is {odd:.3g}"
    rows = _touched(model)
    for name in _VECTORS:
        if (place := sick_row(model.items[name], rows, WEIGHT_MAX)) >= 0:
            return f"a weight in an item's {name} is {_odd(model.items[name][rows[place]]):.3g}"
    return None


def _touched(model: Learner) -> Int32:
    """The items that the batch may have changed: all of them after an eviction, which moves rows."""
    if model.view is None:
        return np.arange(len(model.items), dtype=np.int32)
    return model.items.learned.peek()


def _odd(values: Float64 | Float32) -> float | None:
    """The first value that is not a weight; a gate's row may hold any finite number."""
    bad = np.flatnonzero(~(np.abs(values) <= WEIGHT_MAX))
    return float(values[bad[0]]) if len(bad) else None


@kernel
def sick_row(values: Float32, rows: Int32, limit: float) -> int:
    """The first place in `rows` [n] whose row of `values` [m, w] has a value beyond +-limit, or NaN; -1: none."""
    for place in range(len(rows)):
        row = values[rows[place]]
        for value in row:
            if not abs(value) <= limit:
                return place
    return -1
