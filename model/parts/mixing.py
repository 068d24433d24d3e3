"""The global weights: how much the embedding's score, popularity and repeats count, learned by natural-gradient steps.

F <- decay F + sum g g' per block; once enough clicks have gathered, w <- w - (F + ridge I)^-1 sum g. There is no step
size to choose. Serving reads a moving average.
"""

from __future__ import annotations

import numpy as np

from model.batch import Float32, Float64
from model.config import LearnerConfig

FIRST_SCALE = 0.3
"""The embedding's weight at the start: it must earn its say."""
FIRST_POPULARITY = 1.0
"""The yardstick's weight at the start: a softmax over log shares of popularity is that popularity itself, so a model
that has learned nothing yet ranks by it."""
AVERAGING = 0.9


class Mixing:
    """Global weights [scale | popularity P | repeats K], float64 [1 + P + K]. `served` is their moving average."""

    def __init__(self, config: LearnerConfig) -> None:
        size = 1 + len(config.half_lives_hours) + config.sequence_length
        self.counters = len(config.half_lives_hours)
        self.values = np.zeros(size)
        self.values[0] = FIRST_SCALE
        self.values[1 + config.baseline_half_life] = FIRST_POPULARITY
        self.served = self.values.copy()
        self.fisher = np.zeros((size, size))
        self.gradient = np.zeros(size)
        self.pending = np.zeros(1)

    def learn(self, gradients: Float64, config: LearnerConfig, rate: float) -> None:
        """Take in the gradients [B, weights] of a block; step when enough clicks have gathered, times `rate`."""
        self.fisher *= config.fisher_decay
        self.fisher += gradients.T @ gradients
        self.gradient += gradients.sum(axis=0)
        self.pending += len(gradients)
        if self.pending[0] >= config.weight_step_clicks:
            self._step(config.ridge, rate)

    def _step(self, ridge: float, rate: float) -> None:
        self.values -= rate * np.linalg.solve(self.fisher + ridge * np.eye(len(self.values)), self.gradient)
        self.served *= AVERAGING
        self.served += (1.0 - AVERAGING) * self.values
        self.gradient[:] = 0.0
        self.pending[:] = 0.0

    @staticmethod
    def split(weights: Float64, counters: int) -> tuple[float, Float32, Float32]:
        """Weights as (scale, popularity [P], repeats [K]), float32 for the kernels."""
        single = weights.astype(np.float32)
        return float(single[0]), single[1 : 1 + counters], single[1 + counters :]
