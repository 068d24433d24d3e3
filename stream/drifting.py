"""Whether the stream has drifted for so long that the model should be trained anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DriftPolicy:
    """A retrain is due when a signal has been `score` standard deviations or more from its long-term mean for `seconds`
    without a break, and the last one was asked for `pause_seconds` ago or longer. A `score` of 0: never.
    """

    score: float = 0.0
    seconds: float = 900.0
    pause_seconds: float = 86_400.0


class DriftWatch:
    """Told the scores again and again, by one thread; `now` in seconds that never go back."""

    def __init__(self, policy: DriftPolicy) -> None:
        self.policy = policy
        self._since: dict[str, float] = {}
        self._scores: Mapping[str, float] = {}

    def see(self, scores: Mapping[str, float], now: float) -> None:
        """The scores by signal, as they are now."""
        self._scores = scores
        for signal in [signal for signal in self._since if not self._is_beyond(signal)]:
            del self._since[signal]
        for signal in filter(self._is_beyond, scores):
            self._since.setdefault(signal, now)

    def due(self, now: float) -> str:
        """Why a retrain is due, for people; empty when none is."""
        longest = min(self._since, key=lambda signal: (self._since[signal], signal), default=None)
        if longest is None or now - self._since[longest] < self.policy.seconds:
            return ""
        minutes = (now - self._since[longest]) / 60
        return f"drift: {longest} at {self._scores[longest]:+.1f} standard deviations, beyond for {minutes:.0f} minutes"

    def _is_beyond(self, signal: str) -> bool:
        return 0.0 < self.policy.score <= abs(self._scores.get(signal, 0.0))
