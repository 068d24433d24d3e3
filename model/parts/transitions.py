"""Item-to-item transitions: what was clicked after what, in both directions, fading with time.

A click adds to the row of each of the user's last three items 1, .7 and .5, and half of that the way back. A row keeps
its strongest `width` neighbours, strongest first; weights halve every week. The feature of a neighbour with weight v in
a row that sums to V is ln(1 + 100 v / (V + 1)).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from model.batch import Float32, Float64, Int32
from model.kernels import NEVER, kernel
from model.table import Column, Table

LAGS = 3
SHARPNESS = 100.0
HALF_LIFE_MS = 7.0 * 24.0 * 3_600_000.0
_DECAY = math.log(2.0) / HALF_LIFE_MS


class Transitions(NamedTuple):
    """One row per item: `items` int32 [n, T] (-1 where free), `weights` float32 [n, T] in falling order, `totals`
    float32 [n] with what was pushed out, all as of `updated_ms` float64 [n].
    """

    items: Int32
    weights: Float32
    totals: Float32
    updated_ms: Float64

    @classmethod
    def of(cls, items: Table) -> Transitions:
        return cls(items["next_items"], items["next_weights"], items["next_total"], items["next_ms"])


def item_columns(width: int) -> dict[str, Column]:
    """See `Transitions`."""
    return {
        "next_items": Column(width, np.int32, -1, memory=True),
        "next_weights": Column(width, np.float32, memory=True),
        "next_total": Column(0, np.float32, memory=True),
        "next_ms": Column(0, np.float64, NEVER, memory=True),
    }


def feature(rows: Transitions, before: int, item: int, time: float, width: int) -> float:
    """How strongly `item` follows on `before`, read at `time` (ms) among the first `width`. For explanations."""
    fade = math.exp(-_DECAY * max(time - float(rows.updated_ms[before]), 0.0))
    for place in np.flatnonzero(rows.items[before, :width] == item):
        share = float(rows.weights[before, place]) * fade / (float(rows.totals[before]) * fade + 1.0)
        return math.log1p(SHARPNESS * share)
    return 0.0


def strengths(rows: Transitions, time: float) -> Float32:
    """The feature of every neighbour in every row, float32 [n, T], read at `time` (ms); 0 where there is none."""
    fade = np.exp(-_DECAY * np.maximum(time - rows.updated_ms, 0.0))
    shares = rows.weights * (fade / (rows.totals * fade + 1.0))[:, None]
    return np.asarray(np.log1p(SHARPNESS * shares) * (rows.items >= 0), np.float32)


@kernel
def count_in(items: Int32, before: Int32, times: Float64, rows: Transitions) -> None:
    """Count clicks [n] in, in order; `before` int32 [n, >= LAGS] are the user's last items, -1 where there is none."""
    for i in range(items.shape[0]):
        for lag in range(min(LAGS, before.shape[1])):
            if before[i, lag] >= 0 and before[i, lag] != items[i]:
                weight = np.float32(1.0 if lag == 0 else 0.7 if lag == 1 else 0.5)
                _add(rows, before[i, lag], items[i], weight, times[i])
                _add(rows, items[i], before[i, lag], np.float32(0.5) * weight, times[i])


@kernel
def _add(rows: Transitions, row: int, item: int, weight: np.float32, time: float) -> None:
    width = rows.items.shape[1]
    if time > rows.updated_ms[row]:
        fade = np.float32(math.exp(-_DECAY * (time - rows.updated_ms[row])))
        for place in range(width):
            if rows.items[row, place] < 0:
                break
            rows.weights[row, place] *= fade
        rows.totals[row] *= fade
        rows.updated_ms[row] = time
    rows.totals[row] += weight
    place = 0
    while place < width - 1 and rows.items[row, place] >= 0 and rows.items[row, place] != item:
        place += 1
    if rows.items[row, place] != item:
        rows.items[row, place] = item
        rows.weights[row, place] = np.float32(0.0)
    rows.weights[row, place] += weight
    while place > 0 and rows.weights[row, place] > rows.weights[row, place - 1]:
        _swap(rows, row, place)
        place -= 1


@kernel
def _swap(rows: Transitions, row: int, place: int) -> None:
    item, weight = rows.items[row, place], rows.weights[row, place]
    rows.items[row, place], rows.weights[row, place] = rows.items[row, place - 1], rows.weights[row, place - 1]
    rows.items[row, place - 1], rows.weights[row, place - 1] = item, weight
