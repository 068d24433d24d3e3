"""Which rows go when a table is nearly full: those of the least worth, which is frequency over age.

    worth = sum over the row's clicks of 2^(-(now - then) / H)      H = 8 clicks per row of the cap

`now` and `then` count clicks that were learned, not seconds: no timestamp that a message claims can save a row or doom
it, and a flood of clicks that are not admitted ages nobody. This is LRFU, between least recently and least frequently
used (Lee, Choi, Kim, Noh, Min, Cho and Kim, IEEE Trans. Computers 2001). It is kept as in forward decay (Cormode,
Shkapenyuk, Srivastava and Xu, ICDE 2009): the weights of newer clicks grow from a landmark on instead of those of older
ones fading, so that no row is touched but those clicked.

What is evicted, and when, follows from the state alone: after a batch, when a table is above its mark. Whether
checkpoints were written in between, or the process died, changes nothing.
"""

from __future__ import annotations

import numpy as np

from model import compact
from model.batch import Float64, Int32, Int64
from model.limits import CHUNKS_PER_USER, ID_BYTES, Limit
from model.parts import own_items
from model.state import EVICTED, State
from model.table import Table

HALF_LIFE_PER_ROW = 8
RESCALED = 512.0
"""Half-lives after which the landmark moves, long before a float64 overflows."""
Shares = list[tuple[Int64, int]]
"""By resource what each row takes of it, int64 [rows], and what the table has."""


def credit(state: State, users: Int32, items: Int32) -> None:
    """Count a batch's clicks for their users, and those that want it for their items; they are all of one age."""
    state.clicks += len(users)
    pairs = ((state.users, users, state.limits.users), (state.items, items, state.limits.items))
    for which, (table, rows, limit) in enumerate(pairs):
        age = (state.clicks[0] - state.landmarks[which]) / (HALF_LIFE_PER_ROW * limit.rows)
        if age > RESCALED:
            table["worth"][:] *= 2.0**-age
            state.landmarks[which] = state.clicks[0]
            age = 0.0
        np.add.at(table["worth"], rows, 2.0**age)


def relieve(state: State) -> bool:
    """Evict where a table has more than its mark of rows, of text, or of own items; whether any row went."""
    limits, users, items = state.limits, state.users, state.items
    crowded_users = _crowded(users, limits.users) or len(state.chunks) > CHUNKS_PER_USER * limits.users.full
    crowded_items = _crowded(items, limits.items)
    if not crowded_users and not crowded_items:
        return False
    chunks = [(_chunks_by_user(state), CHUNKS_PER_USER * limits.users.kept)]
    kept_users = _best(users, limits.users, chunks) if crowded_users else np.arange(len(users), dtype=np.int32)
    kept_items = _best(items, limits.items, []) if crowded_items else np.arange(len(items), dtype=np.int32)
    state.tally[:, EVICTED] += (len(users) - len(kept_users), len(items) - len(kept_items))
    compact.keep(state, kept_users, kept_items)
    return True


def _crowded(table: Table, limit: Limit) -> bool:
    return len(table) > limit.full or table.text_bytes > ID_BYTES * limit.full


def _chunks_by_user(state: State) -> Int64:
    owners, _ = own_items.chains(state.users["own_head"], state.chunks["links"])
    return np.bincount(owners, minlength=len(state.users))


def _best(table: Table, limit: Limit, further: Shares) -> Int32:
    """The rows of the highest worth, the older of equals first, as many as fit all resources; ascending."""
    shares: Shares = [(np.ones(len(table), np.int64), limit.kept), (table.lengths(), ID_BYTES * limit.kept), *further]
    worth: Float64 = table["worth"]
    order = np.argsort(-worth, kind="stable")
    fitting = [np.searchsorted(np.cumsum(taken[order]), most, side="right") for taken, most in shares]
    return np.sort(order[: min(fitting)]).astype(np.int32)
