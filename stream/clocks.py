"""Two clocks: the machine's, and one that follows a replayed stream."""

from __future__ import annotations

import time

_DAY_SECONDS = 86_400.0


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Wall-clock seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Give the processor away."""
        time.sleep(seconds)


class SimulatedClock:
    """A clock whose `now` is where a replayed stream stands, so that freshness and ages mean what they meant then.

    `monotonic` stays real: time-outs and rates are about this process.
    """

    def __init__(self, start: float = 0.0) -> None:
        """Begin at `start`, seconds since the epoch."""
        self._now = start

    def now(self) -> float:
        """Event time of the newest click emitted so far, seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Give the processor away, for real."""
        time.sleep(seconds)

    def advance(self, seconds: float) -> None:
        """Move to `seconds` since the epoch. A time before 1970 or in the real future is no time, and ignored."""
        if 0 < seconds < time.time() + _DAY_SECONDS:
            self._now = seconds
