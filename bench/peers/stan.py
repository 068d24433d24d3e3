"""STAN, sequence and time aware neighbourhoods (Garg et al., SIGIR 2019).

`sharp` is with session-rec's decays; where a basket has no order, as in two of the streams, the `flat` one ranks
better, and better than FACTS' figure.
"""

from __future__ import annotations

import numpy as np

from bench.peers.neighbourhood import Neighbourhood
from bench.peers.peer import Question
from bench.peers.sessions import Neighbours
from model.batch import Float64, Int32

NEIGHBOURS = 100
POSITION_SCALE = 1.02


class Stan(Neighbourhood):
    """Similarity: the sum over shared items of exp(-place / 1.02), less with the neighbour's age and size.

    `age_days`: after so long a neighbour counts 1/e; `distance`: an item so many clicks from the shared one, too.
    """

    def __init__(self, age_days: float, distance: float, *, reminders: bool) -> None:
        super().__init__(reminders=reminders)
        self._age_seconds = age_days * 86_400.0
        self._distance = distance

    def similar(self, context: Int32, question: Question) -> Float64:
        weights = np.exp(-np.arange(len(context)) / POSITION_SCALE)
        found = self.sessions.neighbours(context, weights)
        age = np.exp(-(question.now - self.sessions.times[found.sessions]) / self._age_seconds)
        similarity = found.similarity * age / np.sqrt(len(context) * self.sessions.sizes[found.sessions])
        best = Neighbours(found.sessions, similarity, found.first).ordered().best(NEIGHBOURS)
        return self.sessions.spread(best, question.n_items, context[best.first], 1.0 / self._distance)
