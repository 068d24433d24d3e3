"""What a user clicked last: kept newest first, and read together with the clicks of the same batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from model.batch import Float64, Int32, Int64, UInt8
from model.kernels import NEVER, kernel
from model.table import Column, Table

PAUSE_MS = 1_800_000.0
"""A gap of more than half an hour ends a session: what lies before it is stale."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts of n clicks, or requests.

    `items` int32 [n, K] newest first, -1 for a hole; `kinds` int32 [n, K] their event types; `stale` uint8 [n, K]: the
    click lies before a pause. `users` int32 [n]. `fresh` int32 [n]: how many clicks of the same batch came before.
    `times` float64 [n] in ms; `gaps` float64 [n]: ms since the user's last click of a finished batch, nan for none.
    """

    users: Int32
    items: Int32
    kinds: Int32
    stale: UInt8
    fresh: Int32
    times: Float64
    gaps: Float64

    def __len__(self) -> int:
        return len(self.users)

    @property
    def following(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether the user has clicked before, in a finished batch or in this one, bool [n]."""
        return (self.fresh > 0) | ~np.isnan(self.gaps)

    def hiding(self, known_items: int) -> Contexts:
        """The same, with holes in the place of items from `known_items` on."""
        return replace(self, items=np.where(self.items < known_items, self.items, np.int32(-1)))

    def take(self, chosen: Int64) -> Contexts:
        """Those of some clicks."""
        return Contexts(*(getattr(self, name)[chosen] for name in self.__slots__))

    def part(self, cut: slice) -> Contexts:
        """Those of the clicks in a row, as views."""
        return Contexts(*(getattr(self, name)[cut] for name in self.__slots__))


class Histories(NamedTuple):
    """The stored histories, one row per user: `clicks`, `kinds` int32 [users, K], `pauses` uint8 [users, K],
    `last_ms` float64 [users].
    """

    clicks: Int32
    kinds: Int32
    pauses: UInt8
    last_ms: Float64

    @classmethod
    def of(cls, users: Table) -> Histories:
        return cls(users["clicks"], users["kinds"], users["pauses"], users["last_ms"])


def user_columns(length: int) -> dict[str, Column]:
    """`clicks`: item rows, newest first, -1 where there is none; `kinds`: the rows of their event types; `pauses`: 1
    where a pause lies before a click; `last_ms`: the time of the last one.
    """
    return {
        "clicks": Column(length, np.int32, -1, memory=True),
        "kinds": Column(length, np.int32, 0, memory=True),
        "pauses": Column(length, np.uint8, 0, memory=True),
        "last_ms": Column(0, np.float64, NEVER, memory=True),
    }


def predecessors(who: Int32) -> Int32:
    """For each click of a batch the click before it by the same user, -1 for none; `who` int32 [n] below n."""
    previous = np.empty(len(who), np.int32)
    _link(who, np.full(len(who), -1, np.int32), previous)
    return previous


@kernel
def _link(who: Int32, last: Int32, previous: Int32) -> None:
    for i in range(who.shape[0]):
        previous[i] = last[who[i]]
        last[who[i]] = i


def contexts(
    who: Int32,
    users: Int32,
    items: Int32,
    types: Int32,
    times: Float64,
    stored: Histories,
    length: int,
    known_items: int,
) -> Contexts:
    """The last `length` clicks before each of n clicks, those of the same batch included.

    `who` int32 [n] numbers the users within the batch. Items beyond `known_items` are not yet in a finished batch: they
    stay as a hole at their place.
    """
    count = len(users)
    shape = (count, length)
    found = Contexts(
        users,
        np.empty(shape, np.int32),
        np.empty(shape, np.int32),
        np.empty(shape, np.uint8),
        np.zeros(count, np.int32),
        times,
        np.full(count, np.nan),
    )
    _contexts(
        predecessors(who),
        users,
        items,
        types,
        times,
        stored,
        known_items,
        (found.items, found.kinds, found.stale, found.fresh, found.gaps),
    )
    return found


@kernel
def _contexts(
    previous: Int32,
    users: Int32,
    items: Int32,
    types: Int32,
    times: Float64,
    stored: Histories,
    known_items: int,
    out: tuple[Int32, Int32, UInt8, Int32, Float64],
) -> None:
    out_items, out_kinds, out_stale, out_fresh, out_gaps = out
    length = out_items.shape[1]
    for i in range(users.shape[0]):
        user, k, before, time, stale = users[i], 0, previous[i], times[i], 0
        # Not counted one by one: a batch may be full of one user's clicks.
        out_fresh[i] = out_fresh[before] + 1 if before >= 0 else 0
        while before >= 0 and k < length:
            stale = 1 if time - times[before] > PAUSE_MS else stale
            out_items[i, k] = items[before] if items[before] < known_items else -1
            out_kinds[i, k] = types[before]
            out_stale[i, k] = stale
            k += 1
            time = times[before]
            before = previous[before]
        if user < stored.clicks.shape[0] and stored.clicks[user, 0] >= 0:
            out_gaps[i] = times[i] - stored.last_ms[user]
            stale = 1 if time - stored.last_ms[user] > PAUSE_MS else stale
            place = 0
            while k < length and stored.clicks[user, place] >= 0:
                out_items[i, k] = stored.clicks[user, place]
                out_kinds[i, k] = stored.kinds[user, place]
                out_stale[i, k] = stale
                stale = 1 if stored.pauses[user, place] else stale
                place += 1
                k += 1
        out_items[i, k:] = -1
        out_kinds[i, k:] = 0
        out_stale[i, k:] = 1


@kernel
def remember(users: Int32, items: Int32, types: Int32, times: Float64, stored: Histories) -> None:
    """Put each click of a batch at the front of its user's history."""
    for i in range(users.shape[0]):
        row = users[i]
        for k in range(stored.clicks.shape[1] - 1, 0, -1):
            stored.clicks[row, k] = stored.clicks[row, k - 1]
            stored.kinds[row, k] = stored.kinds[row, k - 1]
            stored.pauses[row, k] = stored.pauses[row, k - 1]
        stored.clicks[row, 0] = items[i]
        stored.kinds[row, 0] = types[i]
        stored.pauses[row, 0] = 1 if times[i] - stored.last_ms[row] > PAUSE_MS else 0
        stored.last_ms[row] = times[i]
