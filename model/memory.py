"""The learner's memory of the stream, apart from its weights: copied out and put back, so that a batch job can go over
the same clicks several times, each time as if for the first time.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.batch import Float64, Int32, Int64
from model.kernels import NEVER
from model.state import State
from model.table import Array, Table

USER_MEMORY = ("clicks", "kinds")
ITEM_MEMORY = ("log_counts", "long_count", "short_count")


@dataclass(frozen=True, slots=True)
class Context:
    """A copy of histories, popularity counters and recent targets. Opaque: made by `Learner.context`."""

    users: dict[str, Array]
    items: dict[str, Array]
    totals: Float64
    rings: tuple[Int32, Int32]
    pushed: Int64
    norms: Float64


def recall(state: State) -> Context:
    """Copy the memory out."""
    return Context(
        {name: state.users[name].copy() for name in USER_MEMORY},
        {name: state.items[name].copy() for name in ITEM_MEMORY},
        state.totals.copy(),
        (state.ring.filled(0).copy(), state.ring.filled(1).copy()),
        state.ring.pushed.copy(),
        state.ring.norms.copy(),
    )


def restore(state: State, context: Context) -> None:
    """Put a copy back; rows added since remember nothing. Raises `ValueError` when it has more rows than the state."""
    for table, kept in ((state.users, context.users), (state.items, context.items)):
        rows = max(len(array) for array in kept.values())
        if rows > len(table):
            raise ValueError(f"the context has {rows} rows, the learner {len(table)}: it comes from another learner")
    forget(state)
    for table, kept in ((state.users, context.users), (state.items, context.items)):
        for name, array in kept.items():
            table[name][: len(array)] = array
    state.totals[:] = context.totals
    state.ring.pushed[:] = context.pushed
    state.ring.norms[:] = context.norms
    for which in range(2):
        state.ring.filled(which)[:] = context.rings[which]


def forget(state: State) -> None:
    """As if nothing had been clicked yet; ids and weights stay."""
    _blank(state.users, USER_MEMORY)
    _blank(state.items, ITEM_MEMORY)
    state.totals[:] = NEVER
    state.ring.pushed[:] = 0
    state.ring.norms[:] = 0.0


def _blank(table: Table, names: tuple[str, ...]) -> None:
    for name in names:
        table[name][:] = table.columns[name].fill
