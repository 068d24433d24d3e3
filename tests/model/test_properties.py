"""What must hold for any clicks at all: order, growth, names and reading change nothing that they should not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import resolve, snapshot
from model.batch import Batch, Int64
from model.config import LearnerConfig
from model.learner import Learner
from model.state import State
from tests.model.streams import SMALL

ROOMY = replace(SMALL, long_ring=1000, short_ring=1000, negatives=4, block=8)
MINUTE = 60_000
Click = tuple[str, str, int, str]
CLICKS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("stuvwxyz"), st.integers(0, 10_000), st.sampled_from("pq")),
    min_size=1,
    max_size=20,
)


def as_batch(clicks: list[Click], user: Callable[[str], str] = str, item: Callable[[str], str] = str) -> Batch:
    """Clicks in the order of time, under other names if asked for."""
    ordered = sorted(clicks, key=lambda click: click[2])
    who, what, minutes, kinds = zip(*ordered, strict=True)
    return Batch.of([user(name) for name in who], [item(name) for name in what], np.array(minutes) * MINUTE, [*kinds])


def counters(learner: Learner) -> dict[Any, Any]:
    """All counters by id: of items, and of what each user has clicked."""
    items, chunks, found = learner.items, learner.state.chunks, dict[Any, Any]()
    for row, name in enumerate(items.ids):
        found[name] = [*items["log_counts"][row]] + [
            float(items[column][row]) for column in ("first_ms", "clicks", "returns", "long_count", "short_count")
        ]
    for row, name in enumerate(learner.users.ids):
        chunk = learner.users["own_head"][row]
        while chunk >= 0:
            for place, item in enumerate(chunks["items"][chunk]):
                if item >= 0:
                    held = chunks["counts"][chunk, place], chunks["minutes"][chunk, place]
                    found[name, items.ids[item]] = [float(value) for value in held]
            chunk = chunks["links"][chunk]
    return found


@settings(max_examples=50, deadline=None)
@given(CLICKS, CLICKS, st.randoms())
def test_order_of_equal_times_does_not_change_counters(before: list[Click], clicks: list[Click], random: Any) -> None:
    """A batch whose clicks all have one time may come in any order: every counter is the same."""
    together = [(user, item, 20_000, kind) for user, item, _, kind in clicks]
    shuffled = together.copy()
    random.shuffle(shuffled)
    learners = Learner(ROOMY), Learner(ROOMY)
    for learner, batch in zip(learners, (together, shuffled), strict=True):
        learner.learn(as_batch(before))
        learner.learn(as_batch(batch))

    one, other = (counters(learner) for learner in learners)
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert other[name] == pytest.approx(values, rel=1e-9), name


@settings(max_examples=50, deadline=None)
@given(CLICKS, CLICKS)
def test_growth_in_two_steps_equals_one(first: list[Click], second: list[Click]) -> None:
    """Rows added with one batch after another hold what they hold when all come at once."""
    stepwise, at_once = State(SMALL), State(SMALL)
    for clicks in (first, second):
        resolve.grow(stepwise, as_batch(clicks))
    later = [(user, item, 20_000 + minute, kind) for user, item, minute, kind in second]
    resolve.grow(at_once, as_batch([*first, *later]))

    for name in ("users", "items", "types"):
        one, other = stepwise.columns()[name], at_once.columns()[name]
        for column, array in one.kept().items():
            np.testing.assert_array_equal(array, other.kept()[column], err_msg=f"{name}/{column}")
    assert stepwise.items.ids == at_once.items.ids
    assert stepwise.users.ids == at_once.users.ids


@settings(max_examples=50, deadline=None)
@given(st.lists(CLICKS, min_size=1, max_size=4), CLICKS)
def test_reading_changes_nothing(batches: list[list[Click]], asked: list[Click]) -> None:
    """Ranks, recommendations and reasons leave every bit as it was, and scoring adds no row, whoever is asked about."""
    learner = Learner(replace(SMALL, score_fraction=1.0))
    for clicks in batches:
        learner.learn(as_batch(clicks))
    digest, rows = snapshot.digest(learner), learner.rows()
    strangers = as_batch(asked, user=lambda name: name * 2, item=lambda name: name * 3)
    for batch in (strangers, as_batch(asked)):
        learner.ranks(batch, learner.ready(batch))
    for user, item, _, _ in asked:
        learner.recommend(user, 3), learner.recommend("nobody", 3)
        learner.explain_score(user, item), learner.explain(user, "nothing")

    assert snapshot.digest(learner) == digest
    learner.score(strangers)
    assert learner.rows() == rows


@settings(max_examples=50, deadline=None)
@given(st.lists(CLICKS, min_size=2, max_size=5), st.permutations("abcd"), st.permutations("stuvwxyz"))
def test_other_names_give_the_same_answers(batches: list[list[Click]], users: list[str], items: list[str]) -> None:
    """Users and items under permuted names get the same ranks and the same lists, under those names."""
    user, item = dict(zip("abcd", users, strict=True)), dict(zip("stuvwxyz", items, strict=True))
    plain, renamed = Learner(SMALL), Learner(SMALL)
    for clicks in batches:
        same = as_batch(clicks), as_batch(clicks, user.__getitem__, item.__getitem__)
        ready = plain.ready(same[0])
        np.testing.assert_array_equal(plain.ranks(same[0], ready), renamed.ranks(same[1], ready))
        assert repr(plain.learn(same[0])) == repr(renamed.learn(same[1]))

    for name in "abcd":
        expected = [(item[found], score) for found, score in plain.recommend(name, 5)]
        assert renamed.recommend(user[name], 5) == expected


LEAN = LearnerConfig(
    dim=4, block=1024, negatives=32, transitions=2, item_sessions=2, half_lives_hours=(24.0,), baseline_half_life=0
)


@pytest.mark.parametrize(
    ("users", "items", "times"),
    [
        (1000, 1_000_000, np.arange(1_000_000) * 1000),
        (1, 300, np.arange(100_000) * 1000),
        (500, 300, np.arange(100_000) // 1000),
    ],
    ids=["a million new items", "a user with 100,000 clicks", "a million clicks a second"],
)
def test_floods_stay_finite(users: int, items: int, times: Int64) -> None:
    """Large and fast streams leave every number finite, and what one user costs stays bounded."""
    learner, size = Learner(LEAN), 50_000
    for start in range(0, len(times), size):
        numbers = range(start, start + size)
        learned = learner.learn(
            Batch.of([f"u{k % users}" for k in numbers], [f"i{k * 7 % items}" for k in numbers], times[start:][:size])
        )

    assert math.isfinite(learned.loss)
    assert learner.rows()["items"] == items
    for part, arrays in snapshot.dump(learner).parts.items():
        for name, array in arrays.items():
            assert np.isfinite(array).all(), f"{part}/{name}"
    assert learner.users["own_size"].max() <= LEAN.own_items
    assert len(learner.recommend("u0", 5)) == 5
