"""VMIS-kNN, the nearest-neighbour recommender of Serenade (Kersbergen et al., SIGMOD 2022).

With its parameters: the 500 newest sessions of each item, 100 neighbours, linear weights by position, items by idf.
With reminders the figures are those of FACTS. Without, FACTS has .0422 on deskdrop and .0347 on online_retail, which
is about what leaving out the last item alone gives (.035 and .034, at nearly the same HR@20). Here every item of the
context goes behind all that a neighbour has: .023, and .050 where nobody repeats within a basket.
"""

from __future__ import annotations

import numpy as np

from bench.peers.neighbourhood import Neighbourhood
from bench.peers.peer import Question
from bench.peers.sessions import Neighbours
from model.batch import Float64, Int32

NEIGHBOURS = 100


class Vmis(Neighbourhood):
    """Similarity: the sum over shared items of 1 - place / length; each neighbour weighs 1 - .1 (first shared + 1)."""

    def similar(self, context: Int32, question: Question) -> Float64:
        length = len(context)
        weights = (length - np.arange(length)) / length
        found = self.sessions.neighbours(context, weights).best(NEIGHBOURS)
        matched = np.maximum(1.0 - 0.1 * (found.first + 1), 0.0)
        weighed = Neighbours(found.sessions, found.similarity * matched, found.first)
        rarity = np.log(self.sessions.count / np.maximum(self.sessions.frequency[: question.n_items], 1))
        return np.asarray(self.sessions.spread(weighed, question.n_items) * rarity, np.float64)
