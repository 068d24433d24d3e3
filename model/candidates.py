"""One fused walk over everything that speaks for a candidate: which items a context brings, and their features.

The parts' files own the formulas (`parts/repeats.py`, `own_items.py`, `transitions.py`, `neighbours.py`); here they meet
in one pass over a context's sources, because looking the same item up once per part is what costs. A test holds each
feature written here equal to its part's own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from model.batch import Float32, Float64, Int32
from model.kernels import FLOOR, kernel
from model.parts.neighbours import Near
from model.parts.own_items import OwnItems
from model.parts.transitions import Transitions

SURE_NEXT = 6
"""So many strongest transitions of the last item are certain candidates in training,"""
SURE_OWN = 6
"""so many of the user's own items,"""
SURE_NEAR = 5
"""and so many of what neighbours clicked."""
LATER_WIDTH = 15
"""Transitions of the last item but one, and but two, are read so far down."""
ROOM = 16
"""Places beside the certain ones for shared negatives that turn out to have features."""


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


class Negatives(NamedTuple):
    """The shared negatives: `slots` int32 [items] is -1 or a negative's column, `correction` float32 [M]."""

    slots: Int32
    correction: Float32


class Found(NamedTuple):
    """What the walk writes. `items` int32 [B, C], -1 past the last one; `correction` float32 [B, C]: log of a
    candidate's chance to be drawn, 0 for certain ones; `features` float32 [B, C, F]; `marks` int32 [items] is scratch.
    """

    items: Int32
    correction: Float32
    features: Float32
    marks: Int32


def room(length: int) -> int:
    """Most candidates of a context in training."""
    return 1 + length + SURE_NEXT + SURE_OWN + SURE_NEAR + ROOM


def room_for_all(length: int, own_limit: int, width: int, found: int) -> int:
    """Most items that can have features in a context."""
    return length + own_limit + width + 2 * LATER_WIDTH + found


@kernel
def _held(found: Found, b: int, count: int, item: int) -> int:
    """Place of an item among the candidates of b, or -1."""
    place = found.marks[item]
    return place if 0 <= place < count and found.items[b, place] == item else -1


@kernel
def _add(found: Found, b: int, count: int, item: int, items: Items, now: float) -> None:
    """Make an item the candidate at place `count`: its features by item, the others zero."""
    found.items[b, count] = item
    found.marks[item] = count
    found.correction[b, count] = 0.0
    found.features[b, count, :] = 0.0
    for p in range(items.totals.shape[0]):
        found.features[b, count, p] = max(items.log_counts[item, p] - items.totals[p], FLOOR) - FLOOR
    age = max(now - items.first_ms[item], 0.0)
    found.features[b, count, items.totals.shape[0]] = math.log1p(age / 3_600_000.0)


@kernel
def _place(
    found: Found, b: int, count: int, item: int, every: bool, negatives: Negatives, items: Items, now: float
) -> int:
    """Place of an item that has a feature; `count` where it must be added first; -1 where it is no candidate."""
    place = _held(found, b, count, item)
    if place >= 0:
        return place
    if count >= found.items.shape[1]:
        return -1
    if every:
        _add(found, b, count, item, items, now)
        return count
    slot = negatives.slots[item] if item < negatives.slots.shape[0] else -1
    if slot < 0:
        return -1
    _add(found, b, count, item, items, now)
    found.correction[b, count] = negatives.correction[slot]
    return count


@kernel
def _certain(
    seen: Seen, targets: Int32, b: int, transitions: Transitions, own: OwnItems, near: Near, items: Items, now: float,
    found: Found,
) -> int:
    """Put in the target, the context, the strongest transitions, the first own items and neighbours."""
    _add(found, b, 0, targets[b], items, now)
    count = 1
    last = -1
    for k in range(seen.clicked.shape[1]):
        item = seen.clicked[b, k]
        if item >= 0:
            last = item if last < 0 else last
            if _held(found, b, count, item) < 0:
                _add(found, b, count, item, items, now)
                count += 1
    if last >= 0:
        for place in range(min(SURE_NEXT, transitions.items.shape[1])):
            item = transitions.items[last, place]
            if item < 0:
                break
            if _held(found, b, count, item) < 0:
                _add(found, b, count, item, items, now)
                count += 1
    for place in range(min(SURE_NEAR, near.items.shape[1])):
        item = near.items[b, place]
        if item < 0:
            break
        if _held(found, b, count, item) < 0:
            _add(found, b, count, item, items, now)
            count += 1
    if seen.users[b] < own.heads.shape[0]:
        chunk, added = own.heads[seen.users[b]], 0
        while chunk >= 0 and added < SURE_OWN:
            for place in range(own.items.shape[1]):
                item = own.items[chunk, place]
                if item >= 0 and added < SURE_OWN and _held(found, b, count, item) < 0:
                    _add(found, b, count, item, items, now)
                    count += 1
                    added += 1
            chunk = own.links[chunk]
    return count


@kernel
def walk(
    seen: Seen,
    targets: Int32,
    every: bool,
    now: float,
    transitions: Transitions,
    own: OwnItems,
    near: Near,
    items: Items,
    negatives: Negatives,
    found: Found,
) -> None:
    """Fill `found` for B contexts. In training `every` is false: the candidates are `targets` int32 [B], the certain
    ones, and those shared negatives that have a feature. At scoring it is true: all items with a feature, no targets.
    """
    counters, length = items.totals.shape[0], seen.clicked.shape[1]
    repeat = counters + 1
    follows = repeat + length + 3
    belongs = follows + 4
    lifted = belongs + 5
    for b in range(seen.clicked.shape[0]):
        count = 0 if every else _certain(seen, targets, b, transitions, own, near, items, now, found)
        lag = 0
        for k in range(length):
            item = seen.clicked[b, k]
            if item < 0:
                continue
            place = _place(found, b, count, item, every, negatives, items, now)
            if place < 0:
                continue
            count = max(count, place + 1)
            row = found.features[b, place]
            row[repeat + k] = 1.0
            if k < seen.fresh[b]:
                row[repeat + length] = 1.0
            row[repeat + length + 1] = row[items.long]
            row[repeat + length + 2] = row[counters]
        for k in range(length):
            before = seen.clicked[b, k]
            if before < 0:
                continue
            width = transitions.items.shape[1] if lag == 0 else min(LATER_WIDTH, transitions.items.shape[1])
            age = max(seen.times[b] - transitions.updated_ms[before], 0.0)
            fade = math.exp(-math.log(2.0) / 604_800_000.0 * age)
            total = transitions.totals[before] * fade + 1.0
            for rank in range(width):
                item = transitions.items[before, rank]
                if item < 0:
                    break
                place = _place(found, b, count, item, every, negatives, items, now)
                if place < 0:
                    continue
                count = max(count, place + 1)
                row = found.features[b, place]
                row[follows + lag] = math.log1p(100.0 * transitions.weights[before, rank] * fade / total)
                if lag == 0:
                    row[follows + 3] = row[follows] * row[items.long]
            lag += 1
            if lag == 3:
                break
        if seen.users[b] < own.heads.shape[0]:
            chunk = own.heads[seen.users[b]]
            while chunk >= 0:
                for spot in range(own.items.shape[1]):
                    item = own.items[chunk, spot]
                    if item < 0:
                        continue
                    place = _place(found, b, count, item, every, negatives, items, now)
                    if place < 0:
                        continue
                    count = max(count, place + 1)
                    row = found.features[b, place]
                    hours = max(seen.times[b] / 60_000.0 - own.minutes[chunk, spot], 0.0) / 60.0
                    row[belongs] = 1.0
                    row[belongs + 1] = math.log(own.counts[chunk, spot])
                    row[belongs + 2] = 0.2 * math.log1p(hours)
                    row[belongs + 3] = (own.returns[item] + 0.5) / (own.clicks[item] + 5.0)
                    row[belongs + 4] = row[items.long]
                chunk = own.links[chunk]
        if near.mass[b] >= 0.0:
            for rank in range(near.items.shape[1]):
                item = near.items[b, rank]
                if item < 0:
                    break
                place = _place(found, b, count, item, every, negatives, items, now)
                if place < 0:
                    continue
                count = max(count, place + 1)
                row = found.features[b, place]
                share = math.exp(max(items.log_counts[item, items.long] - items.totals[items.long], 4.0 * FLOOR))
                row[lifted] = math.log1p(0.03 * near.shares[b, rank] / (share + 1e-5))
                row[lifted + 1] = near.mass[b]
                row[lifted + 2] = row[lifted] * near.mass[b]
        found.items[b, count:] = -1


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
