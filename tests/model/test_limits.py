"""Tables, batches, histories and event types are bounded; below the bounds nothing is different."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import admission, snapshot
from model.batch import Batch
from model.config import LearnerConfig
from model.learner import Learner
from model.limits import CHUNKS_PER_USER, ID_BYTES, Limit, limits
from model.state import ADMITTED, EVICTED, REFUSED, State, row_bytes
from tests.model.streams import SMALL, random_batches, run

CAPPED = replace(SMALL, users_max=100, items_max=100, admission_width=4096)
MINUTE = 60_000


def flood(count: int, start: int = 0) -> Batch:
    """Clicks by users and on items that never come again."""
    numbers = range(start, start + count)
    return Batch.of([f"f{n}" for n in numbers], [f"g{n}" for n in numbers], np.arange(start, start + count) * MINUTE)


def tally(learner: Learner, column: int) -> list[int]:
    return [int(count) for count in learner.state.tally[:, column]]


@given(st.integers(8, 10**6))
def test_marks_are_in_order(rows: int) -> None:
    """Pressure that is there does not stop by an eviction, an eviction makes room, and a batch finds some."""
    limit = Limit(rows)

    assert limit.free <= limit.kept < limit.full < limit.rows


def test_below_the_mark_everybody_gets_a_row() -> None:
    """Up to half of the caps every id is admitted at first sight, and nothing is noted of anyone."""
    learner = Learner(CAPPED)

    learned = learner.learn(flood(50))

    assert (learned.new_users, learned.new_items, learned.withheld) == (50, 50, 0)
    assert tally(learner, REFUSED) == tally(learner, EVICTED) == [0, 0]
    assert not learner.state.sketches[0].counts.size


def test_caps_that_are_not_reached_change_nothing() -> None:
    """What a learner with caps learns before they press is, bit for bit, what it learns without."""
    batches = random_batches(10, 40)
    capped, free = Learner(replace(SMALL, users_max=90, items_max=90)), Learner(SMALL)

    assert repr(run(capped, batches)) == repr(run(free, batches))

    ours, theirs = (snapshot.dump(learner).parts for learner in (capped, free))
    assert len(capped.items) > 30
    for part, arrays in ours.items():
        for name, array in arrays.items():
            if name != "worth":  # its half-life follows the cap
                np.testing.assert_array_equal(array, theirs[part][name], err_msg=f"{part}/{name}")


def test_beyond_the_mark_ids_must_come_again() -> None:
    """Under pressure a stranger's click is withheld; at the second one, whatever lies between, it has a row."""
    learner = Learner(CAPPED)
    learner.learn(flood(55))
    assert tally(learner, ADMITTED) == [50, 50]
    assert tally(learner, REFUSED) == [5, 5]

    for start, withheld in ((1000, 31), (2000, 30)):
        strangers = flood(30, start)
        users, items = [*strangers.users.tolist(), "ann"], [*strangers.items.tolist(), "tea"]
        learned = learner.learn(Batch.of(users, items, np.arange(31) * MINUTE))
        assert learned.withheld == withheld

    assert "ann" in learner.users.index
    assert "tea" in learner.items.index
    assert tally(learner, ADMITTED) == [51, 51]


def test_clicks_of_one_batch_count_together() -> None:
    """Two clicks in one batch are enough; a user whose items are all refused gets no row, and is noted."""
    learner = Learner(CAPPED)
    learner.learn(flood(50))

    learned = learner.learn(Batch.of(["ann", "ann", "bob", "bob"], ["tea", "tea", "x", "y"], [0, 1, 2, 3]))

    assert (learned.clicks, learned.withheld) == (4, 2)
    assert ("ann" in learner.users.index, "bob" in learner.users.index) == (True, False)
    assert tally(learner, REFUSED) == [1, 2]
    learner.learn(Batch.of(["bob"], ["tea"], [4]))
    assert "bob" in learner.users.index


def test_withheld_clicks_teach_nothing() -> None:
    """A batch with strangers in it leaves the model as the batch without them does, but for what counts them."""
    batches = random_batches(4, 30, users=90, items=80)
    learners = Learner(CAPPED), Learner(CAPPED)
    for learner in learners:
        run(learner, batches)
        learner.learn(flood(80, 500))
    users, items = learners[0].users.ids[:5], learners[0].items.ids[:5]
    strangers, times = [f"s{n}" for n in range(5)], np.arange(5) * MINUTE
    plain = Batch.of(users, items, times)
    mixed = Batch.of(users + strangers, items + strangers, [*times, *[0] * 5])
    assert learners[0].learn(plain).withheld == 0
    assert learners[1].learn(mixed).withheld == 5

    ours, theirs = (snapshot.dump(learner).parts for learner in learners)
    for part in ("users", "items", "chunks", "sessions", "rings"):
        for name, array in ours[part].items():
            np.testing.assert_array_equal(array, theirs[part][name], err_msg=f"{part}/{name}")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=4))
def test_caps_hold_for_any_batch(sizes: list[int]) -> None:
    """However many new ids a batch has, no table ever has more rows than its cap, nor more room than that."""
    learner, start = Learner(replace(CAPPED, admit_clicks=1)), 0
    for size in sizes:
        learner.learn(flood(size, start))
        start += size

        for table, which in ((learner.users, 0), (learner.items, 1)):
            assert len(table) <= Limit(100).full
            assert table._capacity <= 100
            admitted, _, evicted = learner.state.tally[which].tolist()
            assert len(table) == admitted - evicted


def test_what_the_ids_weigh_counts() -> None:
    """Ids far longer than usual use up a table's room before its rows do."""
    learner = Learner(replace(CAPPED, admit_clicks=1))
    for number in range(80):
        learner.learn(Batch.of([f"{number}" * 128], ["i"], [number]))

        assert learner.users.text_bytes <= ID_BYTES * Limit(100).full
    assert len(learner.users) < 50
    assert tally(learner, EVICTED)[0] > 0


def test_long_histories_are_bounded_together() -> None:
    """Users with as many own items as one may have cannot all be kept: the least active go before memory does."""
    learner = Learner(replace(CAPPED, items_max=1000, own_items=256))
    for number in range(40):
        clicks = 200 if number % 2 else 100
        for _ in range(2):
            learner.learn(Batch.of([f"u{number}"] * clicks, [f"i{k}" for k in range(clicks)], [number] * clicks))
        assert len(learner.state.chunks) <= CHUNKS_PER_USER * Limit(100).full

    assert 10 < len(learner.users) < 30
    assert tally(learner, EVICTED)[0] > 0
    assert learner.users["own_size"].max() == 200


def test_giant_batches_are_learned_in_parts() -> None:
    """A batch longer than the limit is what its parts are, one after the other, and its report adds them up."""
    giant = random_batches(1, 500, users=20, items=40)[0]
    whole, parts = Learner(replace(SMALL, batch_clicks=120)), Learner(replace(SMALL, batch_clicks=120))

    learned = whole.learn(giant)
    told = [parts.learn(giant.take(slice(start, start + 120))) for start in range(0, 500, 120)]

    assert snapshot.digest(whole) == snapshot.digest(parts)
    assert learned.clicks == 500
    assert learned.new_items == sum(part.new_items for part in told)
    weights = [part.clicks for part in told if not np.isnan(part.loss)]
    assert learned.loss == pytest.approx(np.average([t.loss for t in told if not np.isnan(t.loss)], weights=weights))


def test_scoring_a_giant_batch_looks_at_its_front() -> None:
    """No more clicks are prepared for scoring than are learned at once."""
    learner = Learner(replace(SMALL, batch_clicks=50, score_fraction=1.0))
    learner.learn(random_batches(1, 50)[0])

    assert 0 < learner.score(random_batches(1, 500, seed=1)[0]).scored <= 50


def test_event_types_are_bounded() -> None:
    """Types beyond the limit share one row, however many come and however they come."""
    learner, count = Learner(replace(SMALL, type_limit=10)), 3000
    for start in (0, count):
        kinds = [f"kind {number}" for number in range(start, start + count)]
        learner.learn(
            Batch.of([f"u{n % 9}" for n in range(count)], [f"i{n % 9}" for n in range(count)], [0] * count, kinds)
        )

        assert learner.rows()["types"] == 10
    assert learner.users["kinds"].max() < 10


def test_ids_in_any_code_order_are_sifted_alike() -> None:
    """Who is admitted follows from the order of the clicks, not from how the batch numbers its strings."""
    learner = Learner(CAPPED)
    learner.learn(flood(45))
    plain = flood(20, 1000)
    shuffled = Batch.of(plain.users.tolist()[::-1], plain.items.tolist()[::-1], plain.times)
    backwards = replace(
        plain,
        users=replace(shuffled.users, codes=shuffled.users.codes[::-1].copy()),
        items=replace(shuffled.items, codes=shuffled.items.codes[::-1].copy()),
    )

    sifted = [admission.sift(copied(learner).state, batch) for batch in (plain, backwards)]

    assert sifted[0].users.tolist() == sifted[1].users.tolist() == [f"f{n}" for n in range(1000, 1005)]


def copied(learner: Learner) -> Learner:
    return snapshot.load(snapshot.dump(learner))


def test_a_budget_lowers_both_caps() -> None:
    """Where full tables would not fit, both have the same share of their configured rows, and together they fit."""
    config = LearnerConfig(memory_bytes=1 << 30)
    costs = row_bytes(config)
    found = limits(config, costs)

    assert found.users.rows / config.users_max == pytest.approx(found.items.rows / config.items_max, rel=1e-3)
    taken = costs.fixed + found.users.rows * costs.user_granted + found.items.rows * costs.item_granted
    assert 0.99 * (1 << 30) < taken <= 1 << 30
    assert limits(replace(config, memory_bytes=1 << 50), costs).users.rows == config.users_max


def test_a_budget_that_is_too_small_says_what_would_do() -> None:
    """The budget that the message asks for is enough."""
    with pytest.raises(ValueError, match="memory_bytes=1000: must be at least") as refused:
        State(LearnerConfig(memory_bytes=1000))
    least = int(str(refused.value).split("at least ")[1].split(",")[0])

    assert State(LearnerConfig(memory_bytes=least)).limits.items.rows >= 1000


@pytest.mark.parametrize(
    "grow", [lambda: flood(3000), lambda: random_batches(1, 3000, users=500, items=700)[0]], ids=["flood", "stream"]
)
def test_the_estimate_counts_what_is_there(grow: Callable[[], Batch]) -> None:
    """Bytes by estimate grow by at least the columns of the rows that came, and stay within the budget."""
    learner = Learner(replace(SMALL, memory_bytes=1 << 30))
    before = learner.occupancy()["memory"]
    learner.learn(grow())

    after = learner.occupancy()["memory"]
    columns = sum(array.nbytes for rows in learner.state.columns().values() for array in rows.kept().values())
    assert after["used"] - before["used"] > columns - 2**20
    assert after["used"] < after["budget"] == 1 << 30
