"""When to stop learning because what arrives is no clicks any more, and when to go on. Counts in, answers out."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream.events import Decoded

_HEALTHY = 0.5
"""Of `share`: what a probe may have rejected at most. Nearer to the threshold, it would open again at once."""
_PROBED_MIN = 0.1
"""Of `messages`: fewer fresh messages than this say nothing."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Learning pauses when more than `share` of the last `messages` messages were rejected. `share` 0: never.

    Why there is a threshold at all: a reject costs its message. It is set aside, the offset is committed, and the model
    goes on without it. That is right for the odd bad message, and wrong when a tracker was deployed broken: then every
    click of every user is poured into the dead letters, popularity and priorities drift with the few that still parse,
    and somebody has to replay a day of letters. Kafka keeps the messages anyway: waiting costs nothing but freshness.
    Half is far above what bad clients alone cause and far below what a broken release does. `messages` keeps a handful
    of bad rows in a small stream, or one bad batch of a small producer, from stopping everything.
    """

    share: float = 0.5
    messages: int = 1000


@dataclass(frozen=True, slots=True)
class Weighed:
    """So many messages that count, and how many of them were rejected."""

    messages: int
    rejected: int

    @property
    def share(self) -> float:
        return self.rejected / self.messages if self.messages else 0.0

    def __add__(self, other: Weighed) -> Weighed:
        return Weighed(self.messages + other.messages, self.rejected + other.rejected)


class Breaker:
    """Remembers what recent messages came to. Closed at first: clicks flow."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._recent: deque[Weighed] = deque()
        self._total = Weighed(0, 0)
        self._forgiven: dict[int, int] = {}
        self.is_open = False

    @property
    def recent(self) -> Weighed:
        """What the last messages came to: those that opened it, while it is open."""
        return self._total

    def admits(self, ranges: Sequence[Decoded]) -> bool:
        """Weigh a decoded batch, before it is committed. False: too much of it and of what came just before it was
        rejected; the breaker is open then, and the batch must be left at the source.
        """
        if not self._policy.share:
            return True
        self._add(weigh(ranges, self._forgiven))
        enough = self._total.messages >= self._policy.messages
        self.is_open = enough and self._total.share > self._policy.share
        return not self.is_open

    def is_healthy(self, ranges: Sequence[Decoded]) -> bool:
        """Whether fresh messages are mostly clicks again."""
        probed = weigh(ranges, {})
        enough = probed.messages >= max(1.0, self._policy.messages * _PROBED_MIN)
        return enough and probed.share <= self._policy.share * _HEALTHY

    def close(self, forgiven: Mapping[int, int]) -> None:
        """Let clicks flow again. Messages before the `forgiven` offsets, by partition, count no more: their rejects go
        to the dead letters as ever.
        """
        self.is_open = False
        self._forgiven = dict(forgiven)
        self._recent.clear()
        self._total = Weighed(0, 0)

    def _add(self, weighed: Weighed) -> None:
        """Take a batch in, and let go of those that the last `messages` do not reach back to."""
        if not weighed.messages:
            return
        self._recent.append(weighed)
        self._total += weighed
        while self._total.messages - self._recent[0].messages >= self._policy.messages:
            oldest = self._recent.popleft()
            self._total = Weighed(self._total.messages - oldest.messages, self._total.rejected - oldest.rejected)


def weigh(ranges: Sequence[Decoded], forgiven: Mapping[int, int]) -> Weighed:
    """Messages of some decoded ranges, those before the `forgiven` offsets of their partitions left out."""
    kept = rejected = 0
    for decoded in ranges:
        first = forgiven.get(decoded.partition, 0)
        kept += int((decoded.offsets >= first).sum())
        rejected += sum(reject.offset >= first for reject in decoded.rejects)
    return Weighed(kept + rejected, rejected)
