"""Killed at any call to the store, or run twice at once: nothing is trained twice, nothing new is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stream.errors import Fenced, StoreUnavailable
from stream.store.directory import DirectoryStore
from stream.train.state import States
from tests.fakes import Crash, MemoryStore
from tests.stream.batch_rig import (
    ALL,
    ARCHIVES,
    MODEL,
    NEW,
    REJECTS,
    archived,
    clicks,
    digest_of,
    keys,
    model_of,
    text,
    train,
    trained_store,
)

CHANGES = ("put", "delete")
OLD = text(clicks(range(10), 60))
FRESH = text([*clicks(range(8, 12), 30, start=1_690_900_000, seed=3), "{broken"])


@dataclass(frozen=True)
class Scene:
    """What a run begins with, and which run it is."""

    name: str
    incremental: bool
    build: Callable[[], MemoryStore]

    def run(self, store: MemoryStore) -> None:
        train(store, incremental=self.incremental)


def increment() -> MemoryStore:
    store = trained_store(60)
    store.put(NEW, FRESH)
    return store


def rest() -> MemoryStore:
    store = increment()
    train(store, incremental=True)
    store.put(NEW, FRESH + text(clicks(range(3), 15, start=1_691_000_000, seed=4)))
    return store


def nothing_yet() -> MemoryStore:
    store = MemoryStore()
    store.put(ALL, OLD)
    return store


def fallback() -> MemoryStore:
    store = nothing_yet()
    store.put(NEW, FRESH)
    return store


SCENES = [
    Scene("increment", True, increment),
    Scene("rest", True, rest),
    Scene("full", False, nothing_yet),
    Scene("fallback", True, fallback),
]


def outcome(store: MemoryStore) -> dict[str, object]:
    """All that matters of what a store holds: inputs, model, state, archives, rejects."""
    plain = {key: data for key, (data, _) in store.objects.items() if key.startswith("data/")}
    return {**plain, MODEL: store.get(MODEL).data, "state": digest_of(store)}


def crash_at(store: MemoryStore, number: int, when: str) -> None:
    """Die `when` (before or after) the call of that number that changes the store, counted from 0."""
    left = number

    def count(call: str, _key: str) -> None:
        nonlocal left
        if call in CHANGES:
            left -= 1
            if left < 0:
                raise Crash

    if when == "before":
        store.trouble = count
    else:
        store.aftermath = count


def changes(scene: Scene) -> tuple[MemoryStore, int]:
    """The store after an uninterrupted run, and how many calls changed it."""
    store = scene.build()
    store.calls.clear()
    scene.run(store)
    return store, sum(call in CHANGES for call, _ in store.calls)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_killed_at_every_change_and_run_again(scene: Scene, when: str) -> None:
    """Whichever change of the store was the last one, a rerun ends byte for byte where an uninterrupted run ends."""
    finished, count = changes(scene)
    wanted, start = outcome(finished), scene.build()

    for number in range(count):
        store = start.copy()
        crash_at(store, number, when)
        with pytest.raises(Crash):
            scene.run(store)
        survived = store.copy()
        scene.run(survived)
        assert outcome(survived) == wanted, f"killed {when} change {number} of {count}"


def test_killed_again_and_again() -> None:
    """Killed at each change in turn, one store through all of it, the end is the same."""
    finished, count = changes(SCENES[0])
    store = increment()

    for number in range(count):
        crash_at(store, number, "after")
        try:
            train(store, incremental=True)
        except Crash:
            store = store.copy()
    train(store, incremental=True)

    assert outcome(store) == outcome(finished)


def test_a_run_after_the_commit_reports_what_it_finished() -> None:
    """Killed between the MANIFEST and the pickle, the next run trains nothing, and reports it as recovered."""
    store = increment()

    def die(call: str, key: str) -> None:
        if call == "put" and key == MODEL:
            raise Crash

    store.trouble = die
    with pytest.raises(Crash):
        train(store, incremental=True)

    result = train(survived := store.copy(), incremental=True)

    assert (result.recovered, result.mode, result.events) == (True, "incremental", 30)
    assert model_of(survived)["metadata"]["n_events"] == 30
    assert archived(survived) == FRESH


def test_clicks_that_arrive_during_the_run_are_kept_for_the_next() -> None:
    """An object that grows after it was read is not removed; the next run trains the rest, and archives it once."""
    store, late = increment(), text(clicks(range(3), 15, start=1_691_000_000, seed=4))

    def grow(call: str, key: str) -> None:
        if call == "put" and key == MODEL:
            store.trouble = lambda _call, _key: None
            store.put(NEW, FRESH + late)

    store.trouble = grow
    first = train(store, incremental=True)
    left = store.get(NEW).data
    second = train(store, incremental=True)

    assert (first.events, second.events) == (30, 15)
    assert left == FRESH + late
    assert archived(store) == FRESH + late
    assert not keys(store, NEW)


def test_an_object_replaced_during_the_run_is_new() -> None:
    """Other clicks under the same key, put there after the reading: not removed, and trained whole by the next run."""
    store, other = increment(), text(clicks(range(3), 15, start=1_691_000_000, seed=4))

    def replace(call: str, key: str) -> None:
        if call == "put" and key == MODEL:
            store.trouble = lambda _call, _key: None
            store.put(NEW, other)

    store.trouble = replace
    train(store, incremental=True)
    second = train(store, incremental=True)

    assert second.events == 15
    assert archived(store) == FRESH + other


def test_an_object_that_changes_while_it_is_read_is_read_again() -> None:
    """What two versions gave together is never trained: the reading starts over with the newer one."""
    store, late = increment(), text(clicks(range(3), 15, start=1_691_000_000, seed=4))

    def grow(call: str, key: str) -> None:
        if call == "get_range" and key == NEW:
            store.aftermath = lambda _call, _key: None
            store.put(NEW, FRESH + late)

    store.aftermath = grow
    result = train(store, incremental=True)

    assert (result.events, result.rejected) == (45, 1)
    assert archived(store) == FRESH + late


def test_an_object_that_never_rests_is_refused() -> None:
    """An object that changes during every reading ends the run with an error, not with half of it trained."""
    store, versions = increment(), 0

    def change(call: str, key: str) -> None:
        nonlocal versions
        if call == "get_range" and key == NEW:
            versions += 1
            store.put(NEW, FRESH + b"\n" * versions)

    store.aftermath = change
    with pytest.raises(StoreUnavailable, match=NEW):
        train(store, incremental=True)


def test_two_runs_at_once_train_once() -> None:
    """While one run is about to commit, another does: the first is fenced, and the clicks are in the model once."""
    store = increment()
    manifest = States(store, MODEL).layout.manifest(2)

    def overtake(call: str, key: str) -> None:
        if call == "put" and key == manifest:
            store.trouble = lambda _call, _key: None
            train(store, incremental=True)

    finished, _ = changes(SCENES[0])
    store.trouble = overtake
    with pytest.raises(Fenced):
        train(store, incremental=True)

    assert outcome(store) == outcome(finished)
    assert States(store, MODEL).newest_seq() == 2


def test_a_late_run_never_overwrites_a_later_pickle() -> None:
    """A run that wakes up between its commit and its pickle, two generations later, leaves the newer pickle alone."""
    store = increment()

    def overtake(call: str, key: str) -> None:
        if call == "put" and key == MODEL:
            store.trouble = lambda _call, _key: None
            train(store, incremental=True)
            store.put(NEW, text(clicks(range(20, 23), 15, start=1_691_000_000, seed=4)))
            train(store, incremental=True)

    store.trouble = overtake
    with pytest.raises(Fenced):
        train(store, incremental=True)

    assert model_of(store)["metadata"]["n_users"] == 15
    assert len(keys(store, ARCHIVES)) == 2


def test_killed_by_the_system_in_its_own_process(tmp_path: Path) -> None:
    """SIGKILL at several moments of a real process, then one run to its end: each new click is in the model once."""
    store = DirectoryStore(tmp_path)
    store.put(ALL, text(clicks(range(200), 4000)))
    store.put(NEW, FRESH)
    program = Path(__file__).parents[2] / "train_prio_aware_recommendation_model.py"
    env = {**os.environ, "HEADRACE_STORE": str(tmp_path), "INCREMENTAL_MODE": "true", "OPENBLAS_NUM_THREADS": "1"}
    env |= {"HEADRACE_MODEL_TRAIN_DIM": "4", "HEADRACE_MODEL_EPOCHS": "3"}
    argv = [sys.executable, str(program)]

    killed = 0
    for begun in ("data/", REJECTS, "models/", MODEL):
        process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not keys(store, begun) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL, timeout=120)

    assert killed >= 2
    assert archived(store) == FRESH
    assert not keys(store, NEW)
    assert model_of(store)["metadata"]["total_training_samples"] == 4030
    assert States(store, MODEL).newest_seq() == 1
