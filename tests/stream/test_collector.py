"""Collecting garbage: every click archived once, nothing needed gone, whatever moment it dies at."""

from __future__ import annotations

import pytest

from stream import collector
from stream.collector import Collected
from stream.policy import CheckpointPolicy
from tests.fakes import Crash, MemoryStore
from tests.stream.collector_rig import LAYOUT, PLANS, archived, clicks, collecting, full_lineage, keys, named, seqs


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of four plans, so that a few plans are several groups."""
    monkeypatch.setattr(collector, "GROUP", 4)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    return full_lineage(tmp_path_factory.mktemp("full"))


@pytest.fixture
def store(full: MemoryStore) -> MemoryStore:
    return full.copy()


def test_what_recovery_needs_stays(store: MemoryStore) -> None:
    """The newest checkpoints, all plans above the oldest of them, and their clicks; only whole groups go."""
    collecting(store)

    assert seqs(store, LAYOUT.checkpoints) == [14, 19]
    assert len(keys(store, LAYOUT.checkpoints)) == 4
    assert seqs(store, LAYOUT.plans) == list(range(12, PLANS))
    assert sorted(named(store)) == keys(store, LAYOUT.staged)


def test_the_archive_holds_every_click_once(store: MemoryStore) -> None:
    """Exactly the rows that were staged, in plan order, one object a group; collecting again finds nothing."""
    before = named(store)
    everything = clicks(store, before)

    done = collecting(store)

    kept = clicks(store, named(store))
    assert archived(store) + kept == everything
    names = [(LAYOUT.archive(first, first + 3), LAYOUT.archived_plans(first, first + 3)) for first in (0, 4, 8)]
    assert keys(store, LAYOUT.archived) == [name for pair in names for name in pair]
    assert done.archived == len(everything) - len(kept)
    assert collecting(store) == Collected()


def test_plans_that_somebody_reads_are_spared(store: MemoryStore) -> None:
    """While a version is trained or brought level no plan goes; when it is done, as before."""
    before = seqs(store, LAYOUT.plans)
    collecting(store, spare=True)
    assert seqs(store, LAYOUT.plans) == before
    assert collecting(store).archived > 0


def test_without_archive_clicks_are_dropped(store: MemoryStore) -> None:
    """Who wants no archive gets none; all else is the same."""
    done = collecting(store, CheckpointPolicy(kept=2, grace_seconds=100.0, archive=False))

    assert done.archived == 0
    assert archived(store) == []
    assert seqs(store, LAYOUT.plans) == list(range(12, PLANS))


@pytest.mark.parametrize("moment", ["trouble", "aftermath"])
def test_it_may_die_at_any_call(full: MemoryStore, moment: str) -> None:
    """Killed before or after any call, then begun again: the archive is whole and nothing in it is double."""
    whole = full.copy()
    collecting(whole)

    for fatal in range(len(whole.calls)):
        store = full.copy()
        die_at(store, moment, fatal)
        with pytest.raises(Crash):
            collecting(store)
        survivor = store.copy()
        assert seqs(survivor, LAYOUT.checkpoints)[-2:] == [14, 19], fatal
        assert seqs(survivor, LAYOUT.plans)[-10:] == list(range(12, PLANS)), fatal

        collecting(survivor)

        assert survivor.objects.keys() == whole.objects.keys(), fatal
        assert archived(survivor) == archived(whole), fatal


def die_at(store: MemoryStore, moment: str, fatal: int) -> None:
    left = [None] * fatal

    def tick(_call: str, _key: str) -> None:
        if not left:
            raise Crash
        left.pop()

    setattr(store, moment, tick)
