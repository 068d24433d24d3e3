"""The archive as `headrace verify` sees it: what collected plans had staged, 64 plans an object, none left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from stream.ports import ObjectInfo, ObjectStore
from stream.verify.forms import Breach, Malformed, PlanDoc, parse_plan
from stream.verify.ledger import Head, Ledger
from stream.verify.reading import Rows, archived_rows, lines, sha256

GROUP = 64
"""Plans in one archive object."""
_NAME = re.compile(r"([0-9]{20})-([0-9]{20})\.(parquet|plans\.jsonl)")

Print = tuple[int, int, int]
"""Of one staged object: clicks, first and last offset."""


@dataclass(slots=True)
class Archives:
    """The archive of one lineage, read in order. `trained`: clicks up to plan `last`, None where some are not there.

    `told` is called with each object; `admit` with the clicks of each staged object whose plan is gone. `head`: the
    last plan that is archived itself.
    """

    store: ObjectStore
    root: str
    told: Callable[[ObjectInfo, int], None]
    stray: Callable[[ObjectInfo], None]
    admit: Callable[[Sequence[Rows]], object]
    last: int = -1
    trained: int | None = 0
    head: Head | None = None
    _with_plans: set[int] = field(default_factory=set)
    _last_key: str = ""
    _readable: bool = True
    _tail: list[Print] = field(default_factory=list)
    _walked: list[Print] = field(default_factory=list)

    def read(self, first_plan: int | None) -> Iterator[Breach]:
        """Every archive object, against the next and against the first plan that is still there."""
        for info in self.store.list(f"{self.root}/archive/"):
            name = _NAME.fullmatch(info.key.rpartition("/")[2])
            if name is None:
                self.stray(info)
            elif name[3] == "parquet":
                yield from self._one(info, int(name[1]), int(name[2]), first_plan)
            else:
                yield from self._plans(info, int(name[1]), int(name[2]))
        if self._last_key and first_plan is not None and first_plan > self.last + 1:
            yield self._hole(self._last_key, first_plan)

    def has_plans(self, first: int, last: int) -> bool:
        """Whether the archive has each of the plans [first, last] itself."""
        return all(start in self._with_plans for start in range(first // GROUP * GROUP, last + 1, GROUP))

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
        self.last, self._last_key, self._tail, self._readable = last, info.key, [], True
        overlaps = first_plan is not None and first_plan <= last
        try:
            yield from self._clicks(info, overlaps=overlaps)
        except Malformed as error:
            self.trained, self._readable = None, False
            yield Breach("archive_form", info.key, str(error))

    def _plans(self, info: ObjectInfo, first: int, last: int) -> Iterator[Breach]:
        """The plans of a group, whose clicks have just been read: each follows on the one before, and trained those."""
        if last != self.last:  # their clicks have expired before them
            self.stray(info)
            return
        before = self.head if self.head is not None and self.head.seq == first - 1 else None
        before = Head(-1, "") if not first else before
        try:
            found = [(parse_plan(line), sha256(line)) for line in lines(self.store, info.key)]
        except Malformed as error:
            yield Breach("archive_plans", info.key, str(error))
            return
        lineage = self.root.rpartition("/")[2]
        if [(plan.lineage, plan.seq) for plan, _ in found] != [(lineage, seq) for seq in range(first, last + 1)]:
            yield Breach("archive_plans", info.key, f"it does not hold the plans {first} to {last}, in order")
            return
        for plan, digest in found:
            if before is not None and plan.previous_sha256 != before.sha256:
                yield Breach("archive_plans", info.key, f"plan {plan.seq} does not follow on the one before")
            before = Head(plan.seq, digest, plan.epoch, plan.topic)
        self.head = before
        if self._readable and _trained([plan for plan, _ in found]) != [rows for rows, _, _ in self._tail]:
            yield Breach("archive_plans", info.key, "they trained other clicks than are archived")
        self._with_plans.add(first)
        self.told(info, 0)

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


def _trained(found: Sequence[PlanDoc]) -> list[int]:
    """Clicks by staged object, in order."""
    return [planned.staged.rows for plan in found for planned in plan.ranges if planned.staged is not None]


def _print(rows: Rows) -> Print:
    return (len(rows), int(rows.offsets[0]), int(rows.offsets[-1])) if len(rows) else (0, 0, 0)
