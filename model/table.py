"""Tables that grow: typed columns, geometric growth, exact views; with ids or without.

Ids are kept twice, as Python strings for look-ups and as one UTF-8 buffer, so that a snapshot of a million ids is a
view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.batch import Int32, Int64, Strings, UInt8
from model.kernels import kernel

Array = npt.NDArray[Any]
TOUCHED_BYTES = 5
"""What it costs to note that a row changed, in one of two ways: a flag, and a place in the list."""


@dataclass(frozen=True, slots=True)
class Column:
    """`width` values of `dtype` per row (0: a flat column), new rows filled with `fill`; scratch columns are not
    `kept`. `memory`: it remembers the stream, as against a weight that was learned from it.
    """

    width: int
    dtype: type[np.generic]
    fill: float = 0.0
    kept: bool = True
    memory: bool = False

    @property
    def bytes(self) -> int:
        """Of one row."""
        return max(self.width, 1) * np.dtype(self.dtype).itemsize

    def allocate(self, rows: int) -> Array:
        """Room for `rows`, not filled: memory that nobody has touched yet costs nothing."""
        return np.empty((rows, self.width) if self.width else rows, self.dtype)


class Touched:
    """Rows noted since they were last taken, each once."""

    def __init__(self) -> None:
        self._flags = np.zeros(0, np.uint8)
        self._order = np.empty(0, np.int32)
        self._count = np.zeros(1, np.int32)

    def reserve(self, rows: int) -> None:
        """Have room for rows below `rows`."""
        self._flags = np.append(self._flags, np.zeros(rows - len(self._flags), np.uint8))
        self._order = np.append(self._order, np.empty(rows - len(self._order), np.int32))

    def add(self, rows: Int32) -> None:
        """Note rows; negative ones are no rows."""
        touch(rows.ravel(), self._flags, self._order, self._count)

    def peek(self) -> Int32:
        """The rows noted since the last `take`, a view."""
        return self._order[: self._count[0]]

    def take(self) -> Int32:
        """The rows noted since the last call, int32, in the order of their first touch."""
        rows: Int32 = self._order[: self._count[0]].copy()
        self._flags[rows] = 0
        self._count[0] = 0
        return rows


class Columns:
    """n rows of typed columns. `columns[name]` is the exact view of a column [n, ...].

    A view taken before the rows grow keeps showing them as they were then: take it anew after `extend`. For whoever
    keeps a second copy, rows are noted in `remembered` when their memory of the stream changed, in `learned` when what
    was learned from it did; new rows are noted in both.

    `most`: rows that there will hardly be more of (0: nobody knows): room is made for up to so many.
    """

    def __init__(self, columns: Mapping[str, Column], most: int = 0) -> None:
        self.columns = dict(columns)
        self._size = 0
        self._capacity = 0
        self._most = most
        self._arrays = {name: column.allocate(0) for name, column in self.columns.items()}
        self.learned = Touched()
        self.remembered = Touched()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name][: self._size]

    def kept(self) -> dict[str, Array]:
        """Views of the columns that belong to the state."""
        return {name: self[name] for name, column in self.columns.items() if column.kept}

    def memory(self) -> dict[str, Array]:
        """Views of the columns that remember the stream."""
        return {name: self[name] for name, column in self.columns.items() if column.memory}

    def extend(self, count: int) -> None:
        """Add `count` rows, filled."""
        used, self._size = self._size, self._size + count
        self._reserve(used)
        for name, column in self.columns.items():
            self._arrays[name][used : self._size] = column.fill
        for noted in (self.learned, self.remembered):
            noted.add(np.arange(used, self._size, dtype=np.int32))

    def resize(self, size: int) -> None:
        """Have `size` rows: give the last ones back, or add filled ones."""
        if size > self._size:
            self.extend(size - self._size)
        self._size = size

    def keep(self, rows: Int32) -> None:
        """Let all rows go but these, ascending; they move up. Nothing is noted any more: whoever keeps a second copy
        must take everything anew.
        """
        for noted in (self.learned, self.remembered):
            noted.take()
        if len(rows) == self._size:
            return
        for array in self._arrays.values():
            array[: len(rows)] = array[rows]
        self._size = len(rows)

    def touch_all(self) -> None:
        """Note that everything changed."""
        for noted in (self.learned, self.remembered):
            noted.add(np.arange(self._size, dtype=np.int32))

    def _reserve(self, used: int) -> None:
        """Make room for all rows; the `used` first ones keep their values."""
        if self._size <= self._capacity:
            return
        doubled = 2 * self._capacity
        self._capacity = max(self._size, min(doubled, self._most) if self._most else doubled, 64)
        for name, column in self.columns.items():
            larger = column.allocate(self._capacity)
            larger[:used] = self._arrays[name][:used]
            self._arrays[name] = larger
        for noted in (self.learned, self.remembered):
            noted.reserve(self._capacity)


class Table(Columns):
    """`Columns` whose rows have ids: `ids` in row order, `index` from id to row."""

    def __init__(self, columns: Mapping[str, Column], most: int = 0) -> None:
        super().__init__(columns, most)
        self.ids: list[str] = []
        self.index: dict[str, int] = {}
        self._text = np.empty(0, np.uint8)
        self._cuts = np.zeros(1, np.int64)

    @property
    def vectors(self) -> Array:
        """float32 [n, dim], a view of exactly the rows in use."""
        return self["vector"]

    @property
    def strings(self) -> Strings:
        """All ids in row order as one buffer, a view."""
        cuts = self._cuts[: len(self.ids) + 1]
        return Strings(self._text[: cuts[-1]], cuts)

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all ids."""
        return int(self._cuts[len(self.ids)])

    def lengths(self) -> Int64:
        """UTF-8 bytes of each id, int64 [n]."""
        return np.diff(self._cuts[: len(self.ids) + 1])

    def lookup(self, values: Sequence[str]) -> Int32:
        """Rows of `values`, int32. Values without a row are numbered on from n in the order of their appearance: the
        rows that `intern` would give them.
        """
        rows: list[Any] = list(map(self.index.get, values))
        if None in rows:
            fresh, size = dict[str, int](), len(self.ids)
            for place, row in enumerate(rows):
                if row is None:
                    rows[place] = fresh.setdefault(values[place], size + len(fresh))
        return np.array(rows, np.int32)

    def intern(self, values: Sequence[str]) -> Int32:
        """Rows of `values`, int32; values without a row get one."""
        rows = self.lookup(values)
        size = len(self.ids)
        if len(rows) and int(rows.max()) >= size:
            self.append(list(dict.fromkeys(value for value, row in zip(values, rows, strict=True) if row >= size)))
        return rows

    def append(self, fresh: Sequence[str], text: Strings | None = None) -> None:
        """Add rows for ids that are distinct and new. Raises `ValueError` for one that is not.

        `text`: the same ids, where they are at hand encoded.
        """
        size = len(self.ids)
        self.index.update(zip(fresh, range(size, size + len(fresh)), strict=True))
        if len(self.index) != size + len(fresh):
            raise ValueError("ids of a table must be distinct")
        self._append_text(Strings.of(fresh) if text is None else text)
        self.ids.extend(fresh)
        self.extend(len(fresh))

    def keep(self, rows: Int32) -> None:
        if len(rows) < len(self.ids):
            ids = self.ids
            self.ids = [ids[row] for row in rows.tolist()]
            self.index = dict(zip(self.ids, range(len(rows)), strict=True))
            # Into new memory: a checkpoint may still be reading the old text, on another thread.
            text = Strings.of(self.ids)
            self._text, self._cuts = text.data.copy(), text.offsets
        super().keep(rows)

    def clear(self) -> None:
        """Let all rows go."""
        self.keep(np.empty(0, np.int32))

    def text(self, start: int) -> Strings:
        """The ids from row `start` on, encoded, a view."""
        cuts = self._cuts[start : len(self.ids) + 1]
        return Strings(self._text[cuts[0] : cuts[-1]], cuts - cuts[0])

    def _append_text(self, addition: Strings) -> None:
        size, start = len(self.ids), int(self._cuts[len(self.ids)])
        self._cuts = _grown(self._cuts, size + 1 + len(addition))
        self._cuts[size : size + 1 + len(addition)] = addition.offsets + start
        self._text = _grown(self._text, start + len(addition.data))
        self._text[start : start + len(addition.data)] = addition.data


def _grown(array: Array, size: int) -> Array:
    """`array` itself when it holds `size` elements, else a copy with as much again to spare."""
    if size <= len(array):
        return array
    larger = np.empty(max(size, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger


@kernel
def touch(rows: Int32, flags: UInt8, order: Int32, count: Int32) -> None:
    """Append to order[:count[0]] the rows [n] that are not flagged yet, and flag them; negative rows are no rows."""
    for row in rows:
        if row >= 0 and not flags[row]:
            flags[row] = 1
            order[count[0]] = row
            count[0] += 1
