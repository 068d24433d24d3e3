"""A recorded stream for the benchmarks: the clicks of a file in time order, as ids and as rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq

from bench.common import click_messages, say
from model.batch import Batch, Int32, Int64
from stream.decode import DecodeRules, decode_chunk
from stream.events import RawChunk
from stream.replay.readers import PARQUET_MAGIC

COLUMNS = ("user_id", "product_id", "timestamp", "event_type")


@dataclass(frozen=True, slots=True)
class Stream:
    """n clicks in time order; clicks of equal time keep the order they came in.

    `user_rows`, `item_rows` int32 [n]: the ids numbered by first appearance, so that after any number of clicks the
    ids seen are exactly those below the largest number so far. `times` int64 [n], milliseconds since the epoch.
    """

    name: str
    users: Sequence[str]
    items: Sequence[str]
    types: Sequence[str]
    times: Int64
    user_rows: Int32
    item_rows: Int32

    @classmethod
    def of(
        cls, name: str, users: Sequence[str], items: Sequence[str], times: Int64, types: Sequence[str] | None = None
    ) -> Stream:
        """Columns of equal length, in any order; without `types` every click is a `view`."""
        kinds = types if types is not None else ["view"] * len(users)
        order = np.argsort(times, kind="stable")
        users, items, kinds = ([column[place] for place in order.tolist()] for column in (users, items, kinds))
        return cls(name, users, items, kinds, times[order], _numbered(users), _numbered(items))

    def batch(self, place: slice) -> Batch:
        """The clicks at `place` as the learner takes them."""
        return Batch.of(self.users[place], self.items[place], self.times[place], self.types[place])

    def __len__(self) -> int:
        return len(self.times)


def read_stream(path: Path, limit: int | None = None, user_column: str = "user_id", skip: int = 0) -> Stream:
    """`limit` rows, from row `skip` on, of a Parquet or JSON lines file, decoded as the product decodes its messages.

    Rows that the product would reject are left out, and counted on standard error. Ends with a message where the
    file cannot be read, has no `user_column`, or nothing is left.
    """
    lines = [_line(row, user_column) for row in _rows(path, limit, user_column, skip)]
    count = len(lines)
    decoded = decode_chunk(RawChunk(0, np.arange(count), np.zeros(count, np.int64), lines), DecodeRules())
    if decoded.rejects:
        say(f"{len(decoded.rejects):,} of {count:,} rows are left out; the first: {decoded.rejects[0].detail}")
    if not decoded.users:
        raise SystemExit(f"{path}: no clicks with {user_column}, product_id and timestamp")
    return Stream.of(path.stem, decoded.users, decoded.items, decoded.times, decoded.types)


def made_up(count: int) -> Stream:
    """The clicks that the other benchmarks make up."""
    texts = [msgspec.json.decode(message) for message in click_messages(count, None)]
    users, items, times, types = (
        [text[name] for text in texts] for name in ("user_id", "product_id", "timestamp", "event_type")
    )
    return Stream.of("made up", users, items, np.array(times, np.int64), types)


def _rows(path: Path, limit: int | None, user_column: str, skip: int) -> Iterable[Mapping[str, Any]]:
    if not path.is_file():
        raise SystemExit(f"{path}: there is no such file")
    with path.open("rb") as file:
        if file.read(len(PARQUET_MAGIC)) != PARQUET_MAGIC:
            file.seek(0)
            lines = [line for line in file if line.strip()]
            return [msgspec.json.decode(line) for line in lines[skip:][:limit]]
    names = pq.read_schema(path).names
    missing = [name for name in (user_column, "product_id", "timestamp") if name not in names]
    if missing:
        raise SystemExit(f"{path}: no column {' and no column '.join(missing)}; the file has: {', '.join(names)}")
    table = pq.read_table(path, columns=list({name for name in (user_column, *COLUMNS[1:]) if name in names}))
    rows: list[Mapping[str, Any]] = table.slice(skip, limit).to_pylist()
    return rows


def _line(row: Mapping[str, Any], user_column: str) -> bytes:
    return msgspec.json.encode(
        {"user_id": row.get(user_column)} | {name: row.get(name) for name in COLUMNS[1:]},
    )


def _numbered(column: Sequence[str]) -> Int32:
    index: dict[str, int] = {}
    return np.fromiter((index.setdefault(value, len(index)) for value in column), np.int32, len(column))
