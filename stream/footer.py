"""What a Parquet file claims of itself, read and bounded before anything is made of it.

A footer of some hundred bytes can ask a reader for any amount of memory: by its counts, by a page that says how large
it will be, by one long text in a dictionary that a million rows point to, by texts that begin as the one before. Only
files as our own writers make them pass: flat columns of given kinds, plain or dictionary pages, counts that agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stream.thrift import BINARY, I32, I64, LIST, STRUCT, Fields, Reader, Unreadable

INT64: Final = 2
TEXT: Final = 6
"""Parquet's physical types that our columns have."""
PAGE_HEADER_BYTES_MAX: Final = 4096
_MAGIC: Final = b"PAR1"
_TAIL: Final = 8
_PLAIN_OR_DICTIONARY: Final = {0, 2, 3, 8}
"""PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY. Others unfold: a delta encoded text repeats the one before."""
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2

Read = Callable[[int, int], bytes]
"""Bytes [start, start + length) of the file, fewer at its end."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a file may claim: bytes of its footer, rows, unpacked bytes of one row group, and row groups.

    `rows` and `size` bound one row group where `by_group`, else all of them together.
    """

    footer: int
    rows: int
    size: int
    groups: int
    by_group: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """One row group: rows, unpacked bytes, and its bytes [start, end) in the file."""

    rows: int
    size: int
    start: int
    end: int
    chunks: tuple[_Chunk, ...]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A column of a row group: its pages lie in [start, end)."""

    column: str
    start: int
    end: int
    values: int
    size: int
    dictionary: bool


def length(tail: bytes) -> int:
    """How long a footer is, by the last eight bytes of its file."""
    return int.from_bytes(tail[:4], "little")


def read(at: Read, size: int, columns: Sequence[tuple[str, int]], limits: Limits) -> list[Group]:
    """The row groups of a file of `size` bytes. Raises Unreadable unless it has exactly `columns` (name, type), and
    claims no more than `limits`.
    """
    tail = at(max(0, size - _TAIL), _TAIL)
    if size < len(_MAGIC) + _TAIL or tail[4:] != _MAGIC or at(0, len(_MAGIC)) != _MAGIC:
        raise Unreadable("it does not begin and end as a Parquet file")
    said = length(tail)
    end = size - _TAIL - said
    if said > limits.footer or end < len(_MAGIC):
        raise Unreadable(f"its footer is said to have {said} bytes, at most {limits.footer} are expected")
    reader = Reader(at(end, said))
    fields = reader.struct()
    if reader.place != said:
        raise Unreadable("its footer ends early")
    _refuse(fields, {8: "encryption", 9: "a signature"})
    _check_columns(_get(fields, 2, LIST), columns)
    groups = _get(fields, 4, LIST)
    if len(groups) > limits.groups:
        raise Unreadable(f"it claims {len(groups)} row groups, at most {limits.groups} are expected")
    found = [_group(group, [name for name, _ in columns], end) for group in groups]
    if sum(group.rows for group in found) != _get(fields, 3, I64):
        raise Unreadable("its row groups do not add up to its rows")
    _check_limits(found, limits)
    return found


def check_pages(at: Read, groups: Sequence[Group]) -> None:
    """Walk all pages, by their headers: raises Unreadable unless they hold what the footer says, in encodings that
    cannot unfold to more.
    """
    for group in groups:
        for chunk in group.chunks:
            _check_chunk(at, chunk)


def _check_limits(groups: Sequence[Group], limits: Limits) -> None:
    counts = [(group.rows, group.size) for group in groups]
    if not limits.by_group:
        counts = [(sum(rows for rows, _ in counts), sum(size for _, size in counts))]
    for rows, size in counts:
        if rows > limits.rows or size > limits.size:
            raise Unreadable(f"it claims {rows} rows in {size} bytes, too many")


def _check_columns(schema: Any, columns: Sequence[tuple[str, int]]) -> None:
    root, *leaves = [_as_fields(element) for element in schema] or [{}]
    if root.get((5, I32)) != len(leaves) or len(leaves) != len(columns):
        raise Unreadable(f"its columns are not {', '.join(name for name, _ in columns)}")
    for leaf, (name, kind) in zip(leaves, columns, strict=True):
        found = _get(leaf, 4, BINARY)
        if found != name.encode() or leaf.get((1, I32)) != kind or leaf.get((3, I32)) not in {0, 1}:
            raise Unreadable(f"its columns are not {', '.join(name for name, _ in columns)}: one is {found!r:.80}")
        _refuse(leaf, {5: "a nested column"})


def _group(group: Any, columns: Sequence[str], end: int) -> Group:
    fields = _as_fields(group)
    rows = _get(fields, 3, I64)
    found = _get(fields, 1, LIST)
    if len(found) != len(columns) or rows < 0:
        raise Unreadable(f"a row group has {len(found)} columns and {rows} rows")
    chunks = tuple(_chunk(chunk, name, end) for chunk, name in zip(found, columns, strict=True))
    if any(chunk.values != rows for chunk in chunks):
        raise Unreadable(f"a column has not the {rows} values of its row group")
    size = sum(chunk.size for chunk in chunks)
    if not 0 <= _get(fields, 2, I64) <= size:
        raise Unreadable("a row group is said to be larger than its columns")
    return Group(
        rows, size, min((chunk.start for chunk in chunks), default=0), max((c.end for c in chunks), default=0), chunks
    )


def _chunk(chunk: Any, column: str, end: int) -> _Chunk:
    outer = _as_fields(chunk)
    _refuse(outer, {1: "data in another file", 8: "encryption", 9: "encryption"})
    fields = _as_fields(_get(outer, 3, STRUCT))
    if _get(fields, 3, LIST) != [column.encode()]:
        raise Unreadable(f"column {column!r} is stored under another name")
    size, packed = _get(fields, 6, I64), _get(fields, 7, I64)
    values, data, dictionary = _get(fields, 5, I64), _get(fields, 9, I64), fields.get((11, I64))
    start = data if dictionary is None else dictionary
    inside = len(_MAGIC) <= start <= start + packed <= end
    if not inside or not (start <= data <= end or not values) or min(size, packed) < 0:
        raise Unreadable(f"column {column!r} is said to lie outside of the file")
    return _Chunk(column, start, start + packed, values, size, dictionary is not None)


def _check_chunk(at: Read, chunk: _Chunk) -> None:
    values = size = 0
    for number, page in enumerate(_pages(at, chunk)):
        kind, header = _get(page, 1, I32), _page_body(page)
        if (kind == _DICTIONARY_PAGE) != (chunk.dictionary and not number):
            raise Unreadable(f"column {chunk.column!r} has a dictionary where none is expected, or none")
        if _get(header, 2, I32) not in _PLAIN_OR_DICTIONARY:
            raise Unreadable(f"column {chunk.column!r} is in an encoding that none of ours has")
        count = _get(header, 1, I32)
        values += count if kind == _DATA_PAGE else 0
        size += _get(page, 2, I32)
        if count < 0 or values > chunk.values or size > chunk.size:
            raise Unreadable(f"a page of column {chunk.column!r} is said to be larger than the column")
    if values != chunk.values:
        raise Unreadable(f"the pages of column {chunk.column!r} have {values} values, not {chunk.values}")


def _page_body(page: Fields) -> Fields:
    body = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7}.get(_get(page, 1, I32))
    if body is None:
        raise Unreadable("a page is of a kind that none of ours has")
    return _as_fields(_get(page, body, STRUCT))


def _pages(at: Read, chunk: _Chunk) -> Iterator[Fields]:
    place = chunk.start
    while place < chunk.end:
        reader = Reader(at(place, min(PAGE_HEADER_BYTES_MAX, chunk.end - place)))
        page = reader.struct()
        packed = _get(page, 3, I32)
        if min(packed, _get(page, 2, I32)) < 0:
            raise Unreadable(f"a page of column {chunk.column!r} has a negative size")
        yield page
        place += reader.place + packed
    if place != chunk.end:
        raise Unreadable(f"the pages of column {chunk.column!r} run past its end")


def _get(fields: Fields, number: int, kind: int) -> Any:
    if (number, kind) not in fields:
        raise Unreadable(f"field {number} is missing")
    return fields[number, kind]


def _refuse(fields: Fields, unwanted: dict[int, str]) -> None:
    for number, _ in fields:
        if number in unwanted:
            raise Unreadable(f"it has {unwanted[number]}, which none of ours has")


def _as_fields(value: Any) -> Fields:
    if not isinstance(value, dict):
        raise Unreadable("a number or a text stands where a structure is expected")
    return value
