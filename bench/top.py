"""How long the best items of a large catalogue take to find, for one context and for many at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.common import median
from model import ranking
from model.batch import Batch
from model.config import LearnerConfig
from model.learner import Learner

TOP = 20
MANY = 256
USERS = 1000
LEARN_BATCH = 5000
SECOND_MS = 1000


def top_n(items: int, calls: int) -> dict[str, Any]:
    """Microseconds of processor time, medians of `calls`, over a learner whose `items` items were clicked once, by a
    thousand users.

    `batch_1`: `recommend`, from a user's id to ids and scores. `batch_256`: scores for as many contexts, and of each
    the best rows; `batch_256_score`: the scores alone.
    """
    learner = _learner(items)
    asked = ranking.requests(learner.state.readable(), np.arange(MANY, dtype=np.int32) % len(learner.users))
    many = median(
        [_microseconds(lambda: ranking.top(learner.state.readable(), asked, TOP)) for _ in range(max(calls // 10, 1))]
    )
    alone = median([_microseconds(lambda: ranking.score(learner.state.readable(), asked)) for _ in range(3)])
    users = learner.users.ids
    one = [_microseconds(partial(learner.recommend, user, TOP)) for user in (users * calls)[:calls]]
    return {
        "items": items,
        "top": TOP,
        "batch_1_microseconds": round(median(one)),
        "batch_256_microseconds": round(many),
        "batch_256_score_microseconds": round(alone),
        "batch_256_microseconds_per_context": round(many / MANY),
    }


def _learner(items: int) -> Learner:
    learner = Learner(LearnerConfig(score_share=0.0))
    order = np.random.default_rng(0).permutation(items)
    for start in range(0, items, LEARN_BATCH):
        rows = order[start : start + LEARN_BATCH].tolist()
        times = np.arange(start, start + len(rows), dtype=np.int64) * SECOND_MS
        learner.learn(Batch.of([f"user-{row % USERS}" for row in rows], [f"item-{row}" for row in rows], times))
    return learner


def _microseconds(call: Callable[[], Any]) -> float:
    since = time.process_time()
    call()
    return (time.process_time() - since) * 1e6
