"""Small decisions: when a checkpoint is due, how long to wait, which offsets make a run."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from stream.policy import Backoff, CheckpointCadence, CheckpointPolicy, spans

POLICY = CheckpointPolicy(batches=3, seconds=60.0, retry_seconds=5.0)


def test_enough_batches_make_it_due() -> None:
    """The count since the last checkpoint was begun decides, not the one since the start."""
    cadence = CheckpointCadence(POLICY, now=0.0)

    cadence.learned(2)
    assert not cadence.due(1.0)
    cadence.learned()
    assert cadence.due(1.0)
    cadence.begun(1.0)
    cadence.learned(2)
    assert not cadence.due(2.0)
    assert cadence.pending == 2


def test_time_makes_it_due_once_something_is_new() -> None:
    """An idle stream writes no checkpoint after checkpoint; one new batch and the time since the last suffice."""
    cadence = CheckpointCadence(POLICY, now=100.0)

    assert not cadence.due(1000.0)
    cadence.learned()
    assert not cadence.due(159.9)
    assert cadence.due(160.0)
    cadence.begun(160.0)
    assert not cadence.due(1000.0)


def test_a_failure_is_tried_again_later() -> None:
    """What was not written is still owed, though nothing new comes; but not before the wait is over."""
    cadence = CheckpointCadence(POLICY, now=0.0)
    cadence.learned(3)
    cadence.begun(10.0)

    cadence.failed(12.0)

    assert not cadence.due(16.9)
    assert cadence.due(17.0)
    assert cadence.pending
    cadence.begun(17.0)
    assert not cadence.due(100.0)


def test_waits_double_up_to_the_longest() -> None:
    """0.1, 0.2, 0.4 ... 5 seconds, and never an overflow."""
    backoff = Backoff(first=0.1, longest=5.0)

    assert [backoff.wait(tries) for tries in (1, 2, 3, 6, 7, 10**9)] == [0.1, 0.2, 0.4, 3.2, 5.0, 5.0]


@given(st.sets(st.integers(0, 60)))
def test_spans_hold_exactly_the_offsets(offsets: set[int]) -> None:
    """As few runs as possible, rising, apart, and with every offset in one of them."""
    runs = spans(sorted(offsets))

    assert [offset for start, end in runs for offset in range(start, end)] == sorted(offsets)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(runs))
