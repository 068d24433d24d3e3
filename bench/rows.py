"""What a row of the tables costs in memory, by its columns and as the process grows."""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from bench.common import rss_bytes
from model.batch import Batch
from model.config import LearnerConfig
from model.learner import Learner, warm_up
from model.table import Columns
from model.view import ServingView

TOUCHED_BYTES = 5
"""Each row has a flag and a place in the list of rows that changed."""
FEW = 100
GROW_BATCH = 5000
HOUR_MS = 3_600_000


def computed(columns: Columns) -> int:
    """Bytes per row by the columns: without ids, and without the room kept to grow into."""
    widths = [max(column.width, 1) * np.dtype(column.dtype).itemsize for column in columns.columns.values()]
    return sum(widths) + TOUCHED_BYTES


def row_bytes(count: int) -> dict[str, dict[str, int]]:
    """Per kind of row: `columns`, and by how much a process of its own grew for each of `count` rows that were clicked
    once, ids, their index and a user's first chunk of own items included: `resident` as a learner alone, `served` as
    the live one, with its serving view. The shared ring of sessions is kept small.
    """
    learner = Learner(LearnerConfig())
    tables = {"user": learner.users, "item": learner.items}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        return {
            kind: {"columns": computed(table), **pool.submit(_resident, kind, count).result()}
            for kind, table in tables.items()
        }


def _resident(kind: str, count: int) -> dict[str, int]:
    config = LearnerConfig(score_share=0.0, sessions=1024, long_ring=1024)
    warm_up(config)
    learner = Learner(config)
    click(learner, kind, 0, FEW)
    view = ServingView()
    view.publish(learner)
    gc.collect()
    before = rss_bytes()
    for start in range(FEW, FEW + count, GROW_BATCH):
        click(learner, kind, start, min(start + GROW_BATCH, FEW + count))
    gc.collect()
    alone = rss_bytes()
    view.publish(learner)
    gc.collect()
    return {"resident": round((alone - before) / count), "served": round((rss_bytes() - before) / count)}


def click(learner: Learner, kind: str, start: int, stop: int) -> None:
    """New rows of one kind, one click each, by or on a few of the other."""
    new, few = [f"{row:012d}" for row in range(start, stop)], [f"{row % FEW:012d}" for row in range(start, stop)]
    users, items = (new, few) if kind == "user" else (few, new)
    learner.learn(Batch.of(users, items, np.arange(start, stop, dtype=np.int64) * HOUR_MS))
