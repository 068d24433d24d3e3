"""How fast two well-known libraries learn the same clicks: gensim's CBOW, and implicit's BPR. One thread each.

Both are given everything prepared: sentences and vocabulary, the matrix of counts. What is timed is training alone,
over the whole stream at once, which is kinder to them than batch after batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from bench.peers.peer import library
from bench.streams import Stream

DIM = 64
BPR_ITERATIONS = 10

Trained = Callable[[], int]
"""Trains once and answers how many words, or triples, that were."""


def cbow(stream: Stream) -> Trained:
    """gensim, window 5, 5 negatives; a user's items are a sentence, and no word is left out for being frequent.

    Raises `NotInstalled`.
    """
    made = library("gensim.models").Word2Vec
    sentences: dict[str, list[str]] = {}
    for user, item in zip(stream.users, stream.items, strict=True):
        sentences.setdefault(user, []).append(item)
    texts = list(sentences.values())
    model = made(vector_size=DIM, window=5, negative=5, sg=0, min_count=1, workers=1, seed=0, sample=0)
    model.build_vocab(texts)

    def train() -> int:
        model.train(texts, total_examples=len(texts), epochs=1)
        return len(stream)

    return train


def bpr(stream: Stream) -> Trained:
    """implicit, one triple per pair of user and item in each of a few iterations. Raises `NotInstalled`."""
    module, sparse = library("implicit.bpr"), library("scipy.sparse")
    counts = sparse.csr_matrix((np.ones(len(stream), np.float32), (stream.user_rows, stream.item_rows)))

    def train() -> int:
        model = module.BayesianPersonalizedRanking(
            factors=DIM, iterations=BPR_ITERATIONS, num_threads=1, random_state=0
        )
        with warnings.catch_warnings(action="ignore"):  # of its own conversions, and of BLAS threads
            model.fit(counts, show_progress=False)
        return BPR_ITERATIONS * int(counts.nnz)

    return train
