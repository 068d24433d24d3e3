"""Compiled arithmetic over one block of clicks: arrays in, results into arrays that the caller gave.

A kernel trusts its input: rows in range, C-contiguous arrays, the dtypes named here. Names used throughout: B clicks
in the block, d the dimension, K the sequence length, C own candidates, M shared negatives, P popularity counters, F
features of a candidate, of which the first P + 1 depend on the item alone, X = d + P + 2 columns of the extended rows
[vector | features by item | 1], so that one matrix product gives a logit.

numba keys its cache on disk by the file of a kernel, not by the files that it calls into: **a kernel may only call
kernels of its own file**, else an upgrade could run stale machine code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

from model.batch import Float32, Float64, Int32

F = TypeVar("F", bound=Callable[..., Any])
NEVER = -1e18
"""The log count of what was never counted: far below any floor, yet finite."""
FLOOR = -12.5
"""Log shares below this say nothing more."""
SKIPPED = 0.005
"""Own candidates whose gradient is smaller are not worth touching a row."""

_dispatchers: list[Any] = []


def kernel(function: F) -> F:
    """Compile without the GIL, cached on disk, IEEE arithmetic in the order as written (no fastmath)."""
    dispatcher = numba.njit(cache=True, nogil=True)(function)
    _dispatchers.append(dispatcher)
    return cast(F, dispatcher)


def summing(function: F) -> F:
    """A kernel whose sums may be added up in another order and with fused products, so that they run in vector
    registers: the same machine code gives the same bits, another type of processor may give others.
    """
    dispatcher = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})(function)
    _dispatchers.append(dispatcher)
    return cast(F, dispatcher)


def inlined(function: F) -> F:
    """A piece of a kernel, copied into each kernel of its file that calls it."""
    return cast(F, numba.njit(inline="always")(function))


def compiled() -> int:
    """How many kernels this process had to compile because the cache on disk did not have them."""
    return sum(sum(d.stats.cache_misses.values()) for d in _dispatchers if hasattr(d, "stats"))


def loaded() -> int:
    """How many kernels this process took from the cache on disk."""
    return sum(sum(d.stats.cache_hits.values()) for d in _dispatchers if hasattr(d, "stats"))


@summing
def _dot(left: Float32, a: int, right: Float32, b: int, size: int) -> np.float32:
    """left[a, :size] . right[b, :size]."""
    total = np.float32(0.0)
    for j in range(size):
        total += left[a, j] * right[b, j]
    return total


@kernel
def combine(
    clicked: Int32,
    kinds: Int32,
    positions: Float32,
    priorities: Float32,
    inputs: Float32,
    h: Float32,
) -> None:
    """Write h [B, d] = sum_k positions[k] * priorities[kind_k] * inputs[item_k]: where a user is in the items' space.

    `clicked`, `kinds` int32 [B, K], newest first, clicked -1 where there is none or it is masked: such holes are
    skipped, never the end.
    """
    for b in range(h.shape[0]):
        for j in range(h.shape[1]):
            h[b, j] = 0.0
        for k in range(clicked.shape[1]):
            item = clicked[b, k]
            if item >= 0:
                weight = positions[k] * priorities[kinds[b, k]]
                for j in range(h.shape[1]):
                    h[b, j] += weight * inputs[item, j]


@kernel
def extend(
    rows: Int32,
    vectors: Float32,
    log_counts: Float64,
    totals: Float64,
    first_ms: Float64,
    now: float,
    correction: Float32,
    out: Float32,
) -> None:
    """Write out [M, X] = [vector | features by item | -correction] of the items `rows` int32 [M].

    Features by item: log shares, counted from the floor, and the log age at `now` (ms).
    """
    d, counters = vectors.shape[1], totals.shape[0]
    for m in range(rows.shape[0]):
        row = rows[m]
        for j in range(d):
            out[m, j] = vectors[row, j]
        for p in range(counters):
            out[m, d + p] = max(log_counts[row, p] - totals[p], FLOOR) - FLOOR
        out[m, d + counters] = math.log1p(max(now - first_ms[row], 0.0) / 3_600_000.0)
        out[m, d + counters + 1] = -correction[m]


@summing
def _mixed(weights: Float32, features: Float32, b: int, c: int) -> np.float32:
    """weights[b, 1:] . features[b, c]."""
    total = np.float32(0.0)
    for f in range(features.shape[2]):
        total += weights[b, 1 + f] * features[b, c, f]
    return total


@kernel
def own_logits(
    own: Int32,
    columns: Int32,
    features: Float32,
    weights: Float32,
    hx: Float32,
    vectors: Float32,
    slots: Int32,
    logits: Float32,
    shared: Float32,
) -> None:
    """Write logits [B, C] of the own candidates, -inf where there is none, and complete those of the negatives.

    logit = hx[:d] . vector + weights[1:] . features, with `features` [B, C, F], `weights` [B, 1 + F]. What
    stands for a shared negative (`columns` [B, C] >= 0) adds its features of the context to shared [B, M] instead,
    where its logit is but for them. An own candidate is masked there: `slots` [items] is -1 or a negative's column.
    """
    for b in range(own.shape[0]):
        for c in range(own.shape[1]):
            item = own[b, c]
            if item < 0:
                logits[b, c:] = -np.inf
                break
            mixed = _mixed(weights, features, b, c)
            if columns[b, c] >= 0:
                logits[b, c] = -np.inf
                shared[b, columns[b, c]] += mixed
            else:
                logits[b, c] = _dot(hx, b, vectors, item, vectors.shape[1]) + mixed
                if slots[item] >= 0:
                    shared[b, slots[item]] = -np.inf


@kernel
def own_backward(
    own: Int32,
    columns: Int32,
    gradients: Float32,
    shared: Float32,
    features: Float32,
    vectors: Float32,
    h: Float32,
    known_items: int,
    dhx: Float32,
    dweights: Float32,
) -> None:
    """Add the own candidates to dhx [B, :d], and write dweights [B, 1 + F], the gradient of a context's weights.

    `gradients` [B, C] of own logits, `shared` [B, M] of the negatives'. On entry dhx holds what the negatives gave,
    their features by item included. A target new in this batch says nothing about the weights.
    """
    d, size = vectors.shape[1], features.shape[2]
    by_item = dhx.shape[1] - d - 1
    for b in range(own.shape[0]):
        dweights[b, :] = 0.0
        dweights[b, 1 : 1 + by_item] = dhx[b, d : d + by_item]
        for c in range(own.shape[1]):
            item = own[b, c]
            if item < 0:
                break
            slope = gradients[b, c] if columns[b, c] < 0 else shared[b, columns[b, c]]
            for f in range(size):
                dweights[b, 1 + f] += slope * features[b, c, f]
            if columns[b, c] < 0:
                for j in range(d):
                    dhx[b, j] += slope * vectors[item, j]
        dweights[b, 0] = _dot(h, b, dhx, b, d)
        if own[b, 0] >= known_items:
            dweights[b, :] = 0.0


@kernel
def priority_gradients(
    clicked: Int32,
    kinds: Int32,
    positions: Float32,
    priorities: Float32,
    inputs: Float32,
    dhx: Float32,
    scales: Float32,
    dpositions: Float64,
    dpriorities: Float64,
) -> None:
    """Add to dpositions [K] and dpriorities [types] the gradients through h of the block; `scales` [B] multiply h."""
    for b in range(clicked.shape[0]):
        for k in range(clicked.shape[1]):
            item = clicked[b, k]
            if item >= 0:
                along = scales[b] * _dot(inputs, item, dhx, b, inputs.shape[1])
                dpositions[k] += priorities[kinds[b, k]] * along
                dpriorities[kinds[b, k]] += positions[k] * along


@kernel
def _descend(
    rows: Float32,
    sums: Float32,
    row: int,
    gradient: Float32,
    b: int,
    weight: np.float32,
    square: np.float32,
    steps: Float32,
) -> None:
    """Row-wise AdaGrad: rows[row] -= step * weight * gradient[b], where `square` is the mean square of that gradient.

    `steps` = (learning rate, accumulator start, accumulator decay). The start keeps the first steps of a new row short.
    """
    sums[row] = steps[2] * sums[row] + square
    factor = np.float32(steps[0] / np.sqrt(steps[1] + sums[row]) * weight)
    for j in range(rows.shape[1]):
        rows[row, j] -= factor * gradient[b, j]


@kernel
def _mean_square(rows: Float32, b: int, size: int) -> np.float32:
    return np.float32(_dot(rows, b, rows, b, size) / size)


@kernel
def update_outputs(
    rows: Int32,
    drows: Float32,
    own: Int32,
    gradients: Float32,
    hx: Float32,
    vectors: Float32,
    vector_sums: Float32,
    steps: Float32,
) -> None:
    """Move the items' output vectors: each negative once with its summed gradient drows [M, X], then each own candidate
    of each click by gradients [B, C], in order. All gradients were taken before the first row moved.
    """
    d = vectors.shape[1]
    for m in range(rows.shape[0]):
        _descend(vectors, vector_sums, rows[m], drows, m, np.float32(1.0), _mean_square(drows, m, d), steps)
    for b in range(own.shape[0]):
        square = _mean_square(hx, b, d)
        for c in range(own.shape[1]):
            item, slope = own[b, c], gradients[b, c]
            if item < 0:
                break
            if abs(slope) < SKIPPED:
                continue
            _descend(vectors, vector_sums, item, hx, b, slope, slope * slope * square, steps)


@kernel
def update_inputs(
    clicked: Int32,
    kinds: Int32,
    positions: Float32,
    priorities: Float32,
    dhx: Float32,
    scales: Float32,
    inputs: Float32,
    input_sums: Float32,
    steps: Float32,
) -> None:
    """Move the context items' input vectors by scales[b] * dhx [B, :d], click by click."""
    for b in range(clicked.shape[0]):
        scale = scales[b]
        square = scale * scale * _mean_square(dhx, b, inputs.shape[1])
        for k in range(clicked.shape[1]):
            item = clicked[b, k]
            if item >= 0:
                weight = positions[k] * priorities[kinds[b, k]]
                _descend(inputs, input_sums, item, dhx, b, scale * weight, weight * weight * square, steps)
