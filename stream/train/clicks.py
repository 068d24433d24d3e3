"""Clicks gathered chunk by chunk as compact columns, put into the order of time, and cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from model.batch import Batch, Coded, Int32, Int64, Strings
from stream.events import Decoded

Bool = npt.NDArray[np.bool_]
_UNSTAMPED = -1


@dataclass(slots=True)
class Column:
    """A growing column of strings: codes into the distinct ones, which keep the order of their first appearance."""

    index: dict[str, int] = field(default_factory=dict)
    chunks: list[Int32] = field(default_factory=list)

    def extend(self, values: Sequence[str]) -> None:
        index = self.index
        codes = (index.setdefault(value, len(index)) for value in values)
        self.chunks.append(np.fromiter(codes, np.int32, len(values)))

    @property
    def codes(self) -> Int32:
        return np.concatenate([np.empty(0, np.int32), *self.chunks])


@dataclass(slots=True)
class Clicks:
    """Clicks of one object in the order of its lines. `record_ms` stood in for the time of lines that have none.

    `event_ids`: by place, of the clicks that have one; only if `keeps_ids`, for they take much memory.
    """

    record_ms: int
    keeps_ids: bool = False
    users: Column = field(default_factory=Column)
    items: Column = field(default_factory=Column)
    types: Column = field(default_factory=Column)
    time_chunks: list[Int64] = field(default_factory=list)
    event_ids: dict[int, str] = field(default_factory=dict)
    count: int = 0

    def __len__(self) -> int:
        return self.count

    @property
    def times(self) -> Int64:
        return np.concatenate([np.empty(0, np.int64), *self.time_chunks])

    def extend(self, decoded: Decoded) -> None:
        self.users.extend(decoded.users)
        self.items.extend(decoded.items)
        self.types.extend(decoded.types)
        self.time_chunks.append(decoded.times)
        if self.keeps_ids and decoded.event_ids is not None:
            known = ((place, key) for place, key in enumerate(decoded.event_ids, self.count) if key is not None)
            self.event_ids.update(known)
        self.count += len(decoded.users)


@dataclass(frozen=True, slots=True)
class Ordered:
    """n clicks in the order of time; equal times keep the order in which they were read. Columns as in `Batch`.

    The distinct strings are lists, because every batch is cut with only those that occur in it.
    """

    columns: tuple[tuple[Int32, list[str]], ...]
    times: Int64

    def __len__(self) -> int:
        return len(self.times)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Clicks [start, stop) as batches of `size`, in order; the last one may be smaller."""
        end = len(self) if stop is None else stop
        for first in range(start, end, size):
            cut = slice(first, min(first + size, end))
            users, items, types = (_coded(codes[cut], values) for codes, values in self.columns)
            yield Batch(users, items, types, self.times[cut])


def in_time_order(*parts: Clicks) -> Ordered:
    """All clicks of some objects, sorted by time; equal times keep the order of the objects and of their lines."""
    times = np.concatenate([part.times for part in parts])
    order = np.argsort(times, kind="stable")
    columns = []
    for name in ("users", "items", "types"):
        codes, values = _merged([getattr(part, name) for part in parts])
        columns.append((codes[order], values))
    return Ordered(tuple(columns), times[order])


def within(clicks: Clicks, since_ms: int, before_ms: int | None) -> Clicks:
    """Those of the time [since_ms, before_ms), milliseconds since the epoch; None: without an end."""
    times = clicks.times
    keep = times >= since_ms
    return _kept(clicks, keep if before_ms is None else keep & (times < before_ms))


def without_contained(clicks: Clicks, known: Clicks) -> Clicks:
    """`clicks` less those that are in `known` already.

    A click is known by its event id; without one, by user, item, type and time, as often as `known` has it. Those with
    neither id nor time cannot be told apart one by one: they are taken as known only if every one of them has an equal.
    """
    contained = _contained(clicks, known)
    unstamped = (clicks.times == clicks.record_ms) & ~_has_id(clicks)
    if unstamped.any() and not contained[unstamped].all():
        contained &= ~unstamped
    return _kept(clicks, ~contained)


def _contained(clicks: Clicks, known: Clicks) -> Bool:
    """Which clicks have an equal in `known` left, each of those used once."""
    rows = np.concatenate([_rows(known, clicks), _rows(clicks, clicks)])
    _, kinds = np.unique(rows, axis=0, return_inverse=True)
    kinds = kinds.reshape(-1)
    copies = np.bincount(kinds[: len(known)], minlength=int(kinds.max(initial=0)) + 1)
    own = kinds[len(known) :]
    by_row = _repeat_number(own) < copies[own]
    if not known.event_ids:
        return by_row
    ids = set(known.event_ids.values())
    by_id = np.zeros(len(clicks), bool)
    by_id[[place for place, key in clicks.event_ids.items() if key in ids]] = True
    return np.where(_has_id(clicks), by_id, by_row)


def _rows(clicks: Clicks, base: Clicks) -> Int64:
    """User, item, type as codes of `base` (-1: not in it) and time, int64 [n, 4]."""
    times = np.where(clicks.times == clicks.record_ms, _UNSTAMPED, clicks.times)
    columns = [
        _recoded(getattr(clicks, name), getattr(base, name).index).astype(np.int64)
        for name in ("users", "items", "types")
    ]
    return np.stack([*columns, times], axis=1)


def _recoded(column: Column, index: dict[str, int]) -> Int32:
    lookup = np.array([index.get(value, -1) for value in column.index] or [-1], np.int32)
    return lookup[column.codes] if column.chunks else np.empty(0, np.int32)


def _repeat_number(kinds: npt.NDArray[Any]) -> Int64:
    """How many equal ones stand before each, int64 [n]."""
    order = np.argsort(kinds, kind="stable")
    ranked = kinds[order]
    begins = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else np.empty(0, np.int64)
    number = np.empty(len(kinds), np.int64)
    number[order] = np.arange(len(kinds)) - np.repeat(begins, np.diff(np.r_[begins, len(kinds)]))
    return number


def _has_id(clicks: Clicks) -> Bool:
    mask = np.zeros(len(clicks), bool)
    mask[list(clicks.event_ids)] = True
    return mask


def _kept(clicks: Clicks, keep: Bool) -> Clicks:
    """Those that `keep` bool [n] says. Strings that no longer occur stay in the indexes; batches leave them out."""
    return Clicks(
        clicks.record_ms,
        users=Column(clicks.users.index, [clicks.users.codes[keep]]),
        items=Column(clicks.items.index, [clicks.items.codes[keep]]),
        types=Column(clicks.types.index, [clicks.types.codes[keep]]),
        time_chunks=[clicks.times[keep]],
        count=int(keep.sum()),
    )


def _merged(columns: Sequence[Column]) -> tuple[Int32, list[str]]:
    index = dict(columns[0].index)
    for column in columns[1:]:
        for value in column.index:
            index.setdefault(value, len(index))
    codes = [columns[0].codes, *(_recoded(column, index) for column in columns[1:])]
    return np.concatenate(codes), list(index)


def _coded(codes: Int32, values: list[str]) -> Coded:
    used, compact = np.unique(codes, return_inverse=True)
    return Coded(compact.astype(np.int32), Strings.of([values[code] for code in used.tolist()]))
