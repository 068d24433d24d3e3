"""Reading the model: scores of the whole catalogue, a user's top items, and the reasons for one. Nothing is written.

The live learner and a serving view rank by the same functions, over the same columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model import kernels
from model.batch import Float32, Float64, Int32
from model.evaluation import rank_popular, rank_targets
from model.parts.mixing import Mixing
from model.parts.popularity import prior_scores
from model.parts.repeats import add_repeats
from model.state import Readable

SCORES_PER_CHUNK = 4_000_000
"""Scores are held for so many cells at a time (float32: 16 MB)."""


def priors(read: Readable) -> tuple[Float32, Float32]:
    """Of every item, float32 [n]: the score without a context, and the baseline's (log share at one half-life)."""
    _, weights, _ = Mixing.split(read.mixing, len(read.totals))
    prior = np.empty(len(read.items), np.float32)
    popular = np.empty(len(read.items), np.float32)
    prior_scores(
        read.items["log_counts"],
        read.totals,
        weights,
        read.items["bias"],
        read.config.baseline_half_life,
        prior,
        popular,
    )
    return prior, popular


def context_scores(read: Readable, clicked: Int32, kinds: Int32, users: Int32) -> Float32:
    """What the contexts [B, K] add to the priors, for every item: float32 [n, B]."""
    scale, _, repeats = Mixing.split(read.mixing, len(read.totals))
    h = np.empty((len(users), read.config.dim), np.float32)
    kernels.combine(
        clicked,
        kinds,
        users,
        read.positions,
        read.types["priority"],
        read.items["input"],
        read.users["vector"],
        len(read.users),
        h,
    )
    h *= np.float32(scale)
    # This way round BLAS packs the few contexts, not the whole catalogue: three times as fast for a handful.
    scores = read.items["vector"] @ h.T
    add_repeats(clicked, repeats, scores)
    return scores


def target_ranks(read: Readable, clicked: Int32, kinds: Int32, users: Int32, targets: Int32) -> tuple[Float64, Float64]:
    """Ranks of `targets` int32 [B] by the model and by popularity, float64 [B]; inf for items without a row."""
    ranks, popular_ranks = np.full(len(targets), np.inf), np.full(len(targets), np.inf)
    prior, popular = priors(read)
    for chunk in _chunks(np.flatnonzero(targets < len(read.items)), len(read.items)):
        scores = context_scores(read, clicked[chunk], kinds[chunk], users[chunk])
        found, above, equal = np.empty(len(chunk)), np.empty(len(chunk), np.int32), np.empty(len(chunk), np.int32)
        rank_targets(scores, prior, targets[chunk], above, equal, found)
        ranks[chunk] = found
        rank_popular(popular, targets[chunk], found)
        popular_ranks[chunk] = found
    return ranks, popular_ranks


def recommend(read: Readable, user_id: str, top_n: int) -> list[tuple[str, float]]:
    """The user's best items with scores in log-odds, best first; for a user without history the most popular ones.

    Raises `ValueError` when `top_n` is below 1.
    """
    if top_n < 1:
        raise ValueError(f"top_n={top_n}: ask for at least one item")
    if not len(read.items):
        return []
    scores = _user_scores(read, user_id)
    count = min(top_n, len(scores))
    best = np.argpartition(-scores, count - 1)[:count]
    best = best[np.lexsort((best, -scores[best]))]
    return [(read.items.ids[row], float(scores[row])) for row in best]


def explain(read: Readable, user_id: str, item_id: str) -> list[tuple[str, float]]:
    """How much each of the user's recent items adds to the item's score, largest first; [] for an unknown user or
    item.
    """
    user, item = read.users.index.get(user_id), read.items.index.get(item_id)
    if user is None or item is None:
        return []
    scale, _, repeats = Mixing.split(read.mixing, len(read.totals))
    clicked = read.users["clicks"][user]
    places = np.flatnonzero(clicked >= 0)
    rows = clicked[places]
    weights = scale * read.positions[places] * read.types["priority"][read.users["kinds"][user, places]]
    shares = weights * (read.items["input"][rows] @ read.items["vector"][item]) + repeats[places] * (rows == item)
    sums: dict[str, float] = {}
    for row, share in zip(rows.tolist(), shares.tolist(), strict=True):
        sums[read.items.ids[row]] = sums.get(read.items.ids[row], 0.0) + share
    return sorted(sums.items(), key=lambda pair: -pair[1])


def _user_scores(read: Readable, user_id: str) -> Float32:
    prior, popular = priors(read)
    row = read.users.index.get(user_id)
    if row is None or read.users["clicks"][row, 0] < 0:
        return popular
    clicked, kinds = read.users["clicks"][row : row + 1], read.users["kinds"][row : row + 1]
    scores: Float32 = context_scores(read, clicked, kinds, np.array([row], np.int32))[:, 0]
    scores += prior
    return scores


def _chunks(rows: np.ndarray[tuple[int], np.dtype[np.int64]], width: int) -> Iterator[np.ndarray]:
    size = max(1, SCORES_PER_CHUNK // max(width, 1))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
