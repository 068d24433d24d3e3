"""V-SKNN, vector session-based nearest neighbours (Ludewig and Jannach, 2018), with session-rec's defaults.

The 1,000 newest sessions that share an item, the 100 most similar of them, weights 1 / position.
"""

from __future__ import annotations

import numpy as np

from bench.peers.neighbourhood import Neighbourhood
from bench.peers.peer import Question
from bench.peers.sessions import Neighbours
from model.batch import Float64, Int32

NEIGHBOURS = 100
SAMPLE = 1000


class Vsknn(Neighbourhood):
    """Similarity: the sum over shared items of 1 / position, 1 the newest; a neighbour weighs 1 / its first shared."""

    def similar(self, context: Int32, question: Question) -> Float64:
        weights = 1.0 / (np.arange(len(context)) + 1)
        found = self.sessions.neighbours(context, weights, SAMPLE).best(NEIGHBOURS)
        weighed = Neighbours(found.sessions, found.similarity / (found.first + 1), found.first)
        return self.sessions.spread(weighed, question.n_items)
