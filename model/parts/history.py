"""What a user clicked last: kept newest first, and read together with the clicks of the same batch."""

from __future__ import annotations

import numpy as np

from model.batch import Int32
from model.kernels import kernel
from model.table import Column


def user_columns(length: int) -> dict[str, Column]:
    """`clicks`: item rows, newest first, -1 where there is none; `kinds`: the rows of their event types."""
    return {"clicks": Column(length, np.int32, -1), "kinds": Column(length, np.int32, 0)}


def predecessors(users: Int32) -> Int32:
    """For each click of a batch the click before it by the same user, -1 for none; users int32 [n] are any numbers."""
    _, local = np.unique(users, return_inverse=True)
    previous = np.empty(len(users), np.int32)
    _link(local.astype(np.int32), np.full(len(users), -1, np.int32), previous)
    return previous


@kernel
def _link(users: Int32, last: Int32, previous: Int32) -> None:
    for i in range(users.shape[0]):
        previous[i] = last[users[i]]
        last[users[i]] = i


@kernel
def contexts(
    previous: Int32,
    users: Int32,
    items: Int32,
    types: Int32,
    clicks: Int32,
    kinds: Int32,
    known_items: int,
    out_items: Int32,
    out_kinds: Int32,
) -> None:
    """The K clicks before each of n clicks, newest first, those of the same batch included, into out_* [n, K].

    Items beyond `known_items` are not yet in a finished batch: they stay as a hole (-1) at their place. `clicks`,
    `kinds` [users, K] are the stored histories.
    """
    length = out_items.shape[1]
    for i in range(users.shape[0]):
        k, before = 0, previous[i]
        while before >= 0 and k < length:
            out_items[i, k] = items[before] if items[before] < known_items else -1
            out_kinds[i, k] = types[before]
            before = previous[before]
            k += 1
        stored = 0
        while users[i] < clicks.shape[0] and k < length and clicks[users[i], stored] >= 0:
            out_items[i, k] = clicks[users[i], stored]
            out_kinds[i, k] = kinds[users[i], stored]
            stored += 1
            k += 1
        out_items[i, k:] = -1
        out_kinds[i, k:] = 0


@kernel
def remember(users: Int32, items: Int32, types: Int32, clicks: Int32, kinds: Int32) -> None:
    """Put each click of a batch at the front of its user's history."""
    for i in range(users.shape[0]):
        row = users[i]
        for k in range(clicks.shape[1] - 1, 0, -1):
            clicks[row, k] = clicks[row, k - 1]
            kinds[row, k] = kinds[row, k - 1]
        clicks[row, 0] = items[i]
        kinds[row, 0] = types[i]
