"""A Parquet file's clicks as rows: columns in memory, JSON made only of the rows that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.batch import Int64
from stream.errors import ConfigError
from stream.replay.rows import Indices, UInt32
from stream.stamps import Refused, Timestamp, read, read_all

REQUIRED = ("user_id", "product_id")
OPTIONAL = ("timestamp", "event_type", "event_id")
_BLOCK_ROWS = 16_384
_MS_READ_AS_MS = 100_000_000_000
"""Epoch numbers below this one (March 1973) are read as seconds, so older times travel as text."""


class _Row(msgspec.Struct, omit_defaults=True, gc=False):
    user_id: Any
    product_id: Any
    timestamp: Any = None
    event_type: Any = None
    event_id: Any = None


_encode = msgspec.json.Encoder().encode


class ColumnRows:
    """Rows of one Parquet file with `user_id`, `product_id` and, where present, `timestamp`, `event_type`, `event_id`.

    Integer ids become decimal strings. Times may be timestamps, dates, epoch numbers or text.
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        table = _read(path)
        table = table if limit is None else table.slice(0, limit)
        if not table.num_rows:
            raise ConfigError(f"{path}: the Parquet file has no rows")
        names = [name for name in (*REQUIRED, *OPTIONAL) if name in table.column_names]
        columns = {name: table.column(name) for name in names}
        stamps = columns.pop("timestamp", None)
        self._columns = {name: _text(column, name, path) for name, column in columns.items()}
        self._stamps, self.times = _stamps(stamps, table.num_rows, path)
        self.hashes = _hashes(self._columns["user_id"])

    def __len__(self) -> int:
        return len(self.hashes)

    def lines(self, indices: Indices) -> list[bytes | None]:
        """The rows at `indices`, each as one JSON text."""
        place = np.asarray(indices, np.int64)
        columns = {name: column.take(place).to_pylist() for name, column in self._columns.items()}
        nothing = [None] * len(place)
        stamps = self._stamps.take(place).to_pylist() if self._stamps is not None else nothing
        types, event_ids = columns.get("event_type", nothing), columns.get("event_id", nothing)
        rows = zip(columns["user_id"], columns["product_id"], stamps, types, event_ids, strict=True)
        return [_encode(_Row(*row)) for row in rows]

    def keys(self, indices: Indices) -> list[bytes | None]:
        """The user ids at `indices` in UTF-8; None where a row has none."""
        users = self._columns["user_id"].take(np.asarray(indices, np.int64)).to_pylist()
        return [user.encode() if user is not None else None for user in users]

    def line_number(self, index: int) -> int:
        """The row's number, counted from 1."""
        return index + 1


def _read(path: Path) -> Any:
    try:
        names = pq.read_schema(path).names
        missing = [name for name in REQUIRED if name not in names]
        if missing:
            raise ConfigError(
                f"{path}: no column {' and no column '.join(missing)}; the file has: {', '.join(names)}. "
                f"Rename its columns to {', '.join((*REQUIRED, *OPTIONAL))} (the last three may be missing)"
            )
        # Rows in file order, from one thread: the order is the stream's.
        return pq.read_table(path, columns=[name for name in (*REQUIRED, *OPTIONAL) if name in names])
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: not a Parquet file that can be read: {error}") from error


def _text(column: Any, name: str, path: Path) -> Any:
    """The column as one array of strings. Integers become decimal; other kinds cannot be an id."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    allowed = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    if not any(is_kind(kind) for is_kind in allowed):
        raise ConfigError(f"{path}: column {name} is of type {kind}; strings or integers are expected")
    return column.cast(pa.large_string()).combine_chunks()


def _hashes(users: Any) -> UInt32:
    coded = users.dictionary_encode()
    table = np.array([crc32(user.encode()) for user in coded.dictionary.to_pylist()] + [0], np.uint32)
    hashes: UInt32 = table[coded.indices.fill_null(len(table) - 1).to_numpy()]
    return hashes


def _stamps(column: Any, rows: int, path: Path) -> tuple[Any, Int64]:
    """What to write as `timestamp` (None: nothing), and the times in milliseconds, 0 where there is none."""
    if column is None or pa.types.is_null(column.type):
        return None, np.zeros(rows, np.int64)
    column = column.combine_chunks()
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _stamps_of_moments(column)
    allowed = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string)
    if any(is_kind(kind) for is_kind in allowed):
        return column, _times(column)
    raise ConfigError(f"{path}: column timestamp is of type {kind}; a timestamp, a number or ISO 8601 is expected")


def _stamps_of_moments(column: Any) -> tuple[Any, Int64]:
    millis = column.cast(pa.timestamp("ms", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
    times: Int64 = millis.fill_null(0).to_numpy().copy()
    if times.min() >= _MS_READ_AS_MS:
        return millis, times
    # Without a zone, text is read as UTC, which is what Arrow's own numbers are.
    text = np.datetime_as_string(times.astype("datetime64[ms]"))
    return pa.array(text, pa.string(), mask=millis.is_null().to_numpy(zero_copy_only=False)), times


def _times(column: Any) -> Int64:
    """Milliseconds [n] of numbers or texts as decoding reads them; 0 where it would refuse one."""
    blocks = [column.slice(start, _BLOCK_ROWS).to_pylist() for start in range(0, len(column), _BLOCK_ROWS)]
    return np.concatenate([_block_times(block) for block in blocks])


def _block_times(stamps: list[Timestamp]) -> Int64:
    times = read_all(stamps, np.zeros(len(stamps), np.int64))
    if times is None:
        times = np.fromiter((_time(stamp) for stamp in stamps), np.int64, len(stamps))
    return times


def _time(stamp: Timestamp) -> int:
    try:
        return read(stamp, 0)
    except Refused:
        return 0
