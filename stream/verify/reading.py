"""How `headrace verify` reads the store: bounded, hashed, and Parquet without trusting what it claims of itself."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from stream.errors import NotFound
from stream.ports import ObjectInfo, ObjectStore
from stream.verify.forms import Malformed

DOCUMENT_BYTES_MAX: Final = 64 << 20
"""Of a plan or a manifest."""
_CHUNK_BYTES: Final = 8 << 20
_UNPACKED_BYTES_MAX: Final = 1 << 30
_ROWS_MAX: Final = 1 << 20
"""Of one staged object: a million equal rows take a few bytes packed, and hundreds of megabytes when they are read."""
_COLUMNS: Final = {
    "offset": "int64 not null",
    "user_id": "string not null",
    "product_id": "string not null",
    "event_type": "string not null",
    "timestamp": "timestamp[ms, tz=UTC] not null",
    "event_id": "string",
}


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
        file = pq.ParquetFile(io.BytesIO(data))
        _check_columns(file)
        _check_claims(file, range(file.metadata.num_row_groups))
        return _rows(file.read())
    except (pa.ArrowException, OSError) as error:
        raise Malformed(f"it is not readable as Parquet: {error}") from error


def archived_rows(store: ObjectStore, info: ObjectInfo) -> Iterator[Rows]:
    """The clicks in an archive object, one staged object after the other, read group by group. Raises Malformed."""
    try:
        file = pq.ParquetFile(_Ranged(store, info))
        _check_columns(file)
        for group in range(file.metadata.num_row_groups):
            _check_claims(file, range(group, group + 1))
            yield _rows(file.read_row_group(group))
    except (pa.ArrowException, OSError) as error:
        raise Malformed(f"it is not readable as Parquet: {error}") from error


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


def _check_columns(file: pq.ParquetFile) -> None:
    found = {column.name: f"{column.type}{'' if column.nullable else ' not null'}" for column in file.schema_arrow}
    if list(found.items()) != list(_COLUMNS.items()):
        raise Malformed(f"its columns are {found}, which are not those of staged clicks")


def _check_claims(file: pq.ParquetFile, groups: range) -> None:
    """Raises Malformed before anything is unpacked that would not fit."""
    claims = [file.metadata.row_group(group) for group in groups]
    size, rows = sum(claim.total_byte_size for claim in claims), sum(claim.num_rows for claim in claims)
    if size > _UNPACKED_BYTES_MAX or rows > _ROWS_MAX:
        raise Malformed(f"it claims {rows} clicks in {size} bytes, which no staged object holds")


def _rows(table: pa.Table) -> Rows:
    table.validate(full=True)
    event_ids = table["event_id"]
    known = event_ids.to_pylist() if event_ids.null_count < len(event_ids) else None
    return Rows(np.asarray(table["offset"].to_numpy(), np.int64), known)


class _Ranged(io.RawIOBase):
    """An object in the store as a file that can be read anywhere."""

    def __init__(self, store: ObjectStore, info: ObjectInfo) -> None:
        self._store, self._info, self._at = store, info, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._info.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._info.size - self._at)
        data = self._store.get_range(self._info.key, self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        return data


def first_key(store: ObjectStore, prefix: str) -> str | None:
    """The least key with that prefix."""
    return next((info.key for info in store.list(prefix)), None)


def exists(store: ObjectStore, key: str) -> bool:
    try:
        store.head(key)
    except NotFound:
        return False
    return True
