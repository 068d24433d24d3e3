"""The learner's memory of the stream, apart from its weights: copied out and put back, so that a batch job can go over
the same clicks several times, each time as if for the first time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model import compact
from model.batch import Float64, Int32, Int64
from model.kernels import NEVER
from model.state import EVICTED, LIMITED, State
from model.table import Array

_HANGING = ("chunks", "sessions")
"""Rows without ids: they go when the memory goes."""


@dataclass(frozen=True, slots=True)
class Context:
    """A copy of histories, popularity counters and recent targets. Opaque: made by `Learner.context`.

    `ids`: of users and items, by row. `evicted`: rows that had been evicted by then.
    """

    columns: dict[str, dict[str, Array]]
    totals: Float64
    now_ms: Float64
    begun: Int64
    rings: tuple[Int32, Int32]
    pushed: Int64
    seen: Int64
    norms: Float64
    ids: dict[str, list[str]]
    evicted: int


def recall(state: State) -> Context:
    """Copy the memory out."""
    return Context(
        {
            name: {column: array.copy() for column, array in rows.memory().items()}
            for name, rows in state.columns().items()
        },
        state.totals.copy(),
        state.now_ms.copy(),
        state.sessions_begun.copy(),
        (state.ring.filled(0).copy(), state.ring.filled(1).copy()),
        state.ring.pushed.copy(),
        state.ring.seen.copy(),
        state.ring.norms.copy(),
        {name: state.tables()[name].ids.copy() for name in LIMITED},
        _evicted(state),
    )


def restore(state: State, context: Context) -> None:
    """Put a copy back; rows added since remember nothing, what was evicted since is left out.

    Raises `ValueError` when it has more rows than the state, though nothing was evicted.
    """
    moved = _evicted(state) != context.evicted
    numbers = {name: _numbers(state, context, name) for name in LIMITED} if moved else {}
    for name, kept in context.columns.items():
        count = max((len(array) for array in kept.values()), default=0)
        if name not in _HANGING and name not in numbers and count > len(state.columns()[name]):
            raise ValueError(
                f"the context has {count} {name}, the learner {len(state.columns()[name])}: it is of another learner"
            )
    forget(state)
    for name, kept in context.columns.items():
        rows = state.columns()[name]
        if name in _HANGING:
            rows.extend(len(next(iter(kept.values()))))
        for column, array in kept.items():
            if name in numbers:
                there = numbers[name] >= 0
                rows[column][numbers[name][there]] = array[there]
            else:
                rows[column][: len(array)] = array
    state.totals[:] = context.totals
    state.now_ms[:] = context.now_ms
    state.sessions_begun[:] = context.begun
    state.ring.pushed[:] = context.pushed
    state.ring.seen[:] = context.seen
    state.ring.norms[:] = context.norms
    for which in range(2):
        state.ring.filled(which)[:] = context.rings[which]
    if moved:
        compact.renumber(state, numbers["items"])


def forget(state: State) -> None:
    """As if nothing had been clicked yet; ids and weights stay."""
    for name, rows in state.columns().items():
        if name in _HANGING:
            rows.resize(0)
        for column, array in rows.memory().items():
            array[:] = rows.columns[column].fill
    state.totals[:] = NEVER
    state.now_ms[:] = NEVER
    state.sessions_begun[:] = 0
    state.ring.pushed[:] = 0
    state.ring.seen[:] = 0
    state.ring.norms[:] = 0.0


def _evicted(state: State) -> int:
    return int(state.tally[:, EVICTED].sum())


def _numbers(state: State, context: Context, name: str) -> Int32:
    """Where the rows of a context are now, int32, -1 for those that are gone."""
    index = state.tables()[name].index
    return np.array([index.get(value, -1) for value in context.ids[name]], np.int32)
