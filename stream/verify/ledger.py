"""The account that `headrace verify` keeps: plans follow on each other, and every offset has exactly one outcome.

Holds one number per partition and one window of event ids, whatever the lineage's length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

import numpy as np

from stream.verify.forms import Breach, ManifestDoc, PlanDoc, RangeDoc
from stream.verify.reading import Rows

OUTCOMES = ("trained", "rejected", "duplicates")
GAP = "gap"
"""The cut of a plan that only records offsets which the source no longer held."""


@dataclass(frozen=True, slots=True)
class Head:
    """The plan read last. `epoch` and `topic` are None where they are not known."""

    seq: int
    sha256: str
    epoch: int | None = None
    topic: str | None = None


@dataclass(slots=True)
class Ledger:
    """Where the stream stands after the plans so far.

    `whole`: every partition that was ever read is in `offsets`. `seen`: events by outcome in the plans read; `base`:
    those before the first of them, by outcome, as far as known.
    """

    head: Head | None = None
    offsets: dict[int, int] = field(default_factory=dict)
    whole: bool = False
    seen: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    base: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        """The first plan of the lineage comes next: nothing was before it."""
        self.head = Head(-1, "", 0)
        self.whole = True
        self.base = dict.fromkeys(OUTCOMES, 0)

    def lose(self, head: Head | None) -> None:
        """A plan is missing or cannot be read: what it accounted for is not known. `head`: it, if it is there."""
        self.head = head
        self.offsets.clear()
        self.whole = False
        self.base.clear()

    def follow(self, key: str, previous_key: str, plan: PlanDoc) -> Iterator[Breach]:
        """What is wrong with how `plan` follows on the plan before."""
        head = self.head
        if head is None:
            return
        if plan.previous_sha256 != head.sha256:
            yield Breach(
                "chain",
                previous_key if head.seq >= 0 else key,
                f"its SHA-256 is {head.sha256 or 'that of nothing'}, but plan {plan.seq} was written after "
                f"{plan.previous_sha256 or 'nothing'}",
            )
        if head.topic is not None and plan.topic != head.topic:
            yield Breach("plan_place", key, f"it is of topic {plan.topic}, the plan before of {head.topic}")
        if head.epoch is not None:
            yield from _epoch(key, plan, head.epoch)
        if plan.cut == GAP and any(planned.absent != planned.end - planned.start for planned in plan.ranges):
            yield Breach("gap_plan", key, "it records lost offsets, and some that are trained, rejected or duplicates")

    def join(self, key: str, planned: RangeDoc) -> Iterator[Breach]:
        """What is wrong with where the range begins: at the end of the one before of its partition."""
        expected = self.offsets.get(planned.partition, planned.start)
        if planned.start > expected:
            what = f"the plans before end at {expected}, this one begins at {planned.start}"
            yield Breach("gap", key, what, planned.partition, expected, planned.start)
        if planned.start < expected:
            what = f"the plans before end at {expected}, this one begins at {planned.start}"
            yield Breach("overlap", key, what, planned.partition, planned.start, min(expected, planned.end))
        self.offsets[planned.partition] = max(expected, planned.end)

    def count(self, planned: RangeDoc, rows: Rows | None) -> None:
        """Add a range's events up. `rows`: what is staged; where that cannot be read the plan's word stands."""
        claimed = planned.staged.rows if planned.staged is not None else 0
        self.seen["trained"] += len(rows) if rows is not None else claimed
        self.seen["rejected"] += _length(planned.rejected)
        self.seen["duplicates"] += _length(planned.duplicates)

    def settle(self, key: str, manifest: ManifestDoc) -> Iterator[Breach]:
        """What is wrong with where the checkpoint stands: after its plan. What was not known is taken from it."""
        head = self.head
        if head is not None and manifest.plan_sha256 != head.sha256:
            yield Breach("manifest_plan", key, f"it stands on plan {manifest.plan_sha256}, stored is {head.sha256}")
        if head is not None and head.epoch is not None and manifest.epoch != head.epoch:
            yield Breach("manifest_epoch", key, f"its epoch is {manifest.epoch}, its plan's is {head.epoch}")
        yield from self._settle_offsets(key, manifest)
        # Which batches were set aside is the learner's finding: plans give it their clicks all the same.
        given = manifest.totals | {"trained": manifest.totals["trained"] + manifest.totals["aside"]}
        for outcome in OUTCOMES:
            yield from self._settle_total(key, outcome, given[outcome])
        self.head = head or Head(manifest.seq, manifest.plan_sha256, manifest.epoch)

    def _settle_offsets(self, key: str, manifest: ManifestDoc) -> Iterator[Breach]:
        known = self.offsets.keys() | manifest.next_offsets.keys() if self.whole else self.offsets.keys()
        for partition in sorted(known):
            ours, theirs = self.offsets.get(partition), manifest.next_offsets.get(partition)
            if ours != theirs:
                what = f"it would go on at offset {theirs}, the plans at {ours}"
                yield Breach("manifest_offsets", key, what, partition)
        self.offsets = manifest.next_offsets | self.offsets
        self.whole = True

    def _settle_total(self, key: str, outcome: str, total: int) -> Iterator[Breach]:
        expected = self.base.setdefault(outcome, total - self.seen[outcome]) + self.seen[outcome]
        if total != expected or total < self.seen[outcome]:
            what = f"it counts {total} events {outcome}{' or set aside' * (outcome == 'trained')}, the plans give {max(expected, self.seen[outcome])}"
            yield Breach("manifest_totals", key, what)


class EventIds:
    """The last `limit` event ids that were trained, oldest first: none of them may be trained again."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[str, None] = {}

    def admit(self, groups: Sequence[Rows]) -> list[tuple[int, int, str]]:
        """The ids of one batch enter. Answers those that were there already: group, offset and id."""
        named = [[key for key in rows.event_ids or () if key is not None] for rows in groups]
        fresh = dict.fromkeys(key for keys in named for key in keys)
        clean = len(fresh) == sum(map(len, named)) and self._seen.keys().isdisjoint(fresh)
        repeated = [] if clean else list(self._repeats(groups))
        self._seen |= fresh
        for key in list(islice(self._seen, max(0, len(self._seen) - self._limit))):
            del self._seen[key]
        return repeated

    def _repeats(self, groups: Sequence[Rows]) -> Iterator[tuple[int, int, str]]:
        batch: set[str] = set()
        for group, rows in enumerate(groups):
            for offset, key in zip(rows.offsets.tolist(), rows.event_ids or [None] * len(rows), strict=True):
                if key is not None and (key in self._seen or key in batch):
                    yield group, offset, key
                if key is not None:
                    batch.add(key)


def account(key: str, planned: RangeDoc, rows: Rows | None) -> Iterator[Breach]:
    """What is wrong with a range: each offset is in exactly one of trained, rejected, duplicate and absent.

    `rows`: what is staged; None when that could not be read, or nothing is: the plan's count then stands in.
    """
    spans = sorted(planned.rejected + planned.duplicates)
    for start, end in spans:
        if not planned.start <= start < end <= planned.end:
            yield Breach("span", key, "the span is not inside of the range", planned.partition, start, end)
    for (_, end), (start, _) in pairwise(spans):
        if start < end:
            yield Breach("twice", key, "two spans share offsets", planned.partition, start, end)
    if rows is not None:
        yield from _staged_offsets(key, planned, rows, spans)
    trained = planned.staged.rows if planned.staged is not None else 0
    found = trained + _length(spans) + planned.absent
    if found != planned.end - planned.start:
        what = f"{planned.end - planned.start} offsets, of which {found} are accounted for"
        yield _at("count", key, planned, what)


def _staged_offsets(key: str, planned: RangeDoc, rows: Rows, spans: Sequence[tuple[int, int]]) -> Iterator[Breach]:
    offsets = rows.offsets
    if len(offsets) and not planned.start <= offsets.min() <= offsets.max() < planned.end:
        what = f"clicks of offsets {offsets.min()} to {offsets.max() + 1} are staged"
        yield _at("staged_offsets", key, planned, what)
    if (np.diff(offsets) <= 0).any():
        yield _at("staged_offsets", key, planned, "the offsets of the staged clicks do not rise")
    inside = offsets[_inside(offsets, spans)]
    if len(inside):
        what = f"offset {inside[0]} is trained, and rejected or a duplicate ({len(inside)} such)"
        yield Breach("twice", key, what, planned.partition, int(inside[0]), int(inside[0]) + 1)


def _inside(offsets: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Which offsets lie in a span, bool [n]: the last span that begins at or before it must have ended."""
    if not spans:
        return np.zeros(len(offsets), bool)
    starts, ends = np.array(spans, np.int64).T
    last = np.searchsorted(starts, offsets, side="right") - 1
    return (last >= 0) & (offsets < np.maximum.accumulate(ends)[last])


def _epoch(key: str, plan: PlanDoc, epoch: int) -> Iterator[Breach]:
    fence = plan.cut == "fence"
    if plan.epoch < epoch:
        yield Breach("epoch", key, f"its epoch is {plan.epoch}, the plan before had {epoch} already")
    elif fence == (plan.epoch == epoch):
        what = "it fences without raising the epoch" if fence else "it raises the epoch without being a fence"
        yield Breach("epoch", key, f"{what} ({epoch} before, {plan.epoch} now)")
    if fence and any(planned.end != planned.start for planned in plan.ranges):
        yield Breach("epoch", key, "it is a fence, which must be empty, and has offsets")


def _length(spans: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in spans)


def _at(rule: str, key: str, planned: RangeDoc, what: str) -> Breach:
    return Breach(rule, key, what, planned.partition, planned.start, planned.end)
