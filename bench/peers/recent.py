"""The user's recent items, newest first, then what was popular in the last hour: hard to beat where people return."""

from __future__ import annotations

import numpy as np

from bench.peers.peer import FAR, Clicks, Question
from bench.peers.popularity import Popularity
from model.batch import Float64


class Recent:
    """The context's items before all others, those by popularity with a half-life of an hour."""

    def __init__(self, half_life_hours: float = 1.0) -> None:
        self._popularity = Popularity(half_life_hours)

    def learn(self, clicks: Clicks) -> None:
        self._popularity.learn(clicks)

    def score(self, question: Question) -> Float64:
        scores = self._popularity.score(question).copy()
        # From the oldest to the newest: an item that is there twice keeps its newest place.
        scores[question.context[::-1]] = FAR + np.arange(len(question.context))
        return scores
