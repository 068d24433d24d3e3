"""From a batch of strings to rows of the tables: once per distinct id, new ids numbered by their first appearance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.batch import Batch, Coded, Int32, Int64
from model.parts import embedding
from model.state import ADMITTED, State
from model.table import Table


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of n clicks as rows, int32 [n] each; rows from a table's length on are not there (yet). `who` numbers the
    users within the batch, from 0 in the order of their first clicks.
    """

    who: Int32
    users: Int32
    items: Int32
    types: Int32

    def __len__(self) -> int:
        return len(self.users)

    def take(self, chosen: Int64) -> Rows:
        """Those of some clicks; users keep their numbers."""
        return Rows(self.who[chosen], self.users[chosen], self.items[chosen], self.types[chosen])


def check(batch: Batch) -> None:
    """Raises `ValueError` when the columns of a batch do not fit together, naming the column."""
    for name, column in (("users", batch.users), ("items", batch.items), ("types", batch.types)):
        if len(column.codes) != len(batch.times):
            raise ValueError(f"batch.{name} has {len(column.codes)} clicks, batch.times has {len(batch.times)}")
        if len(column.codes) and not 0 <= column.codes.min() <= column.codes.max() < len(column.values):
            low, high = column.codes.min(), column.codes.max()
            raise ValueError(f"batch.{name} has codes from {low} to {high}, but {len(column.values)} values")


def find(state: State, batch: Batch) -> Rows:
    """The batch's rows as they would be after `grow`, without adding any. Event types without a row read row 0."""
    users, user_codes = distinct(batch.users)
    items, item_codes = distinct(batch.items)
    types, type_codes = distinct(batch.types)
    return Rows(
        user_codes,
        state.users.lookup(users)[user_codes],
        state.items.lookup(items)[item_codes],
        _type_rows(state.types, types)[type_codes],
    )


def grow(state: State, batch: Batch) -> Rows:
    """The batch's rows; users, items and event types without a row get one, with their first values."""
    users, user_codes = distinct(batch.users)
    items, item_codes = distinct(batch.items)
    types, type_codes = distinct(batch.types)
    add_types(state, types)
    item_rows = _grow_items(state, items)
    known_users = len(state.users)
    user_rows = state.users.intern(users)
    state.tally[0, ADMITTED] += len(state.users) - known_users
    return Rows(
        user_codes,
        user_rows[user_codes],
        item_rows[item_codes],
        _type_rows(state.types, types)[type_codes],
    )


def add_types(state: State, names: list[str]) -> None:
    """Give event types their rows, up to the limit; what does not fit shares row 0."""
    types, start = state.types, len(state.types)
    fresh = [name for name in dict.fromkeys(names) if name not in types.index]
    types.append(fresh[: max(0, state.config.type_limit - start)])
    first = [embedding.first_priority(name, state.config) for name in types.ids[start:]]
    types["priority"][start:] = first
    types["start"][start:] = first


def _grow_items(state: State, values: list[str]) -> Int32:
    items, config, start = state.items, state.config, len(state.items)
    rows = items.intern(values)
    if (fresh := len(items) - start) > 0:
        # By how many came before, not by row: rows are used again after an eviction, first vectors are not.
        born = int(state.tally[1, ADMITTED])
        items["vector"][start:] = embedding.first_vectors(born, born + fresh, config.dim, 2 * config.seed)
        items["input"][start:] = embedding.first_vectors(born, born + fresh, config.dim, 2 * config.seed + 1)
        state.tally[1, ADMITTED] += fresh
    return rows


def _type_rows(types: Table, names: list[str]) -> Int32:
    return np.array([types.index.get(name, 0) for name in names], np.int32)


def distinct(column: Coded) -> tuple[list[str], Int32]:
    """The strings that occur, in the order of their first appearance, and a code of each click into them, int32 [n].

    The column's own codes may point into more strings than occur, in any order: rows must not depend on that.
    """
    if _in_order(column):
        return column.values.tolist(), column.codes
    used, first, inverse = np.unique(column.codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    values = column.values.tolist()
    return [values[code] for code in used[order].tolist()], place[inverse]


def _in_order(column: Coded) -> bool:
    """Whether every string occurs, and first appearances follow the order of the strings: no sorting needed then."""
    if not len(column.codes):
        return not len(column.values)
    seen = np.maximum.accumulate(column.codes)
    return bool(seen[0] == 0 and seen[-1] == len(column.values) - 1 and (np.diff(seen) <= 1).all())
