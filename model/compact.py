"""Rows of users and items go, the others move up, and every number that pointed at a row follows.

What points at items: users' last clicks and own items, transitions, members of sessions, the rings of targets. What
points at users: nothing but a session's number in the user's own row. What pointed at a row that is gone closes up, as
if it had never been clicked; counts of all clicks, as popularity's, stay.
"""

from __future__ import annotations

import numpy as np

from model.batch import Float32, Int32, UInt8
from model.kernels import kernel
from model.state import State


def keep(state: State, users: Int32, items: Int32) -> None:
    """Keep these rows, ascending, and no others."""
    numbers = np.full(len(state.items), -1, np.int32)
    numbers[items] = np.arange(len(items), dtype=np.int32)
    state.users.keep(users)
    state.items.keep(items)
    for name, column in state.items.columns.items():
        if not column.kept:
            state.items[name][:] = column.fill
    renumber(state, numbers)


def renumber(state: State, numbers: Int32) -> None:
    """Let all that points at items follow to their new rows: numbers int32 [old rows], -1 for those that are gone.

    Users' chains of own items are packed anew; chunks that hang on no user are gone.
    """
    users, items, sessions, chunks = state.users, state.items, state.sessions, state.chunks
    _close_histories(users["clicks"], users["kinds"], users["pauses"], numbers)
    _close_transitions(items["next_items"], items["next_weights"], numbers)
    _close_sessions(sessions["members"], sessions["sizes"], numbers)
    packed = {name: np.empty_like(array) for name, array in chunks.kept().items()}
    used = _pack(
        users["own_head"],
        users["own_size"],
        (chunks["items"], chunks["counts"], chunks["minutes"], chunks["links"]),
        numbers,
        (packed["items"], packed["counts"], packed["minutes"], packed["links"]),
    )
    chunks.keep(np.arange(used, dtype=np.int32))
    for name, array in chunks.kept().items():
        array[:] = packed[name][:used]
    state.ring.renumber(numbers, items["long_count"], items["short_count"])


@kernel
def _close_histories(clicks: Int32, kinds: Int32, pauses: UInt8, numbers: Int32) -> None:
    """A pause before a click that goes stands before the next newer one instead."""
    for user in range(clicks.shape[0]):
        left = 0
        for k in range(clicks.shape[1]):
            item = clicks[user, k]
            if item < 0:
                break
            if numbers[item] < 0:
                if left > 0 and pauses[user, k]:
                    pauses[user, left - 1] = 1
                continue
            clicks[user, left] = numbers[item]
            kinds[user, left] = kinds[user, k]
            pauses[user, left] = pauses[user, k]
            left += 1
        clicks[user, left:] = -1
        kinds[user, left:] = 0
        pauses[user, left:] = 0


@kernel
def _close_transitions(items: Int32, weights: Float32, numbers: Int32) -> None:
    for row in range(items.shape[0]):
        left = 0
        for place in range(items.shape[1]):
            item = items[row, place]
            if item < 0:
                break
            if numbers[item] >= 0:
                items[row, left] = numbers[item]
                weights[row, left] = weights[row, place]
                left += 1
        items[row, left:] = -1
        weights[row, left:] = 0.0


@kernel
def _close_sessions(members: Int32, sizes: Int32, numbers: Int32) -> None:
    for slot in range(members.shape[0]):
        left = 0
        for place in range(sizes[slot]):
            item = members[slot, place]
            if numbers[item] >= 0:
                members[slot, left] = numbers[item]
                left += 1
        members[slot, left:] = -1
        sizes[slot] = left


Chunks = tuple[Int32, Float32, Int32, Int32]
"""Items, counts, minutes [chunks, 8] and links [chunks], as in `parts/own_items`."""


@kernel
def _pack(heads: Int32, sizes: Int32, old: Chunks, numbers: Int32, new: Chunks) -> int:
    """Write every user's chain, in its order and without gaps, to `new`; how many chunks that took is answered."""
    old_items, old_counts, old_minutes, old_links = old
    items, counts, minutes, links = new
    width, used = old_items.shape[1], 0
    for user in range(heads.shape[0]):
        chunk, last, place = heads[user], -1, width
        heads[user] = -1
        sizes[user] = 0
        while chunk >= 0:
            for spot in range(width):
                item = old_items[chunk, spot]
                if item < 0 or numbers[item] < 0:
                    continue
                if place == width:
                    items[used, :] = -1
                    counts[used, :] = 0.0
                    minutes[used, :] = 0
                    links[used] = -1
                    if last < 0:
                        heads[user] = used
                    else:
                        links[last] = used
                    last, place = used, 0
                    used += 1
                items[last, place] = numbers[item]
                counts[last, place] = old_counts[chunk, spot]
                minutes[last, place] = old_minutes[chunk, spot]
                sizes[user] += 1
                place += 1
            chunk = old_links[chunk]
    return used
