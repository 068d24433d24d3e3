"""Tables grow without forgetting, and show exactly the rows in use."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.table import Column, Table

COLUMNS = {"vector": Column(3, np.float32), "count": Column(0, np.int32, -1), "slot": Column(0, np.int32, kept=False)}


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=4), max_size=9), max_size=9))
def test_rows_are_numbered_by_first_appearance(batches: list[list[str]]) -> None:
    """Whatever comes, in whatever portions, an id's row is its place among the distinct ids; the text agrees."""
    table = Table(COLUMNS)
    for batch in batches:
        foreseen = table.lookup(batch)
        assert foreseen.tolist() == table.intern(batch).tolist()

    expected = list(dict.fromkeys(value for batch in batches for value in batch))
    assert table.ids == expected
    assert table.strings.tolist() == expected
    assert table.lookup(expected).tolist() == list(range(len(expected)))


def test_growth_keeps_values_and_fills_new_rows() -> None:
    """Values survive every growth; new rows hold the fill value; views have exactly the rows in use."""
    table = Table(COLUMNS)
    for size in (1, 50, 1000):
        before = table["vector"].copy()
        table.intern([f"id{k}" for k in range(size)])
        np.testing.assert_array_equal(table["vector"][: len(before)], before)
        table["vector"][: size // 2 + 1] = 7.0
        table["count"][0] = 5

        assert table.vectors.shape == (size, 3)
        assert (table["vector"][: size // 2 + 1] == 7.0).all()
        assert (table["vector"][size // 2 + 1 :] == 0.0).all()
        assert table["count"].tolist() == [5] + [-1] * (size - 1)


def test_growth_is_geometric() -> None:
    """A thousand single additions move the columns to a new place only a few times."""
    table, places = Table(COLUMNS), set()
    for k in range(1000):
        table.intern([f"id{k}"])
        places.add(table["vector"].__array_interface__["data"][0])

    assert len(places) < 12


def test_scratch_is_not_kept() -> None:
    """Scratch columns are no part of the state."""
    assert Table(COLUMNS).kept().keys() == {"vector", "count"}


def test_ids_must_be_distinct() -> None:
    """Appending an id that is there already is refused."""
    table = Table(COLUMNS)
    table.append(["a"])

    with pytest.raises(ValueError, match="distinct"):
        table.append(["b", "a"])
