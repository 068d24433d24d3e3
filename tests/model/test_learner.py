"""What the learner promises to those who feed it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from model import ranking, snapshot
from model.batch import Batch, Coded, Int64, Strings
from model.config import LearnerConfig
from model.kernels import NEVER
from model.learner import Learner
from tests.model.streams import SMALL, cycle_batches, random_batches, run

DAY = 86_400_000


def test_learns_a_sequence_far_above_popularity() -> None:
    """Where the last item tells the next one, the model finds it; popularity cannot."""
    learner = Learner(replace(SMALL, dim=16, negatives=20, score_fraction=1.0))
    results = run(learner, cycle_batches(40, 100, items=30))

    late = [scores for scores, _ in results[30:]]
    scored = sum(scores.scored for scores in late)
    assert scored > 900
    assert sum(scores.mrr for scores in late) / scored > 0.6
    assert sum(scores.popular_mrr for scores in late) / scored < 0.2
    assert results[-1][1].loss < results[5][1].loss / 2


def test_scoring_adds_nobody() -> None:
    """Scoring a batch of unknown users and items leaves tables and weights as they were."""
    learner = Learner(replace(SMALL, score_fraction=1.0))
    run(learner, random_batches(3, 40))
    rows = learner.rows()
    weights = {name: array.copy() for name, array in snapshot.dump(learner).parts["items"].items()}

    scores = learner.score(random_batches(6, 40, seed=9)[5])

    assert learner.rows() == rows
    assert 0 < scores.scored <= 40
    for name, array in snapshot.dump(learner).parts["items"].items():
        np.testing.assert_array_equal(array, weights[name])


def test_scoring_does_not_change_what_is_learned() -> None:
    """With and without scoring, the tables and weights come out the same; only scoring's own meters differ."""
    learners = [Learner(replace(SMALL, score_fraction=fraction)) for fraction in (0.0, 1.0)]
    for learner in learners:
        run(learner, random_batches(6, 40))

    silent, scored = (snapshot.dump(learner) for learner in learners)
    for part in ("users", "items", "types", "rings"):
        for name, array in silent.parts[part].items():
            np.testing.assert_array_equal(array, scored.parts[part][name], err_msg=f"{part}/{name}")
    different = {
        name for name, array in silent.parts["weights"].items() if (array != scored.parts["weights"][name]).any()
    }
    assert different <= {"means", "purse"}
    assert silent.meta["learn_random"] == scored.meta["learn_random"]


def test_score_fraction_is_kept_on_average() -> None:
    """A fifth of the clicks is scored, what does not come out even being carried to the next batch."""
    learner = Learner(replace(SMALL, score_fraction=0.2))
    run(learner, random_batches(3, 40))

    scored = sum(scores.scored for scores, _ in run(learner, random_batches(40, 7, seed=2)))

    assert scored == pytest.approx(56, abs=2)


def test_same_batches_same_model() -> None:
    """Two learners that are fed the same are the same, bit for bit; another seed is another model."""
    digests = []
    for config in (SMALL, SMALL, replace(SMALL, seed=1)):
        learner = Learner(config)
        run(learner, random_batches(5, 40))
        digests.append(snapshot.digest(learner))

    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_order_of_distinct_values_does_not_matter() -> None:
    """A coded column may list its strings in any order, unused or twice: the clicks decide, not the dictionary."""
    plain, coded = Learner(SMALL), Learner(SMALL)
    batch = Batch.of(["a", "b", "a", "b"], ["x", "y", "z", "x"], [0, 1, 2, 3])
    odd = Coded(np.array([3, 1, 0, 2], np.int32), Strings.of(["z", "y", "x", "x", "unused"]))

    for _ in range(3):
        plain.learn(batch)
        coded.learn(Batch(batch.users, odd, batch.types, batch.times))

    assert snapshot.digest(plain) == snapshot.digest(coded)


def test_learns_nothing_without_context() -> None:
    """First clicks have no context: no loss, but rows; the next batch then has both."""
    learner = Learner(SMALL)

    first = learner.learn(Batch.of(["a", "b"], ["x", "y"], [0, 1]))
    second = learner.learn(Batch.of(["a", "c"], ["y", "x"], [2, 3]))

    assert math.isnan(first.loss)
    assert (first.clicks, first.new_users, first.new_items) == (2, 2, 2)
    assert second.loss > 0
    assert (second.new_users, second.new_items) == (1, 0)


def test_unknown_users_get_what_is_popular() -> None:
    """Without a history the answer is decayed popularity, best first, and asking leaves no trace."""
    learner = Learner(SMALL)
    learner.learn(Batch.of(["a"] * 6, ["x", "y", "y", "z", "y", "x"], np.arange(6)))

    answer = learner.recommend("nobody", 2)

    assert [item for item, _ in answer] == ["y", "x"]
    assert "nobody" not in learner.users.index
    assert len(learner.recommend("a", 50)) == 3
    assert Learner(SMALL).recommend("a", 5) == []
    with pytest.raises(ValueError, match="top_n=0"):
        learner.recommend("a", 0)


def test_reasons_add_up() -> None:
    """The parts of a score add up to it, for every item; of that, each recent item brings its share."""
    learner = Learner(SMALL)
    run(learner, random_batches(8, 60))
    user, read = learner.users.ids[1], learner.state.readable()
    recent = {learner.items.ids[row] for row in learner.users["clicks"][1]}
    named, seen = set[str](), set[str]()

    for item, score in learner.recommend(user, 1000):
        found = ranking.explain_score(read, user, item)

        assert found is not None
        assert found.score == pytest.approx(score, abs=1e-4)
        assert sum(found.parts.values()) == pytest.approx(score, abs=1e-4)
        named |= found.parts.keys()
        seen |= {name for name, share in found.parts.items() if share}
        reasons = learner.explain(user, item)
        assert reasons == found.clicks
        assert {name for name, _ in reasons} == recent | ({item} if found.parts["own items"] else set())
        assert reasons == sorted(reasons, key=lambda pair: -pair[1])
    assert seen == named
    assert learner.explain("nobody", "i1") == learner.explain(user, "nothing") == []


@pytest.mark.parametrize(
    "times",
    [
        np.zeros(60, np.int64),
        np.arange(60, 0, -1) * DAY,
        np.array([2**62, -(2**62)] * 30),
        np.arange(60) * -(10**12),
    ],
    ids=["equal", "backwards", "absurd", "negative"],
)
@pytest.mark.parametrize(("users", "items"), [(1, 1), (1, 30), (30, 1), (5, 9)])
def test_hostile_streams_stay_finite(times: Int64, users: int, items: int) -> None:
    """One user, one item, any times: every number in the state stays finite, and answers go on."""
    learner = Learner(replace(SMALL, score_fraction=1.0))
    who, what = [f"u{k % users}" for k in range(60)], [f"i{k * 7 % items}" for k in range(60)]
    for _ in range(6):
        learner.score(Batch.of(who, what, times))
        learned = learner.learn(Batch.of(who, what, times))

    assert math.isfinite(learned.loss)
    for part, arrays in snapshot.dump(learner).parts.items():
        for name, array in arrays.items():
            assert np.isfinite(array).all(), f"{part}/{name}"
    assert all(math.isfinite(score) for _, score in learner.recommend("u0", 5))
    assert all(math.isfinite(value) for value in learner.drift().values())


def test_empty_batches_pass() -> None:
    """A batch without clicks changes no table and fails nowhere."""
    learner = Learner(SMALL)
    empty = Batch.of([], [], [])
    for batch in (empty, random_batches(1, 20)[0], empty):
        learner.score(batch)
        learned = learner.learn(batch)

    assert (learned.clicks, learned.new_users, learned.new_items) == (0, 0, 0)


def test_bad_columns_are_named() -> None:
    """Codes out of range and columns of different length are refused, naming the column, before anything changes."""
    learner, good = Learner(SMALL), Batch.of(["a", "b"], ["x", "y"], [0, 1])
    outside = Coded(np.array([0, 2], np.int32), Strings.of(["x", "y"]))
    negative = Coded(np.array([-1, 0], np.int32), Strings.of(["x", "y"]))

    for broken, name in (
        (Batch(good.users, outside, good.types, good.times), "items"),
        (Batch(negative, good.items, good.types, good.times), "users"),
        (Batch(good.users, good.items, Coded.of(["view"]), good.times), "types"),
    ):
        with pytest.raises(ValueError, match=f"batch.{name}"):
            learner.learn(broken)
        with pytest.raises(ValueError, match=f"batch.{name}"):
            learner.score(broken)
    with pytest.raises(ValueError, match="learning_rate_scale=nan"):
        learner.learn(good, float("nan"))
    assert learner.rows()["users"] == 0


def test_rate_zero_moves_nothing() -> None:
    """At a learning rate scale of 0 clicks are counted, but no weight moves."""
    learner = Learner(SMALL)
    run(learner, random_batches(3, 40))
    before = {name: learner.items[name].copy() for name in ("vector", "input", "log_counts")}
    weights = learner.state.mixing.values.copy()
    size = len(learner.items)

    learner.learn(random_batches(4, 40)[3], 0.0)

    for name in ("vector", "input"):
        np.testing.assert_array_equal(learner.items[name][:size], before[name])
    np.testing.assert_array_equal(learner.state.mixing.values, weights)
    assert (learner.items["log_counts"][:size] != before["log_counts"]).any()


def test_epochs_over_the_same_clicks() -> None:
    """With the context put back, clicks can be learned again as if for the first time, and better."""
    learner, first, again = Learner(SMALL), *(cycle_batches(8, 50, items=15) for _ in range(2))
    run(learner, first[:2])
    kept = learner.context()
    losses = [run(learner, first[2:])[-1][1].loss]
    moved = learner.items["vector"].copy()
    learner.reset_context(kept)

    assert (learner.items["vector"] == moved).all()
    assert learner.context().totals.tolist() == kept.totals.tolist()
    losses.append(run(learner, again[2:])[-1][1].loss)
    assert losses[1] < losses[0]


def test_empty_context_forgets_the_stream_only() -> None:
    """Without a context histories and popularity are gone, ids and vectors are not, and learning goes on."""
    learner = Learner(SMALL)
    run(learner, random_batches(4, 40))
    rows, vectors = learner.rows(), learner.items["vector"].copy()

    learner.reset_context(None)

    assert (learner.users["clicks"] == -1).all()
    assert learner.rows() == rows
    np.testing.assert_array_equal(learner.items["vector"], vectors)
    assert math.isfinite(learner.learn(random_batches(1, 40)[0]).loss)


def test_later_rows_remember_nothing() -> None:
    """Items and users that came after the context was taken keep their rows, but nothing of the stream."""
    learner, batches = Learner(SMALL), random_batches(6, 40)
    run(learner, batches[:2])
    kept, rows = learner.context(), learner.rows()
    run(learner, batches[2:])

    learner.reset_context(kept)

    assert learner.rows()["items"] > rows["items"]
    assert (learner.items["log_counts"][rows["items"] :] == NEVER).all()
    assert (learner.items["long_count"][rows["items"] :] == 0).all()
    assert (learner.users["clicks"][rows["users"] :] == -1).all()


def test_foreign_context_is_refused() -> None:
    """A context of a larger learner is refused, and nothing changes."""
    large, small = Learner(SMALL), Learner(SMALL)
    run(large, random_batches(4, 40))
    run(small, random_batches(1, 5))
    before = snapshot.digest(small)

    with pytest.raises(ValueError, match="of another learner"):
        small.reset_context(large.context())

    assert snapshot.digest(small) == before


def test_quality_is_nan_until_measured() -> None:
    """Means exist once there is something to mean, and follow the batches."""
    learner = Learner(replace(SMALL, score_fraction=1.0))
    assert all(math.isnan(value) for value in learner.quality().values())

    results = run(learner, cycle_batches(3, 50, items=9))

    scored = [scores for scores, _ in results if scores.scored]
    expected = sum(scores.mrr for scores in scored) / sum(scores.scored for scores in scored)
    assert learner.quality()["mrr"] == pytest.approx(expected, rel=0.05)
    assert learner.quality().keys() == {"loss", "hit_ratio", "mrr", "popular_hit_ratio", "popular_mrr"}


def test_priorities_count_for_targets() -> None:
    """A type of priority 0 is counted in, but moves no vector as a target."""
    config = LearnerConfig(dim=4, type_priorities={"ignored": 0.0}, default_type_priority=1.0)
    learner = Learner(config)
    clicks = (["a", "b"] * 5, ["x", "y", "z", "x", "y"] * 2, np.arange(10))
    learner.learn(Batch.of(*clicks))
    learner.learn(Batch.of(*clicks))
    vectors = learner.items["vector"].copy()

    learner.learn(Batch.of(*clicks, ["ignored"] * 10))
    np.testing.assert_array_equal(learner.items["vector"], vectors)

    learner.learn(Batch.of(*clicks))
    assert (learner.items["vector"] != vectors).any()


def test_a_negative_type_takes_back() -> None:
    """A cancelled click is no target, nor counted for its item or its session; it stands in its user's context, with a
    negative priority, and what is scored are wanted items alone.
    """
    config = LearnerConfig(dim=4, type_priorities={"buy": 1.0, "cancel": -1.0}, score_fraction=1.0)
    plain, taking = Learner(config), Learner(config)
    for learner in (plain, taking):
        learner.learn(Batch.of(["a", "b"] * 4, ["x", "y", "z", "x"] * 2, np.arange(8) * 60_000, ["buy"] * 8))
    items = snapshot.dump(plain).parts["items"]
    cancelled = Batch.of(["a", "b"], ["x", "x"], [480_000, 540_000], ["cancel"] * 2)
    assert taking.score(cancelled).scored == 0
    taking.learn(cancelled)

    for name, array in snapshot.dump(taking).parts["items"].items():
        np.testing.assert_array_equal(array, items[name], err_msg=name)
    assert taking.users["clicks"][:, 0].tolist() == [taking.items.index["x"]] * 2
    assert taking.type_priorities["cancel"] == -1.0
    before, after = (learner.explain_score("a", "z") for learner in (plain, taking))
    assert before is not None
    assert after is not None
    assert before.parts["sequence"] != after.parts["sequence"]

    mixed = Batch.of(["a", "a", "b"], ["x", "z", "y"], [600_000, 660_000, 720_000], ["cancel", "buy", "buy"])
    assert taking.score(mixed).scored == 2
    counts = taking.items["clicks"].tolist()
    taking.learn(mixed)
    assert (taking.items["clicks"] - counts).tolist() == [float(name in {"z", "y"}) for name in taking.items.ids]
