"""What the three nearest-neighbour peers do alike: keep sessions, score, and fall back on the popularity of the day."""

from __future__ import annotations

from abc import ABC, abstractmethod

from bench.peers.peer import Clicks, Question, beneath
from bench.peers.popularity import Popularity
from bench.peers.sessions import Sessions, distinct
from model.batch import Float64, Int32


class Neighbourhood(ABC):
    """Items of similar sessions first, then all others by popularity.

    `reminders`: whether items of the context may be recommended again; without, they count as found by no neighbour.
    """

    def __init__(self, *, reminders: bool) -> None:
        self.sessions = Sessions()
        self._popularity = Popularity(24.0)
        self._reminders = reminders

    @abstractmethod
    def similar(self, context: Int32, question: Question) -> Float64:
        """Scores by the neighbours, float64 [n_items], 0 where none has the item; `context` distinct, newest first."""

    def learn(self, clicks: Clicks) -> None:
        self.sessions.learn(clicks)
        self._popularity.learn(clicks)

    def score(self, question: Question) -> Float64:
        popular = self._popularity.score(question)
        if not len(question.context):
            return popular
        context = distinct(question.context)
        scores = self.similar(context, question)
        if not self._reminders:
            scores[context] = 0.0
        return beneath(scores, popular)
