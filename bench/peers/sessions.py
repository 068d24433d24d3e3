"""Past sessions, kept up click by click, and which of them have items in common with a context.

What VMIS-kNN, V-SKNN and STAN share. A session is a run of one user's clicks without a gap longer than half an hour;
it grows while it runs. Each item remembers its newest sessions only, as VMIS-kNN does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.peers.peer import Clicks, grown
from model.batch import Float64, Int32
from model.kernels import kernel

GAP_SECONDS = 1800.0
ITEM_SESSIONS = 500
"""How many of its newest sessions an item remembers."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """m sessions that share items with a context.

    `sessions` int32 [m]; `similarity` float64 [m]; `first` int32 [m]: the place in the context, 0 the newest, of
    the newest item that they share.
    """

    sessions: Int32
    similarity: Float64
    first: Int32

    def ordered(self) -> Neighbours:
        """Most similar first; among equals the order stays."""
        order = np.argsort(-self.similarity, kind="stable")
        return Neighbours(self.sessions[order], self.similarity[order], self.first[order])

    def best(self, count: int) -> Neighbours:
        return Neighbours(self.sessions[:count], self.similarity[:count], self.first[:count])


class Sessions:
    """Sessions as chains of clicks: each click on an item that is new to its session points to the one before.

    `times` float64 [sessions]: when each was last added to; `sizes` int32: its distinct items; `frequency` int32
    [items]: sessions that an item is in.
    """

    def __init__(self) -> None:
        self.count = 0
        self.times = np.empty(0)
        self.sizes, self.frequency = np.empty(0, np.int32), np.empty(0, np.int32)
        self._last, self._open = np.empty(0, np.int32), np.empty(0, np.int32)
        self._items, self._before = np.empty(0, np.int32), np.empty(0, np.int32)
        self._rings = np.empty((0, ITEM_SESSIONS), np.int32)
        self._clicks = 0

    def learn(self, clicks: Clicks) -> None:
        count = len(clicks.items)
        self._open = grown(self._open, clicks.n_users, -1)
        self.frequency, self._rings = grown(self.frequency, clicks.n_items), grown(self._rings, clicks.n_items)
        self.times, self.sizes = grown(self.times, self.count + count), grown(self.sizes, self.count + count)
        self._last = grown(self._last, self.count + count, -1)
        self._items, self._before = (grown(each, self._clicks + count) for each in (self._items, self._before))
        for user, item, now in zip(clicks.users.tolist(), clicks.items.tolist(), clicks.seconds.tolist(), strict=True):
            self._add(self._session(user, now), item, now)

    def _session(self, user: int, now: float) -> int:
        session = int(self._open[user])
        if session < 0 or now - self.times[session] > GAP_SECONDS:
            session = self._open[user] = self.count
            self.count += 1
        return session

    def _add(self, session: int, item: int, now: float) -> None:
        self.times[session] = now
        if _holds(session, item, self._last, self._items, self._before):
            return
        self._items[self._clicks], self._before[self._clicks] = item, self._last[session]
        self._last[session] = self._clicks
        self._clicks += 1
        self.sizes[session] += 1
        self._rings[item, self.frequency[item] % ITEM_SESSIONS] = session
        self.frequency[item] += 1

    def neighbours(self, context: Int32, weights: Float64, sample: int | None = None) -> Neighbours:
        """Sessions that share an item with `context` (distinct, newest first), most similar first, then the newest.

        Similarity is the sum of the shared items' `weights`. `sample`: only so many of the newest of them.
        """
        similarity, first = np.zeros(self.count), np.empty(self.count, np.int32)
        found = np.empty(len(context) * ITEM_SESSIONS, np.int32)
        sessions = found[: _overlap(context, weights, self._rings, self.frequency, similarity, first, found)]
        sessions = sessions[np.argsort(-self.times[sessions], kind="stable")][:sample]
        return Neighbours(sessions, similarity[sessions], first[sessions]).ordered()

    def spread(self, neighbours: Neighbours, n_items: int, anchors: Int32 | None = None, decay: float = 0.0) -> Float64:
        """Each item's sum of the similarities of the neighbours that it is in, float64 [n_items].

        With `anchors`, an item of each neighbour, others weigh exp(-decay x their distance from it in clicks).
        """
        scores = np.zeros(n_items)
        at = anchors if anchors is not None else np.full(len(neighbours.sessions), -1, np.int32)
        _spread(neighbours.sessions, neighbours.similarity, at, decay, self._last, self._items, self._before, scores)
        return scores


def distinct(context: Int32) -> Int32:
    """Each item once, at its newest place."""
    _, places = np.unique(context, return_index=True)
    return context[np.sort(places)]


@kernel
def _holds(session: int, item: int, last: Int32, items: Int32, before: Int32) -> bool:
    click = last[session]
    while click >= 0:
        if items[click] == item:
            return True
        click = before[click]
    return False


@kernel
def _overlap(
    context: Int32,
    weights: Float64,
    rings: Int32,
    frequency: Int32,
    similarity: Float64,
    first: Int32,
    found: Int32,
) -> int:
    """Sum weights into similarity [sessions], zeros before; `first`, and in `found` those above zero. How many."""
    count = 0
    for place in range(context.shape[0]):
        item = context[place]
        for slot in range(min(frequency[item], rings.shape[1])):
            session = rings[item, slot]
            if similarity[session] == 0.0:
                found[count] = session
                first[session] = place
                count += 1
            similarity[session] += weights[place]
    return count


@kernel
def _spread(
    sessions: Int32,
    similarity: Float64,
    anchors: Int32,
    decay: float,
    last: Int32,
    items: Int32,
    before: Int32,
    scores: Float64,
) -> None:
    for place in range(sessions.shape[0]):
        depth = anchor = 0
        click = last[sessions[place]]
        while click >= 0:
            if items[click] == anchors[place]:
                anchor = depth
            depth += 1
            click = before[click]
        depth, click = 0, last[sessions[place]]
        while click >= 0:
            scores[items[click]] += similarity[place] * np.exp(-decay * abs(depth - anchor))
            depth += 1
            click = before[click]
