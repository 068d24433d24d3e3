"""Negatives come as often as the log-Q formula says, and the rings count right."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from model.batch import Float32, Int32
from model.sampling import DRAWS_PER_NEGATIVE, THINNING, TargetRing, draw_negatives


def filled(items: int, targets: list[int], sizes: tuple[int, int]) -> tuple[TargetRing, Int32, Int32]:
    """A ring that was given `targets` one after the other, and its counts."""
    ring, counts = TargetRing(sizes), np.zeros((2, items), np.int32)
    ring.push(np.array(targets, np.int32), counts[0], counts[1])
    return ring, counts[0], counts[1]


def skewed(size: int, items: int) -> list[int]:
    return [int(items * u**3) for u in np.random.default_rng(1).random(size)]


def draw(
    ring: TargetRing, counts: tuple[Int32, Int32], wanted: int, random: np.random.Generator
) -> tuple[Int32, Float32]:
    """One draw of `wanted` negatives: their rows and corrections."""
    slots = np.full(len(counts[0]), -1, np.int32)
    rows, correction = np.zeros(wanted, np.int32), np.zeros(wanted, np.float32)
    uniforms = random.random(2 * DRAWS_PER_NEGATIVE * wanted)
    found = draw_negatives(
        uniforms, ring.mixture(), ring.filled(0), ring.filled(1), *counts, ring.norms, slots, rows, correction
    )
    assert np.flatnonzero(slots >= 0).tolist() == sorted(rows[:found].tolist())
    return rows[:found], correction[:found]


def test_rings_count_what_they_hold() -> None:
    """Counts and norms are those of the last targets, also after the ring went round many times."""
    targets = skewed(1000, 9)

    ring, long_counts, short_counts = filled(9, targets, (100, 7))

    for which, counts, size in ((0, long_counts, 100), (1, short_counts, 7)):
        held = Counter(targets[-size:])
        assert sorted(ring.filled(which).tolist()) == sorted(targets[-size:])
        assert {row: int(count) for row, count in enumerate(counts) if count} == dict(held)
        assert ring.norms[which] == pytest.approx(sum(count**THINNING for count in held.values()))


def test_negatives_follow_the_mixture() -> None:
    """The first negative of each draw is an item as often as q says: both rings thinned to count^.75, and uniform."""
    items, random = 12, np.random.default_rng(0)
    ring, *counts = filled(items, skewed(300, 10), (200, 20))
    q = 0.06 / items + np.zeros(items)
    for share, count in ((0.64, counts[0]), (0.30, counts[1])):
        q += share * count**THINNING / (count**THINNING).sum()

    drawn = Counter(int(draw(ring, (counts[0], counts[1]), 5, random)[0][0]) for _ in range(4000))

    assert q.sum() == pytest.approx(1.0)
    np.testing.assert_allclose([drawn[row] / 4000 for row in range(items)], q, atol=0.025)


def test_correction_is_the_log_inclusion_probability() -> None:
    """Over many draws an item is among the negatives about as often as its own correction claims."""
    items, random, draws = 60, np.random.default_rng(0), 5000
    ring, *counts = filled(items, skewed(400, 50), (300, 30))
    seen, claimed = np.zeros(items), np.zeros(items)
    for _ in range(draws):
        rows, correction = draw(ring, (counts[0], counts[1]), 8, random)
        seen[rows] += 1
        claimed[rows] += np.exp(correction)

    often = seen > 400
    assert often.sum() > 20
    np.testing.assert_allclose((claimed / np.maximum(seen, 1))[often], (seen / draws)[often], rtol=0.2)


def test_empty_rings_leave_the_catalogue() -> None:
    """Before any target is known, negatives are drawn from the catalogue alone, each item at most once."""
    ring, *counts = filled(3, [], (10, 5))

    rows, correction = draw(ring, (counts[0], counts[1]), 8, np.random.default_rng(0))

    assert ring.mixture().tolist() == [0.0, 0.0, 1.0]
    assert sorted(rows.tolist()) == [0, 1, 2]
    assert np.isfinite(correction).all()
