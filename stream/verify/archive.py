"""The archive as `headrace verify` sees it: what collected plans had staged, 64 plans an object, none left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from stream.ports import ObjectInfo, ObjectStore
from stream.verify.forms import Breach, Malformed
from stream.verify.ledger import Ledger
from stream.verify.reading import Rows, archived_rows

GROUP = 64
"""Plans in one archive object."""
_NAME = re.compile(r"([0-9]{20})-([0-9]{20})\.parquet")

Print = tuple[int, int, int]
"""Of one staged object: clicks, first and last offset."""


@dataclass(slots=True)
class Archives:
    """The archive of one lineage, read in order. `trained`: clicks up to plan `last`, None where some are not there.

    `told` is called with each object; `admit` with the clicks of each staged object whose plan is gone.
    """

    store: ObjectStore
    root: str
    told: Callable[[ObjectInfo, int], None]
    stray: Callable[[ObjectInfo], None]
    admit: Callable[[Sequence[Rows]], object]
    last: int = -1
    trained: int | None = 0
    _last_key: str = ""
    _tail: list[Print] = field(default_factory=list)
    _walked: list[Print] = field(default_factory=list)

    def read(self, first_plan: int | None) -> Iterator[Breach]:
        """Every archive object, against the next and against the first plan that is still there."""
        for info in self.store.list(f"{self.root}/archive/"):
            name = _NAME.fullmatch(info.key.rpartition("/")[2])
            if name is None:
                self.stray(info)
                continue
            yield from self._one(info, int(name[1]), int(name[2]), first_plan)
        if self._last_key and first_plan is not None and first_plan > self.last + 1:
            yield self._hole(self._last_key, first_plan)

    def has(self, seq: int) -> bool:
        """Whether a plan that is being collected may have lost its clicks already: they are archived, or none are."""
        return not self._last_key or seq <= self.last

    def walked(self, rows: Sequence[Rows], *, whole: bool) -> None:
        """A plan that is still there, though its clicks are archived; not `whole`: some of them could not be read."""
        self._walked = [*self._walked, *map(_print, rows)] if whole else []

    def settle(self, ledger: Ledger) -> Iterator[Breach]:
        """All plans up to `last` were walked: the archive must end with their clicks, and tells those before."""
        if self._walked and self._tail[-len(self._walked) :] != self._walked:
            yield Breach("archive_rows", self._last_key, f"it does not end with what plans up to {self.last} staged")
        if self.trained is not None:
            before = self.trained - ledger.seen["trained"]
            if ledger.base.setdefault("trained", before) != before:
                what = f"up to plan {self.last} the archive has {self.trained} clicks, the plans trained other ones too"
                yield Breach("archive_rows", self._last_key, what)

    def _one(self, info: ObjectInfo, first: int, last: int, first_plan: int | None) -> Iterator[Breach]:
        if first % GROUP or last != first + GROUP - 1:
            yield Breach("archive_form", info.key, f"its name does not tell a group of {GROUP} plans")
            return
        if first != self.last + 1:
            self.trained = None
            if self._last_key:
                yield self._hole(info.key, first)
        self.last, self._last_key, self._tail = last, info.key, []
        overlaps = first_plan is not None and first_plan <= last
        try:
            yield from self._clicks(info, overlaps=overlaps)
        except Malformed as error:
            self.trained = None
            yield Breach("archive_form", info.key, str(error))

    def _clicks(self, info: ObjectInfo, *, overlaps: bool) -> Iterator[Breach]:
        total = 0
        for rows in archived_rows(self.store, info):
            if not len(rows) or (np.diff(rows.offsets) <= 0).any():
                yield Breach("archive_rows", info.key, "offsets of a staged object do not rise")
            self._tail.append(_print(rows))
            total += len(rows)
            if not overlaps:
                self.admit([rows])
        self.trained = self.trained + total if self.trained is not None else None
        self.told(info, total)

    def _hole(self, key: str, until: int) -> Breach:
        return Breach("archive_hole", key, f"plans {self.last + 1} to {until - 1} are neither there nor in an archive")


def _print(rows: Rows) -> Print:
    return (len(rows), int(rows.offsets[0]), int(rows.offsets[-1])) if len(rows) else (0, 0, 0)
