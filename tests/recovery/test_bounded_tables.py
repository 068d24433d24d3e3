"""Promise 1 where tables are full: deaths, checkpoints and replays change neither who has a row nor who lost it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from model.state import EVICTED, REFUSED
from stream.host import HostConfig, LearnerHost
from stream.metrics import PrometheusMeter
from tests import rigs
from tests.fakes import Crash, MemoryStore
from tests.model.streams import random_batches
from tests.rigs import LAYOUT, MODEL, Rig, folded

TIGHT = replace(MODEL, users_max=20, items_max=24, admission_width=1024)


@pytest.fixture(autouse=True)
def _tight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rigs, "MODEL", TIGHT)


def rows(count: int) -> list[rigs.Row]:
    """Clicks one a second, of more users and items than there may be rows."""
    return [
        {
            "user_id": f"u{place * place % 67}",
            "product_id": f"i{place * 7 % 61 if place % 3 else place % 5}",
            "timestamp": 1_600_000_000 + place,
        }
        for place in range(count)
    ]


def test_full_tables_survive_any_death() -> None:
    """Killed before calls to the store and started again, over and over: the state of a fold that never died."""
    store, deaths = MemoryStore(), 0
    for fatal in (9, 14, 20, 27, 35, 48, 60):
        store.trouble = _at(fatal)
        try:
            Rig(store, rows(600), partitions=1).run()
        except Crash:
            deaths += 1
        store = store.copy()
    assert deaths > 4
    rig = Rig(store, rows(600), partitions=1)
    rig.run()

    clean = folded(store)
    assert (clean._learner.state.tally[:, [REFUSED, EVICTED]] > 0).all()
    assert rig.state() == clean.state_sha256()


def _at(fatal: int) -> Callable[[str, str], None]:
    left = iter(range(fatal))

    def trouble(_call: str, _key: str) -> None:
        if next(left, None) is None:
            raise Crash

    return trouble


def test_the_gauges_tell() -> None:
    """Capacity, what became of ids, and bytes are published as the learner has them."""
    rig, meter = Rig(MemoryStore(), rows(600), partitions=1), PrometheusMeter()
    rig.meter = meter
    rig.__post_init__()
    rig.run()

    occupancy = rig.learner.status()["occupancy"]
    for table, capacity in (("users", 20), ("items", 24)):
        assert meter.value("headrace_table_capacity_rows", table=table) == capacity
        for outcome in ("admitted", "refused", "evicted"):
            told = meter.value("headrace_table_ids", table=table, outcome=outcome)
            assert told == occupancy[table][outcome] > 0
    assert meter.value("headrace_model_bytes", kind="used") == occupancy["memory"]["used"] > 0
    assert 0 < meter.value("headrace_withheld_events_total") < 600
    assert meter.value("headrace_events_total", outcome="trained") == 600


def test_a_checkpoint_begun_before_an_eviction_is_whole() -> None:
    """Rows that go while a checkpoint is still being written are in it, under their own ids."""
    store = MemoryStore()
    host = LearnerHost(HostConfig(TIGHT, LAYOUT, store, 100))
    batches = random_batches(30, 60, users=40, items=60)
    for batch in batches[:12]:
        host._learner.learn(batch)
    begun, evicted = host.state_sha256(), host._learner.state.tally[:, EVICTED].copy()
    host.begin_checkpoint()
    for batch in batches[12:]:
        host._learner.learn(batch)
    assert (host._learner.state.tally[:, EVICTED] > evicted).all()

    written = host.finish_checkpoint()
    host.restore(written.manifest_key)

    assert host.state_sha256() == begun
