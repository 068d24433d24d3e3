"""Ranks, what they sum to, and how many of them are afforded."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import ranking
from model.evaluation import affordable, best_rows, learn_cost, rank_popular, rank_targets, score_cost, summarize
from model.learner import Learner
from tests.model import naive
from tests.model.streams import SMALL, random_batches, run


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-2, 2), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(0, 4))
def test_ranks_average_ties(columns: list[list[int]], target: int) -> None:
    """Ranks equal the naive ones over few distinct values, where nearly everything ties."""
    popular = np.array([0, 1, 0, -1, 0], np.float32)
    scores = np.array(columns, np.float32).T.copy()
    wide = len(columns)
    ranks, targets = np.empty(wide), np.full(wide, target, np.int32)

    rank_targets(scores, targets, np.empty(wide, np.int32), np.empty(wide, np.int32), ranks)

    assert ranks.tolist() == [naive.rank(column, target) for column in columns]
    rank_popular(popular, targets, ranks)
    assert ranks.tolist() == [naive.rank(popular.tolist(), target)] * wide


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-9, 9)), min_size=1, max_size=60), st.integers(1, 60))
def test_the_best_rows_are_those_of_a_sort(pairs: list[tuple[int, int]], count: int) -> None:
    """Of each column the best first, and of equal ones the lower row, as sorting all would have it."""
    rows = np.empty((2, min(count, len(pairs))), np.int32)
    values = np.empty(rows.shape, np.float32)

    best_rows(np.array(pairs, np.float32), rows, values)

    for b, column in enumerate(zip(*pairs, strict=True)):
        expected = sorted(range(len(column)), key=lambda row: (-column[row], row))[:count]
        assert rows[b].tolist() == expected
        assert values[b].tolist() == [column[row] for row in expected]


def test_sums_are_cut_at_twenty() -> None:
    """Rank 20 still counts, 20.5 and unseen items do not."""
    hits, mrr, ndcg = summarize(np.array([1.0, 3.0, 20.0, 20.5, math.inf]))

    assert hits == 3
    assert mrr == pytest.approx(1 + 1 / 3 + 1 / 20)
    assert ndcg == pytest.approx(1 + 1 / 2 + 1 / math.log2(21))


def test_model_ranks_are_those_of_its_scores() -> None:
    """The ranks reported are those of the scores that `recommend` gives, item for item."""
    learner = Learner(SMALL)
    run(learner, random_batches(5, 50))
    user, read = learner.users.ids[2], learner.state.readable()
    whole = dict(learner.recommend(user, 1000))

    for target, name in enumerate(learner.items.ids):
        ranks, popular = ranking.target_ranks(
            read, ranking.requests(read, np.array([2], np.int32)), np.array([target], np.int32)
        )

        assert ranks[0] == naive.rank([whole[item] for item in learner.items.ids], target), name
        assert popular[0] >= 1


def test_unseen_targets_are_misses() -> None:
    """An item without a row has no rank at all."""
    learner = Learner(SMALL)
    run(learner, random_batches(2, 50))
    read, unseen = learner.state.readable(), np.array([len(learner.items)], np.int32)

    ranks, popular = ranking.target_ranks(read, ranking.requests(read, np.array([0], np.int32)), unseen)

    assert (ranks.tolist(), popular.tolist()) == ([math.inf], [math.inf])


@pytest.mark.parametrize("items", [10, 1_000, 30_000, 1_000_000])
@pytest.mark.parametrize("clicks", [50, 500, 5_000])
def test_scoring_costs_its_share(items: int, clicks: int) -> None:
    """Over many batches what scoring costs stays at a tenth of learning, whatever the catalogue and the batch."""
    purse, scored, spent, batches = 0.0, 0, 0.0, 500_000 // clicks
    for _ in range(batches):
        purse += 0.1 * learn_cost(clicks, 64, 192)
        count, cost = affordable(purse, clicks, items, 64)
        once, each = score_cost(clicks, items, 64)
        assert cost == (once + count * each if count else 0.0)
        assert count <= clicks
        purse, scored, spent = purse - cost, scored + count, spent + cost

    budget = 0.1 * learn_cost(clicks * batches, 64, 192)
    assert purse >= 0
    assert spent <= budget
    assert spent > 0.5 * budget or scored > 0.05 * clicks * batches
    assert scored


def test_larger_purses_pay_for_more() -> None:
    """More money never buys fewer clicks."""
    counts = [affordable(float(purse), 500, 5_000, 64)[0] for purse in range(0, 30_000_000, 500_000)]

    assert counts[0] == 0
    assert counts[-1] == 500
    assert all(low <= high for low, high in pairwise(counts))
