"""Neighbour sessions: what else was clicked in the sessions that share items with this context, as lift over chance.

A session ends at a pause or when it is full (24 distinct items). Sessions lie in a ring; each item knows the last ones
that it was in. For the distinct items of a context, newest first (q = 0, 1, ...), each session of an item gathers
.97^q idf^2, with idf = ln(1 + sessions / (sessions with the item + 1)), and .3 times that for items before a pause.
Of the most similar sessions, p_i is the share of similarity that lies in sessions with item i (Jannach and Ludewig's
session kNN). What ranks is not p but how far it lies above the item's popularity share: ln(1 + .03 p / (share + 1e-5)).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from model.batch import Float32, Float64, Int32, Int64, UInt8
from model.kernels import kernel
from model.table import Column, Columns, Table

MEMBERS = 24
FEATURES = 3
FOUND = 60
"""Items that a search answers,"""
LEADING = 5
"""the first of them strongest first."""
SIMILAR = 200
"""Sessions that a search looks into at serving, or as many more as share the last step of similarity;"""
SIMILAR_TRAINED = 80
"""in training fewer do: most of a search's time goes into them, and the weights come out the same."""
STEPS = 256
POSITION_DECAY = 0.97
STALE = 0.3
LIFT = 0.03
RARE = 1e-5
_WRAP = 0x7FFFFFFF
_PAUSE_MS = 1_800_000.0


class Sessions(NamedTuple):
    """`members` int32 [ring, 24], -1 where free; `sizes`, `numbers` int32 [ring]: how many, and which session.
    `of_user` int32 [users]: the number of a user's session, -1 for none. `recent` int32 [items, R]: numbers of the last
    sessions with an item, as a ring; `counts` int32 [items]: how many there ever were. `begun` int64 [1]: sessions so
    far. Numbers count modulo 2^31; the slot of a session is its number modulo `ring`, a power of two.
    """

    members: Int32
    sizes: Int32
    numbers: Int32
    of_user: Int32
    recent: Int32
    counts: Int32
    begun: Int64
    ring: int

    @classmethod
    def of(cls, kept: Columns, users: Table, items: Table, begun: Int64, ring: int) -> Sessions:
        return cls(
            kept["members"],
            kept["sizes"],
            kept["numbers"],
            users["session"],
            items["recent_sessions"],
            items["session_count"],
            begun,
            ring,
        )


class Near(NamedTuple):
    """What searches found: `items` int32 [B, FOUND], the LEADING first ones strongest first, -1 where none; `shares`
    float32 [B, FOUND] their p; `mass` float32 [B] = ln(1 + similarity in all).
    """

    @classmethod
    def empty(cls, count: int) -> Near:
        """Room for `count` searches."""
        return cls(
            np.empty((count, FOUND), np.int32), np.empty((count, FOUND), np.float32), np.empty(count, np.float32)
        )

    items: Int32
    shares: Float32
    mass: Float32


def user_columns() -> dict[str, Column]:
    return {"session": Column(0, np.int32, -1, memory=True)}


def item_columns(width: int) -> dict[str, Column]:
    return {
        "recent_sessions": Column(width, np.int32, -1, memory=True),
        "session_count": Column(0, np.int32, memory=True),
    }


def ring_columns() -> dict[str, Column]:
    return {
        "members": Column(MEMBERS, np.int32, -1, memory=True),
        "sizes": Column(0, np.int32, memory=True),
        "numbers": Column(0, np.int32, -1, memory=True),
    }


def features(share: float, mass: float, log_share: float) -> list[float]:
    """(lift, mass, lift times mass) of an item with p = `share` and the log of its popularity share."""
    lift = math.log1p(LIFT * share / (math.exp(log_share) + RARE)) if share > 0.0 else 0.0
    return [lift, mass if share > 0.0 else 0.0, lift * mass]


def count_in(
    who: Int32, users: Int32, items: Int32, times: Float64, last_ms: Float64, kept: Columns, sessions: Sessions
) -> Int32:
    """Put each click of a batch into its user's session, in order; the slots that changed are answered, int32.

    `who` int32 [n] numbers the users, from 0. `kept` has room for the batch (`make_room`) and is cut to what
    is in use. `last_ms` float64 [users] as before the batch.
    """
    touched = np.empty(len(users), np.int32)
    count = _count_in(who, users, items, times, last_ms, sessions, touched)
    kept.resize(min(int(sessions.begun[0]), sessions.ring))
    return touched[:count]


def make_room(kept: Columns, clicks: int, ring: int) -> None:
    """Let `kept` have slots for as many new sessions as there are clicks, and no more than the ring."""
    kept.extend(min(clicks, ring - len(kept)))


@kernel
def _join(sessions: Sessions, user: int, item: int, pause: float) -> int:
    """Put an item into the user's session, or a new one where the last click was `pause` ms ago; the slot is answered,
    or -1 when nothing changed.
    """
    number, ring = sessions.of_user[user], sessions.ring
    slot = number & (ring - 1)
    alive = number >= 0 and pause <= _PAUSE_MS and slot < sessions.numbers.shape[0] and sessions.numbers[slot] == number
    alive = alive and sessions.sizes[slot] < MEMBERS
    if alive:
        for place in range(sessions.sizes[slot]):
            if sessions.members[slot, place] == item:
                return -1
    else:
        number = np.int32(sessions.begun[0] & _WRAP)
        sessions.begun[0] += 1
        slot = number & (ring - 1)
        sessions.numbers[slot] = number
        sessions.sizes[slot] = 0
        sessions.members[slot, :] = -1
        sessions.of_user[user] = number
    sessions.members[slot, sessions.sizes[slot]] = item
    sessions.sizes[slot] += 1
    sessions.recent[item, sessions.counts[item] % sessions.recent.shape[1]] = number
    sessions.counts[item] += 1
    return int(slot)


@kernel
def _count_in(
    who: Int32, users: Int32, items: Int32, times: Float64, last_ms: Float64, sessions: Sessions, touched: Int32
) -> int:
    """Put each click into its user's session, in order; the slots that changed go to `touched`, and how many is
    answered.
    """
    count, last = 0, np.full(who.max() + 1, np.nan)
    for i in range(users.shape[0]):
        before = last_ms[users[i]] if np.isnan(last[who[i]]) else last[who[i]]
        slot = _join(sessions, users[i], items[i], times[i] - before)
        last[who[i]] = times[i]
        if slot >= 0:
            touched[count] = slot
            count += 1
    return count


@kernel
def search(
    clicked: Int32,
    stale: UInt8,
    users: Int32,
    sessions: Sessions,
    similarity: Float32,
    weight: Float32,
    similar: int,
    near: Near,
) -> None:
    """Fill `near` for the contexts clicked int32 [B, K] from the `similar` most similar sessions of each; `similarity`
    float32 [ring] and `weight` float32 [items] are scratch, zero on entry and exit.
    """
    width = sessions.recent.shape[1]
    slots = np.empty(clicked.shape[1] * width + 1, np.int32)
    found = np.empty(clicked.shape[1] * width * MEMBERS + 1, np.int32)
    weights, places = np.empty(len(found), np.float32), np.empty(len(found), np.int32)
    chosen = np.empty(clicked.shape[1] * width + 1, np.int32)
    for b in range(clicked.shape[0]):
        near.items[b, :] = -1
        own = sessions.of_user[users[b]] if users[b] < sessions.of_user.shape[0] else -1
        n_slots = _gather(clicked, stale, b, own, sessions, similarity, slots)
        n_chosen = _strongest(slots, n_slots, similarity, similar, chosen)
        total, n_found = np.float32(0.0), 0
        for place in range(n_chosen):
            slot = chosen[place]
            gain = similarity[slot]
            total += gain
            for member in range(sessions.sizes[slot]):
                item = sessions.members[slot, member]
                found[n_found] = item
                n_found += int(weight[item] == 0.0)
                weight[item] += gain
        near.mass[b] = np.log1p(total)
        for place in range(n_found):
            weights[place] = weight[found[place]]
            weight[found[place]] = np.float32(0.0)
        _keep(found[:n_found], weights[:n_found], total, places, near.items[b], near.shares[b])
        for place in range(n_slots):
            similarity[slots[place]] = np.float32(0.0)


def sources(drawn: UInt8, previous: Int32, reach: int) -> tuple[Int64, Int32]:
    """Which clicks of a batch to search for, int64, and for each click the search that it reads, int32 [n], or -1.

    A click that was not drawn (`drawn` uint8 [n]) reads the last search for its user in the same batch, up to `reach`
    clicks on: what neighbours clicked is hardly changed by a few more clicks. By one more it is changed so little that
    the click right after a search reads that in any case.
    """
    rows, steps = np.empty(len(drawn), np.int32), np.empty(len(drawn), np.int32)
    _reach(drawn, previous, reach, rows, steps)
    return np.flatnonzero((rows >= 0) & (steps == 0)), rows


@kernel
def _reach(drawn: UInt8, previous: Int32, reach: int, rows: Int32, steps: Int32) -> None:
    count = 0
    for i in range(drawn.shape[0]):
        before = previous[i]
        age = steps[before] + 1 if before >= 0 and rows[before] >= 0 else reach + 1
        if age <= (min(reach, 1) if drawn[i] else reach):
            rows[i], steps[i] = rows[before], age
        elif drawn[i]:
            rows[i], steps[i] = count, 0
            count += 1
        else:
            rows[i], steps[i] = -1, 0


@kernel
def _gather(
    clicked: Int32, stale: UInt8, b: int, own: int, sessions: Sessions, similarity: Float32, slots: Int32
) -> int:
    """Add up the similarity of every session that shares an item; how many there are is answered."""
    ring, width = sessions.ring, sessions.recent.shape[1]
    n_slots, factor = 0, np.float32(1.0)
    for k in range(clicked.shape[1]):
        item = clicked[b, k]
        fresh = item >= 0
        for earlier in range(k):
            fresh = fresh and clicked[b, earlier] != item
        if not fresh:
            continue
        idf = np.float32(np.log1p(sessions.begun[0] / (sessions.counts[item] + 1.0)))
        gain = factor * idf * idf * (np.float32(STALE) if stale[b, k] else np.float32(1.0))
        factor *= np.float32(POSITION_DECAY)
        for place in range(min(sessions.counts[item], width)):
            number = sessions.recent[item, place]
            slot = number & (ring - 1)
            alive = 0 <= slot < sessions.numbers.shape[0] and number != own and sessions.numbers[slot] == number
            slots[n_slots] = slot
            n_slots += int(alive and similarity[slot] == 0.0)
            similarity[slot] += gain if alive else np.float32(0.0)
    return n_slots


@kernel
def _strongest(slots: Int32, n_slots: int, similarity: Float32, similar: int, chosen: Int32) -> int:
    """Choose the sessions of the highest steps of similarity, until there are `similar`; in the order they were met."""
    if n_slots <= similar:
        chosen[:n_slots] = slots[:n_slots]
        return n_slots
    top = np.float32(0.0)
    for place in range(n_slots):
        top = max(top, similarity[slots[place]])
    counts = np.zeros(STEPS, np.int32)
    unit = np.float32(STEPS - 1) / top
    for place in range(n_slots):
        counts[int(similarity[slots[place]] * unit)] += 1
    step, enough = STEPS - 1, counts[STEPS - 1]
    while enough < similar:
        step -= 1
        enough += counts[step]
    n_chosen = 0
    for place in range(n_slots):
        chosen[n_chosen] = slots[place]
        n_chosen += int(int(similarity[slots[place]] * unit) >= step)
    return n_chosen


@kernel
def _keep(found: Int32, weights: Float32, total: np.float32, places: Int32, items: Int32, shares: Float32) -> None:
    """Keep the heaviest of what was found, of equally heavy ones the first met, with their shares of `total`: the
    LEADING heaviest first, in falling order. `items`, `shares` [FOUND]; `places` is scratch.
    """
    patterns, width = weights.view(np.int32), items.shape[0]
    bound, size = _bound(patterns, width), 0
    for place in range(patterns.shape[0]):
        places[size] = place
        size += int(patterns[place] > bound)
    for place in range(patterns.shape[0] if size < width else 0):
        if patterns[place] == bound:
            places[size] = place
            size += 1
            if size == width:
                break
    for rank in range(min(LEADING, size)):
        best = rank
        for spot in range(rank + 1, size):
            best = spot if weights[places[spot]] > weights[places[best]] else best
        heaviest = places[best]
        for spot in range(best, rank, -1):
            places[spot] = places[spot - 1]
        places[rank] = heaviest
    for spot in range(size):
        items[spot], shares[spot] = found[places[spot]], weights[places[spot]] / total


@kernel
def _bound(patterns: Int32, width: int) -> np.int32:
    """At most `width` lie above the bound, and at least so many with those equal to it; 0 where there are not so many.

    `patterns` are positive floats read as int32, which keeps their order. Halving the range takes a dozen passes, but
    passes without a branch: that is faster than sorting.
    """
    low, high, one = np.int32(0), np.int32(0), np.int32(1)
    for place in range(patterns.shape[0]):
        high = max(high, patterns[place])
    if patterns.shape[0] <= width:
        return low
    while low < high:
        middle, count = np.int32(low + (high - low + one) // np.int32(2)), np.int32(0)
        for place in range(patterns.shape[0]):
            count = np.int32(count + np.int32(patterns[place] >= middle))
        if count == width:
            return np.int32(middle - one)
        if count > width:
            low = middle
        else:
            high = np.int32(middle - one)
    return low
