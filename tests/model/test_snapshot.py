"""A dumped and loaded learner goes on as if nothing had happened, and damage is named."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import snapshot
from model.batch import Batch, Strings
from model.config import LearnerConfig
from model.learner import Learner
from model.snapshot import Snapshot, digest, dump, load
from tests.model.streams import SMALL, random_batches, run

TINY = LearnerConfig(dim=3, sequence_length=2, negatives=4, block=4, long_ring=9, short_ring=3, score_fraction=0.5)
CLICKS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("wxyz"), st.integers(-(10**12), 10**13), st.sampled_from("pq")),
    max_size=12,
)


def copied(learner: Learner) -> Snapshot:
    """A snapshot that no longer shares memory with the learner, its meta having been through JSON."""
    taken = copy.deepcopy(dump(learner))
    return replace(taken, meta=json.loads(json.dumps(taken.meta)))


def as_batch(clicks: list[tuple[str, str, int, str]]) -> Batch:
    return Batch.of(
        [user for user, _, _, _ in clicks],
        [item for _, item, _, _ in clicks],
        [time for _, _, time, _ in clicks],
        [kind for _, _, _, kind in clicks],
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(CLICKS, max_size=5), st.lists(CLICKS, min_size=1, max_size=4))
def test_continues_bit_for_bit(before: list[Any], after: list[Any]) -> None:
    """Whatever was learned before the dump and after it: equal digests, equal reports, batch by batch."""
    kept = Learner(TINY)
    run(kept, [as_batch(clicks) for clicks in before])
    restored = load(copied(kept))
    assert digest(restored) == digest(kept)

    for clicks in after:
        assert repr(run(restored, [as_batch(clicks)])) == repr(run(kept, [as_batch(clicks)]))
        assert digest(restored) == digest(kept)


def test_another_process_continues_the_same(tmp_path: Path) -> None:
    """A process of its own, with its own hash seed, arrives at the same digest."""
    learner, batches = Learner(SMALL), random_batches(6, 50)
    run(learner, batches[:3])
    (tmp_path / "state").write_bytes(pickle.dumps((copied(learner), batches[3:])))
    run(learner, batches[3:])

    script = (
        "import pickle, sys; from model import snapshot; from tests.model.streams import run\n"
        "taken, batches = pickle.load(open(sys.argv[1], 'rb')); learner = snapshot.load(taken)\n"
        "run(learner, batches); print(snapshot.digest(learner))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "state")],
        env=os.environ | {"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == digest(learner)


def test_dump_is_views_of_the_rows_in_use() -> None:
    """Nothing is copied, and no spare capacity comes along."""
    learner = Learner(SMALL)
    run(learner, random_batches(3, 50))

    taken = dump(learner)

    assert taken.parts["items"]["vector"].shape == (len(learner.items), SMALL.dim)
    assert np.shares_memory(taken.parts["items"]["vector"], learner.items["vector"])
    assert np.shares_memory(taken.parts["users"]["clicks"], learner.users["clicks"])
    assert taken.ids["users"].tolist() == learner.users.ids
    assert np.shares_memory(taken.ids["users"].data, learner.users.strings.data)
    assert all(isinstance(array, np.ndarray) for part in taken.parts.values() for array in part.values())


def test_digest_sees_every_array() -> None:
    """One changed number anywhere changes the digest, those who wait for a row included."""
    learner = Learner(replace(SMALL, users_max=8, items_max=8, admission_width=16))
    run(learner, random_batches(3, 50))
    seen = {digest(learner)}

    for part in dump(learner).parts.values():
        for array in part.values():
            array.reshape(-1)[-1] += 1
            seen.add(digest(learner))
            array.reshape(-1)[-1] -= 1

    assert len(seen) == 1 + sum(len(part) for part in dump(learner).parts.values())


def narrowed(taken: Snapshot) -> Snapshot:
    taken.parts["items"]["vector"] = taken.parts["items"]["vector"][:, :-1]
    return taken


def widened(taken: Snapshot) -> Snapshot:
    taken.parts["users"]["clicks"] = taken.parts["users"]["clicks"].astype(np.float64)
    return taken


def unknown_row(taken: Snapshot) -> Snapshot:
    taken.parts["users"]["clicks"][0, 0] = 10**6
    return taken


def negative_ring(taken: Snapshot) -> Snapshot:
    taken.parts["rings"]["long"][0] = -1
    return taken


def without(part: str, name: str) -> Any:
    def remove(taken: Snapshot) -> Snapshot:
        del taken.parts[part][name]
        return taken

    return remove


def with_meta(**values: Any) -> Any:
    return lambda taken: dataclasses.replace(taken, meta=taken.meta | values)


def doubled(taken: Snapshot) -> Snapshot:
    values = taken.ids["items"].tolist()
    return replace(taken, ids=taken.ids | {"items": Strings.of([*values[:-1], values[0]])})


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (narrowed, "items/vector"),
        (widened, "users/clicks"),
        (unknown_row, "users/clicks"),
        (negative_ring, "rings/long"),
        (without("items", "input"), "'items': 'input'"),
        (without("weights", "fisher"), "'weights': 'fisher'"),
        (without("rings", "pushed"), "'pushed'"),
        (with_meta(format=99), "format 99"),
        (with_meta(config={"dim": -1}), "dim=-1"),
        (with_meta(learn_random={"bit_generator": "MT19937"}), "learn_random"),
        (doubled, "'items' are not distinct"),
    ],
)
def test_damage_is_named(damage: Any, named: str) -> None:
    """What does not fit is refused by name, before it can do harm inside a kernel."""
    learner = Learner(SMALL)
    run(learner, random_batches(3, 50))

    with pytest.raises(ValueError, match=named):
        snapshot.load(damage(copied(learner)))
