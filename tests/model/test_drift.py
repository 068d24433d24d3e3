"""Signals rise when the stream changes, and lie still when it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.drift import SIGNALS, Signals


def feed(signals: Signals, name: str, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    for value in values:
        signals.update(dict.fromkeys(SIGNALS, math.nan) | {name: float(value)}, 500)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_change_is_seen_in_its_signal_alone(name: str) -> None:
    """Three deviations up show as about that, in the signal that moved and in no other."""
    signals, noise = Signals(), np.random.default_rng(0)
    feed(signals, name, 2.0 + 0.1 * noise.normal(size=400))
    assert abs(signals.scores()[name]) < 1.0

    feed(signals, name, 2.3 + 0.1 * noise.normal(size=20))

    assert signals.scores()[name] > 1.5
    assert all(score == 0.0 for other, score in signals.scores().items() if other != name)


def test_batch_size_does_not_matter() -> None:
    """The same clicks in batches of 500 or of 50 give nearly the same score."""
    wide, narrow = Signals(), Signals()
    for value in [1.0] * 100 + [2.0] * 8:
        wide.update(dict.fromkeys(SIGNALS, value), 500)
        for _ in range(10):
            narrow.update(dict.fromkeys(SIGNALS, value), 50)

    assert narrow.scores()["loss"] == pytest.approx(wide.scores()["loss"], rel=0.1)
    assert wide.scores()["loss"] > 1.0


def test_a_new_level_becomes_normal() -> None:
    """Half a million clicks after a change, the long window has followed."""
    signals = Signals()
    for value in [1.0] * 200 + [2.0] * 1000:
        signals.update(dict.fromkeys(SIGNALS, value), 500)

    assert 0.0 < signals.scores()["loss"] < 0.3


def test_nothing_yet_is_no_drift() -> None:
    """Before the first batch, and after one only, every score is 0."""
    signals = Signals()
    assert set(signals.scores().values()) == {0.0}

    signals.update(dict.fromkeys(SIGNALS, 3.0), 500)

    assert set(signals.scores().values()) == {0.0}
