"""The circuit breaker at work: while it is open nothing is committed, fresh messages are looked at now and then, and a
word from `headrace resume` is listened for.

Nothing is kept in memory meanwhile: the source stands, paused, where the plans end, and delivers all of it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import structlog

from stream.breaker import Breaker
from stream.decode import DecodeRules, decode_chunk
from stream.errors import HeadraceError, NotFound, SourceRefused
from stream.events import Decoded
from stream.ports import Clock, EventSource, Executor, Meter, ObjectStore

log = structlog.get_logger()
PROBE_SECONDS = 30.0
"""How often fresh messages are looked at while the breaker is open."""
LISTEN_SECONDS = 2.0
"""How often it is looked whether somebody said `headrace resume`."""
_POLLS_MAX = 10
_POLL_SECONDS = 0.1
_POLL_EVENTS = 10_000


@dataclass(frozen=True, slots=True)
class Post:
    """What the gate works with. `messages`: how many of the newest messages a probe looks at."""

    source: EventSource
    store: ObjectStore
    word_key: str
    rules: DecodeRules
    messages: int
    executor: Executor
    clock: Clock
    meter: Meter


@dataclass(slots=True)
class Gate:
    """Open breaker, closed gate. Used by the loop's thread; the breaker is asked by the committer's, one at a time."""

    post: Post
    breaker: Breaker
    _since: float = 0.0
    _probed: float = 0.0
    _listened: float = 0.0
    _heard: str | None = None
    _listening: Future[str | None] | None = None
    _standing: dict[int, int] = field(default_factory=dict)
    _said: str | None = None

    def __post_init__(self) -> None:
        self.post.meter.set("headrace_breaker_open", 0)

    @property
    def shut(self) -> bool:
        """Whether nothing may be committed now."""
        return self._said is not None

    @property
    def reason(self) -> str | None:
        """Why, for a person; None while clicks flow."""
        return self._said

    def hold(self, next_offsets: Mapping[int, int]) -> None:
        """The breaker has opened: the source goes back to where the plans end, and stands there."""
        weighed = self.breaker.recent
        self._said = (
            f"the circuit breaker is open: {weighed.rejected} of the last {weighed.messages} messages were rejected "
            "(a tracker deployed broken?). Offsets stay where they are. It closes when fresh messages are clicks "
            "again, or by `headrace resume`, which sends the bad ones to the dead letters"
        )
        log.error("circuit breaker opened: learning pauses", rejected=weighed.rejected, messages=weighed.messages)
        self._standing = dict(next_offsets)
        self._stand()
        self._since = self._probed = self._listened = self.post.clock.monotonic()
        self._listening, self._heard = self.post.executor.submit(self._word), None
        self.post.meter.set("headrace_breaker_open", 1)
        self.post.meter.add("headrace_breaker_openings_total")

    def turn(self, now: float) -> bool:
        """Listen, and probe, if either is due. True once when clicks flow again, from where the source stands."""
        if not self.shut:
            return False
        forgiven = self._listen(now)
        if forgiven is None and now - self._probed >= PROBE_SECONDS:
            self._probed = now
            forgiven = self._ends(self._probe)
        if forgiven is None:
            return False
        self._said = None
        self.breaker.close(forgiven)
        self.post.source.assign(self._standing)
        self.post.meter.set("headrace_breaker_open", 0)
        log.info("circuit breaker closed: learning goes on", open_seconds=round(now - self._since))
        return True

    def _stand(self) -> None:
        self.post.source.assign(self._standing)
        self.post.source.pause()

    def _listen(self, now: float) -> dict[int, int] | None:
        """The offsets that are forgiven because somebody said so."""
        if self._listening is None:
            if now - self._listened >= LISTEN_SECONDS:
                self._listened = now
                self._listening = self.post.executor.submit(self._word)
            return None
        if not self._listening.done():
            return None
        word, self._listening = self._listening.result(), None
        if self._heard is None or word is None or word == self._heard:
            self._heard = word if self._heard is None else self._heard
            return None
        ends = self._ends(dict)
        if ends is not None:
            log.warning("told to resume: what is bad goes to the dead letters")
        return ends

    def _word(self) -> str | None:
        """What was said last, by its ETag; empty when nothing was, None when the store does not tell."""
        try:
            return self.post.store.head(self.post.word_key).etag
        except NotFound:
            return ""
        except HeadraceError as error:  # it is asked again, and a probe may close the breaker as well
            log.warning("cannot look whether somebody said resume", error=str(error))
            return None

    def _ends(self, judge: Callable[[Mapping[int, int]], dict[int, int] | None]) -> dict[int, int] | None:
        """What `judge` says of the topic's ends. None when the broker does not tell them: asked again later."""
        try:
            return judge(self.post.source.end())
        except SourceRefused as error:
            log.warning("the topic's newest messages cannot be looked at now", error=str(error))
            return None

    def _probe(self, ends: Mapping[int, int]) -> dict[int, int] | None:
        """`ends`, when the newest messages before them are healthy."""
        try:
            decoded = self._newest(ends)
        finally:
            self._stand()
        healthy = self.breaker.is_healthy(decoded)
        log.info("looked at fresh messages", healthy=healthy, clicks=sum(len(each.users) for each in decoded))
        return dict(ends) if healthy else None

    def _newest(self, ends: Mapping[int, int]) -> list[Decoded]:
        source = self.post.source
        begin = source.beginning()
        each = -(-self.post.messages // max(1, len(ends)))
        left = {p: max(begin.get(p, 0), end - each) for p, end in ends.items()}
        left = {p: start for p, start in left.items() if start < ends[p]}
        source.assign(left)
        found: list[Decoded] = []
        for _ in range(_POLLS_MAX):  # a second at most: the last offsets may never be delivered
            chunks = source.poll(_POLL_EVENTS, _POLL_SECONDS) if left else []
            found += [decode_chunk(chunk, self.post.rules) for chunk in chunks]
            left = {p: start for p, start in left.items() if all(c.partition != p or c.end < ends[p] for c in chunks)}
        return found
