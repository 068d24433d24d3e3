"""The sketch never says less than the truth, seldom more, forgets by halving, and is the same in every process."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.sketch import DEPTH, MOST, PART, Sketch, fingerprints

NAMES = st.lists(st.sampled_from([f"id{number}" for number in range(40)]), max_size=30)


@settings(max_examples=50, deadline=None)
@given(st.lists(NAMES, max_size=8))
def test_never_less_than_the_truth(batches: list[list[str]]) -> None:
    """However narrow the sketch is, nothing was seen more often than it says, as long as it has not been halved."""
    sketch, truth = Sketch(1024), Counter[str]()
    for names in batches:
        counts = Counter(names)
        sketch.add(fingerprints(list(counts)), np.array(list(counts.values()), np.int64))
        truth.update(counts)

    told = sketch.estimate(fingerprints(list(truth)))
    assert (told >= list(truth.values())).all()


@settings(max_examples=50, deadline=None)
@given(NAMES, st.randoms())
def test_order_inside_a_batch_does_not_matter(names: list[str], random: object) -> None:
    """Distinct ids noted together leave the same counters in any order, collisions included."""
    counts = list(Counter(names).items())
    shuffled = counts.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    sketches = Sketch(16), Sketch(16)
    for sketch, pairs in zip(sketches, (counts, shuffled), strict=True):
        for _ in range(3):
            sketch.add(fingerprints([name for name, _ in pairs]), np.array([n for _, n in pairs], np.int64))

    np.testing.assert_array_equal(sketches[0].counts, sketches[1].counts)


def test_seldom_more_than_the_truth() -> None:
    """Just before a halving at most one stranger in a hundred passes for one seen before; (1 - e^-.25)^4 is .0024."""
    sketch, noted = Sketch(1 << 14), (1 << 14) // PART - 1
    sketch.add(fingerprints([f"a{number}" for number in range(noted)]), np.ones(noted, np.int64))

    strangers = sketch.estimate(fingerprints([f"b{number}" for number in range(20_000)]))

    assert 0.0005 < (strangers > 0).mean() < 0.01


def test_halving_forgets_what_was_seen_once() -> None:
    """After as many ids as a quarter of the width all counters are halved; a third sighting outlives that, one not."""
    sketch, width = Sketch(64), 64
    often, once = fingerprints(["often"]), fingerprints(["once"])
    sketch.add(often, np.array([3], np.int64))
    sketch.add(once, np.array([1], np.int64))
    for number in range(width // PART - 2):
        assert sketch.estimate(often)[0] >= 3
        sketch.add(fingerprints([f"{number}"]), np.ones(1, np.int64))

    assert sketch.noted[0] == 0
    assert sketch.counts.max() == 1
    assert sketch.estimate(often)[0] == 1
    assert sketch.estimate(once)[0] == 0


def test_counters_stop_and_space_is_bounded() -> None:
    """A count beyond a byte stays at its top; the memory is that of the width, from the first id on."""
    sketch = Sketch(256)
    assert sketch.counts.size == 0

    for _ in range(5):
        sketch.add(fingerprints(["x"]), np.array([200], np.int64))

    assert sketch.estimate(fingerprints(["x"]))[0] == MOST
    assert sketch.counts.shape == (DEPTH, 256)


def test_fingerprints_are_of_no_process() -> None:
    """Known values: a hash that differed between processes would make replays differ."""
    known = [0xB4B2797457A0A6E4, 0xD56A4E3F684D9992, 0x372F39C1F59DF155]

    assert fingerprints(["", "u1", "ü"]).tolist() == known


@pytest.mark.parametrize(
    "counts", [np.zeros((DEPTH, 8), np.uint8), np.zeros((DEPTH, 16), np.int64), np.zeros((2, 16), np.uint8)]
)
def test_foreign_counters_are_refused(counts: np.ndarray) -> None:
    """Counters of another width or type are not taken over."""
    with pytest.raises(ValueError, match="must be uint8"):
        Sketch(16).load(counts, np.zeros(1, np.int64))
