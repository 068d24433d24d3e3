"""A retrain is due when drift lasts, and for no other reason."""

from __future__ import annotations

import pytest

from stream.drifting import DriftPolicy, DriftWatch

POLICY = DriftPolicy(score=4.0, seconds=900.0)


def watched(policy: DriftPolicy, *seen: tuple[float, dict[str, float]]) -> DriftWatch:
    watch = DriftWatch(policy)
    for now, scores in seen:
        watch.see(scores, now)
    return watch


def test_it_must_last() -> None:
    """Fifteen minutes beyond, not a second less; the reason names signal, score and time."""
    watch = watched(POLICY, (100.0, {"loss": 1.0}), (200.0, {"loss": 4.5}), (600.0, {"loss": 5.25}))

    assert watch.due(1099.0) == ""
    assert watch.due(1100.0) == "drift: loss at +5.2 standard deviations, beyond for 15 minutes"


def test_a_break_begins_anew() -> None:
    watch = watched(POLICY, (0.0, {"loss": 5.0}), (800.0, {"loss": 3.9}), (801.0, {"loss": 5.0}))

    assert watch.due(1000.0) == ""
    assert watch.due(1701.0) != ""


@pytest.mark.parametrize("last", [{}, {"loss": 1.0}, {"loss": float("nan")}])
def test_it_is_over_when_it_is_over(last: dict[str, float]) -> None:
    """Gone, back, or not a number."""
    assert watched(POLICY, (0.0, {"loss": 5.0}), (1000.0, last)).due(2000.0) == ""


def test_either_way_and_the_one_that_lasts_longest() -> None:
    """Below the mean is drift too; a signal that came later does not hide the one before."""
    scores = {"new_item_share": 9.0, "popularity_shift": -4.0}
    watch = watched(POLICY, (0.0, {"popularity_shift": -6.0}), (500.0, scores))

    assert watch.due(899.0) == ""
    assert watch.due(900.0).startswith("drift: popularity_shift at -4.0 ")


def test_off() -> None:
    """A score of 0 is never reached, not even by 0."""
    assert watched(DriftPolicy(), (0.0, {"loss": 0.0, "new_item_share": 99.0})).due(1e9) == ""
