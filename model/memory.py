"""The learner's memory of the stream, apart from its weights: copied out and put back, so that a batch job can go over
the same clicks several times, each time as if for the first time.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.batch import Float64, Int32, Int64
from model.kernels import NEVER
from model.state import State
from model.table import Array

_HANGING = ("chunks", "sessions")
"""Rows without ids: they go when the memory goes."""


@dataclass(frozen=True, slots=True)
class Context:
    """A copy of histories, popularity counters and recent targets. Opaque: made by `Learner.context`."""

    columns: dict[str, dict[str, Array]]
    totals: Float64
    now_ms: Float64
    begun: Int64
    rings: tuple[Int32, Int32]
    pushed: Int64
    norms: Float64


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
        state.ring.norms.copy(),
    )


def restore(state: State, context: Context) -> None:
    """Put a copy back; rows added since remember nothing. Raises `ValueError` when it has more rows than the state."""
    for name, kept in context.columns.items():
        count = max((len(array) for array in kept.values()), default=0)
        if name not in _HANGING and count > len(state.columns()[name]):
            raise ValueError(
                f"the context has {count} {name}, the learner {len(state.columns()[name])}: it is of another learner"
            )
    forget(state)
    for name, kept in context.columns.items():
        rows = state.columns()[name]
        if name in _HANGING:
            rows.extend(len(next(iter(kept.values()))))
        for column, array in kept.items():
            rows[column][: len(array)] = array
    state.totals[:] = context.totals
    state.now_ms[:] = context.now_ms
    state.sessions_begun[:] = context.begun
    state.ring.pushed[:] = context.pushed
    state.ring.norms[:] = context.norms
    for which in range(2):
        state.ring.filled(which)[:] = context.rings[which]


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
    state.ring.norms[:] = 0.0
