"""Who gets a row when a table is nearly full: an id that was seen often enough, not whoever comes by once.

Up to half of a table's cap every new id gets its row. From there on an id must have been clicked
`admit_clicks` times, those of this batch included; earlier clicks are remembered by a sketch (`sketch.py`). A click
whose user or item is refused is withheld: it teaches nothing, and counts for nothing but their admission.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.batch import Batch, Coded, Int64
from model.limits import Limit
from model.resolve import distinct
from model.sketch import fingerprints
from model.state import REFUSED, State
from model.table import Table

Bools = npt.NDArray[np.bool_]


def sift(state: State, batch: Batch) -> Batch:
    """The clicks of a batch whose users and items have rows or may have them; refused ids are noted in the state."""
    columns = ((state.users, batch.users, state.limits.users), (state.items, batch.items, state.limits.items))
    if all(len(table) + len(column.values) <= limit.free for table, column, limit in columns):
        return batch
    found = [_Newcomers(table, column, limit, state, which) for which, (table, column, limit) in enumerate(columns)]
    passed = found[0].passed() & found[1].passed()
    for which, newcomers in enumerate(found):
        state.tally[which, REFUSED] += newcomers.note_refused(passed)
    return batch if passed.all() else batch.take(np.flatnonzero(passed))


class _Newcomers:
    """The distinct ids of one column of a batch that have no row, in the order of their first clicks."""

    def __init__(self, table: Table, column: Coded, limit: Limit, state: State, which: int) -> None:
        names, self._codes = distinct(column)
        self._fresh = np.flatnonzero(table.lookup(names) >= len(table))
        self._prints = fingerprints([names[place] for place in self._fresh.tolist()])
        self._clicks = np.bincount(self._codes, minlength=len(names))[self._fresh]
        self._sketch = state.sketches[which]
        seen = self._sketch.estimate(self._prints) + self._clicks
        admitted = seen >= state.config.admit_clicks
        admitted[: max(0, limit.free - len(table))] = True
        admitted &= np.cumsum(admitted) <= limit.rows - len(table)
        self._admitted = np.ones(len(names), np.bool_)
        self._admitted[self._fresh] = admitted

    def passed(self) -> Bools:
        """Whether each click's id has a row or may have one, bool [n]."""
        return self._admitted[self._codes]

    def note_refused(self, passed: Bools) -> int:
        """Note the newcomers of whom no click passed (bool [n], by both columns); how many there are is answered."""
        left: Int64 = np.bincount(self._codes[passed], minlength=len(self._admitted))[self._fresh]
        refused = left == 0
        self._sketch.add(self._prints[refused], self._clicks[refused])
        return int(refused.sum())
