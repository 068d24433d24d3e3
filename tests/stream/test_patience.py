"""Trying again: while a trouble may pass, with growing waits, until told to give up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stream.errors import Conflict, HeadraceError, NotFound, PreconditionFailed, StoreRefused, StoreUnavailable
from stream.metrics import PrometheusMeter
from stream.patience import Patience
from stream.policy import Backoff


class Waits:
    """Remembers how long it was to wait, and gives up after `most` waits."""

    def __init__(self, most: int = 100) -> None:
        self.seconds: list[float] = []
        self._most = most

    def __call__(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return len(self.seconds) >= self._most


def failing(times: int, error: HeadraceError) -> Callable[[], str]:
    """An attempt that fails so many times, then answers."""
    left = [error] * times

    def attempt() -> str:
        if left:
            raise left.pop()
        return "done"

    return attempt


@pytest.mark.parametrize("error", [StoreUnavailable("time-out"), Conflict("409")], ids=["unavailable", "conflict"])
def test_passing_trouble_is_waited_out(error: HeadraceError) -> None:
    """The answer comes after as many growing waits as there were failures, each counted."""
    waits, meter = Waits(), PrometheusMeter()
    patience = Patience(Backoff(first=1.0, longest=3.0), waits, meter)

    assert patience.call("read", failing(4, error)) == "done"
    assert waits.seconds == [1.0, 2.0, 3.0, 3.0]
    assert meter.value("headrace_store_retries_total") == 4
    assert patience.call("read", failing(0, error)) == "done"
    assert len(waits.seconds) == 4


@pytest.mark.parametrize("kind", [NotFound, PreconditionFailed, StoreRefused])
def test_lasting_trouble_is_raised_at_once(kind: type[HeadraceError]) -> None:
    """What will not pass, or is an answer, is not tried again."""
    waits = Waits()

    with pytest.raises(kind):
        Patience(Backoff(), waits, PrometheusMeter()).call("read", failing(1, kind("no")))
    assert waits.seconds == []


def test_it_gives_up_when_told() -> None:
    """The last trouble is raised, so that whoever stopped it can say what it was."""
    waits = Waits(most=3)

    with pytest.raises(StoreUnavailable, match="time-out"):
        Patience(Backoff(), waits, PrometheusMeter()).call("read", failing(10, StoreUnavailable("time-out")))
    assert len(waits.seconds) == 3
