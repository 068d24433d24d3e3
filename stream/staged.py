"""Clicks as Parquet, and as the arrays that the learner takes: one table format for staging, archive and replay.

What is learned is always built from such a table, whether it comes fresh from decoding or back from the store, so that
a replay gives the learner the same arrays, element by element.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.batch import Batch, Coded, Strings
from stream import bounded, parquet
from stream.errors import StoreRefused
from stream.events import Decoded, StagedObject
from stream.footer import Limits
from stream.ports import ObjectStore
from stream.thrift import Unreadable

SCHEMA = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("event_id", pa.string()),
    ]
)
BYTES_MAX = 1 << 30
ROWS_MAX = 1 << 20
LIMITS = Limits(footer=1 << 20, rows=ROWS_MAX, size=BYTES_MAX, groups=64)
"""A staged object that claims to hold more bytes than this, decompressed, or more clicks than this, is not ours:
refused before it is read."""
ARCHIVE_LIMITS = Limits(footer=64 << 20, rows=ROWS_MAX, size=BYTES_MAX, groups=1 << 20)
"""Of an archive, whose row groups are staged objects: rows and size are those of one of them."""


def to_table(decoded: Decoded) -> pa.Table:
    """The accepted clicks of one partition range."""
    event_ids = decoded.event_ids if decoded.event_ids is not None else [None] * len(decoded.users)
    columns = [decoded.offsets, decoded.users, decoded.items, decoded.types, decoded.times, event_ids]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA)


def encode(table: pa.Table) -> bytes:
    """A table as Parquet bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=1, write_statistics=False)
    return sink.getvalue()


def read(store: ObjectStore, stored: StagedObject) -> bytes:
    """A staged object's bytes, one more than its plan says if it has more: its hash is then another one.

    Raises NotFound, and StoreRefused when the plan claims more than can be.
    """
    if not 0 <= stored.size <= bounded.STAGED_BYTES_MAX:
        raise StoreRefused(f"a plan says that {stored.key} has {stored.size} bytes, which cannot be: refused")
    return store.get_range(stored.key, 0, stored.size + 1)


def decode(data: bytes, name: str) -> pa.Table:
    """Parquet bytes as a table of `SCHEMA`. Raises StoreRefused naming `name` for anything else."""
    try:
        return parquet.table(data, SCHEMA, LIMITS)
    except Unreadable as error:
        raise StoreRefused(f"{name} is not a staged object of Headrace: {error}") from error


def digest(data: bytes | memoryview) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def to_batch(tables: Sequence[pa.Table]) -> tuple[Batch, Strings]:
    """The clicks of some tables in order, as one batch, and the event ids among them in order."""
    table = pa.concat_tables(tables).combine_chunks() if tables else SCHEMA.empty_table()
    times = np.asarray(table["timestamp"].cast(pa.int64()).to_numpy())
    users, items, types = (_coded(table[name]) for name in ("user_id", "product_id", "event_type"))
    return Batch(users, items, types, times), _strings(pc.drop_null(table["event_id"]))


def _coded(column: pa.ChunkedArray) -> Coded:
    """Distinct values in the order of first appearance, whatever dictionary the Parquet file had."""
    if not len(column):
        return Coded(np.empty(0, np.int32), Strings.of([]))
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = np.array(encoded.indices.to_numpy(zero_copy_only=False), np.int32)
    return Coded(codes, _strings(encoded.dictionary))


def _strings(array: pa.Array | pa.ChunkedArray) -> Strings:
    plain = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if not len(plain):
        return Strings.of([])
    _, offsets, data = pa.concat_arrays([plain]).buffers()
    cuts = np.frombuffer(offsets, np.int32)[plain.offset : plain.offset + len(plain) + 1].astype(np.int64)
    start, end = int(cuts[0]), int(cuts[-1])
    raw = np.frombuffer(data, np.uint8)[start:end] if data is not None else np.empty(0, np.uint8)
    return Strings(np.array(raw), cuts - start)
