"""Embeddings: vectors of items, as candidate and as context, and the priorities that weigh a context.

A user's embedding is where the last clicks are (`kernels.combine`). A learned vector of each user's own beside it
ranked worse (docs/model.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.batch import Float32, Float64
from model.config import LearnerConfig
from model.kernels import kernel
from model.table import Column

SPREAD = 0.1
"""Standard deviation of a new item's vector elements."""
POSITION_DECAY = 0.9
"""Position priorities start at .9^k."""
OTHER_TYPE = ""
"""The row of event types that have none of their own: unknown at serving, or past the limit."""


def item_columns(dim: int) -> dict[str, Column]:
    """`vector` as candidate, `input` in a context, and AdaGrad's sum of squares for each."""
    return {
        "vector": Column(dim, np.float32),
        "vector_sum": Column(0, np.float32),
        "input": Column(dim, np.float32),
        "input_sum": Column(0, np.float32),
    }


def type_columns() -> dict[str, Column]:
    """`priority` as learned, AdaGrad's sum of squares, and `start`: the configured value, by which targets count."""
    return {"priority": Column(0, np.float32), "priority_sum": Column(0, np.float32), "start": Column(0, np.float32)}


def first_vectors(start: int, stop: int, dim: int, seed: int) -> Float32:
    """First vectors of the items that came as number `start` to `stop`, float32: they depend on that and the seed only,
    not on who came with whom.
    """
    cells = np.arange(start * dim, stop * dim, dtype=np.uint64) + np.uint64(seed % 2**32 << 32)
    uniform = (_scrambled(cells) >> np.uint64(40)).astype(np.float64) / 2.0**24 - 0.5
    return np.asarray(uniform * (SPREAD * 12.0**0.5), np.float32).reshape(stop - start, dim)


def _scrambled(cells: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function: consecutive numbers in, independent-looking ones out."""
    mixed = cells * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def first_positions(length: int) -> Float32:
    return np.asarray(POSITION_DECAY ** np.arange(length), np.float32)


def first_priority(event_type: str, config: LearnerConfig) -> float:
    """Where a type's priority starts, by the config, case ignored."""
    configured = {name.casefold(): value for name, value in config.type_priorities.items()}
    return configured.get(event_type.casefold(), config.default_type_priority)


@kernel
def descend(values: Float32, sums: Float32, gradient: Float64, rate: float, start: float, decay: float) -> None:
    """AdaGrad, element by element and in place, for the few priorities; `gradient` float64 [n] is a block's sum."""
    for place in range(values.shape[0]):
        slope = gradient[place]
        sums[place] = decay * sums[place] + slope * slope
        values[place] -= rate * slope / np.sqrt(start + sums[place])
