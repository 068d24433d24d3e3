"""How `headrace verify` reads the store: bounded, hashed, and Parquet without trusting what it claims of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stream import parquet
from stream.errors import NotFound
from stream.footer import Limits
from stream.ports import ObjectInfo, ObjectStore
from stream.thrift import Unreadable
from stream.verify.forms import Malformed

DOCUMENT_BYTES_MAX: Final = 64 << 20
"""Of a plan or a manifest."""
LINES_BYTES_MAX: Final = 1 << 30
"""Of 64 archived plans."""
_CHUNK_BYTES: Final = 8 << 20
_SCHEMA: Final = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("event_id", pa.string()),
    ]
)
_STAGED: Final = Limits(footer=1 << 20, rows=1 << 20, size=1 << 30, groups=64)
"""A million equal rows take a few bytes packed, and hundreds of megabytes when they are read."""
_ARCHIVED: Final = Limits(footer=64 << 20, rows=1 << 20, size=1 << 30, groups=1 << 20)
"""Rows and bytes are those of one row group, which is one staged object."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The clicks of one staged object: `offsets` int64 [n]; `event_ids` [n], None where a click has none."""

    offsets: npt.NDArray[np.int64]
    event_ids: list[str | None] | None

    def __len__(self) -> int:
        return len(self.offsets)


def document(store: ObjectStore, key: str) -> bytes:
    """A plan's or a manifest's bytes. Raises NotFound, and Malformed when it is absurdly large."""
    data = store.get_range(key, 0, DOCUMENT_BYTES_MAX + 1)
    if len(data) > DOCUMENT_BYTES_MAX:
        raise Malformed(f"it has more than {DOCUMENT_BYTES_MAX} bytes")
    return data


def lines(store: ObjectStore, key: str) -> list[bytes]:
    """The lines of an object. Raises NotFound, and Malformed when it is absurdly large."""
    data = store.get_range(key, 0, LINES_BYTES_MAX + 1)
    if len(data) > LINES_BYTES_MAX:
        raise Malformed(f"it has more than {LINES_BYTES_MAX} bytes")
    return data.splitlines()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_bytes(data: bytes, size: int, wanted: str) -> None:
    """Raises Malformed unless `data` has that size and that SHA-256."""
    if len(data) != size:
        raise Malformed(f"it has {'more' if len(data) > size else f'{len(data)}'} bytes, {size} were written")
    if (found := sha256(data)) != wanted:
        raise Malformed(f"its SHA-256 is {found}, {wanted} was written")


def check_object(store: ObjectStore, key: str, size: int, wanted: str) -> None:
    """The same for an object of any size, read piece by piece. Raises NotFound, Malformed."""
    if (found := store.head(key).size) != size:
        raise Malformed(f"it has {found} bytes, {size} were written")
    total = hashlib.sha256()
    for start in range(0, size, _CHUNK_BYTES):
        total.update(store.get_range(key, start, min(_CHUNK_BYTES, size - start)))
    if total.hexdigest() != wanted:
        raise Malformed(f"its SHA-256 is {total.hexdigest()}, {wanted} was written")


def staged_rows(data: bytes) -> Rows:
    """The clicks in a staged object's bytes. Raises Malformed when they are not Parquet of Headrace's columns."""
    try:
        return _rows(parquet.table(data, _SCHEMA, _STAGED))
    except Unreadable as error:
        raise Malformed(f"it is not Parquet of staged clicks: {error}") from error


def archived_rows(store: ObjectStore, info: ObjectInfo) -> Iterator[Rows]:
    """The clicks in an archive object, one staged object after the other, read group by group. Raises Malformed."""

    def at(start: int, length: int) -> bytes:
        return store.get_range(info.key, start, length)

    try:
        yield from map(_rows, parquet.tables(at, info.size, _SCHEMA, _ARCHIVED))
    except Unreadable as error:
        raise Malformed(f"it is not Parquet of staged clicks: {error}") from error


def beside(store: ObjectStore, root: str, known: Mapping[str, Any] | set[str]) -> Iterator[ObjectInfo]:
    """What lies under `root` (which ends with a slash) but in none of its folders named by `known` prefixes.

    A known folder is jumped over, not listed, so that its length does not matter.
    """
    after = ""
    while True:
        jump = ""
        for info in store.list(root, after):
            jump = next((prefix for prefix in known if info.key.startswith(prefix)), "")
            if jump:
                break
            yield info
        if not jump:
            return
        after = f"{jump}~"  # greater than any key of that folder: names there begin with less than a tilde


def _rows(table: pa.Table) -> Rows:
    event_ids = table["event_id"]
    known = event_ids.to_pylist() if event_ids.null_count < len(event_ids) else None
    return Rows(np.asarray(table["offset"].to_numpy(), np.int64), known)


def first_key(store: ObjectStore, prefix: str) -> str | None:
    """The least key with that prefix."""
    return next((info.key for info in store.list(prefix)), None)


def exists(store: ObjectStore, key: str) -> bool:
    try:
        store.head(key)
    except NotFound:
        return False
    return True
