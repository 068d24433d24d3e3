"""The serving view: a second copy of what ranking reads, renewed between batches, safe to ask from other threads."""

from __future__ import annotations

import threading

import numpy as np

from model import ranking
from model.batch import Int32
from model.learner import Learner
from model.state import Readable
from model.table import Column, Columns, Table

READ = {
    "users": ("clicks", "kinds", "pauses", "last_ms", "own_head", "repeat_share", "session"),
    "items": (
        *("vector", "input", "log_counts", "first_ms", "returns", "clicks"),
        *("next_items", "next_weights", "next_total", "next_ms", "recent_sessions", "session_count"),
    ),
    "types": ("priority",),
    "chunks": ("items", "counts", "minutes", "links"),
    "sessions": ("members", "sizes", "numbers"),
}
"""The columns that ranking reads."""


class ServingView:
    """Answers for a learner without ever showing half a batch.

    `publish` is called by the learner's thread between batches; the other methods by any thread. A learner feeds one
    view: publishing it to a second one makes that one copy everything, and the first one everything again when it is
    back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: Readable | None = None

    def publish(self, learner: Learner) -> None:
        """Take over what the learner changed since the last call: copies the rows touched, under the lock."""
        live = learner.state.columns()
        touched = {name: (rows.learned.take(), rows.remembered.take()) for name, rows in live.items()}
        everything = self._read is None or learner.view is not self
        learner.view = self
        with self._lock:
            if self._read is None or everything:
                self._read = _emptied(self._read, learner)
                whole = {name: np.arange(len(rows), dtype=np.int32) for name, rows in live.items()}
                touched = {name: (rows, rows) for name, rows in whole.items()}
            _take_over(self._read, learner, touched)

    def recommend(self, user_id: str, top_n: int) -> list[tuple[str, float]]:
        """As `Learner.recommend`, on the state last published; [] before there is one."""
        with self._lock:
            return ranking.recommend(self._read, user_id, top_n) if self._read else []

    def explain(self, user_id: str, item_id: str) -> list[tuple[str, float]]:
        """As `Learner.explain`, on the state last published; [] before there is one."""
        with self._lock:
            return ranking.explain(self._read, user_id, item_id) if self._read else []


class NoView:
    """In the place of a `ServingView` where nobody asks: it has no copy, and answers nothing.

    It takes the note of what was touched all the same, or each batch would find that of all the batches before it.
    """

    def publish(self, learner: Learner) -> None:
        """Take over nothing."""
        for rows in learner.state.columns().values():
            rows.learned.take()
            rows.remembered.take()
        learner.view = self

    def recommend(self, _user_id: str, _top_n: int) -> list[tuple[str, float]]:
        return []

    def explain(self, _user_id: str, _item_id: str) -> list[tuple[str, float]]:
        return []


def _emptied(read: Readable | None, learner: Learner) -> Readable:
    """A copy without rows; in the memory of the last one, where that was of the same config."""
    if read is not None and read.config == learner.config:
        for rows in (read.users, read.items, read.types):
            rows.clear()
        for hanging in (read.chunks, read.sessions):
            hanging.resize(0)
        return read
    live = learner.state.readable()
    return Readable(
        learner.config,
        Table(_only(live.users, "users")),
        Table(_only(live.items, "items")),
        Table(_only(live.types, "types")),
        Columns(_only(live.chunks, "chunks")),
        Columns(_only(live.sessions, "sessions")),
        *(np.copy(array) for array in _small(live)),
    )


def _only(rows: Columns, name: str) -> dict[str, Column]:
    return {column: rows.columns[column] for column in READ[name]}


def _small(read: Readable) -> tuple[np.ndarray, ...]:
    """The arrays of fixed size, in the order of `Readable`'s fields."""
    return (read.begun, read.positions, read.mixing, read.gates, read.totals, read.now_ms)


def _take_over(read: Readable, learner: Learner, touched: dict[str, tuple[Int32, Int32]]) -> None:
    live = learner.state.readable()
    types = np.arange(len(live.types), dtype=np.int32)
    touched["types"] = (types, types)
    for name in READ:
        mine, theirs = getattr(read, name), getattr(live, name)
        if isinstance(mine, Table):
            mine.append(theirs.ids[len(mine) :], theirs.text(len(mine)))
        else:
            mine.resize(len(theirs))
        # Some may have been given back since.
        learned, remembered = (rows[rows < len(theirs)] for rows in touched[name])
        for column, kind in mine.columns.items():
            rows = remembered if kind.memory else learned
            mine[column][rows] = theirs[column][rows]
    for mine, theirs in zip(_small(read), _small(live), strict=True):
        mine[...] = theirs
