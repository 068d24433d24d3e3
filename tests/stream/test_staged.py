"""Staged clicks: the learner gets the same arrays from Parquet as from decoding, and nothing that is not ours."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.batch import Batch, Strings
from stream import staged
from stream.errors import StoreRefused
from stream.events import Decoded

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
row = st.tuples(ids, st.sampled_from(["p", "q", "\x00", "é😀"]), st.sampled_from(["view", "buy"]), st.none() | ids)


def decoded_of(rows: list[tuple[str, str, str, str | None]], partition: int = 0) -> Decoded:
    users, items, types, keys = ([row[column] for row in rows] for column in range(4))
    offsets = np.arange(len(rows), dtype=np.int64) + 2**40
    return Decoded(partition, offsets, users, items, types, offsets % 977, None if set(keys) <= {None} else keys)  # type: ignore[arg-type]


def arrays(batch: Batch, event_ids: Strings) -> list[tuple[Any, list[Any]]]:
    """Everything that the learner is given: dtypes and elements."""
    columns = [column for coded in (batch.users, batch.items, batch.types) for column in (coded.codes, coded.values)]
    flat = [part for column in [*columns, event_ids] for part in parts(column)]
    return [(array.dtype, array.tolist()) for array in [*flat, batch.times]]


def parts(column: Any) -> list[Any]:
    return [column.data, column.offsets] if isinstance(column, Strings) else [column]


@given(st.lists(st.lists(row, max_size=8), max_size=3))
def test_parquet_changes_no_element(ranges: list[list[tuple[str, str, str, str | None]]]) -> None:
    """Fresh from decoding or read back from the store: the same codes, bytes, offsets and times."""
    tables = [staged.to_table(decoded_of(rows)) for rows in ranges]
    back = [staged.decode(staged.encode(table), "k") for table in tables]

    assert arrays(*staged.to_batch(tables)) == arrays(*staged.to_batch(back))


@given(st.lists(st.lists(row, max_size=8), max_size=3))
def test_codes_follow_first_appearance(ranges: list[list[tuple[str, str, str, str | None]]]) -> None:
    """A batch is what plain Python makes of the columns, unicode and NUL included; event ids are those present."""
    rows = [row for rows in ranges for row in rows]
    users, items, types, keys = ([row[column] for row in rows] for column in range(4))

    batch, event_ids = staged.to_batch([staged.to_table(decoded_of(rows)) for rows in ranges])

    times = [time for rows in ranges for time in decoded_of(rows).times.tolist()]
    expected = Batch.of(users, items, times, types)  # type: ignore[arg-type]
    assert arrays(expected, Strings.of([key for key in keys if key is not None])) == arrays(batch, event_ids)


def test_another_dictionary_gives_the_same_codes() -> None:
    """The order of a Parquet file's own dictionary, and its row groups, do not reach the learner."""
    rows = [(f"u{at % 7}", f"p{at % 3}", "view", None) for at in range(50)]
    table = staged.to_table(decoded_of(rows))  # type: ignore[arg-type]
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=6, use_dictionary=False, compression="none")

    back = staged.decode(sink.getvalue(), "k")

    assert arrays(*staged.to_batch([table])) == arrays(*staged.to_batch([back]))


def test_a_part_of_a_table_is_a_batch() -> None:
    """Slices share their memory with the whole, and none of it shows."""
    rows = [("u", "pé", "view", "e1"), ("v", "q", "buy", "e2"), ("w", "pé", "view", None)]
    table = staged.to_table(decoded_of(rows))

    batch, event_ids = staged.to_batch([table.slice(1, 2)])

    expected = Batch.of(["v", "w"], ["q", "pé"], decoded_of(rows).times[1:], ["buy", "view"])
    assert arrays(batch, event_ids) == arrays(expected, Strings.of(["e2"]))


def test_equal_tables_have_equal_bytes() -> None:
    """A range that is staged again after a crash is the same object."""
    table = staged.to_table(decoded_of([("u", "p", "view", "e"), ("v", "q", "buy", None)]))

    assert staged.encode(table) == staged.encode(table.slice(0))


FOREIGN = [
    pa.table({"user_id": ["u"]}),
    staged.SCHEMA.empty_table().drop_columns(["event_id"]),
    staged.SCHEMA.empty_table().rename_columns([*staged.SCHEMA.names[:-1], "event"]),
    staged.SCHEMA.empty_table().cast(
        staged.SCHEMA.set(4, pa.field("timestamp", pa.timestamp("us", "UTC"), nullable=False))
    ),
    staged.SCHEMA.empty_table().cast(staged.SCHEMA.set(1, pa.field("user_id", pa.string()))),
]


@pytest.mark.parametrize("table", FOREIGN, ids=range(len(FOREIGN)))
def test_foreign_parquet_is_refused_by_name(table: pa.Table) -> None:
    """Other columns, other types, columns that may be null: refused, naming the object."""
    sink = io.BytesIO()
    pq.write_table(table, sink)

    with pytest.raises(StoreRefused, match=r"stage/x\.parquet is not a staged object"):
        staged.decode(sink.getvalue(), "stage/x.parquet")


@pytest.mark.parametrize("cut", [0, 3, 4, 40, -1, -9])
def test_truncated_bytes_are_refused_by_name(cut: int) -> None:
    """Half an object is no object."""
    data = staged.encode(staged.to_table(decoded_of([("u", "p", "view", None)])))

    with pytest.raises(StoreRefused, match=r"stage/x\.parquet"):
        staged.decode(data[:cut], "stage/x.parquet")


@pytest.mark.parametrize("limit", ["size", "rows"])
def test_huge_claims_are_refused_unread(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What claims too many bytes or clicks is refused from its footer: the pages are not touched."""
    rows = [("u", "p", "view", None)] * 100
    data = bytearray(staged.encode(staged.to_table(decoded_of(rows))))  # type: ignore[arg-type]
    limits: Any = {limit: 99}
    monkeypatch.setattr(staged, "LIMITS", replace(staged.LIMITS, **limits))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[4:footer] = bytes(footer - 4)  # reading a page now fails in another way

    with pytest.raises(StoreRefused, match=r"stage/x\.parquet is not .* too many"):
        staged.decode(bytes(data), "stage/x.parquet")


def test_text_that_is_no_utf8_is_refused() -> None:
    """It would stop the learner long after the object was accepted."""
    broken = pa.array([b"\xff"]).view(pa.string())
    columns = [pa.array([1]), broken, pa.array(["p"]), pa.array(["view"]), pa.array([5], pa.timestamp("ms", "UTC"))]
    table = pa.table([*columns, pa.array([None], pa.string())], staged.SCHEMA)

    with pytest.raises(StoreRefused, match=r"stage/x\.parquet"):
        staged.decode(staged.encode(table), "stage/x.parquet")
