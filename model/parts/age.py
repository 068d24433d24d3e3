"""Age: how long an item has been known, ln(1 + hours since it was first clicked)."""

from __future__ import annotations

import math

import numpy as np

from model.batch import Float64, Int32
from model.table import Column

HOUR_MS = 3_600_000.0


def item_columns() -> dict[str, Column]:
    """`first_ms`: the time of an item's first click; infinity before it is counted in."""
    return {"first_ms": Column(0, np.float64, np.inf, memory=True)}


def count_in(items: Int32, times: Float64, first_ms: Float64) -> None:
    """Note the first time of items that have none yet."""
    fresh = np.isinf(first_ms[items])
    np.minimum.at(first_ms, items[fresh], times[fresh])


def feature(first_ms: float, now: float) -> float:
    """ln(1 + hours) at `now` (ms); 0 for what is not counted in yet."""
    return math.log1p(max(now - first_ms, 0.0) / HOUR_MS)
