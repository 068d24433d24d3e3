"""Popularity that fades: every click counts half after each half-life."""

from __future__ import annotations

import numpy as np

from bench.peers.peer import Clicks, Question, grown
from model.batch import Float64

HOUR = 3600.0
HALF_LIVES_HOURS = (1.0, 6.0, 24.0, 168.0, 720.0, 8760.0)


class Popularity:
    """Items by decayed count, kept as log2 of the sum of 2^(time / half-life): never underflows, and needs no decay."""

    def __init__(self, half_life_hours: float) -> None:
        self._half_life = half_life_hours * HOUR
        self._logs = np.empty(0)

    def learn(self, clicks: Clicks) -> None:
        self._logs = grown(self._logs, clicks.n_items, -np.inf)
        np.logaddexp2.at(self._logs, clicks.items, clicks.seconds / self._half_life)

    def score(self, question: Question) -> Float64:
        return self._logs[: question.n_items]
