"""Watches what the store says of the lineage's versions: brings about the one that is to serve, and trains new ones.

Whoever may write to the store may ask: the command line does, the admin door does, a CronJob does. The stream itself
never waits for any of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

import structlog

from stream import checkpoint, stamps, versions
from stream.drifting import DriftPolicy, DriftWatch
from stream.errors import HeadraceError
from stream.figures import Figures
from stream.naming import FIRST_VERSION, Layout
from stream.ports import Clock, Executor, ObjectStore
from stream.retraining import Progress, Retraining
from stream.succession import Succession
from stream.versions import Known, Request, Serving, Version

log = structlog.get_logger()
LOOK_SECONDS = 5.0
KEPT_MIN = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """What the store says: which version is to serve, and what is recorded of the newest one."""

    serving: int
    newest: Version


@dataclass(frozen=True, slots=True)
class Watch:
    """What the keeper works with. `kept`: newest versions whose checkpoints stay; `drift`: when a retrain is due."""

    store: ObjectStore
    layout: Layout
    executor: Executor
    clock: Clock
    figures: Figures
    kept: int = KEPT_MIN
    drift: DriftPolicy = field(default_factory=DriftPolicy)


class Keeper:
    """Used by the loop's thread, once a turn. `retraining` None: nobody trains here."""

    def __init__(self, watch: Watch, succession: Succession, retraining: Retraining | None) -> None:
        self._watch = watch
        self._succession = succession
        self._retraining = retraining
        self._looking: Future[Seen | None] | None = None
        self._looked = -LOOK_SECONDS
        self._newest = FIRST_VERSION
        self._tidied: set[int] = set()
        self._tidied_by: tuple[int, Serving] | None = None
        self._drift = DriftWatch(watch.drift)
        watch.figures.serves(watch.layout)

    @property
    def busy(self) -> bool:
        """Whether plans are being read beside the stream: then none may be collected."""
        return self._succession.busy or (self._retraining is not None and self._retraining.busy)

    @property
    def progress(self) -> Progress | None:
        """Of the training that runs, if one does."""
        return self._retraining.progress if self._retraining is not None else None

    def turn(self, now: float) -> None:
        """A step, if one can be taken without waiting."""
        if self._succession.turn(now):
            self._watch.figures.serves(self._watch.layout.of_version(self._succession.serving))
        if self._retraining is not None:
            self._retraining.turn(now)
            self._drift.see(self._watch.figures.drift, now)
        if self._looking is not None:
            if self._looking.done():
                looking, self._looking = self._looking, None
                self._heed(looking.result())
        elif now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._looking = self._watch.executor.submit(self._look, self._drift.due(now))

    def close(self) -> None:
        """End what was begun; the store knows of it, and the next process goes on. Idempotent."""
        self._succession.close()
        if self._retraining is not None:
            self._retraining.close()

    def _heed(self, seen: Seen | None) -> None:
        if seen is None:
            return
        self._succession.want(seen.serving)
        if self._retraining is not None:
            self._retraining.heed(seen.newest, self._succession.serving)

    def _look(self, drift: str) -> Seen | None:
        """None when the store does not tell; it is asked again. `drift`: why a retrain is due, if one is."""
        watch = self._watch
        try:
            known = versions.read_serving(watch.store, watch.layout)
            self._newest = versions.newest_number(watch.store, watch.layout, self._newest)
            newest = versions.read(watch.store, watch.layout.of_version(self._newest))
            if not self.busy and not newest.open:
                self._tidy(known.serving, newest.number)
            if drift and self._may_ask(known, newest):
                request = Request(f"drift {newest.number + 1}", drift, asked=self._now(), by="drift")
                newest = versions.ask(watch.store, watch.layout, request)
                log.warning("the stream has drifted, a retrain is asked for", version=newest.number, why=drift)
        except HeadraceError as error:
            log.warning("cannot look which version is to serve, asking again", error=str(error))
            return None
        return Seen(known.serving.version, newest)

    def _may_ask(self, known: Known, newest: Version) -> bool:
        """Whether the last retrain is over, and was asked for long enough ago; and its outcome could serve."""
        if newest.open or known.serving.pinned:
            return False
        asked = newest.request.asked if newest.request is not None else ""
        try:
            since = datetime.fromisoformat(asked).timestamp() if asked else 0.0
        except ValueError:  # of a request that somebody wrote by hand
            since = 0.0
        return abs(self._watch.clock.now() - since) >= self._watch.drift.pause_seconds

    def _now(self) -> str:
        return stamps.iso(self._watch.clock.now())

    def _tidy(self, serving: Serving, newest: int) -> None:
        """Remove the checkpoints of versions that nobody goes back to. Their records stay."""
        if self._tidied_by == (newest, serving):
            return
        keep = {serving.version, *serving.before[-1:], *self._complete(newest)}
        for number in range(FIRST_VERSION, newest + 1):
            if number in keep or number in self._tidied:
                continue
            removed = checkpoint.discard(self._watch.store, self._watch.layout.of_version(number))
            if removed:
                log.info("checkpoints of an old version removed", version=number, objects=removed)
            self._tidied.add(number)
        self._tidied_by = newest, serving

    def _complete(self, newest: int) -> Iterator[int]:
        """The newest that could serve, as many as are kept. A training that failed uses up none of them."""
        store, layout = self._watch.store, self._watch.layout
        found = (
            number
            for number in range(newest, FIRST_VERSION - 1, -1)
            if versions.is_complete(store, layout.of_version(number))
        )
        return islice(found, max(self._watch.kept, KEPT_MIN))
