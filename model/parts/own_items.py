"""The user's own items: every distinct item that a user clicked, up to a cap, with how often and when last.

Kept in chunks of 8 that hang on a chain per user, so that a user of three clicks costs one chunk and a regular of
years his cap. Beyond the cap the item not clicked for the longest time makes room.

Features of an item that the user had: 1; log of how often; .2 ln(1 + hours since the last time); the item's own rate of
return (of its clicks, the share by somebody who had it before); log popularity; whether it was within half an hour.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.batch import Float32, Float64, Int32, Int64
from model.kernels import kernel
from model.table import Column, Columns, Table

CHUNK = 8
FEATURES = 6
MINUTE_MS = 60_000.0
JUST_NOW_HOURS = 0.5
SHARE_DECAY = 0.98
"""Of a user's share of repeats, click by click."""


class OwnItems(NamedTuple):
    """`heads` int32 [users]: first chunk or -1; `items` int32, `counts` float32, `minutes` int32 (since the epoch, of
    the last click) [chunks, 8], items -1 where free; `links` int32 [chunks]: next chunk or -1. `returns`, `clicks`
    float32 [items]: an item's clicks by people who had it before, and all.
    """

    heads: Int32
    items: Int32
    counts: Float32
    minutes: Int32
    links: Int32
    returns: Float32
    clicks: Float32

    @classmethod
    def of(cls, users: Table, chunks: Columns, items: Table) -> OwnItems:
        return cls(
            users["own_head"],
            chunks["items"],
            chunks["counts"],
            chunks["minutes"],
            chunks["links"],
            items["returns"],
            items["clicks"],
        )


def user_columns() -> dict[str, Column]:
    """`own_head`: the user's first chunk; `own_size`: how many items hang there; `repeat_share`: share of the user's
    clicks that went to an item clicked before, decayed click by click.
    """
    return {
        "own_head": Column(0, np.int32, -1, memory=True),
        "own_size": Column(0, np.int32, memory=True),
        "repeat_share": Column(0, np.float32, memory=True),
    }


def item_columns() -> dict[str, Column]:
    """`clicks`: all; `returns`: those by users who had the item."""
    return {"clicks": Column(0, np.float32, memory=True), "returns": Column(0, np.float32, memory=True)}


def chunk_columns() -> dict[str, Column]:
    return {
        "items": Column(CHUNK, np.int32, -1, memory=True),
        "counts": Column(CHUNK, np.float32, memory=True),
        "minutes": Column(CHUNK, np.int32, memory=True),
        "links": Column(0, np.int32, -1, memory=True),
    }


def features(own: OwnItems, user: int, item: int, time: float, popularity: float) -> list[float]:
    """The features of an item for a user at `time` (ms); zeros when the user never had it."""
    _, chunks = chains(own.heads[user : user + 1], own.links)
    row, place = np.nonzero(own.items[chunks] == item)
    if not len(row):
        return [0.0] * FEATURES
    found = table(own, chunks[row], place, np.full(len(row), item), time, np.full(len(own.clicks), popularity))
    return [float(value) for value in found[0]]


def chains(heads: Int32, links: Int32) -> tuple[Int32, Int32]:
    """Whose chunk, and which, int32 each: the chains of all users, one user after the other."""
    owners, chunks, alive = list[Int32](), list[Int32](), np.flatnonzero(heads >= 0).astype(np.int32)
    current = heads[alive]
    while len(alive):
        owners.append(alive)
        chunks.append(current)
        current = links[current]
        alive, current = alive[current >= 0], current[current >= 0]
    whose = np.concatenate([np.empty(0, np.int32), *owners])
    order = np.argsort(whose, kind="stable")
    return whose[order], np.concatenate([np.empty(0, np.int32), *chunks])[order]


def table(
    own: OwnItems, chunks: Int32, places: Int64, items: Int32, time: float, popularity: Float32 | Float64
) -> Float32:
    """The features of entries at (chunk, place) [e], which hold `items`, at `time` (ms): float32 [e, FEATURES].

    `popularity` [items] is the log share, as it enters products.
    """
    hours = np.maximum(time / MINUTE_MS - own.minutes[chunks, places], 0.0) / 60.0
    columns = [
        np.ones(len(items)),
        np.log(own.counts[chunks, places]),
        0.2 * np.log1p(hours),
        (own.returns[items] + 0.5) / (own.clicks[items] + 5.0),
        popularity[items],
        hours < JUST_NOW_HOURS,
    ]
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)


def count_in(
    users: Int32, items: Int32, times: Float64, table: Table, chunks: Columns, item_table: Table, limit: int
) -> Int32:
    """Count a batch's clicks in, in order; the chunks that changed are answered, int32."""
    used = len(chunks)
    chunks.extend(len(users))
    own = OwnItems.of(table, chunks, item_table)
    touched = np.empty(2 * len(users), np.int32)
    minutes = np.clip(times / MINUTE_MS, -(2.0**31), 2.0**31 - 1).astype(np.int32)
    used, count = _count_in(users, items, minutes, own, table["own_size"], table["repeat_share"], limit, used, touched)
    chunks.resize(used)
    return touched[:count]


@kernel
def _count_in(
    users: Int32,
    items: Int32,
    minutes: Int32,
    own: OwnItems,
    sizes: Int32,
    shares: Float32,
    limit: int,
    used: int,
    touched: Int32,
) -> tuple[int, int]:
    """`used` chunks are in use before; answered is how many are after, and how many were noted in `touched`."""
    count = 0
    for i in range(users.shape[0]):
        user, item = users[i], items[i]
        chunk, last = own.heads[user], -1
        found_chunk = found_place = free_chunk = free_place = oldest_chunk = oldest_place = -1
        while chunk >= 0 and found_chunk < 0:
            for place in range(CHUNK):
                held = own.items[chunk, place]
                if held == item:
                    found_chunk, found_place = chunk, place
                    break
                if held < 0:
                    if free_chunk < 0:
                        free_chunk, free_place = chunk, place
                elif oldest_chunk < 0 or own.minutes[chunk, place] < own.minutes[oldest_chunk, oldest_place]:
                    oldest_chunk, oldest_place = chunk, place
            last = chunk
            chunk = own.links[chunk]
        shares[user] *= np.float32(SHARE_DECAY)
        own.clicks[item] += np.float32(1.0)
        if found_chunk >= 0:
            shares[user] += np.float32(1.0 - SHARE_DECAY)
            own.returns[item] += np.float32(1.0)
        else:
            if sizes[user] >= limit:
                found_chunk, found_place = oldest_chunk, oldest_place
            elif free_chunk >= 0:
                found_chunk, found_place = free_chunk, free_place
                sizes[user] += 1
            else:
                found_chunk, found_place = used, 0
                if last >= 0:
                    own.links[last] = used
                    touched[count] = last
                    count += 1
                else:
                    own.heads[user] = used
                used += 1
                sizes[user] += 1
            own.items[found_chunk, found_place] = item
            own.counts[found_chunk, found_place] = np.float32(0.0)
            own.minutes[found_chunk, found_place] = minutes[i]
        own.counts[found_chunk, found_place] += np.float32(1.0)
        own.minutes[found_chunk, found_place] = max(minutes[i], own.minutes[found_chunk, found_place])
        touched[count] = found_chunk
        count += 1
    return used, count
