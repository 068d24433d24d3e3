"""The clicks that a benchmark learns: of a file, or made up, in time order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.common import click_messages, say
from model.batch import Batch, Int64
from stream.decode import DecodeRules, decode_chunk
from stream.events import RawChunk
from stream.replay.readers import open_rows

MADE_UP = "made up"


@dataclass(frozen=True, slots=True)
class Clicks:
    """n clicks in time order; those of equal time keep the order they came in. `times` int64 [n] ms."""

    name: str
    users: Sequence[str]
    items: Sequence[str]
    times: Int64
    types: Sequence[str]

    def __len__(self) -> int:
        return len(self.times)

    def batches(self, size: int, *, typed: bool = True) -> list[Batch]:
        """The clicks as the learner takes them, `size` at a time; all of them views where not `typed`."""
        places = [slice(start, start + size) for start in range(0, len(self), size)]
        return [
            Batch.of(self.users[at], self.items[at], self.times[at], self.types[at] if typed else None) for at in places
        ]


def read_clicks(path: Path | None, limit: int | None) -> Clicks:
    """The first `limit` rows of a file, decoded as the product decodes its messages; without a file, made-up ones.

    Rows that the product would reject are left out, and counted on standard error.
    """
    if path is None:
        lines: list[bytes | None] = list(click_messages(limit or 0, None))
    else:
        rows = open_rows(path, limit)
        lines = list(rows.lines(range(len(rows))))
    count = len(lines)
    decoded = decode_chunk(RawChunk(0, np.arange(count), np.zeros(count, np.int64), lines), DecodeRules())
    if decoded.rejects:
        say(f"{len(decoded.rejects):,} of {count:,} rows are left out; the first: {decoded.rejects[0].detail}")
    order = np.argsort(decoded.times, kind="stable")
    users, items, types = (
        [column[place] for place in order.tolist()] for column in (decoded.users, decoded.items, decoded.types)
    )
    return Clicks(path.stem if path else MADE_UP, users, items, decoded.times[order], types)
