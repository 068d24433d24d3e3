"""What is stored of a lineage, read again from its first plan: out of the archive, then out of staging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from stream import history
from stream.batching import CutPolicy
from stream.collector import Collector
from stream.errors import StoreRefused
from stream.history import Archive
from stream.metrics import PrometheusMeter
from stream.naming import Layout
from stream.patience import Patience
from stream.planner import Head
from stream.policy import Backoff, CheckpointPolicy
from stream.recovery import replay
from tests.fakes import MemoryStore
from tests.rigs import LAYOUT, RHYTHM, Rig, clicks, folded

START = Head(-1, "", 0)
GRASPING = CheckpointPolicy(kept=1, grace_seconds=0)
RHYTHM_FINE = replace(RHYTHM, cut=CutPolicy(rows=8), checkpoint=CheckpointPolicy(10, 1e9, 1, 1e9))


@pytest.fixture(scope="module")
def full() -> MemoryStore:
    """150 plans, nothing collected."""
    store = MemoryStore()
    Rig(store, clicks(149 * 8), rhythm=RHYTHM_FINE).run()
    return store


@pytest.fixture
def collected(full: MemoryStore) -> MemoryStore:
    """The same, its first 128 plans archived."""
    store = full.copy()
    for _ in range(2):
        Collector(store, LAYOUT, GRASPING).collect()
    return store


def archive(store: MemoryStore) -> Archive:
    return Archive(store, LAYOUT, Patience(Backoff(), lambda _: True, PrometheusMeter()), PrometheusMeter())


def told(store: MemoryStore) -> list[tuple[str, list[str], list[int]]]:
    """Every plan's hash, and the users and times of its clicks."""
    found = replay(archive(store), START, {})
    return [(each.sha256, each.batch.users.tolist(), each.batch.times.tolist()) for each in found]


def test_archived_plans_teach_the_same(full: MemoryStore, collected: MemoryStore) -> None:
    """From the archive as from staging: the same model, bit for bit."""
    assert LAYOUT.plan(0) in full.objects
    assert LAYOUT.plan(127) not in collected.objects

    assert folded(collected).state_sha256() == folded(full).state_sha256()


@pytest.mark.parametrize("after", [-1, 0, 62, 63, 64, 126, 127, 140])
def test_history_goes_on_from_anywhere(full: MemoryStore, collected: MemoryStore, after: int) -> None:
    """Each plan after the one that is known, once, in order."""
    heads = {-1: START} | {stored.plan.seq: stored.head for stored in history.follow(archive(full), START, {})}

    found = [planned.plan.seq for planned in replay(archive(collected), heads[after], {})]

    assert found == list(range(after + 1, 150))


def test_first_plan_that_is_there(full: MemoryStore, collected: MemoryStore) -> None:
    """What a retrain can learn from: all, or what an archive that was thinned out has left."""
    assert history.first_seq(archive(full)) == 0
    assert history.first_seq(archive(collected)) == 0
    collected.delete(LAYOUT.archived_plans(0, 63))
    assert history.first_seq(archive(collected)) == 64
    assert history.before(archive(collected), 64).seq == 63
    collected.delete(LAYOUT.archived_plans(64, 127))
    assert history.first_seq(archive(collected)) == 128
    assert [
        planned.plan.seq for planned in replay(archive(collected), history.before(archive(collected), 128), {})
    ] == [*range(128, 150)]


def test_collecting_may_have_stopped_anywhere(full: MemoryStore) -> None:
    """A collector that died while it cleared a group: what is gone is read from the archive, the rest as before."""
    store = full.copy()
    calls = 0

    def die(call: str, _key: str) -> None:
        nonlocal calls
        calls += call == "delete"
        if calls == 50:
            raise StoreRefused("died")

    store.trouble = die
    with pytest.raises(StoreRefused, match="died"):
        Collector(store, LAYOUT, GRASPING).collect()
    store.trouble = lambda _call, _key: None

    assert history.first_seq(archive(store)) == 0
    assert told(store) == told(full)


def change(key: str, edit: Callable[[bytes], bytes]) -> Callable[[MemoryStore], object]:
    return lambda store: store.put(key, edit(store.get(key).data))


PLANS, CLICKS = LAYOUT.archived_plans(64, 127), LAYOUT.archive(64, 127)
DAMAGES: dict[str, tuple[Callable[[MemoryStore], object], str]] = {
    "no plans": (lambda store: store.delete(PLANS), "plan 64 of lineage main is missing"),
    "no clicks": (lambda store: store.delete(CLICKS), f"{CLICKS} is gone"),
    "plan lacking": (change(PLANS, lambda data: data.partition(b"\n")[2]), "holds 63 plans, not 64"),
    "plan edited": (change(PLANS, lambda data: data.replace(b'"nonce":"', b'"nonce":"x', 1)), "chain of hashes"),
    "no JSON": (change(PLANS, lambda data: data.replace(b"{", b"[", 1)), "is not a plan"),
    "no Parquet": (change(CLICKS, lambda _: b"PAR1PAR1PAR1"), "is no archive of Headrace"),
    "other clicks": (lambda store: store.put(CLICKS, store.get(LAYOUT.archive(0, 63)).data), "which trained"),
    "another lineage's": (
        change(PLANS, lambda data: data.replace(b'"lineage":"main"', b'"lineage":"else"')),
        "not where it belongs",
    ),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_archive_is_refused_by_name(
    collected: MemoryStore, damage: Callable[[MemoryStore], object], said: str
) -> None:
    """Nothing that was not planned is learned; whoever reads it is told the object."""
    damage(collected)

    with pytest.raises(StoreRefused, match=said):
        told(collected)


def test_lost_checkpoints_are_made_up_for_by_the_archive(collected: MemoryStore) -> None:
    """With no checkpoint left the state is rebuilt from the first plan on."""
    before = folded(collected).state_sha256()
    for key in [key for key in collected.objects if key.startswith(LAYOUT.checkpoints)]:
        collected.delete(key)

    rig = Rig(collected, clicks(149 * 8), rhythm=RHYTHM_FINE)
    rig.service.open()

    assert rig.service.opened is not None
    assert rig.service.opened.recovered.replayed == 150
    assert folded(collected).state_sha256() == rig.state() != before


def test_whether_a_version_can_be_brought_level(collected: MemoryStore) -> None:
    """The plan after it is there, in the archive or by itself, or there is none."""
    layout = Layout(LAYOUT.prefix, LAYOUT.lineage, 2)
    assert all(history.continues(collected, layout, after) for after in (-1, 63, 100, 127, 140, 149))
    collected.delete(LAYOUT.archived_plans(64, 127))
    assert not history.continues(collected, layout, 100)
    assert history.continues(collected, layout, 127)
    assert history.continues(collected, layout, 62)
