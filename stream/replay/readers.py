"""Files and iterables of clicks as rows that can be taken by position, as JSON lines.

Shared by the replay, by `headrace produce` and by the batch job. A row is never judged here: a line that is not JSON
comes out as it went in, and decoding rejects it with a reason. Only a file that holds no rows at all is refused.
"""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import numpy.typing as npt

from model.batch import Int64
from stream.decode import DecodeRules, decode_chunk
from stream.errors import ConfigError
from stream.events import RawChunk
from stream.replay.columns import ColumnRows
from stream.replay.rows import Indices, Rows, UInt32

Source = str | os.PathLike[str] | Iterable[Mapping[str, Any] | bytes | None]

PARQUET_MAGIC = b"PAR1"
_BLOCK_ROWS = 16_384
_SCAN_BYTES = 1 << 24
_RULES = DecodeRules(message_bytes_max=1 << 20)
_encode = msgspec.json.Encoder().encode


def open_rows(source: Source, limit: int | None = None) -> Rows:
    """Rows of a Parquet or JSON lines file, or of an iterable of mappings and bytes; at most `limit`, from the front.

    Raises `ConfigError` for a file that is missing, empty, unreadable, of another kind, or lacks a column.
    """
    if not isinstance(source, (str, os.PathLike)):
        return ListedLines(source, limit)
    path = Path(source)
    head = _head(path)
    if head.startswith(PARQUET_MAGIC):
        return ColumnRows(path, limit)
    _check_is_lines(path, head)
    return FileLines(path, limit)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise ConfigError(f"{path}: the file is empty; one JSON object per line, or Parquet, is expected")
    return head


def _check_is_lines(path: Path, head: bytes) -> None:
    if path.suffix in {".parquet", ".pq"}:
        raise ConfigError(f"{path}: not a Parquet file (it begins with {head[:4]!r}); name JSON lines .jsonl")
    if head.startswith(b"\x1f\x8b"):
        raise ConfigError(f"{path}: compressed with gzip; run gunzip on it first")
    if head.lstrip().startswith(b"["):
        raise ConfigError(f"{path}: one JSON array; one object per line is expected: jq -c '.[]' {path} > lines.jsonl")


class _Lines(ABC):
    """What rows made of JSON texts share: the texts are decoded once, in blocks, for their users and times."""

    def _index(self, count: int) -> None:
        self.hashes: UInt32 = np.zeros(count, np.uint32)
        self.times: Int64 = np.zeros(count, np.int64)
        for start in range(0, count, _BLOCK_ROWS):
            self._index_block(range(start, min(start + _BLOCK_ROWS, count)))

    def _index_block(self, block: range) -> None:
        decoded = _decode(self.lines(block), block.start)
        known: dict[str, int] = {}
        for user in set(decoded.users):
            known[user] = crc32(user.encode())
        self.hashes[decoded.offsets] = [known[user] for user in decoded.users]
        self.times[decoded.offsets] = decoded.times

    @abstractmethod
    def lines(self, indices: Indices) -> list[bytes | None]: ...

    def __len__(self) -> int:
        return len(self.hashes)

    def keys(self, indices: Indices) -> list[bytes | None]:
        """The user ids at `indices` in UTF-8; None where a row has none."""
        lines = self.lines(indices)
        decoded = _decode(lines, 0)
        keys: list[bytes | None] = [None] * len(lines)
        for place, user in zip(decoded.offsets.tolist(), decoded.users, strict=True):
            keys[place] = user.encode()
        return keys

    def line_number(self, index: int) -> int:
        return index + 1


def _decode(lines: Sequence[bytes | None], start: int) -> Any:
    offsets = np.arange(start, start + len(lines), dtype=np.int64)
    return decode_chunk(RawChunk(0, offsets, np.zeros(len(lines), np.int64), lines), _RULES)


class ListedLines(_Lines):
    """An iterable's rows, held as bytes; None is a message without a value."""

    def __init__(self, rows: Iterable[Mapping[str, Any] | bytes | None], limit: int | None = None) -> None:
        self._lines = [_line(row, place) for place, row in zip(_places(limit), rows, strict=False)]
        self._index(len(self._lines))

    def lines(self, indices: Indices) -> list[bytes | None]:
        return [self._lines[index] for index in (indices if isinstance(indices, range) else indices.tolist())]


def _places(limit: int | None) -> Iterable[int]:
    return range(limit if limit is not None else 1 << 62)


def _line(row: Mapping[str, Any] | bytes | None, place: int) -> bytes | None:
    if row is None or isinstance(row, bytes):
        return row
    try:
        return _encode(row)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"row {place}: cannot be written as JSON: {error}") from error


class FileLines(_Lines):
    """The lines of a file that are not blank, read where they lie: the file is mapped, not loaded."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts, self._ends = _line_bounds(self._map, limit)
        full = _is_not_blank(self._map, self._starts, self._ends)
        self._numbers = np.flatnonzero(full)[:limit]
        if not len(self._numbers):
            raise ConfigError(f"{path}: the file has only blank lines; one JSON object per line is expected")
        self._index(len(self._numbers))

    def lines(self, indices: Indices) -> list[bytes | None]:
        at = self._numbers[np.asarray(indices, np.int64)]
        text = self._map
        return [text[start:end] for start, end in zip(self._starts[at].tolist(), self._ends[at].tolist(), strict=True)]

    def line_number(self, index: int) -> int:
        return int(self._numbers[index]) + 1


def _line_bounds(text: mmap.mmap, limit: int | None) -> tuple[Int64, Int64]:
    """Start and end of every line, without its line feed; with `limit`, of some more lines than that."""
    size = len(text)
    found: list[Int64] = []
    lines = 0
    for start in range(0, size, _SCAN_BYTES):
        block = np.frombuffer(text[start : start + _SCAN_BYTES], np.uint8)
        found.append(np.flatnonzero(block == ord("\n")) + start)
        lines += len(found[-1])
        if limit is not None and lines > 2 * limit + _BLOCK_ROWS:
            size = int(found[-1][-1]) + 1
            break
    ends = np.concatenate(found)
    if not len(ends) or ends[-1] != size - 1:
        ends = np.append(ends, size)
    starts = np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1))
    return starts, ends


def _is_not_blank(text: mmap.mmap, starts: Int64, ends: Int64) -> npt.NDArray[np.bool_]:
    full = ends - starts > 2
    for place in np.flatnonzero(~full).tolist():
        full[place] = bool(text[starts[place] : ends[place]].strip())
    return full
