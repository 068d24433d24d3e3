"""Parquet from outside as tables: pyarrow is shown only what `footer` has passed, and unfolds no more than is allowed.

Texts are read as dictionaries first, so that one long text which a million rows point to is seen while it is one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream import footer
from stream.footer import Limits, Read
from stream.thrift import Unreadable

_GUESSED_FOOTER_BYTES = 64 << 10
"""What Arrow reads of a file's end before it knows how long the footer is."""
_CODED = pa.dictionary(pa.int32(), pa.string())


def table(data: bytes, schema: pa.Schema, limits: Limits) -> pa.Table:
    """All rows of a file of exactly `schema`. Raises Unreadable for anything else, or more than `limits`."""
    view = memoryview(data)

    def at(start: int, length: int) -> bytes:
        return bytes(view[start : start + length])

    footer.check_pages(at, footer.read(at, len(data), _kinds(schema), limits))
    return _plain(_read(pa.BufferReader(data), schema, None), schema, limits)


def tables(at: Read, size: int, schema: pa.Schema, limits: Limits) -> Iterator[pa.Table]:
    """The row groups of a file of `size` bytes one by one. `limits.rows` and `.size` hold for each of them.

    Raises Unreadable as `table` does, for a group when it comes to it.
    """
    limits = replace(limits, by_group=True)
    held = _Held(size)
    held.hold(0, at(0, 4))
    length = max(_GUESSED_FOOTER_BYTES, min(footer.length(at(max(0, size - 8), 8)), limits.footer) + 8)
    held.hold(max(0, size - length), at(max(0, size - length), length))
    for number, group in enumerate(footer.read(held.at, size, _kinds(schema), limits)):
        if group.end - group.start > limits.size:
            raise Unreadable(f"row group {number} is spread over {group.end - group.start} bytes")
        held.hold(group.start, at(group.start, group.end - group.start), instead=True)
        footer.check_pages(held.at, [group])
        yield _plain(_read(held, schema, number), schema, limits)


def _kinds(schema: pa.Schema) -> list[tuple[str, int]]:
    return [(field.name, footer.TEXT if pa.types.is_string(field.type) else footer.INT64) for field in schema]


def _read(source: io.IOBase | pa.NativeFile, schema: pa.Schema, group: int | None) -> pa.Table:
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    wanted = pa.schema([field.with_type(_CODED) if field.name in texts else field for field in schema])
    try:
        file = pq.ParquetFile(source, read_dictionary=texts, pre_buffer=False)  # it is in memory
        if not file.schema_arrow.equals(wanted):
            raise Unreadable(f"its columns are {file.schema_arrow.names}, of other types than expected")
        found = file.read(use_threads=False) if group is None else file.read_row_group(group, use_threads=False)
        found.validate(full=True)  # text that is no UTF-8 would stop whoever reads it
        return found
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(f"it is not readable as Parquet: {error}") from error


def _plain(coded: pa.Table, schema: pa.Schema, limits: Limits) -> pa.Table:
    """Dictionaries unfolded, unless that takes more than `limits.size` bytes."""
    texts = [chunk for column in coded.columns for chunk in column.chunks if chunk.type == _CODED]
    # No text is longer than its dictionary: with ours that settles it, without a look at each.
    most = sum(len(chunk) * chunk.dictionary.nbytes for chunk in texts)
    if most > limits.size and (size := sum(map(_unfolded, texts))) > limits.size:
        raise Unreadable(f"its texts have {size} bytes, too many")
    return coded.cast(schema)


def _unfolded(chunk: pa.DictionaryArray) -> int:
    lengths = np.asarray(pc.binary_length(chunk.dictionary).fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    return int(lengths[pc.drop_null(chunk.indices).to_numpy(zero_copy_only=False)].sum()) if len(lengths) else 0


class _Held(io.RawIOBase):
    """A file of which only the pieces at hand can be read: what was checked is what is used, and is fetched once."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0
        self._pieces: list[tuple[int, bytes]] = []

    def hold(self, start: int, data: bytes, *, instead: bool = False) -> None:
        """Have a piece at hand, `instead` of the third one."""
        self._pieces = [*(self._pieces[:2] if instead else self._pieces), (start, data)]

    def at(self, start: int, length: int) -> bytes:
        end = min(start + length, self._size)
        for first, data in self._pieces:
            if first <= start and end <= first + len(data):
                return data[start - first : end - first]
        raise OSError(f"bytes {start} to {end} are not part of what was checked")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        data = self.at(self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        return data
