"""Offsets that the source no longer holds: never skipped on the quiet, and counted when left out on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from stream import plans
from stream.errors import SourceRefused
from stream.opening import Resume
from stream.replay.source import ReplaySource
from stream.verify.walk import prove
from tests.fakes import InlineExecutor, MemoryStore
from tests.forge import Forge
from tests.rigs import LAYOUT, Rig, clicks, folded

BEFORE, AFTER = clicks(100), clicks(200)


@dataclass
class Held:
    """What the topic holds: offsets `first` to `end`, by partition."""

    first: Mapping[int, int]
    end: Mapping[int, int] | None = None


class Retaining(ReplaySource):
    """A source that holds only a part of its rows."""

    held = Held({})

    def beginning(self) -> Mapping[int, int]:
        return {**super().beginning(), **self.held.first}

    def end(self) -> Mapping[int, int]:
        return super().end() if self.held.end is None else self.held.end


def reopened(store: MemoryStore, held: Held, resume: Resume = "stop") -> Rig:
    """The next process of the service, over a topic that has more rows and holds only some of them."""
    rig = Rig(store, AFTER)
    source = Retaining(AFTER, partitions=2, clock=rig.clock)
    source.held = held
    rig.source = source
    service = rig.service
    rig.service = type(service)(
        replace(service._doors, source=source), replace(service._orders, resume=resume), lambda *_: InlineExecutor()
    )
    return rig


@pytest.fixture
def store() -> MemoryStore:
    """A lineage that has read all of BEFORE."""
    store = MemoryStore()
    Rig(store, BEFORE).run()
    return store


def next_offsets(store: MemoryStore) -> dict[int, int]:
    """Where the lineage would go on."""
    found: dict[int, int] = {}
    for info in store.list(LAYOUT.plans):
        found |= plans.decode(store.get(info.key).data, info.key).next_offsets
    return found


def test_stops_when_retention_has_passed(store: MemoryStore) -> None:
    """Both offsets and both ways out are named, and nothing is written."""
    at, size = next_offsets(store), len(store.objects)
    rig = reopened(store, Held({1: at[1] + 7}))

    with pytest.raises(SourceRefused) as caught:
        rig.service.open()

    said = str(caught.value)
    assert f"partition 1: offset {at[1]} is wanted, {at[1] + 7} to " in said
    assert "partition 0" not in said
    assert "--resume-from earliest" in said
    assert "restore" in said
    assert len(store.objects) == size


def test_resumes_from_the_earliest_when_told(store: MemoryStore) -> None:
    """The lost offsets are a plan of their own, all absent; what is held is learned, and `verify` counts both."""
    at = next_offsets(store)
    rig = reopened(store, Held({0: at[0] + 3, 1: at[1] + 7}), "earliest")
    rig.run()
    cuts = [plans.decode(store.get(info.key).data, info.key) for info in store.list(LAYOUT.plans)]
    gap = next(plan for plan in cuts if plan.cut == "gap")
    verdict = prove(store, LAYOUT.prefix, LAYOUT.lineage)

    assert [(r.partition, r.start, r.end, r.absent) for r in gap.ranges] == [
        (0, at[0], at[0] + 3, 3),
        (1, at[1], at[1] + 7, 7),
    ]
    assert (verdict.breaches, verdict.lost, verdict.absent) == (0, 10, 10)
    assert verdict.trained == len(AFTER) - 10
    assert rig.state() == folded(store).state_sha256()


def test_resume_changes_nothing_while_all_is_held(store: MemoryStore) -> None:
    """Told to go on from the earliest offset, but nothing is lost: no gap, and no offset is read twice."""
    rig = reopened(store, Held({}), "earliest")
    rig.run()
    verdict = prove(store, LAYOUT.prefix, LAYOUT.lineage)

    assert (verdict.breaches, verdict.lost, verdict.trained) == (0, 0, len(AFTER))


@pytest.mark.parametrize("resume", ["stop", "earliest"])
@pytest.mark.parametrize("end", [{0: 3, 1: 2}, {0: 1000}])
def test_another_topic_of_that_name_is_never_read(store: MemoryStore, resume: Resume, end: dict[int, int]) -> None:
    """The topic ends before what was read, or has lost a partition: it was made anew. A stop, whatever is set."""
    rig = reopened(store, Held({}, end), resume)

    with pytest.raises(SourceRefused, match="deleted and created anew"):
        rig.service.open()


def test_a_gap_plan_that_hides_clicks_is_a_breach(store: MemoryStore) -> None:
    """`verify` does not let a plan call itself a gap when it has more in it than absent offsets."""
    forge = Forge(store)
    seq, _ = forge.find(lambda planned: planned["staged"])
    forge.plan(seq, lambda plan: plan.update(cut="gap"))

    verdict = prove(store, LAYOUT.prefix, LAYOUT.lineage)

    assert verdict.breaches == 1
    assert verdict.first_breach is not None
    assert verdict.first_breach.rule == "gap_plan"
