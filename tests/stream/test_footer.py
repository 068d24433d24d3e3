"""A Parquet file's claims: honest files pass unchanged, and every lie is refused before pyarrow has seen the file."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import parquet, staged
from stream.events import Decoded
from stream.footer import Limits
from stream.thrift import BINARY, I32, I64, LIST, STRUCT, Fields, Reader, Unreadable
from tests.hostile import encoded, evil, reforged, varint

LIMITS = Limits(footer=1 << 20, rows=10_000, size=1 << 20, groups=8)
ONE = pa.schema([pa.field("id", pa.string(), nullable=False)])


def clicks(count: int) -> pa.Table:
    numbers = range(count)
    users, items = [f"u{number % 7}" for number in numbers], [f"i{number}" for number in numbers]
    return staged.to_table(Decoded(0, np.arange(count), users, items, ["view"] * count, np.arange(count), None))


HONEST = staged.encode(clicks(50))
TWO_GROUPS = io.BytesIO()
with pq.ParquetWriter(TWO_GROUPS, staged.SCHEMA, compression="zstd") as _writer:
    _writer.write_table(clicks(5))
    _writer.write_table(clicks(9))


@pytest.mark.parametrize("count", [0, 1, 50, 5000])
@pytest.mark.parametrize("codec", ["zstd", "snappy", "none"])
def test_honest_files_pass(count: int, codec: str) -> None:
    """Whatever our writers make, of any length and compression, comes back element by element."""
    sink = io.BytesIO()
    pq.write_table(clicks(count), sink, compression=codec)

    assert parquet.table(sink.getvalue(), staged.SCHEMA, staged.LIMITS).equals(clicks(count))


def test_group_by_group() -> None:
    """A file may be read piece by piece: only the pieces that were checked are used, each fetched once."""
    data, asked = TWO_GROUPS.getvalue(), []

    def at(start: int, length: int) -> bytes:
        asked.append((start, start + length))
        return data[start : start + length]

    found = list(parquet.tables(at, len(data), staged.SCHEMA, LIMITS))

    assert [table.num_rows for table in found] == [5, 9]
    assert found[1].equals(clicks(9))
    assert len(asked) == 5


def group(fields: Fields, number: int = 0) -> Fields:
    return fields[4, LIST][number]  # type: ignore[no-any-return]


def chunk(fields: Fields) -> Fields:
    return group(fields)[1, LIST][1]  # type: ignore[no-any-return]


def column(fields: Fields) -> Fields:
    return chunk(fields)[3, STRUCT]  # type: ignore[no-any-return]


def leaf(fields: Fields) -> Fields:
    return fields[2, LIST][2]  # type: ignore[no-any-return]


LIES: dict[str, tuple[Callable[[Fields], object], str]] = {
    "2^60 rows": (lambda f: f.update({(3, I64): 1 << 60}), "do not add up"),
    "2^60 rows in the group too": (
        lambda f: (f.update({(3, I64): 1 << 60}), group(f).update({(3, I64): 1 << 60})),
        "values of its row group",
    ),
    "2^60 values": (lambda f: column(f).update({(5, I64): 1 << 60}), "values of its row group"),
    "2^60 bytes": (
        lambda f: (column(f).update({(6, I64): 1 << 60}), group(f).update({(2, I64): 1 << 60})),
        "too many",
    ),
    "negative bytes": (lambda f: column(f).update({(6, I64): -5}), "outside of the file"),
    "negative rows": (lambda f: group(f).update({(3, I64): -1}), "-1 rows"),
    "a group larger than its columns": (lambda f: group(f).update({(2, I64): 1 << 50}), "larger than its columns"),
    "data outside": (lambda f: column(f).update({(9, I64): 1 << 40}), "outside of the file"),
    "data before the file": (lambda f: column(f).update({(11, I64): -9}), "outside of the file"),
    "data that runs out": (lambda f: column(f).update({(7, I64): 1 << 40}), "outside of the file"),
    "less data than pages": (
        lambda f: column(f).update({(7, I64): column(f)[7, I64] - 1}),
        "past its end|in the middle",
    ),
    "less room than pages take": (lambda f: column(f).update({(6, I64): 20}), "larger than"),
    "no dictionary said": (lambda f: column(f).pop((11, I64)), "dictionary|lie outside|negative|encoding|field"),
    "many groups": (lambda f: f[4, LIST].extend(f[4, LIST] * 8), "row groups"),
    "twice the group": (lambda f: f[4, LIST].extend(f[4, LIST]), "do not add up"),
    "another file": (lambda f: chunk(f).update({(1, BINARY): b"/etc/passwd"}), "another file"),
    "encryption": (lambda f: f.update({(8, STRUCT): {}}), "encryption"),
    "an encrypted column": (lambda f: chunk(f).update({(8, STRUCT): {}}), "encryption"),
    "another name": (lambda f: leaf(f).update({(4, BINARY): b"user"}), "its columns are not"),
    "another name of the pages": (lambda f: column(f).update({(3, LIST): [b"user"]}), "another name"),
    "another type": (lambda f: leaf(f).update({(1, I32): 7}), "its columns are not"),
    "repeated": (lambda f: leaf(f).update({(3, I32): 2}), "its columns are not"),
    "nested": (lambda f: leaf(f).update({(5, I32): 1}), "nested"),
    "a column more": (lambda f: f[2, LIST].append(leaf(f)), "its columns are not"),
    "no columns": (lambda f: f.update({(2, LIST): []}), "its columns are not"),
    "numbers for columns": (lambda f: f.update({(2, LIST): [1, 2]}), "where a structure is expected"),
    "no groups": (lambda f: f.pop((4, LIST)), "field 4 is missing"),
    "rows of another kind": (lambda f: (f.pop((3, I64)), f.update({(3, I32): 50})), "field 3 is missing"),
}


def nothing_but_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on pyarrow must not be shown a file."""

    def shown(*_: object, **__: object) -> None:
        pytest.fail("pyarrow was shown the file")

    monkeypatch.setattr(pq, "ParquetFile", shown)


@pytest.mark.parametrize(("lie", "words"), LIES.values(), ids=LIES)
def test_lying_footer_is_refused_unseen(
    lie: Callable[[Fields], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each claim that could lead a reader astray is found by our own reader."""
    data = reforged(HONEST, lie)
    nothing_but_ours(monkeypatch)

    with pytest.raises(Unreadable, match=words):
        parquet.table(data, staged.SCHEMA, LIMITS)


def test_reforging_alone_changes_nothing() -> None:
    """The forger's own writing is read as the original is: what is refused above is refused for the lie."""
    assert parquet.table(reforged(HONEST, lambda _: None), staged.SCHEMA, LIMITS).equals(clicks(50))


def with_page(edit: Callable[[Fields], object]) -> bytes:
    """The honest file with the first page header of its first column edited, its length kept."""
    length = int.from_bytes(HONEST[-8:-4], "little")
    footer = Reader(HONEST[-8 - length : -8]).struct()
    start = group(footer)[1, LIST][0][3, STRUCT].get((11, I64), 4)
    reader = Reader(HONEST, start)
    page = reader.struct()
    edit(page)
    new = encoded(page)
    grown = len(new) - (reader.place - start)
    data = HONEST[:start] + new + HONEST[reader.place :]

    def move(fields: Fields) -> None:
        for number, each in enumerate(group(fields)[1, LIST]):
            meta = each[3, STRUCT]
            for place in ((9, I64), (11, I64)):
                if place in meta and (number or meta[place] > start):
                    meta[place] += grown
            if not number:
                meta[7, I64] += grown
                meta[6, I64] += 1 << 16  # room for what a page may lie about

    return reforged(data, move)


PAGES: dict[str, tuple[Callable[[Fields], object], str]] = {
    "2 GB": (lambda page: page.update({(2, I32): (1 << 31) - 1}), "larger than the column"),
    "a negative size": (lambda page: page.update({(2, I32): -1}), "negative"),
    "a negative packed size": (lambda page: page.update({(3, I32): -1}), "negative"),
    "a data page of version 2": (lambda page: page.update({(1, I32): 3}), "of a kind that none of ours has"),
    "an encoding that unfolds": (
        lambda page: page[(7 if (7, STRUCT) in page else 5), STRUCT].update({(2, I32): 7}),
        "encoding",
    ),
    "a negative count": (
        lambda page: page[(7 if (7, STRUCT) in page else 5), STRUCT].update({(1, I32): -1}),
        "larger than the column",
    ),
}


@pytest.mark.parametrize(("lie", "words"), PAGES.values(), ids=PAGES)
def test_lying_page_is_refused_unseen(
    lie: Callable[[Fields], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that would make a reader allocate more than its column has is found before pyarrow is there."""
    data = with_page(lie)
    nothing_but_ours(monkeypatch)

    with pytest.raises(Unreadable, match=words):
        parquet.table(data, staged.SCHEMA, LIMITS)


def test_honest_page_passes() -> None:
    """Pages moved by the forger and else left alone are read."""
    assert parquet.table(with_page(lambda _: None), staged.SCHEMA, LIMITS).equals(clicks(50))


def bomb(text: str, rows: int, **options: Any) -> bytes:
    """A file of few bytes that holds `text` in every row."""
    indices = pa.array(np.zeros(rows, np.int32))
    table = pa.table([pa.DictionaryArray.from_arrays(indices, pa.array([text]))], ["id"])
    sink = io.BytesIO()
    pq.write_table(table, sink, store_schema=False, **options)
    data = sink.getvalue()
    return reforged(data, lambda f: f[2, LIST][1].update({(3, I32): 0}) if options.get("required") else None)


def test_dictionary_bomb_is_never_unfolded() -> None:
    """One long text that a million rows point to, a hundred gigabytes unfolded, is seen while it is one."""
    data = bomb("x" * 100_000, 1 << 20)
    schema = pa.schema([pa.field("id", pa.string())])
    limits = replace(LIMITS, rows=1 << 20, size=1 << 30)
    before = pa.total_allocated_bytes()

    with pytest.raises(Unreadable, match=r"its texts have 104857600000 bytes, too many"):
        parquet.table(data, schema, limits)
    assert len(data) < 200_000
    assert pa.total_allocated_bytes() - before < 50_000_000


def test_delta_bomb_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that say "as the one before" take no room at all in the file."""
    sink = io.BytesIO()
    table = pa.table([pa.array(["x" * 10_000] * 5000)], ["id"])
    pq.write_table(table, sink, use_dictionary=False, column_encoding={"id": "DELTA_BYTE_ARRAY"}, store_schema=False)
    nothing_but_ours(monkeypatch)

    with pytest.raises(Unreadable, match="encoding"):
        parquet.table(sink.getvalue(), pa.schema([pa.field("id", pa.string())]), replace(LIMITS, size=1 << 40))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 11, 12, 13])
def test_short_files_are_refused(size: int) -> None:
    """What has no room for a footer has none."""
    with pytest.raises(Unreadable, match=r"does not begin and end|footer"):
        parquet.table((b"PAR1" + b"\xff" * 20)[: max(0, size - 4)] + b"PAR1"[: min(4, size)], ONE, LIMITS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x1c" * 40, "nested too deeply"),
        (b"\x19\xfc\xff\xff\xff\xff\x0f", "more than there are bytes"),
        (b"\x18\xff\xff\xff\xff\x0f", "more than are left"),
        (b"\x16" + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        (b"\x15" + b"\xff" * 4 + b"\x7f", "more than 32 bits"),
        (b"\x16" + b"\xff" * 30, "more than 64 bits"),
        (b"\x15\x00\x05\x00", "in the middle|comes after"),
        (b"\x15\x02\x05\x02\x02", "comes after"),
        (b"\x1b\x00", "kind 11"),
        (b"\x17\x00\x00", "left"),
        (evil(), "kind|comes after|middle|bits|left"),
    ],
)
def test_hostile_thrift_is_refused(data: bytes, words: str) -> None:
    """Depth, counts, lengths, widths, order and kinds are bounded by the bytes that are there."""
    with pytest.raises(Unreadable, match=words):
        Reader(data).struct()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Nothing but Unreadable, whatever the footer."""
    file = b"PAR1" + data + len(data).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(Unreadable):
        parquet.table(file, staged.SCHEMA, LIMITS)


@given(st.integers(4, len(HONEST) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_any_change_is_read_or_refused(at: int, put: bytes, drop: int) -> None:
    """Bytes put in, taken out or changed anywhere: a table of the right columns, or Unreadable; never anything else."""
    start = len(HONEST) - 8 - int.from_bytes(HONEST[-8:-4], "little")
    body = HONEST[:at] + put + HONEST[at + drop :]
    data = body[:-8] + (len(body) - 8 - start).to_bytes(4, "little", signed=True) + b"PAR1"
    try:
        found = parquet.table(data, staged.SCHEMA, LIMITS)
    except Unreadable:
        return

    assert found.schema.equals(staged.SCHEMA)
    assert found.num_rows == 50


@given(st.integers(0, (1 << 64) - 1))
def test_numbers_come_back(number: int) -> None:
    """Every number of 64 bits is read as it was written, and stands where it ends."""
    data = b"\x16" + varint(number) + b"\0"
    reader = Reader(data)

    assert reader.struct() == {(1, I64): (number >> 1) ^ -(number & 1)}
    assert reader.place == len(data)
