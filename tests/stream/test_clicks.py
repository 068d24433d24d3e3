"""Clicks as columns: order, batches, and telling those that are known already."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.events import Decoded
from stream.train.clicks import Clicks, in_time_order, without_contained

Row = tuple[str, str, int, str | None]
RECORD_MS = 5_000
ROWS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(1, 3), st.none()), max_size=12)


def clicks(rows: list[Row], record_ms: int = RECORD_MS) -> Clicks:
    """(user, item, time or 0 for none, event id) as clicks, in two chunks."""
    made = Clicks(record_ms, keeps_ids=True)
    for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        users, items, times, ids = ([row[place] for row in part] for place in range(4))
        stamps = np.array([time or record_ms for time in times], np.int64)
        made.extend(Decoded(0, np.arange(len(part)), users, items, ["view"] * len(part), stamps, ids))  # type: ignore[arg-type]
    return made


def rows_of(*parts: Clicks, size: int = 3) -> list[tuple[str, str, int]]:
    """What the batches hold, one after another."""
    found: list[tuple[str, str, int]] = []
    for batch in in_time_order(*parts).batches(size):
        found += zip(batch.users.tolist(), batch.items.tolist(), batch.times.tolist(), strict=True)
    return found


@given(ROWS, ROWS, st.integers(1, 5))
def test_batches_hold_every_click_once_in_the_order_of_time(first: list[Row], second: list[Row], size: int) -> None:
    """Whatever the sizes: nothing is lost or doubled, and equal times keep the order in which they were read."""
    wanted = sorted((row[:3] for row in first + second), key=lambda row: row[2])

    assert rows_of(clicks(first), clicks(second), size=size) == wanted


@given(ROWS, ROWS)
def test_known_clicks_are_left_out_as_often_as_they_are_known(known: list[Row], new: list[Row]) -> None:
    """The difference is that of multisets: a click that was made twice and known once stays once."""
    left = rows_of(without_contained(clicks(new), clicks(known)))

    assert Counter(left) == Counter(row[:3] for row in new) - Counter(row[:3] for row in known)


def test_an_event_id_tells_a_click_before_anything_else() -> None:
    """With ids on both sides the id decides, not user, item and time."""
    known = clicks([("a", "x", 1, "one"), ("a", "x", 2, "two")])

    left = without_contained(clicks([("b", "y", 9, "one"), ("a", "x", 2, "three")]), known)

    assert rows_of(left) == [("a", "x", 2)]


def test_clicks_without_id_and_time_are_known_all_or_none() -> None:
    """They cannot be told apart one by one: only if every one of them has an equal are they taken as known."""
    known = clicks([("a", "x", 0, None), ("a", "y", 0, None)])

    all_known = without_contained(clicks([("a", "y", 0, None), ("a", "x", 0, None)], 7_000), known)
    one_new = without_contained(clicks([("a", "y", 0, None), ("b", "x", 0, None)], 7_000), known)

    assert rows_of(all_known) == []
    assert rows_of(one_new) == [("a", "y", 7_000), ("b", "x", 7_000)]
