"""LightFM (lightfm-next), WARP loss: ten epochs over each batch by `fit_partial`.

On deskdrop .062, where FACTS has .0167: here the tables grow with the stream, and new users are given popularity.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.peers.peer import Clicks, Question, beneath, grown, library
from bench.peers.popularity import Popularity
from model.batch import Float64

FACTORS = 64
EPOCHS = 10
_ROWS = ("embeddings", "embedding_gradients", "embedding_momentum", "biases", "bias_gradients", "bias_momentum")


class LightFm:
    """`fit_partial` cannot grow, so the tables are grown between two calls as the library starts its own rows."""

    def __init__(self) -> None:
        self._sparse = library("scipy.sparse")
        self._model = library("lightfm").LightFM(no_components=FACTORS, loss="warp", random_state=0)
        self._random = np.random.default_rng(0)
        self._popularity = Popularity(6.0)

    def learn(self, clicks: Clicks) -> None:
        self._popularity.learn(clicks)
        if self._model.item_embeddings is not None:
            self._grow("user", clicks.n_users)
            self._grow("item", clicks.n_items)
            shape = (len(self._model.user_embeddings), len(self._model.item_embeddings))
        else:
            shape = (clicks.n_users, clicks.n_items)
        ones = np.ones(len(clicks.items), np.float32)
        counts = self._sparse.coo_matrix((ones, (clicks.users, clicks.items)), shape=shape)
        self._model.fit_partial(counts, epochs=EPOCHS, num_threads=1)

    def score(self, question: Question) -> Float64:
        popular, model = self._popularity.score(question), self._model
        if model.user_embeddings is None or question.user >= len(model.user_embeddings):
            return popular
        scores = model.item_embeddings @ model.user_embeddings[question.user] + model.item_biases
        return beneath(scores[: question.n_items].astype(np.float64), popular)

    def _grow(self, kind: str, rows: int) -> None:
        for name in _ROWS:
            place = f"{kind}_{name}"
            old = getattr(self._model, place)
            # AdaGrad's sums begin at one, as in the library.
            new: Any = grown(old, rows, 1.0 if name.endswith("gradients") else 0.0)
            if name == "embeddings":
                new[len(old) :] = (self._random.random((len(new) - len(old), FACTORS)) - 0.5) / FACTORS
            setattr(self._model, place, new)
