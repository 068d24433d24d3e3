"""Promise 1 on the corridor: whatever call the process dies at, before it or after it took effect, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from model import snapshot
from stream import plans
from stream.naming import seq_of
from stream.ports import ObjectStore
from tests.fakes import Crash, MemoryStore
from tests.rigs import LAYOUT, Rig, clicks, folded

ROWS = [
    *clicks(100),
    b"not json",
    {"user_id": "u1", "product_id": "i1", "timestamp": 1_600_000_100, "event_id": "once"},
    {"user_id": "u1", "product_id": "i1", "timestamp": 1_600_000_101, "event_id": "once"},
    *clicks(160)[100:],
    {"user_id": "u1", "product_id": "i1", "timestamp": 1_600_000_200, "event_id": "once"},
    None,
    *clicks(240)[160:],
]


@pytest.fixture(scope="module")
def calls() -> int:
    """How many calls an uninterrupted run makes to its store."""
    store = MemoryStore()
    Rig(store, ROWS, partitions=1).run()
    return len(store.calls)


@pytest.fixture(scope="module")
def model() -> str:
    """Hash of the model after an uninterrupted run over one partition, where a restart cuts the same batches again."""
    store = MemoryStore()
    Rig(store, ROWS, partitions=1).run()
    return snapshot.digest(folded(store)._learner)


@pytest.mark.parametrize("moment", ["trouble", "aftermath"])
@pytest.mark.parametrize("partitions", [1, 2])
def test_dies_at_any_store_call(moment: str, partitions: int, calls: int, model: str) -> None:
    """Killed before or after any call to the store, then started again: same model, every offset exactly once."""
    for fatal in range(1, calls, 5):
        store = MemoryStore()
        _die_at(store, moment, fatal)
        with pytest.raises(Crash):
            Rig(store, ROWS, partitions=partitions).run()
        survivor = store.copy()
        rig = Rig(survivor, ROWS, partitions=partitions)
        rig.run()

        assert rig.state() == folded(survivor).state_sha256(), fatal
        assert partitions > 1 or snapshot.digest(folded(survivor)._learner) == model, fatal
        assert _outcomes(survivor) == (241, 2, 2), fatal


def test_dies_over_and_over(model: str) -> None:
    """Killed again and again, each time a few calls further on, it still gets to the same model."""
    store = MemoryStore()
    for fatal in range(20, 200, 9):
        _die_at(store, "trouble", fatal)
        with suppress(Crash):
            Rig(store, ROWS, partitions=1).run()
        store = store.copy()
    Rig(store, ROWS, partitions=1).run()

    assert snapshot.digest(folded(store)._learner) == model


def test_learner_dies_before_any_plan(model: str) -> None:
    """The learner is lost before each plan in turn; the service brings it back and counts nothing twice."""
    for seq in range(1, 7):
        store = MemoryStore()
        rig = Rig(store, ROWS, partitions=1)
        rig.learner.dies_at = seq
        rig.run()

        assert rig.learner.starts == 2
        assert rig.state() == folded(store).state_sha256()
        assert snapshot.digest(folded(store)._learner) == model
        assert rig.meter.value("headrace_events_total", outcome="trained") == 241
        assert rig.meter.value("headrace_events_total", outcome="rejected") == 2
        assert rig.meter.value("headrace_events_total", outcome="duplicate") == 2
        assert rig.meter.value("headrace_learner_restarts_total") == 1


def _die_at(store: MemoryStore, moment: str, fatal: int) -> None:
    def count(_call: str, _key: str) -> None:
        nonlocal fatal
        fatal -= 1
        if not fatal:
            raise Crash

    setattr(store, moment, count)


def _outcomes(store: ObjectStore) -> tuple[int, ...]:
    """Offsets that plans account for as trained, rejected, duplicate."""
    return tuple(map(sum, zip(*_counts(store), strict=True)))


def _counts(store: ObjectStore) -> Iterator[tuple[int, int, int]]:
    for info in store.list(LAYOUT.plans):
        if seq_of(info.key) is not None:
            for planned in plans.decode(store.get(info.key).data, info.key).ranges:
                yield plans.count(planned)
