"""What the collector leaves alone: what is kept, what is young, what is damaged, and more than it may do at once."""

from __future__ import annotations

import pytest

from stream import collector
from stream.errors import StoreRefused
from stream.naming import MANIFEST
from stream.policy import CheckpointPolicy
from tests.fakes import MemoryStore
from tests.stream.collector_rig import LAYOUT, NOW, archived, collecting, full_lineage, keys, named, seqs


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


@pytest.mark.parametrize(("kept", "oldest", "first"), [(1, 19, 16), (3, 9, 8), (4, 4, 4), (5, 4, 0)])
def test_the_oldest_kept_decides(store: MemoryStore, kept: int, oldest: int, first: int) -> None:
    """As many checkpoints as asked for stay, with all groups of plans that reach above the oldest of them."""
    collecting(store, CheckpointPolicy(kept=kept, grace_seconds=100.0))

    assert seqs(store, LAYOUT.checkpoints)[0] == oldest
    assert seqs(store, LAYOUT.plans)[0] == first


def test_an_unfinished_checkpoint_counts_for_nothing(store: MemoryStore) -> None:
    """Parts without a MANIFEST keep no plan from going, and go themselves once they are below."""
    for seq in (9, 14):
        store.delete(LAYOUT.manifest(seq))

    collecting(store)

    assert seqs(store, LAYOUT.checkpoints) == [4, 19]
    assert seqs(store, LAYOUT.plans)[0] == 4
    collecting(store, CheckpointPolicy(kept=1, grace_seconds=100.0))
    assert all(key.startswith(LAYOUT.checkpoint(19)) for key in keys(store, LAYOUT.checkpoints))


def touch(store: MemoryStore, key: str, modified: float) -> None:
    store.objects[key] = (store.objects[key][0], modified)


def test_a_young_plan_keeps_its_group(store: MemoryStore) -> None:
    """Until the grace period is over for the last of a group, by the store's clock, all of it stays, and all above."""
    touch(store, LAYOUT.plan(6), NOW - 99)

    collecting(store)
    assert seqs(store, LAYOUT.plans)[0] == 4
    collecting(store, now=NOW + 1)
    assert seqs(store, LAYOUT.plans)[0] == 12


def test_a_young_checkpoint_stays_whole(store: MemoryStore) -> None:
    """Parts are older than their MANIFEST; while that one may be being read, none of them goes."""
    touch(store, LAYOUT.manifest(9), NOW - 99)

    collecting(store)
    assert len(keys(store, LAYOUT.checkpoint(9))) == 2
    collecting(store, now=NOW + 1)
    assert keys(store, LAYOUT.checkpoint(9)) == []


def test_a_checkpoint_goes_manifest_first(store: MemoryStore) -> None:
    """At no moment does a MANIFEST name parts that are gone."""
    collecting(store)

    deleted = [key for call, key in store.calls if call == "delete" and key.startswith(LAYOUT.checkpoints)]
    assert [key.endswith(MANIFEST) for key in deleted] == [True, False] * 2


def test_altered_clicks_are_not_archived(store: MemoryStore) -> None:
    """Damage is reported by its key, and nothing of its group goes."""
    damaged = named(store)[3]
    store.put(damaged, store.get(named(store)[0]).data)

    with pytest.raises(StoreRefused, match=damaged):
        collecting(store, now=NOW * 2)
    assert damaged in keys(store)
    assert seqs(store, LAYOUT.plans)[0] == 4


def test_two_collectors_at_once(full: MemoryStore) -> None:
    """Another that is a step ahead is no error, and together they do the same."""
    whole, store = full.copy(), full.copy()
    collecting(whole)

    def overtake(_call: str, key: str) -> None:
        if key == LAYOUT.plan(1):
            store.aftermath = lambda _call, _key: None
            collecting(store)

    store.aftermath = overtake
    collecting(store)

    assert store.objects.keys() == whole.objects.keys()
    assert archived(store) == archived(whole)


def test_many_groups_have_a_bound(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call clears a backlog of groups, but not an endless one: others wait behind it."""
    monkeypatch.setattr(collector, "GROUPS_MAX", 2)

    collecting(store)
    assert seqs(store, LAYOUT.plans)[0] == 8
    collecting(store)
    assert seqs(store, LAYOUT.plans)[0] == 12
