"""What there is to copy of a lineage that is being written and collected meanwhile.

Read in this order, so that whatever is named is there: which version serves before the versions, records before
checkpoints, checkpoints before plans, plans before the archive that they may move into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from stream import bounded, checkpoint, plans, versions
from stream.errors import ConfigError, NotFound, StoreRefused
from stream.events import Plan
from stream.naming import Layout, seq_of
from stream.policy import ARCHIVE_GROUP
from stream.ports import ObjectInfo, ObjectStore


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan and the bytes that it was read from."""

    plan: Plan
    data: bytes
    sha256: str

    @property
    def seq(self) -> int:
        return self.plan.seq


@dataclass(frozen=True, slots=True)
class Manifests:
    """A version's complete checkpoints, the newest one first: (seq, key of the MANIFEST)."""

    layout: Layout
    found: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """`serving`: bytes of SERVING.json, None where the first version serves. `records`: keys of the versions' records.

    `plans`: those that recovery can need, without a gap, to the newest one. `archived`: whether the archive goes on to
    the first of them; where it does not, some may be about to be collected. `asides`: keys of batches set aside among
    all plans so far.
    """

    serving: bytes | None
    serves: int
    records: Sequence[str]
    manifests: Sequence[Manifests]
    plans: Sequence[StoredPlan]
    archive: Sequence[ObjectInfo]
    archived: bool
    asides: Sequence[str]

    @property
    def first(self) -> StoredPlan:
        """The oldest of the plans."""
        return self.plans[0]

    @property
    def head(self) -> StoredPlan:
        """The newest plan."""
        return self.plans[-1]


def look(store: ObjectStore, layout: Layout) -> Seen:
    """Read what there is. Raises ConfigError where there is no such lineage, NotFound when the collector was faster,
    StoreRefused naming a plan that is not what it should be.
    """
    known = versions.read_serving(store, layout)
    places = [layout.of_version(number) for number in versions.numbers(store, layout)]
    records = [key for place in places[1:] for key in _records(store, place)]
    manifests = [Manifests(place, tuple(reversed(list(checkpoint.complete(store, place))))) for place in places]
    found = _plans(store, layout)
    archive = list(store.list(layout.archived))
    end = _archived_end(layout, {info.key for info in archive})
    archived = found[0].seq <= end + 1
    return Seen(
        msgspec.json.encode(known.serving) if known.etag is not None else None,
        known.serving.version,
        records,
        manifests,
        [each for each in found if each.seq > end] if archived else found,  # the archived ones may be half collected
        archive,
        archived,
        [key for place in places for key in _asides(store, place, found[-1].seq)],
    )


def _records(store: ObjectStore, place: Layout) -> list[str]:
    home = f"{place.home}/"
    return [info.key for info in store.list(home) if "/" not in info.key.removeprefix(home)]


def _asides(store: ObjectStore, place: Layout, newest: int) -> list[str]:
    """Those of later plans are left out: in the copy, other plans will have these numbers."""
    end = place.aside(newest)
    return [info.key for info in store.list(place.asides) if info.key <= end]


def _archived_end(layout: Layout, keys: set[str]) -> int:
    """The last plan of the last group whose plans and clicks are both archived; -1 where there is none."""
    ends = (seq for key in keys if (seq := _last_seq(layout, key)) is not None)
    wholes = (end for end in ends if layout.archived_plans(end - ARCHIVE_GROUP + 1, end) in keys)
    return max(wholes, default=-1)


def _last_seq(layout: Layout, key: str) -> int | None:
    name = key.removeprefix(layout.archived).removesuffix(".parquet")
    last = name.rpartition("-")[2]
    if not last.isdecimal():
        return None
    seq = int(last)
    return seq if key == layout.archive(seq - ARCHIVE_GROUP + 1, seq) else None


def _plans(store: ObjectStore, layout: Layout) -> list[StoredPlan]:
    """The newest ones that follow on each other; what stands alone before them was left by a replaced writer."""
    keys: list[str] = []
    for info in store.list(layout.plans):
        seq = seq_of(info.key)
        if seq is None:
            raise StoreRefused(f"{info.key} is no plan: see `headrace verify`")
        if keys and seq_of(keys[-1]) != seq - 1:
            keys.clear()
        keys.append(info.key)
    if not keys:
        raise ConfigError(f"there is no lineage {layout.lineage} to copy: {layout.plans} holds no plan")
    found: list[StoredPlan] = []
    for key in keys:
        data = plans.read(store, key)
        plan = plans.decode(data, key)
        plans.check_place(plan, layout, key)
        if found and plan.previous_sha256 != found[-1].sha256:
            raise StoreRefused(f"{key} does not follow on the plan before it: see `headrace verify`")
        found.append(StoredPlan(plan, data, plans.sha256(data)))
    return found


def sha256_of(store: ObjectStore, layout: Layout, seen: Seen, seq: int) -> str | None:
    """A plan's hash, out of what is there by itself or out of the archive; None where neither has it."""
    if seen.first.seq <= seq <= seen.head.seq:
        return seen.plans[seq - seen.first.seq].sha256
    first = seq // ARCHIVE_GROUP * ARCHIVE_GROUP
    try:
        key = layout.archived_plans(first, first + ARCHIVE_GROUP - 1)
        lines = bounded.read(store, key, bounded.ARCHIVED_PLANS_BYTES_MAX).splitlines()
    except NotFound:
        return None
    return plans.sha256(lines[seq - first]) if len(lines) == ARCHIVE_GROUP else None
