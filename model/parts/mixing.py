"""The weights of the parts: how much each feature of a candidate counts, learned in the one loss.

A context's weights are the global row, plus a second global row on what a neighbour search changes where one was made,
plus a small row for each gate that is open. The two global rows are learned together by natural-gradient steps,
F <- decay F + sum g g' per block and, once enough clicks have gathered, w <- w - (F + ridge I)^-1 sum g: there is no
step size to choose. The rows of the gates are learned by AdaGrad. Serving reads moving averages of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.batch import Float32, Float64, Int32, Int64
from model.config import LearnerConfig
from model.kernels import kernel
from model.parts import gates, neighbours, own_items, transitions

FIRST_SCALE = 0.3
"""The embedding's weight at the start: it must earn its say."""
FIRST_POPULARITY = 1.0
"""The yardstick's weight at the start: a softmax over log shares of popularity is that popularity itself, so a model
that has learned nothing yet ranks by it."""
AVERAGING = 0.9
"""What is served keeps so much of itself at each step; less in the beginning, when there is little to average."""
GATE_AVERAGING = 0.97
FIRST_STEP = 50.0
"""Clicks before the first step of the global weights; before each further one so many more, up to the setting."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each feature stands, counting from 0. The weights of a context are [embedding's scale | features].

    By item: `popularity` P log shares, `age`. By context and item: `repeat` K indicators of its places in the context,
    `fresh` clicked in this very batch, `repeat_popularity`, `repeat_age`, `follows` one per lag, `follows_popularity`,
    `own` (see own_items), `near` (see neighbours).
    """

    counters: int
    length: int

    @property
    def age(self) -> int:
        return self.counters

    @property
    def by_item(self) -> int:
        """How many features depend on the item alone; they come first."""
        return self.counters + 1

    @property
    def repeat(self) -> int:
        return self.by_item

    @property
    def fresh(self) -> int:
        return self.repeat + self.length

    @property
    def follows(self) -> int:
        return self.fresh + 3

    @property
    def own(self) -> int:
        return self.follows + transitions.LAGS + 1

    @property
    def near(self) -> int:
        return self.own + own_items.FEATURES

    @property
    def features(self) -> int:
        return self.near + neighbours.FEATURES

    @property
    def searched(self) -> Int64:
        """Places in a context's weights that have a second global weight where a neighbour search was made."""
        changed = [*range(self.by_item), *range(self.follows, self.own)]
        return np.array(changed, np.int64) + 1

    def names(self) -> list[str]:
        """Names of a context's weights, in order."""
        return [
            "embedding",
            *(f"popularity_{place}" for place in range(self.counters)),
            "age",
            *(f"repeat_{place}" for place in range(self.length)),
            *("repeat_fresh", "repeat_popularity", "repeat_age"),
            *(f"follows_{lag}" for lag in range(transitions.LAGS)),
            "follows_popularity",
            *("own", "own_count", "own_recency", "own_return", "own_popularity", "own_now"),
            *("near_lift", "near_mass", "near_lift_mass"),
        ]


class Mixing:
    """`values` float64 [1 + features + searched]: the two global rows; `served`: their moving average. `gates`, with
    AdaGrad's `gate_sums` and their average `gates_served`: float32 [gate values, 1 + features].
    """

    def __init__(self, config: LearnerConfig) -> None:
        self.layout = Layout(len(config.half_lives_hours), config.sequence_length)
        width = 1 + self.layout.features
        size = width + len(self.layout.searched)
        self.values = np.zeros(size)
        self.values[0] = FIRST_SCALE
        self.values[1 + config.baseline_half_life] = FIRST_POPULARITY
        self.served = self.values.copy()
        self.fisher = np.zeros((size, size))
        self.gradient = np.zeros(size)
        self.pending = np.zeros(1)
        self.steps = np.zeros(1)
        self.gates = np.zeros((gates.VALUES, width), np.float32)
        self.gate_sums = np.zeros((gates.VALUES, width), np.float32)
        self.gates_served = np.zeros((gates.VALUES, width), np.float32)
        self._places = self.layout.searched

    def learn(self, found: Float32, opened: Int32, searched: Float32, config: LearnerConfig, rate: float) -> None:
        """Take in the gradients [B, 1 + features] of a block; global rows step when enough clicks have gathered."""
        rows = np.empty((len(found), len(self.values) + 1), np.float32)
        _side_by_side(found, self._places, searched, rows)
        _gather(rows.T @ rows, config.fisher_decay, self.fisher, self.gradient)
        self.pending += len(rows)
        gates.descend(opened, found, self.gates, self.gate_sums, rate * config.gate_rate, config.gate_start)
        if self.pending[0] >= min(config.weight_step_clicks, FIRST_STEP * (1.0 + self.steps[0])):
            self._step(config.ridge, rate)

    def _step(self, ridge: float, rate: float) -> None:
        self.values -= rate * np.linalg.solve(self.fisher + ridge * np.eye(len(self.values)), self.gradient)
        self.steps += 1
        _average(self.served, self.values, float(self.steps[0]), AVERAGING)
        _average(self.gates_served, self.gates, float(self.steps[0]), GATE_AVERAGING)
        self.gradient[:] = 0.0
        self.pending[:] = 0.0


def _average(served: npt.NDArray[Any], values: npt.NDArray[Any], steps: float, most: float) -> None:
    """Move an average on, in place: over what there was at first, with a horizon of 1 / (1 - most) steps later."""
    kept = min(most, steps / (steps + 4.0))
    served *= kept
    served += (1.0 - kept) * values


def context_weights(layout: Layout, values: Float64, rows: Float32, opened: Int32, searched: Float32) -> Float32:
    """The weights of each context, float32 [B, 1 + features]: `values` as in `Mixing`, `rows` of all gate values,
    `opened` int32 [B, GATES], `searched` float32 [B], 1 where there was a search.
    """
    width, single = 1 + layout.features, values.astype(np.float32)
    weights = np.empty((len(opened), width), np.float32)
    gates.sum_rows(opened, rows, single[:width], single[width:], layout.searched, searched, weights)
    return weights


@kernel
def _side_by_side(found: Float32, places: Int64, searched: Float32, rows: Float32) -> None:
    """rows[b] = [found[b] | searched[b] * found[b] at `places` | 1]: of rows' rows, the last adds up gradients."""
    width = found.shape[1]
    for b in range(found.shape[0]):
        rows[b, :width] = found[b]
        for a in range(places.shape[0]):
            rows[b, width + a] = searched[b] * found[b, places[a]]
        rows[b, width + places.shape[0]] = 1.0


@kernel
def _gather(products: Float32, decay: float, fisher: Float64, gradient: Float64) -> None:
    """Let fisher = decay * fisher + products, gradient += the last row of products [W + 1, W + 1]."""
    size = gradient.shape[0]
    for i in range(size):
        for j in range(size):
            fisher[i, j] = decay * fisher[i, j] + products[i, j]
        gradient[i] += products[size, i]
