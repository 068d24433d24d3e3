"""Epochs: when training stops, what its result has seen, and what an epoch leaves behind."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model import snapshot
from model.config import LearnerConfig
from model.learner import Learner
from stream.events import Decoded
from stream.train import fit
from stream.train.clicks import Clicks, Ordered, in_time_order
from stream.train.progress import Progress

CONFIG = LearnerConfig(dim=4, negatives=8)


def ordered(count: int, users: int = 20, items: int = 15, seed: int = 0) -> Ordered:
    """Random clicks, a minute apart."""
    pick = np.random.default_rng(seed)
    clicks = Clicks(0)
    who, what = pick.integers(0, users, count), pick.integers(0, items, count)
    columns = ([f"u{n}" for n in who], [f"p{n}" for n in what], ["view"] * count)
    clicks.extend(Decoded(0, np.arange(count), *columns, np.arange(1, count + 1) * 60_000, None))
    return in_time_order(clicks)


def test_training_stops_when_the_newest_clicks_are_ranked_no_better() -> None:
    """On clicks without any order to learn it ends early, with the best epoch's weights, two epochs after that one."""
    fitted = fit.from_scratch(ordered(6000), CONFIG, 15, Progress())

    ranks = [epoch.held_mrr for epoch in fitted.epochs]
    assert len(fitted.epochs) < 15
    assert fitted.kept == 1 + int(np.argmax(ranks)) == len(fitted.epochs) - fit.PATIENCE


def test_the_result_has_seen_every_click() -> None:
    """The clicks held back are in the result: its histories end with each user's newest click."""
    clicks = ordered(5000)
    users, items = (codes for codes, _ in clicks.columns[:2])

    learner = fit.from_scratch(clicks, CONFIG, 3, Progress()).learner

    (_, user_ids), (_, item_ids), _ = clicks.columns
    for code, user in enumerate(user_ids):
        newest = item_ids[items[np.flatnonzero(users == code)[-1]]]
        assert learner.items.ids[learner.users["clicks"][learner.users.index[user], 0]] == newest


def test_with_few_clicks_every_epoch_is_run() -> None:
    """Where too few clicks could be held back to tell anything, nothing is held back."""
    fitted = fit.from_scratch(ordered(300), CONFIG, 5, Progress())

    assert [epoch.number for epoch in fitted.epochs] == [1, 2, 3, 4, 5]
    assert fitted.kept == 5
    assert all(math.isnan(epoch.held_mrr) for epoch in fitted.epochs)


def test_loss_falls_over_the_epochs_of_what_can_be_learned() -> None:
    """Several epochs over the same few clicks fit them better and better."""
    losses = [epoch.loss for epoch in fit.from_scratch(ordered(300), CONFIG, 6, Progress()).epochs]

    assert losses[-1] < 0.95 * losses[0]


def test_an_epoch_is_no_second_sight_of_the_stream() -> None:
    """However many epochs, popularity and histories are those of the clicks once; only weights differ."""
    once = fit.from_scratch(ordered(300), CONFIG, 1, Progress()).learner
    thrice = fit.from_scratch(ordered(300), CONFIG, 3, Progress()).learner

    np.testing.assert_array_equal(once.items["log_counts"], thrice.items["log_counts"])
    np.testing.assert_array_equal(once.users["clicks"], thrice.users["clicks"])
    assert snapshot.digest(once) != snapshot.digest(thrice)


def test_every_epoch_with_clicks_held_back_begins_without_memory() -> None:
    """After the second epoch the recent targets are those of one pass over the clicks, the ones held back included."""
    clicks, learner = ordered(5000), Learner(CONFIG)
    fit._epoch_with_proof(learner, clicks, (1, 2), Progress())

    candidate, _ = fit._epoch_with_proof(learner, clicks, (2, 2), Progress())

    np.testing.assert_array_equal(candidate.state.ring.pushed, len(clicks))


def test_further_training_starts_from_the_memory_it_had() -> None:
    """New clicks are counted onto the old ones, once, whatever the number of epochs."""
    old, new = ordered(300), ordered(100, users=25, seed=1)
    once, thrice = (fit.from_scratch(old, CONFIG, 1, Progress()).learner for _ in range(2))

    fit.further(new, once, 1, 0.5, Progress())
    fitted = fit.further(new, thrice, 3, 0.5, Progress())

    assert len(fitted.epochs) == 3
    np.testing.assert_array_equal(once.users["clicks"], thrice.users["clicks"])
    np.testing.assert_array_equal(once.items["log_counts"], thrice.items["log_counts"])


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_a_smaller_rate_moves_the_weights_less(rate: float) -> None:
    """The decay of the learning rate reaches the steps."""
    full, less = (fit.from_scratch(ordered(300), CONFIG, 1, Progress()).learner for _ in range(2))
    before = full.items["vector"].copy()

    fit.further(ordered(100, seed=1), full, 2, 1.0, Progress())
    fit.further(ordered(100, seed=1), less, 2, rate, Progress())

    assert np.abs(less.items["vector"] - before).sum() < np.abs(full.items["vector"] - before).sum()
