"""The serving view: a second copy of what ranking reads, renewed between batches, safe to ask from other threads."""

from __future__ import annotations

import threading

import numpy as np

from model import ranking
from model.batch import Int32
from model.config import LearnerConfig
from model.learner import Learner
from model.state import Readable
from model.table import Column, Table

USER_COLUMNS = ("vector", "clicks", "kinds")
ITEM_COLUMNS = ("vector", "input", "bias", "log_counts")
TYPE_COLUMNS = ("priority",)


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
        touched_users, touched_items = learner.trainer.take_touched("users"), learner.trainer.take_touched("items")
        everything = self._read is None or learner.view is not self
        learner.view = self
        with self._lock:
            if self._read is None or everything:
                self._read = _empty(learner.config, learner)
                touched_users = np.arange(len(learner.users), dtype=np.int32)
                touched_items = np.arange(len(learner.items), dtype=np.int32)
            _take_over(self._read, learner, touched_users, touched_items)

    def recommend(self, user_id: str, top_n: int) -> list[tuple[str, float]]:
        """As `Learner.recommend`, on the state last published; [] before there is one."""
        with self._lock:
            return ranking.recommend(self._read, user_id, top_n) if self._read else []

    def explain(self, user_id: str, item_id: str) -> list[tuple[str, float]]:
        """As `Learner.explain`, on the state last published; [] before there is one."""
        with self._lock:
            return ranking.explain(self._read, user_id, item_id) if self._read else []


def _empty(config: LearnerConfig, learner: Learner) -> Readable:
    live = learner.state.readable()
    users, items, types = (
        Table(_only(table, names))
        for table, names in ((live.users, USER_COLUMNS), (live.items, ITEM_COLUMNS), (live.types, TYPE_COLUMNS))
    )
    return Readable(config, users, items, types, live.positions.copy(), live.mixing.copy(), live.totals.copy())


def _only(table: Table, names: tuple[str, ...]) -> dict[str, Column]:
    return {name: table.columns[name] for name in names}


def _take_over(read: Readable, learner: Learner, users: Int32, items: Int32) -> None:
    live = learner.state.readable()
    types = np.arange(len(live.types), dtype=np.int32)
    for mine, theirs, rows in (
        (read.users, live.users, users),
        (read.items, live.items, items),
        (read.types, live.types, types),
    ):
        mine.append(theirs.ids[len(mine) :], theirs.text(len(mine)))
        for name in mine.columns:
            mine[name][rows] = theirs[name][rows]
    read.positions[:] = live.positions
    read.mixing[:] = live.mixing
    read.totals[:] = live.totals
