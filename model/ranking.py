"""Reading the model: scores of the whole catalogue, a user's top items, and the reasons for one. Nothing is written.

The live learner and a serving view rank by the same functions, over the same columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model import candidates, kernels
from model.batch import Float32, Float64, Int32, Int64
from model.candidates import Found, Items, Seen
from model.evaluation import best_rows, rank_popular, rank_targets
from model.parts import gates, neighbours, transitions
from model.parts.history import Contexts, Histories, contexts
from model.parts.mixing import context_weights
from model.parts.neighbours import Near
from model.parts.popularity import log_shares, long_counter
from model.state import Readable

SCORES_PER_CHUNK = 4_000_000
"""Scores are held for so many cells at a time (float32: 16 MB)."""
BLOCK = 128


def popular_shares(read: Readable) -> Float32:
    """The baseline: every item's log share at one half-life, float32 [n]."""
    shares = np.empty(len(read.items), np.float32)
    log_shares(read.items["log_counts"], read.totals, read.config.baseline_half_life, shares)
    return shares


@dataclass(frozen=True, slots=True)
class Scored:
    """Contexts with all that their scores are made of: `scores` float32 [items, B]; `found`: the items that have
    features of the context; `weights` float32 [B, 1 + F]; `by_item` float32 [items, by item].
    """

    scores: Float32
    found: Found
    weights: Float32
    by_item: Float32


def score(read: Readable, asked: Contexts) -> Scored:
    """Score every item for each of a few contexts."""
    layout, now = read.layout, float(asked.times.mean())
    opened = gates.open_gates(asked, read.users["repeat_share"])
    weights = context_weights(layout, read.mixing, read.gates, opened, np.ones(len(asked), np.float32))
    h = embed(read, asked.items, asked.kinds)
    # This way round BLAS packs the few contexts, not the whole catalogue: three times as fast for a handful.
    scores: Float32 = read.items["vector"] @ (h * weights[:, :1]).T
    features = by_item(read, now)
    scores += features @ weights[:, 1 : 1 + layout.by_item].T
    found = walk(read, asked, now)
    candidates.add_features(found, weights, layout.by_item, scores)
    return Scored(scores, found, weights, features)


def embed(read: Readable, clicked: Int32, kinds: Int32) -> Float32:
    """Where users with these last clicks are in the items' space, float32 [B, d]; `clicked`, `kinds` int32 [B, K]."""
    h = np.empty((len(clicked), read.config.dim), np.float32)
    kernels.combine(clicked, kinds, read.positions, read.types["priority"], read.items["input"], h)
    return h


def by_item(read: Readable, now: float) -> Float32:
    """The features that depend on the item alone, float32 [items, by item]."""
    features = np.empty((len(read.items), read.layout.by_item), np.float32)
    candidates.features_by_item(read.items["log_counts"], read.totals, read.items["first_ms"], now, features)
    return features


def walk(read: Readable, asked: Contexts, now: float) -> Found:
    """All items that have features of these contexts."""
    config, count = read.config, len(asked)
    near = Near.empty(count)
    neighbours.search(
        asked.items,
        asked.stale,
        asked.users,
        read.neighbour_sessions(),
        np.zeros(config.sessions, np.float32),
        np.zeros(len(read.items), np.float32),
        neighbours.SIMILAR,
        near,
    )
    room = candidates.room_for_all(config.sequence_length, config.own_items, config.transitions, neighbours.FOUND)
    found = Found.empty(count, room, read.layout.features)
    candidates.walk(
        Seen(asked.items, asked.fresh, asked.users, asked.times),
        np.empty(0, np.int32),
        now,
        transitions.Transitions.of(read.items),
        read.own_items(),
        near,
        np.arange(count, dtype=np.int32),
        Items(
            read.items["log_counts"], read.totals, read.items["first_ms"], long_counter(read.config.half_lives_hours)
        ),
        np.full(len(read.items), -1, np.int32),
        found,
    )
    return found


def target_ranks(read: Readable, asked: Contexts, targets: Int32) -> tuple[Float64, Float64]:
    """Ranks of `targets` int32 [B] by the model and by popularity, float64 [B]; inf for items without a row."""
    ranks, popular_ranks = np.full(len(targets), np.inf), np.full(len(targets), np.inf)
    popular = popular_shares(read)
    for chunk in _chunks(np.flatnonzero(targets < len(read.items)), len(read.items)):
        scores = score(read, asked.take(chunk)).scores
        found, above, equal = np.empty(len(chunk)), np.empty(len(chunk), np.int32), np.empty(len(chunk), np.int32)
        rank_targets(scores, targets[chunk], above, equal, found)
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
    row = read.users.index.get(user_id)
    if row is None or read.users["clicks"][row, 0] < 0:
        rows, values = _best(popular_shares(read)[:, None], top_n)
    else:
        rows, values = top(read, requests(read, np.array([row], np.int32)), top_n)
    return [(read.items.ids[item], value) for item, value in zip(rows[0].tolist(), values[0].tolist(), strict=True)]


def top(read: Readable, asked: Contexts, count: int) -> tuple[Int32, Float32]:
    """The best `count` items of a few contexts, best first: rows and scores, int32 and float32 [B, <= count].

    Every item is scored. An index over the vectors would come in here: it proposes items by the embedding, beside those
    that have features of the context (`walk`) and the most popular ones, and only those are scored.
    """
    return _best(score(read, asked).scores, count)


def _best(scores: Float32, count: int) -> tuple[Int32, Float32]:
    shape = (scores.shape[1], min(count, len(scores)))
    rows, values = np.empty(shape, np.int32), np.empty(shape, np.float32)
    best_rows(scores, rows, values)
    return rows, values


def requests(read: Readable, users: Int32) -> Contexts:
    """The contexts of requests by distinct users' rows, int32 [B], made right after the newest click."""
    times = np.maximum(read.now_ms, read.users["last_ms"][users])
    none, who = np.zeros(len(users), np.int32), np.arange(len(users), dtype=np.int32)
    stored, length = Histories.of(read.users), read.config.sequence_length
    return contexts(who, users, none, none, times, stored, length, len(read.items))


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an item has its score. `parts`: what each part adds; they add up to `score`. `clicks`: of that, what the
    user's past clicks brought, by item id, largest first: those on the recent items, and those on this item itself
    however long ago.
    """

    score: float
    parts: dict[str, float]
    clicks: list[tuple[str, float]]


def explain_score(read: Readable, user_id: str, item_id: str) -> Explanation | None:
    """Take an item's score for a user apart; None for an unknown item, or a user without history."""
    user, item = read.users.index.get(user_id), read.items.index.get(item_id)
    if user is None or item is None or read.users["clicks"][user, 0] < 0:
        return None
    asked = requests(read, np.array([user], np.int32))
    scored, layout = score(read, asked), read.layout
    weights, out = scored.weights[0].astype(np.float64), read.items["vector"][item].astype(np.float64)
    features = np.zeros(layout.features)
    features[: layout.by_item] = scored.by_item[item]
    for place in np.flatnonzero(scored.found.items[0] == item):
        features[:] = scored.found.features[0, place]
    shares = weights[1:] * features
    places = np.flatnonzero(asked.items[0] >= 0)
    rows = asked.items[0, places]
    strength = read.positions[places] * read.types["priority"][asked.kinds[0, places]]
    pulls = weights[0] * strength * (read.items["input"][rows].astype(np.float64) @ out)
    parts = {
        "sequence": float(pulls.sum()),
        "popularity": float(shares[: layout.counters].sum()),
        "age": float(shares[layout.age]),
        "repeats": float(shares[layout.repeat : layout.follows].sum()),
        "transitions": float(shares[layout.follows : layout.own].sum()),
        "own items": float(shares[layout.own : layout.near].sum()),
        "neighbours": float(shares[layout.near :].sum()),
    }
    pulls += shares[layout.repeat + places]
    pulls[: transitions.LAGS] += shares[layout.follows : layout.follows + transitions.LAGS][: len(places)]
    if parts["own items"]:
        rows, pulls = np.append(rows, np.int32(item)), np.append(pulls, parts["own items"])
    return Explanation(sum(parts.values()), parts, _by_item(read.items.ids, rows, pulls))


def explain(read: Readable, user_id: str, item_id: str) -> list[tuple[str, float]]:
    """What the user's past clicks add to the item's score, by item, largest first; [] for an unknown user or item."""
    explanation = explain_score(read, user_id, item_id)
    return [] if explanation is None else explanation.clicks


def _by_item(ids: list[str], rows: Int32, pulls: Float64) -> list[tuple[str, float]]:
    sums: dict[str, float] = {}
    for row, pull in zip(rows.tolist(), pulls.tolist(), strict=True):
        sums[ids[row]] = sums.get(ids[row], 0.0) + pull
    return sorted(sums.items(), key=lambda pair: -pair[1])


def _chunks(rows: Int64, width: int) -> Iterator[Int64]:
    size = min(BLOCK, max(1, SCORES_PER_CHUNK // max(width, 1)))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
