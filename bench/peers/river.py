"""River's biased matrix factorisation, click by click: a click is a 1, an item drawn at random a 0.

FACTS has no quality for it, only its speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.peers.peer import Clicks, Question, grown, library
from bench.peers.popularity import Popularity
from model.batch import Float64

FACTORS = 32


class River:
    """`reco.BiasedMF` with SGD; its latents are copied into a matrix after each batch, so that all items are scored."""

    def __init__(self, step: float) -> None:
        optim = library("river.optim")
        self._model: Any = library("river.reco").BiasedMF(
            n_factors=FACTORS, bias_optimizer=optim.SGD(step), latent_optimizer=optim.SGD(step), seed=0
        )
        self._random = np.random.default_rng(0)
        self._vectors, self._biases = np.zeros((0, FACTORS)), np.zeros(0)
        self._popularity = Popularity(6.0)

    def learn(self, clicks: Clicks) -> None:
        self._popularity.learn(clicks)
        negatives = self._random.integers(clicks.n_items, size=len(clicks.items)).tolist()
        for user, item, other in zip(clicks.users.tolist(), clicks.items.tolist(), negatives, strict=True):
            self._model.learn_one(user, item, 1.0)
            self._model.learn_one(user, other, 0.0)
        self._vectors, self._biases = grown(self._vectors, clicks.n_items), grown(self._biases, clicks.n_items)
        for item in {*clicks.items.tolist(), *negatives}:
            self._vectors[item], self._biases[item] = self._model.i_latents[item], self._model.i_biases[item]

    def score(self, question: Question) -> Float64:
        if question.user not in self._model.u_latents:
            return self._popularity.score(question)
        vectors, biases = self._vectors[: question.n_items], self._biases[: question.n_items]
        return np.asarray(vectors @ self._model.u_latents[question.user] + biases, np.float64)
