"""Small decisions that take the time as an argument: when to checkpoint, how long to wait before the next try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ARCHIVE_GROUP = 64
"""Plans per archive object."""


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """A checkpoint is due after `batches` plans or `seconds`, whichever is first, if anything was learned since.

    `kept`: complete checkpoints that stay; everything below the oldest of them may be collected once it is older than
    `grace_seconds` (someone may be reading it). `archive`: keep the collected clicks, compacted. After a failure the
    next try waits `retry_seconds`.
    """

    batches: int = 200
    seconds: float = 300.0
    kept: int = 3
    grace_seconds: float = 3600.0
    archive: bool = True
    retry_seconds: float = 5.0


class CheckpointCadence:
    """Remembers when the last checkpoint was begun; answers whether the next is due."""

    def __init__(self, policy: CheckpointPolicy, now: float) -> None:
        self._policy = policy
        self._begun = now
        self._batches = 0
        self._not_before = now

    def learned(self, batches: int = 1) -> None:
        """Count plans learned."""
        self._batches += batches

    @property
    def pending(self) -> int:
        """Plans learned since the last checkpoint was begun."""
        return self._batches

    def due(self, now: float) -> bool:
        """Whether to begin a checkpoint. `now`: monotonic seconds."""
        full = self._batches >= self._policy.batches or now - self._begun >= self._policy.seconds
        return full and self.allowed(now)

    def allowed(self, now: float) -> bool:
        """Whether a checkpoint makes sense at all: something is new, and no failure is too recent."""
        return self._batches > 0 and now >= self._not_before

    def begun(self, now: float) -> None:
        """A checkpoint was begun."""
        self._begun = now
        self._batches = 0

    def failed(self, now: float) -> None:
        """It was not written: it is still owed, but not at once."""
        self._batches += self._policy.batches
        self._not_before = now + self._policy.retry_seconds


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubling waits between tries: `first` seconds up to `longest`."""

    first: float = 0.1
    longest: float = 5.0

    def wait(self, tries: int) -> float:
        """Seconds to wait after the given number of failed tries (1, 2, ...)."""
        return float(min(self.longest, self.first * 2 ** min(tries - 1, 30)))


def spans(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Rising offsets as half-open runs: [3, 4, 5, 9] is [(3, 6), (9, 10)]."""
    runs: list[tuple[int, int]] = []
    for offset in offsets:
        if runs and runs[-1][1] == offset:
            runs[-1] = (runs[-1][0], offset + 1)
        else:
            runs.append((offset, offset + 1))
    return runs
