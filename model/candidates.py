"""One fused walk over everything that speaks for a candidate: which items a context brings, and their features.

The parts' files own the formulas (repeats, own_items, transitions, neighbours); here they meet in one pass over a
context's sources, because looking the same item up once per part is what costs. A test holds each feature written here
equal to its part's own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from model.batch import Float32, Float64, Int32
from model.kernels import FLOOR, inlined, kernel
from model.parts.neighbours import Near
from model.parts.own_items import OwnItems
from model.parts.transitions import Transitions

SURE_NEXT = 6
"""So many strongest transitions of the last item are certain candidates in training,"""
SURE_OWN = 4
"""so many of the user's own items,"""
SURE_NEAR = 5
"""and so many of what neighbours clicked."""
LATER_WIDTH = 15
"""Transitions of the last item but one, and but two, are read so far down."""
FADE_MS = math.log(2.0) / 604_800_000.0
ROOM = 16
"""Places beside the certain ones for shared negatives that turn out to have features; further ones go without."""


class Seen(NamedTuple):
    """Contexts as the walk reads them: `clicked` int32 [B, K], `fresh` int32 [B], `users` int32 [B], `times`
    float64 [B] ms.
    """

    clicked: Int32
    fresh: Int32
    users: Int32
    times: Float64


class Items(NamedTuple):
    """By item: `log_counts` float64 [n, P], `first_ms` float64 [n]; `totals` float64 [P], and which counter, `long`,
    multiplies into the products.
    """

    log_counts: Float64
    totals: Float64
    first_ms: Float64
    long: int


class Found(NamedTuple):
    """What the walk writes. `items` int32 [B, C], -1 past the last one; `columns` int32 [B, C]: which shared negative
    that is, -1 for a candidate of the click's own; `features` float32 [B, C, F], of a shared negative those of the
    context alone.
    """

    @classmethod
    def empty(cls, count: int, room: int, features: int) -> Found:
        """Room for so many items of each of `count` contexts."""
        return cls(
            np.empty((count, room), np.int32),
            np.empty((count, room), np.int32),
            np.empty((count, room, features), np.float32),
        )

    def part(self, count: int) -> Found:
        """The first `count` contexts, as views."""
        return Found(self.items[:count], self.columns[:count], self.features[:count])

    items: Int32
    columns: Int32
    features: Float32


DRAWN = 1 << 20
"""A mark from here on is a shared negative's column; below, a candidate's place."""


def room(length: int) -> int:
    """Most candidates of a context in training."""
    return 1 + length + SURE_NEXT + SURE_OWN + SURE_NEAR + ROOM


def room_for_all(length: int, own_limit: int, width: int, found: int) -> int:
    """Most items that can have features in a context."""
    return length + own_limit + width + 2 * LATER_WIDTH + found


@inlined
def _log1p(value: float) -> np.float32:
    """ln(1 + value) in single precision: faster, and nothing here is so small that it would matter."""
    return np.log(  # type: ignore[no-any-return]
        np.float32(1.0) + np.float32(value)
    )


@inlined
def _add(
    item: int,
    b: int,
    count: int,
    log_counts: Float64,
    totals: Float64,
    first_ms: Float64,
    now: float,
    out_items: Int32,
    columns: Int32,
    features: Float32,
    marks: Int32,
    before: Int32,
) -> None:
    """Make an item the candidate at place `count`: its features by item, the others zero."""
    out_items[b, count] = item
    columns[b, count] = marks[item] - DRAWN if marks[item] >= DRAWN else -1
    before[count] = marks[item]
    marks[item] = count
    features[b, count, :] = 0.0
    for p in range(totals.shape[0]):
        features[b, count, p] = max(log_counts[item, p] - totals[p], FLOOR) - FLOOR
    features[b, count, totals.shape[0]] = _log1p(max(now - first_ms[item], 0.0) / 3_600_000.0)


@kernel
def features_by_item(log_counts: Float64, totals: Float64, first_ms: Float64, now: float, features: Float32) -> None:
    """Write features [n, P + 1] of every item, as `walk` has them: log shares from the floor, log age at `now` (ms)."""
    counters = totals.shape[0]
    for item in range(features.shape[0]):
        for p in range(counters):
            features[item, p] = max(log_counts[item, p] - totals[p], FLOOR) - FLOOR
        features[item, counters] = _log1p(max(now - first_ms[item], 0.0) / 3_600_000.0)


@kernel
def walk(
    seen: Seen,
    targets: Int32,
    now: float,
    transitions: Transitions,
    own: OwnItems,
    near: Near,
    near_rows: Int32,
    items: Items,
    marks: Int32,
    found: Found,
) -> None:
    """Fill `found` for B contexts. Long, and alike in places: a helper for the lines that look an item's place up made
    the walk six times as slow, since each call counts references to all arrays.

    In training `targets` int32 [B] are given: found are the targets, the certain candidates, and those shared
    negatives that have a feature. `marks` int32 [items] is -1, or DRAWN + the column of a shared negative. At scoring
    there are no targets: all items with a feature are found. `marks` is as it was afterwards.
    """
    clicked, times = seen.clicked, seen.times
    log_counts, totals, first_ms, long = items.log_counts, items.totals, items.first_ms, items.long
    next_items, next_weights, next_totals, next_ms = (
        transitions.items,
        transitions.weights,
        transitions.totals,
        transitions.updated_ms,
    )
    near_items, near_shares, near_mass = near.items, near.shares, near.mass
    heads, own_rows, own_counts, own_minutes, links = own.heads, own.items, own.counts, own.minutes, own.links
    out_items, columns, features = found.items, found.columns, found.features
    every = targets.shape[0] == 0
    counters, length, limit = totals.shape[0], clicked.shape[1], out_items.shape[1]
    repeat = counters + 1
    follows = repeat + length + 3
    belongs = follows + 4
    lifted = belongs + 6
    before, sure = np.empty(limit, np.int32), np.empty(1 + length + SURE_NEXT + SURE_NEAR, np.int32)
    for b in range(clicked.shape[0]):
        count = 0
        user = seen.users[b] if seen.users[b] < heads.shape[0] else -1
        beside = near_rows[b]
        # The candidates that are certain.
        if not every:
            sure[0], wanted, last = targets[b], 1, -1
            for k in range(length):
                item = clicked[b, k]
                if item >= 0:
                    last = item if last < 0 else last
                    sure[wanted] = item
                    wanted += 1
            for place in range(min(SURE_NEXT, next_items.shape[1]) if last >= 0 else 0):
                if next_items[last, place] < 0:
                    break
                sure[wanted] = next_items[last, place]
                wanted += 1
            for place in range(min(SURE_NEAR, near_items.shape[1]) if beside >= 0 else 0):
                if near_items[beside, place] < 0:
                    break
                sure[wanted] = near_items[beside, place]
                wanted += 1
            for place in range(wanted):
                item = sure[place]
                if marks[item] < 0 or marks[item] >= DRAWN:
                    _add(item, b, count, log_counts, totals, first_ms, now, out_items, columns, features, marks, before)
                    count += 1
            if user >= 0:
                chunk, added = heads[user], 0
                while chunk >= 0 and added < SURE_OWN:
                    for place in range(own_rows.shape[1]):
                        item = own_rows[chunk, place]
                        if item >= 0 and added < SURE_OWN and (marks[item] < 0 or marks[item] >= DRAWN):
                            _add(
                                item,
                                b,
                                count,
                                log_counts,
                                totals,
                                first_ms,
                                now,
                                out_items,
                                columns,
                                features,
                                marks,
                                before,
                            )
                            count += 1
                            added += 1
                    chunk = links[chunk]
            columns[b, :count] = -1
        # Repeats.
        for k in range(length):
            item = clicked[b, k]
            if item < 0:
                continue
            place = marks[item]
            if place < 0 and every:
                place = count
                _add(item, b, count, log_counts, totals, first_ms, now, out_items, columns, features, marks, before)
                count += 1
            if place < 0 or place >= DRAWN:
                continue
            features[b, place, repeat + k] = 1.0
            if k < seen.fresh[b]:
                features[b, place, repeat + length] = 1.0
            features[b, place, repeat + length + 1] = features[b, place, long]
            features[b, place, repeat + length + 2] = features[b, place, counters]
        # Transitions.
        lag = 0
        for k in range(length):
            source = clicked[b, k]
            if source < 0:
                continue
            width = next_items.shape[1] if lag == 0 else min(LATER_WIDTH, next_items.shape[1])
            fade = math.exp(-FADE_MS * max(times[b] - next_ms[source], 0.0))
            scale = 100.0 * fade / (next_totals[source] * fade + 1.0)
            for rank in range(width):
                item = next_items[source, rank]
                if item < 0:
                    break
                place = marks[item]
                if place < 0 and not every:
                    continue
                if place < 0 or place >= DRAWN:
                    if count == limit:
                        continue
                    _add(item, b, count, log_counts, totals, first_ms, now, out_items, columns, features, marks, before)
                    place = count
                    count += 1
                features[b, place, follows + lag] = _log1p(scale * next_weights[source, rank])
                if lag == 0:
                    features[b, place, follows + 3] = features[b, place, follows] * features[b, place, long]
            lag += 1
            if lag == 3:
                break
        # The user's own items.
        chunk = heads[user] if user >= 0 else -1
        while chunk >= 0:
            for spot in range(own_rows.shape[1]):
                item = own_rows[chunk, spot]
                if item < 0:
                    continue
                place = marks[item]
                if place < 0 and not every:
                    continue
                if place < 0 or place >= DRAWN:
                    if count == limit:
                        continue
                    _add(item, b, count, log_counts, totals, first_ms, now, out_items, columns, features, marks, before)
                    place = count
                    count += 1
                hours = max(times[b] / 60_000.0 - own_minutes[chunk, spot], 0.0) / 60.0
                features[b, place, belongs] = 1.0
                features[b, place, belongs + 1] = np.log(own_counts[chunk, spot])
                features[b, place, belongs + 2] = 0.2 * _log1p(hours)
                features[b, place, belongs + 3] = (own.returns[item] + 0.5) / (own.clicks[item] + 5.0)
                features[b, place, belongs + 4] = features[b, place, long]
                features[b, place, belongs + 5] = 1.0 if hours < 0.5 else 0.0
            chunk = links[chunk]
        # Neighbours.
        if beside >= 0:
            for rank in range(near_items.shape[1]):
                item = near_items[beside, rank]
                if item < 0:
                    break
                place = marks[item]
                if place < 0 and not every:
                    continue
                if place < 0 or place >= DRAWN:
                    if count == limit:
                        continue
                    _add(item, b, count, log_counts, totals, first_ms, now, out_items, columns, features, marks, before)
                    place = count
                    count += 1
                share = math.exp(max(log_counts[item, long] - totals[long], 4.0 * FLOOR))
                features[b, place, lifted] = _log1p(0.03 * near_shares[beside, rank] / (share + 1e-5))
                features[b, place, lifted + 1] = near_mass[beside]
                features[b, place, lifted + 2] = features[b, place, lifted] * near_mass[beside]
        out_items[b, count:] = -1
        for c in range(count - 1, -1, -1):
            marks[out_items[b, c]] = before[c]
            if columns[b, c] >= 0:
                features[b, c, :repeat] = 0.0


@kernel
def add_features(found: Found, weights: Float32, by_item: int, scores: Float32) -> None:
    """scores[item, b] += weights . the features that depend on the context; scores float32 [items, B]."""
    size = found.features.shape[2]
    for b in range(found.items.shape[0]):
        for c in range(found.items.shape[1]):
            item = found.items[b, c]
            if item < 0:
                break
            total = np.float32(0.0)
            for f in range(by_item, size):
                total += weights[b, 1 + f] * found.features[b, c, f]
            scores[item, b] += total
