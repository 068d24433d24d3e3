"""The parts of the score, each against its slow version."""

from __future__ import annotations

import numpy as np
import pytest

from model import resolve
from model.batch import Batch
from model.config import LearnerConfig
from model.kernels import NEVER
from model.learner import Learner
from model.losses import softmax_gradient
from model.parts import embedding, popularity
from model.parts.mixing import Mixing
from tests.model import naive
from tests.model.streams import SMALL, random_batches, run

HOUR = 3_600_000


def test_popularity_is_a_decayed_share() -> None:
    """Log shares equal those of counts that halve every half-life, in whatever order the clicks come."""
    random = np.random.default_rng(3)
    clicks = [(int(random.integers(0, 5)), float(random.integers(0, 50 * HOUR))) for _ in range(60)]
    half_lives = (1.0, 24.0)
    log_counts, totals = np.full((6, 2), NEVER), np.full(2, NEVER)
    items, times = (np.array(column) for column in zip(*clicks, strict=True))

    popularity.count_clicks(items.astype(np.int32), times, popularity.growth_rates(half_lives), log_counts, totals)

    for p, hours in enumerate(half_lives):
        counts = naive.decayed_counts(clicks, hours * HOUR, 50 * HOUR)
        expected = {item: np.log(count / sum(counts.values())) for item, count in counts.items()}
        found = log_counts[:, p] - totals[p]
        assert {item: found[item] for item in expected} == pytest.approx(expected, abs=1e-6)
    assert (log_counts[5] == NEVER).all()


def test_one_absurd_time_does_not_count_for_all() -> None:
    """A click dated a century ahead leaves the other items' shares as they would be without it."""
    times = np.arange(100, dtype=np.int64) * 60_000
    times[50] = 100 * 365 * 24 * HOUR

    steady = popularity.steady_times(times)

    assert steady.max() < 4 * HOUR
    np.testing.assert_array_equal(np.delete(steady, 50), np.delete(times, 50))


def test_contexts_are_the_last_clicks() -> None:
    """Contexts equal the naive ones: newest first, the same batch included, holes where an item is not yet known."""
    batches = random_batches(4, 30)
    learner = Learner(SMALL)
    run(learner, batches[:3])
    clicks = [pair for batch in batches for pair in zip(batch.users.tolist(), batch.items.tolist(), strict=True)]
    clicked, _ = learner._contexts(resolve.find(learner.state, batches[3]), len(learner.items))

    found = [[learner.items.ids[item] if item >= 0 else None for item in row] for row in clicked.tolist()]
    assert found == naive.contexts(clicks, SMALL.sequence_length, 90)
    assert any(None in row[:-1] and row[-1] is not None for row in found)


def test_softmax_gradient_is_the_formula() -> None:
    """Gradients are weight * (probability - target), losses the negative log probability; masked ones stay out."""
    own = np.array([[1.0, -np.inf], [0.5, 2.0]], np.float32)
    shared = np.array([[0.0, 3.0], [-np.inf, 80.0]], np.float32)
    weights = np.array([1.0, 0.5], np.float32)
    logits = np.concatenate([own, shared], axis=1).astype(np.float64)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    expected_loss = -np.log(expected[:, 0])
    expected[:, 0] -= 1.0

    loss = softmax_gradient(own, shared, weights)

    np.testing.assert_allclose(np.concatenate([own, shared], axis=1), expected * weights[:, None], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)


def test_natural_steps_find_the_optimum() -> None:
    """On a logistic regression with badly scaled features the steps arrive at the weights that made the data."""
    config = LearnerConfig(sequence_length=2, half_lives_hours=(1.0,), baseline_half_life=0)
    random, mixing = np.random.default_rng(5), Mixing(config)
    truth, sizes = np.array([0.05, -4.0, 1.0, -3.0]), np.array([20.0, 0.5, 1.0, 0.3])
    for _ in range(600):
        features = random.normal(size=(128, 4)) * sizes
        happened = random.random(128) < 1.0 / (1.0 + np.exp(-features @ truth))
        guess = 1.0 / (1.0 + np.exp(-features @ mixing.values))
        mixing.learn((guess - happened)[:, None] * features, config, 1.0)

    np.testing.assert_allclose(mixing.values * sizes, truth * sizes, atol=0.12)
    np.testing.assert_allclose(mixing.served, mixing.values, atol=0.1)


def test_first_vectors_depend_on_the_row_alone() -> None:
    """Rows made in one go or in two have the same first values, other seeds give others, and none look alike."""
    whole = embedding.first_vectors(0, 100, 8, 3)

    np.testing.assert_array_equal(whole[40:], embedding.first_vectors(40, 100, 8, 3))
    assert not np.array_equal(whole, embedding.first_vectors(0, 100, 8, 4))
    assert whole.std() == pytest.approx(embedding.SPREAD, rel=0.1)
    assert np.abs(np.asarray(np.corrcoef(whole))[~np.eye(100, dtype=bool)]).mean() < 0.4


def test_event_types_start_where_configured() -> None:
    """Priorities come from the config whatever the case, others get the default; past the limit they share a row."""
    config = LearnerConfig(dim=4, type_priorities={"purchase": 1.0}, default_type_priority=0.2, type_limit=3)
    learner = Learner(config)

    learner.learn(Batch.of(["a"] * 3, ["x"] * 3, [0, 1, 2], ["PURCHASE", "wave", "nod"]))

    assert learner.type_priorities == {"purchase": 1.0, "PURCHASE": 1.0}
    assert learner.rows()["types"] == 3
    assert learner.users["kinds"][0, :3].tolist() == [0, 0, 2]
