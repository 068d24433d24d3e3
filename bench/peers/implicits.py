"""Matrix factorisation and item-item neighbours by the library `implicit`, refitted at each tenth of the stream.

Between two fits nothing changes: items newer than the fit, and those that it scores at zero, come last, by popularity.
`user` asks with the vector that the fit gave the user; `context` with one made on the spot from the context (for
item-item neighbours: their sum), which is how these models are led through a live stream.

FACTS has .0396 / .0188 / .0333 for ALS (deskdrop, complete_journey, online_retail), this gives .060 / .028 / .033: the
better of `user` and `context` counts here, and those are `context` on deskdrop and `user` on complete_journey. BPR and
item-item neighbours are near FACTS' figures but on deskdrop, where item-item has .066 for .0893; FACTS does not say
which similarity it took, nor what it gave for items newer than the fit.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from bench.peers.peer import Clicks, Question, beneath, library
from bench.peers.popularity import Popularity
from bench.peers.refits import Refits
from bench.peers.sessions import distinct
from model.batch import Float64, Int32

FACTORS = 64


class Implicit(ABC):
    """A model of `implicit` over the counts of all clicks so far."""

    def __init__(self) -> None:
        self.library = {name: library(f"implicit.{name}") for name in ("als", "bpr", "nearest_neighbours")}
        self._sparse = library("scipy.sparse")
        self._refits = Refits(0.1)
        self._popularity = Popularity(6.0)
        self._counts: Any = None
        self.model: Any = None

    @abstractmethod
    def made(self) -> Any:
        """A new model of the library."""

    @abstractmethod
    def known(self, question: Question, context: Int32) -> Float64 | None:
        """Scores of the items that the fit knows, or None; `context` has those of them that are in the question's."""

    def learn(self, clicks: Clicks) -> None:
        self._popularity.learn(clicks)
        if self._refits.due(clicks):
            users, items = self._refits.history()
            ones = np.ones(len(users), np.float32)
            self._counts = self._sparse.csr_matrix((ones, (users, items)), shape=(clicks.n_users, clicks.n_items))
            with warnings.catch_warnings(action="ignore"):  # of its own conversions, and of BLAS threads
                self.model = self.made()
                self.model.fit(self._counts, show_progress=False)

    def score(self, question: Question) -> Float64:
        popular = self._popularity.score(question)
        if self.model is None:
            return popular
        context = distinct(question.context[question.context < self._counts.shape[1]])
        scores = self.known(question, context)
        return beneath(scores, popular) if scores is not None else popular

    def row(self, context: Int32) -> Any:
        """The context as a user's row of counts."""
        ones, nowhere = np.ones(len(context), np.float32), np.zeros(len(context), np.int32)
        return self._sparse.csr_matrix((ones, (nowhere, context)), shape=(1, self._counts.shape[1]))


class Factors(Implicit):
    """Alternating least squares (`als`) or Bayesian personalised ranking (`bpr`) with the library's defaults."""

    def __init__(self, kind: str, *, by_context: bool) -> None:
        super().__init__()
        self._kind = kind
        self._by_context = by_context

    def made(self) -> Any:
        settings = {"factors": FACTORS, "num_threads": 1, "random_state": 0}
        if self._kind == "als":
            return self.library["als"].AlternatingLeastSquares(**settings)
        return self.library["bpr"].BayesianPersonalizedRanking(**settings)

    def known(self, question: Question, context: Int32) -> Float64 | None:
        vector = self._folded(context) if self._by_context else self._user(question.user)
        return None if vector is None else np.asarray(self.model.item_factors @ vector, np.float64)

    def _user(self, user: int) -> Any:
        return self.model.user_factors[user] if user < len(self.model.user_factors) else None

    def _folded(self, context: Int32) -> Any:
        """A user's vector from the context: ALS solves for it, BPR, which cannot, takes the mean of the items'."""
        if not len(context):
            return None
        if self._kind == "als":
            return self.model.recalculate_user(0, self.row(context))
        mean = self.model.item_factors[context].mean(axis=0)
        mean[-1] = 1.0  # BPR keeps the items' biases in the last column
        return mean


class ItemItem(Implicit):
    """The context's items' nearest neighbours, by cosine or by BM25, 100 each."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def made(self) -> Any:
        nearest = self.library["nearest_neighbours"]
        maker = nearest.CosineRecommender if self._kind == "cosine" else nearest.BM25Recommender
        return maker(K=100, num_threads=1)

    def known(self, question: Question, context: Int32) -> Float64 | None:
        if not len(context):
            return None
        return np.asarray((self.row(context) @ self.model.similarity).todense(), np.float64).ravel()
